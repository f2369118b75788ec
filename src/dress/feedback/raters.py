"""The rater that the settings name: one that is registered, people, a language model with a rubric, or its replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from dress import config
from dress.config.raters import LLM, Human, PlainRater, Replay
from dress.rater import Rater, registered


def build_rater(settings: config.RaterSettings, folder: Path | None = None, console: Console | None = None) -> Rater:
    """The rater that the settings name.

    Args:
        settings: which, and how.
        folder: holds an LLM's ledger where the settings name none.
        console: shows an LLM's first replies, and what of a journal was passed over; None shows nothing.

    Raises:
        ValueError: an LLM's key or rubric is not there, a ledger or journal cannot be used, or no rater has this name.
        FileNotFoundError: no journal there.
    """
    if isinstance(settings, PlainRater):
        return _plain_rater(settings)
    if isinstance(settings, Human):
        from dress.feedback.human import HumanRater, read_words

        words = read_words(settings.journal, settings.who)
        if words.torn and console:
            console.print(f"{settings.journal}: its last line is cut and was passed over", highlight=False)
        return HumanRater(words)

    from dress.feedback.llm import LLMRater, Preview
    from dress.feedback.rubric import Rubric
    from dress.llm.client import build_client

    client, rubric = build_client(settings, folder), Rubric.load(settings.rubric)
    if isinstance(settings, Replay):
        return LLMRater(client, rubric, sees_image=settings.sees_image)
    return LLMRater(
        client, rubric, sees_image=settings.sees_image, temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        preview=Preview(settings.preview, settings.confirm, console) if console and settings.preview else None,
    )  # fmt: skip


def _plain_rater(settings: PlainRater) -> Rater:
    import dress.feedback.rules  # noqa: F401  # registers
    from dress.worlds import import_worlds

    import_worlds()
    return registered(settings.kind)


def check_rater(settings: config.RaterSettings) -> None:
    """See early what would stop an LLM rater hours later.

    Raises:
        ValueError: no rater has this name, the variable of the key is not set, or the rubric is not there.
        FileNotFoundError: no ledger to replay, or no journal.
    """
    if isinstance(settings, PlainRater | Human):
        build_rater(settings)
        return
    from dress.feedback.rubric import Rubric
    from dress.llm.keys import api_key

    Rubric.load(settings.rubric)
    if isinstance(settings, LLM):
        api_key(settings.api_key_env, settings.base_url)
    elif not Path(settings.ledger).is_file():
        raise FileNotFoundError(f"{settings.ledger}: expected a ledger, found none")


def identity(settings: config.RaterSettings) -> dict[str, Any]:
    """What feedback depends on: equal identities give interchangeable feedback."""
    if isinstance(settings, PlainRater):
        return settings.model_dump()
    if isinstance(settings, Human):
        from dress.feedback.human import read_words

        return {"kind": settings.kind, "words": read_words(settings.journal, settings.who).fingerprint}
    from dress.feedback.rubric import Rubric

    names = {"kind", "model", "sees_image"} | (
        {"temperature", "max_tokens"} if isinstance(settings, LLM) else {"ledger"}
    )
    return {**settings.model_dump(include=names), "prompt_version": Rubric.load(settings.rubric).prompt_version}
