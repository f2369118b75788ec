"""Vision-language models of Hugging Face in small: one checkpoint folder per family, written by its own classes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers as hf
from family_tokenizers import CHATML, GEMMA, SENTENCEPIECE, TEMPLATES, fast_tokenizer
from PIL import Image

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 20.0},
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(self.name.encode()))
            model = getattr(hf, self.model_class)(config)
            scatter(model)
        model.generation_config = hf.GenerationConfig(
            eos_token_id=tokenizer.convert_tokens_to_ids(list(self.stops)),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


PARTS = {"vision": "vision_tower", "projector": "multi_modal_projector", "language": "language_model"}


@torch.no_grad()
def scatter(model: torch.nn.Module) -> None:
    """Random weights under which outputs lean on positions, mask and image, with a loss of an untrained model."""
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape)
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


def talk(size: tuple[int, int] = SIZES[0], answer: str = "There are 3 circles.", seed: int = 0) -> list[dict]:
    """A question about a picture, and its answer, as messages."""
    shown = [{"type": "image", "image": picture(*size, seed=seed)}, {"type": "text", "text": "How many circles?"}]
    return [{"role": "user", "content": shown}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


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


def llava_next(tokenizer):
    images = hf.LlavaNextImageProcessor(size={"shortest_edge": 32}, crop_size=side(32), image_grid_pinpoints=GRID)
    processor = hf.LlavaNextProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION | {"num_hidden_layers": 3}),
        text_config=hf.MistralConfig(**text(tokenizer, sliding_window=None)),
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=GRID,
        image_seq_length=16,
    )
    return config, processor


def llava_onevision(tokenizer):
    images = hf.LlavaOnevisionImageProcessor(size=side(32), image_grid_pinpoints=GRID)
    videos = hf.LlavaOnevisionVideoProcessor(size=side(32))
    processor = hf.LlavaOnevisionProcessor(
        images, tokenizer, videos, num_image_tokens=16, vision_feature_select_strategy="full"
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION | {"vision_use_head": False}),
        text_config=hf.Qwen2Config(**text(tokenizer)),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=GRID,
    )
    return config, processor


TILES = {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 16}}
TILE = VISION | {"image_size": 16, "patch_size": 4}


def smolvlm(tokenizer):
    videos = hf.SmolVLMVideoProcessor(**TILES, fps=1, num_frames=4, video_sampling={"fps": 1, "max_frames": 4})
    processor = hf.SmolVLMProcessor(hf.SmolVLMImageProcessor(**TILES), tokenizer, videos, image_seq_len=4)
    config = hf.SmolVLMConfig(
        vision_config=TILE | {"model_type": "smolvlm_vision"},
        text_config=hf.LlamaConfig(**text(tokenizer, tie_word_embeddings=True)),
        image_token_id=tokenizer.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
        tie_word_embeddings=True,
    )
    return config, processor


def idefics3(tokenizer):
    processor = hf.Idefics3Processor(hf.Idefics3ImageProcessor(**TILES), tokenizer, image_seq_len=4)
    config = hf.Idefics3Config(
        vision_config=TILE | {"model_type": "idefics3_vision"},
        text_config=hf.LlamaConfig(**text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    return config, processor


def internvl(tokenizer):
    images = hf.GotOcr2ImageProcessor(size=side(24), crop_to_patches=True, max_patches=6)
    videos = hf.InternVLVideoProcessor(size=side(24))
    config = hf.InternVLConfig(
        vision_config=VISION | {"model_type": "internvl_vision", "image_size": [24, 24], "patch_size": [6, 6]},
        text_config=hf.Qwen2Config(**text(tokenizer)),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return config, hf.InternVLProcessor(images, tokenizer, videos, image_seq_length=4)


def pixtral_images(patch: int):
    return hf.PixtralImageProcessor(size={"longest_edge": 80}, patch_size=side(patch))


def pixtral_tower(patch: int):
    return hf.PixtralVisionConfig(**VISION | {"image_size": 80, "patch_size": patch, "head_dim": 16})


def mistral3(tokenizer):
    config = hf.Mistral3Config(
        vision_config=pixtral_tower(8),
        text_config=hf.MistralConfig(**text(tokenizer, sliding_window=None)),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return config, hf.PixtralProcessor(pixtral_images(8), tokenizer, patch_size=8, spatial_merge_size=2)


def pixtral(tokenizer):
    config = hf.LlavaConfig(
        vision_config=pixtral_tower(16),
        text_config=hf.MistralConfig(**text(tokenizer, sliding_window=None)),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=1,
    )
    return config, hf.PixtralProcessor(pixtral_images(16), tokenizer, patch_size=16, spatial_merge_size=1)


def qwen_images(patch: int) -> dict:
    pixels = {"shortest_edge": 4 * patch**2, "longest_edge": 160 * patch**2}
    return {"patch_size": patch, "merge_size": 2, "size": pixels}


def qwen_text(tokenizer, **rope):
    parameters = {"rope_type": "default", "rope_theta": 20.0, "mrope_section": [2, 3, 3]} | rope
    return text(tokenizer, rope_parameters=parameters)


def qwen_ids(tokenizer) -> dict[str, int]:
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


QWEN_TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}


def qwen2_5_vl(tokenizer):
    images, videos = hf.Qwen2VLImageProcessor(**qwen_images(7)), hf.Qwen2VLVideoProcessor(**qwen_images(7))
    config = hf.Qwen2_5_VLConfig(
        vision_config=QWEN_TOWER | {"patch_size": 7, "window_size": 28, "fullatt_block_indexes": [1]},
        text_config=qwen_text(tokenizer),
        **qwen_ids(tokenizer),
    )
    return config, hf.Qwen2_5_VLProcessor(images, tokenizer, videos)


def qwen3_vl(tokenizer):
    images, videos = hf.Qwen2VLImageProcessor(**qwen_images(6)), hf.Qwen3VLVideoProcessor(**qwen_images(6))
    tower = {"depth": 3, "patch_size": 6, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    config = hf.Qwen3VLConfig(
        vision_config=QWEN_TOWER | tower,
        text_config=qwen_text(tokenizer, mrope_section=[4, 2, 2], mrope_interleaved=True) | {"head_dim": 16},
        **qwen_ids(tokenizer),
    )
    return config, hf.Qwen3VLProcessor(images, tokenizer, videos)


def glm4v(tokenizer):
    images, videos = hf.Glm4vImageProcessor(**qwen_images(7)), hf.Glm4vVideoProcessor(**qwen_images(7))
    names = {"image": "image", "video": "video", "image_start": "begin_of_image", "image_end": "end_of_image",
             "video_start": "begin_of_video", "video_end": "end_of_video"}  # fmt: skip
    config = hf.Glm4vConfig(
        vision_config=QWEN_TOWER | {"patch_size": 7, "image_size": 56},
        text_config=qwen_text(tokenizer, partial_rotary_factor=0.5)
        | {"num_attention_heads": 2, "num_key_value_heads": 1},
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()},
    )
    return config, hf.Glm4vProcessor(images, tokenizer, videos)


def gemma_rope(full: str, **settings) -> dict[str, dict]:
    """Of layers with a window and without."""
    local, every = {"rope_type": "default", "rope_theta": 10.0}, {"rope_type": full, "rope_theta": 40.0}
    return {"sliding_attention": local, "full_attention": every | settings}


def gemma3(tokenizer):
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION | {"image_size": 48, "vision_use_head": False}),
        text_config=hf.Gemma3TextConfig(
            **text(tokenizer, rope_parameters=gemma_rope("default"), num_hidden_layers=4, head_dim=16),
            query_pre_attn_scalar=16, sliding_window=6, sliding_window_pattern=2,
        ),
        mm_tokens_per_image=9,
        **{f"{name}_token_index": getattr(tokenizer, f"{name}_token_id") for name in ("boi", "eoi", "image")},
    )  # fmt: skip
    return config, hf.Gemma3Processor(hf.Gemma3ImageProcessor(size=side(48)), tokenizer, image_seq_length=9)


def gemma4(tokenizer):
    layers = ["sliding_attention", "full_attention"]
    named = ("boi", "eoi", "image", "boa", "audio")
    pixels = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    config = hf.Gemma4Config(
        vision_config=hf.Gemma4VisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            head_dim=16, patch_size=4, pooling_kernel_size=3, position_embedding_size=64,
        ),
        text_config=hf.Gemma4TextConfig(
            **text(tokenizer, num_hidden_layers=6, head_dim=16, layer_types=layers * 3)
            | {"rope_parameters": gemma_rope("proportional", partial_rotary_factor=0.25)},
            sliding_window=6, use_bidirectional_attention="vision", hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=len(tokenizer), num_kv_shared_layers=2, attention_k_eq_v=True,
            global_head_dim=32, num_global_key_value_heads=1, final_logit_softcapping=30.0,
        ),
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in named},
        eoa_token_index=tokenizer.eoa_token_id, video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )  # fmt: skip
    processor = hf.Gemma4Processor(
        hf.Gemma4AudioFeatureExtractor(), hf.Gemma4ImageProcessor(**pixels), tokenizer,
        hf.Gemma4VideoProcessor(**pixels), image_seq_length=70,
    )  # fmt: skip
    return config, processor


IMAGE = {"image_token": "<image>", "placeholder": "<image>"}
VICUNA = SENTENCEPIECE | {"pad_token": "<pad>", "image_token": "<image>"}
TEXT_PARTS = {"vision": "vision_model", "projector": "connector", "language": "text_model"}
IDEFICS_TOKENS = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
CELLS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
IDEFICS = IMAGE | {"ending": "<end_of_utterance>\n", "strings": False, "parts": TEXT_PARTS, "tokens": (28, 28)}
TEKKEN = ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
MISTRAL = {
    "kind": "tekken", "named": SENTENCEPIECE | {"pad_token": "<pad>"}, "specials": TEKKEN, "stops": ("</s>",),
    "image_token": "[IMG]", "placeholder": "[IMG]", "ending": "</s>", "leading": True,
}  # fmt: skip
VISUAL_PARTS = {"vision": "visual", "projector": "visual.merger", "language": "language_model"}
QWEN = {
    "kind": "qwen", "named": CHATML | {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    "specials": ("<|im_start|>", "<|vision_start|>", "<|vision_end|>"), "stops": ("<|im_end|>", "<|endoftext|>"),
    "image_token": "<|image_pad|>", "placeholder": "<|image_pad|>", "ending": "<|im_end|>\n", "rope_dims": 3,
    "parts": VISUAL_PARTS,
}  # fmt: skip
GLM_TOKENS = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>",
              "<|begin_of_video|>", "<|end_of_video|>")  # fmt: skip

ALL = [
    Family(
        "llava", "LlavaForConditionalGeneration", llava, kind="metaspace", named=VICUNA, specials=(), stops=("</s>",),
        ending=" ", marks=True, strings=False, leading=True, tokens=(16, 16), **IMAGE,
    ),
    Family(
        "llava_next", "LlavaNextForConditionalGeneration", llava_next, kind="metaspace", named=VICUNA, specials=(),
        stops=("</s>",), ending="</s>", strings=False, leading=True, tokens=(52, 56), **IMAGE,
    ),
    Family(
        "llava_onevision", "LlavaOnevisionForConditionalGeneration", llava_onevision, kind="qwen",
        named=CHATML | {"image_token": "<image>", "video_token": "<video>"}, specials=("<|im_start|>",),
        stops=("<|im_end|>", "<|endoftext|>"), ending="<|im_end|>", marks=True, strings=False, tokens=(52, 56), **IMAGE,
    ),
    Family(
        "smolvlm", "SmolVLMForConditionalGeneration", smolvlm, kind="gpt2",
        named={"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>",
               "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
               "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"},
        specials=("<|endoftext|>", *CELLS), stops=("<end_of_utterance>",), **IDEFICS,
    ),
    Family(
        "idefics3", "Idefics3ForConditionalGeneration", idefics3, kind="llama3",
        named={"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|pad|>"},
        specials=("<image>", *IDEFICS_TOKENS, *CELLS), stops=("<|end_of_text|>", "<end_of_utterance>"), leading=True,
        **IDEFICS,
    ),
    Family(
        "internvl", "InternVLForConditionalGeneration", internvl, kind="qwen",
        named=CHATML | {"start_image_token": "<img>", "end_image_token": "</img>",
                        "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
        specials=("<|im_start|>",), stops=("<|im_end|>",), image_token="<IMG_CONTEXT>", placeholder="<IMG_CONTEXT>",
        ending="<|im_end|>\n", tokens=(28, 12),
    ),
    Family("mistral3", "Mistral3ForConditionalGeneration", mistral3, tokens=(15, 12), **MISTRAL),
    Family("pixtral", "LlavaForConditionalGeneration", pixtral, tokens=(15, 12), **MISTRAL),
    Family("qwen2_vl", "Qwen2VLForConditionalGeneration", qwen2_vl, tokens=(15, 8), **QWEN),
    Family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", qwen2_5_vl, tokens=(15, 8), **QWEN),
    Family("qwen3_vl", "Qwen3VLForConditionalGeneration", qwen3_vl, tokens=(18, 15), deepstack=True, **QWEN),
    Family(
        "glm4v", "Glm4vForConditionalGeneration", glm4v, kind="llama3",
        named={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "image_token": "<|image|>",
               "video_token": "<|video|>"},
        specials=GLM_TOKENS, stops=("<|endoftext|>", "<|user|>"), image_token="<|image|>", placeholder="<|image|>",
        rope_dims=3, parts=VISUAL_PARTS, tokens=(15, 8),
    ),
    Family(
        "gemma3", "Gemma3ForConditionalGeneration", gemma3, kind="gemma",
        named=GEMMA | {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
                       "image_token": "<image_soft_token>"},
        specials=("<start_of_turn>", "<end_of_turn>"), stops=("<eos>", "<end_of_turn>"),
        image_token="<image_soft_token>", placeholder="<start_of_image>", ending="<end_of_turn>\n",
        block="all layers", leading=True, tokens=(9, 9),
    ),
    Family(
        "gemma4", "Gemma4ForConditionalGeneration", gemma4, kind="gemma",
        named=GEMMA | {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>",
                       "boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"},
        specials=("<|turn>", "<turn|>", "<|video|>"), stops=("<eos>", "<turn|>"), image_token="<|image|>",
        placeholder="<|image|>", ending="<turn|>\n", block="sliding layers", leading=True, tokens=(66, 66),
        parts=PARTS | {"projector": "embed_vision"},
    ),
]  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in ALL}
