"""A vision-language model composed of an encoder, a projector and any causal language model.

Shapes as in `model.lvlm`; D_v is the width of the encoder, V_v its tokens per image, V_p those of the projector.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.config.targets import PROJECTOR, build
from dress.data.images import MAX_ASPECT
from dress.data.pixels import Pixels, resize_note, size_of
from dress.dialogue.batch import ImageBatch
from dress.dialogue.encode import IMAGE, DialogueEncoder
from dress.kernels.fused import fuse
from dress.kernels.last_layer import prune_last_layer
from dress.model.attention import Plan, foreign_mask
from dress.model.cache import Decoding, Prefill
from dress.model.chats import language_chat
from dress.model.language import build_language
from dress.model.lvlm import LVLM, in_its_precision
from dress.model.pictures import FixedReader
from dress.model.projector import PixelShuffle, Pooling, load_projector
from dress.model.skeleton import Form, without_numbers
from dress.model.vision import VisionEncoder


class ComposedLVLM(LVLM):
    """Encoder, projector and language model.

    Args:
        settings: which ones.
        tokenizer: of the language model.
        max_tokens: longest dialogue that is trained on.
        form: of the same model with weights, where this one is to have none.
    """

    def __init__(
        self,
        settings: config.ComposedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int = 4096,
        form: Form | None = None,
    ) -> None:
        super().__init__()
        facts = None if form is None else form.facts
        with without_numbers(form):
            self.vision = VisionEncoder(settings.vision, facts and facts["preprocessing"])
            self.language = build_language(settings.language, len(tokenizer), settings.quantize)
            self.pruned = prune_last_layer(self.language)
            self.fused = settings.fused
            if self.fused:
                self.replaced = fuse(self.language, facts and facts["replaced"])
            embeddings: Any = self.language.get_input_embeddings()
            width = int(embeddings.weight.shape[1])
            self.projector = build(settings.projector, "model.projector", PROJECTOR, self.vision.width, width)
            if settings.projector_weights is not None and form is None:
                load_projector(self.projector, settings.projector_weights)
            self.image_tokens = self._probe_projector()
        self.encoder = DialogueEncoder(tokenizer, language_chat(settings.language, tokenizer), max_tokens)
        self.attention = settings.attention
        self.softcap = getattr(self.text_config, "final_logit_softcapping", None)
        self._unused = {
            name for name, p in self.named_parameters() if name.startswith("vision") and not p.requires_grad
        }

    def facts(self) -> dict[str, Any]:
        """See `LVLM.facts`."""
        return {**super().facts(), "preprocessing": self.vision.preprocessing}

    @property
    def text_config(self) -> Any:
        """transformers' configuration of the language model."""
        return self.language.config.get_text_config()

    @property
    def language_model(self) -> nn.Module:
        """The language model, with its head."""
        return self.language

    @property
    def embeddings(self) -> nn.Module:
        """See `LVLM.embeddings`."""
        embeddings: nn.Module = self.language.get_input_embeddings()
        return embeddings

    @property
    def head(self) -> nn.Linear:
        """The output head, [vocabulary, D]."""
        head: Any = self.language.get_output_embeddings()
        return head

    def embed(self, ids: Tensor) -> Tensor:
        """Ids [...] as the language model takes them, [..., D]."""
        embedded: Tensor = self.embeddings(ids)
        return embedded

    @property
    def projector_weight(self) -> Tensor:
        """The projector's first parameter: its dtype is what images and features are cast to."""
        return next(self.projector.parameters())

    def reader(self, images: str = "exact", max_aspect: float = MAX_ASPECT) -> FixedReader:
        """See `LVLM.reader`."""
        pixels = Pixels(self.vision.preprocessing, self.vision.transform, images, max_aspect)
        return FixedReader(pixels, self.image_tokens)

    @in_its_precision
    def encode_images(self, images: ImageBatch) -> Tensor:
        """See `LVLM.encode_images`; `pixels` [N, 3, H, W], or stored `features` [N x V_v, D_v]."""
        if "features" in images.inputs:
            return self.project(images.inputs["features"].unflatten(0, (len(images.numbers), -1))).flatten(0, 1)
        return self.project(self.vision(images.inputs["pixels"].to(self.projector_weight.dtype))).flatten(0, 1)

    def project(self, features: Tensor) -> Tensor:
        """The tower's features [N, V_v, D_v] to image tokens in the language model's space [N, V_p, D].

        Raises:
            ValueError: the projector gives another number or width of tokens.
        """
        tokens: Tensor = self.projector(features.to(self.projector_weight.dtype))
        self._check_tokens(tokens, features, self.image_tokens)
        return tokens

    def _check_tokens(self, tokens: Tensor, features: Tensor, number: int | str) -> None:
        expected = [len(features), number, self.language.get_input_embeddings().embedding_dim]
        if list(tokens.shape) != expected:
            raise ValueError(
                f"model.projector: expected {expected} (images, tokens, width of the language model) of features "
                f"{list(features.shape)}, got {list(tokens.shape)}"
            )

    def _probe_projector(self) -> int:
        """V_p, by the features of one image that are all zero.

        Raises:
            ValueError: it takes no such number of tokens, or gives no tokens of the language model's width.
        """
        height, width = size_of(self.vision.preprocessing)
        if isinstance(self.projector, PixelShuffle | Pooling) and height != width:
            raise ValueError(f"model.projector: expected square images for squares of tokens, got {width} x {height}")
        if next(self.projector.parameters(), None) is None:
            raise ValueError(f"model.projector: expected a module with weights, got {type(self.projector).__name__}")
        weight, training = self.projector_weight, self.projector.training
        features = torch.zeros(1, self.vision.num_tokens, self.vision.width, device=weight.device, dtype=weight.dtype)
        self.projector.eval()  # no statistic of it is changed
        try:
            with torch.no_grad():
                tokens = self.projector(features)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(f"model.projector: refuses features {list(features.shape)} of an image: {error}") from None
        self.projector.train(training)
        number = tokens.shape[1] if tokens.ndim == 3 else 0
        self._check_tokens(tokens, features, number or "1 or more")
        return number

    @in_its_precision
    def hidden(self, ids: Tensor, images: Tensor | None, positions: Tensor, plan: Plan | Prefill | Decoding) -> Tensor:
        """See `LVLM.hidden`."""
        embeddings = self.embed(ids.clamp(min=0))
        if embeddings.dtype == torch.bfloat16 and self.projector_weight.dtype != torch.bfloat16:
            embeddings = embeddings.float()  # frozen in bf16; what the layers add to stays in fp32
        if images is not None:
            embeddings = embeddings.masked_scatter((ids == IMAGE)[..., None], images.to(embeddings.dtype))
        return self.language.base_model(
            inputs_embeds=embeddings, attention_mask=foreign_mask(ids.device), position_ids=positions[0],
            use_cache=False, plan=plan,
        ).last_hidden_state  # fmt: skip

    @in_its_precision
    def blank_images(self) -> Tensor:
        """Image tokens [1, V, D] of nothing, through the parts of encoder and projector that are trained."""
        weight = self.projector_weight
        if any(p.requires_grad for p in self.vision.parameters()):
            height, width = size_of(self.vision.preprocessing)
            blank = torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)
            return self.project(self.vision(blank))
        return self.project(torch.zeros(1, self.vision.num_tokens, self.vision.width, device=weight.device))

    def resize_note(self, images: Iterable[bytes], max_aspect: float) -> str | None:
        """See `LVLM.resize_note`."""
        return resize_note(images, self.vision.preprocessing, max_aspect)

    def checkpoint_activations(self, on: bool) -> None:
        """See `LVLM.checkpoint_activations`."""
        self.language.train()  # transformers checkpoints no layer that only evaluates; dropout was refused
        if on:
            self.language.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.language.activation_checkpointing_disable()

    def part_of(self, name: str) -> str:
        """Which of `PARTS` a parameter belongs to."""
        if "lora_" in name:
            return "lora"
        return name.split(".", 1)[0]

    def image_facts(self, images: str) -> dict[str, str]:
        """See `LVLM.image_facts`."""
        return self.vision.facts(images)
