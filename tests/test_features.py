"""Frozen vision features in shards: stored as they are, tied to their encoder, and the same loss without it."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, composed, tiny_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load, save

from dress.base.files import read_json
from dress.config import Config, ConfigError, Vision
from dress.config.tasks import Features
from dress.data.features import FeatureError, check_encoder, decode, encode
from dress.data.index import FEATURES
from dress.data.pixels import Pixels
from dress.data.shards import ShardError, Shards, write_shards
from dress.data.stream import Part, Stream
from dress.model.checkpoint import load_model
from dress.model.vision import VisionEncoder
from dress.objectives.stage import stage_objectives
from dress.record import RecordError
from dress.train import feature_extraction
from dress.train.curriculum import Curriculum
from dress.train.examples import Examples
from dress.train.steps import StepDataset
from dress.train.webdataset_reader import WebdatasetSteps
from dress.worlds.shapes import generate as shapes

FROZEN = [f"curriculum.stages.{stage}.trainable=[projector,language]" for stage in ("align", "sft", "dress")]
ENCODER = {"weights": "abc", "layer": "-1"}


def as_bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data), np.uint8)


# --- the file ---


@given(st.integers(1, 5), st.integers(1, 9), st.floats(1e-3, 1e3), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_what_is_stored_comes_back_to_its_precision(tokens, width, size, seed):
    made = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) * size
    assert torch.equal(decode(as_bytes(encode(made, "fp32", ENCODER))), made)
    assert torch.equal(decode(as_bytes(encode(made, "bf16", ENCODER))), made.bfloat16())
    half_a_level = made.abs().amax(1, keepdim=True) / 127 / 2
    assert ((decode(as_bytes(encode(made, "int8", ENCODER))) - made).abs() <= half_a_level * 1.001).all()


def test_features_are_a_view_of_the_bytes_and_a_plain_safetensors_file():
    made = torch.randn(64, 12)
    data = as_bytes(encode(made, "bf16", ENCODER))
    start = torch.from_numpy(data).data_ptr()
    assert start < decode(data).data_ptr() < start + len(data)
    assert torch.equal(load(data.tobytes())["features"], made.bfloat16())
    assert not decode(as_bytes(encode(torch.zeros(2, 3), "int8", ENCODER))).any()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff" * 16, struct.pack("<Q", 4) + b"nope", save({"features": torch.zeros(2, 3)}),
        save({"features": torch.zeros(2, 3, dtype=torch.int64)}, {"encoder": "{}"}),
        save({"features": torch.zeros(6)}, {"encoder": "{}"}), encode(torch.zeros(2, 3), "fp32", ENCODER)[:-1],
        save({"features": torch.zeros(2, 3, dtype=torch.int8)}, {"encoder": "{}"}),
    ],
    ids=["empty", "length", "no json", "no encoder", "int64", "one axis", "cut", "no scale"],
)  # fmt: skip
def test_what_is_no_features_file_is_refused_where_it_is_indexed(tmp_path, data):
    with pytest.raises(FeatureError):
        decode(as_bytes(data))
    record, image = next(iter(shapes.samples("sft", 1, seed=1)))
    write_shards(tmp_path, [(record, image)], features={record.key: data})
    with pytest.raises(ShardError, match=rf"shard-000000\.tar: {record.key}\.features\.safetensors: expected"):
        Shards(tmp_path)
    shards = Shards(tmp_path, on_damage="skip")
    assert shards[0] == (record, image) and shards.features(0) is None


def test_features_of_another_encoder_are_named():
    found = {"stored": "bf16", "tokens": 2, "width": 3, "encoder": {**ENCODER, "weights": "xyz"}}
    with pytest.raises(FeatureError, match=r"a\.tar: .*weights: expected abc, got xyz"):
        check_encoder(found, ENCODER, "a.tar")
    with pytest.raises(FeatureError, match=r"a\.tar: .*expected stored features, found none"):
        check_encoder(None, ENCODER, "a.tar")
    check_encoder(found | {"encoder": ENCODER}, ENCODER, "a.tar")


# --- the task and training ---


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with `run` (whose encoder it is), `data/<world>` and `fp32`, `bf16`, `int8`: the same with features."""
    tmp = tmp_path_factory.mktemp("features")
    Curriculum(
        tiny_settings(tmp, "curriculum.run=[align]", "curriculum.stages.align.steps=1"), Console(quiet=True)
    ).run()
    for stored in ("fp32", "bf16", "int8"):
        features(tmp, tmp / stored, stored=stored)
    return tmp


