"""Training steps: ours against TRL and plain transformers, and where the difference comes from.

    make bench         # at most 30 minutes on 2 quiet cores: SmolLM2-135M's shape, random weights
    make bench-full    # everything: the whole sweep, the gate at full depth, more rounds; hours
    make bench-gpu-peers    # on CUDA
    python benchmarks/train_step.py --smoke --out /tmp/bench    # seconds, a toy; no figures to quote

1. Gate: the first step of every arm in fp32. Same targets (context, token, weight), loss within 1e-5, every
   gradient within 1e-4 of plain transformers' on separate rows; an arm that fails prints no ratio.
2. Arms, each its own trainer in its own process, interleaved: same weights, ids, trained parts, optimiser; one
   tuple per step. Ratios are paired by round. MFU is the floor of operations (benchmarks/steps/flops.py) ÷ time
   ÷ matrix products of the model's shapes measured in the same run.
3. Split: where a step's time goes. Ladder: one switch after another. Sweep: where sharing pays and where it
   loses. Traces: 20 steps of losses.

`--model llava smolvlm qwen2_5_vl` measures vision-language models of transformers instead (steps/vlm_bench.py):
ours over trees, the same model's own rows in TRL and in a plain loop; results/vlm_step.{json,md}.

Results: benchmarks/results/train_step.{json,md,svg}, written after each part. `--parts sweep traces` measures
some parts anew and keeps what the file has of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent / "tests", HERE.parent / "src", HERE):
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])

import dress  # noqa: E402, F401, I001 - first: sets how CPU threads wait
import torch  # noqa: E402

from dress.kernels.precision import cpu_multiplies_bf16  # noqa: E402
from steps import gpu, ladder, packing, results, rounds, split, sweep, traces, vlm, vlm_bench  # noqa: E402
from steps.arm import ArmSpec  # noqa: E402
from steps.arms import ARMS  # noqa: E402
from steps.flops import SMOLLM2_135M, Sizes  # noqa: E402
from steps.gate import compare  # noqa: E402
from steps.machine import Products, facts  # noqa: E402
from steps.models import ModelSpec  # noqa: E402
from steps.tuples import STD, TOY, Shape, unique_tokens  # noqa: E402

REFERENCE = "plain HF padded"
SLICE = 4
"""Layers of the slice that gate, sweep and traces use."""
SHORT = Shape(image=64, question=20, answer=40, advice=16, critique=16)
"""A quarter of STD-256, for the gate and the traces of `make bench`."""
GROUPS = [["dress", other] for other in ("dress, sharing off", "TRL tuned", "plain HF padded", "TRL defaults")]
"""Arms that are interleaved with one another, quick ones first: what they leave of the time is the slow ones'."""
PARTS = ("packing", "gate", "rows", "arms", "split", "ladder", "sweep", "traces")
SHARES = {"STD-256": 0.46, "together": 0.08, "STD-576": 0.24, "ladder": 0.06, "sweep": 0.05, "traces": 0.04}
"""Of the time of `make bench`; what one part leaves, the next ones do not take."""
TOGETHER = 4
"""Tuples of an optimiser step where its fixed costs are shared out."""
LARGEST = 0.25
"""Of the time of a shape, what one arm may take: one that was slower on the shape before is left out, and said."""


