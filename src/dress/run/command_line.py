"""What the entry points share: a main function that composes, tells errors in one line, and leaves nothing behind.

Everything heavy (torch, transformers) is imported only once the configuration is known to be good,
so that `--help` and typing errors answer at once.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from dress import config
from dress.base import processes, run_log
from dress.base.config_folder import CONFIGS
from dress.base.errors import in_one_line, mistake
from dress.base.ranks import processes as number_of_processes
from dress.base.ranks import rank
from dress.base.redaction import redacted
from dress.base.run_folder import short
from dress.base.terminal import accept_any_text, visible
from dress.run.composing import CommandLineError, arguments, plain
from dress.run.explaining import explain
from dress.run.launchers import JobError, is_of_launcher, process_name, share_code_with_jobs
from dress.run.overrides import OptionError, options_last, without_choice
from dress.run.resuming import begin_or_go_on, resume_arguments
from dress.run.search import is_trial
from dress.run.secret_settings import clean_hydra_files, refuse_secrets, refuse_secrets_in_sweeps
from dress.run.settings_page import offer_settings
from hydra_plugins.dress_sweeper import OptunaSweeper

Task = Callable[[dict[str, Any]], None]
Checked = TypeVar("Checked", bound=BaseModel)

COMMAND = "dress"
"""The command that the package installs."""
TRAIN = "train"
REFUSED, MISTYPED = 1, 2
"""Exit codes: the run cannot go on; it was asked to stop; the command line does not compose."""


def entry_point(config_name: str) -> Callable[[Task], Callable[..., None]]:
    """Make a script's main function of a task that takes the composed configuration as plain data.

    What goes wrong is told in one short message. Exit codes: 1 for what the user can put right
    (`ValueError`, `OSError`; the traceback stands in the run folder's log, and on the screen with
    HYDRA_FULL_ERROR=1), 2 for a command line that does not compose, 130 when asked to stop, 75 when a scheduler
    asked (SIGTERM, SIGUSR1). All else
    is our bug and keeps its traceback.

    Args:
        config_name: file in `configs/` without `.yaml`.

    Returns:
        Makes the main function; its argument `words` is the number of words before the settings, beside the program.
    """

    def decorate(task: Task) -> Callable[..., None]:
        @functools.wraps(task)
        def main(words: int = 0) -> None:
            status, called, typed = 0, list(sys.argv), sys.argv[1 + words :]
            full_error = os.environ.get("HYDRA_FULL_ERROR")
            here, folder_here = process_name(), os.getcwd()

            @functools.wraps(task)
            def job(composed: DictConfig) -> None:
                nonlocal status
                elsewhere = process_name() != here
                if elsewhere:  # a launcher's, with another terminal and maybe another folder
                    accept_any_text()
                    os.chdir(folder_here)
                _restore(called, full_error)
                run_log.forget()
                try:
                    clean_hydra_files()
                    values = plain(composed)
                    refuse_secrets(composed, values)
                    task(values)
                except (ValueError, OSError) as error:
                    if full_error:
                        traceback.print_exc()
                    if processes.speaks():
                        who = f"process {rank()} of the run: " if rank() else ""
                        _say(who + _message(error) + _where_to_look(error))
                    _note_failure(composed)
                    if not is_trial():  # whose failure is a result of the search
                        status = REFUSED  # a sweep goes on with its other jobs
                    if elsewhere:
                        raise JobError(_message(error)) from None
                except BaseException as error:
                    folder = _folder(composed)
                    if not _asked_to_stop(error, folder):
                        _note_failure(composed)
                        raise
                    processes.ignore_stops()  # no signal comes between the stop and its marker
                    if (folder / processes.FAILURE).exists():  # another process says what went wrong
                        raise SystemExit(REFUSED) from None
                    if processes.preempted() and (folder / "config.json").exists():
                        processes.mark(folder, True)
                    if rank() == 0:
                        _say(_how_to_go_on(folder, called[1 + words :]))
                    raise SystemExit(processes.exit_code()) from None
                finally:
                    if rank() == 0:
                        _discard_unused()
                os.environ["HYDRA_FULL_ERROR"] = "1"  # a sweep goes on, and what it says is not Hydra's to print

            accept_any_text()
            offer_settings()
            Plugins.instance().register(OptunaSweeper)  # Hydra's scan does not see it in an editable install
            processes.stop_on_signals()
            processes.end_with_parent()
            share_code_with_jobs()
            run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
            try:
                refuse_secrets_in_sweeps(typed)
                if config_name == TRAIN:
                    typed = begin_or_go_on(typed)
                more = [*resume_arguments(typed), f"hydra.job.name={config_name}"]
                sys.argv[1:] = options_last([*arguments(typed), *more, *without_choice(config_name, typed)])
                os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself and exits
                run(job)()
            except CommandLineError as error:
                _say(str(error))
                status = MISTYPED if isinstance(error, OptionError) else REFUSED
            except (HydraException, OmegaConfBaseException) as error:
                if full_error:
                    raise
                _say(explain(error, config_name, typed))
                status = MISTYPED
            # Hydra's own folder cannot be made or written; a job said so; a search cannot be made
            except (OSError, JobError, config.ConfigError) as error:
                if full_error:
                    raise
                _say(_message(error))
                status = REFUSED
            except Exception as error:
                if full_error or not is_of_launcher(error):
                    raise
                _say(f"a job was ended, and the same command goes on where it was: {in_one_line(error)}")
                status = REFUSED
            except KeyboardInterrupt:
                status = processes.exit_code()
            finally:
                _restore(called, full_error)
            if status:
                raise SystemExit(status)

        return main

    return decorate


def _folder(composed: DictConfig) -> Path:
    return Path(composed.get("run_dir") or HydraConfig.get().runtime.output_dir)


def _note_failure(composed: DictConfig) -> None:
    if number_of_processes() > 1:
        processes.note_failure(_folder(composed))


@contextmanager
def one_message() -> Iterator[None]:
    """For a command without Hydra: what goes wrong is one message, with the exit codes of `entry_point`.

    Raises:
        SystemExit: it went wrong.
    """
    accept_any_text()
    try:
        yield
    except (ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            traceback.print_exc()
        _say(_message(error))
        raise SystemExit(REFUSED) from None
    except KeyboardInterrupt:
        raise SystemExit(processes.exit_code()) from None


def checked(composed: dict[str, Any], model: type[Checked]) -> Checked:
    """The composed configuration as the typed settings of a command.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    return config.check_as(model, composed)


