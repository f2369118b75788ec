"""Vision-language models of Hugging Face in small: one checkpoint folder per family, written by its own classes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import types
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers as hf
from family_tokenizers import TEMPLATES, fast_tokenizer
from PIL import Image

if importlib.util.find_spec("num2words") is None:
    # SmolVLM's processor asks for this package when it is made, and uses it for videos only: no test has one.
    stub = types.ModuleType("num2words")
    stub.__spec__ = importlib.machinery.ModuleSpec("num2words", None)
    stub.num2words = str  # type: ignore[attr-defined]
    sys.modules["num2words"] = stub

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "rope_parameters": {"rope_type": "default", "rope_theta": 20.0},
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
GRID = [[32, 64], [64, 32], [64, 64]]
SIZES = [(70, 40), (33, 61)]
"""Width and height of the pictures that `tokens` counts."""


@dataclass(frozen=True)
class Family:
    """One family: what its checkpoint is made of, and the facts that a reader of it must find out."""

    name: str
    model_class: str
    build: Callable[[hf.PreTrainedTokenizerFast], tuple[hf.PreTrainedConfig, hf.ProcessorMixin]]
    kind: str  # of tokenizer: see `fast_tokenizer`
    named: dict[str, str]  # special tokens with a name
    specials: tuple[str, ...]  # special tokens without
    stops: tuple[str, ...]  # end an answer when it is generated
    image_token: str  # stands in the ids once per row of image features
    placeholder: str  # stands in the rendered template once per image
    tokens: tuple[int, int]  # image tokens of pictures of `SIZES`
    ending: str = ""  # what the template writes behind an answer's text
    rope_dims: int = 1  # 3: time, height, width
    block: str = "none"  # layers in which an image's tokens see each other: none, all layers, sliding layers
    deepstack: bool = False
    marks: bool = False  # the template marks the answers
    strings: bool = True  # the template takes content that is a string
    leading: bool = False  # the tokenizer writes a bos token before each text
    parts: dict[str, str] = field(default_factory=lambda: dict(PARTS))  # module under `model.model` of each part

    def tokenizer(self) -> hf.PreTrainedTokenizerFast:
        """Trained on the spot, with the family's special tokens."""
        return fast_tokenizer(self.kind, self.named, list(self.specials), leading=self.leading)

    def write(self, folder: Path) -> None:
        """Write model, processor, chat template and generation settings, random but the same each time."""
        tokenizer = self.tokenizer()
        config, processor = self.build(tokenizer)
        processor.chat_template = TEMPLATES[self.name]
        config.dtype = torch.float32
        model = getattr(hf, self.model_class)(config)
        scatter(model, zlib.crc32(self.name.encode()))
        model.generation_config = hf.GenerationConfig(
            eos_token_id=tokenizer.convert_tokens_to_ids(list(self.stops)),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


PARTS = {"vision": "vision_tower", "projector": "multi_modal_projector", "language": "language_model"}
IDEFICS_PARTS = {"vision": "vision_model", "projector": "connector", "language": "text_model"}
QWEN_PARTS = {"vision": "visual", "projector": "visual.merger", "language": "language_model"}


@torch.no_grad()
def scatter(model: torch.nn.Module, seed: int) -> None:
    """Random weights under which outputs lean on positions, mask and image, with a loss of an untrained model."""
    random = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=random)
        if "embed_tokens" in name or "position_embedding" in name or "image_newline" in name:
            parameter.copy_(0.3 * noise)
        elif parameter.ndim < 2:
            parameter.add_(0.2 * noise)  # norms around one, biases around zero
        else:
            sharp = any(part in name for part in ("q_proj", "k_proj", "qkv"))
            parameter.copy_((2.0 if sharp else 1.0) * noise / parameter[0].numel() ** 0.5)


