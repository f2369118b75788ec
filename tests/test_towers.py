"""Encoders of transformers' folders and of timm, other sizes of images, and projectors that give fewer tokens."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from dress import config
from dress.data.pixels import Pixels, hidden_share
from dress.model.checkpoint import base_names, from_files, load_model, loaded_weights, save_model
from dress.model.composed import ComposedLVLM
from dress.model.vision import VisionEncoder, check_vision

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
    "projection_dim": 32,
}  # fmt: skip
SQUASH = {"size": {"height": 32, "width": 32}}
CROP = {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}


def clip(whole: bool) -> nn.Module:
    if whole:
        return transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=SIZES))
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZES))


def siglip(whole: bool) -> nn.Module:
    if whole:
        return transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=SIZES))
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES))


def dinov2() -> nn.Module:
    return transformers.Dinov2Model(transformers.Dinov2Config(**SIZES | {"image_size": 48}))


def registers() -> nn.Module:
    settings = transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=4)
    return transformers.Dinov2WithRegistersModel(settings)


def dinov3() -> nn.Module:
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=2))


FAMILIES = {
    "clip": (lambda: clip(False), transformers.CLIPImageProcessorPil, CROP, 1),
    "whole clip": (lambda: clip(True), transformers.CLIPImageProcessorPil, CROP, 1),
    "siglip": (lambda: siglip(False), transformers.SiglipImageProcessorPil, SQUASH, 0),
    "whole siglip": (lambda: siglip(True), transformers.SiglipImageProcessorPil, SQUASH, 0),
    "dinov2": (dinov2, transformers.BitImageProcessorPil, CROP, 1),
    "dinov2 with registers": (registers, transformers.BitImageProcessorPil, CROP, 5),
    "dinov3": (dinov3, transformers.SiglipImageProcessorPil, SQUASH, 3),
}
"""A tiny checkpoint of each family, its image processor, and how many tokens stand before the patches."""


def saved(folder: Path, family: str = "dinov2") -> tuple[nn.Module, Path]:
    """The network and the folder that it is saved in."""
    make, processor, sizes, _ = FAMILIES[family]
    torch.manual_seed(0)
    network = make().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)  # tokens differ by place and block
    network.save_pretrained(folder)
    processor(**sizes).save_pretrained(folder)
    return getattr(network, "vision_model", network), folder


def encoder(**settings: object) -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(config.Vision(**settings))


def picture(height: int, width: int) -> Image.Image:
    drawn = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(drawn).resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def model_of(tokenizer, **settings: object) -> ComposedLVLM:
    torch.manual_seed(0)
    return ComposedLVLM(composed_settings(**settings), tokenizer)


def composed_settings(**settings: object) -> config.ComposedModel:
    language = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    }  # fmt: skip
    return config.ComposedModel.model_validate({"language": {"config": language}, **settings})


# --- folders of transformers ----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_folder_are_hidden_states_of_its_own_network(tmp_path, family):
    network, folder = saved(tmp_path, family)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        states = network(pixel_values=images, output_hidden_states=True).hidden_states
    before = FAMILIES[family][3]
    for layer in (-1, -2, 0):
        vision = encoder(folder=str(folder), layer=layer)
        assert (vision.num_tokens, vision.width) == (16, 32)
        tokens = vision(images)
        torch.testing.assert_close(tokens, states[layer if layer < 0 else layer + 1][:, before:], atol=1e-6, rtol=1e-6)
        tokens.square().sum().backward()
        reached = {name for name, p in vision.named_parameters() if p.grad is not None}
        assert reached == {name for name, p in vision.named_parameters() if p.requires_grad} != set()
        assert not any("layernorm." in name and "encoder" not in name for name in reached), "the last norm is behind it"


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2", "dinov3"])
@pytest.mark.parametrize("size", [(75, 50), (50, 101), (41, 38), (20, 20)])
def test_pixels_are_those_of_the_folders_own_processor(tmp_path, family, size):
    _, folder = saved(tmp_path, family)
    vision, image = encoder(folder=str(folder)), picture(*size)
    pil, torchvision = (
        torch.as_tensor(np.array(processor(image, return_tensors="np")["pixel_values"]))[0]
        for processor in (
            FAMILIES[family][1].from_pretrained(folder),
            transformers.AutoImageProcessor.from_pretrained(folder),
        )
    )
    exact, fast = (Pixels(vision.preprocessing, vision.transform, mode)(png(image), "") for mode in ("exact", "fast"))
    torch.testing.assert_close(exact, pil, atol=1e-5, rtol=0)
    level = 1 / 255 / min(vision.preprocessing["std"])
    assert (exact - torchvision).abs().max() <= 2.01 * level and (fast - exact).abs().max() <= 2.01 * level


def test_another_size_of_images_is_taken_by_a_folder(tmp_path):
    for family in ("clip", "siglip", "dinov2"):
        network, folder = saved(tmp_path / family, family)
        vision = encoder(folder=str(folder), image_size=48)
        assert vision.num_tokens == 36 and tuple(vision.preprocessing["size"]) == (48, 48)
        images = torch.rand(1, 3, 48, 48)
        more = {} if family == "dinov2" else {"interpolate_pos_encoding": True}
        with torch.no_grad():
            state = network(pixel_values=images, output_hidden_states=True, **more).hidden_states[-1]
            torch.testing.assert_close(vision(images), state[:, -36:], atol=1e-6, rtol=1e-6)
    assert vision.preprocessing["crop_from"] == round(37 * 1.5)


def test_what_is_cropped_away_beyond_the_input_is_said_and_left_out_by_another_resize(tmp_path):
    _, folder = saved(tmp_path)
    native, crop = encoder(folder=str(folder)), encoder(folder=str(folder), resize="crop")
    assert hidden_share(100, 100, native.preprocessing) == pytest.approx(1 - (32 / 37) ** 2)
    assert hidden_share(100, 100, crop.preprocessing) == 0
    assert native.facts("fast") != crop.facts("fast")


def refusal(settings: dict[str, object]) -> str:
    with pytest.raises(ValueError) as error:
        check_vision(config.Vision(**settings))
    return str(error.value)


def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path):
    folder = saved(tmp_path / "whole")[1]
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    settings = {"folder": str(folder)}
    weights.write_bytes(data[: len(data) // 2])
    assert f"model.vision.folder={folder}: model.safetensors: expected whole safetensors" in refusal(settings)
    weights.unlink()
    assert "expected model.safetensors, got none" in refusal(settings)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "got pytorch_model.bin, a pickle" in refusal(settings)
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / names["a"]).write_bytes(data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert f"of which 1 are missing, first {names['b']}" in refusal(settings)
    assert "expected null (its own weights), random" in refusal(settings | {"weights": "openai"})
    check_vision(config.Vision(**settings, weights="random"))
    (folder / "preprocessor_config.json").unlink()
    assert "expected preprocessor_config.json, which says how images are resized" in refusal(settings)
    (folder / "config.json").write_text(json.dumps({"model_type": "swin"}))
    assert "model_type: expected one of clip, " in refusal(settings) and "got 'swin'" in refusal(settings)
    assert "expected a folder with config.json" in refusal({"folder": str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"resample": 1}, "resample: expected 2"),
        ({"do_center_crop": False}, "expected height and width"),
        ({"rescale_factor": 0.5}, "rescale_factor: expected 1/255"),
        ({"do_resize": False}, "expected do_resize"),
        ({"crop_size": {"height": 48, "width": 48}}, "with a smaller square crop_size"),
    ],
)
def test_a_processor_that_does_something_else_is_refused_by_name(tmp_path, field, expected):
    _, folder = saved(tmp_path)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | field))
    with pytest.raises(ValueError, match=rf"model\.vision\.folder=.*preprocessor_config\.json: .*{expected}"):
        encoder(folder=str(folder))


def test_safetensors_without_a_weight_are_refused(tmp_path):
    _, folder = saved(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["embeddings.cls_token"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 weights of the encoder, first embeddings\.cls_token"):
        encoder(folder=str(folder))
    with pytest.raises(ValueError, match=r"model\.vision\.layer=3: expected a block .* of dinov2, got none"):
        encoder(folder=str(folder), layer=3, weights="random")


def test_a_folder_that_is_never_trained_is_not_written_again(tmp_path, tokenizer):
    network, folder = saved(tmp_path / "tower")
    settings = composed_settings(vision={"folder": str(folder)})
    model = model_of(tokenizer, vision={"folder": str(folder)})
    assert from_files(settings) == {"vision"} and loaded_weights(model, settings) is not None
    save_model(model, settings, tmp_path / "stage", {})
    assert not any(name.startswith("vision") for name in load_file(tmp_path / "stage" / "model.safetensors"))
    again, _ = load_model(tmp_path / "stage")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(again.vision(images), model.vision(images))
    with torch.no_grad():
        network.encoder.layer[0].norm1.weight += 1
    network.save_pretrained(folder)
    with pytest.raises(ValueError, match="trained on other base weights"):
        load_model(tmp_path / "stage")


def test_a_trained_encoder_of_a_folder_goes_on_in_another_run(tmp_path, tokenizer):
    _, folder = saved(tmp_path / "tower")
    trained = model_of(tokenizer, vision={"folder": str(folder)})
    facts = {"config": {"curriculum": {"stages": {"sft": {"trainable": ["vision"]}}}}}
    with torch.no_grad():
        trained.vision.tower.network.embeddings.cls_token += 1
    save_model(trained, composed_settings(vision={"folder": str(folder)}), tmp_path / "stage", facts)
    settings = composed_settings(vision={"folder": str(folder), "weights": str(tmp_path / "stage")})
    images = torch.rand(1, 3, 32, 32)
    taken = ComposedLVLM(settings, tokenizer)
    assert torch.equal(taken.vision(images), trained.vision(images))
    assert not base_names(taken, settings, {})
    save_model(taken, settings, tmp_path / "next", {})
    again, _ = load_model(tmp_path / "next")
    assert torch.equal(again.vision(images), trained.vision(images))


# --- timm and OpenCLIP ----------------------------------------------------------------------------

TIMM = "test_vit"
"""A model that timm has for tests: 160 pixels, patches of 16, three blocks of width 64."""


def test_tokens_and_pixels_of_timm_are_its_own():
    vision = encoder(timm=TIMM, layer=-2)
    torch.manual_seed(0)
    trunk = timm.create_model(TIMM, num_classes=0).eval()
    settings = timm.data.resolve_model_data_config(trunk)
    images = torch.rand(2, *settings["input_size"])
    with torch.no_grad():
        (expected,) = trunk.forward_intermediates(
            images, indices=[-2], intermediates_only=True, output_fmt="NLC", norm=False
        )
        torch.testing.assert_close(vision(images), expected, atol=1e-6, rtol=1e-6)
    transform = timm.data.create_transform(**settings)
    image = picture(301, 240)
    assert settings["crop_pct"] < 1, "more is cropped away than OpenCLIP says"
    torch.testing.assert_close(vision.preprocess(image), transform(image), atol=1e-6, rtol=0)


def test_weights_of_timm_come_from_a_file(tmp_path):
    torch.manual_seed(1)
    trunk = timm.create_model(TIMM).eval()  # with its classifier, as published files have it
    save_file(trunk.state_dict(), tmp_path / "timm.safetensors")
    vision = encoder(timm=TIMM, weights=str(tmp_path / "timm.safetensors"))
    assert torch.equal(vision.tower.trunk.cls_token, trunk.cls_token)
    larger = encoder(timm=TIMM, weights=str(tmp_path / "timm.safetensors"), image_size=192)
    assert larger.num_tokens == 144 and vision.num_tokens == 100
    weights = trunk.state_dict()
    del weights["cls_token"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match="lacks 1 of its weights, first cls_token"):
        encoder(timm=TIMM, weights=str(tmp_path / "less.safetensors"))
    assert "timm has no model of this name. Did you mean" in refusal({"timm": "vit_base_patch14_dinov22"})
    torch.save(trunk.state_dict(), tmp_path / "timm.pth")
    assert "a pickle, which can run code. Convert it: python -c" in refusal(
        {"timm": TIMM, "weights": str(tmp_path / "timm.pth")}
    )


def added(folder: Path, name: str, vision: dict[str, object]) -> str:
    """Let OpenCLIP know a small model."""
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / f"{name}.json")
    return name


def test_openclip_takes_another_size_with_its_own_interpolation(tmp_path):
    name = added(tmp_path, "small-vit", {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8})
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    nn.init.normal_(model.visual.positional_embedding)
    save_file(model.state_dict(), tmp_path / "small.safetensors")
    settings = {"pretrained": str(tmp_path / "small.safetensors"), "force_image_size": 48}
    own = open_clip.create_model(name, **settings).visual.eval()
    vision = encoder(name=name, weights=settings["pretrained"], image_size=48)
    images = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        expected = own.forward_intermediates(images, indices=[-1], output_fmt="NLC")["image_intermediates"][0]
        assert torch.equal(vision(images), expected)
    assert vision.num_tokens == 36 and tuple(vision.preprocessing["size"]) == (48, 48)
    assert encoder(name=name, image_size=64).num_tokens == 64, "random weights too"


@pytest.mark.parametrize(("name", "size", "tokens"), [("convnext_base", 256, 64), ("ViT-B-32", 288, 81),
                                                      ("EVA02-B-16", 288, 324)])  # fmt: skip
def test_another_size_without_weights(name, size, tokens):
    with torch.device("meta"):
        assert encoder(name=name, image_size=size).num_tokens == tokens


def test_a_tower_that_takes_no_other_size_is_named(tmp_path):
    name = added(tmp_path, "small-resnet", {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8})
    save_file(open_clip.create_model(name).state_dict(), tmp_path / "small.safetensors")
    weights = str(tmp_path / "small.safetensors")
    assert encoder(name=name, weights=weights).num_tokens == 4
    named = r"model\.vision\.image_size=128: model\.vision\.name=small-resnet takes no images of this size \(.*attnpool"
    with pytest.raises(ValueError, match=named):
        encoder(name=name, weights=weights, image_size=128)
    with torch.device("meta"), pytest.raises(ValueError, match=r"image_size=20: model\.vision\.name=ViT-B-32 takes no"):
        encoder(name="ViT-B-32", image_size=20)


@pytest.mark.parametrize("settings", [{}, {"name": "ViT-B-32", "folder": "x"}, {"timm": TIMM, "folder": "x"}])
def test_there_is_one_encoder(settings):
    with pytest.raises(ValueError, match=r"expected exactly one of model\.vision\.name, model\.vision\.folder"):
        config.Vision(**settings)
