"""A vision-language model of transformers: its own classes, processor and template, over token trees.

Shapes as in `model.lvlm`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dress import config
from dress.data.images import MAX_ASPECT
from dress.dialogue.batch import ImageBatch
from dress.dialogue.encode import IMAGE, DialogueEncoder
from dress.kernels.fused import fuse
from dress.kernels.last_layer import prune_last_layer
from dress.model.attention import Plan, foreign_mask
from dress.model.cache import Decoding, Prefill
from dress.model.chats import hf_chat
from dress.model.hf_folder import check_hf, load_network, load_processor
from dress.model.hf_pictures import HFReader
from dress.model.hf_probe import refuse_unequal
from dress.model.language import add_lora
from dress.model.lvlm import LVLM, in_its_precision
from dress.model.quantization import quantize
from dress.model.reach import leaves
from dress.model.sharding import digest_of
from dress.model.skeleton import Form, without_numbers

PROVED = {
    "llava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "internvl", "mistral3", "qwen2_vl", "qwen2_5_vl",
    "qwen3_vl", "glm4v", "gemma3", "gemma4",
}  # fmt: skip
"""Kinds of models whose loss and gradients the tests compare with separate sequences; others are tried when built."""
PROJECTOR = re.compile(
    r"(?:^|\.)(?:multi_modal_projector|connector|embed_vision|image_newline|visual\.merger|visual\.deepstack_merger_list)"
)
"""Names of modules between the encoder and the language model."""


class HFLVLM(LVLM):
    """A checkpoint that `AutoModelForImageTextToText` reads.

    Args:
        settings: which one.
        max_tokens: longest dialogue that is trained on.
        form: of the same model with weights, where this one is to have none.

    Raises:
        ValueError: it cannot be loaded, has no processor, or is a kind of model that token trees do not represent.
    """

    def __init__(self, settings: config.HFModel, max_tokens: int = 4096, form: Form | None = None) -> None:
        super().__init__()
        facts = None if form is None else form.facts
        check_hf(settings)
        self.name = settings.name
        self.processor = load_processor(settings)
        with without_numbers(form):
            self.network = load_network(settings)
        decoder = self.decoder
        self.text_prefix = next(name for name, module in self.named_modules() if module is decoder) + "."
        parameters = inspect.signature(self.network.model.forward).parameters
        self._token_types = [name for name in ("mm_token_type_ids", "token_type_ids") if name in parameters]
        self._levels: int = 1 if facts is None else facts["levels"]
        self._nested: bool | None = None if facts is None else facts["nested"]
        self.network.get_input_embeddings().register_forward_hook(self._widen)
        if settings.quantize is not None:
            quantize(decoder, settings.quantize, f"model.name={settings.name}")
        if settings.lora is not None:
            with without_numbers(form):
                add_lora(decoder, settings.lora)
        self.pruned = prune_last_layer(decoder)
        self.fused = settings.fused
        if self.fused:
            self.replaced = fuse(decoder, facts and facts["replaced"])
        first = next(name for name, _ in self.network.model.named_parameters())
        self.wide = frozenset({f"network.model.{first}"})  # by it SmolVLM and Idefics3 know which type images have
        self.attention = settings.attention
        self.softcap = getattr(self.text_config, "final_logit_softcapping", None)
        self._reader = HFReader(self.processor, self.network.config, _accepted(self.network), settings.name)
        self.axes, self.blocks = self._reader.axes, self._reader.block_layers
        tokenizer = self.processor.tokenizer
        stops = _stops(self.network)
        names = [str(tokenizer.convert_ids_to_tokens(number)) for number in stops]
        self.encoder = DialogueEncoder(
            tokenizer, hf_chat(settings, self.processor, names), max_tokens, stops, self._reader.markers()
        )
        self._unused: set[str] = self._unreached() if facts is None else facts["unused"]
        if form is None and self.network.config.model_type not in PROVED:
            refuse_unequal(self, self.network, self.processor, f"model.name={settings.name}")

    def facts(self) -> dict[str, Any]:
        """See `LVLM.facts`."""
        return {**super().facts(), "levels": self._levels, "nested": self._nested}

    @property
    def decoder(self) -> Any:
        """The text model: its layers, without the head."""
        return text_model(self.network)

    @property
    def text_config(self) -> Any:
        """transformers' configuration of the language model."""
        return self.network.config.get_text_config()

    @property
    def language_model(self) -> nn.Module:
        """The whole network: its text model and its head."""
        return self.network

    @property
    def embeddings(self) -> nn.Module:
        """See `LVLM.embeddings`."""
        embeddings: nn.Module = self.network.get_input_embeddings()
        return embeddings

    @property
    def head(self) -> nn.Linear:
        """The output head, [vocabulary, D]."""
        head: Any = self.network.get_output_embeddings()
        return head

    @property
    def projector_weight(self) -> Tensor:
        """The projector's first parameter; the first of all where there is no projector."""
        named = ((name, p) for name, p in self.named_parameters() if self.part_of(name) == "projector")
        return next((p for _, p in named), next(self.parameters()))

    def reader(self, images: str = "exact", max_aspect: float = MAX_ASPECT) -> HFReader:
        """See `LVLM.reader`; the processor's own way of resizing is the only one."""
        return self._reader.limited(max_aspect)

    @in_its_precision
    def encode_images(self, images: ImageBatch) -> Tensor:
        """See `LVLM.encode_images`: [V, D x (1 + L)], with what L deeper levels add to hidden states (Qwen3-VL)."""
        if "features" in images.inputs:
            return images.inputs["features"].to(self.projector_weight.dtype)
        dtype = self.projector_weight.dtype
        inputs = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in images.inputs.items()
        }
        out = self.network.model.get_image_features(**inputs, return_dict=True)
        levels = [_flat(out.pooler_output), *map(_flat, getattr(out, "deepstack_features", None) or [])]
        self._levels, self._nested = len(levels), not isinstance(out.pooler_output, Tensor)
        return torch.cat(levels, -1)

    @in_its_precision
    def hidden(self, ids: Tensor, images: Tensor | None, positions: Tensor, plan: Plan | Prefill | Decoding) -> Tensor:
        """See `LVLM.hidden`."""
        model: Any = self.network.model
        place = ids == IMAGE
        more: dict[str, Any] = {name: place.long() for name in self._token_types}
        if images is not None:
            embedded = self.network.get_input_embeddings().weight.dtype
            images = images.to(torch.promote_types(embedded, self.projector_weight.dtype))  # as `_widen` gives texts
            more["mm_encoder_outputs"] = {"image": self._output(images)}
        return model(
            input_ids=ids.masked_fill(place, self.network.config.image_token_id),
            attention_mask=foreign_mask(ids.device), position_ids=positions[0] if self.axes == 1 else positions,
            use_cache=False, plan=plan, **more,
        ).last_hidden_state  # fmt: skip

    @in_its_precision
    def blank_images(self) -> Tensor:
        """See `LVLM.blank_images`; nothing goes through them where neither is trained."""
        parts = ("vision", "projector")
        if not any(p.requires_grad for name, p in self.named_parameters() if self.part_of(name) in parts):
            return self.projector_weight.new_zeros(1)
        return self._encode_blank()

    def _encode_blank(self) -> Tensor:
        picture = self._reader.blank()
        images = ImageBatch(picture.inputs, (0,), (picture.layout.tokens,))
        return self.encode_images(images.to(self.device))

    def resize_note(self, images: Iterable[bytes], max_aspect: float) -> str | None:
        """See `LVLM.resize_note`."""
        return f"Images are resized by the model's own processor ({type(self.processor.image_processor).__name__})."

    def checkpoint_activations(self, on: bool) -> None:
        """See `LVLM.checkpoint_activations`."""
        self.decoder.train()  # transformers checkpoints no layer that only evaluates; dropout was refused
        if on:
            self.decoder.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.decoder.activation_checkpointing_disable()

    def part_of(self, name: str) -> str:
        """Which of `PARTS` a parameter belongs to."""
        if "lora_" in name:
            return "lora"
        if name.startswith((self.text_prefix, "network.lm_head")):
            return "language"
        return "projector" if PROJECTOR.search(name) else "vision"

    def image_facts(self, images: str) -> dict[str, str]:
        """See `LVLM.image_facts`."""
        state = self.state_dict().items()
        return {
            "weights": digest_of({name: one for name, one in state if self.part_of(name) in ("vision", "projector")}),
            "preprocessing": json.dumps(self.processor.image_processor.to_dict(), sort_keys=True, default=str),
            "library": f"transformers {version('transformers')}",
        }

    def _widen(self, module: nn.Module, inputs: Any, embeddings: Tensor) -> Tensor:
        """Embeddings that are held in bf16 as fp32: what the layers add to stays exact."""
        narrow = embeddings.dtype == torch.bfloat16 and self.projector_weight.dtype != torch.bfloat16
        return embeddings.float() if narrow else embeddings

    def _output(self, images: Tensor) -> Any:
        """Image tokens [V, D x (1 + L)] as the model takes those of its own encoder."""
        if self._nested is None:
            with torch.no_grad():
                self._encode_blank()
        first, *deeper = images.split(images.shape[-1] // self._levels, -1)
        if not self._nested:
            return SimpleNamespace(pooler_output=first[None])
        return SimpleNamespace(pooler_output=[first], deepstack_features=[[level] for level in deeper])

    def _unreached(self) -> set[str]:
        """Parameters of encoder and projector that its output does not depend on.

        Raises:
            ValueError: the encoder gives another number of tokens than the processor announces.
        """
        named = {name: p for name, p in self.named_parameters() if self.part_of(name) in ("vision", "projector")}
        before = {name: p.requires_grad for name, p in named.items()}
        for p in named.values():
            p.requires_grad_()
        with torch.enable_grad():
            tokens = self._encode_blank()
        expected = self._reader.blank().layout.tokens
        if len(tokens) != expected:
            raise ValueError(
                f"model.name={self.name}: expected {expected} image tokens, as its processor has it (patch_size, "
                f"vision_feature_select_strategy, num_additional_image_tokens), got {len(tokens)} of its encoder"
            )
        reached = leaves(tokens)
        unused = {name for name, p in named.items() if id(p) not in reached}
        for name, p in named.items():
            p.requires_grad_(before[name] and name not in unused)
        return unused


def text_model(network: Any) -> Any:
    """The decoder of a vision-language model: the module that holds the text layers."""
    inner = network.model
    for name in ("language_model", "text_model"):
        if (decoder := getattr(inner, name, None)) is not None:
            return decoder
    raise ValueError(f"{type(network).__name__}: expected a text model at model.language_model, found none")


def _accepted(network: Any) -> list[str]:
    """Names of what a model's encoder takes."""
    parameters = inspect.signature(network.model.get_image_features).parameters
    return [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]


def _stops(network: Any) -> list[int]:
    ends = network.generation_config.eos_token_id
    return [] if ends is None else [int(ends)] if isinstance(ends, int) else [int(end) for end in ends]


def _flat(tokens: Any) -> Tensor:
    """Image tokens of several images, however a family returns them, as [V, D]."""
    return tokens.reshape(-1, tokens.shape[-1]) if isinstance(tokens, Tensor) else torch.cat([*map(_flat, tokens)])