def features(tmp: Path, out: Path, **more) -> feature_extraction.Totals:
    (world,) = (tmp / "data").iterdir()
    given = {"task": "features", "path": str(world), "out": str(out), "ckpt": str(tmp / "run"), **more}
    return feature_extraction.run(Features.model_validate(given), Console(quiet=True))


def frozen(tmp: Path, data: Path, *more: str, run: str):
    """Settings of a run on `data` with the encoder of `made`, frozen."""
    weights = f"model.vision.weights={tmp / 'run' / 'stages' / 'align'}"
    base = ["data=shards", "annotator=oracle", "judge=oracle", weights, *FROZEN, *more]
    return tiny_settings(tmp, *base, f"data.path={data}", run=run)


def test_the_table_says_what_storing_costs(made, tmp_path):
    out = io.StringIO()
    (world,) = (made / "data").iterdir()
    given = {"task": "features", "path": str(world / "sft"), "out": str(tmp_path / "f"), "ckpt": str(made / "run")}
    written = feature_extraction.run(Features(**given, stored="int8"), Console(file=out, width=120))
    assert (written.shards, written.images) == (1, 40) and 1e-3 < written.error < written.worst < 2e-2
    assert f"{written.error:.2e}" in out.getvalue() and "9 x 32, int8" in out.getvalue()


