"""The commands: `dress train | collect | eval | export | prepare | ask`; `python src/COMMAND.py` does the same.

Heavy imports stand inside: what a command needs is loaded once its settings are known to compose.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dress.base.ranks import rank
from dress.base.terminal import Terminal, visible
from dress.config.nearest import nearest
from dress.run.asking import ask
from dress.run.command_line import COMMAND, MISTYPED, entry_point, one_message

ASK = "ask"
"""The command that composes nothing."""


def run_command(name: str, words: int = 0) -> None:
    """Do what the command line says.

    Args:
        name: of the command.
        words: number of words before the settings, beside the program.

    Raises:
        SystemExit: with another code than 0 where it failed; see `entry_point`.
    """
    if name == ASK:
        with one_message():
            ask(sys.argv[1 + words :])
        return
    _, task, before = COMMANDS[name]
    before()
    entry_point(name)(task)(words)


def main() -> None:
    """`dress COMMAND key=value …`; alone it lists the commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in (*COMMANDS, ASK):
        run_command(name, 1)
    elif name == "--version":
        print(metadata.version("dress-vlm"))
    elif name in ("-h", "--help", "help"):
        print(_listed())
    else:
        names = [*COMMANDS, ASK]
        listed = f" There are: {', '.join(names)}."
        print(visible(f"{COMMAND} {name}: no such command.{nearest(name, names)}{listed}"), file=sys.stderr)
        raise SystemExit(MISTYPED)


def _train(composed: dict[str, Any]) -> None:
    """Run the stages of the composed experiment, or go on with a run."""
    from dress.run.layers import layers_of_the_job, one_amount
    from dress.run.ranks import compare_settings, settle_devices, start_ranks
    from dress.run.resuming import refuse_several_devices, training_settings
    from dress.run.showing import origins, show_config
    from dress.run.training import show_batch, train

    hydra = HydraConfig.get()
    one_amount(composed, layers_of_the_job)
    settings = training_settings(composed, hydra.overrides.task)
    if hydra.mode == RunMode.MULTIRUN:
        refuse_several_devices(settings)
    elif settings.show is None:
        settings = settle_devices(settings)
        start_ranks(settings)
        compare_settings(settings)
    console = Terminal(quiet=rank() > 0)
    if settings.devices.processes > 1 and settings.show is None and hydra.mode != RunMode.MULTIRUN:
        number = settings.devices.processes
        console.print(f"{number} processes share each step (trainer.devices=1: one)", highlight=False, soft_wrap=True)
    if settings.show == "config":
        show_config(settings, origins())
    elif settings.show == "batch":
        show_batch(settings, console)
    else:
        train(settings, console)


def _collect(composed: dict[str, Any]) -> None:
    from dress.run.collecting import task

    settings, run = task(composed)
    run(settings, Terminal())


def _export(composed: dict[str, Any]) -> None:
    from dress.config import ExportCommand, check_as

    settings = check_as(ExportCommand, composed)
    from dress.run.exporting import export

    export(settings, Terminal())


def _evaluate(composed: dict[str, Any]) -> None:
    from dress.evaluation.command import evaluate

    evaluate(composed, Terminal())


def _suites() -> None:
    from dress.evaluation.suite import store_defaults

    store_defaults()


def _prepare(composed: dict[str, Any]) -> None:
    from dress.run.preparing import task

    settings, run = task(composed)
    run(settings, Terminal())


def _nothing() -> None:
    pass


COMMANDS: dict[str, tuple[str, Callable[[dict[str, Any]], None], Callable[[], None]]] = {
    "train": ("run an experiment, or go on with one", _train, _nothing),
    "collect": ("answers with feedback on them, as shards", _collect, _nothing),
    "eval": ("evaluate a finished run again, or run a suite", _evaluate, _suites),
    "export": ("a trained model as a folder that others load", _export, _nothing),
    "prepare": ("public files become shards; index, inspect and export them", _prepare, _nothing),
}
"""Name (of a file in configs/) to what it does in a few words, its task, and what is done before it composes."""


def _listed() -> str:
    """Help of the command alone."""
    titles = {name: title for name, (title, *_) in COMMANDS.items()} | {
        ASK: "ask a model about a picture, and advise it"
    }
    lines = [f"  {COMMAND} {name:<8} {title}" for name, title in titles.items()]
    return "\n".join(
        [
            "DRESS: train vision-language models from natural-language feedback.", "",
            *lines, "", f"{COMMAND} COMMAND --help says more, and names every setting (key=value).",
        ]
    )  # fmt: skip
