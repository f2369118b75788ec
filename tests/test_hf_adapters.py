"""LoRA and DoRA: beside which layers, on disk, and merged."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import small_settings
from families import checkpoint
from hf_proof import drawn_adapters, proof
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from dress import config
from dress.dialogue.batch import Example, collate
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tree import build_tree
from dress.model.checkpoint import load_model, save_model
from dress.model.composed import ComposedLVLM
from dress.model.hf import HFLVLM
from dress.model.lvlm import LVLM
from dress.model.merging import merged_state

LORA = config.Lora(rank=4, alpha=8)
KINDS = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def hf(name: str, cache: Path, dora: bool = False) -> tuple[HFLVLM, config.HFModel]:
    lora = LORA.model_copy(update={"dora": dora})
    settings = config.HFModel(kind="hf", name=str(checkpoint(name, cache)), lora=lora)
    return trained(HFLVLM(settings, 1024)), settings


def trained(model: LVLM) -> LVLM:
    """With adapters that change something, to be asked."""
    return drawn_adapters(model).eval()


def with_adapters(model: LVLM) -> dict[str, set[str]]:
    """The last name of each layer with an adapter, and where it stands without numbers."""
    found: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            found.setdefault(name.rpartition(".")[2], set()).add(re.sub(r"\d+", "N", name))
    return found


@pytest.mark.parametrize(
    ("family", "maps"),
    [
        ("qwen2_5_vl", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("pixtral", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("glm4v", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("gemma4", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_all_linear_maps_of_the_text_models_layers_and_none_of_the_tower(cache, family, maps):
    model, _ = hf(family, cache)
    found = with_adapters(model)
    assert maps <= found.keys()
    assert all(".layers.N." in place and "language_model" in place for places in found.values() for place in places)
    text = model.decoder
    linear = {n for n, m in text.named_modules() if isinstance(m, torch.nn.Linear) and re.search(r"layers\.\d+\.", n)}
    without = {n for n in linear if "lora_" not in n and not n.endswith(".base_layer")}
    assert not without, "a linear map of a layer has no adapter"
    model.set_trainable(["lora"])
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learned and all("lora_" in name for name in learned)


@pytest.mark.parametrize(
    ("family", "dora"), [
        ("qwen2_5_vl", True), ("glm4v", False),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("qwen2_5_vl", False), ("glm4v", True))),
    ],
)  # fmt: skip
def test_merged_weights_give_the_same_logits_in_the_plain_class(cache, family, dora):
    shown = proof(checkpoint(family, cache), torch.float32, lora=LORA.model_copy(update={"dora": dora}))
    trained(shown.model)
    assert abs(shown.on_trees() - shown.on_rows()) > 1e-3 * shown.on_rows(), "the adapters change nothing"
    before = {name: value.clone() for name, value in shown.model.state_dict().items()}
    shown.plain.load_state_dict(merged_state(shown.model), strict=True)
    assert all(torch.equal(value, before[name]) for name, value in shown.model.state_dict().items())
    with torch.no_grad():
        assert abs(shown.on_trees() - shown.on_rows()) <= 1e-5 * shown.on_rows()


@KINDS
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_merged_weights_of_a_composed_models_language_model(tokenizer, dora, kind):
    fields = {"n_embd": 32, "n_layer": 2, "n_head": 4, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    settings = small_settings(**({"model_type": "gpt2", **fields} if kind == "gpt2" else {}))
    lora = LORA.model_copy(update={"dora": dora})
    settings = settings.model_copy(update={"language": settings.language.model_copy(update={"lora": lora})})
    model = trained(ComposedLVLM(settings, tokenizer))
    state = merged_state(model)
    names = {name.split(".")[0] for name in state}
    assert names == {"vision", "projector", "language"} and not [n for n in state if "lora_" in n or "base_layer" in n]
    plain = AutoModelForCausalLM.from_config(deepcopy(model.language.config), attn_implementation="sdpa").eval()
    plain.load_state_dict({n.removeprefix("language."): v for n, v in state.items() if n.startswith("language.")})
    one = model.encoder.supervised(
        SupervisedDialogue("sft", (Span("user", "What?"), Span("assistant", "A red dog.", 1.0)), image=False), "", None
    )
    (forest,) = collate([Example([build_tree([one])], None)], 1000).forests
    ids = torch.from_numpy(one.ids)[None]
    with torch.no_grad():
        loss, _ = model(forest, forest.weight)
        nll = torch.nn.functional.cross_entropy(plain(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
    assert abs(loss - (nll.double() * torch.from_numpy(one.weights[1:])).sum()) <= 1e-5 * loss


@KINDS
def test_an_adapter_is_written_without_its_base_and_comes_back(cache, tmp_path, dora):
    model, settings = hf("qwen2_5_vl", cache, dora)
    facts = {"config": {"curriculum": {"stages": {"sft": {"trainable": ["lora"]}}}}}
    save_model(model, settings, tmp_path / "one", facts)
    names = load_file(tmp_path / "one" / "model.safetensors").keys()
    assert names and all("lora_" in name for name in names)
    assert any("magnitude" in name for name in names) == dora
    again, _ = load_model(tmp_path / "one")
    pairs = zip(model.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


def test_an_adapter_for_another_base_is_refused(cache, tmp_path):
    model, settings = hf("qwen2_5_vl", cache)
    facts = {"config": {"curriculum": {"stages": {"sft": {"trainable": ["lora"]}}}}}
    save_model(model, settings, tmp_path / "one", facts)
    other = AutoModelForImageTextToText.from_pretrained(settings.name)
    with torch.no_grad():
        other.model.language_model.layers[1].mlp.up_proj.weight.add_(0.01)
    other.save_pretrained(cache / "other")
    model.processor.save_pretrained(cache / "other")
    file = tmp_path / "one" / "model.json"
    file.write_text(file.read_text().replace(settings.name, str(cache / "other")))
    with pytest.raises(ValueError, match=r"model\.safetensors: an adapter for another base: .*other"):
        load_model(tmp_path / "one")


def test_targets_that_do_not_exist_name_those_that_do(cache):
    settings = config.HFModel(kind="hf", name=str(checkpoint("glm4v", cache)), lora=LORA)
    lora = LORA.model_copy(update={"targets": ["qkv"]})
    with pytest.raises(ValueError, match=r"lora\.targets: expected .*gate_up_proj.*, got qkv"):
        HFLVLM(settings.model_copy(update={"lora": lora}))