def test_features_go_with_the_same_records_and_images(made):
    (world,) = (made / "data").iterdir()
    for split in shapes.SPLITS:
        plain, stored = Shards(world / split), Shards(made / "bf16" / split)
        assert list(plain) == list(stored)
        assert stored._index.shard(0).features["encoder"]["layer"] == "-1"
    encoder = load_model(made / "run" / "stages" / "align")[0].vision.eval()
    pixels = Pixels(encoder.preprocessing, encoder.transform, "fast")
    shards = Shards(made / "fp32" / "sft")
    with torch.no_grad():
        expected = encoder(pixels(shards.image(3), "")[None])[0]
    assert (shards.features(3).features - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_call_that_was_stopped_goes_on_and_gives_the_same_bytes(made, tmp_path):
    features(made, tmp_path / "f", stored="bf16")
    for path in (made / "bf16").glob("**/*.tar"):
        assert (tmp_path / "f" / path.relative_to(made / "bf16")).read_bytes() == path.read_bytes()
    gone = tmp_path / "f" / "sft" / "shard-000000.tar"
    whole = gone.read_bytes()
    gone.unlink()
    gone.with_suffix(".tar.partial").write_bytes(whole[:1000])
    again = features(made, tmp_path / "f", stored="bf16")
    assert (again.shards, gone.read_bytes()) == (1, whole)
    with pytest.raises(ShardError, match="begun with other stored: expected bf16, got int8"):
        features(made, tmp_path / "f", stored="int8")


def test_a_picture_is_encoded_once_however_many_splits_and_records_have_it(made, tmp_path, monkeypatch):
    samples = list(shapes.samples("sft", 5, seed=0))
    record, image = samples[0]
    twins = [(record.model_copy(update={"key": key}), image) for key in ("twin-in-shard", "twin-in-split")]
    for split in ("align", "sft", "prompts"):
        write_shards(tmp_path / "data" / split, [*samples[:2], twins[0], *samples[2:], twins[1]], per_shard=4)
    forward, counted = VisionEncoder.forward, []
    monkeypatch.setattr(
        VisionEncoder, "forward", lambda self, pixels: counted.append(len(pixels)) or forward(self, pixels)
    )
    given = {"task": "features", "path": str(tmp_path / "data"), "out": str(tmp_path / "f"), "ckpt": str(made / "run")}
    written = feature_extraction.run(Features(**given, batch_size=2), Console(quiet=True))
    assert sum(counted) == written.encoded == 5 and written.images == 21
    stored = {split: Shards(tmp_path / "f" / split) for split in ("align", "sft", "prompts")}
    for shards in stored.values():
        files = dict(map(shards.features_file, range(len(shards))))
        assert files["twin-in-shard"] == files["twin-in-split"] == files[record.key]
        assert files == dict(map(stored["align"].features_file, range(7))) and len(set(files.values())) == 5
    (tmp_path / "f" / "prompts" / "shard-000001.tar").unlink()
    again = feature_extraction.run(Features(**given, batch_size=2), Console(quiet=True))
    assert (again.shards, again.encoded, again.images) == (1, 0, 3)


def test_loss_is_the_same_without_encoder_and_images(made):
    """The tolerance of docs/data.md, measured on a whole step: fp32 1e-6, bf16 1e-3, int8 1e-2."""
    (world,) = (made / "data").iterdir()
    model, _ = load_model(made / "run" / "stages" / "align")
    model.eval()
    plain = composed()
    stage = plain.curriculum.stages["sft"].model_copy(update={"records_per_step": 16})
    losses = {}
    for name, folder in {"pixels": world, "fp32": made / "fp32", "bf16": made / "bf16", "int8": made / "int8"}.items():
        data = plain.data.model_copy(update={"features": name != "pixels"})
        stream = Stream([Part("", Shards(folder / "sft"))], seed=1)
        reader = model.reader(data.images)
        examples = Examples(stage_objectives(stage), plain.phases, data, model.encoder, reader, made / "rejects")
        step = StepDataset(stream, stage, examples)[0]
        kind = "pixels" if name == "pixels" else "features"
        assert {input_ for forest in step.forests for batch in forest.images for input_ in batch.inputs} == {kind}
        total = sum(forest.weight.sum() for forest in step.forests)
        with torch.no_grad():
            losses[name] = float(sum(model(forest, forest.weight / total)[0] for forest in step.forests))
    for name, tolerance in {"fp32": 1e-6, "bf16": 1e-3, "int8": 1e-2}.items():
        assert abs(losses[name] - losses["pixels"]) <= tolerance * losses["pixels"], losses


def test_webdatasets_own_pipeline_reads_them_too(made):
    plain, (model, _) = composed("data.features=true", *FROZEN), load_model(made / "run" / "stages" / "align")
    stage = plain.curriculum.stages["sft"].model_copy(update={"records_per_step": 40})
    stream = Stream([Part("", Shards(made / "bf16" / "sft"))], seed=1)
    examples = Examples(
        stage_objectives(stage),
        plain.phases,
        plain.data,
        model.encoder,
        model.reader(),
        made / "rejects",
    )
    dataset = StepDataset(stream, stage, examples)
    theirs = next(iter(WebdatasetSteps(dataset)))
    whole = [step.forests[0].images[0].inputs["features"].double().sum() for step in (dataset[0], theirs)]
    assert theirs.records == 40 and torch.isclose(*whole)


def test_a_curriculum_on_features_learns_the_same(made, monkeypatch):
    (world,) = (made / "data").iterdir()
    order = "curriculum.run=[eval]"
    short = ["phases.refinement.target=reference", "generation.max_new_tokens=8", "eval.turns=2", order]
    Curriculum(frozen(made, world, *short[:3], "curriculum.run=[sft]", run="pixels"), Console(quiet=True)).run()
    forward = VisionEncoder.forward
    counted = []

    def encode_images(self, pixels):
        assert not torch.is_grad_enabled(), "the encoder ran in training"
        counted.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(VisionEncoder, "forward", encode_images)
    run = frozen(made, made / "fp32", *short, "data.features=true", run="stored")
    assert run.data.images == "fast"  # how training would decode; answers are read `exact`
    read = Pixels.__call__
    monkeypatch.setattr(
        Pixels, "__call__",
        lambda self, *given: pytest.fail("an image was decoded in training") if self.fast else read(self, *given),
    )  # fmt: skip
    metrics = Curriculum(run, Console(quiet=True)).run()
    assert counted and {"sft", "dress"} <= metrics.keys()  # collect and eval look at images
    for stage in ("align", "sft"):
        losses = [
            [row[f"{stage}/loss"] for row in read_json(made / name / "stages" / stage / "history.json")]
            for name in ("pixels", "stored")
        ]
        assert np.allclose(*losses, rtol=1e-4)
    collected = Shards(made / "stored" / "stages" / "collect" / "shards")
    assert collected.features(0) is not None
    # The model stands alone: the run that its encoder came from is not needed.
    model, _ = load_model(made / "stored" / "stages" / "dress")
    first, _ = load_model(made / "run" / "stages" / "align")
    facts = [each.vision.facts("fast") for each in (model, first)]
    assert facts[0] == facts[1]


class Begun(Exception):
    """All that can be looked at before the first stage has been looked at."""


@pytest.mark.parametrize("folder, more, expected", [
    ("fp32", [], True),
    ("fp32", ["data.features=true"], True),
    ("fp32", ["data.features=false"], False),
    ("fp32", ["curriculum.stages.sft.trainable=[vision,projector]"], False),
    ("fp32", ["data.images=exact"], False),
    ("data", [], False),
])  # fmt: skip
def test_stored_features_are_taken_where_all_that_is_trained_on_has_them(folder, more, expected, made, tmp_path):
    (place,) = [made / folder] if folder != "data" else (made / "data").iterdir()
    out = io.StringIO()
    settings = frozen(made, place, "curriculum.run=[sft]", *more, run=tmp_path.name)

    def begin(settings: Config, facts: dict) -> None:
        raise Begun(settings.data.features)

    with pytest.raises(Begun) as begun:
        Curriculum(settings, Console(file=out, width=200)).run(begin)
    assert begun.value.args == (expected,)
    assert ("training reads the features that are stored" in out.getvalue()) == (expected and not more)


def test_features_of_another_run_are_refused_before_training(made):
    settings = frozen(made, made / "bf16", "data.features=true", "seed=3", run="other")
    with pytest.raises(FeatureError, match=r"align/shard-000000\.tar.*weights: expected \w+, got \w+"):
        Curriculum(settings.model_copy(update={"model": composed(*TINY).model}), Console(quiet=True)).run()
    assert not (made / "other" / "stages").exists()


def test_a_stage_that_trains_the_encoder_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"curriculum\.stages\.align\.trainable names vision, but data\.features"):
        composed("data.features=true")
    composed("data.features=true", *FROZEN)


