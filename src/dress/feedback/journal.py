"""Many coroutines write the ledger in few synced transactions."""

from __future__ import annotations

import asyncio

from dress.feedback.ledger import Begin, End, Ledger


class Journal:
    """Collects entries while a transaction is on its way to disk; belongs to one event loop.

    Args:
        ledger: to write.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Begin | End, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, entry: Begin | End) -> None:
        """Returns once the entry is on disk.

        Raises:
            OSError: it cannot be written.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain())
        await written

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await asyncio.to_thread(self._ledger.write, [entry for entry, _ in batch])
            except Exception as caught:
                error = caught
            for _, written in batch:
                if written.done():  # its coroutine was cancelled
                    continue
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(error)
        self._writer = None