class Bench:
    """One run of the benchmark.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.monotonic()
        self.smoke, self.full = options.smoke, options.full
        self.bf16 = not self.smoke and cpu_multiplies_bf16()
        self.seconds = 60.0 * (10_000 if self.full else options.minutes)
        self.threads = options.threads
        torch.set_num_threads(self.threads)
        sizes = Sizes(2, 64, 96, 4, 2, 128) if self.smoke else SMOLLM2_135M
        tower = {"tower_width": 64, "tower_layers": 2} if self.smoke else {}
        self.model = ModelSpec(sizes, **tower)
        self.slice = replace(self.model, sizes=replace(sizes, layers=min(sizes.layers, SLICE)))
        self.shapes = {"toy": TOY} if self.smoke else {name: STD[name] for name in options.shapes}
        self.first = TOY if self.smoke else STD["STD-256"]
        self.names = list(dict.fromkeys(["dress", *(options.arms or ARMS)]))
        self.out: dict[str, Any] = {
            "commands": {}, "said": {}, "reference": REFERENCE,
            "what": "a toy, nothing to quote" if self.smoke else "SmolLM2-135M's shape, random weights, 1 tuple a step",
            "precision": "bf16 with fp32 weights" if self.bf16 else "fp32",
            "machine": facts(self.threads), "minutes": {},
        }  # fmt: skip
        self.part = "packing"
        if set(options.parts) < set(PARTS):
            self.keep_other_parts()
        if not find_spec("trl"):
            self.names = [name for name in self.names if not name.startswith("TRL")]
            self.say("TRL is not installed: its arms are left out (make bench installs it)")

    # --- the whole ---

    def run(self) -> bool:
        """The chosen parts; True if every arm learned the same."""
        for part in self.options.parts:
            self.part, began = part, time.monotonic()
            self.out["said"][part] = []
            self.out["commands"][part] = " ".join(["python benchmarks/train_step.py", *sys.argv[1:]])
            getattr(self, part)()
            self.out["minutes"][part] = (time.monotonic() - began) / 60
            self.save()
        for name, figures in self.out.get("targets", {}).items():
            value = "not measured" if figures["value"] is None else f"{figures['value']:.2f}"
            self.say(f"{name}: {value} (floor {figures['floor']:g}, aim {figures['aim']:g})", note=False)
        passes = all(one["passes"] for one in self.out.get("gate", {}).values())
        self.say(f"results: {self.options.out}/train_step.json, .md, .svg; every arm learns the same: {passes}", False)
        return passes

    def keep_other_parts(self) -> None:
        """Go on from the results that are there: what is not measured now stays."""
        file = self.options.out / "train_step.json"
        if not file.exists():
            return
        saved = json.loads(file.read_text(encoding="utf-8"))
        expected, got = ([one["what"], one["precision"], one["machine"]["cpu"]] for one in (self.out, saved))
        if expected != got:
            raise ValueError(
                f"{file}: expected results for {expected}, got {got}: measure all parts or name another --out"
            )
        self.out = saved

    def say(self, text: str, note: bool = True) -> None:
        """Print with the time; `note` keeps what is not the usual course for the results."""
        minutes = (time.monotonic() - self.began) / 60
        left = "" if self.full else f"/{self.seconds / 60:.0f}"
        print(f"[{minutes:5.1f}{left} min] {text}", flush=True)
        if note:
            self.out["said"].setdefault(self.part, []).append(text)

    def tell(self, text: str) -> None:
        """Progress, kept where it says that something was left out."""
        words = ("instead of", "not quiet", "no time", "its time", "without it")
        self.say(text, note=any(word in text for word in words))

    def left(self, part: str) -> float:
        """Seconds for a part: its share of the time of all that are measured, or what is left if that is less."""
        measured = [*self.options.parts, *((*self.shapes, "together") if "arms" in self.options.parts else ())]
        full_size = sum(SHARES.get(one, 0.0) for one in measured) or 1.0
        share = SHARES.get(part, 1.0) / min(1.0, full_size)
        return min(share * self.seconds, self.seconds - (time.monotonic() - self.began))

    def save(self) -> None:
        if table := self.out.get("arms", {}).get("STD-256" if not self.smoke else "toy"):
            self.out["targets"] = results.targets(table, self.first, self.out.get("rows", {}))
        results.write(self.options.out, self.out)

    def spec(self, name: str, model: ModelSpec, shape: Shape, **more: Any) -> ArmSpec:
        return ArmSpec(name, model, shape, threads=self.threads, **{"bf16": self.bf16, **more})

    # --- parts ---

    def packing(self) -> None:
        """Trees and forests, on one core."""
        self.out["packing"] = figures = packing.measure(64 if self.smoke else 512)
        self.say(
            f"trees and forests: {figures['tuples_per_second']:.0f} tuples/s per core, forests {figures['fill']:.1%} "
            f"full, sequences hold {figures['tokens']:.2f} times the tokens", note=False,
        )  # fmt: skip

    def gate(self) -> None:
        """Every arm's first step against plain transformers'."""
        full_size = self.full or self.smoke
        model, shape = (self.model, self.first) if full_size else (self.slice, SHORT)
        names = list(dict.fromkeys([REFERENCE, *self.names]))
        figures: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                saved = Path(folder) / name.replace(" ", "-").replace(",", "")
                arm = rounds.Arm(self.spec(name, model, shape, bf16=False, gate=saved))
                report = arm.run(1)  # ends its process: what it has to say is in the folder
                arm.stop()
                if (saved / "targets.txt").exists():
                    figures[name] = compare(saved, Path(folder) / REFERENCE.replace(" ", "-"))
                else:
                    figures[name] = {"passes": False, "error": report.get("error", "no first step")}
                one = figures[name]
                line = f"loss {one['loss']:.1e}, gradient {one['gradient']:.1e}" if "loss" in one else one["error"]
                self.say(f"gate: {name}: {line}: {'passes' if one['passes'] else 'DOES NOT PASS'}", not one["passes"])
        self.out["gate"] = figures
        self.save()

    def rows(self) -> None:
        """TRL tuned with all rows of a tuple at once, padded, or one by one: which is faster, and what each holds.
        Beside them ours with activation checkpointing, which nobody's arm has but TRL defaults."""
        self.out["rows"] = figures = {}
        if results.TUNED not in self.names:
            return
        ways = {
            **{way: {"name": results.TUNED, "rows_at_once": rows} for rows, way in enumerate(results.ROWS)},
            results.CHECKPOINTED: {"name": results.OURS, "checkpointing": True},
        }
        shape = self.first
        for way, changes in ways.items():
            arm = rounds.Arm(self.spec(model=self.model, shape=shape, **changes))
            arm.run(1)
            report = arm.run(1, fresh=True)
            arm.stop()
            if "seconds" in report:
                figures[way] = {
                    "step": report["seconds"][-1], "activations": report["peak"] - report["before"]
                }  # fmt: skip
        line = "; ".join(
            f"{way} {one['step']:.1f} s, {one['activations'] / 2**30:.2f} GiB" for way, one in figures.items()
        )
        self.say(f"a step of TRL tuned, of ours, and its activations: {line}", note=False)

    def arms(self) -> None:
        """Interleaved rounds of the arms on each shape of tuples."""
        groups = [[name for name in group if name in self.names] for group in GROUPS]
        groups = [group for group in groups if len(group) > 1] or [[results.OURS]]
        for name, shape in self.shapes.items():
            self.time_arms(name, shape, groups, self.left(name))
            if name != "STD-576" and {results.OURS, results.UNSHARED} <= set(self.names):
                self.time_together(shape)

    def time_together(self, shape: Shape) -> None:
        """Sharing against no sharing with more tuples in an optimiser step, in two forests each."""
        half, ratio = TOGETHER // 2 * unique_tokens(shape), results.ragged_ratio(shape)
        specs = [
            self.spec(name, self.model, shape, per_step=TOGETHER, forest=int(half * tokens))
            for name, tokens in ((results.OURS, 1.0), (results.UNSHARED, ratio))
        ]
        self.say(f"{TOGETHER} tuples per step: {', '.join(spec.name for spec in specs)}", note=False)
        count, steps = (2, 1) if self.smoke else (5, 1)
        figures = rounds.interleave(specs, count, steps, self.left("together"), self.tell, lambda: None)
        ours, other = (figures[spec.name] for spec in specs)
        self.out["together"] = {
            "per_step": TOGETHER, "step": {spec.name: figures[spec.name].step for spec in specs},
            "slower": rounds.paired(other.per_round, ours.per_round), "tokens": ratio,
        }  # fmt: skip

    def time_arms(self, name: str, shape: Shape, groups: list[list[str]], seconds: float) -> None:
        """Interleaved rounds on one shape of tuples."""
        supervised = shape.answer * (shape.chain + shape.critiques)
        products = Products(
            self.model.sizes, unique_tokens(shape), supervised, torch.bfloat16 if self.bf16 else torch.float32
        )
        measured: dict[str, rounds.Measured] = {}
        until = time.monotonic() + seconds
        groups = self.in_time(groups, name, seconds)
        for number, group in enumerate(groups):
            specs = [self.spec(arm, self.model, shape, rows_at_once=self.micro_batch(arm)) for arm in group]
            part = (until - time.monotonic()) / (len(groups) - number)
            count, steps = (2, 1) if self.smoke else (10, 10) if self.full else (5, 3)
            self.say(f"{name}: {', '.join(group)}; {part / 60:.1f} min", note=False)
            figures = rounds.interleave(specs, count, steps, part, self.tell, products.measure)
            measured |= {f"{number}/{arm}": one for arm, one in figures.items()}
        table = results.figures(
            measured, groups, shape, self.model.sizes, True, 1, products.peak, self.out.get("gate", {})
        )
        self.out.setdefault("products", {})[name] = products.peak
        self.out.setdefault("arms", {})[name] = table
        self.out.setdefault("sharing", {})[name] = {
            "tokens": results.ragged_ratio(shape), "operations": results.operations_ratio(shape, self.model.sizes)
        }  # fmt: skip
        for arm, one in table.items():
            if "slower" in one:
                s = one["slower"]
                self.say(f"{name}: ours is {s['ratio']:.2f} [{s['low']:.2f}, {s['high']:.2f}] times {arm}", note=False)
        self.save()

    def in_time(self, groups: list[list[str]], name: str, seconds: float) -> list[list[str]]:
        """Groups without the arms of which two warm-up and two measured steps would take too much of the time."""
        known = next(iter(self.out.get("arms", {}).values()), {})
        slow = [arm for arm, one in known.items() if 4 * one.get("step", 0) > LARGEST * seconds]
        for arm in slow:
            took = known[arm]["step"]
            self.say(f"{name}: no time for {arm}, whose step took {took:.0f} s before; make bench-full has it")
        saved = [[arm for arm in group if arm not in slow] for group in groups]
        return [group for group in saved if len(group) > 1]

    def micro_batch(self, arm: str) -> int:
        """Rows at once; plain transformers takes half of a tuple's, padded to its longest row: what memory holds."""
        if arm == results.TUNED:
            took = {way: one["step"] for way, one in self.out.get("rows", {}).items() if way in results.ROWS}
            return results.ROWS.index(min(took, key=took.__getitem__)) if took else 0
        return 3 if arm == REFERENCE else 0

    def split(self) -> None:
        """Where the time of our step goes, with sharing and without."""
        shape = self.first
        self.out["split"] = figures = split.split(self.model, shape, 1 if self.smoke else 5, self.bf16)
        self.say(f"profile: forward and backward pass {sum(figures['dress'].values()):.2f} s", note=False)
        self.save()

    def ladder(self) -> None:
        shape = self.first
        count = 2 if self.smoke else 5 if self.full else 3
        self.out["ladder"] = ladder.climb(self.model, shape, count, self.left("ladder"), self.bf16, self.tell)
        self.save()

    def sweep(self) -> None:
        chosen = [sweep.Cell(1, 0, 8), sweep.Cell(2, 16, 8)] if self.smoke else sweep.cells(self.full)
        count = 5 if self.full else 3
        figures = sweep.sweep(self.slice, chosen, count, self.left("sweep"), self.bf16, self.tell)
        self.out["sweep"] = figures
        self.save()

    def traces(self) -> None:
        shape = TOY if self.smoke else STD["STD-256"] if self.full else SHORT
        names = ["dress", "dress, sharing off", REFERENCE, "TRL tuned"]
        specs = [self.spec(name, self.slice, shape, tuples=4) for name in names if name in self.names]
        self.out["traces"] = traces.traces(specs, 3 if self.smoke else 20, self.left("traces"), self.tell)
        self.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--smoke", action="store_true", help="a toy, in seconds")
    kinds.add_argument("--full", action="store_true", help="everything, in hours")
    kinds.add_argument("--gpu", action="store_true", help="on CUDA")
    parser.add_argument("--arms", nargs="+", metavar="ARM", choices=list(ARMS), help="some of the arms only")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=PARTS, default=list(PARTS),
                        help=f"these only, the others as measured before: {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", choices=STD, default=list(STD),
                        help=f"of the arms' tuples, the others as measured before: {', '.join(STD)}")  # fmt: skip
    parser.add_argument("--model", nargs="+", metavar="MODEL", choices=list(vlm_bench.SMALL),
                        help=f"vision-language models of transformers: {', '.join(vlm_bench.SMALL)}")  # fmt: skip
    parser.add_argument("--trained", choices=list(vlm.PARTS), default="lora",
                        help="with --model: projector and LoRA (lora), or everything (all)")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=28, help="what all parts may take (28), without --full")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads (2)")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.model:
        chosen = {name: getattr(options, name) for name in ("trained", "minutes", "threads", "out", "smoke", "gpu")}
        command = " ".join(["python benchmarks/train_step.py", *sys.argv[1:]])
        run = vlm_bench.VLMBench(vlm_bench.Options(options.model, arms=options.arms, command=command, **chosen)).run
        raise SystemExit(0 if run() else 1)
    if options.gpu:
        gpu.main(options.out)
        return
    raise SystemExit(0 if Bench(options).run() else 1)


if __name__ == "__main__":
    main()
