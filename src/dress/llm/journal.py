"""Many coroutines write the ledger in few synced transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dress.llm.ledger import Begin, End, Ledger, WriteResult


class Journal:
    """Collects entries while a transaction is on its way to disk; belongs to one event loop.

    Args:
        ledger: to write.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Begin | End, asyncio.Future[WriteResult]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, entry: Begin | End) -> WriteResult:
        """Returns once the entry is on disk, with what became of it.

        Raises:
            OSError: nothing can be written.
            ValueError, OverflowError, sqlite3.Error: this entry cannot be written.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain())
        return await written

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            became: Sequence[WriteResult | Exception]
            try:
                became = await asyncio.to_thread(self._ledger.write, [entry for entry, _ in batch])
            except Exception as caught:
                became = [caught] * len(batch)
            for (_, written), what in zip(batch, became, strict=True):
                if written.done():  # its coroutine was cancelled
                    continue
                if isinstance(what, Exception):
                    written.set_exception(what)
                else:
                    written.set_result(what)
        self._writer = None
