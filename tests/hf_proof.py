"""A model of transformers over token trees, beside the same model on each sequence by itself."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import SIZES
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from dress import config
from dress.dialogue.batch import Example, Forest, collate
from dress.dialogue.encode import IMAGE, EncodedDialogue
from dress.dialogue.image import Picture
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tree import build_tree
from dress.model.hf import HFLVLM
from dress.model.lvlm import LVLM
from dress.model.sampling import SamplingParams
from dress.model.session import ImageTokens, Prompt, Session

OWN_FP32 = {"qwen2_vl": 3e-7, "qwen2_5_vl": 3e-7, "qwen3_vl": 3e-7, "glm4v": 3e-7, "gemma4": 3e-7}
"""Families whose towers compute positions or norms in fp32, whatever the weights are in: bound of gradients in fp64."""
FP32 = {"gemma4": 5e-5}
"""Bounds of gradients in fp32 that are not 5e-6: Gemma 4's tower norms random weights four times a layer."""
BOUNDS = "fp64: loss 1e-12, gradients 1e-10 or 3e-7; fp32: loss 1e-6, gradients 5e-6, Gemma 4 5e-5"


def plain_model(folder: Path) -> Any:
    """The model's own class, in fp32."""
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    plain.generation_config.pad_token_id = 0
    return plain


def png(size: tuple[int, int], seed: int = 0) -> bytes:
    """A noisy picture of this width and height."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def drawn_adapters(model: LVLM) -> LVLM:
    """Adapters that change something: what they multiply by is zero at first."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def dialogues() -> list[SupervisedDialogue]:
    """A chain of two turns, a branch under a condition, and another question; with an image each."""
    first = (Span("user", "What is in the picture?"), Span("assistant", "A red dog.", 1.0))
    return [
        SupervisedDialogue("sft", (*first, Span("user", "Are you sure?"), Span("assistant", "Yes, it is.", 1.0))),
        SupervisedDialogue(
            "critique", (first[0], Span("condition", "Feedback: you forgot the cat."), Span("assistant", "Two.", 0.5))
        ),
        SupervisedDialogue("sft", (Span("user", "Where?"), Span("assistant", "In the grass\nof a park.", 2.0))),
    ]


@dataclass
class Proof:
    """One forest of two records, and its dialogues one by one with their pictures."""

    model: HFLVLM
    plain: Any
    forest: Forest
    rows: list[tuple[EncodedDialogue, Picture | None]]

    def on_trees(self) -> Tensor:
        """The loss of the forest."""
        return self.model(self.forest, self.forest.weight)[0]

    def on_rows(self) -> Tensor:
        """The loss of the dialogues, by the model's own forward pass on each."""
        total = torch.zeros((), dtype=torch.float64)
        for one, picture in self.rows:
            logits = self.plain(**inputs(self.plain, one, picture), use_cache=False).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(
                logits, torch.from_numpy(one.ids[1:]).clamp(min=0), reduction="none"
            )
            total = total + (nll.double() * torch.from_numpy(one.weights[1:])).sum()
        return total


def inputs(plain: Any, one: EncodedDialogue, picture: Picture | None) -> dict[str, Tensor]:
    """What the model's own forward pass takes of a dialogue."""
    place = torch.from_numpy(one.ids == IMAGE)[None]
    ids = torch.from_numpy(one.ids)[None].masked_fill(place, plain.config.image_token_id)
    dtype = next(plain.parameters()).dtype
    more = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in (picture.inputs if picture else {}).items()
    }
    kind = "token_type_ids" if plain.config.model_type == "gemma3" else "mm_token_type_ids"
    takes = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "gemma3", "gemma4"}
    if plain.config.model_type in takes:
        more[kind] = place.long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}


