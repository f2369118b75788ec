"""`dress ask RUN PICTURE ["QUESTION"]`: an answer in the terminal, and advice as the next turn."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from dress.base.errors import ConfigError
from dress.base.terminal import Terminal
from dress.config.commands import AskCommand, Loading
from dress.config.raters import Server
from dress.config.types import Condition
from dress.run.settings_page import listed
from dress.run.words import words_and_settings

HELP = """Ask a trained model, or one behind a server, about a picture; then say what to do better, turn after turn.

  dress ask logs/latest picture.png "What is in the picture?"
  dress ask logs/latest picture.png                            asks for the question
  dress ask http://127.0.0.1:8000/v1 picture.png "What is here?" model=NAME [api_key_env=VARIABLE]
  printf 'What is here?\\nYou forgot the dog.\\n' | dress ask logs/latest picture.png

An empty line ends it. `-` in place of the picture asks without one. Settings (key=default  what it is; what may stand
there), first those of a server:

"""
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
    words, settings = words_and_settings(typed, AskCommand)
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
        raise ConfigError(f"condition: expected one of {', '.join(names)}, got {settings['condition']!r:.80}")
    from dress.rollout.loading import load

    loading = {
        name: value for name, value in settings.items() if name in Loading.model_fields or name in Server.model_fields
    }
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
