"""Asynchronous work from ordinary functions, also where an event loop runs already: in a notebook one always does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")
_here = threading.local()
"""`worker`: whose thread this is."""


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine; where this thread has a running event loop, a thread of its own does the work."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_run, work).result()


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    worker: Worker | None = getattr(_here, "worker", None)
    with asyncio.Runner() as runner:
        return runner.run(work if worker is None else worker.watched(work))


class Worker:
    """A thread beside this one that does one thing after another, and is told to stop inside of `run`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=self._begin)
        self._lock, self._stopped = threading.Lock(), False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Do this when all else is done."""
        return self._thread.submit(work, *arguments)

    def stop(self) -> None:
        """End what is being done, begin nothing more, and wait until that is so."""
        with self._lock:
            self._stopped = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def watched(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The coroutine, which `stop` ends."""
        with self._lock:
            if self._stopped:
                work.close()
                raise asyncio.CancelledError
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await work
        finally:
            with self._lock:
                self._loop = self._task = None

    def _begin(self) -> None:
        _here.worker = self
