"""Going on with a run: which settings may stand beside `resume`, and the settings of the run that goes on."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dress import config
from dress.base.files import read_json
from dress.base.processes import mark
from dress.base.ranks import rank
from dress.base.run_folder import short
from dress.config.consent import DAMAGED, checked_run
from dress.config.migration import refuse_old
from dress.config.names import followed
from dress.config.targets import refuse_package, refuse_untrusted
from dress.phases import check_phases
from dress.run.composing import CommandLineError
from dress.run.overrides import argument, parsed, several_runs
from dress.run.start import UNSAFE

_CALLS = ("budget", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "retries", "retry_failed")
CONSENT = ("model.language.trust_remote_code", "data.allow_pipe", "trust_targets")
"""What a run's own files cannot allow."""
WITH_RESUME = (
    "show", "stage", *CONSENT, "training.threads", "trainer.devices", "data.workers",
    *(f"{rater}.{name}" for rater in ("annotator", "judge") for name in _CALLS),
    *(f"generation.server.{name}" for name in config.GenerationServer.model_fields),
)  # fmt: skip
"""Overrides that may stand beside `resume`: they change how a run works, not what it learns."""
COMMAND = "generation.server.command"
"""What a resumed run starts is typed again."""
LEARNING = re.compile(r"curriculum\.stages\.[\w.-]+\.lr")
"""Overrides beside `resume` that do change it, for a stage that is not finished: a loss that is not finite asks for a
smaller learning rate. They are kept in the run's config.json."""


def begin_or_go_on(typed: list[str]) -> list[str]:
    """`run=DIR` begins a run in that folder, or goes on with the one there: a scheduler repeats the same command.

    `sweep=DIR` is the same for several runs, each of which has its folder there.

    Raises:
        CommandLineError: the run there was begun with other settings; another setting names a folder beside `run` or
            `sweep`; `run` stands where there are several, or `sweep` where there is one; or torchrun started this
            process, and no folder is named: each process would make its own.
    """
    typed = _in_folder(typed)
    folders = [text.partition("=")[2] for text in typed if text.startswith("run=")]
    others = [text for text in typed if not text.startswith("run=")]
    named = [text for text in others if text.startswith(("run_dir=", "resume=", "hydra.run.dir="))]
    if not folders:
        if "TORCHELASTIC_RUN_ID" in os.environ and not named:
            raise CommandLineError("torchrun: expected run=DIR, the folder that all processes write, got none")
        return typed
    if beside := [*named, *filter(None, [several_runs(others)])]:
        raise CommandLineError(f"run={folders[-1]}: expected no {beside[0]} beside it (several runs: sweep=DIR)")
    folder = Path(folders[-1])
    if not (folder / "config.json").exists():
        return [*others, f"run_dir={folder}"]
    if rank() == 0:
        mark(folder, False)
    _refuse_others(f"run={folder}", folder, others)
    return [f"resume={folder}", *sorted(text for text in others if _may_change(text))]


def _in_folder(typed: list[str]) -> list[str]:
    """The arguments, `sweep=DIR` as Hydra knows it."""
    folders = [text.partition("=")[2] for text in typed if text.startswith("sweep=")]
    if not folders:
        return typed
    others = [text for text in typed if not text.startswith("sweep=")]
    if several_runs(others) is None:
        raise CommandLineError(
            f"sweep={folders[-1]}: expected -m or hparams_search=NAME beside it, for several runs (one run: run=DIR)"
        )
    beside = [text for text in others if text.startswith(("run=", "run_dir=", "resume=", "hydra.sweep.dir="))]
    if beside:
        raise CommandLineError(f"sweep={folders[-1]}: expected no {beside[0]} beside it")
    if UNSAFE.search(folders[-1]):
        raise CommandLineError(f"sweep={folders[-1]}: expected no = , ( ) [ ] {{ }} and no spaces")
    return [*others, argument("hydra.sweep.dir", folders[-1])]


