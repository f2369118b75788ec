"""Vision-language models of transformers for the arms: folders of random weights, with their families' own processors.

Text models have SmolLM2-135M's shape, or that of a real checkpoint on CUDA; towers the real patches and image sizes,
so that a picture has as many tokens as users' pictures have. Words are those of `models.tokenizer`: text and ids say
the same, whoever tokenises.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn

from dress import config
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.model.hf import PROJECTOR, text_model
from dress.model.language import add_lora
from steps.flops import SMOLLM2_135M, Sizes
from steps.models import language_fields
from steps.tuples import Shape, Tuple

LORA = config.Lora(rank=16, alpha=32)
PARTS = {"lora": ["projector", "lora"], "all": ["vision", "projector", "language"]}
"""What is trained: projector and LoRA, or everything."""
KEYS = re.compile(r"(?:vision_tower|vision_model)\..*\.k_proj\.bias")
"""Parameters without a gradient: a softmax does not change with them where there are no rotary positions."""
TEXT = re.compile(r"(?:^|\.)(?:language_model|text_model|lm_head)\.")
END = "<|end|>"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|> {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}IMAGE {% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}{% else %} <|assistant|> {% generation %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}<|end|>{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <|assistant|> {% endif %}"
)
"""Marks the answers, as TRL's `assistant_only_loss` wants it; the end of an answer is one of its targets."""


@dataclass(frozen=True)
class Tower:
    """Of the vision encoder; patches and images are the family's own."""

    width: int = 192
    inner: int = 768
    layers: int = 4
    heads: int = 3


SMALL_TOWER = Tower()


@dataclass(frozen=True)
class VLMModel:
    """A folder, and what of it is trained."""

    family: str
    folder: Path
    trained: str = "lora"
    image: bool = True


@dataclass(frozen=True)
class Family:
    """How the checkpoint of a family is made."""

    tokens: dict[str, str]  # special tokens with a name
    specials: tuple[str, ...]
    image: str  # what stands for an image in the template
    build: Callable[[Any, Sizes, Tower, int], tuple[Any, Any]]  # tokenizer, text, tower, scale -> config, processor
    model_class: str


def tokenizer(family: Family, vocabulary: int) -> hf.PreTrainedTokenizerFast:
    """A word is `w` and its id; the last of the vocabulary are the family's special tokens."""
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": END} | family.tokens
    special = list(dict.fromkeys([*named.values(), "<|user|>", "<|assistant|>", *family.specials]))
    words = {f"w{i}": i for i in range(vocabulary - len(special))}
    ids = {name: vocabulary - len(special) + i for i, name in enumerate(special)}
    inner = Tokenizer(WordLevel(words | ids, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    standard = {name: text for name, text in named.items() if name in ("pad_token", "unk_token", "eos_token")}
    extra = {name: text for name, text in named.items() if name not in standard}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, **standard, extra_special_tokens=extra,
        additional_special_tokens=[one for one in special if one not in named.values()],
    )  # fmt: skip


def _text(words: Any, sizes: Sizes) -> dict[str, Any]:
    fields = {name: value for name, value in language_fields(sizes).items() if name != "model_type"}
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return fields | ids | {"vocab_size": len(words)}


def _llava(words: Any, sizes: Sizes, tower: Tower, scale: int) -> tuple[Any, Any]:
    """CLIP's 336 pixels in patches of 14: 576 tokens."""
    side = 336 // scale
    images = hf.CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )  # fmt: skip
    processor = hf.LlavaProcessor(
        images, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    settings = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(
            hidden_size=tower.width, intermediate_size=tower.inner, num_hidden_layers=tower.layers,
            num_attention_heads=tower.heads, image_size=side, patch_size=14,
        ),
        text_config=hf.LlamaConfig(**_text(words, sizes)), image_token_index=words.image_token_id,
        image_seq_length=(side // 14) ** 2, tie_word_embeddings=True,
    )  # fmt: skip
    return settings, processor


def _smolvlm(words: Any, sizes: Sizes, tower: Tower, scale: int) -> tuple[Any, Any]:
    """Tiles of 512 pixels in patches of 16, four times four of them one token: 64 tokens a tile, up to 17 tiles."""
    side = 512 // scale
    tiles = {"size": {"longest_edge": 4 * side}, "max_image_size": {"longest_edge": side}}
    tokens = (side // 16 // 4) ** 2
    videos = hf.SmolVLMVideoProcessor(**tiles, fps=1, num_frames=4, video_sampling={"fps": 1, "max_frames": 4})
    processor = hf.SmolVLMProcessor(hf.SmolVLMImageProcessor(**tiles), words, videos, image_seq_len=tokens)
    settings = hf.SmolVLMConfig(
        vision_config={
            "model_type": "smolvlm_vision", "hidden_size": tower.width, "intermediate_size": tower.inner,
            "num_hidden_layers": tower.layers, "num_attention_heads": tower.heads, "image_size": side,
            "patch_size": 16,
        },
        text_config=hf.LlamaConfig(**_text(words, sizes)), image_token_id=words.image_token_id,
        pad_token_id=words.pad_token_id, scale_factor=4, tie_word_embeddings=True,
    )  # fmt: skip
    return settings, processor


def _qwen2_5_vl(words: Any, sizes: Sizes, tower: Tower, scale: int) -> tuple[Any, Any]:
    """Patches of 14 pixels, two times two of them one token: as many as the picture is large."""
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    images = hf.Qwen2VLImageProcessor(patch_size=14, merge_size=2, size=pixels)
    videos = hf.Qwen2VLVideoProcessor(patch_size=14, merge_size=2, size=pixels)
    every = max(2, tower.layers // 4)  # of 32 layers 7, 15, 23, 31, as in Qwen's own
    half = sizes.head_width // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]  # 16, 24, 24 of 64, as in Qwen's own
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    settings = hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": tower.layers, "hidden_size": tower.width, "intermediate_size": tower.inner,
            "num_heads": tower.heads, "out_hidden_size": sizes.width, "patch_size": 14, "window_size": 112,
            "fullatt_block_indexes": list(range(every - 1, tower.layers, every)),
        },
        text_config=_text(words, sizes)
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0, "mrope_section": sections}},
        **{f"{name}_token_id": words.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()},
        tie_word_embeddings=True,
    )  # fmt: skip
    return settings, hf.Qwen2_5_VLProcessor(images, words, videos)


