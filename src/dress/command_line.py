"""What the entry points share: composing, clear errors, resuming, the beginning of a run folder.

Everything heavy (torch, transformers) is imported only once the configuration is known to be good,
so that `--help` and typing errors answer at once.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel

from dress import config
from dress.files import read_json
from dress.run_folder import short
from dress.terminal import accept_any_text, visible

Task = Callable[[dict[str, Any]], None]
Checked = TypeVar("Checked", bound=BaseModel)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_CALLS = ("budget", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "retries", "retry_failed")
WITH_RESUME = (
    "show", "training.threads", "training.devices", "data.workers",
    *(f"{rater}.{name}" for rater in ("annotator", "judge") for name in _CALLS),
)  # fmt: skip
"""Overrides that may stand beside `resume`: they change how a run works, not what it learns."""

REFUSED, INTERRUPTED, MISTYPED = 1, 130, 2
"""Exit codes: the run cannot go on; it was asked to stop; the command line does not compose."""


class CommandLineError(ValueError):
    """What was typed cannot be done; the message says what can."""


# --- the wrapper ----------------------------------------------------------------------------------


def entry_point(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Make a script's main function of a task that takes the composed configuration as plain data.

    What goes wrong is told in one short message. Exit codes: 1 for what the user can put right
    (`ValueError`, `OSError`; the traceback follows with HYDRA_FULL_ERROR=1), 2 for a command line
    that does not compose, 130 when asked to stop. All else is our bug and keeps its traceback.

    Args:
        config_name: file in `configs/` without `.yaml`.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            status, typed = 0, list(sys.argv)
            full_error = os.environ.get("HYDRA_FULL_ERROR")

            @functools.wraps(task)
            def job(composed: DictConfig) -> None:
                nonlocal status
                _restore(typed, full_error)
                try:
                    task(_plain(composed))
                except (ValueError, OSError) as error:
                    if full_error:
                        traceback.print_exc()
                    _say(_message(error))
                    status = REFUSED  # a sweep goes on with its other jobs
                except BaseException as error:
                    if not _asked_to_stop(error):
                        raise
                    _say(_how_to_go_on())
                    raise SystemExit(INTERRUPTED) from None
                finally:
                    _discard_unused()

            accept_any_text()
            signal.signal(signal.SIGTERM, _stop)
            run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
            try:
                sys.argv += _resume_arguments(typed[1:])
                os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself and exits
                run(job)()
            except CommandLineError as error:
                _say(str(error))
                status = REFUSED
            except (HydraException, OmegaConfBaseException) as error:
                if full_error:
                    raise
                _say(explain(error, config_name, typed[1:]))
                status = MISTYPED
            except KeyboardInterrupt:
                status = INTERRUPTED
            finally:
                _restore(typed, full_error)
            if status:
                raise SystemExit(status)

        return main

    return decorate


def checked(composed: dict[str, Any], model: type[Checked]) -> Checked:
    """The composed configuration as the typed settings of a command.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    return config.check_as(model, composed)


def _restore(typed: list[str], full_error: str | None) -> None:
    """Undo what was changed for Hydra: Lightning starts further processes from `sys.argv`."""
    sys.argv[:] = typed
    os.environ.pop("HYDRA_FULL_ERROR", None)
    if full_error is not None:
        os.environ["HYDRA_FULL_ERROR"] = full_error