def proof(folder: Path, dtype: torch.dtype, attention: str = "nodes", **settings: Any) -> Proof:
    """Both models in this dtype, and what they are compared on."""
    model = HFLVLM(config.HFModel(kind="hf", name=str(folder), attention=attention, **settings)).to(dtype)
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").to(
        dtype
    )
    if dtype == torch.float64:
        in_fp64(model)
        in_fp64(plain)
    reader = model.reader()
    examples, rows = [], []
    for seed, size in enumerate(SIZES):
        picture = reader(png(size, seed), str(size))
        encoded = [model.encoder.supervised(one, "", picture.layout) for one in dialogues()]
        examples.append(Example([build_tree(encoded)], picture))
        rows += [(one, picture) for one in encoded]
    text = [
        model.encoder.supervised(SupervisedDialogue("sft", one.spans, image=False), "", None) for one in dialogues()
    ]
    examples.append(Example([build_tree(text)], None))
    rows += [(one, None) for one in text]
    (forest,) = collate(examples, 100_000).forests
    return Proof(model, plain, forest, rows)


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter that has one."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def in_fp64(model: torch.nn.Module) -> None:
    """Norms in fp64: transformers' own compute in fp32, whose rounding would hide what is proved."""
    for module in model.modules():
        if "RMSNorm" not in type(module).__name__:
            continue
        weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
        width = 8 if weight is None else len(weight)
        tried = torch.linspace(-1, 2, width, dtype=torch.float64)
        (shift,) = [
            shift for shift in ((0.0,) if weight is None else (0.0, 1.0))
            if torch.allclose(normed(tried, weight, shift, eps), module(tried).double(), rtol=1e-5, atol=1e-6)
        ]  # fmt: skip

        def forward(x: Tensor, weight: Any = weight, shift: float = shift, eps: float = eps) -> Tensor:
            return normed(x, weight, shift, eps)

        module.forward = forward


def normed(x: Tensor, weight: Tensor | None, shift: float, eps: float) -> Tensor:
    """x / rms(x) x (shift + weight)."""
    out = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return out if weight is None else out * (shift + weight)


def worst(one: dict[str, Tensor], two: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference of two models' gradients, and whose it is.

    The biases of keys get none where there are no rotary positions (a softmax does not change with them): what is
    there is rounding, and counts by the largest gradient.
    """
    names = one.keys() | {f"network.{name}" for name in two}
    largest = max(float(value.norm()) for value in two.values())
    errors = []
    for name in names:
        other = two.get(name.removeprefix("network."), torch.zeros(()))
        mine = one.get(name, torch.zeros_like(other))
        size = largest if name.endswith("k_proj.bias") else float(other.norm())
        errors.append((float((mine - other).norm()) / max(size, 1e-9 * largest), name))
    return max(errors)


def questions() -> list[Prompt]:
    """Two pictures and none, three questions, with and without a condition."""
    texts = ("What is in the picture?", "What is here now?", "Where?")
    conditions = ([], [Span("condition", "Feedback: good.")])
    return [
        Prompt((Span("user", text), *condition), image)
        for image in (0, 1, None)
        for text in texts
        for condition in conditions
    ]


def answers(folder: Path, tokens: int, turns: int, prompts: list[Prompt]) -> tuple[int, int]:
    """How many answers over some turns equal `generate` of the model's own class, and how many there are."""
    model, plain = HFLVLM(config.HFModel(kind="hf", name=str(folder))).eval(), plain_model(folder)
    pictures = [model.reader()(png(size, seed), "") for seed, size in enumerate(SIZES)]
    session, images = Session(model), ImageTokens(model, pictures)
    same = total = 0
    for _ in range(turns):
        tokens_of = session.answer(prompts, range(len(prompts)), images, SamplingParams(tokens))
        following = []
        for prompt, answer in zip(prompts, tokens_of, strict=True):
            ids = model.encoder.prompt(prompt.spans, images.layout(prompt.image)).ids
            one = inputs(
                plain, EncodedDialogue("", ids, ids * 0.0), None if prompt.image is None else pictures[prompt.image]
            )
            own = plain.generate(**one, max_new_tokens=tokens, do_sample=False)[0, len(ids) :].tolist()
            same, total = same + (own == answer), total + 1
            text = model.encoder.decode(answer)
            said = (Span("assistant", text, 0.0, text.finish_reason == "length"), Span("user", "And then?"))
            following.append(Prompt((prompt.spans[0], *said), prompt.image))
        prompts = following
    return same, total
