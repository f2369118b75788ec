"""The settings for people: in `--help`, and docs/settings.md: `python -m dress.run.settings_page > FILE`."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Collection, Iterable

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from dress.base.config_folder import config_files, config_groups
from dress.config.attacks import LLMReviewer, LLMWriter
from dress.config.describing import EXPANDED, Expanded, Setting, described
from dress.config.export import ExportCommand
from dress.config.raters import LLM
from dress.config.run import Config
from dress.run.collecting import COLLECT_TASKS
from dress.run.preparing import TASKS

WIDTH = 118
"""Characters of a line of help."""
OTHERS = ("attacker", "attacks", "prompts", "rubrics", "source", "suite", "task")
"""Folders of configs/ that are no groups of training."""
_OF_ATTACKS: Expanded = {"attacker": ("attacker", LLMWriter), "judge": ("judge", LLMReviewer)}
_HEAD = """# Settings of training
Made from the schema (`src/dress/config`): `python -m dress.run.settings_page > docs/settings.md`. On the command line
`KEY=VALUE`; in a file dots are levels. Where no default stands, the files of a group say it (`scale`, `data`,
`experiment`); `show=config` shows all values, and where each comes from. `NAME` is a stage; those of kind `train`,
`collect`, `eval` and `export` have settings of their own. `judge` takes what `annotator` takes. `trainer` takes every
argument of Lightning's Trainer; `optimizer`, `scheduler`, `model.projector`, `callbacks.NAME` and `logger.NAME` take
`_target_` and the arguments of that class ([extending.md](extending.md)).

| setting | default | what it is | values |
|---|---|---|---|
"""


def page() -> str:
    """docs/settings.md."""
    rows = (
        f"| `{one.key}` | {'' if one.default is None else f'`{one.default}`'} | {one.text} | {one.values} |"
        for one in described()
        if one.key != "judge"
    )
    return _HEAD + "\n".join(row.replace("||", "| |") for row in rows) + "\n"


def listed(
    section: type[BaseModel], expanded: Expanded = EXPANDED, hidden: Collection[str] = (), width: int = WIDTH
) -> str:
    """The settings as lines of a terminal.

    Args:
        section: whose.
        expanded: settings whose keys depend on what is chosen, as `described` takes them.
        hidden: first parts of the names of those that nobody types there.
        width: characters of a line.
    """
    shown = (one for one in described(section, expanded=expanded) if one.key.partition(".")[0] not in hidden)
    return "\n".join(line for one in shown for line in _wrapped(one, width))


def _wrapped(setting: Setting, width: int) -> Iterable[str]:
    default = "" if setting.default is None else f"={setting.default}"
    text = "; ".join(part for part in (setting.text, setting.values) if part)
    return textwrap.wrap(f"{setting.key}{default}  {text}", width, subsequent_indent="    ", break_on_hyphens=False)


def _of_help(command: str, *, _root_: DictConfig) -> str:
    """For Hydra's template of a command's help, which reads `$`: of `eval` the settings of the suite that is chosen."""
    if command == "prepare":
        text = "\n\n".join(_of_task(name, task) for name, (task, _) in TASKS.items())
    elif command == "collect":
        (first, *others) = ((name, section) for name, (section, _) in COLLECT_TASKS.items())
        text = "\n\n".join([listed(first[1]), *(_of_task(*other, _OF_ATTACKS, ("data",)) for other in others)])
    elif command == "eval":
        from dress.evaluation.suite import chosen  # the other commands need no suites

        section = chosen({name: _root_.get(name) for name in ("suite", "suite_module")}).settings
        rater = next((name for name in ("annotator", "judge") if name in section.model_fields), "annotator")
        text = listed(section, {rater: (rater, LLM)}, hidden=("suite",))
    else:
        sections: dict[str, type[BaseModel]] = {"train": Config, "export": ExportCommand}
        text = listed(sections[command])
    return text.replace("$", "$$")


def _of_task(
    name: str, task: type[BaseModel], expanded: Expanded | None = None, hidden: tuple[str, ...] = ("model", "mapping")
) -> str:
    """A task with what it does and its settings; `model` is its scale's, and a mapping is its source's."""
    title = (inspect.getdoc(task) or "").partition("\n")[0]
    settings = listed(task, expanded or {}, ("task", *hidden), WIDTH - 2)
    return f"task={name}  {title}\n{textwrap.indent(settings, '  ')}"


def _groups() -> str:
    """The groups of training, each with its options."""
    lines: list[str] = []
    for group in config_groups():
        options = sorted(config_files(group))
        if options and group not in OTHERS:
            lines += textwrap.wrap(f"{group}: {', '.join(options)}", WIDTH, subsequent_indent="    ")
    return "\n".join(lines)


def offer_settings() -> None:
    """Let the help of a file in configs/ hold `${dress_settings:COMMAND}`, and `${dress_groups:}`."""
    OmegaConf.register_new_resolver("dress_groups", _groups, replace=True)
    OmegaConf.register_new_resolver("dress_settings", _of_help, replace=True)


if __name__ == "__main__":
    print(page(), end="")