def checkpoint(name: str, cache: Path) -> Path:
    """The folder of a family's checkpoint under `cache`, written where it is not there yet."""
    folder = cache / name
    if not folder.exists():
        draft = cache / f"{name}.{os.getpid()}.draft"
        FAMILIES[name].write(draft)
        draft.rename(folder)
    return folder


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture in large random squares, which survive resizing."""
    random = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (5, 5, 3), generator=random, dtype=torch.uint8)
    return Image.fromarray(small.numpy()).resize((width, height), Image.Resampling.BICUBIC)


def text(tokenizer: hf.PreTrainedTokenizerFast, **settings) -> dict:
    """Settings of a text model for this tokenizer."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return TEXT | {"vocab_size": len(tokenizer)} | ids | settings


def side(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


def llava(tokenizer):
    images = hf.LlavaImageProcessor(size={"shortest_edge": 32}, crop_size=side(32))
    processor = hf.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION | {"num_hidden_layers": 3}),
        text_config=hf.LlamaConfig(**text(tokenizer)),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
    )
    return config, processor


def qwen_images(patch: int):
    return {
        "patch_size": patch, "merge_size": 2, "size": {"shortest_edge": 4 * patch**2, "longest_edge": 160 * patch**2}
    }  # fmt: skip


def qwen_text(tokenizer, **settings):
    rope = {"rope_type": "default", "rope_theta": 20.0, "mrope_section": [2, 3, 3]}
    return text(tokenizer, rope_parameters=rope) | settings


def qwen_ids(tokenizer):
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}


def qwen2_vl(tokenizer):
    images, videos = hf.Qwen2VLImageProcessor(**qwen_images(7)), hf.Qwen2VLVideoProcessor(**qwen_images(7))
    config = hf.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 7},
        text_config=qwen_text(tokenizer),
        **qwen_ids(tokenizer),
    )
    return config, hf.Qwen2VLProcessor(images, tokenizer, videos)


def gemma3(tokenizer):
    images = hf.Gemma3ImageProcessor(size=side(48))
    processor = hf.Gemma3Processor(images, tokenizer, image_seq_length=9)
    thetas = {"sliding_attention": 10.0, "full_attention": 40.0}
    rope = {layers: {"rope_type": "default", "rope_theta": theta} for layers, theta in thetas.items()}
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION | {"image_size": 48, "vision_use_head": False}),
        text_config=hf.Gemma3TextConfig(
            **text(tokenizer, rope_parameters=rope, num_hidden_layers=4, head_dim=16, query_pre_attn_scalar=16),
            sliding_window=6, sliding_window_pattern=2,
        ),
        mm_tokens_per_image=9,
        **{f"{name}_token_index": getattr(tokenizer, f"{name}_token_id") for name in ("boi", "eoi", "image")},
    )  # fmt: skip
    return config, processor


SENTENCEPIECE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
VISION_MARKS = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>")
QWEN_NAMED = CHATML | {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
QWEN_FACTS = {
    "kind": "qwen", "named": QWEN_NAMED, "specials": VISION_MARKS, "stops": ("<|im_end|>", "<|endoftext|>"),
    "image_token": "<|image_pad|>", "placeholder": "<|image_pad|>", "ending": "<|im_end|>\n", "rope_dims": 3, "parts": QWEN_PARTS,
}  # fmt: skip

ALL = [
    Family(
        name="llava", model_class="LlavaForConditionalGeneration", build=llava, kind="metaspace",
        named=SENTENCEPIECE | {"image_token": "<image>"}, specials=(), stops=("</s>",), image_token="<image>",
        placeholder="<image>", ending=" ", marks=True, strings=False, leading=True, tokens=(16, 16),
    ),
    Family(name="qwen2_vl", model_class="Qwen2VLForConditionalGeneration", build=qwen2_vl, tokens=(15, 8), **QWEN_FACTS),
    Family(
        name="gemma3", model_class="Gemma3ForConditionalGeneration", build=gemma3, kind="gemma",
        named=GEMMA | {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        specials=("<start_of_turn>", "<end_of_turn>"), stops=("<eos>", "<end_of_turn>"), image_token="<image_soft_token>",
        placeholder="<start_of_image>", ending="<end_of_turn>\n", block="all layers", leading=True, tokens=(9, 9),
    ),
]  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in ALL}
