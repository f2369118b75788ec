"""The commands: `dress train | collect | eval | export | prepare | ask | serve | chat`; or `python src/COMMAND.py`.

Heavy imports stand inside: what a command needs is loaded once its settings are known to compose.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dress.base.ranks import rank
from dress.base.terminal import Terminal, visible
from dress.config.nearest import nearest
from dress.run.asking import ask
from dress.run.chatting import chat
from dress.run.command_line import COMMAND, MISTYPED, entry_point, one_message, program
from dress.run.serving import serve


def run_command(name: str, words: int = 0) -> None:
    """Do what the command line says.

    Args:
        name: of the command.
        words: number of words before the settings, beside the program.

    Raises:
        SystemExit: with another code than 0 where it failed; see `entry_point`.
    """
    if name in PLAIN:
        with one_message():
            PLAIN[name][1](sys.argv[1 + words :])
        return
    _, task, before = COMMANDS[name]
    before()
    entry_point(name)(task)(words)


def main() -> None:
    """`dress COMMAND key=value …`; alone it lists the commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in (*COMMANDS, *PLAIN):
        run_command(name, 1)
    elif name == "--version":
        print(metadata.version("dress-vlm"))
    elif name in ("-h", "--help", "help"):
        print(_listed())
    else:
        names = [*COMMANDS, *PLAIN]
        listed = f" There are: {', '.join(names)}."
        print(visible(f"{COMMAND} {name}: no such command.{nearest(name, names)}{listed}"), file=sys.stderr)
        raise SystemExit(MISTYPED)


def _train(composed: dict[str, Any]) -> None:
    """Run the stages of the composed experiment, or go on with a run."""
    from dress.run.layers import layers_of_the_job, one_amount
    from dress.run.ranks import compare_settings, settle_devices, start_ranks
    from dress.run.resuming import going_on, refuse_several_devices, training_settings
    from dress.run.showing import origins, show_config
    from dress.run.training import show_batch, train

    hydra = HydraConfig.get()
    one_amount(composed, layers_of_the_job)
    several = hydra.mode == RunMode.MULTIRUN
    typed = list(hydra.overrides.task)
    settings = training_settings(going_on(composed, typed) if several else composed, typed)
    if several:
        refuse_several_devices(settings)
    elif settings.show is None:
        settings = settle_devices(settings)
        start_ranks(settings)
        compare_settings(settings)
    console = Terminal(quiet=rank() > 0)
    if settings.devices.processes > 1 and settings.show is None and not several:
        number = settings.devices.processes
        console.print(f"{number} processes share each step (trainer.devices=1: one)", highlight=False, soft_wrap=True)
    if settings.show == "config":
        show_config(settings, origins())
    elif settings.show == "batch":
        show_batch(settings, console)
    else:
        train(settings, console, [*program().split(), *typed] if several else None)


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

PLAIN: dict[str, tuple[str, Callable[[Sequence[str]], None]]] = {
    "ask": ("ask a model about a picture, and advise it", ask),
    "serve": ("a model behind the interface of OpenAI's servers", serve),
    "chat": ("a page to talk to a model and to teach it", chat),
}
"""The same of commands that compose nothing: they take what is typed."""


def _listed() -> str:
    """Help of the command alone."""
    titles = {name: title for name, (title, *_) in (*COMMANDS.items(), *PLAIN.items())}
    lines = [f"  {COMMAND} {name:<8} {title}" for name, title in titles.items()]
    return "\n".join(
        [
            "DRESS: train vision-language models from natural-language feedback.", "",
            *lines, "", f"{COMMAND} COMMAND --help says more, and names every setting (key=value).",
        ]
    )  # fmt: skip
