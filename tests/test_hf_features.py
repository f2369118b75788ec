"""Stored features of transformers' models: as many tokens an image as it gives, and the same loss as with pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import composed
from families import checkpoint
from hf_proof import png
from rich.console import Console

from dress import config
from dress.config import ConfigError
from dress.data.features import FeatureError, decode_image, encode
from dress.data.shards import Shards, write_shards
from dress.data.stream import Part, Stream
from dress.dialogue.image import ImageLayout
from dress.model.hf import HFLVLM
from dress.objectives.stage import stage_objectives
from dress.record import Dialogue, ImageRef, Record, RecordError, Turn
from dress.run.composing import compose
from dress.run.preparing import task
from dress.train.examples import Examples
from dress.train.steps import StepDataset

SIZES = [(70, 40), (33, 61), (120, 50), (64, 64)]


def frozen(*more: str) -> list[str]:
    return [f"curriculum.stages.{stage}.trainable=[language]" for stage in ("align", "sft", "dress")] + list(more)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of different sizes, and a question without one."""
    folder = tmp_path_factory.mktemp("pictures")
    dialogue = Dialogue(turns=[Turn(user="What is it?", assistant="A dog.")])
    samples = [
        (Record(key=f"r{n}", source="x", image=ImageRef(id=f"{n}.png"), dialogues=[dialogue]), png(size, n))
        for n, size in enumerate(SIZES)
    ]
    write_shards(folder, [*samples, (Record(key="text", source="x", dialogues=[dialogue]), None)])
    return folder


def stored(path: Path, out: Path, folder: Path, *more: str):
    """`python src/prepare.py task=features model=hf …`"""
    overrides = ["task=features", f"path={path}", f"out={out}", "model=hf", f"model.name={folder}", *more]
    settings, make = task(compose("prepare", overrides))
    return make(settings, Console(quiet=True))


def step(model: HFLVLM, folder: Path, tmp: Path, *more: str):
    """One step on all records of a folder."""
    settings = composed("model=hf", f"model.name={model.name}", *frozen(*more))
    stage = settings.curriculum.stages["sft"].model_copy(update={"records_per_step": len(SIZES) + 1})
    examples = Examples(
        stage_objectives(stage),
        settings.phases,
        settings.data,
        model.encoder,
        model.reader(),
        tmp / "rejects.jsonl",
    )
    return StepDataset(Stream([Part("", Shards(folder))], seed=1), stage, examples)[0]


@pytest.mark.parametrize("family", ["qwen3_vl", "idefics3", "gemma3"])
def test_the_loss_is_that_of_pictures(shards, tmp_path_factory, tmp_path, family, monkeypatch):
    """Own positions and deepstack; text between an image's tokens; blocks."""
    folder = checkpoint(family, tmp_path_factory.getbasetemp())
    written = stored(shards, tmp_path / "features", folder, "stored=fp32")
    assert (written.images, written.samples, written.error) == (len(SIZES), len(SIZES) + 1, 0)
    model = HFLVLM(config.HFModel(kind="hf", name=str(folder))).eval()
    with torch.no_grad():
        losses = []
        for more, place in (((), shards), (("data.features=true",), tmp_path / "features")):
            batch = step(model, place, tmp_path, *more)
            assert batch.images == len(SIZES)
            if more:
                monkeypatch.setattr(
                    type(model.network.model),
                    "get_image_features",
                    lambda *a, **k: pytest.fail("a picture was encoded"),
                )
            (forest,) = batch.forests
            losses.append(model(forest, forest.weight)[0])
    assert torch.equal(*losses) or abs(losses[0] - losses[1]) <= 1e-6 * losses[0]


def test_only_features_of_this_model_are_used(shards, tmp_path_factory, tmp_path):
    folder = checkpoint("qwen2_5_vl", tmp_path_factory.getbasetemp())
    stored(shards, tmp_path / "features", folder)
    found = Shards(tmp_path / "features")
    model = HFLVLM(config.HFModel(kind="hf", name=str(folder)))
    found.check_features(model.image_facts("fast"))
    rows = [found.features(n) for n in range(len(SIZES))]
    assert len({len(row.features) for row in rows}) > 1 and all(row.layout.positions.shape[0] == 3 for row in rows)
    assert found._index.shard(0).features["tokens"] is None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if model.part_of(name) == "projector":
                parameter.add_(1)
    with pytest.raises(FeatureError, match="weights: expected"):
        found.check_features(model.image_facts("fast"))


@pytest.mark.parametrize("part", ["vision", "projector"])
def test_encoder_and_projector_must_be_frozen(part):
    name = f"curriculum.stages.sft.trainable=[{part},language]"
    with pytest.raises(ConfigError, match=rf"sft\.trainable names {part}, but data\.features=true"):
        composed("model=hf", "model.name=x", "data.features=true", *frozen(name))
    composed("model=hf", "model.name=x", "data.features=true", *frozen())


def test_a_layout_goes_with_its_features_or_is_refused():
    layout = ImageLayout((2, "<row>", 1), np.arange(9).reshape(3, 3), 7, True)
    data = encode(torch.randn(3, 4), "int8", {"weights": "a"}, layout)
    found = decode_image(np.frombuffer(bytearray(data), np.uint8))
    assert found.layout.parts == layout.parts and (found.layout.advance, found.layout.block) == (7, True)
    assert np.array_equal(found.layout.positions, layout.positions) and found.features.shape == (3, 4)
    wrong = encode(torch.randn(4, 4), "fp32", {"weights": "a"}, ImageLayout((3,)))
    with pytest.raises(FeatureError, match="3 tokens for 4"):
        decode_image(np.frombuffer(bytearray(wrong), np.uint8))
    positions = encode(torch.randn(3, 4), "bf16", {"weights": "a"}, ImageLayout((3,), np.arange(12).reshape(3, 4)))
    with pytest.raises(FeatureError, match="positions"):
        decode_image(np.frombuffer(bytearray(positions), np.uint8))


def test_an_image_of_more_tokens_than_a_forest_holds_is_named_and_set_aside(shards, tmp_path_factory, tmp_path):
    model = HFLVLM(config.HFModel(kind="hf", name=str(checkpoint("qwen2_5_vl", tmp_path_factory.getbasetemp()))))
    few = "data.tokens_per_forest=10"
    with pytest.raises(RecordError, match=r"shard-000000\.tar: r\d: .*data\.tokens_per_forest=10 tokens, got \d+\. .*"):
        step(model, shards, tmp_path, few)
    batch = step(model, shards, tmp_path, few, "data.on_damage=skip")
    aside = (tmp_path / "rejects.jsonl").read_text().splitlines()
    with pytest.raises(RecordError, match=r"at most data\.max_tokens=10 tokens, got \d+\. Have images made smaller"):
        step(model, shards, tmp_path, "data.max_tokens=10")
    assert batch.images + len(aside) == len(SIZES) and 0 < len(aside) < len(SIZES)
