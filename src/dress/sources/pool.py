"""Worker processes that answer in order, a few calls ahead of who reads the answers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from typing import Any

from dress.sources.worker import Job, Worker

AHEAD = 4
"""Calls under way per worker."""
Call = tuple[Any, ...]
_worker: Worker | None = None


class Pool:
    """Calls methods of `Worker`; the processes start with the second call that is under way.

    Args:
        job: what workers need to know.
        workers: processes; 0 works in this one.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self.job, self._workers = job, workers
        self.here = Worker(job)
        self._processes: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
        self.here.reader.close()

    def map(self, method: str, calls: Iterable[Call]) -> Iterator[tuple[Call, Any]]:
        """Each call's arguments with its result, in order; as many calls are drawn ahead as workers need."""
        calls = iter(calls)
        first = list(islice(calls, 2))
        if not self._workers or len(first) < 2:
            for call in chain(first, calls):
                yield call, getattr(self.here, method)(*call)
            return
        if self._processes is None:
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(self._workers, context, _begin, (self.job,))
        pending: deque[tuple[Call, Future[Any]]] = deque()
        for call in chain(first, calls):
            pending.append((call, self._processes.submit(_call, method, call)))
            if len(pending) > AHEAD * self._workers:
                earliest, future = pending.popleft()
                yield earliest, future.result()
        for earliest, future in pending:
            yield earliest, future.result()


def _begin(job: Job) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Worker(job)


def _end_with_parent() -> None:
    """A killed parent leaves no worker behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(method: str, call: Call) -> Any:
    assert _worker is not None
    return getattr(_worker, method)(*call)