def test_an_image_without_features_is_named(made, tmp_path):
    samples = list(shapes.samples("sft", 4, seed=0))
    shards = Shards(made / "bf16" / "sft")
    stored = {record.key: shards.features_file(0)[1] for record, _ in samples[1:]}
    write_shards(tmp_path, samples, features=stored)
    plain = composed("data.features=true", *FROZEN)
    model, _ = load_model(made / "run" / "stages" / "align")
    stage = plain.curriculum.stages["sft"].model_copy(update={"records_per_step": 4})

    def dataset(on_damage: str) -> StepDataset:
        data = plain.data.model_copy(update={"on_damage": on_damage})
        stream = Stream([Part("", Shards(tmp_path))], seed=1)
        examples = Examples(
            stage_objectives(stage),
            plain.phases,
            data,
            model.encoder,
            model.reader(),
            tmp_path / "rejects.jsonl",
        )
        return StepDataset(stream, stage, examples)

    with pytest.raises(RecordError, match=r"sft-000000: expected stored features beside the JSON, found none"):
        dataset("stop")[0]
    assert dataset("skip")[0].records == 3


def test_an_encoder_of_other_sizes_is_refused(made):
    vit = {"image_size": 48, "patch_size": 16, "width": 64, "layers": 1, "heads": 2}
    with pytest.raises(ValueError, match=r"model\.vision\.weights=.*expected an encoder of \d+ tensors"):
        VisionEncoder(Vision(vit=vit, weights=str(made / "run" / "stages" / "align")))
    with pytest.raises(ValueError, match=r"expected a stage's folder"):
        VisionEncoder(Vision(vit=vit, weights="openai"))


def test_members_other_than_ours_stay_readable_with_tarfile(made):
    path = next((made / "bf16" / "sft").glob("*.tar"))
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert sum(name.endswith(FEATURES) for name in names) * 3 == len(names)
    assert os.path.getsize(path) > 0
