"""The image encoder: a vision tower of OpenCLIP, transformers or timm, patch tokens before pooling.

A tower that gives feature maps (ResNet, ConvNeXt, Swin, MobileCLIP) gives the places of one of them as tokens.

Shapes: N images, H, W pixels, V patch tokens, D_v width.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.transforms.v2 import InterpolationMode

from dress import config
from dress.base.errors import in_one_line
from dress.data.pixels import cropped, edge_of, fitted, padded, size_of
from dress.model.reach import leaves
from dress.model.sharding import digest_of
from dress.model.skeleton import on_meta
from dress.model.towers import HFTower, check_tower, hf_tower, timm_tower

SCRATCH_MEAN = (0.2, 0.2, 0.2)
SCRATCH_STD = (0.25, 0.25, 0.25)
SCRATCH_POSITION_STD = 0.3
"""A fresh tower's position embeddings start as loud as its patches: the language model finds out
which patch is where in a third of the steps (ours, measured)."""

CROPPING = {"crop_from", "crop_floor"}
"""Settings of `data.pixels` beside OpenCLIP's."""

RESIZE_MODES = {"crop": "shortest", "squash": "squash", "pad": "longest"}
"""OpenCLIP's names for what `model.vision.resize` says."""


class VisionEncoder(nn.Module):
    """Pixels [N, 3, H, W] to patch tokens [N, V, D_v] of the chosen block, or to the places of the chosen feature map.

    Always in eval mode: what an image gives must not depend on the images beside it (BatchNorm) nor on chance
    (dropout, dropped patches), or packing, ranks and resuming would change what is learned.

    Args:
        settings: an OpenCLIP or timm name (with weights, or random), a folder of transformers, or a ViT's sizes.
        preprocessing: of the same encoder with weights, where this one is to have none.

    Raises:
        ValueError: there is no such name, folder or weights, the block does not exist, the tower takes no images of
            that size, or a run's stage holds no such encoder.
    """

    def __init__(self, settings: config.Vision, preprocessing: dict[str, Any] | None = None) -> None:
        super().__init__()
        import open_clip  # here: it takes seconds, and configs are checked without it

        empty, of_run = on_meta(), from_run(settings)
        if not empty:
            check_vision(settings)
        self.tower, preprocess = _make(settings, of_run or empty)
        if preprocessing is not None:  # a name's depends on its weights
            preprocess = dict(preprocessing)
        if of_run and not empty:
            self._take(Path(str(settings.weights)))
        cropping: dict[str, Any] = {name: preprocess.pop(name) for name in CROPPING & preprocess.keys()}
        if settings.resize != "native":
            cropping = {}
            preprocess["resize_mode"] = RESIZE_MODES[settings.resize]
            preprocess["fill_color"] = round(255 * sum(preprocess["mean"]) / 3)  # near 0 once it is normalised
        transform_settings = open_clip.transform.PreprocessCfg(**preprocess)
        self.preprocessing: dict[str, Any] = asdict(transform_settings) | cropping
        """OpenCLIP's settings of `transform`, and what is cut away beyond them (`data.pixels`)."""
        self.transform = _transform(transform_settings, cropping)
        self.layer = settings.layer
        self.eval()
        self._form, tokens = self._probe(settings)
        self.num_tokens: int = tokens.shape[1]
        self.width: int = tokens.shape[2]

    def train(self, mode: bool = True) -> VisionEncoder:
        """Stays in eval mode, whatever is asked; its weights are trained all the same."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] to tokens [N, V, D_v]."""
        return _tokens(self.tower, pixels, self.layer, self._form)

    def _probe(self, settings: config.Vision) -> tuple[str, Tensor]:
        """How the tower is asked for tokens, and the tokens of one image, without numbers.

        What they do not depend on (the pooled output's own weights, later blocks) gets no gradient from us.
        """
        meta = {name: value.detach().to("meta") for name, value in self.tower.state_dict(keep_vars=True).items()}
        meta |= {name: value.to("meta") for name, value in self.tower.named_buffers()}  # those that are not saved, too
        weights = {name for name, _ in self.tower.named_parameters()}
        for name in weights:
            meta[name].requires_grad_()
        pixels = torch.empty(1, 3, *size_of(self.preprocessing), device="meta")
        for form in ("NLC", "NCHW"):
            try:
                with torch.enable_grad():
                    tokens = functional_call(_Asked(self.tower, self.layer, form), _under(meta), (pixels,))
                break
            except AssertionError as error:  # how OpenCLIP and timm refuse a form, or a layer
                refusal = error
            except AttributeError as error:
                raise ValueError(f"{_named(settings)}: this tower gives no tokens before pooling ({error})") from None
            except RuntimeError as error:  # shapes that do not go together
                if settings.image_size is None:
                    raise
                raise _other_size(settings, error) from None
        else:
            if settings.image_size is not None and str(refusal).startswith("Input"):
                raise _other_size(settings, refusal)
            blocks = f"model.vision.layer={self.layer}: expected a block or feature map of {_named(settings)}"
            raise ValueError(f"{blocks}, got none ({refusal})")
        with_gradient = leaves(tokens)
        for name, parameter in self.tower.named_parameters():
            parameter.requires_grad_(id(meta[name]) in with_gradient)
        return form, tokens

    def preprocess(self, image: Image.Image) -> Tensor:
        """RGB image to pixels [3, H, W], as the tower was trained."""
        return self.transform(image)

    def facts(self, images: str) -> dict[str, str]:
        """All that stored features depend on, beside their own type: features are used with these facts only.

        Weights count to bf16 precision, so that it does not matter in which type they are kept.

        Args:
            images: how images are decoded and resized (`data.images`).
        """
        timm = f", timm {version('timm')}" if hasattr(self.tower, "trunk") else ""
        hf = f", transformers {version('transformers')}" if isinstance(self.tower, HFTower) else ""
        return {
            "weights": digest_of(self.tower.state_dict()),
            "layer": str(self.layer),
            "pooling": "none",
            "preprocessing": json.dumps({**self.preprocessing, "images": images}, sort_keys=True),
            "library": f"open_clip {version('open_clip_torch')}{timm}{hf}",
        }

    def _take(self, folder: Path) -> None:
        """The encoder that a stage of a run ended with."""
        file = folder / "model.safetensors"
        if not file.exists():
            raise ValueError(f"model.vision.weights={folder}: expected model.safetensors of a stage, found none")
        prefix = "vision.tower."
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118
            weights = {name.removeprefix(prefix): tensors.get_tensor(name) for name in names}
        expected = {name: tuple(value.shape) for name, value in self.tower.state_dict().items()}
        if {name: tuple(value.shape) for name, value in weights.items()} != expected:
            raise ValueError(
                f"model.vision.weights={folder}: expected an encoder of {len(expected)} tensors as model.vision says, "
                f"got {len(weights)} or of other sizes. An encoder that came with weights of its own is not written "
                f"again: name those weights"
            )
        self.tower.load_state_dict(weights)


