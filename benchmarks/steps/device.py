"""What a machine with a GPU is asked first: a training step's time and MFU, and tokens of answers per second."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dress.dialogue.spans import Span
from dress.model.sampling import SamplingParams
from dress.model.session import ImageTokens, Prompt, Session
from steps import models, results
from steps.arm import FOREST, ArmSpec
from steps.flops import Sizes
from steps.machine import Memory, Products, clock
from steps.model_memory import LOGITS, Checkpoint, of_model, rank_of
from steps.models import ModelSpec
from steps.rounds import interleave
from steps.tuples import STD, TOY, Shape, Tuple, make, unique_tokens

DATA_SHEETS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "L4": 121e12}
"""Dense bf16 operations per second."""


@dataclass(frozen=True)
class Case:
    """A model, random weights of a real checkpoint's sizes, the tuples it learns, and the answers it gives.

    Args:
        name: as the results call it.
        spec: the model; LoRA and projector are trained.
        shape: of tuples.
        tuples: of an optimiser step, which fill a forest.
        answers: at once, four to a picture.
        new_tokens: of each.
    """

    name: str
    spec: ModelSpec
    shape: Shape
    tuples: int
    answers: int = 64
    new_tokens: int = 128

    @property
    def forest(self) -> int:
        """Tokens of a step's one forest."""
        return self.tuples * unique_tokens(self.shape)


TOWER = {"tower_width": 1024, "tower_layers": 24, "lora": 64, "on_device": True}
"""ViT-L/14 at 336 pixels: 576 tokens."""
LARGE = STD["STD-576"]
CASES = {
    "1.5B": Case(
        "Qwen2-1.5B's sizes, LoRA", ModelSpec(Sizes(28, 1536, 8960, 12, 2, 151936), **TOWER), LARGE,
        FOREST // unique_tokens(LARGE),
    ),
    "7B": Case(
        "LLaMA-7B's sizes, LoRA", ModelSpec(Sizes(32, 4096, 11008, 32, 32, 32064), tied=False, **TOWER), LARGE,
        FOREST // unique_tokens(LARGE),
    ),
}  # fmt: skip
_TINY = {"tower_width": 64, "tower_layers": 1, "lora": 4, "on_device": True}
TINY = {
    "1.5B": Case("a toy, tied", ModelSpec(Sizes(2, 64, 96, 4, 2, 128), **_TINY), TOY, 2, 8, 4),
    "7B": Case("a toy, untied", ModelSpec(Sizes(2, 64, 96, 4, 4, 128), tied=False, **_TINY), TOY, 2, 8, 4),
}  # fmt: skip


def step(case: Case, device: str, seconds: float, rounds: int = 5, steps: int = 4) -> dict[str, Any]:
    """Step time, MFU and memory of training, in a process of its own.

    Args:
        case: the model and its tuples.
        device: cpu or cuda.
        seconds: for the rounds; with fewer there are fewer.
        rounds, steps: wanted.

    Raises:
        RuntimeError: the process ended with an error.
    """
    bf16 = device == "cuda"
    supervised = case.tuples * case.shape.answer * (case.shape.chain + case.shape.critiques)
    dtype = torch.bfloat16 if bf16 else torch.float32
    products = Products(case.spec.sizes, case.forest, supervised, dtype, device)
    spec = ArmSpec(
        results.OURS, case.spec, case.shape, tuples=2 * case.tuples, per_step=case.tuples, device=device, bf16=bf16
    )
    measured = interleave([spec], rounds, steps, seconds, print, products.measure)
    if (error := measured[results.OURS].error) is not None:
        raise RuntimeError(error)
    of_groups = {f"0/{results.OURS}": measured[results.OURS]}
    table = results.figures(
        of_groups, [[results.OURS]], case.shape, case.spec.sizes, False, case.tuples, products.peak, {}
    )
    figures = table[results.OURS]
    sheet = data_sheet(device)
    return {
        "what": case.name, "forest": case.forest, "tuples": case.tuples, "step": figures["step"],
        "rounds": figures["rounds"], "tokens_per_second": case.forest / figures["step"],
        "supervised_per_second": figures["supervised"], "tuples_per_second": figures["tuples"], "mfu": figures["mfu"],
        "products": products.peak, "mfu_data_sheet": sheet and figures["mfu"] * products.peak / sheet,
        "loss": figures["loss"], "peak": figures["peak"],
        "predicted": [predicted(case, True), predicted(case, False)], "warm_up": figures["warm_up"],
        "parts": figures["parts"],
    }  # fmt: skip


