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

from dress.sources.work import Job, Worker

AHEAD = 4
"""Calls under way per worker."""

_worker: Worker | None = None


class Pool:
    """Calls methods of `Worker`; the processes start with the second call that is under way.

    Args:
        job: what workers are told.
        workers: processes; 0 works in this one.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._workers = job, workers
        self._here = Worker(job)
        self._processes: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
        self._here.__exit__(*error)

    def map(self, method: str, calls: Iterable[tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Each call's arguments with its result, in order; as many calls are drawn ahead as workers need."""
        calls = iter(calls)
        first = list(islice(calls, 2))
        if not self._workers or len(first) < 2:
            for call in chain(first, calls):
                yield call, getattr(self._here, method)(*call)
            return
        processes = self._started()
        waiting: deque[tuple[tuple[Any, ...], Future[Any]]] = deque()
        for call in chain(first, calls):
            waiting.append((call, processes.submit(_call, method, call)))
            if len(waiting) > AHEAD * self._workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()

    def _started(self) -> ProcessPoolExecutor:
        if self._processes is None:
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(self._workers, context, _begin, (self._job,))
        return self._processes


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _call(method: str, call: tuple[Any, ...]) -> Any:
    assert _worker is not None
    return getattr(_worker, method)(*call)
