"""A composed model as a vision-language model of transformers: LLaVA's class, or PerceptionLM's."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaProcessor,
    PerceptionLMProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.llava import LlavaConfig
from transformers.models.perception_lm import PerceptionLMConfig, PerceptionLMImageProcessor, PerceptionLMVideoProcessor

from dress import config
from dress.data.pixels import size_of
from dress.model.composed import ComposedLVLM
from dress.model.export.clip import NoSuchTower, TransformersTower, transformers_tower
from dress.model.export.projection import NoSuchProjector, Projection, projection
from dress.model.export.text import IMAGE, VIDEO, TextPart, text_part
from dress.model.export.timm_wrapper import TimmWrapperTower, timm_wrapper_tower
from dress.model.merging import merged_state

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class NoClass(ValueError):
    """No class of transformers computes what this model does; says why, for the encoder and for the projector."""


@dataclass(frozen=True)
class HFParts:
    """What a folder of transformers is made of.

    Attributes:
        config: of the model, with its `architectures`.
        weights: under the names that its class reads.
        processor: without a chat template.
        generation: what ends answers.
        image: the text that stands for an image in a chat template.
    """

    config: PretrainedConfig
    weights: dict[str, Tensor] = field(repr=False)
    processor: Any = field(repr=False)
    generation: GenerationConfig
    image: str


def composed_parts(model: ComposedLVLM, settings: config.ComposedModel, max_new_tokens: int) -> HFParts:
    """A composed model in the form of transformers.

    Args:
        model: trained; its adapters are merged in what is returned.
        settings: of it.
        max_new_tokens: longest answer, where nobody says another.

    Raises:
        NoClass: transformers has no class for it.
    """
    state = {name: value.cpu() for name, value in merged_state(model).items()}
    tower, language = _under(state, "vision.tower."), _under(state, "language.")
    reasons: list[str] = []
    try:
        projected = projection(model.projector, _under(state, "projector."))
    except NoSuchProjector as error:
        raise NoClass(f"projector {error}") from None
    pixels = model.vision.preprocessing

    def generation(text: TextPart) -> GenerationConfig:
        tokenizer, end = text.tokenizer, model.encoder.stop_id
        return GenerationConfig(
            bos_token_id=tokenizer.bos_token_id, eos_token_id=sorted(model.encoder.stops),
            pad_token_id=end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            max_new_tokens=max_new_tokens, suppress_tokens=list(text.suppressed) or None,
        )  # fmt: skip

    if projected.pooling == 1:
        try:
            vision, text = transformers_tower(model.vision, tower), text_part(model, language)
            return _llava(vision, projected, text, pixels, generation(text))
        except (NoSuchTower, _NoImages) as error:
            reasons.append(f"LlavaForConditionalGeneration: {error}")
    try:
        wrapped = timm_wrapper_tower(model.vision, tower, _architecture(settings.vision))
        text = text_part(model, language, (IMAGE, VIDEO))
        return _perception(wrapped, projected, text, pixels, generation(text))
    except (NoSuchTower, NoSuchProjector, _NoImages) as error:
        reasons.append(f"PerceptionLMForConditionalGeneration: {error}")
    raise NoClass("; ".join(reasons))


class _NoImages(ValueError):
    """A class's image processor makes no such pixels."""


def _llava(
    vision: TransformersTower, projected: Projection, text: TextPart, pixels: dict[str, Any],
    generation: GenerationConfig,
) -> HFParts:  # fmt: skip
    height, width = size_of(pixels)
    tokens = (height // vision.patch) * (width // vision.patch)
    described = LlavaConfig(
        vision_config=dict(vision.config), text_config=dict(text.config), image_token_index=text.number(IMAGE),
        image_seq_length=tokens, projector_hidden_act=projected.activation, vision_feature_layer=vision.layer,
        vision_feature_select_strategy="default" if vision.prefix_tokens else "full",
        architectures=["LlavaForConditionalGeneration"],
    )  # fmt: skip
    weights = {f"language_model.{name}": one for name, one in text.weights.items()}
    weights |= {f"multi_modal_projector.{name}": one for name, one in projected.weights.items()}
    weights |= {f"vision_tower.{vision.under}{name}": one for name, one in vision.weights.items()}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(**_clip_pixels(pixels)), tokenizer=text.tokenizer,
        patch_size=vision.patch, vision_feature_select_strategy="default" if vision.prefix_tokens else "full",
        image_token=text.tokens[IMAGE], num_additional_image_tokens=vision.prefix_tokens,
    )  # fmt: skip
    return HFParts(described, weights, processor, generation, text.tokens[IMAGE])


