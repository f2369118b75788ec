"""Encoders beside OpenCLIP's own: vision models of transformers in folders, and timm's.

Both answer `forward_intermediates` as OpenCLIP's towers do: what a block gives, before the last norm, without class
and register tokens. Block k gives what transformers calls `hidden_states[k + 1]`; -1 and -2 mean the same in both.

Shapes: N images, H, W pixels, V patch tokens, D_v width.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoImageProcessor

from dress import config
from dress.base.errors import in_one_line
from dress.base.files import read_json
from dress.config.model import DINOV2, RANDOM
from dress.config.nearest import nearest
from dress.model.weight_files import check_file, check_folder

FAMILIES = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
"""`model_type` of a folder to the class of its encoder."""

PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
FILTERS = {2: "bilinear", 3: "bicubic"}
"""Numbers of `resample` to OpenCLIP's names."""
PRETRAINED = "pretrained"
"""`model.vision.weights` of a timm model whose own weights are taken."""

Preprocessing = dict[str, Any]
"""Fields of OpenCLIP's `PreprocessCfg`, and those of `data.pixels` on cropping."""


class HFTower(nn.Module):
    """The encoder of a folder, without the blocks behind the chosen one.

    Args:
        network: a vision model of transformers.
        layer: which block.

    Raises:
        ValueError: there is no such block.
    """

    def __init__(self, network: Any, layer: int) -> None:
        super().__init__()
        number = network.config.num_hidden_layers
        (blocks, *_) = (m for m in network.modules() if isinstance(m, nn.ModuleList) and len(m) == number)
        last = layer + number if layer < 0 else layer
        if not 0 <= last < number:
            raise ValueError(
                f"model.vision.layer={layer}: expected a block or feature map of {network.config.model_type}, "
                f"got none: it has {number} blocks"
            )
        del blocks[last + 1 :]
        network.config.num_hidden_layers = last + 1
        self.network = network
        takes = inspect.signature(network.forward).parameters
        self._more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}

    def forward_intermediates(
        self, pixels: Tensor, indices: Sequence[int], output_fmt: str = "NLC", **_: bool
    ) -> dict[str, list[Tensor]]:
        """Pixels [N, 3, H, W] to tokens [N, V, D_v] of the last block that is there, whatever `indices` says."""
        assert output_fmt == "NLC", "a vision transformer gives tokens"
        out = self.network(pixel_values=pixels, output_hidden_states=True, **self._more)
        patch = self.network.config.patch_size
        patches = (pixels.shape[2] // patch) * (pixels.shape[3] // patch)
        return {"image_intermediates": [out.hidden_states[-1][:, -patches:]]}  # class and registers come first


class TimmTower(nn.Module):
    """A model of timm."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk

    def forward_intermediates(self, pixels: Tensor, **how: Any) -> dict[str, list[Tensor]]:
        """Pixels [N, 3, H, W] to tokens or a feature map, as timm's own method of this name."""
        return {"image_intermediates": self.trunk.forward_intermediates(pixels, norm=False, **how)}


def check_tower(settings: config.Vision) -> None:
    """Refuse a folder, a timm model or their weights that are not there or not whole, without making it.

    Raises:
        ValueError: names it.
    """
    weights = settings.weights
    of_stage = weights is not None and Path(weights).is_dir()
    if settings.folder is not None:
        key = f"model.vision.folder={settings.folder}"
        _class_of(Path(settings.folder), key)
        if not any((Path(settings.folder) / name).is_file() for name in PREPROCESSORS):
            raise ValueError(f"{key}: expected {PREPROCESSORS[0]}, which says how images are resized, found none")
        if weights is None:
            check_folder(Path(settings.folder), key)
        elif weights != RANDOM and not of_stage:
            raise ValueError(
                f"model.vision.weights={weights}: with model.vision.folder expected null (its own weights), {RANDOM}, "
                f"or a stage's folder, e.g. logs/latest/stages/align"
            )
    if settings.timm is not None:
        import timm  # here: it takes seconds, and configs are checked without it

        if not timm.is_model(settings.timm):
            near = nearest(settings.timm, timm.list_models())
            raise ValueError(f"model.vision.timm={settings.timm}: timm has no model of this name.{near}")
        if weights not in (None, PRETRAINED) and not of_stage:
            check_file(Path(str(weights)), f"model.vision.weights={weights}")


def hf_tower(settings: config.Vision, own: bool) -> tuple[HFTower, Preprocessing]:
    """The encoder of a folder and how its own preprocessor makes pixels.

    Args:
        settings: the folder, the block and the size of images.
        own: whether the folder's weights are read; else they are random.

    Raises:
        ValueError: it does not load, or its way of making pixels is none of OpenCLIP's.
    """
    folder = Path(str(settings.folder))
    key = f"model.vision.folder={folder}"
    kind = _class_of(folder, key)
    preprocessing = _resized(_of_processor(folder, key), settings.image_size, key)
    try:
        with _quiet():
            if own:
                network, report = kind.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, attn_implementation="sdpa",
                    output_loading_info=True,
                )  # fmt: skip
            else:
                described = kind.config_class.from_pretrained(folder)
                network, report = kind._from_config(described, dtype=torch.float32, attn_implementation="sdpa"), {}
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{key}: does not load ({_line(error)})") from None
    lacking = sorted(map(str, [*report.get("missing_keys", ()), *report.get("mismatched_keys", ())]))
    if lacking:
        raise ValueError(f"{key}: its safetensors lack {len(lacking)} weights of the encoder, first {lacking[0]}")
    return HFTower(network, settings.layer), preprocessing


