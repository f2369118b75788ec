"""The same measurement on CUDA: 7B with LoRA, 1.5B and 360M in full."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from steps import results
from steps.arm import FOREST, ArmSpec
from steps.flops import Sizes
from steps.gate import compare
from steps.machine import Products, facts
from steps.models import ModelSpec
from steps.rounds import Arm, interleave
from steps.tuples import STD, Shape, unique_tokens

REFERENCE = "plain HF padded"
ROUNDS, STEPS = 5, 10
DATA_SHEET = 989e12
"""Dense bf16 operations per second of an H100 SXM."""


@dataclass(frozen=True)
class Case:
    """A model, how it is trained, and rows of TRL tuned's micro-batches."""

    name: str
    sizes: Sizes
    lora: int
    rows_at_once: int
    mfu: float  # of the data sheet, to be reached


CASES = [
    Case("SmolLM2-360M, full", Sizes(32, 960, 2560, 15, 5, 49152), 0, 16, 0.30),
    Case("Qwen2.5-1.5B, full", Sizes(28, 1536, 8960, 12, 2, 151936), 0, 16, 0.45),
    Case("Qwen2.5-7B, LoRA", Sizes(28, 3584, 18944, 28, 4, 152064), 16, 8, 0.50),
]
GROUPS = [["dress", "dress, sharing off"], ["dress", "TRL tuned"], ["dress", "TRL defaults"]]
"""Pairs: two optimisers and two models fit on one GPU beside each other."""


def main(out: Path) -> None:
    """All cases on both shapes of tuples; forests of FOREST tokens.

    Raises:
        SystemExit: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/train_step.py --gpu: expected a CUDA device, found none; nothing was measured")
    out.mkdir(parents=True, exist_ok=True)
    began, said = time.monotonic(), []

    def say(text: str) -> None:
        print(f"[{(time.monotonic() - began) / 60:5.1f} min] {text}", flush=True)
        said.append(text)

    figures: dict[str, Any] = {
        "commands": {"arms": "python benchmarks/train_step.py --gpu"}, "what": "random weights, forests of 16k tokens",
        "precision": "bf16 with fp32 weights", "machine": facts(torch.get_num_threads()), "said": {"arms": said},
        "reference": REFERENCE, "minutes": {}, "arms": {}, "products": {}, "gate": {}, "data_sheet": {},
    }  # fmt: skip
    for case in CASES:
        spec = ModelSpec(case.sizes, lora=case.lora)
        gates = _gate(replace(spec, sizes=replace(case.sizes, layers=2)), say)
        figures["gate"] |= {f"{case.name}: {arm}": one for arm, one in gates.items()}
        for label, shape in STD.items():
            _case(figures, f"{case.name}, {label}", case, spec, shape, gates, say)
            figures["minutes"]["arms"] = (time.monotonic() - began) / 60
            results.write(out / "gpu", figures)


def _gate(spec: ModelSpec, say: Any) -> dict[str, dict[str, Any]]:
    gates: dict[str, dict[str, Any]] = {}
    names = list(dict.fromkeys([REFERENCE, *(arm for group in GROUPS for arm in group)]))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            kept = Path(folder) / name.replace(" ", "-").replace(",", "")
            arm = Arm(ArmSpec(name, spec, STD["STD-256"], bf16=False, device="cuda", gate=kept))
            report = arm.run(1)
            arm.stop()
            there = (kept / "targets.txt").exists()
            gates[name] = compare(kept, Path(folder) / REFERENCE.replace(" ", "-")) if there else report
            say(f"gate: {name}: {'passes' if gates[name].get('passes') else f'DOES NOT PASS {gates[name]}'}")
    return gates


def _case(
    figures: dict[str, Any], name: str, case: Case, spec: ModelSpec, shape: Shape, gates: dict[str, Any], say: Any
) -> None:
    per_step = FOREST // unique_tokens(shape)
    rows = per_step * shape.answer * (shape.chain + shape.critiques)
    products = Products(case.sizes, FOREST, rows, torch.bfloat16, "cuda")
    measured = {}
    for number, group in enumerate(GROUPS):
        specs = [
            ArmSpec(arm, spec, shape, tuples=4 * per_step, per_step=per_step, device="cuda",
                    rows_at_once={"TRL tuned": case.rows_at_once, "TRL defaults": 8}.get(arm, 0))
            for arm in group
        ]  # fmt: skip
        one = interleave(specs, ROUNDS, STEPS, 3600, say, products.measure)
        measured |= {f"{number}/{arm}": m for arm, m in one.items()}
    table = results.figures(measured, GROUPS, shape, case.sizes, not case.lora, per_step, products.peak, gates)
    figures["products"][name], figures["arms"][name] = products.peak, table
    if "mfu" in (ours := table["dress"]):
        share = ours["mfu"] * products.peak / DATA_SHEET
        figures["data_sheet"][name] = share
        say(f"{name}: {share:.1%} of the data sheet's 989 TFLOP/s, to be reached {case.mfu:.0%}")
