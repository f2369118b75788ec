"""Processes that hand the machine over to one another: A B C, A B C, …"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from steps import models
from steps.arm import ArmSpec, Finished, Meter
from steps.arms import ARMS

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["steps.arms", "lightning", "open_clip"])
OTHERS = multiprocessing.get_context("spawn")
SPIN = "GOMP_SPINCOUNT", "300000"
"""How long the others' threads spin: what libgomp does where nobody sets anything (ours: dress/__init__)."""
SLOW = 900.0
"""Seconds after which a silent process counts as stuck."""

Say = Callable[[str], None]


def arms_of(spec: ArmSpec) -> dict[str, Callable[[ArmSpec, Meter], None]]:
    """The arms that train such a model."""
    if isinstance(spec.model, models.ModelSpec):
        return ARMS
    from steps import vlm_arms

    return vlm_arms.ARMS


def work(pipe: Any, spec: ArmSpec) -> None:
    """The whole life of an arm's process."""
    torch.set_num_threads(spec.threads)
    try:
        arms_of(spec)[spec.name](spec, Meter(pipe, spec.device, spec.gate))
    except Finished:
        pass
    except BaseException as error:  # said by the coordinator, which goes on without this arm
        pipe.send({"error": f"{type(error).__name__}: {error}"})
        raise


@dataclass
class Measured:
    """One arm: per round the seconds of its steps, what it learned; how much memory its second step took."""

    seconds: list[list[float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int = 0
    before: int = 0
    warm_up: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None

    def add(self, report: dict[str, Any]) -> None:
        self.seconds.append(report["seconds"])
        self.cpu.append(report["cpu"] / len(report["seconds"]))
        self.losses += report["losses"]
        self.parts += report["parts"]

    @property
    def per_round(self) -> list[float]:
        """Mean seconds of a step in each round."""
        return [statistics.fmean(one) for one in self.seconds]

    @property
    def step(self) -> float:
        """Median seconds of a step."""
        return statistics.median(second for one in self.seconds for second in one)

    @property
    def activations(self) -> int:
        """Bytes that a step takes beyond what stood before it (weights, optimiser), gradients included."""
        return self.peak - self.before


class Arm:
    """An arm's process; while it is not asked to run it waits and takes no time."""

    def __init__(self, spec: ArmSpec) -> None:
        self.spec = spec
        context: Any = CONTEXT if spec.name.startswith("dress") else OTHERS
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, spec), daemon=True)
        before = os.environ.get(SPIN[0])
        if context is OTHERS:
            os.environ[SPIN[0]] = SPIN[1]
        self.process.start()
        if context is OTHERS:
            os.environ.pop(SPIN[0]) if before is None else os.environ.update({SPIN[0]: before})
        other.close()

    def run(self, steps: int, fresh: bool = False) -> dict[str, Any]:
        """Let it train, `fresh` after it gave freed memory back; returns its report, or {"error": …}."""
        try:
            self.pipe.send((steps, fresh))
            if not self.pipe.poll(SLOW):
                return {"error": f"no answer in {SLOW:.0f} s"}
            report: dict[str, Any] = self.pipe.recv()
            return report
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join(10)
            return {"error": f"its process ended with exit code {self.process.exitcode}"}

    def stop(self) -> None:
        """End the process, kindly first."""
        with contextlib.suppress(OSError):  # it ended by itself
            self.pipe.send(None)
        self.process.join(20)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def interleave(
    specs: Sequence[ArmSpec], rounds: int, steps: int, seconds: float, say: Say, before_round: Callable[[], Any]
) -> dict[str, Measured]:
    """Time arms against one another.

    Args:
        specs: of the arms.
        rounds, steps: how many rounds of how many steps.
        seconds: what all of it may take; where more would take longer, the arm that takes most of a round runs
            fewer steps of it, and where one step of each is too much there are fewer rounds (said).
        say: told what happens.
        before_round: called before each.
    """
    until = time.monotonic() + seconds
    measured = {spec.name: Measured() for spec in specs}
    arms: dict[str, Arm] = {}
    try:
        for spec in specs:  # one after another, so that their beginnings do not disturb each other's warm-up
            arms[spec.name] = Arm(spec)
            _warm_up(arms, spec.name, measured, say)
        left = until - time.monotonic()
        took = {name: max(1e-9, measured[name].warm_up[-1]) for name in arms}
        each = share_out(took, steps, left / rounds)
        if any(count < steps for count in each.values()):
            possible = int(left / sum(took[name] * count for name, count in each.items()))
            wanted, rounds = f"{rounds} rounds of {steps} steps", max(2, min(rounds, possible))
            told = ", ".join(f"{name} {count}" for name, count in each.items())
            say(f"{rounds} rounds, steps in each: {told}; instead of {wanted}, {left:.0f} s are left")
        for number in range(rounds):
            before_round()
            load = os.getloadavg()[0]
            if load > (os.cpu_count() or 1) + 0.5:
                say(f"the machine is not quiet (load {load:.1f}): figures of this round are noisy")
            for name in list(arms):
                _run(arms, name, each[name], measured, say)
            times = ", ".join(f"{name} {measured[name].per_round[-1]:.2f}" for name in arms)
            say(f"round {number + 1}: seconds per step: {times}")
    finally:
        for arm in arms.values():
            arm.stop()
    return measured


def share_out(took: dict[str, float], steps: int, seconds: float) -> dict[str, int]:
    """Steps of each arm in a round of so many seconds: `steps`, fewer of the arms that take most of it, at least 1.

    Args:
        took: seconds of an arm's step.
        steps: wanted of each.
        seconds: of a round.
    """
    each = dict.fromkeys(took, steps)
    while sum(took[name] * count for name, count in each.items()) > seconds and max(each.values()) > 1:
        longest = max((name for name in each if each[name] > 1), key=lambda name: took[name] * each[name])
        each[longest] -= 1
    return each


def _run(arms: dict[str, Arm], name: str, steps: int, measured: dict[str, Measured], say: Say) -> None:
    report = arms[name].run(steps)
    if "error" in report:
        _drop(arms, name, report["error"], measured, say)
    else:
        measured[name].add(report)


def _warm_up(arms: dict[str, Arm], name: str, measured: dict[str, Measured], say: Say) -> None:
    """A first step, which makes the optimiser's state; a second one, whose memory is measured."""
    arm, one = arms[name], measured[name]
    for fresh in (False, True):
        report = arm.run(1, fresh)
        if "error" in report:
            _drop(arms, name, report["error"], measured, say)
            return
        one.warm_up += report["seconds"]
        one.losses += report["losses"]
        one.peak, one.before = report["peak"], report["before"]
    say(f"{name}: warm-up {', '.join(f'{second:.1f}' for second in one.warm_up)} s")


def _drop(arms: dict[str, Arm], name: str, error: str, measured: dict[str, Measured], say: Say) -> None:
    measured[name].error = error
    say(f"{name}: {error}; goes on without it")
    arms.pop(name).stop()


def paired(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Median over rounds of slow ÷ fast, with a 95 % bootstrap interval over the rounds."""
    size = min(len(slow), len(fast))
    ratios = np.array(slow[:size]) / np.array(fast[:size])
    draws = np.random.default_rng(0).integers(0, size, (10_000, size))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return {"ratio": float(np.median(ratios)), "low": float(low), "high": float(high), "rounds": size}