def _plain(composed: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        missing = isinstance(error, MissingMandatoryValue)
        told = f"no value. Give one: {error.full_key}=…" if missing else str(error).splitlines()[0]
        raise config.ConfigError(f"{error.full_key}: {told}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    return str(error) or type(error).__name__


def _asked_to_stop(error: BaseException) -> bool:
    if isinstance(error, SystemExit):  # Lightning exits on an interrupt outside of a step
        error = error.__context__ or error
    callbacks = sys.modules.get("dress.callbacks")  # heavy: never loaded only to ask this
    return isinstance(error, KeyboardInterrupt) or (callbacks is not None and isinstance(error, callbacks.Interrupted))


def _stop(number: int, frame: object) -> None:
    """SIGTERM, as a cluster sends it, is asking to stop too."""
    raise KeyboardInterrupt


def _how_to_go_on() -> str:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not (folder / "config.json").exists():
        return "Stopped."
    command = f"python {short(Path(sys.argv[0]))} {shlex.quote(f'resume={short(folder)}')}"
    return f"Stopped; what was done is saved. Go on with:\n  {command}"


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


def _discard_unused() -> None:
    """Remove a folder in which no run began, and the empty folders above it.

    It holds at most what Hydra wrote, and the tokenizer that `show=batch` made.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    written = {".hydra", f"{settings.job.name}.log", "tokenizer.json"}
    if not folder.exists():  # runs that began in the same second share it
        return
    if folder == Path.cwd() or {file.name for file in folder.iterdir()} - written:
        return
    shutil.rmtree(folder)
    for above in folder.parents:
        if above == Path.cwd() or above.name == "logs" or any(above.iterdir()):
            return
        above.rmdir()


# --- a command line that does not compose ---------------------------------------------------------


def explain(error: Exception, config_name: str, typed: list[str]) -> str:
    """One line about what Hydra refused, with the nearest thing that exists.

    Args:
        error: Hydra's.
        config_name: the configuration that was composed.
        typed: the arguments of the command.
    """
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = sorted(file.stem for file in (CONFIGS / group).glob("[!_]*.yaml"))
        if group and options:
            listed = f" There are: {', '.join(options)}."
            return f"{group}={option}: no such option.{config.nearest(option, options)}{listed}"
    unknown = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
    if unknown:
        key = unknown[1]
        if key in config.valid_keys():
            return f"{key}: stands in no file of this configuration; add it with +{key}=…"
        return f"{key}: no such setting.{config.nearest(key, _known_keys(config_name, typed))}"
    if isinstance(error, OverrideParseException):
        bad = next(filter(_unreadable, typed), None)
        if bad and "=" not in bad:
            return f"{bad}: expected key=value"
        why = text.splitlines()[0]
        return f"{bad or ''}: cannot be read ({why}); quote special characters: 'key=\"value\"'"
    several = re.match(r"Ambiguous value for argument '([^']+)'", text)
    if several:
        return f"{several[1]}: several values; add -m for one run each, or brackets for a list"
    return " ".join(line.strip() for line in text.splitlines() if "hydra.cc" not in line)


def _known_keys(config_name: str, typed: list[str]) -> list[str]:
    """Groups, every key of the composed files, and every optional key."""
    groups = [str(folder.relative_to(CONFIGS)) for folder in CONFIGS.iterdir() if folder.is_dir()]
    choices = [text for text in typed if text.partition("=")[0] in groups and "," not in text]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            composed = hydra.compose(config_name, overrides=choices)
        except HydraException:
            composed = hydra.compose(config_name)
    return [*groups, *_flat(OmegaConf.to_container(composed)), *config.valid_keys()]


def _flat(values: Any, prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _unreadable(text: str) -> bool:
    if text.startswith("-"):
        return False
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return True
    return False


# --- resuming -------------------------------------------------------------------------------------


def _resume_arguments(typed: list[str]) -> list[str]:
    """Let Hydra work in the folder that is resumed instead of a new one.

    Raises:
        CommandLineError: that folder is no run, or settings beside `resume` that it cannot take.
    """
    if not any(text.startswith("resume=") for text in typed):
        return []
    overrides = [text for text in typed if not text.startswith("-") and not _unreadable(text)]
    asked = next(text for text in overrides if text.startswith("resume="))
    value = OverridesParser.create().parse_override(asked).value()
    if value is None:
        return []
    if {"-m", "--multirun"} & set(typed):
        raise CommandLineError("resume takes one run: start it without -m")
    allowed = ("resume", *WITH_RESUME)
    others = [text for text in overrides if text.lstrip("+~").partition("=")[0] not in allowed]
    refused = [text for text in others if not text.startswith("hydra.")]
    if refused:
        raise CommandLineError(
            f"{' '.join(refused)}: a resumed run keeps its own settings; beside resume only "
            f"{', '.join(WITH_RESUME[:4])} and an LLM rater's limits (+annotator.budget=…) may stand. For other "
            f"settings start a new run "
            f"(reuse={value} takes over the stages they leave unchanged)"
        )
    folder = run_folder(str(value))
    return [f'hydra.run.dir="{folder}"', "hydra.output_subdir=null"]


def run_folder(text: str) -> Path:
    """The folder of a run, without links.

    Raises:
        CommandLineError: there is no run.
    """
    folder = Path(text)
    if not (folder / "config.json").is_file():
        found = "a folder without config.json" if folder.is_dir() else "no folder"
        raise CommandLineError(f"{text}: expected the folder of a run (logs/<experiment>/<time>), got {found}")
    return folder.resolve()


def training_settings(composed: dict[str, Any]) -> config.Config:
    """The checked settings of a training run: the composed ones, or those of the resumed run.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
        CommandLineError: `resume` names no run.
    """
    resume = composed.get("resume")
    if resume is not None:
        folder = run_folder(str(resume))
        saved = read_json(folder / "config.json")
        for text in HydraConfig.get().overrides.task:
            key = text.partition("=")[0].lstrip("+")
            if key in WITH_RESUME:
                section, _, name = key.rpartition(".")
                given = composed[section][name] if section else composed[name]
                (saved[section] if section else saved)[name] = given
        composed = saved | {"resume": str(folder), "run_dir": str(folder)}
    if composed.get("reuse") is not None:
        # Links resolved now: `logs/latest` will soon name the run that begins here.
        composed = composed | {"reuse": str(Path(str(composed["reuse"])).resolve())}
    vision = (composed.get("model") or {}).get("vision") or {}
    if vision.get("weights") and Path(str(vision["weights"])).is_dir():
        vision["weights"] = str(Path(str(vision["weights"])).resolve())
    settings = config.check(composed)
    if HydraConfig.get().mode == RunMode.MULTIRUN and settings.training.devices > 1:
        # Lightning starts the other processes with this very command line, -m included: each would
        # run the whole sweep, and with a drawing sweeper other settings than the first process.
        raise config.ConfigError(
            f"training.devices={settings.training.devices} does not go with -m (--multirun): the "
            "processes of one run would each start the sweep again. Start one run per setting, "
            "without -m"
        )
    return settings


def show_config(settings: config.Config) -> None:
    """Print the settings as YAML, ready to be kept as a file."""
    plain = settings.model_dump()
    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100), end="")