def going_on(composed: dict[str, Any], typed: Sequence[str]) -> dict[str, Any]:
    """The composed settings of a run of a sweep; where its folder holds this run already, those that resume it.

    Args:
        composed: by Hydra.
        typed: the overrides of this run.

    Raises:
        CommandLineError: the run there was begun with other settings.
    """
    folder = Path(str(composed.get("run_dir")))
    if composed.get("show") is not None or not (folder / "config.json").exists():
        return composed
    _refuse_others(short(folder), folder, typed, rates=False)  # another rate is another run of the sweep
    return composed | {"resume": str(folder)}


def _refuse_others(what: str, folder: Path, typed: Sequence[str], rates: bool = True) -> None:
    """Refuse to go on with a run under other settings than those it was begun with; `rates` may be others."""
    now, begun = ({text for text in words if not _may_change(text, rates)} for words in (typed, _typed(folder)))
    if now != begun:
        raise CommandLineError(
            f"{what} holds a run with other settings: it was begun with "
            f"{' '.join(sorted(begun - now)) or 'nothing else'}, and now there is "
            f"{' '.join(sorted(now - begun)) or 'nothing else'}. Go on with that one (resume={folder}), or name another"
        )


def _may_change(text: str, rates: bool = True) -> bool:
    key = text.lstrip("+~").partition("=")[0]
    return key in WITH_RESUME or (rates and bool(LEARNING.fullmatch(key)))


def _typed(folder: Path) -> list[str]:
    """What was typed when a run began, without its folder."""
    file = folder / "provenance.json"
    words = shlex.split(str(read_json(file, dict, DAMAGED).get("command", ""))) if file.exists() else []
    return [word for word in words[1:] if "=" in word and not word.startswith(("run=", "run_dir="))]


def resume_arguments(typed: list[str]) -> list[str]:
    """Let Hydra work in the folder that is resumed, or that `run_dir` names, instead of a new one of its own.

    Raises:
        CommandLineError: that folder is no run, or settings beside `resume` that it cannot take; `run_dir` holds one.
    """
    if not any(text.startswith("resume=") for text in typed):
        return _folder_arguments(typed)
    overrides = [text for text in typed if parsed(text)]
    value = next(override.value() for text in overrides if (override := parsed(text)) and text.startswith("resume="))
    if value is None:
        return []
    if several := several_runs(typed):
        raise CommandLineError(f"resume takes one run: start it without {several}")
    allowed = ("resume", *WITH_RESUME)
    keys = [(text, text.lstrip("+~").partition("=")[0]) for text in overrides]
    others = [text for text, key in keys if key not in allowed and not LEARNING.fullmatch(key)]
    refused = [text for text in others if not text.startswith("hydra.")]
    if refused:
        plain = [name for name in WITH_RESUME if not name.startswith(("annotator.", "judge.", "generation."))]
        raise CommandLineError(
            f"{' '.join(refused)}: a resumed run keeps its own settings; beside resume only {', '.join(plain)}, an LLM "
            f"rater's limits (annotator.budget=…), generation.server and, for a stage that is not finished, "
            f"curriculum.stages.<stage>.lr may stand. For other settings start a new run "
            f"(reuse={value} takes over the stages they leave unchanged)"
        )
    folder = run_folder(str(value))
    return [f'hydra.run.dir="{folder}"', "hydra.output_subdir=null"]


def _folder_arguments(typed: list[str]) -> list[str]:
    """What Hydra writes lies in the folder of the run; looked at before Hydra writes there."""
    folder = next((text.partition("=")[2] for text in reversed(typed) if text.startswith("run_dir=")), "")
    elsewhere = any(text.startswith("hydra.run.dir=") for text in typed)
    if not folder or elsewhere or several_runs(typed) or rank() > 0:
        return []
    if (Path(folder) / "config.json").exists():
        raise CommandLineError(f"{folder} already holds a run; to go on with it: resume={folder}")
    return [f"hydra.run.dir={folder}"]


