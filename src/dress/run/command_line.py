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
from dress.base import processes
from dress.base.files import write_text
from dress.base.ranks import rank
from dress.base.redaction import SECRET_NAME, hide, redacted, secrets
from dress.base.run_folder import short
from dress.base.terminal import accept_any_text, visible
from dress.config.consent import checked_run
from dress.run.overrides import replacing, taken_out

Task = Callable[[dict[str, Any]], None]
Checked = TypeVar("Checked", bound=BaseModel)

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
_CALLS = ("budget", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "retries", "retry_failed")
CONSENT = ("model.language.trust_remote_code", "data.allow_pipe")
"""What a run's own files cannot allow."""
WITH_RESUME = (
    "show", *CONSENT, "training.threads", "training.devices", "data.workers",
    *(f"{rater}.{name}" for rater in ("annotator", "judge") for name in _CALLS),
)  # fmt: skip
"""Overrides that may stand beside `resume`: they change how a run works, not what it learns."""
LEARNING = re.compile(r"budget\.[\w-]+\.lr|curriculum\.stages\.[\w-]+\.lr")
"""Overrides beside `resume` that do change it, for a stage that is not finished: a loss that is not finite asks for a
smaller learning rate. They are kept in the run's config.json."""

LONG_SECRET = 16
"""Characters of a variable's value that is looked for in settings; shorter ones may be words."""
_OC_ENV = re.compile(r"oc\.env:\s*([A-Za-z_]\w*)")
_SECRET = (
    "{key}: the value of the variable {name} would be written into the run's files. Settings hold no secrets: "
    "name a variable where a key is needed (api_key_env={name})"
)

REFUSED, INTERRUPTED, MISTYPED = 1, 130, 2
"""Exit codes: the run cannot go on; it was asked to stop; the command line does not compose."""


class CommandLineError(ValueError):
    """What was typed cannot be done; the message says what can."""


# --- the wrapper ----------------------------------------------------------------------------------


def entry_point(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Make a script's main function of a task that takes the composed configuration as plain data.

    What goes wrong is told in one short message. Exit codes: 1 for what the user can put right
    (`ValueError`, `OSError`; the traceback stands in the run folder's log, and on the screen with
    HYDRA_FULL_ERROR=1), 2 for a command line that does not compose, 130 when asked to stop. All else
    is our bug and keeps its traceback.

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
                    _clean_hydra_files()
                    task(_plain(composed))
                except (ValueError, OSError) as error:
                    if full_error:
                        traceback.print_exc()
                    _say(_message(error) + _where_to_look(error))
                    status = REFUSED  # a sweep goes on with its other jobs
                except BaseException as error:
                    if not _asked_to_stop(error):
                        _keep_traceback()
                        raise
                    if rank() == 0:
                        _say(_how_to_go_on(Path(composed.get("run_dir") or HydraConfig.get().runtime.output_dir)))
                    raise SystemExit(INTERRUPTED) from None
                finally:
                    _discard_unused()

            accept_any_text()
            signal.signal(signal.SIGTERM, _stop)
            processes.end_with_parent()
            run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
            try:
                _refuse_secrets_in_sweeps(typed[1:])
                sys.argv[1:] = [*_arguments(typed[1:]), *_resume_arguments(typed[1:])]
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
            except OSError as error:  # Hydra's own folder cannot be made or written
                if full_error:
                    raise
                _say(_message(error))
                status = REFUSED
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
    _refuse_secrets(composed, plain)
    return {str(key): value for key, value in plain.items()}


def _refuse_secrets(composed: DictConfig, plain: Any) -> None:
    """Settings are written into files that travel with the weights.

    Raises:
        ConfigError: one of them is the value of a variable that holds a secret; names both.
    """
    public = dict(_leaves(hide(plain)))
    for key, text in _leaves(OmegaConf.to_container(composed, resolve=False)):
        for name in _OC_ENV.findall(text):
            value = os.environ.get(name, "").strip()
            if SECRET_NAME.search(name.upper()) and value and value in public.get(key, ""):
                raise config.ConfigError(_SECRET.format(key=key, name=name))
    values = {value: name.strip("<>") for value, name in secrets().items() if len(value) >= LONG_SECRET}
    for key, text in public.items():
        for value, name in values.items():
            if value in text and not Path(value).exists():
                raise config.ConfigError(_SECRET.format(key=key, name=name))


def _leaves(plain: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Dotted key and text of every string."""
    if isinstance(plain, str):
        yield prefix, plain
    elif isinstance(plain, dict | list):
        for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def _clean_hydra_files() -> None:
    """Take secrets out of what Hydra has written down of the command line."""
    settings = HydraConfig.get()
    if settings.output_subdir is None:
        return
    for file in (Path(settings.runtime.output_dir) / settings.output_subdir).glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        if (public := redacted(text)) != text:
            write_text(file, public)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    return str(error) or type(error).__name__


def _where_to_look(error: Exception) -> str:
    """Where the traceback is: a bug in a phase of somebody's own is a ValueError like any other."""
    if isinstance(error, config.ConfigError | CommandLineError):
        return ""
    if file := _keep_traceback():
        return f" (traceback: {short(file)})"
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    ours = Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1])
    return "" if ours or isinstance(error, OSError) else " (HYDRA_FULL_ERROR=1 shows the traceback)"