CELLS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
FAMILIES = {
    "llava": Family({"image_token": "<image>"}, (), "<image>", _llava, "LlavaForConditionalGeneration"),
    "smolvlm": Family(
        {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
         "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"},
        CELLS, "<image>", _smolvlm, "SmolVLMForConditionalGeneration",
    ),
    "qwen2_5_vl": Family(
        {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}, ("<|vision_start|>", "<|vision_end|>"),
        "<|vision_start|><|image_pad|><|vision_end|>", _qwen2_5_vl, "Qwen2_5_VLForConditionalGeneration",
    ),
}  # fmt: skip


def write(
    folder: Path, family: str, sizes: Sizes = SMOLLM2_135M, tower: Tower = SMALL_TOWER, scale: int = 1,
    device: str = "cpu",
) -> Path:  # fmt: skip
    """A checkpoint in bf16, which holds the same numbers for all arms, in fp32 too.

    Args:
        folder: written to.
        family: of `FAMILIES`.
        sizes, tower: of the text model and the encoder.
        scale: divides the sides of its images (toys).
        device: where the weights are drawn.
    """
    chosen = FAMILIES[family]
    words = tokenizer(chosen, sizes.vocabulary)
    settings, processor = chosen.build(words, sizes, tower, scale)
    settings.dtype = torch.float32
    processor.chat_template = TEMPLATE.replace("IMAGE", chosen.image)
    torch.manual_seed(0)
    with torch.device(device):
        model = getattr(hf, chosen.model_class)(settings)
    model.generation_config = hf.GenerationConfig(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    model.bfloat16().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def part_of(name: str) -> str:
    """Which part a parameter of transformers' own model belongs to."""
    if "lora_" in name:
        return "lora"
    return "language" if TEXT.search(name) else "projector" if PROJECTOR.search(name) else "vision"


@torch.no_grad()
def draw_lora(model: nn.Module) -> None:
    """The same adapters in every arm; not zero, or half of them would have no gradient in a first step."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            random = torch.Generator().manual_seed(zlib.crc32(name.removeprefix("network.").encode()))
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=random))


def theirs(spec: VLMModel, narrow: bool) -> Any:
    """The model as transformers runs it; `narrow` holds frozen matrices in bf16, as ours does."""
    model: Any = hf.AutoModelForImageTextToText.from_pretrained(
        spec.folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    if spec.trained == "lora":
        add_lora(text_model(model), LORA)
        draw_lora(model)
    for name, parameter in model.named_parameters():
        learns = part_of(name) in PARTS[spec.trained] and not KEYS.search(name)
        parameter.requires_grad_(learns)
        if narrow and not learns and parameter.ndim > 1:
            parameter.data = parameter.data.bfloat16()
    return model.train()


def dialogues(one: Tuple) -> Iterator[SupervisedDialogue]:
    """A tuple as phases make it: a chain of refinements, whose first answer is learned too, and critiques."""
    for number, turns in enumerate(one.dialogues):
        spans = tuple(Span(turn.role, _words(turn.ids), turn.weight) for turn in turns)  # type: ignore[arg-type]
        yield SupervisedDialogue("critique" if number else "refinement", spans)


def messages(one: Tuple) -> list[list[dict[str, str]]]:
    """The same dialogues as rows for everybody else."""
    return [[{"role": turn.role, "content": _words(turn.ids)} for turn in turns] for turns in one.dialogues]


def _words(ids: tuple[int, ...]) -> str:
    return " ".join(f"w{i}" for i in ids)


def shape(picture: tuple[int, int], texts: Shape) -> Shape:
    """These texts over a picture of this width and height."""
    return replace(texts, picture=picture)
