"""Projectors: fewer tokens, starting weights, and what is refused."""

from __future__ import annotations

import csv

import pytest
import torch
from conftest import ROOT
from rich.console import Console
from safetensors.torch import load_file, save_file
from scripts import run_script
from test_command_line import FAST, environment
from test_towers import TIMM, composed_settings, model_of, picture, png, saved
from torch import nn
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

from dress.config.tasks import Features
from dress.dialogue.batch import ImageBatch
from dress.inspection.lengths import image_tokens
from dress.model.checkpoint import from_files, load_model, loaded_weights, save_model
from dress.model.composed import ComposedLVLM
from dress.model.projector import PixelShuffle, Pooling, load_projector, squares
from dress.train import feature_extraction

VIT = {"vit": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "heads": 2}}
SHUFFLE = {"_target_": "dress.model.projector.PixelShuffle"}


def test_squares_are_those_of_idefics():
    features = torch.rand(2, 36, 8)
    for factor in (2, 3):
        connector = Idefics3Connector.__new__(Idefics3Connector)
        assert torch.equal(squares(features, factor).flatten(2), connector.pixel_shuffle(features, factor))
    pooled = Pooling(8, 4)
    layers = nn.Sequential.forward(pooled, features)
    means = nn.functional.avg_pool2d(layers.transpose(1, 2).unflatten(2, (6, 6)), 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled(features), means)
    assert PixelShuffle(8, 4, 3)(features).shape == (2, 4, 4)


def test_a_projector_may_give_fewer_tokens(tokenizer):
    model = model_of(tokenizer, vision=VIT, projector=SHUFFLE)
    assert (model.vision.num_tokens, model.image_tokens) == (16, 4)
    reader = model.reader()
    shown = reader(png(picture(40, 40)), "")
    stored = reader.stored(model.vision(shown.inputs["pixels"])[0].detach())
    assert shown.layout.tokens == stored.layout.tokens == reader.most_tokens == 4
    made, read = (model.encode_images(ImageBatch(one.inputs, (0,), (4,))) for one in (shown, stored))
    assert made.shape == (4, 32) and torch.equal(made, read)
    made.sum().backward()
    assert all(p.grad is not None for p in (*model.projector.parameters(), model.vision.tower.conv1.weight))


def test_lengths_count_the_tokens_of_the_projector(tmp_path, tokenizer):
    _, folder = saved(tmp_path)
    for vision, tokens in ((VIT, 16), ({"folder": str(folder)}, 16), ({"folder": str(folder), "image_size": 64}, 64)):
        assert image_tokens(composed_settings(vision=vision)) == tokens
        assert image_tokens(composed_settings(vision=vision, projector=SHUFFLE)) == tokens // 4
    for vision, tokens in (({"timm": TIMM}, 100), ({"timm": TIMM, "image_size": 64}, 16), ({"timm": "resnet18"}, 49)):
        made = ComposedLVLM(composed_settings(vision=vision), tokenizer)
        assert image_tokens(composed_settings(vision=vision)) == made.image_tokens == tokens


@pytest.mark.parametrize(
    ("projector", "expected"),
    [
        ({**SHUFFLE, "factor": 3}, r"factor=3 divides, got 16 tokens \(4 x 4\)"),
        ({"_target_": "dress.model.projector.Pooling", "factor": 0}, "expected factor >= 1, got 0"),
        ({"_target_": "torch.nn.Bilinear", "out_features": 3}, r"refuses features \[1, 16, 32\]"),
        ({"_target_": "torch.nn.Flatten"}, "expected a module with weights, got Flatten"),
    ],
)
def test_a_projector_that_does_not_fit_is_named(tokenizer, projector, expected):
    with pytest.raises(ValueError, match=r"model\.projector.*" + expected):
        model_of(tokenizer, vision=VIT, projector=projector)


MLP = {"_target_": "dress.model.projector.MLP"}


