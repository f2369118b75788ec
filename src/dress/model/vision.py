"""The image encoder: any OpenCLIP vision tower, patch tokens before pooling.

Shapes: N images, H = W pixels, V patch tokens, D_v width.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
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
        ValueError: OpenCLIP knows no such name or weights, or the block does not exist.
    """

    def __init__(self, settings: config.Vision) -> None:
        super().__init__()
        import open_clip  # here: it takes seconds, and configs are checked without it

        if settings.vit is not None:
            vit = settings.vit
            self.tower = open_clip.transformer.VisionTransformer(
                vit.image_size, vit.patch_size, vit.width, vit.layers, vit.heads, vit.mlp_ratio, output_dim=vit.width
            )
            nn.init.normal_(self.tower.positional_embedding, std=SCRATCH_POSITION_STD)
            preprocess = {"size": vit.image_size, "mean": SCRATCH_MEAN, "std": SCRATCH_STD, "resize_mode": "squash"}
        else:
            assert settings.name is not None
            self.tower, preprocess = _by_name(settings.name, settings.weights)
        self.transform = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**preprocess), is_train=False
        )
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
