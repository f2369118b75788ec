"""Answers on their way: each goes on whether anybody listens or not, and whoever comes back hears the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from dress.dialogue.spans import Completion

Finish = Callable[[Completion], Awaitable[dict[str, object]]]
"""Writes a whole answer down; returns what the page is told of it."""


@dataclass
class Job:
    """One answer.

    Attributes:
        pieces: of its text, so far.
        end: what the page is told at the end: the answer's name, or why there is none; None: not there yet.
    """

    pieces: list[str] = field(default_factory=list)
    end: dict[str, object] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self, source: AsyncIterator[str | Completion], finish: Finish) -> None:
        """Begin to listen to whoever answers."""
        self._task = asyncio.create_task(self._run(source, finish))

    def stop(self) -> None:
        """Let it end here: what is there is the answer, and counts as cut."""
        if self._task is not None and self.end is None:
            self._task.cancel()

    async def listen(self, first: int = 0) -> AsyncIterator[tuple[int, str]]:
        """Pieces with their numbers, from one on, until the end."""
        number = first
        while True:
            changed = self._changed
            while number < len(self.pieces):
                yield number, self.pieces[number]
                number += 1
            if self.end is not None:
                return
            await changed.wait()

    async def _run(self, source: AsyncIterator[str | Completion], finish: Finish) -> None:
        whole: Completion | None = None
        try:
            async for piece in source:
                if isinstance(piece, Completion):
                    whole = piece
                else:
                    self.pieces.append(piece)
                    self._tell()
            assert whole is not None
            self.end = await finish(whole)
        except asyncio.CancelledError:
            text = "".join(self.pieces)
            self.end = await finish(Completion(text, "length")) if text else {"failed": "stopped before its first word"}
        except (ValueError, OSError) as error:
            self.end = {"failed": str(error)}
        except Exception as error:
            self.end = {"failed": f"{type(error).__name__}: {error}"}
            raise
        finally:
            self._tell()

    def _tell(self) -> None:
        """Wake whoever listens."""
        before, self._changed = self._changed, asyncio.Event()
        before.set()
