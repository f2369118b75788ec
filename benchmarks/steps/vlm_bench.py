"""Vision-language models of transformers: our trees against the same model's own rows, gate first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor

from dress.dialogue.encode import EncodedDialogue
from dress.dialogue.tree import build_tree
from dress.kernels.precision import cpu_multiplies_bf16
from steps import rounds, vlm, vlm_results
from steps.arm import FOREST, ArmSpec
from steps.flops import SMOLLM2_135M, Sizes
from steps.gate import compare
from steps.machine import facts
from steps.tuples import TOY, Shape, make
from steps.vlm_arms import padded

REFERENCE, OURS, TRL = "plain HF padded", "dress", "TRL tuned"
OTHERS = ("TRL tuned", "dress, sharing off", "plain HF padded")
"""Timed beside ours, two by two: what two processes hold fits into a machine's memory."""
SHORT = Shape(question=20, answer=40, advice=16, critique=16)
"""Texts of the gate."""
SLICE = 4
"""Layers of the text model in the gate."""
AT_ONCE = 5000
"""Padded tokens of a tuple up to which all its rows at once are tried against one by one, on a CPU."""


@dataclass(frozen=True)
class Case:
    """A family, its pictures, and how large its parts are."""

    name: str
    family: str
    pictures: tuple[tuple[int, int], ...]
    sizes: Sizes = SMOLLM2_135M
    tower: vlm.Tower = vlm.SMALL_TOWER
    scale: int = 1


SMALL = {
    "llava": Case("LLaVA-1.5", "llava", ((640, 480),)),
    "smolvlm": Case("SmolVLM", "smolvlm", ((800, 600),)),
    "qwen2_5_vl": Case("Qwen2.5-VL", "qwen2_5_vl", ((644, 476), (1400, 1288))),
}
"""For two cores: a text model of SmolLM2-135M's shape, towers of four layers; pictures have their real tokens."""
REAL = {
    "llava": replace(
        SMALL["llava"], name="LLaVA-1.5-7B", sizes=Sizes(32, 4096, 11008, 32, 32, 32064),
        tower=vlm.Tower(1024, 4096, 24, 16),
    ),
    "smolvlm": replace(
        SMALL["smolvlm"], name="SmolVLM-2.2B", sizes=Sizes(24, 2048, 8192, 32, 32, 49280),
        tower=vlm.Tower(1152, 4304, 27, 16),
    ),
    "qwen2_5_vl": replace(
        SMALL["qwen2_5_vl"], name="Qwen2.5-VL-7B", sizes=Sizes(28, 3584, 18944, 28, 4, 152064),
        tower=vlm.Tower(1280, 3420, 32, 16),
    ),
}  # fmt: skip
"""For CUDA: the shapes of real checkpoints (SmolVLM in tiles of 512 pixels as its smaller ones have them)."""
TINY = {"sizes": Sizes(2, 64, 96, 4, 2, 160), "tower": vlm.Tower(32, 48, 2, 2), "scale": 4}


@dataclass(frozen=True)
class Options:
    """Of the command line."""

    models: Sequence[str]
    trained: str
    minutes: float
    threads: int
    out: Path
    arms: Sequence[str] | None = None
    smoke: bool = False
    gpu: bool = False
    command: str = ""


