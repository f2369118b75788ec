"""Arithmetic of memory: what a rank holds of a model, by strategy, and what a step takes beside that.

A trained parameter is 16 bytes: fp32 weight, gradient and AdamW's two moments. A frozen matrix of a run in bf16 is two
bytes a parameter, in four bits (nf4, its scales quantised too) 4.127 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dress.model.lvlm import LVLM
from steps.flops import Sizes

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8
"""Bytes of a trained parameter."""
BF16, NF4 = 2.0, 4.127 / 8
"""Bytes of a frozen one."""
LOGITS, CONTEXT = 0.55e9, 1.5e9
"""Bytes: of a chunk of the head's logits, of CUDA's context and fragmentation."""
STREAM = 4
"""Bytes of a number that one layer hands to the next."""

Strategy = Literal["single", "ddp", "shard"]


@dataclass(frozen=True)
class Unit:
    """What is gathered at once: numbers that are trained, bytes of what is frozen."""

    trained: int
    frozen: float

    @property
    def weights(self) -> float:
        """Bytes of the whole unit."""
        return WEIGHT * self.trained + self.frozen


@dataclass(frozen=True)
class Model:
    """A decoder's layers, and all else: embeddings, head, projector, encoder."""

    layers: Sequence[Unit]
    root: Unit

    @property
    def trained(self) -> int:
        """Numbers."""
        return self.root.trained + sum(unit.trained for unit in self.layers)

    @property
    def weights(self) -> float:
        """Bytes."""
        return self.root.weights + sum(unit.weights for unit in self.layers)

    @property
    def layer(self) -> Unit:
        """The largest one."""
        return max(self.layers, key=lambda unit: unit.weights)


@dataclass(frozen=True)
class Rank:
    """Bytes of one rank: what it holds between steps, and what a step takes beside activations.

    Args:
        weights, moments: between steps.
        buckets: copies of gradients that DDP exchanges.
        gradients: until the optimiser's step.
        whole: gradients of a part of the model, or of all of it, before ranks have exchanged them.
        gathered: weights of other ranks, at the most.
    """

    weights: float
    moments: float
    buckets: float
    gradients: float
    whole: float
    gathered: float

    @property
    def held(self) -> float:
        """Between steps."""
        return self.weights + self.moments + self.buckets

    @property
    def step(self) -> float:
        """What a step takes beside activations."""
        return self.gradients + self.whole + self.gathered


def rank_of(model: Model, strategy: Strategy, ranks: int = 1, gather: str = "pass", passes: int = 1) -> Rank:
    """What one of so many ranks holds.

    Args:
        model: its sizes.
        strategy: `parallel.strategy`.
        ranks: that share the work.
        gather: `parallel.gather`.
        passes: forests of a step. Gradients are exchanged in the last: with several they are whole until then.
    """
    gradients, moments = GRADIENT * model.trained, MOMENTS * model.trained
    if strategy != "shard":
        return Rank(model.weights, moments, gradients if strategy == "ddp" else 0, gradients, 0, 0)
    whole = GRADIENT * (model.trained if passes > 1 else model.layer.trained)
    gathered = model.weights if gather == "step" else model.root.weights + model.layer.weights
    return Rank(model.weights / ranks, moments / ranks, 0, gradients / ranks, whole, gathered)


def of_model(model: LVLM) -> Model:
    """Sizes of a model as it is held and trained now."""
    place: dict[int, int] = {}
    for number, layer in enumerate(model.layers):
        place |= {id(parameter): number for parameter in layer.parameters()}
    trained, frozen = [0] * (len(model.layers) + 1), [0] * (len(model.layers) + 1)
    for parameter in model.parameters():
        where = place.get(id(parameter), -1)
        if parameter.requires_grad:
            trained[where] += parameter.numel()
        else:
            frozen[where] += parameter.numel() * parameter.element_size()
    *layers, root = (Unit(*one) for one in zip(trained, frozen, strict=True))
    return Model(layers, root)


@dataclass(frozen=True)
class Checkpoint:
    """A vision-language model by its sizes.

    Args:
        name: as it is called.
        text: of the language model, whose head is a matrix of its own.
        vision: parameters of the encoder.
        projector: parameters; always trained.
    """

    name: str
    text: Sizes
    vision: int
    projector: int

    def model(self, lora: int = 0, base: float = BF16) -> Model:
        """What is trained and what is frozen.

        Args:
            lora: rank, on all linear maps of the layers; 0 trains the whole language model.
            base: bytes of a frozen parameter of the layers; what stands outside of them is held in bf16.
        """
        text = self.text
        layer, words = text.body // text.layers, 2 * text.vocabulary * text.width
        keys = text.key_heads * text.head_width
        sides = 4 * text.width + 2 * (text.width + keys) + 3 * (text.width + text.inner)
        each = Unit(lora * sides, base * layer) if lora else Unit(layer, 0)
        root = Unit(self.projector + (0 if lora else words), BF16 * (self.vision + (words if lora else 0)))
        return Model([each] * text.layers, root)

    def kept(self, tokens: int, checkpointing: bool = True) -> float:
        """Bytes of activations of a forest: 12 numbers of a token's width and 4 of the MLP's in each layer, or with
        checkpointing in one, and what the layers hand on.
        """
        layer = (12 * self.text.width + 4 * self.text.inner) * BF16 * tokens
        if not checkpointing:
            return self.text.layers * layer
        return layer + self.text.layers * self.text.width * STREAM * tokens

    def total(self, rank: Rank, tokens: int) -> float:
        """Bytes of all that a rank holds in a step over a forest of so many tokens."""
        return rank.held + rank.step + self.kept(tokens) + LOGITS + CONTEXT


CHECKPOINTS = [
    Checkpoint("LLaVA-1.5-7B", Sizes(32, 4096, 11008, 32, 32, 32064), 304_000_000, 20_979_712),
    Checkpoint("LLaVA-1.5-13B", Sizes(40, 5120, 13824, 40, 40, 32064), 304_000_000, 31_467_520),
    Checkpoint("Qwen2.5-VL-7B", Sizes(28, 3584, 18944, 28, 4, 152064), 632_000_000, 44_575_744),
]
TOKENS = (4096, 8192, 16384, 32768)


def table(lora: int = 64) -> list[dict[str, float | str]]:
    """GB on one device for forests of TOKENS tokens, by checkpoint and how its base is held."""
    rows: list[dict[str, float | str]] = []
    for base, size in (("nf4", NF4), ("bf16", BF16)):
        for one in CHECKPOINTS:
            rank = rank_of(one.model(lora, size), "single")
            sums = {str(tokens): one.total(rank, tokens) / 1e9 for tokens in TOKENS}
            rows.append({"checkpoint": one.name, "trained": f"LoRA {lora}", "base": base, **sums})
    return rows


def sharded(ranks: int = 8) -> list[dict[str, float | str]]:
    """GB of each rank where the language model is trained in parts, fp32 as `parallel.strategy=shard` holds it."""
    rows: list[dict[str, float | str]] = []
    for one in CHECKPOINTS:
        model = one.model()
        rank, several = (rank_of(model, "shard", ranks, passes=passes) for passes in (1, 2))
        language = WEIGHT + GRADIENT + MOMENTS
        rows.append({
            "checkpoint": one.name, "all": language * (model.trained - one.projector) / 1e9,
            "held": (rank.held + GRADIENT * model.trained / ranks) / 1e9, "layer": model.layer.weights / 1e9,
            "root": model.root.weights / 1e9, "step": (rank.whole + rank.gathered) / 1e9,
            "several": (several.whole + several.gathered) / 1e9,
        })  # fmt: skip
    return rows
