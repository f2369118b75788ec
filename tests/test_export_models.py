"""Composed models as folders of transformers: loaded by its own classes, they give what DRESS gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, composed
from rich.console import Console
from test_towers import FAMILIES, TIMM, composed_settings, picture, png, saved
from transformers import AutoModelForImageTextToText

from dress import config
from dress.config.export import ExportSettings
from dress.exports import proof, proof_process
from dress.exports.model_folder import TrainedModel, export_model
from dress.model.composed import ComposedLVLM
from dress.record import Dialogue, ImageRef, Record, Turn

VIT = {"vit": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 3, "heads": 2}}
LINEAR = {"_target_": "torch.nn.Linear"}
MLP = {"_target_": "dress.model.projector.MLP"}
POOLING = {"_target_": "dress.model.projector.Pooling"}
CONDITION = 'Feedback: "good", it\'s all there.'


def samples() -> list:
    """Records with pictures of several shapes, and one without."""
    questions = ["What is in the picture?", "Describe  it,\nplease.", "Where is the red circle?", "Why?"]
    records = []
    for number, question in enumerate(questions):
        record = Record(
            key=str(number), image=ImageRef(id=f"{number}.png") if number < 3 else None,
            dialogues=[Dialogue(turns=[Turn(user=question)])],
        )  # fmt: skip
        records.append((record, png(picture(40 + 10 * number, 48)) if number < 3 else None))
    return records


def trained(model: ComposedLVLM, settings: config.ComposedModel) -> TrainedModel:
    run = composed("experiment=dress_full", "scale=tiny", *TINY).model_copy(update={"model": settings})
    return TrainedModel(run, "dress", model, {"none": "", "praise": CONDITION}, "praise", {})


def built(tokenizer, **settings) -> tuple[ComposedLVLM, config.ComposedModel]:
    """A model whose tokens differ by place and block."""
    described = composed_settings(**settings)
    torch.manual_seed(0)
    model = ComposedLVLM(described, tokenizer).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2 if parameter.shape[-1] < 100 else 0.02)
    return model, described


def here(model, some, condition, most, folder, aside) -> proof.Figures:
    """`proof.prove` in this process."""
    proof._write_expected(model, some, condition, most, aside)
    proof_process.main(folder, aside, most)
    return proof.Figures(**json.loads((aside / proof.RESULT).read_text()))


def exported(tokenizer, out: Path, monkeypatch, compared=None, **settings) -> proof.Figures:
    """Exported and compared; starting a process for each form would take a minute."""
    model, described = built(tokenizer, **settings)
    monkeypatch.setattr("dress.exports.model_folder.prove", here)
    return export_model(trained(model, described), ExportSettings(), samples(), out, Console(quiet=True))


@pytest.mark.parametrize(
    ("form", "class_name"),
    [
        ({"vision": VIT, "projector": LINEAR}, "Llava"),
        ({"vision": VIT | {"layer": -2}, "projector": MLP}, "Llava"),
        ({"vision": VIT | {"layer": 0}, "projector": LINEAR}, "Llava"),
        ({"vision": {"vit": VIT["vit"] | {"width": 32}}, "projector": LINEAR}, "Llava"),
        ({"vision": {"timm": TIMM, "resize": "squash", "layer": -2}, "projector": MLP}, "PerceptionLM"),
    ],
    ids=["linear", "mlp, layer -2", "layer 0", "linear, too wide for gelu", "timm"],
)
def test_a_folder_of_transformers_gives_what_the_model_gives(form, class_name, tokenizer, tmp_path, monkeypatch):
    figures = exported(tokenizer, tmp_path / "out", monkeypatch, **form)
    assert (figures.ids, figures.answers) == (4, 4) and figures.logits < 5e-6
    network = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert type(network).__name__ == f"{class_name}ForConditionalGeneration"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [None, 48], ids=["own size", "48"])
def test_folders_of_encoders_leave_too(family, size, tokenizer, tmp_path, monkeypatch):
    _, folder = saved(tmp_path / "tower", family)
    vision = {"folder": str(folder), "layer": -2, "image_size": size}
    if FAMILIES[family][3] > 1:
        assert exported(tokenizer, tmp_path / "out", monkeypatch, vision=vision, projector=MLP) is None
        card = (tmp_path / "out" / "README.md").read_text()
        assert "more tokens before its patches than one" in card and CONDITION in card
        assert {one.name for one in (tmp_path / "out").iterdir()} == {
            "README.md", "language", "projector.safetensors", "vision.safetensors",
        }  # fmt: skip
        return
    figures = exported(tokenizer, tmp_path / "out", monkeypatch, vision=vision, projector=MLP)
    assert (figures.ids, figures.answers) == (4, 4) and figures.logits < 5e-6


@pytest.mark.parametrize("projector", [POOLING, LINEAR | {"bias": False}], ids=["pooling", "linear"])
def test_dinov2_leaves_over_timm_too_where_tokens_are_pooled(projector, tokenizer, tmp_path, monkeypatch):
    """As in `scale=small`; where the encoder is wider than half the language model, a linear projector cannot."""
    _, folder = saved(tmp_path / "tower", "dinov2")
    vision = {"folder": str(folder), "layer": -2, "resize": "squash"}
    figures = exported(tokenizer, tmp_path / "out", monkeypatch, vision=vision, projector=projector)
    assert (figures.ids, figures.answers) == (4, 4) and figures.logits < 1e-5
    network = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    kind = "PerceptionLM" if projector == POOLING else "Llava"
    assert type(network).__name__ == f"{kind}ForConditionalGeneration"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "class_name"),
    [
        ({"name": "ViT-B-32-quickgelu", "layer": -2}, "Llava"),
        ({"name": "ViT-B-16-SigLIP"}, "Llava"),
        ({"timm": "eva02_tiny_patch14_224", "layer": -2, "resize": "squash"}, "PerceptionLM"),
        ({"timm": "vit_small_patch14_dinov2", "image_size": 224, "layer": -3, "resize": "squash"}, "PerceptionLM"),
    ],
    ids=["OpenAI's CLIP", "SigLIP", "EVA", "DINOv2 of timm"],
)
def test_encoders_of_real_sizes_leave(vision, class_name, tokenizer, tmp_path, monkeypatch):
    """With random weights: crops and activations as their own configurations say."""
    figures = exported(tokenizer, tmp_path / "out", monkeypatch, vision=vision, projector=MLP)
    assert (figures.ids, figures.answers) == (4, 4) and figures.logits < 5e-5
    network = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert type(network).__name__ == f"{class_name}ForConditionalGeneration"


def test_a_logit_that_is_no_number_is_a_difference():
    assert proof_process._largest([0.0, float("nan"), 1.0]) != 1.0
    figures = proof.Figures(1, 1, proof_process._largest([0.0, float("nan")]), 1, 1, None, 1)
    assert list(figures.differences())