class VLMBench:
    """One run over some models."""

    def __init__(self, options: Options) -> None:
        if options.gpu and not torch.cuda.is_available():
            raise SystemExit("benchmarks/train_step.py --gpu: expected a CUDA device, found none; nothing was measured")
        self.options, self.began = options, time.monotonic()
        torch.set_num_threads(options.threads)
        self.device = "cuda" if options.gpu else "cpu"
        self.bf16 = options.gpu or (not options.smoke and cpu_multiplies_bf16())
        self.seconds = 60 * options.minutes
        self.file = (options.out / "gpu" if options.gpu else options.out) / "vlm_step.json"
        self.notes: list[str] = []
        names = list(options.arms or OTHERS)
        self.others = [name for name in OTHERS if name in names and (name != TRL or find_spec("trl"))]
        if TRL in names and TRL not in self.others:
            self.say("TRL is not installed: its arm is left out (make bench installs it)", note=True)
        self.out = vlm_results.opened(
            self.file,
            {"machine": facts(options.threads), "precision": "bf16, trained weights fp32" if self.bf16 else "fp32"},
        )

    def say(self, text: str, note: bool = False) -> None:
        """Print with the time; `note` keeps it for the results."""
        print(f"[{(time.monotonic() - self.began) / 60:5.1f}/{self.seconds / 60:.0f} min] {text}", flush=True)
        if note or any(word in text for word in ("instead of", "not quiet", "without it")):
            self.notes.append(text)

    def run(self) -> bool:
        """All models; True if every arm learned the same."""
        waiting = [(name, number) for name in self.options.models for number in range(len(self.case(name).pictures))]
        passes = True
        for name in self.options.models:
            case = self.case(name)
            with tempfile.TemporaryDirectory() as folder:
                gates = self.gate(case, Path(folder))
                passes &= all(one["passes"] for one in gates.values())
                self.say(f"{case.name}: writing the model")
                written = vlm.write(
                    Path(folder) / "whole", case.family, case.sizes, case.tower, case.scale, self.device
                )
                for picture in case.pictures:
                    weights = [self.case(one).pictures[n][0] for one, n in waiting]  # wide pictures, long steps
                    left = self.seconds - (time.monotonic() - self.began)
                    self.notes = []
                    self.measure(case, written, picture, gates, left * weights[0] / sum(weights))
                    waiting.pop(0)
        self.say(f"results: {self.file} and .md; every arm learns the same: {passes}")
        return passes

    def case(self, name: str) -> Case:
        case = (REAL if self.options.gpu else SMALL)[name]
        if not self.options.smoke:
            return case
        return replace(case, pictures=tuple((w // 8, h // 8) for w, h in case.pictures[:1]), **TINY)

    def spec(self, name: str, model: vlm.VLMModel, shape: Shape, **more: Any) -> ArmSpec:
        return ArmSpec(
            name, model, shape, threads=self.options.threads, **{"bf16": self.bf16, "device": self.device, **more}
        )

    def gate(self, case: Case, folder: Path) -> dict[str, dict[str, Any]]:
        """The first step of every arm in fp32, on the first layers, beside plain transformers on separate rows."""
        sizes = replace(case.sizes, layers=min(case.sizes.layers, SLICE))
        written = vlm.write(folder / "slice", case.family, sizes, case.tower, case.scale, self.device)
        model = vlm.VLMModel(case.family, written, self.options.trained)
        shape = vlm.shape(case.pictures[0], TOY if self.options.smoke else SHORT)
        gates: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys([REFERENCE, OURS, *self.others]):
            saved = folder / name.replace(" ", "-").replace(",", "")
            arm = rounds.Arm(self.spec(name, model, shape, bf16=False, gate=saved))
            report = arm.run(1)  # ends its process: what it has to say is in the folder
            arm.stop()
            if (saved / "targets.txt").exists():
                gates[name] = compare(saved, folder / REFERENCE.replace(" ", "-"))
            else:
                gates[name] = {"passes": False, "error": report.get("error", "no first step")}
            one = gates[name]
            line = f"loss {one['loss']:.1e}, gradient {one['gradient']:.1e}" if "loss" in one else one["error"]
            self.say(f"{case.name}: gate: {name}: {line}: {'passes' if one['passes'] else 'DOES NOT PASS'}")
        return gates

    def measure(
        self, case: Case, folder: Path, picture: tuple[int, int], gates: dict[str, dict[str, Any]], seconds: float
    ) -> None:
        """Interleaved rounds on pictures of one size, ours beside each of the others."""
        until = time.monotonic() + seconds
        shape = vlm.shape(picture, TOY if self.options.smoke else Shape())
        counted = tokens(folder, shape)
        label = f"{case.name}, {counted['image']} image tokens"
        model = vlm.VLMModel(case.family, folder, self.options.trained)
        per_step = max(1, FOREST // counted["tree"]) if self.options.gpu else 1
        more: dict[str, Any] = {"per_step": per_step, "tuples": 4 * per_step}
        self.say(f"{label}: rows hold {counted['rows'] / counted['tree']:.2f} times the tokens; {seconds / 60:.1f} min")
        at_once = 4 if self.options.gpu else self.rows_at_once(model, shape, counted)
        measured: dict[str, rounds.Measured] = {}
        for number, other in enumerate(self.others):
            specs = [
                self.spec(name, model, shape, rows_at_once=0 if name.startswith(OURS) else at_once, **more)
                for name in (OURS, other)
            ]
            part = (until - time.monotonic()) / (len(self.others) - number)
            count, steps = (2, 1) if self.options.smoke else (5, 10 if self.options.gpu else 3)
            one = rounds.interleave(specs, count, steps, part, self.say, lambda: None)
            measured |= {f"{number}/{name}": figures for name, figures in one.items()}
        arms = vlm_results.figures(measured, OURS, self.others, gates)
        for name, one in arms.items():
            if "slower" in one:
                s = one["slower"]
                self.say(f"{label}: {name} takes {s['ratio']:.2f} [{s['low']:.2f}, {s['high']:.2f}] times as long")
        self.out["cases"][f"{label}, {self.options.trained}"] = {
            "model": asdict(case) | {"tuples_per_step": per_step}, "trained": vlm.PARTS[self.options.trained],
            "picture": picture, "tokens": counted, "rows_at_once": at_once, "gate": gates, "arms": arms,
            "command": self.options.command, "notes": list(dict.fromkeys(self.notes)),
        }  # fmt: skip
        vlm_results.write(self.file, self.out)

    def rows_at_once(self, model: vlm.VLMModel, shape: Shape, counted: dict[str, int]) -> int:
        """Rows of a micro-batch for the peers: one, or (0) all of a tuple where that was tried and is faster."""
        if self.options.smoke or counted["padded"] > AT_ONCE or TRL not in self.others:
            return 1
        took = {}
        for size in (1, 0):
            arm = rounds.Arm(self.spec(TRL, model, shape, rows_at_once=size))
            reports = [arm.run(1), arm.run(1)]
            arm.stop()
            took[size] = reports[-1]["seconds"][-1] if "seconds" in reports[-1] else float("inf")
        self.say(f"a step of {TRL}: row by row {took[1]:.1f} s, all rows at once {took[0]:.1f} s", note=True)
        return min(took, key=lambda size: took[size])


def tokens(folder: Path, shape: Shape) -> dict[str, int]:
    """Tokens of a tuple's image, of its rows without and with padding, and of its tree."""
    processor = AutoProcessor.from_pretrained(folder)
    one = make(shape, 0)
    out = padded(processor, [(row, one.picture) for row in vlm.messages(one)])
    rows = [ids[mask.bool()].numpy() for ids, mask in zip(out["input_ids"], out["attention_mask"], strict=True)]
    tree = build_tree([EncodedDialogue("row", row, np.zeros(len(row))) for row in rows])
    image = int((rows[0] == processor.image_token_id).sum())
    return {"image": image, "tree": len(tree), "rows": sum(map(len, rows)), "padded": out["input_ids"].numel()}