def _perception(
    vision: TimmWrapperTower, projected: Projection, text: TextPart, pixels: dict[str, Any],
    generation: GenerationConfig,
) -> HFParts:  # fmt: skip
    if projected.activation != "gelu":
        raise NoSuchProjector("a linear projector, and a language model less than twice as wide as the encoder")
    if pixels["resize_mode"] != "squash" or "crop_from" in pixels or len(set(size_of(pixels))) > 1:
        raise _NoImages(
            "its image processor squashes images into squares, and this model crops or pads them. Train with "
            "model.vision.resize=squash"
        )
    described = PerceptionLMConfig(
        vision_config=dict(vision.config), text_config=dict(text.config), image_token_id=text.number(IMAGE),
        video_token_id=text.number(VIDEO), projector_pooling_ratio=projected.pooling,
        vision_use_cls_token=bool(vision.prefix_tokens), architectures=["PerceptionLMForConditionalGeneration"],
    )  # fmt: skip
    weights = {f"model.language_model.{name.removeprefix('model.')}": one for name, one in text.weights.items()}
    if "lm_head.weight" in text.weights:
        weights["lm_head.weight"] = weights.pop("model.language_model.lm_head.weight")
    weights |= {f"model.multi_modal_projector.{name}": one for name, one in projected.weights.items()}
    weights |= {f"model.vision_tower.timm_model.{name}": one for name, one in vision.weights.items()}
    images = PerceptionLMImageProcessor(
        vision_input_type="vanilla", tile_size=size_of(pixels)[0], max_num_tiles=1,
        resample=FILTERS[pixels["interpolation"]], image_mean=list(pixels["mean"]), image_std=list(pixels["std"]),
    )  # fmt: skip
    tokenizer = _naming(text.tokenizer, image_token=text.tokens[IMAGE], video_token=text.tokens[VIDEO])
    processor = PerceptionLMProcessor(  # which asks for what reads videos too
        video_processor=PerceptionLMVideoProcessor(),
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=vision.patch,
        pooling_ratio=projected.pooling,
    )
    return HFParts(described, weights, processor, generation, text.tokens[IMAGE])


def _clip_pixels(pixels: dict[str, Any]) -> dict[str, Any]:
    """OpenCLIP's way of making pixels, as the arguments of CLIP's image processor.

    Raises:
        _NoImages: it pads.
    """
    height, width = size_of(pixels)
    crop = {"height": height, "width": width}
    edge = pixels.get("crop_from")
    common = {
        "resample": FILTERS[pixels["interpolation"]], "crop_size": crop, "image_mean": list(pixels["mean"]),
        "image_std": list(pixels["std"]), "do_convert_rgb": True,
    }  # fmt: skip
    match pixels["resize_mode"]:
        case "squash":
            size = crop if edge is None else {"height": edge, "width": edge}
            return common | {"size": size, "do_center_crop": edge is not None}
        case "shortest":
            return common | {"size": {"shortest_edge": edge or min(height, width)}, "do_center_crop": True}
    raise _NoImages("no image processor pads as model.vision.resize=pad does")


def _architecture(vision: config.Vision) -> str | None:
    """timm's name of an encoder."""
    if vision.timm is not None:
        return vision.timm.partition(".")[0]
    if vision.name is None:
        return None
    import open_clip

    described = open_clip.get_model_config(vision.name.replace("/", "-")) or {}
    return described.get("vision_cfg", {}).get("timm_model_name")


def _naming(tokenizer: PreTrainedTokenizerBase, **names: str) -> PreTrainedTokenizerBase:
    """The tokenizer with named tokens, which processors ask for."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        kind: Any = type(tokenizer)
        named: PreTrainedTokenizerBase = kind.from_pretrained(folder, **names)
    return named


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
