"""Loss over the first steps of every trainer, from the same weights on the same tuples, in bf16."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from steps.arm import ArmSpec
from steps.rounds import Arm, Say

OVER_SPREAD, ROUNDING = 1.2, 1e-5
"""How much further than two layouts without sharing a trace with sharing may be; and what fp32 rounds."""


def traces(specs: Sequence[ArmSpec], steps: int, seconds: float, say: Say) -> dict[str, Any]:
    """Losses by arm, one arm after another; what does not fit into `seconds` is left out (said).

    Returns:
        `losses` by arm; `spread`: the largest distance of two layouts without sharing; `distance`: the largest
        of ours from the nearer of them; `passes`.
    """
    until = time.monotonic() + seconds
    losses: dict[str, list[float]] = {}
    took = 0.0
    for spec in specs:
        if losses and time.monotonic() + took > until:
            say(f"traces: no time left for {spec.name}")
            continue
        began = time.monotonic()
        arm = Arm(spec)
        try:
            report = arm.run(steps)
        finally:
            arm.stop()
        took = time.monotonic() - began
        if "error" in report:
            say(f"traces: {spec.name}: {report['error']}")
            continue
        losses[spec.name] = report["losses"]
        say(f"traces: {spec.name}: {report['losses'][0]:.4f} to {report['losses'][-1]:.4f}, {took:.0f} s")
    result: dict[str, Any] = {"losses": losses}
    ours, unshared = "dress", ["dress, sharing off", "plain HF padded"]
    if all(name in losses for name in (ours, *unshared)):
        one, two = (losses[name] for name in unshared)
        result["spread"] = max(abs(a - b) for a, b in zip(one, two, strict=True))
        result["distance"] = max(min(abs(a - b), abs(a - c)) for a, b, c in zip(losses[ours], one, two, strict=True))
        result["passes"] = result["distance"] <= OVER_SPREAD * result["spread"] + ROUNDING
    return result