class _Asked(nn.Module):
    """A tower as a module whose output is its tokens."""

    def __init__(self, tower: nn.Module, layer: int, form: str) -> None:
        super().__init__()
        self.tower, self.layer, self.form = tower, layer, form

    def forward(self, pixels: Tensor) -> Tensor:
        return _tokens(self.tower, pixels, self.layer, self.form)


def _tokens(tower: Any, pixels: Tensor, layer: int, form: str) -> Tensor:
    """Tokens [N, V, D_v] of a block, or of a feature map [N, D_v, h, w], row by row."""
    out = tower.forward_intermediates(
        pixels, indices=[layer], stop_early=True, intermediates_only=True, output_fmt=form
    )
    (tokens,) = out["image_intermediates"]
    return tokens if form == "NLC" else tokens.flatten(2).transpose(1, 2)


def _under(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"tower.{name}": value for name, value in tensors.items()}


def _named(settings: config.Vision) -> str:
    names = {"folder": settings.folder, "timm": settings.timm, "name": settings.name}
    named = (f"model.vision.{kind}={name}" for kind, name in names.items() if name is not None)
    return next(named, "model.vision.vit")


def _other_size(settings: config.Vision, error: Exception) -> ValueError:
    return ValueError(
        f"model.vision.image_size={settings.image_size}: {_named(settings)} takes no images of this size "
        f"({in_one_line(error)}). null is the weights' own"
    )


def _make(settings: config.Vision, own: bool) -> tuple[Any, dict[str, Any]]:
    """A tower and its preprocessing.

    Args:
        settings: which one.
        own: its weights come from elsewhere (a stage of a run, another rank), and need not be read here.
    """
    import open_clip  # here: it takes seconds, and configs are checked without it

    weights = None if own else settings.weights
    if settings.folder is not None:
        return hf_tower(settings, not own and settings.loaded)
    if settings.timm is not None:
        return timm_tower(settings, weights)
    if settings.name is not None:
        return _by_name(settings.name, weights, settings.image_size)
    vit = settings.vit
    assert vit is not None
    tower = open_clip.transformer.VisionTransformer(
        vit.image_size, vit.patch_size, vit.width, vit.layers, vit.heads, vit.mlp_ratio, output_dim=vit.width
    )
    nn.init.normal_(tower.positional_embedding, std=SCRATCH_POSITION_STD)
    return tower, {"size": vit.image_size, "mean": SCRATCH_MEAN, "std": SCRATCH_STD, "resize_mode": "squash"}