def test_a_projector_starts_with_weights_of_a_file(tmp_path, tokenizer):
    model = model_of(tokenizer, vision=VIT, projector=MLP)
    weights = {name: torch.rand_like(value) for name, value in model.projector.state_dict().items()}
    names = {"0": "linear_1", "2": "linear_2"}
    forms = {
        "own": weights,
        "llava": {f"model.mm_projector.{name}": value for name, value in weights.items()},
        "hf": {f"multi_modal_projector.{names[name[0]]}{name[1:]}": value for name, value in weights.items()}
        | {"language_model.lm_head.weight": torch.rand(3, 3)},
    }
    for form, tensors in forms.items():
        file = tmp_path / f"{form}.safetensors"
        save_file(tensors, file)
        load_projector(model.projector, str(file))
        assert all(torch.equal(value, weights[name]) for name, value in model.projector.state_dict().items())
    settings = composed_settings(vision=VIT, projector=MLP, projector_weights=str(tmp_path / "hf.safetensors"))
    started = ComposedLVLM(settings, tokenizer)
    assert from_files(settings) == {"projector"} and loaded_weights(started, settings) is not None
    save_model(started, settings, tmp_path / "stage", {})
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    again, _ = load_model(tmp_path / "stage")  # what it starts with stands in the model itself
    assert torch.equal(again.projector[0].weight, weights["0.weight"])
    load_projector(again.projector, str(tmp_path / "stage"))


def test_weights_of_another_projector_are_refused_by_name(tmp_path, tokenizer):
    file = tmp_path / "mm_projector.bin"
    settings = {"vision": VIT, "projector": MLP}
    with pytest.raises(ValueError, match=r"mm_projector\.bin: expected a \.safetensors file, got a pickle.*Convert"):
        model_of(tokenizer, **settings, projector_weights=str(file))
    file = tmp_path / "projector.safetensors"
    with pytest.raises(ValueError, match=r"projector\.safetensors: expected a \.safetensors file, found none"):
        model_of(tokenizer, **settings, projector_weights=str(file))
    save_file({"mm_projector.0.weight": torch.zeros(32, 7), "mm_projector.0.bias": torch.zeros(32),
               "mm_projector.2.weight": torch.zeros(32, 32), "mm_projector.2.bias": torch.zeros(32)}, file)  # fmt: skip
    with pytest.raises(ValueError, match=r"first 0\.weight: expected \[32, 32\], got \[32, 7\]"):
        model_of(tokenizer, **settings, projector_weights=str(file))


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.slow  # whole runs
def test_a_run_learns_with_a_folder_and_fewer_tokens_and_with_its_stored_features(tmp_path):
    saved(tmp_path / "tower")
    parts = ["model.vision.vit=null", "model.vision.folder=tower", f"model.projector._target_={SHUFFLE['_target_']}"]
    others = [text for text in FAST if not text.startswith("model.vision")]
    frozen = [f"curriculum.stages.{name}.trainable=[projector,language]" for name in ("align", "sft", "dress")]
    run, out = ["experiment=sft_only", *others, *parts, *frozen, "curriculum.run=[align]"], tmp_path / "features"
    losses = []
    for data in ([], ["data=shards", f"data.path={out}", "data.features=true", "annotator=oracle", "judge=oracle"]):
        done = run_script(ROOT / "src" / "train.py", *run, *data, cwd=tmp_path, env=environment())
        assert done.returncode == 0, done.stderr
        with (tmp_path / "logs" / "latest" / "csv" / "align" / "metrics.csv").open() as file:
            losses.append([float(row["align/loss"]) for row in csv.DictReader(file) if row["align/loss"]])
        if not data:
            (world,) = (tmp_path / "data" / "shapes").iterdir()
            given = {"task": "features", "path": str(world), "out": str(out), "stored": "fp32"}
            feature_extraction.run(
                Features.model_validate(given | {"vision": {"folder": str(tmp_path / "tower")}}), Console(quiet=True)
            )
            weights = load_file(tmp_path / "logs" / "latest" / "stages" / "align" / "model.safetensors")
            assert {name.partition(".")[0] for name in weights} == {"projector", "language"}
    assert losses[0] and losses[0] == pytest.approx(losses[1], abs=1e-5)
