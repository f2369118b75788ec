"""Who answers requests: a server by way of a ledger, or a ledger alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dress.base.progress import Advance, ignore
from dress.llm.ledger import Ledger
from dress.llm.request import Reply, Request
from dress.llm.tally import Tally


class Client(Protocol):
    """Settles requests: asks a server by way of a ledger (`LLMClient`), or answers from one (`ReplayClient`)."""

    model: str
    ledger: Ledger
    tally: Tally

    async def ask(self, request: Request) -> Reply:
        """The reply, from the ledger where it is known; a call that fails is a reply with a reason."""
        ...

    def ask_all(self, requests: Sequence[Request], progress: Advance = ignore) -> list[Reply]:
        """Replies in the order of the requests, asked side by side; equal requests share one call.

        Args:
            requests: what is asked.
            progress: called with the number of calls that are settled since, and a line of live counters.

        Raises:
            Stopped: budget reached, key refused, server not there. What was settled stays in the ledger.
        """
        ...

    def origin(self) -> str:
        """What the server says its model was read from: a folder on its machine, or a hub id; else the model's name."""
        ...

    def replay(self) -> Client:
        """The same with what the ledger holds; asks nobody."""
        ...