def _transform(settings: Any, cropping: dict[str, Any]) -> Any:
    """OpenCLIP's transform; where it pads, a narrow image keeps at least one pixel, and `cropping` is obeyed."""
    import open_clip

    transform = open_clip.transform.image_transform_v2(settings, is_train=False)
    mode, size = settings.resize_mode, size_of(asdict(settings))
    if mode == "longest":
        transform.transforms[:2] = [_Pad(size, settings.interpolation, settings.fill_color)]
    elif cropping:
        edge = edge_of(asdict(settings) | cropping)
        resize = type(transform.transforms[0])(edge[0] if mode == "shortest" else edge, _filter(settings))
        crop = partial(cropped, size=size, floor=cropping.get("crop_floor", False))
        transform.transforms[: 2 if mode == "shortest" else 1] = [resize, crop]
    return transform


def _filter(settings: Any) -> InterpolationMode:
    bilinear = settings.interpolation == "bilinear"
    return InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC


class _Pad:
    """An RGB image shrunk or enlarged until it just fits, in the middle of the fill colour."""

    def __init__(self, size: list[int], interpolation: str, fill: int) -> None:
        self.size, self.fill = size, fill
        self.filter = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = fitted(image.height, image.width, self.size)
        return padded(image.resize((width, height), self.filter), self.size, self.fill)


def check_vision(settings: config.Vision) -> None:
    """Refuse an encoder or weights that are not there, without making it.

    Raises:
        ValueError: names them.
    """
    name, weights = settings.name, settings.weights
    if settings.folder is not None or settings.timm is not None:
        check_tower(settings)
        return
    if from_run(settings):
        return
    if name is None:
        if weights is not None:
            raise ValueError(
                f"model.vision.weights={weights}: with model.vision.vit expected a stage's folder, "
                f"e.g. logs/latest/stages/align, found none"
            )
        return
    import open_clip  # here: it takes seconds, and configs are checked without it

    if name.startswith(("hf-hub:", "local-dir:")):
        return
    if open_clip.get_model_config(name.replace("/", "-")) is None:
        raise _unknown(name, weights, "there is no model of this name")
    if weights is not None and not open_clip.get_pretrained_cfg(name, weights) and not Path(weights).exists():
        raise _unknown(name, weights, "there are no weights of this tag, and no such file")


def _unknown(name: str, weights: str | None, why: object) -> ValueError:
    return ValueError(
        f"model.vision.name={name}, model.vision.weights={weights}: OpenCLIP cannot make it ({in_one_line(why)}). "
        f"open_clip.list_pretrained() lists names and weights; a local file works as weights too"
    )


def from_run(settings: config.Vision) -> bool:
    """Whether the weights are those of a stage of a run; such a model writes them again."""
    return settings.weights is not None and Path(settings.weights).is_dir()


def _by_name(name: str, weights: str | None, size: int | None) -> tuple[nn.Module, dict]:
    """A tower and its preprocessing; without weights nothing but the tower is made, and nothing is fetched.

    For another size OpenCLIP and timm interpolate the position embeddings.
    """
    import open_clip

    try:
        if weights is None and (model_config := open_clip.get_model_config(name.replace("/", "-"))) is not None:
            vision = model_config["vision_cfg"] | {"timm_model_pretrained": False}
            vision |= {} if size is None else {"image_size": size}
            tower = open_clip.model._build_vision_tower(
                model_config["embed_dim"], vision, model_config.get("quick_gelu", False)
            )
            if size is not None and hasattr(tower, "set_input_size"):
                tower.set_input_size(size)
            return tower, asdict(open_clip.transform.PreprocessCfg(size=tower.image_size))
        model = open_clip.create_model(
            name, pretrained=weights, load_weights=weights is not None, force_image_size=size,
            device=torch.get_default_device(),
        )  # fmt: skip
    except (RuntimeError, OSError, FileNotFoundError, AssertionError) as error:
        if size is not None and ("size mismatch" in str(error) or isinstance(error, AssertionError)):
            raise _other_size(config.Vision(name=name, image_size=size), error) from None
        raise _unknown(name, weights, error) from error
    return model.visual, dict(open_clip.get_model_preprocess_cfg(model))