def _restore(called: list[str], full_error: str | None) -> None:
    """Undo what was changed for Hydra: Lightning starts further processes from `sys.argv`."""
    sys.argv[:] = called
    os.environ.pop("HYDRA_FULL_ERROR", None)
    if full_error is not None:
        os.environ["HYDRA_FULL_ERROR"] = full_error


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}"
    return str(error) or type(error).__name__


def _where_to_look(error: Exception) -> str:
    """Where the traceback is: a bug in a phase of somebody's own is a ValueError like any other."""
    if isinstance(error, config.ConfigError | CommandLineError):
        return ""
    log = run_log.last()
    if log and log.traceback:
        return f" (traceback: {short(log.traceback)})"
    return "" if mistake(error) else " (HYDRA_FULL_ERROR=1 shows the traceback)"


def _asked_to_stop(error: BaseException, folder: Path) -> bool:
    if isinstance(error, RuntimeError) and number_of_processes() > 1:  # an exchange with one that has ended
        return processes.others_stopped(folder)
    if isinstance(error, SystemExit):  # Lightning exits on an interrupt outside of a step
        error = error.__context__ or error
    return isinstance(error, KeyboardInterrupt | processes.Interrupted)


def _how_to_go_on(folder: Path, typed: list[str]) -> str:
    if not (folder / "config.json").exists():
        return "Stopped."
    words = [f"resume={short(folder)}"]
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        sweep = short(Path(HydraConfig.get().sweep.dir))
        words = [*(word for word in typed if not word.startswith(("sweep=", "hydra.sweep.dir="))), f"sweep={sweep}"]
    command = f"{program()} {shlex.join(words)}"
    return f"Stopped; what was done is saved. Go on with:\n  {command}"


def program() -> str:
    """What trains, as one types it: `dress train`, or the script."""
    if Path(sys.argv[0]).name == COMMAND:
        return f"{COMMAND} train"
    return f"python {short(Path(sys.argv[0]))}"


def _say(text: str) -> None:
    run_log.add(visible(redacted(text)))
    print(visible(redacted(text)), file=sys.stderr, flush=True)


def _discard_unused() -> None:
    """Remove a folder in which no run began, and the empty folders above it.

    It holds at most what Hydra wrote. A bug in foreign code has left its traceback, which stays.
    """
    log = run_log.last()
    if log and log.traceback:
        return
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    written = {".hydra", f"{settings.job.name}.log", "tokenizer.json"}
    if not folder.exists():  # runs that began in the same second share it
        return
    if folder == Path.cwd() or {file.name for file in folder.iterdir()} - written:
        return
    shutil.rmtree(folder)
    for above in folder.parents:
        if above == Path.cwd() or any(above.iterdir()):
            return
        with suppress(OSError):  # another run has begun in it
            above.rmdir()
        if above.name == "logs":
            return
