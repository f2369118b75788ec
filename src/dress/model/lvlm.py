"""The large vision-language model: encoder, projector and language model, and its loss per token.

Shapes: B rows, S tokens, D width, N images, V image tokens, E entries (see dialogue.batch.Forest).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.dialogue.batch import Forest
from dress.dialogue.encode import IMAGE, Encoder
from dress.model.language import build_language
from dress.model.projector import build_projector
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
        embeddings: Any = self.language.get_input_embeddings()
        width = int(embeddings.weight.shape[1])
        self.projector = build_projector(settings.projector.kind, self.vision.width, width)
        self.encoder = Encoder(tokenizer, settings.language.chat, self.vision.num_tokens, max_tokens)
        self._unused = {
            name for name, p in self.named_parameters() if name.startswith("vision") and not p.requires_grad
        }

    @property
    def device(self) -> torch.device:
        return self.projector_weight.device

    @property
    def projector_weight(self) -> Tensor:
        return next(self.projector.parameters())

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] to image tokens in the language model's space [N, V, D]."""
        return self.projector(self.vision(pixels.to(self.projector_weight.dtype)))

    def embed(self, ids: Tensor, images: Tensor | None, image: Tensor) -> Tensor:
        """Token embeddings [B, S, D], with images' tokens where `ids` says IMAGE.

        Args:
            ids: [B, S].
            images: [N, V, D] from `encode_images`.
            image: [B], row of `images` for each row of `ids`, or -1.
        """
        embeddings = self.language.get_input_embeddings()(ids.clamp(min=0))
        if images is None:
            return embeddings
        place = ids == IMAGE
        features = images[image[image >= 0]]
        return embeddings.masked_scatter(place[..., None], features.to(embeddings.dtype))

    def forward(self, forest: Forest) -> Tensor:
        """Negative log-likelihood [E] (fp32) of every entry's target, in nats.

        Token trees need mask and positions together: positions alone are silently wrong in
        transformers (PERFORMANCE §2), so both come from the forest and never from the caller.
        """
        images = self.encode_images(forest.pixels) if forest.pixels is not None else None
        hidden = self.language.base_model(
            inputs_embeds=self.embed(forest.ids, images, forest.image),
            attention_mask=forest.mask(),
            position_ids=forest.depth,
            use_cache=False,
        ).last_hidden_state
        rows, where = torch.unique(forest.row, return_inverse=True)
        logits = self.language.get_output_embeddings()(hidden.flatten(0, 1)[rows])
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        logp = F.log_softmax(logits.to(wide), dim=-1)
        return -logp[where, forest.target]

    def part_of(self, name: str) -> str:
        """Which of `PARTS` a parameter belongs to."""
        if "lora_" in name:
            return "lora"
        return name.split(".", 1)[0]

    def set_trainable(self, parts: list[str]) -> None:
        """Train these parts and freeze the rest."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.part_of(name) in parts and name not in self._unused)

    def parameter_table(self) -> Iterator[tuple[str, int, int]]:
        """(part, parameters, trainable parameters) for every part that there is."""
        for part in PARTS:
            sizes = [(p.numel(), p.requires_grad) for name, p in self.named_parameters() if self.part_of(name) == part]
            if sizes:
                yield part, sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)
