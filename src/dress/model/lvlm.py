"""The large vision-language model over token trees: its loss per token, and what its parts are.

Shapes: B rows, S tokens, D width, N images, V image tokens of all of them, T tokens and E entries of a forest
(dialogue.batch), P numbers of a position, U rows that predict something.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from math import prod
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from dress.data.images import MAX_ASPECT
from dress.dialogue.batch import Forest, ImageBatch
from dress.dialogue.encode import IMAGE, DialogueEncoder
from dress.model.attention import Blocks, Plan, plan
from dress.model.cache import Decoding, Prefill
from dress.model.pictures import PictureReader
from dress.model.quantization import QuantizedLinear, originals
from dress.model.states import States

PARTS = ("vision", "projector", "language", "lora")
P = ParamSpec("P")
R = TypeVar("R")


def in_its_precision(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Let a method of a model that holds matrices in bf16 multiply in bf16, whoever calls it."""

    @wraps(method)
    def compute(self: LVLM, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self.computes_in_bf16:
            return method(self, *args, **kwargs)
        with torch.autocast(self.device.type, torch.bfloat16):
            return method(self, *args, **kwargs)

    return compute


class LVLM(nn.Module, ABC):
    """A vision-language model: how its images become tokens and its tokens hidden states is for each kind to say.

    Attributes:
        encoder: dialogues to tokens.
        attention: how token trees attend (`model.attention`).
        fused: whether hand-written kernels serve.
        pruned: whether the last layer gives the rows of a plan only.
        blocks: in which layers image tokens of a block see each other.
        softcap: of the logits.
        axes: P.
        wide: parameters that are never held in less than fp32.
        rounded: parts whose matrices have bf16 values.
        computes_in_bf16: whether these are held in bf16, and products computed in it.
        replaced: names of the classes for which hand-written ones serve.
    """

    encoder: DialogueEncoder
    attention: str
    fused: bool
    pruned: bool
    blocks: Blocks = "all"
    softcap: float | None
    axes: int = 1
    wide: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.rounded: tuple[str, ...] = ()
        self.computes_in_bf16 = False
        self.replaced: list[str] = []
        self._unused: set[str] = set()

    # --- what each kind of model says ---

    @property
    @abstractmethod
    def text_config(self) -> Any:
        """transformers' configuration of the language model."""

    @property
    @abstractmethod
    def language_model(self) -> nn.Module:
        """What is computed for every token; its linear layers are packed for generation."""

    @property
    @abstractmethod
    def embeddings(self) -> nn.Module:
        """Ids to what the first layer takes of them."""

    @property
    @abstractmethod
    def head(self) -> nn.Linear:
        """The output head, [vocabulary, D]."""

    @property
    @abstractmethod
    def projector_weight(self) -> Tensor:
        """The projector's first parameter: its dtype is what images and features are cast to."""

    @abstractmethod
    def reader(self, images: str = "exact", max_aspect: float = MAX_ASPECT) -> PictureReader:
        """What reads images for this model.

        Args:
            images: `fast` or `exact` (`data.images`).
            max_aspect: longer side ÷ shorter side of an image, at most.
        """

    @abstractmethod
    def encode_images(self, images: ImageBatch) -> Tensor:
        """Image tokens [V, D_i] of images, in their order; D_i is what `hidden` takes."""

    @abstractmethod
    def hidden(self, ids: Tensor, images: Tensor | None, positions: Tensor, plan: Plan | Prefill | Decoding) -> Tensor:
        """Hidden states before the head, [B, S, D], or [B, U, D] where the last layer is pruned.

        Args:
            ids: [B, S]; IMAGE for image tokens.
            images: [V, D_i], in the order in which they stand in `ids`.
            positions: [P, B, S].
            plan: how tokens attend.
        """

    @abstractmethod
    def blank_images(self) -> Tensor:
        """Image tokens of nothing, through the parts of encoder and projector that are trained."""

    @abstractmethod
    def resize_note(self, images: Iterable[bytes], max_aspect: float) -> str | None:
        """A sentence on what of these images the encoder does not see; None where there is nothing to say."""

    @abstractmethod
    def checkpoint_activations(self, on: bool) -> None:
        """Compute activations of the language model again in the backward pass, or keep them."""

    @abstractmethod
    def part_of(self, name: str) -> str:
        """Which of `PARTS` a parameter belongs to."""

    @abstractmethod
    def image_facts(self, images: str) -> dict[str, str]:
        """All that stored features depend on, beside their own type: features are used with these facts only.

        Args:
            images: how images are decoded and resized (`data.images`).
        """

    # --- what follows ---

    def facts(self) -> dict[str, Any]:
        """What was found out with the numbers of weights, as plain data: a model without them is told it."""
        return {
            "replaced": self.replaced, "unused": self._unused, "rounded": self.rounded,
            "computes_in_bf16": self.computes_in_bf16,
        }  # fmt: skip

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers of the language model."""
        number = self.text_config.num_hidden_layers
        return next(
            one for name, one in self.named_modules()
            if isinstance(one, nn.ModuleList) and len(one) == number and self.part_of(f"{name}.") == "language"
        )  # fmt: skip

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projector_weight.device

    @in_its_precision
    def forward(
        self, forest: Forest, factor: Tensor, touch: bool = False, likeliest: Tensor | None = None,
        read: Callable[[States], tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Sum of factor x negative log-likelihood, and every entry's own [E] in nats, without gradient.

        Token trees need mask and positions together: positions alone are silently wrong in
        transformers, so both come from the forest and never from the caller.

        Args:
            forest: trees to learn.
            factor: [E], float64: what each entry's negative log-likelihood is multiplied by (objectives).
            touch: send a blank image, times zero, through what is trained of encoder and projector where the forest
                has no image, so that all ranks exchange the same gradients.
            likeliest: bool [E], written here: whether the model finds nothing more probable than the target.
            read: makes what is returned of the states, in place of that.
        """
        rows, where = torch.unique(forest.row, return_inverse=True)
        nothing = 0 * self.blank_images().sum() if touch and not forest.images else None
        with nullcontext() if nothing is None else self._beside_embeddings(nothing):
            hidden = self.hidden_rows(forest, rows)
        states = States(hidden, self.head.weight, where, forest.target, self.softcap)
        return states.loss(factor, likeliest) if read is None else read(states)

    @contextmanager
    def _beside_embeddings(self, nothing: Tensor) -> Iterator[None]:
        """Add a zero to what the first layer takes: its input needs a gradient then, as that of other ranks does."""
        hook = self.embeddings.register_forward_hook(lambda module, ids, embedded: embedded + nothing)
        try:
            yield
        finally:
            hook.remove()

    def hidden_rows(self, forest: Forest, rows: Tensor) -> Tensor:
        """Hidden states before the head [U, D] of some tokens of a forest.

        Args:
            forest: trees.
            rows: [U], the tokens' places, ascending.
        """
        positions = forest.depth.expand(self.axes, -1) if forest.positions is None else forest.positions
        tree_plan = plan(forest, self.attention, rows, self.fused, self.blocks)
        hidden = self.hidden(forest.ids[None], self._images(forest), positions[:, None], tree_plan)[0]
        return hidden if self.pruned else hidden[rows]

    def _images(self, forest: Forest) -> Tensor | None:
        """Image tokens of a forest [V, D_i], in the order in which they stand there."""
        if not forest.images:
            return None
        tokens: dict[int, Tensor] = {}
        for batch in forest.images:
            encoded = self.encode_images(batch)
            if forest.image == batch.numbers:
                return encoded
            tokens.update(zip(batch.numbers, encoded.split(batch.tokens), strict=True))
        return torch.cat([tokens[number] for number in forest.image])

    def images_by_tree(self, forest: Forest) -> dict[int, Tensor]:
        """Image tokens [V, D_i] of each tree of a forest that has any, by its number."""
        tokens = self._images(forest)
        if tokens is None:
            return {}
        trees, counts = forest.trees((forest.ids == IMAGE).nonzero()[:, 0]).unique_consecutive(return_counts=True)
        return dict(zip(trees.tolist(), tokens.split(counts.tolist()), strict=True))

    @in_its_precision
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to fp32 logits over the vocabulary."""
        logits = self.head(hidden).float()
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def set_trainable(self, parts: list[str]) -> None:
        """Train these parts and freeze the rest."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.part_of(name) in parts and name not in self._unused)

    def round(self, parts: Iterable[str]) -> None:
        """Round the matrices of parts that no stage trains to bf16, which is what training multiplies in bf16 anyway.

        Answers then come from the very weights that were trained with, and `hold_rounded` loses nothing.
        """
        self.rounded = tuple(sorted({*self.rounded, *parts}))
        for name, parameter in self._matrices():
            if self.part_of(name) in parts:
                parameter.data = parameter.data.bfloat16().to(parameter.dtype)

    def hold_rounded(self) -> None:
        """Hold rounded matrices in bf16, in half the memory: autocast then copies none of them."""
        self.computes_in_bf16 = bool(self.rounded)
        for name, parameter in self._matrices():
            if self.part_of(name) in self.rounded and name not in self.wide:
                parameter.data = parameter.data.bfloat16()

    def _matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Weights of linear layers, convolutions and embeddings, without the projector's and LoRA's."""
        kinds = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.MultiheadAttention)
        for place, module in self.named_modules():
            if isinstance(module, kinds) and not isinstance(module, QuantizedLinear):
                for name, parameter in module.named_parameters(place, recurse=False):
                    if parameter.ndim > 1 and self.part_of(name) in ("vision", "language"):
                        yield name, parameter

    def parameter_table(self) -> Iterator[tuple[str, int, int]]:
        """(part, parameters, trainable parameters) for every part that there is."""
        packed = {name: prod(shape) for name, (shape, _) in originals(self).items()}
        for part in PARTS:
            sizes = [
                (packed.get(name, p.numel()), p.requires_grad)
                for name, p in self.named_parameters()
                if self.part_of(name) == part
            ]
            if sizes:
                yield part, sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)
