"""Any vision tower of OpenCLIP gives tokens; what an image gives depends on nothing but the image."""

from __future__ import annotations

import open_clip
import pytest
import torch
from conftest import small_model
from torch import nn

from dress import config
from dress.model.vision import VisionEncoder

FAMILIES = {
    "RN50": (49, 2048),
    "convnext_base": (49, 1024),
    "MobileCLIP-S1": (64, 512),
    "swin_base_patch4_window7_224": (49, 1024),
    "ViT-B-32": (49, 768),
    "vit_relpos_medium_patch16_cls_224": (196, 512),
    "EVA02-B-16": (196, 768),
}
"""One tower of each family: tokens and width."""


def encoder(**settings: object) -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(config.Vision(**settings))


def pixels(vision: VisionEncoder, n: int) -> torch.Tensor:
    size = vision.preprocessing["size"]
    return torch.rand(n, 3, *((size, size) if isinstance(size, int) else size))


def on_meta(**settings: object) -> VisionEncoder:
    """The tower's shapes alone: nothing is computed."""
    with torch.device("meta"):
        return encoder(**settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tower_of_each_family_gives_tokens(name):
    vision = on_meta(name=name)
    assert (vision.num_tokens, vision.width) == FAMILIES[name]
    assert vision(pixels(vision, 2).to("meta")).shape == (2, *FAMILIES[name])


@pytest.mark.parametrize("name", ["RN50", "MobileCLIP-S1"])
def test_a_tower_with_batch_norm_is_left_as_it_was(name):
    vision = encoder(name=name)
    kinds = [m for m in vision.modules() if isinstance(m, nn.BatchNorm2d)]
    assert kinds and all(not m.running_mean.any() and m.num_batches_tracked == 0 for m in kinds), "building changed it"
    before = {name: value.clone() for name, value in vision.tower.named_buffers()}
    vision.train()
    assert not any(m.training for m in vision.modules())
    images = pixels(vision, 3)
    alone = torch.cat([vision(image[None]) for image in images])
    torch.testing.assert_close(vision(images), alone, atol=2e-4, rtol=2e-3)  # whatever stands beside it
    vision(images).square().sum().backward()
    reached = {name: parameter.grad is not None for name, parameter in vision.named_parameters()}
    assert reached == {name: parameter.requires_grad for name, parameter in vision.named_parameters()}
    assert not all(reached.values()), "the pooled output's own weights are not reached"
    assert all(torch.equal(value, before[name]) for name, value in vision.tower.named_buffers())


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("RN50", -2, (196, 1024)),
        ("RN50", 1, (3136, 256)),
        ("convnext_base", -2, (196, 512)),
        ("ViT-B-32", 0, (49, 768)),
    ],
)
def test_layer_chooses_a_block_or_a_feature_map(name, layer, shape):
    vision = on_meta(name=name, layer=layer)
    assert (vision.num_tokens, vision.width) == shape
    expected = {name for name, parameter in vision.named_parameters() if parameter.requires_grad}
    vision(pixels(vision, 1).to("meta")).sum().backward()
    assert expected == {name for name, parameter in vision.named_parameters() if parameter.grad is not None}


def test_feature_maps_become_tokens_row_by_row():
    vision = encoder(name="RN50", layer=1)
    images = pixels(vision, 1)
    with torch.no_grad():
        (features,) = vision.tower.forward_intermediates(images, indices=[1], intermediates_only=True)[
            "image_intermediates"
        ]
        tokens = vision(images)
    assert torch.equal(tokens[0, 56 + 2], features[0, :, 1, 2])


@pytest.mark.parametrize("settings", [{"name": "RN50", "layer": 9}, {"name": "ViT-B-32", "layer": -13},
                                      {"vit": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2,
                                               "heads": 2}, "layer": 2}], ids=str)  # fmt: skip
def test_a_block_that_is_not_there_is_named(settings):
    with pytest.raises(ValueError, match=rf"model\.vision\.layer={settings['layer']}: expected a block"):
        on_meta(**settings)


def test_a_tower_without_weights_needs_no_text_tower_and_no_hub(monkeypatch):
    monkeypatch.setattr(open_clip, "create_model", None)
    assert on_meta(name="xlm-roberta-base-ViT-B-32").width == 768  # its text tower is one of the hub


def test_resize_is_of_the_weights_unless_it_is_set():
    ways = {way: on_meta(name="ViT-B-32", resize=way).preprocessing for way in ("native", "crop", "squash", "pad")}
    modes = {way: settings["resize_mode"] for way, settings in ways.items()}
    assert modes == {"native": "shortest", "crop": "shortest", "squash": "squash", "pad": "longest"}
    assert ways["pad"]["fill_color"] == 115, "the mean of its colours"
    vit = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "heads": 2}
    crop, native = (encoder(vit=vit, resize=way) for way in ("crop", "native"))
    assert native.preprocessing["resize_mode"] == "squash"
    assert crop.facts("fast") != native.facts("fast"), "stored features are of one way"


def test_the_encoder_stays_in_eval_mode_in_a_model(tokenizer):
    model = small_model(tokenizer)
    assert not model.vision.tower.training
    for parts in (["projector"], ["vision", "projector", "language"]):
        model.set_trainable(parts)
        model.train()
        assert model.language.training and model.projector.training, "activations are recomputed in training mode only"
        assert not any(module.training for module in model.vision.modules())


@pytest.mark.slow
def test_every_name_of_openclip_gives_tokens():
    """Shapes and gradients of all of them, on the meta device."""
    for name in open_clip.list_models():
        vision = on_meta(name=name)
        tokens = vision(pixels(vision, 1).to("meta"))
        assert tokens.shape == (1, vision.num_tokens, vision.width), name
        tokens.sum().backward()
        for place, parameter in vision.named_parameters():
            assert parameter.requires_grad == (parameter.grad is not None), (name, place)
        del vision, tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_tower_of_each_family_computes(name):
    vision = encoder(name=name)
    vision(pixels(vision, 1)).square().sum().backward()
    for place, parameter in vision.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None and bool(parameter.grad.isfinite().all())), place
