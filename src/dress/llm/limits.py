"""How fast a server may be asked: requests and tokens per minute, and pauses that it asked for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

LOOK_AGAIN = 0.5
"""Seconds after which a waiting request looks whether replies were shorter than they might have been."""


@dataclass(eq=False)
class Ticket:
    """A request that was let through, and the tokens it is counted with."""

    time: float
    tokens: int


class Limits:
    """Lets requests through so that no window of `period` seconds holds more than allowed.

    A request that alone exceeds the tokens of a window is let through when the window is empty.

    Args:
        requests: per period; None is no limit.
        tokens: per period; None is no limit.
        period: seconds.
        clock: gives the time in seconds; tests bring their own.
        sleep: waits; tests bring their own.
    """

    def __init__(
        self,
        requests: int | None,
        tokens: int | None,
        period: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests, self._tokens, self._period = requests, tokens, period
        self._clock, self._sleep = clock, sleep
        self._window: deque[Ticket] = deque()
        self._used = 0  # tokens in the window
        self._paused_until = 0.0
        self.share = 1
        """Processes that ask the same server: each lets through its part."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    async def admit(self, tokens: int) -> Ticket:
        """Wait for a request's turn, in order of arrival.

        Args:
            tokens: that prompt and reply may have.

        Returns:
            What the request is counted with; see `correct`.
        """
        async with self._turn():
            while (wait := self._wait(tokens)) > 0:
                await self._sleep(min(wait, LOOK_AGAIN))
            ticket = Ticket(self._clock(), tokens)
            if self._requests is not None or self._tokens is not None:
                self._window.append(ticket)
                self._used += tokens
            return ticket

    def _turn(self) -> asyncio.Lock:
        """A lock belongs to one event loop; window and pause outlive it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    def correct(self, ticket: Ticket, tokens: int) -> None:
        """A request turned out to have had so many tokens."""
        if ticket in self._window:
            self._used += tokens - ticket.tokens
        ticket.tokens = tokens

    def pause(self, seconds: float) -> None:
        """Let nothing through for a while: the server said so."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        if now < self._paused_until:
            return self._paused_until - now
        while self._window and self._window[0].time <= now - self._period:
            self._used -= self._window.popleft().tokens
        full = self._requests is not None and len(self._window) >= max(1, self._requests // self.share)
        full |= self._tokens is not None and bool(self._window) and self._used + tokens > self._tokens // self.share
        # As soon as the oldest leaves the window there may be room.
        return max(self._window[0].time + self._period - now, 1e-3) if full else 0.0
