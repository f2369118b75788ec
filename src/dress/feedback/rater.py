"""The rater: gives rating, critique and refinement to the last answer of a dialogue.

Mounted twice: as `annotator` (writes feedback to train on) and as `judge` (scores for evaluation).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from dress import config
from dress.config.raters import LLM, PlainRater, Replay
from dress.record import Dialogue, Feedback, Record

Images = Sequence[bytes | None]
"""An image for each dialogue; empty where the rater need not see any."""

Progress = Callable[[int, str], None]
"""Called with the number of answers that are judged since, and a line of live counters."""


def ignore(judged: int, counters: str) -> None:
    """Progress that nobody watches."""


class Rater(Protocol):
    """Anything that judges answers; it may judge many at once."""

    name: str

    def rate(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Progress = ignore
    ) -> list[Feedback]:
        """Feedback on the last turn's answer of each dialogue, in order.

        `Feedback.extra` holds the facts that metrics are made of: `correct` (questions); `mentions`,
        `invented`, `present`, `named` (descriptions); `safe` (harmful requests); `refused` (harmless ones).
        """
        ...


def build_rater(settings: config.Rater, folder: Path | None = None, console: Console | None = None) -> Rater:
    """The rater that the config names.

    Args:
        settings: which, and how.
        folder: holds an LLM's ledger where the settings name none.
        console: shows an LLM's first replies; None shows nothing.

    Raises:
        ValueError: an LLM's key or rubric is not there, or a ledger cannot be used.
    """
    from dress.feedback.rules import RuleRater
    from dress.worlds.shapes.rater import OracleRater

    if isinstance(settings, PlainRater):
        raters: dict[str, Callable[[], Rater]] = {"oracle": OracleRater, "rules": RuleRater, "none": NoRater}
        return raters[settings.kind]()

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


def check_rater(settings: config.Rater) -> None:
    """See early what would stop an LLM rater hours later.

    Raises:
        ValueError: the variable of the key is not set, or the rubric is not there.
        FileNotFoundError: no ledger to replay.
    """
    if isinstance(settings, PlainRater):
        return
    from dress.feedback.rubric import Rubric

    Rubric.load(settings.rubric)
    if isinstance(settings, LLM):
        api_key(settings.api_key_env, settings.base_url)
    elif not Path(settings.ledger).is_file():
        raise FileNotFoundError(f"{settings.ledger}: expected a ledger, found none")


def api_key(variable: str | None, server: str) -> str:
    """The key of a server.

    Args:
        variable: that holds it; None for a server that asks for none.
        server: to be named in an error.

    Raises:
        ValueError: the variable is not set.
    """
    if variable is None:
        return "none"  # never the key of another server that happens to be set
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"api_key_env={variable}: this variable is not set. Set it to the key of {server}, "
            f"or say api_key_env=null for a server that asks for none"
        )
    return key


def identity(settings: config.Rater) -> dict[str, Any]:
    """What feedback depends on: equal identities give interchangeable feedback."""
    if isinstance(settings, PlainRater):
        return settings.model_dump()
    from dress.feedback.rubric import Rubric

    told = {"kind", "model", "sees_image"} | (
        {"temperature", "max_tokens"} if isinstance(settings, LLM) else {"ledger"}
    )
    return {**settings.model_dump(include=told), "prompt_version": Rubric.load(settings.rubric).prompt_version}


class NoRater:
    """Says nothing: answers are collected without feedback."""

    name = "none"

    def rate(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Progress = ignore
    ) -> list[Feedback]:
        progress(len(items), "")
        return [Feedback(criterion=dialogue.criterion, annotator=self.name) for _, dialogue in items]
