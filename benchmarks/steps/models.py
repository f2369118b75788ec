"""One set of weights as two models: ours, and the LLaVA class of transformers that TRL trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dress import config
from dress.dialogue.image import Picture
from dress.model.composed import ComposedLVLM
from dress.model.language import add_lora
from dress.model.vision import SCRATCH_MEAN, SCRATCH_STD
from steps.flops import SMOLLM2_135M, Sizes
from steps.tuples import PATCH, Shape, Tuple

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}"
    "{% endif %}{% else %}{% generation %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{{ c.text }} {% endfor %}{% endif %}{% endgeneration %}{% endif %} {% endfor %}"
)
"""Messages one after another, nothing between them."""


@dataclass(frozen=True)
class ModelSpec:
    """Which model: a slice of SmolLM2-135M's shape, or a toy; the tower is small and frozen (conservative)."""

    sizes: Sizes = SMOLLM2_135M
    image: bool = True
    tower_width: int = 192
    tower_layers: int = 4
    lora: int = 0  # rank, on all linear maps of the layers; 0 trains everything but the tower
    tied: bool = True  # one matrix of words in and out
    on_device: bool = False  # weights are drawn where they are trained: quicker, and other ones than on a CPU


def language_fields(sizes: Sizes, tied: bool = True) -> dict[str, Any]:
    """SmolLM2's settings, as transformers takes them."""
    return {
        "model_type": "llama", "hidden_size": sizes.width, "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_heads, "vocab_size": sizes.vocabulary, "tie_word_embeddings": tied,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "initializer_range": sizes.width**-0.5,
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    }  # fmt: skip


