"""Checkpoints of transformers leave as they came, merged or with an adapter, and come in again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, composed
from families import checkpoint
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from test_export_models import CONDITION, here, samples
from test_hf_adapters import LORA, trained
from transformers import AutoModelForImageTextToText, AutoProcessor

import dress
from dress import config
from dress.config.export import ExportSettings
from dress.dialogue.spans import Span
from dress.exports import model_folder, proof
from dress.exports.model_folder import TrainedModel, export_model
from dress.model.hf import HFLVLM

FORMS = pytest.mark.parametrize("adapter", [False, True], ids=["merged", "adapter"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def learned(name: str, cache: Path, parts: tuple[str, ...] = ("projector", "lora"), dora: bool = False) -> TrainedModel:
    """A checkpoint whose adapters and projector have changed."""
    lora = LORA.model_copy(update={"dora": dora})
    settings = config.HFModel(kind="hf", name=str(checkpoint(name, cache)), lora=lora)
    model = trained(HFLVLM(settings, 1024))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if model.part_of(key) == "projector" and "projector" in parts:
                parameter.mul_(1.1)
    run = composed(
        "experiment=dress_full", "scale=tiny", *(one for one in TINY if not one.startswith("model.")), "model=hf",
        f"model.name={settings.name}",
        *(f"curriculum.stages.{stage}.trainable=[{','.join(parts)}]" for stage in ("align", "sft", "dress")),
    ).model_copy(update={"model": settings})  # fmt: skip
    return TrainedModel(run, "dress", model, {"none": "", "praise": CONDITION}, "praise", {})


def leave(one: TrainedModel, out: Path, monkeypatch: pytest.MonkeyPatch, **settings) -> proof.Figures:
    monkeypatch.setattr(model_folder, "prove", here)
    return export_model(one, ExportSettings(**settings), samples(), out, Console(quiet=True))


@FORMS
@pytest.mark.parametrize("family", ["llava", "smolvlm", "qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_a_checkpoint_leaves_as_it_came(family, adapter, cache, tmp_path, monkeypatch):
    one = learned(family, cache)
    figures = leave(one, tmp_path / "out", monkeypatch, adapter=adapter)
    assert (figures.ids, figures.answers, figures.answers_from_pixels) == (4, 4, 4)
    assert figures.logits < (5e-6 if adapter else 1e-4), "merging rounds in fp32"
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"README.md", "dress.json", "proof.json", "chat_template.jinja", "generation_config.json"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt"))]
    if adapter:
        base = AutoModelForImageTextToText.from_pretrained(one.run.model.name, dtype=torch.float32)
        assert isinstance(PeftModel.from_pretrained(base, tmp_path / "out"), PeftModel)


@FORMS
def test_what_left_comes_in_again_and_holds_its_condition_once(adapter, cache, tmp_path, monkeypatch):
    one = learned("llava", cache)
    leave(one, tmp_path / "out", monkeypatch, adapter=adapter)
    loaded = dress.load(tmp_path / "out")
    assert loaded.condition == "praise" and loaded.conditions["praise"] == CONDITION
    (record, image), *_ = samples()
    question = record.dialogues[0].turns[0].user
    asked = loaded.answer(image, question, max_new_tokens=8)
    model = one.model
    assert asked.text

    again = HFLVLM(config.HFModel(kind="hf", name=str(tmp_path / "out")), 1024)
    spans = [Span("user", question), Span("condition", CONDITION)]
    layout = again.reader()(image, "").layout
    ids = again.encoder.prompt(spans, layout).ids
    assert ids.tolist() == model.encoder.prompt(spans, layout).ids.tolist()
    assert again.encoder._decoded([i for i in ids.tolist() if i >= 0]).count(CONDITION) == 1
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    assert processor.apply_chat_template(messages, add_generation_prompt=True).count(CONDITION) == 1


def test_a_licence_that_allows_no_changed_copies_is_said(cache, tmp_path, monkeypatch):
    one = learned("llava", cache)
    base = tmp_path / "base"
    shutil.copytree(one.run.model.name, base)
    (base / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n# Base\n")
    (base / "LICENSE").write_text("Terms.")
    run = one.run.model_copy(update={"model": one.run.model.model_copy(update={"name": str(base)})})
    monkeypatch.setattr(model_folder, "prove", here)
    said = Console(record=True, width=300)
    export_model(replace(one, run=run), ExportSettings(dtype="bfloat16"), samples(), tmp_path / "out", said)
    assert "base stands under cc-by-nd-4.0, which allows no changed copies" in said.export_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-nd-4.0" in card and "**base allows no changed copies.**" in card
    assert (tmp_path / "out" / "LICENSE").read_text() == "Terms."
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.bfloat16}


def test_what_an_adapter_has_no_place_for_is_refused(cache, tmp_path, monkeypatch):
    one = learned("llava", cache, parts=("vision", "projector", "lora"))
    with pytest.raises(ValueError, match=r"^adapter=true: .*vision was trained, more than an adapter holds"):
        leave(one, tmp_path / "out", monkeypatch, adapter=True)
    newline = learned("llava_next", cache)
    with pytest.raises(ValueError, match=r"^adapter=true: model\.image_newline was trained.*merged weights"):
        leave(newline, tmp_path / "out", monkeypatch, adapter=True)
    assert not list(tmp_path.glob("out*"))


def test_an_adapter_whose_base_is_gone_is_named(cache, tmp_path, monkeypatch):
    one = learned("llava", cache)
    leave(one, tmp_path / "out", monkeypatch, adapter=True)
    file = tmp_path / "out" / "adapter_config.json"
    file.write_text(file.read_text().replace(one.run.model.name, str(tmp_path / "gone")))
    with pytest.raises(ValueError, match=r"model\.name=.*out: .*the base .*gone that its adapter_config\.json names"):
        dress.load(tmp_path / "out")
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config\.json: base_model_name_or_path: expected a folder or hub id"):
        dress.load(tmp_path / "out")
