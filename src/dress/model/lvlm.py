"""The large vision-language model: encoder, projector and language model, and its loss per token.

Shapes: B rows, S tokens, D width, N images, V image tokens, T tokens and E entries of a forest (dialogue.batch).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.config.targets import PROJECTOR, build
from dress.dialogue.batch import Forest
from dress.dialogue.encode import IMAGE, DialogueEncoder
from dress.kernels.fused import fuse
from dress.kernels.last_layer import prune_last_layer
from dress.model.attention import foreign_mask, plan
from dress.model.head import head_loss
from dress.model.language import build_language
from dress.model.vision import VisionEncoder

PARTS = ("vision", "projector", "language", "lora")


class LVLM(nn.Module):
    """Any OpenCLIP encoder, a projector, any causal LM.

    Args:
        settings: which ones.
        tokenizer: of the language model.
        max_tokens: longest dialogue that is trained on.
    """

    def __init__(self, settings: config.Model, tokenizer: PreTrainedTokenizerBase, max_tokens: int = 4096) -> None:
        super().__init__()
        self.vision = VisionEncoder(settings.vision)
        self.language = build_language(settings.language, len(tokenizer))
        self.pruned = prune_last_layer(self.language)
        self.fused = settings.fused
        if self.fused:
            fuse(self.language)
        embeddings: Any = self.language.get_input_embeddings()
        width = int(embeddings.weight.shape[1])
        self.projector = build(settings.projector, "model.projector", PROJECTOR, self.vision.width, width)
        self.encoder = DialogueEncoder(tokenizer, settings.language.chat, self.vision.num_tokens, max_tokens)
        self.attention = settings.attention
        self.rounded: tuple[str, ...] = ()
        text: Any = self.language.config.get_text_config()
        self.softcap: float | None = getattr(text, "final_logit_softcapping", None)
        self._unused = {
            name for name, p in self.named_parameters() if name.startswith("vision") and not p.requires_grad
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projector_weight.device

    @property
    def projector_weight(self) -> Tensor:
        """The projector's first parameter: its dtype is what images and features are cast to."""
        return next(self.projector.parameters())

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] to image tokens in the language model's space [N, V, D]."""
        return self.project(self.vision(pixels.to(self.projector_weight.dtype)))

    def project(self, features: Tensor) -> Tensor:
        """The tower's features [N, V, D_v] to image tokens in the language model's space [N, V, D].

        Raises:
            ValueError: the projector gives another number or width of tokens.
        """
        tokens = self.projector(features.to(self.projector_weight.dtype))
        expected = (*features.shape[:2], self.language.get_input_embeddings().embedding_dim)
        if tokens.shape != expected:
            raise ValueError(
                f"model.projector: expected {list(expected)} (images, tokens, width of the language model) of features "
                f"{list(features.shape)}, got {list(tokens.shape)}"
            )
        return tokens

    def embed(self, ids: Tensor, images: Tensor | None, image: Tensor) -> Tensor:
        """Token embeddings [B, S, D], with images' tokens where `ids` says IMAGE.

        Args:
            ids: [B, S].
            images: [N, V, D] from `encode_images`.
            image: row of `images` for each run of image tokens in `ids`, in order.
        """
        embeddings = self.language.get_input_embeddings()(ids.clamp(min=0))
        if embeddings.dtype == torch.bfloat16 and self.projector_weight.dtype != torch.bfloat16:
            embeddings = embeddings.float()  # frozen in bf16; what the layers add to stays in fp32
        if images is None:
            return embeddings
        place = ids == IMAGE
        features = images[image]
        return embeddings.masked_scatter(place[..., None], features.to(embeddings.dtype))

    def forward(
        self, forest: Forest, factor: Tensor, touch: bool = False, likeliest: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum of factor x negative log-likelihood, and every entry's own [E] in nats, without gradient.

        Token trees need mask and positions together: positions alone are silently wrong in
        transformers, so both come from the forest and never from the caller.

        Args:
            forest: trees to learn.
            factor: [E], float64: what each entry's negative log-likelihood is multiplied by (objectives).
            touch: send a blank image, times zero, through what is trained of encoder and projector where the forest
                has no image, so that all ranks exchange the same gradients.
            likeliest: bool [E], written here: whether the model finds nothing more probable than the target.
        """
        images = self._image_tokens(forest)
        rows, where = torch.unique(forest.row, return_inverse=True)
        hidden = self.language.base_model(
            inputs_embeds=self.embed(forest.ids[None], images, forest.image),
            attention_mask=foreign_mask(forest.ids.device),
            position_ids=forest.depth[None],
            use_cache=False,
            plan=plan(forest, self.attention, rows, self.fused),
        ).last_hidden_state[0]
        hidden = hidden if self.pruned else hidden[rows]
        head: Any = self.language.get_output_embeddings()
        loss, nll = head_loss(hidden, head.weight, where, forest.target, factor, self.softcap, likeliest)
        if touch and images is None:
            loss = loss + 0 * self._blank_image().sum()
        return loss, nll

    def _blank_image(self) -> Tensor:
        """Image tokens [1, V, D] of nothing, through the parts of encoder and projector that are trained."""
        weight = self.projector_weight
        if any(p.requires_grad for p in self.vision.parameters()):
            size = self.vision.preprocessing["size"]
            height, width = (size, size) if isinstance(size, int) else size
            return self.encode_images(torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype))
        return self.project(torch.zeros(1, self.vision.num_tokens, self.vision.width, device=weight.device))

    def _image_tokens(self, forest: Forest) -> Tensor | None:
        if forest.features is not None:
            return self.project(forest.features)
        return self.encode_images(forest.pixels) if forest.pixels is not None else None

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to fp32 logits over the vocabulary."""
        head: Any = self.language.get_output_embeddings()
        logits = head(hidden).float()
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def part_of(self, name: str) -> str:
        """Which of `PARTS` a parameter belongs to."""
        if "lora_" in name:
            return "lora"
        return name.split(".", 1)[0]

    def set_trainable(self, parts: list[str]) -> None:
        """Train these parts and freeze the rest."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.part_of(name) in parts and name not in self._unused)

    def round(self, parts: Iterable[str]) -> None:
        """Round the matrices of parts that no stage trains to bf16, which is what training multiplies in bf16 anyway.

        Answers then come from the very weights that were trained with, and `hold_frozen` loses nothing.
        """
        self.rounded = tuple(sorted({*self.rounded, *parts}))
        for name, parameter in self._matrices():
            if self.part_of(name) in parts:
                parameter.data = parameter.data.bfloat16().to(parameter.dtype)

    def hold_frozen(self, dtype: torch.dtype) -> None:
        """Hold frozen matrices in `dtype` where that loses nothing: autocast then copies none of them.

        Args:
            dtype: bfloat16 to train; float32 brings them back.
        """
        for _, parameter in self._matrices():
            rounded = parameter.data.to(dtype)
            if not parameter.requires_grad and torch.equal(rounded.to(parameter.dtype), parameter.data):
                parameter.data = rounded

    def _matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Weights of linear layers, convolutions and embeddings, without the projector's and LoRA's."""
        kinds = (nn.Linear, nn.Conv2d, nn.Embedding, nn.MultiheadAttention)
        for place, module in self.named_modules():
            if isinstance(module, kinds) and place.startswith(("language.", "vision.")) and "lora_" not in place:
                for name, parameter in module.named_parameters(place, recurse=False):
                    if parameter.ndim > 1:
                        yield name, parameter

    def parameter_table(self) -> Iterator[tuple[str, int, int]]:
        """(part, parameters, trainable parameters) for every part that there is."""
        for part in PARTS:
            sizes = [(p.numel(), p.requires_grad) for name, p in self.named_parameters() if self.part_of(name) == part]
            if sizes:
                yield part, sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)