def timm_tower(settings: config.Vision, weights: str | None) -> tuple[TimmTower, Preprocessing]:
    """A model of timm and how its own configuration makes pixels.

    Args:
        settings: the name, and the size of images.
        weights: `pretrained`, a .safetensors file, or null for random ones.

    Raises:
        ValueError: it does not load, takes no other size, or its way of making pixels is none of OpenCLIP's.
    """
    import timm

    name = str(settings.timm)
    key = f"model.vision.timm={name}"
    try:
        trunk: Any = timm.create_model(name, pretrained=weights == PRETRAINED, num_classes=0)
        if weights not in (None, PRETRAINED):
            own_filter = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
            report = timm.models.load_checkpoint(trunk, weights, strict=False, filter_fn=own_filter)
            if report.missing_keys:
                raise ValueError(
                    f"{weights} lacks {len(report.missing_keys)} of its weights, first {report.missing_keys[0]}"
                )
    except Exception as error:  # of the hub, of torch, of the model's own checks
        raise ValueError(f"{key}, model.vision.weights={weights}: does not load ({_line(error)})") from None
    preprocessing = _resized(_of_timm(timm.data.resolve_model_data_config(trunk), key), settings.image_size, key)
    if settings.image_size is not None and hasattr(trunk, "set_input_size"):
        try:
            trunk.set_input_size(img_size=(settings.image_size, settings.image_size))
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"model.vision.image_size={settings.image_size}: not for {name} ({error})") from None
    return TimmTower(trunk), preprocessing


