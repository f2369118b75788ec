"""Teams of processes, started as runs start theirs, that hand the machine over to one another: A B A B, …"""

from __future__ import annotations

import contextlib
import logging
import statistics
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dress.base.processes import fork_ranks
from dress.base.ranks import rank
from steps.machine import pss
from steps.rounds import CONTEXT, SLOW, paired

SAMPLE = 0.01
"""Seconds between looks at the memory of the others."""


@dataclass(frozen=True)
class Member:
    """One process of a team, as its work sees it.

    Args:
        pipe: to the coordinator.
        began: when the team was started, in seconds of `time.monotonic`.
    """

    pipe: Any
    began: float

    def orders(self) -> Any:
        """What the coordinator asks for next; None ends the work."""
        return self.pipe.recv()

    def reply(self, **figures: Any) -> None:
        """Answer an order, or say that the work can begin."""
        self.pipe.send(figures)


Work = Callable[[Member, Any], None]
"""What each process of a team does with its member and what it was given, until `orders` gives None."""


@dataclass(frozen=True)
class Spec:
    """A team: so many processes of so many threads, which do a work with what they are given."""

    name: str
    processes: int
    threads: int
    work: Work
    given: Any


class TeamError(RuntimeError):
    """A process of a team ended with an error."""


class Team:
    """Processes that wait, and take no time, until they are asked.

    Raises:
        TeamError: of any method: a process did not answer.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        ends = [CONTEXT.Pipe() for _ in range(spec.processes)]
        self.pipes = [one for one, _ in ends]
        began = time.monotonic()
        self.process = CONTEXT.Process(target=_run, args=([other for _, other in ends], spec, began))
        self.process.start()
        for _, other in ends:
            other.close()
        self.ready = self.collect()
        """What each process said when its work could begin, with `pid` and the seconds that took (`startup`)."""

    def ask(self, order: Any) -> list[dict[str, Any]]:
        """Give all processes an order, and what each replied when all have."""
        for pipe in self.pipes:
            pipe.send(order)
        return self.collect()

    def collect(self) -> list[dict[str, Any]]:
        """One reply of each process."""
        replies = []
        for pipe in self.pipes:
            if not pipe.poll(SLOW):
                raise TeamError(f"{self.spec.name}: no answer in {SLOW:.0f} s")
            try:
                reply = pipe.recv()
            except (EOFError, ConnectionResetError):
                self.process.join(10)
                raise TeamError(f"{self.spec.name}: its process ended, exit code {self.process.exitcode}") from None
            if "error" in reply:
                raise TeamError(f"{self.spec.name}: {reply['error']}")
            replies.append(reply)
        return replies

    def stop(self) -> list[dict[str, Any]]:
        """End the work; the last reply of each process, if it gave one."""
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        replies = []
        for pipe in self.pipes:
            with contextlib.suppress(EOFError, OSError):
                if pipe.poll(60):
                    replies.append(pipe.recv())
        self.process.join(60)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return replies


def _run(pipes: list[Any], spec: Spec, began: float) -> None:
    """The life of a team's first process, which becomes its ranks."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(spec.threads)
    if spec.processes > 1:
        fork_ranks(spec.processes)  # returns in each rank
    pipe = pipes[rank()]
    for other in pipes:
        if other is not pipe:
            other.close()
    try:
        spec.work(Member(pipe, began), spec.given)
    except BaseException as error:
        with contextlib.suppress(OSError):
            pipe.send({"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()[-2000:]}"})
        raise


@dataclass
class Timed:
    """What a team took in each round, and what it said of it."""

    seconds: list[float] = field(default_factory=list)
    replies: list[list[dict[str, Any]]] = field(default_factory=list)


def interleave(teams: Mapping[str, Team], order: Any, rounds: int, warm_up: int = 1) -> dict[str, Timed]:
    """Ask teams in turn, A B A B …, and take the time of each.

    Args:
        teams: by name.
        order: what each is asked every time.
        rounds: how often.
        warm_up: rounds before them, whose time is not taken.
    """
    timed = {name: Timed() for name in teams}
    for number in range(-warm_up, rounds):
        names = list(teams) if number % 2 == 0 else list(teams)[::-1]  # nobody is always the one after a pause
        for name in names:
            began = time.perf_counter()
            replies = teams[name].ask(order)
            if number >= 0:
                timed[name].seconds.append(time.perf_counter() - began)
                timed[name].replies.append(replies)
    return timed


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def ratio(timed: Mapping[str, Timed], slow: str, fast: str) -> dict[str, float]:
    """Seconds of one team ÷ another's, paired by round, with a 95 % interval."""
    return paired(timed[slow].seconds, timed[fast].seconds)


class PSS:
    """The most that processes hold while a work is done: their shares of what they share with others counted (PSS).

    Args:
        pids: of the processes.
    """

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self.before = [pss(pid) for pid in pids]
        self.peak = list(self.before)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> PSS:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(SAMPLE):
            for number, pid in enumerate(self.pids):
                self.peak[number] = max(self.peak[number], pss(pid))

    @property
    def growth(self) -> list[int]:
        """Of each process, in bytes."""
        return [peak - before for peak, before in zip(self.peak, self.before, strict=True)]
