"""`dress ask RUN PICTURE ["QUESTION"]`: an answer in the terminal, and advice as the next turn."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from dress.base.errors import ConfigError
from dress.base.terminal import Terminal
from dress.config import check_as
from dress.config.commands import AskCommand
from dress.config.nearest import nearest
from dress.config.raters import Server
from dress.config.types import Condition
from dress.run.overrides import parsed
from dress.run.settings_page import listed

HELP = """Ask a trained model, or one behind a server, about a picture; then say what to do better, turn after turn.

  dress ask logs/latest picture.png "What is in the picture?"
  dress ask logs/latest picture.png                            asks for the question
  dress ask http://127.0.0.1:8000/v1 picture.png "What is here?" model=NAME [api_key_env=VARIABLE]
  printf 'What is here?\\nYou forgot the dog.\\n' | dress ask logs/latest picture.png

An empty line ends it. `-` in place of the picture asks without one. Settings (key=default  what it is; what may stand
there), first those of a server:

"""
LOADING = ("stage", "device", "trust_remote_code", "trust_targets")
DRAWING = ("temperature", "top_p", "max_new_tokens", "seed")


def ask(typed: Sequence[str]) -> None:
    """Answer, then take advice from standard input until an empty line or its end.

    Args:
        typed: whom to ask, a picture, perhaps a question, and settings.

    Raises:
        ValueError, OSError: a setting, picture or model that does not fit, named.
    """
    if {"-h", "--help"} & set(typed):
        print(HELP + listed(AskCommand))
        return
    words, settings = _words(typed)
    if not 2 <= len(words) <= 3:
        raise ConfigError(
            f"ask: expected a run or a server's address, a picture and perhaps a question in quotes, got {words}"
        )
    source, picture, *questions = words
    if picture != "-" and not Path(picture).is_file():  # said before a model loads
        raise FileNotFoundError(f"{picture}: expected a picture, found no such file; - asks without one")
    if any(not question.strip() for question in questions):
        raise ConfigError('ask: expected a question in quotes, got an empty one: dress ask RUN PICTURE "What is here?"')
    names = ("none",) if source.startswith(("http://", "https://")) else get_args(Condition)
    if settings.get("condition") not in (None, *names):
        raise ConfigError(f"condition={settings['condition']}: expected one of {', '.join(names)}")
    from dress.rollout.loading import load

    loading = {name: value for name, value in settings.items() if name in LOADING or name in Server.model_fields}
    drawing = {name: value for name, value in settings.items() if name in DRAWING}
    model, console = load(source, **loading), Terminal(soft_wrap=True)
    lines = _lines(questions)
    question = next(lines, None)
    if question is None:
        raise ConfigError('ask: expected a question: dress ask RUN PICTURE "What is here?"')
    answer = model.answer(None if picture == "-" else picture, question, settings.get("condition"), **drawing)
    console.print(answer.text or "(an empty answer)")
    for advice in lines:
        answer = model.improve(answer, advice, settings.get("condition"), **drawing)
        console.print(answer.text or "(an empty answer)")


def _words(typed: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """What stands alone, and the settings."""
    known = list(AskCommand.model_fields)
    words: list[str] = []
    settings: dict[str, Any] = {}
    for text in typed:
        name, equals, _ = text.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if text != "-" and text.startswith("-") and (not equals or name not in known):
            raise ConfigError(f"{text}: settings are key=value, without dashes.{nearest(name, known)}")
        if not equals or not re.fullmatch(r"\w+", name) or Path(text).exists():
            words.append(text)
            continue
        override = parsed(text.lstrip("-"))
        if name not in known or override is None:
            raise ConfigError(
                f"{name}: no such setting.{nearest(name, known)}" if override else f"{text}: cannot be read"
            )
        settings[name] = override.value()
    check_as(AskCommand, settings)
    return words, settings


def _lines(first: Sequence[str]) -> Iterator[str]:
    """The question, where it was typed, and then each line of standard input, to an empty one."""
    yield from first
    title = "Advice (an empty line ends): " if first else "Question: "
    while True:
        if sys.stdin.isatty():
            try:
                line = input(title)
            except EOFError:
                return
        else:
            line = sys.stdin.readline().rstrip("\r\n")
        if not line.strip():
            return
        title = "Advice (an empty line ends): "
        yield line