def folder_tokens(settings: config.Vision) -> int:
    """V of a folder's encoder, by its configuration alone."""
    folder, key = Path(str(settings.folder)), f"model.vision.folder={settings.folder}"
    described: Any = _class_of(folder, key).config_class.from_pretrained(folder)
    height, width = _resized(_of_processor(folder, key), settings.image_size, key)["size"]
    return int((height // described.patch_size) * (width // described.patch_size))


def _class_of(folder: Path, key: str) -> Any:
    file = folder / "config.json"
    if not file.is_file():
        make = ". `make photos` makes it" if folder == Path(DINOV2) else ""
        raise ValueError(
            f"{key}: expected a folder with config.json of a vision model of transformers, found none{make}"
        )
    kind = read_json(file, dict).get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{key}: config.json: model_type: expected one of {', '.join(FAMILIES)}, got {kind!r:.60}")
    return getattr(transformers, FAMILIES[kind])


def _of_processor(folder: Path, key: str) -> Preprocessing:
    """What a folder's image processor does, as OpenCLIP says it.

    Raises:
        ValueError: it does something else; names the field.
    """
    try:
        processor: Any = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise ValueError(f"{key}: its image processor does not load ({_line(error)})") from None
    name = next(name for name in (*PREPROCESSORS, "") if (folder / name).is_file() or not name)
    where = f"{key}: {name}"
    if not processor.do_resize or not processor.do_rescale or getattr(processor, "do_pad", None):
        raise ValueError(f"{where}: expected do_resize and do_rescale, and no do_pad; got another way")
    if not math.isclose(processor.rescale_factor, 1 / 255, rel_tol=1e-6):
        raise ValueError(f"{where}: rescale_factor: expected 1/255, got {processor.rescale_factor}")
    if processor.resample not in FILTERS:
        raise ValueError(f"{where}: resample: expected 2 (bilinear) or 3 (bicubic), got {processor.resample}")
    normal = processor.do_normalize
    result: Preprocessing = {
        "mean": tuple(processor.image_mean) if normal else (0.0, 0.0, 0.0),
        "std": tuple(processor.image_std) if normal else (1.0, 1.0, 1.0),
        "interpolation": FILTERS[int(processor.resample)],
    }
    size, crop = processor.size, processor.crop_size if getattr(processor, "do_center_crop", False) else None
    exact = (size.height, size.width)
    if None not in exact and (crop is None or (crop.height, crop.width) == exact):
        return result | {"size": exact, "resize_mode": "squash"}
    edge = size.shortest_edge
    if edge and not size.longest_edge and crop is not None and crop.height == crop.width and crop.height <= edge:
        return result | {
            "size": (crop.height, crop.width), "resize_mode": "shortest", "crop_from": edge, "crop_floor": True
        }  # fmt: skip
    raise ValueError(
        f"{where}: size: expected height and width, or shortest_edge with a smaller square crop_size, got "
        f"{_set(size)}, crop_size {_set(crop)}. Tiles and images of many sizes go into model=hf"
    )


def _of_timm(settings: dict[str, Any], key: str) -> Preprocessing:
    """What a timm model's data configuration says, as OpenCLIP says it.

    Raises:
        ValueError: it says something else.
    """
    size, mode = tuple(settings["input_size"][1:]), settings["crop_mode"]
    edges = [math.floor(side / settings["crop_pct"]) for side in size]
    modes = {"center": "shortest", "squash": "squash"}
    if mode not in modes or settings["interpolation"] not in FILTERS.values() or (edges[0] != edges[1]):
        raise ValueError(
            f"{key}: expected square images, {' or '.join(FILTERS.values())} and crop_mode center or squash, got "
            f"{settings}. Choose model.vision.resize=squash"
        )
    result = {name: settings[name] for name in ("mean", "std", "interpolation")}
    result |= {"size": size, "resize_mode": modes[mode]}
    return result if edges[0] == size[0] else result | {"crop_from": edges[0]}


def _resized(preprocessing: Preprocessing, size: int | None, key: str) -> Preprocessing:
    """The same for images of another size; what is cropped away stays the same share."""
    if size is None:
        return preprocessing
    before = preprocessing["size"]
    if before[0] != before[1]:
        raise ValueError(f"model.vision.image_size={size}: expected null, since {key} takes {before[1]} x {before[0]}")
    edge = preprocessing.get("crop_from")
    more = {} if edge is None else {"crop_from": round(edge * size / before[0])}
    return preprocessing | {"size": (size, size)} | more


def _set(size: Any) -> dict[str, int] | None:
    return None if size is None else {name: value for name, value in dict(size).items() if value is not None}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a bar, and without a table of the text tower's weights, which are left out on purpose."""
    log = transformers.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {in_one_line(error)}"