MAX_TOKENS = 4096
"""Of a dialogue."""
NAMES = ("<|user|>", "<|assistant|>", "<|end|>", "<image>", "<pad>", "<unk>")
"""Tokens that are no words, the last of the vocabulary: those of our chat format, and the others' own."""


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word is `w` and its id: text and ids say the same, whoever tokenises."""
    words = {f"w{i}": i for i in range(vocabulary - len(NAMES))}
    special = {name: vocabulary - len(NAMES) + i for i, name in enumerate(NAMES)}
    inner = Tokenizer(WordLevel(words | special, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    made.chat_template = TEMPLATE
    return made


def settings(spec: ModelSpec, shape: Shape, **more: Any) -> config.ComposedModel:
    """Our settings of the model."""
    vit = config.ViT(
        image_size=shape.side, patch_size=PATCH, width=spec.tower_width, layers=spec.tower_layers,
        heads=spec.tower_width // 64,
    )  # fmt: skip
    return config.ComposedModel(
        vision=config.Vision(vit=vit),
        projector={"_target_": "dress.model.projector.MLP"},
        language=config.Language(config=language_fields(spec.sizes, spec.tied), lora=_lora(spec)),
        **more,
    )


def trained(spec: ModelSpec) -> list[Any]:
    """Parts that learn."""
    return [*(["projector"] if spec.image else []), "lora" if spec.lora else "language"]


def _lora(spec: ModelSpec) -> config.Lora | None:
    return config.Lora(rank=spec.lora, alpha=2 * spec.lora) if spec.lora else None


def ours(spec: ModelSpec, shape: Shape, device: str = "cpu", **more: Any) -> ComposedLVLM:
    """Our model with random weights; the same for the same arguments. The tower is frozen."""
    torch.manual_seed(0)
    with torch.device(device):
        model = ComposedLVLM(settings(spec, shape, **more), tokenizer(spec.sizes.vocabulary), MAX_TOKENS)
    model.set_trainable(trained(spec))
    if spec.lora:
        model.round({"vision", "language"})
    return model


def picture(model: ComposedLVLM, one: Tuple, stored: bool = False) -> Picture | None:
    """The image of a tuple as our model takes it; `stored`: its features instead of its pixels."""
    if one.picture is None:
        return None
    reader, pixels = model.reader(), model.vision.preprocess(one.picture)[None]
    if not stored:
        return Picture({"pixels": pixels}, reader.layout(one.picture.size))
    with torch.no_grad():
        return reader.stored(model.vision(pixels)[0])


def processor(spec: ModelSpec, shape: Shape) -> LlavaProcessor:
    """Text and images for LLaVA; pixels equal those of our transform, and nothing is resized."""
    images = CLIPImageProcessorPil(
        do_resize=False, do_center_crop=False, image_mean=list(SCRATCH_MEAN), image_std=list(SCRATCH_STD),
        size={"height": shape.side, "width": shape.side},
    )  # fmt: skip
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer(spec.sizes.vocabulary), patch_size=PATCH,
        num_additional_image_tokens=1, vision_feature_select_strategy="default", chat_template=TEMPLATE,
    )  # fmt: skip


def llava(spec: ModelSpec, shape: Shape) -> LlavaForConditionalGeneration:
    """The same weights as `ours`, as LLaVA."""
    source = ours(spec, shape)
    words = source.encoder.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=spec.tower_width, intermediate_size=4 * spec.tower_width, num_hidden_layers=spec.tower_layers,
        num_attention_heads=spec.tower_width // 64, image_size=shape.side, patch_size=PATCH, hidden_act="gelu",
    )  # fmt: skip
    text = {name: value for name, value in language_fields(spec.sizes).items() if name != "model_type"}
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=LlamaConfig(**text, pad_token_id=words.pad_token_id),
            image_token_index=words.convert_tokens_to_ids("<image>"),
            image_seq_length=shape.image,
            vision_feature_layer=-1,
            tie_word_embeddings=True,
        )
    )
    weights = dict(_as_ours(source.state_dict(), spec.tower_width))
    if lora := _lora(spec):
        add_lora(model.model.language_model, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "post_layernorm" not in name:  # of the pooled output, which nobody reads
                parameter.copy_(weights[to_ours(name)])
    model.model.vision_tower.requires_grad_(False)
    if spec.lora:
        for name, parameter in model.named_parameters():
            frozen = "lora_" not in name and "multi_modal_projector" not in name
            parameter.requires_grad_(not frozen)
            if frozen and parameter.ndim > 1:
                parameter.data = parameter.data.bfloat16()
    model.train()
    return model


def _as_ours(state: dict[str, Tensor], width: int) -> Any:
    """Our weights with OpenCLIP's joint query, key and value taken apart."""
    for name, value in state.items():
        if "in_proj_" in name:
            for part, rows in zip("qkv", value.split(width), strict=True):
                yield name.replace("in_proj_", f"{part}_proj."), rows
        else:
            yield name, value


OURS = [
    ("model.vision_tower.embeddings.patch_embedding", "vision.tower.conv1"),
    ("model.vision_tower.embeddings.class_embedding", "vision.tower.class_embedding"),
    ("model.vision_tower.embeddings.position_embedding.weight", "vision.tower.positional_embedding"),
    ("model.vision_tower.pre_layrnorm", "vision.tower.ln_pre"),
    ("model.vision_tower.encoder.layers.", "vision.tower.transformer.resblocks."),
    ("model.multi_modal_projector.linear_1", "projector.0"),
    ("model.multi_modal_projector.linear_2", "projector.2"),
    ("model.language_model.", "language.model."),
    ("lm_head", "language.lm_head"),
]
"""How LLaVA's names of weights begin, and ours."""

OPENCLIP = [(".self_attn.", ".attn."), ("layer_norm", "ln_"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")]


def to_ours(name: str) -> str:
    """LLaVA's name of a weight as ours."""
    for theirs, own in OURS:
        if name.startswith(theirs):
            name = own + name.removeprefix(theirs)
            break
    if name.startswith("vision."):
        for theirs, own in OPENCLIP:
            name = name.replace(theirs, own)
    return name
