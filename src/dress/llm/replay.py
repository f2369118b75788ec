"""Replay: replies out of a ledger, for evaluations and shards that come out the same without a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from pydantic import ValidationError

from dress.base.progress import Advance, ignore
from dress.llm.ledger import Ledger
from dress.llm.request import Reply, Request
from dress.llm.tally import Tally


class ReplayClient:
    """Answers from a ledger; asks nobody.

    Args:
        ledger: what was recorded.
        model: whose replies.
    """

    def __init__(self, ledger: Ledger, model: str) -> None:
        self.ledger, self.model, self.tally = ledger, model, Tally()

    def replay(self) -> ReplayClient:
        """It is one already."""
        return self

    def origin(self) -> str:
        """See `interface.Client`; nobody is asked."""
        return self.model

    async def ask(self, request: Request) -> Reply:
        """See `request.Client.ask`."""
        return self._reply(request)

    def ask_all(self, requests: Sequence[Request], progress: Advance = ignore) -> list[Reply]:
        """See `request.Client.ask_all`."""
        self.tally.total += len(requests)
        replies = []
        for request in requests:
            replies.append(self._reply(request))
            self.tally.add(replies[-1])
        progress(len(requests), self.tally.line())
        return replies

    def _reply(self, request: Request) -> Reply:
        """The call of equal content and sampling; of equal content where the sampling was another one."""
        key = request.key(self.model)
        rows = [row for row in self.ledger.by_content(request.content) if row["model"] == self.model]
        exact = [row for row in rows if row["key"] == key]
        if not rows or (not exact and len(rows) > 1):
            return Reply("failed", key, reason="not_recorded", model=self.model, recorded=True)
        return recorded_reply((exact or rows)[0], request)


def recorded_model(ledger: Ledger, model: str | None) -> str:
    """The model whose replies are replayed: the one that is named, or the only one.

    Raises:
        ValueError: several were recorded and none is named, or another one is.
    """
    models = ledger.models()
    if model is None and len(models) == 1:
        return models[0]
    if model is None or model not in models:
        expected = "the name of the model" if model is None else f"replies of {model}"
        raise ValueError(
            f"{ledger.path}: expected {expected} (annotator.model=… or judge.model=…), "
            f"got those of {', '.join(models) or 'nobody'}"
        )
    return model


def recorded_reply(row: sqlite3.Row, request: Request, recorded: bool = True) -> Reply:
    """The reply that a ledger's row holds; `recorded`: it was there before it was asked for."""
    status, reason, parsed = row["status"], row["reason"], None
    if status == "done" and request.schema is not None:
        try:
            parsed = request.schema.model_validate_json(row["parsed"] or "")
        except ValidationError:
            status, reason = "failed", "damaged"
    return Reply(
        status=status,
        key=row["key"],
        reason=reason,
        text=row["raw"],
        parsed=parsed,
        model=row["model"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        cost=row["cost"],
        attempts=row["attempts"],
        recorded=recorded,
    )
