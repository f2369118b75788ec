"""The image encoder: any OpenCLIP vision tower, patch tokens before pooling.

Shapes: N images, H = W pixels, V patch tokens, D_v width.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from dress import config

SCRATCH_MEAN = (0.2, 0.2, 0.2)
SCRATCH_STD = (0.25, 0.25, 0.25)
SCRATCH_POSITION_STD = 0.3
"""A fresh tower's position embeddings start as loud as its patches: the language model finds out
which patch is where in a third of the steps (ours, measured)."""


class VisionEncoder(nn.Module):
    """Pixels [N, 3, H, W] to patch tokens [N, V, D_v] of the chosen block.

    Args:
        settings: an OpenCLIP name (with weights, or random) or a ViT's sizes.

    Raises:
        ValueError: OpenCLIP knows no such name or weights, the block does not exist, or a run's stage holds no
            such encoder.
    """

    def __init__(self, settings: config.Vision) -> None:
        super().__init__()
        import open_clip  # here: it takes seconds, and configs are checked without it

        own = from_run(settings)
        if settings.vit is not None:
            if settings.weights is not None and not own:
                raise ValueError(
                    f"model.vision.weights={settings.weights}: with model.vision.vit expected a stage's folder, "
                    f"e.g. logs/latest/stages/align, found none"
                )
            vit = settings.vit
            self.tower = open_clip.transformer.VisionTransformer(
                vit.image_size, vit.patch_size, vit.width, vit.layers, vit.heads, vit.mlp_ratio, output_dim=vit.width
            )
            nn.init.normal_(self.tower.positional_embedding, std=SCRATCH_POSITION_STD)
            preprocess = {"size": vit.image_size, "mean": SCRATCH_MEAN, "std": SCRATCH_STD, "resize_mode": "squash"}
        else:
            assert settings.name is not None
            self.tower, preprocess = _by_name(settings.name, None if own else settings.weights)
        if own:
            self._take(Path(str(settings.weights)))
        wanted = open_clip.transform.PreprocessCfg(**preprocess)
        self.preprocessing: dict[str, Any] = asdict(wanted)
        """OpenCLIP's settings of `transform`."""
        self.transform = open_clip.transform.image_transform_v2(wanted, is_train=False)
        self.layer = settings.layer
        size: Any = preprocess["size"]
        size = (size, size) if isinstance(size, int) else size
        device = next(self.tower.parameters()).device
        with torch.no_grad():
            tokens = self.forward(torch.zeros((1, 3, size[0], size[1]), device=device))
        self.num_tokens: int = tokens.shape[1]
        self.width: int = tokens.shape[2]
        self._freeze_unused()

    def forward(self, pixels: Tensor) -> Tensor:
        out = self.tower.forward_intermediates(
            pixels, indices=[self.layer], stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        return out["image_intermediates"][0]

    def preprocess(self, image: Image.Image) -> Tensor:
        """RGB image to pixels [3, H, W], as the tower was trained."""
        return self.transform(image)

    def facts(self, images: str) -> dict[str, str]:
        """All that stored features depend on, beside their own type: features are used with these facts only.

        Weights count to bf16 precision, so that it does not matter in which type they are kept.

        Args:
            images: how images are decoded and resized (`data.images`).
        """
        digest = hashlib.sha256()
        for name, value in sorted(self.tower.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
        timm = f", timm {version('timm')}" if hasattr(self.tower, "trunk") else ""
        return {
            "weights": digest.hexdigest()[:16],
            "layer": str(self.layer),
            "pooling": "none",
            "preprocessing": json.dumps({**self.preprocessing, "images": images}, sort_keys=True),
            "library": f"open_clip {version('open_clip_torch')}{timm}",
        }

    def _take(self, folder: Path) -> None:
        """The encoder that a stage of a run ended with."""
        file = folder / "model.safetensors"
        if not file.exists():
            raise ValueError(f"model.vision.weights={folder}: expected model.safetensors of a stage, found none")
        prefix = "vision.tower."
        with safe_open(file, framework="pt") as tensors:
            found = {n.removeprefix(prefix): tensors.get_tensor(n) for n in tensors.keys() if n.startswith(prefix)}  # noqa: SIM118
        expected = {name: tuple(value.shape) for name, value in self.tower.state_dict().items()}
        if {name: tuple(value.shape) for name, value in found.items()} != expected:
            raise ValueError(
                f"model.vision.weights={folder}: expected an encoder of {len(expected)} tensors as model.vision says, "
                f"got {len(found)} or of other sizes. An encoder that came with weights of its own is not written "
                f"again: name those weights"
            )
        self.tower.load_state_dict(found)

    def _freeze_unused(self) -> None:
        """What only the tower's own pooled output needs gets no gradient from us."""
        unused = ("ln_post.", "proj", "trunk.norm.", "trunk.fc_norm.", "trunk.head.", "head.")
        for name, parameter in self.tower.named_parameters():
            if name.startswith(unused):
                parameter.requires_grad_(False)
        blocks = getattr(self.tower, "transformer", getattr(self.tower, "trunk", None))
        blocks = list(getattr(blocks, "resblocks", getattr(blocks, "blocks", [])))
        for block in blocks[len(blocks) + self.layer + 1 if self.layer < 0 else self.layer + 1 :]:
            block.requires_grad_(False)


def from_run(settings: config.Vision) -> bool:
    """Whether the weights are those of a stage of a run; such a model writes them again."""
    return settings.weights is not None and Path(settings.weights).is_dir()


def _by_name(name: str, weights: str | None) -> tuple[nn.Module, dict]:
    import open_clip

    try:
        model = open_clip.create_model(name, pretrained=weights, load_weights=weights is not None)
    except (RuntimeError, OSError, FileNotFoundError) as error:
        raise ValueError(
            f"model.vision.name={name}, model.vision.weights={weights}: OpenCLIP cannot make it ({error}). "
            f"open_clip.list_pretrained() lists names and weights; a local file works as weights too"
        ) from error
    return model.visual, dict(open_clip.get_model_preprocess_cfg(model))
