"""Vision-language models of transformers over token trees: the same loss, gradients and answers as their own code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, SIZES, checkpoint
from hf_proof import FP32, OWN_FP32, Proof, answers, gradients, inputs, plain_model, png, proof, questions, worst
from scripts import run_script

from dress import config
from dress.model import hf, hf_probe
from dress.model.attention import NAME
from dress.model.hf import HFLVLM

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("families")


def hf_model(folder: Path, **settings) -> HFLVLM:
    return HFLVLM(config.HFModel(kind="hf", name=str(folder), **settings))


def losses(one: Proof) -> tuple[float, float]:
    with torch.no_grad():
        return float(one.on_trees()), float(one.on_rows())


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_equal_those_of_separate_sequences(name, folders):
    for dtype, attentions in ((torch.float64, ("nodes", "dense")), (torch.float32, ("nodes",))):
        one, exact = proof(checkpoint(name, folders), dtype), dtype == torch.float64
        one.model.train()
        one.plain.train()
        own = one.on_rows()
        expected = gradients(one.plain, own)
        for one.model.attention in attentions:
            ours = one.on_trees()
            error, where = worst(gradients(one.model, ours), expected)
            assert abs(ours.item() - own.item()) / own.item() < (1e-12 if exact else 1e-6)
            assert error < (OWN_FP32.get(name, 1e-10) if exact else FP32.get(name, 5e-6)), where
    one.model.attention = "flex"  # FlexAttention has no backward pass on a CPU
    with torch.no_grad():
        assert abs(one.on_trees().item() - own.item()) / own.item() < 1e-5


@pytest.mark.parametrize("name", ["llava_next", "idefics3", "pixtral", "qwen2_5_vl", "qwen3_vl", "gemma3", "gemma4"])
def test_answers_equal_the_models_own(name, folders):
    same, total = answers(checkpoint(name, folders), 6, 2, questions()[1::3])
    assert same == total == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_hundred_answers_equal_the_models_own(name, folders):
    same, total = answers(checkpoint(name, folders), 16, 6, questions())
    assert same == total == 108


# --- what goes wrong when one is not careful; each of these fails when it is ---


def other_loss(one: Proof, **changes) -> float:
    """Relative difference of the loss when something of the forest is changed."""
    right = losses(one)[0]
    for name, value in changes.items():
        setattr(one.forest, name, value)
    return abs(losses(one)[0] - right) / right


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.rope_dims == 3])
def test_positions_of_the_depth_would_be_another_model(name, folders):
    one = proof(checkpoint(name, folders), torch.float64)
    assert one.forest.positions is not None and len(one.forest.positions) == 3
    assert other_loss(one, positions=None) > 1e-3


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.block != "none"])
def test_image_tokens_that_see_only_backwards_would_be_another_model(name, folders):
    one = proof(checkpoint(name, folders), torch.float64)
    assert one.model.blocks == ("all" if FAMILIES[name].block == "all layers" else "sliding")
    right = losses(one)[0]
    one.model.blocks = "sliding" if one.model.blocks == "all" else "all"
    assert abs(losses(one)[0] - right) / right > 1e-5
    one.model.blocks = "all" if one.model.blocks == "sliding" else "sliding"
    assert other_loss(one, until=None) > 1e-4


def test_levels_that_are_forgotten_would_be_another_model(folders, monkeypatch):
    one = proof(checkpoint("qwen3_vl", folders), torch.float64)
    right = losses(one)[0]
    whole = HFLVLM.encode_images

    def without_levels(self, images):
        tokens = whole(self, images).clone()
        tokens[:, tokens.shape[1] // self._levels :] = 0
        return tokens

    monkeypatch.setattr(HFLVLM, "encode_images", without_levels)
    assert abs(losses(one)[0] - right) / right > 1e-3


def test_trees_are_for_the_text_alone_and_each_model_has_its_own_configuration(folders):
    folder = checkpoint("qwen2_vl", folders)
    one, two = hf_model(folder), plain_model(folder)
    assert one.network.config.text_config._attn_implementation == NAME
    assert one.network.config.vision_config._attn_implementation == "sdpa"
    assert two.config.text_config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["qwen2_vl", "glm4v"])
def test_what_generate_leaves_in_a_model_changes_nothing(name, folders):
    one = proof(checkpoint(name, folders), torch.float64)
    right = losses(one)[0]
    row, picture = one.rows[0]
    one.model.network.generate(**inputs(one.plain, row, picture), max_new_tokens=2)
    assert one.model.network.model.rope_deltas is not None and losses(one)[0] == right


def changed(folder: Path, out: Path, file: str, change) -> Path:
    """A copy of a checkpoint in which one file is changed."""
    shutil.copytree(folder, out)
    data = json.loads((out / file).read_text())
    change(data)
    (out / file).write_text(json.dumps(data))
    return out


def test_a_processor_that_counts_otherwise_is_refused(folders, tmp_path):
    def other(data):
        data["num_additional_image_tokens"] = 3

    folder = changed(checkpoint("llava", folders), tmp_path / "other", "processor_config.json", other)
    with pytest.raises(ValueError, match=r"expected 18 image tokens, as its processor has it .*got 16 of its"):
        hf_model(folder)


def test_dropout_of_the_tower_is_refused(folders, tmp_path):
    def dropout(data):
        data["vision_config"]["attention_dropout"] = 0.1

    folder = changed(checkpoint("llava", folders), tmp_path / "dropout", "config.json", dropout)
    with pytest.raises(ValueError, match="do not represent dropout"):
        hf_model(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_trains_as_fp32_does_and_what_layers_add_to_stays_in_fp32(name, folders):
    """Whatever is trained, with frozen weights held in bf16: some families scatter image tokens without a cast."""
    one = proof(checkpoint(name, folders), torch.float32, lora=config.Lora(rank=2, alpha=4))
    model, seen = one.model, []
    model.round(["vision", "language"])
    with torch.no_grad():
        right = float(one.on_trees())
    model.decoder.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    for parts in (["vision", "projector", "language", "lora"], ["projector", "lora"], ["lora"]):
        model.set_trainable(parts)
        if "language" not in parts:
            model.hold_rounded()
            assert model.network.get_input_embeddings().weight.dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            loss = one.on_trees()
        assert abs(loss.item() - right) / right < 2e-2
        trained = {model.part_of(where) for where in gradients(model, loss)}
        assert trained == set(parts)
    assert seen == [torch.float32] * 3


# --- kinds of models that nobody has proved ---


def test_a_kind_that_is_not_proved_is_tried(folders, monkeypatch):
    monkeypatch.setattr(hf, "PROVED", set())
    for name in ("llava_next", "qwen3_vl", "gemma3"):
        hf_model(checkpoint(name, folders))


def test_a_kind_whose_blocks_nobody_knows_is_refused(folders, monkeypatch):
    monkeypatch.setattr(hf, "PROVED", set())
    reader = hf.HFReader.__init__

    def unaware(self, *args):
        reader(self, *args)
        self.block = False

    monkeypatch.setattr(hf.HFReader, "__init__", unaware)
    with pytest.raises(ValueError, match=r"a token tree with an image gives other losses.*at most 1e-04"):
        hf_model(checkpoint("gemma3", folders))
    monkeypatch.setattr(hf_probe, "difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="other losses"):
        hf_model(checkpoint("llava", folders))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"model_type": "qwen3_vl_moe"}, "mixture-of-experts"),
        ({"model_type": "llama4"}, "mixture-of-experts"),
        ({"model_type": "qwen3_5"}, "linear attention"),
        ({"model_type": "mllama"}, "cross-attention"),
        ({"model_type": "paligemma"}, "a prefix that sees itself whole"),
        ({"model_type": "florence2"}, "an encoder and a decoder"),
        ({"model_type": "aya_vision"}, "scaled logits"),
        ({"model_type": "llama"}, "expected an image-text-to-text model, got llama"),
        ({"model_type": "bert-of-tomorrow"}, "expected a folder or hub id of a transformers model"),
    ],
)
def test_kinds_that_trees_do_not_represent_are_refused_by_name(settings, why, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=why) as error:
        hf.check_hf(config.HFModel(kind="hf", name=str(tmp_path)))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


# --- folders that are not whole ---


def copy_of(name: str, folders: Path, out: Path) -> Path:
    return Path(shutil.copytree(checkpoint(name, folders), out))


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as error:
        hf_model(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def test_a_folder_without_a_processor_is_refused(folders, tmp_path):
    folder = copy_of("llava", folders, tmp_path / "bare")
    for file in (*folder.glob("*processor*"), *folder.glob("tokenizer*")):
        file.unlink()
    assert "its processor does not load" in refusal(folder)


def test_pickles_and_half_a_shard_are_refused(folders, tmp_path):
    folder = copy_of("llava", folders, tmp_path / "half")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "does not load" in refusal(folder) and "model.safetensors" in refusal(folder)
    file.rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin, a pickle" in refusal(folder)


def test_an_image_token_that_the_tokenizer_does_not_have_is_refused(folders, tmp_path):
    def other(data):
        data["image_token_index" if "image_token_index" in data else "image_token_id"] = 9_999

    folder = changed(checkpoint("llava", folders), tmp_path / "other", "config.json", other)
    assert "image_token_id=9999" in refusal(folder)


def test_the_plain_loop_learns(folders, tmp_path):
    (tmp_path / "a.png").write_bytes(png(SIZES[0]))
    ran = run_script(
        ROOT / "examples" / "plain_loop.py", str(checkpoint("qwen2_vl", folders)), str(tmp_path / "a.png"), cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    steps = [float(line.rpartition(" ")[2]) for line in ran.stdout.splitlines() if line.startswith("step ")]
    assert len(steps) == 5 and steps[-1] < steps[0] and "in their tree" in ran.stdout


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert "expected a folder or hub id" in refusal(tmp_path / "nowhere")


def test_pictures_of_one_size_are_laid_out_alike(folders):
    """The tokens of a size, found with a blank picture, are those of any picture of that size."""
    for name in FAMILIES:
        reader = hf_model(checkpoint(name, folders)).reader()
        for seed, size in enumerate(SIZES):
            real, blank = reader(png(size, seed), "").layout, reader.layout(size)
            assert real.parts == blank.parts and real.advance == blank.advance
            assert real.positions is None or np.array_equal(real.positions, blank.positions)