def run_folder(text: str) -> Path:
    """The folder of a run, without links.

    Raises:
        CommandLineError: there is no run.
    """
    folder = Path(text)
    if not (folder / "config.json").is_file():
        place = "a folder without config.json" if folder.is_dir() else "no folder"
        raise CommandLineError(f"{text}: expected the folder of a run (logs/<experiment>/<time>), got {place}")
    return folder.resolve()


def training_settings(composed: dict[str, Any], typed: Sequence[str]) -> config.Config:
    """The checked settings of a training run: the composed ones, or those of the resumed run.

    Args:
        composed: by Hydra.
        typed: the overrides; beside `resume` they stand above what the run was begun with.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
        CommandLineError: `resume` names no run.
    """
    resume = composed.get("resume")
    if resume is not None:
        folder = run_folder(str(resume))
        trusted = list(composed.get("trust_targets") or [])
        written = read_json(folder / "config.json", dict, DAMAGED)
        saved = checked_run(folder / "config.json", trusted).model_dump()
        refuse_untrusted(saved, folder / "config.json", trusted)
        if composed.get("show") is None:
            refuse_old(written, folder, "resume")
        for module in written.get("phases", {}).get("modules", ()):  # imported by training only
            refuse_package(module, folder / "config.json", trusted)
        keys = {text.partition("=")[0].lstrip("+") for text in typed}
        for key in (key for key in keys if key in WITH_RESUME or LEARNING.fullmatch(key)):
            _put(saved, key, _get(composed, key))
        _refuse_unallowed(saved, keys, folder)
        composed = saved | {"resume": str(folder), "run_dir": str(folder)}
    if composed.get("reuse") is not None:
        # Links resolved now: `logs/latest` will soon name the run that begins here.
        reuse = Path(str(composed["reuse"])).resolve()
        if (reuse / "config.json").is_file():
            refuse_old(read_json(reuse / "config.json", dict, DAMAGED), reuse, "reuse")
        composed = composed | {"reuse": str(reuse)}
    composed = composed | {"curriculum": followed(composed.get("curriculum") or {})}
    vision = (composed.get("model") or {}).get("vision") or {}
    if vision.get("weights") and Path(str(vision["weights"])).is_dir():
        vision["weights"] = str(Path(str(vision["weights"])).resolve())
    settings = config.check(composed)
    config.check_targets(settings)
    check_phases(settings.curriculum.stages, settings.phases)
    return settings


def refuse_several_devices(settings: config.Config) -> None:
    """In a sweep each run has one process.

    Raises:
        ConfigError: Lightning would start the other processes with the command line of the sweep, `-m` included: each
            would run the whole sweep, and with a drawing sweeper other settings than the first process.
    """
    if settings.devices.devices > 1:
        raise config.ConfigError(
            f"trainer.devices={settings.trainer.devices} does not go with -m (--multirun): the "
            "processes of one run would each start the sweep again. Start one run per setting, "
            "without -m"
        )


def _get(composed: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        composed = composed[name]
    return composed


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[name] = value


def _refuse_unallowed(saved: dict[str, Any], typed: set[str], folder: Path) -> None:
    """Refuse code and commands that only the run's own files allow.

    Raises:
        ConfigError: says what to type.
    """
    needed = []
    if saved["model"].get("language", {}).get("trust_remote_code") and CONSENT[0] not in typed:
        needed.append(f"{CONSENT[0]}=true")
    if saved["data"]["allow_pipe"] and CONSENT[1] not in typed and "pipe:" in str(saved["data"]):
        needed.append(f"{CONSENT[1]}=true")
    generation = saved["generation"]
    if generation["engine"] == "server" and generation["server"]["command"] and COMMAND not in typed:
        words = config.GenerationServer.model_validate(generation["server"]).words
        needed.append(f"'{COMMAND}=\"{shlex.join(words)}\"'")
    if needed:
        raise config.ConfigError(
            f"{folder / 'config.json'}: this run runs code or commands that its own files name. If you trust them, "
            f"say so beside resume: {' '.join(needed)}"
        )