def _keep_traceback() -> Path | None:
    """Append what is being handled to the log of the run; None if no run began, or nothing can be written."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    file = folder / f"{settings.job.name}.log"
    if not (folder / "config.json").exists():
        return None
    try:
        with file.open("a", encoding="utf-8", errors="replace") as log:
            log.write(redacted(traceback.format_exc()))
    except OSError:
        return None
    return file


def _asked_to_stop(error: BaseException) -> bool:
    if isinstance(error, SystemExit):  # Lightning exits on an interrupt outside of a step
        error = error.__context__ or error
    return isinstance(error, KeyboardInterrupt | processes.Interrupted)


def _stop(number: int, frame: object) -> None:
    """SIGTERM, as a cluster sends it, is asking to stop too."""
    raise KeyboardInterrupt


def _how_to_go_on(folder: Path) -> str:
    if not (folder / "config.json").exists():
        return "Stopped."
    command = f"python {short(Path(sys.argv[0]))} {shlex.quote(f'resume={short(folder)}')}"
    return f"Stopped; what was done is saved. Go on with:\n  {command}"


def _say(text: str) -> None:
    print(visible(redacted(text)), file=sys.stderr, flush=True)


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
        known = _known_keys(config_name, typed)
        stages = {other.split(".")[2] for other in known if re.match(r"curriculum\.stages\.[^.]+\.", other)}
        told = config.unknown_in_stages(key, sorted(stages))
        return told or f"{key}: no such setting.{config.nearest(key, known)}"
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


def _arguments(typed: list[str]) -> list[str]:
    """What Hydra gets of what was typed.

    Raises:
        CommandLineError: a setting is taken out.
    """
    if text := taken_out(typed, CONFIGS):
        key = text.lstrip("~").partition("=")[0]
        raise CommandLineError(
            f"{text}: a setting has a value in every run; say which: {key}=… (null, where it may have none)"
        )
    return replacing(typed)


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
    keys = [(text, text.lstrip("+~").partition("=")[0]) for text in overrides]
    others = [text for text, key in keys if key not in allowed and not LEARNING.fullmatch(key)]
    refused = [text for text in others if not text.startswith("hydra.")]
    if refused:
        plain = [name for name in WITH_RESUME if not name.startswith(("annotator.", "judge."))]
        raise CommandLineError(
            f"{' '.join(refused)}: a resumed run keeps its own settings; beside resume only {', '.join(plain)}, an LLM "
            f"rater's limits (+annotator.budget=…) and, for a stage that is not finished, curriculum.stages.<stage>.lr "
            f"(budget.<stage>.lr) may stand. For other settings start a new run "
            f"(reuse={value} takes over the stages they leave unchanged)"
        )
    folder = run_folder(str(value))
    return [f'hydra.run.dir="{folder}"', "hydra.output_subdir=null"]


def _refuse_secrets_in_sweeps(typed: list[str]) -> None:
    """Hydra shows and keeps the arguments of a sweep's jobs before any of ours runs.

    Raises:
        CommandLineError: one of them holds a secret.
    """
    shown = next((text for text, public in zip(typed, redacted(typed), strict=True) if public != text), None)
    if {"-m", "--multirun"} & set(typed) and shown is not None:
        raise CommandLineError(
            f"{redacted(shown)}: Hydra would write this secret down for every job of a sweep. "
            f"Start one run per setting, without -m"
        )


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
        saved = checked_run(folder / "config.json").model_dump()
        given = {text.partition("=")[0].lstrip("+") for text in HydraConfig.get().overrides.task}
        for key in (key for key in given if key in WITH_RESUME or LEARNING.fullmatch(key)):
            _put(saved, key, _get(composed, key))
            if key.startswith("budget.") and key.split(".")[1] in saved["curriculum"]["stages"]:
                _put(saved, f"curriculum.stages.{key.split('.')[1]}.lr", _get(composed, key))
        _refuse_unallowed(saved, given, folder)
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


def _get(composed: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        composed = composed[name]
    return composed


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[name] = value


def _refuse_unallowed(saved: dict[str, Any], given: set[str], folder: Path) -> None:
    """Refuse code and commands that only the run's own files allow.

    Raises:
        ConfigError: says what to type.
    """
    needed = []
    if saved["model"]["language"]["trust_remote_code"] and CONSENT[0] not in given:
        needed.append(f"+{CONSENT[0]}=true")
    if saved["data"]["allow_pipe"] and CONSENT[1] not in given and "pipe:" in str(saved["data"]):
        needed.append(f"{CONSENT[1]}=true")
    if needed:
        raise config.ConfigError(
            f"{folder / 'config.json'}: this run runs code or commands that its own files name. If you trust them, "
            f"say so beside resume: {' '.join(needed)}"
        )


def show_config(settings: config.Config) -> None:
    """Print the settings as YAML, ready to be kept as a file."""
    plain = settings.model_dump()
    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100), end="")