def predicted(case: Case, checkpointing: bool) -> float:
    """Bytes that the arithmetic of model_memory gives for it, without CUDA's context."""
    text = case.spec.sizes
    width, tower = case.spec.tower_width, case.spec.tower_layers
    projector = width * text.width + text.width**2
    one = Checkpoint(case.name, text, 12 * tower * width**2, projector)
    rank = rank_of(one.model(case.spec.lora), "single")
    return rank.held + rank.step + one.kept(case.forest, checkpointing) + LOGITS


def collect(case: Case, device: str, seconds: float) -> dict[str, Any]:
    """Tokens of answers per second, reading included, as a collect stage draws them.

    Args:
        case: the model, how many answers, how long.
        device: cpu or cuda.
        seconds: after which no further round begins.
    """
    model = models.ours(case.spec, case.shape, device)
    if device == "cuda":
        model.hold_rounded()
    model.eval()
    held = of_model(model).weights
    tuples = [make(case.shape, number) for number in range(case.answers // 4)]
    pictures = [picture for one in tuples if (picture := models.picture(model, one)) is not None]
    prompts = [Prompt((Span("user", _question(tuples[i // 4])),), i // 4) for i in range(case.answers)]
    memory = Memory(device)
    memory.forget()

    def answer(new_tokens: int, seed: int) -> tuple[float, int]:
        began = clock(device)
        sampling = SamplingParams(new_tokens, temperature=1.0, seed=seed)
        images = ImageTokens(model, pictures)
        answers = Session(model).answer(prompts, range(len(prompts)), images, sampling)
        assert answers is not None
        return clock(device) - began, sum(map(len, answers))

    until = time.monotonic() + seconds
    answer(case.new_tokens, 0)  # compiles, allocates
    reading, rounds = [answer(1, 1)[0]], [answer(case.new_tokens, 1)]
    while time.monotonic() < until and len(rounds) < 5:
        reading.append(answer(1, len(rounds) + 1)[0])
        rounds.append(answer(case.new_tokens, len(rounds) + 1))
    rates = sorted(tokens / took for took, tokens in rounds)
    decoding = sorted(
        (tokens - case.answers) / (all_of - read) for (all_of, tokens), read in zip(rounds, reading, strict=True)
    )
    return {
        "what": case.name, "answers": case.answers, "new_tokens": case.new_tokens, "rounds": rounds,
        "tokens_per_second": rates[len(rates) // 2],
        "answers_per_second": case.answers / sorted(rounds)[len(rounds) // 2][0],
        "decoding_tokens_per_second": decoding[len(decoding) // 2], "reading": sorted(reading)[len(reading) // 2],
        "peak": memory.peak(), "weights": held,
    }  # fmt: skip


def _question(one: Tuple) -> str:
    """A tuple's question as text."""
    return " ".join(f"w{i}" for i in one.dialogues[0][0].ids)


def data_sheet(device: str) -> float | None:
    """Operations per second that the maker of the device promises; None where it is not known here."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((rate for kind, rate in DATA_SHEETS.items() if re.search(rf"\b{kind}\b", name)), None)


def equality(device: str, report: Path) -> list[str]:
    """Arguments of pytest for what must be equal before anything is timed.

    FlexAttention's gradients and dense attention's, and ranks under NCCL (two GPUs, or a group of one) against one
    process; on a CPU FlexAttention's forward pass and the same ranks under gloo.
    """
    attention, parallel = "tests/test_attention.py", "tests/test_parallel.py"
    chosen = {
        "cuda": ["-m", "gpu", attention, parallel],
        "cpu": ["-m", "", f"{attention}::test_flex_sees_what_dense_sees",
                f"{parallel}::test_ranks_on_devices_learn_what_one_process_does[cpu]"],
    }  # fmt: skip
    return ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen[device]]
