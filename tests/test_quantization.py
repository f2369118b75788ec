"""Language models whose matrices are packed in 4 or 8 bits: the loss and gradients of the unpacked ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import composed, small_settings
from families import checkpoint
from hf_proof import Proof, drawn_adapters, proof
from safetensors.torch import load_file, save_file
from test_command_line import environment
from test_hf_runs import ends_well, fast
from test_parallel import Case, fit, near, on_ranks, shares_of
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from dress import config
from dress.dialogue.batch import Example, collate
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tree import build_tree
from dress.model.checkpoint import load_model, read_model, save_model
from dress.model.composed import ComposedLVLM
from dress.model.generation import generate
from dress.model.hf import HFLVLM
from dress.model.lvlm import LVLM
from dress.model.merging import merged_state
from dress.model.quantization import KINDS, QuantizedLinear
from dress.model.sampling import SamplingParams
from dress.model.session import Prompt

LORA = config.Lora(rank=4, alpha=8)
FAMILIES = ["llava", "qwen2_5_vl", "glm4v"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def unpack(model: LVLM) -> LVLM:
    """Plain layers of the unpacked matrices in the places of packed ones."""
    packed = [name for name, one in model.named_modules() if isinstance(one, QuantizedLinear)]
    assert packed, "nothing is packed"
    for name in packed:
        parent, _, own = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        plain.weight, plain.bias = nn.Parameter(layer.matrix().to(model.projector_weight.dtype)), layer.bias
        plain.weight.requires_grad_(False)
        setattr(model.get_submodule(parent), own, plain)
    return model


def composed_settings(folder: Path, quantize: Any) -> config.ComposedModel:
    """A model of `small_settings` whose language model lies in a folder."""
    settings = small_settings()
    fields = dict(settings.language.config or {})
    if not folder.exists():
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields, vocab_size=1024)).save_pretrained(folder)
    language = config.Language(name=str(folder), lora=LORA, chat="plain")
    return settings.model_copy(update={"language": language, "quantize": quantize})


def steps(shown: Proof) -> dict[str, torch.Tensor]:
    """Loss and gradients of the proof's forest."""
    shown.model.set_trainable(["lora", "projector"])
    loss = shown.on_trees()
    loss.backward()
    grads = {name: p.grad for name, p in shown.model.named_parameters() if p.requires_grad and p.grad is not None}
    assert any("lora_A" in name for name in grads) and any("lora_" not in name for name in grads)
    return {"loss": loss.detach(), **grads}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_loss_and_gradients_are_those_of_the_unpacked_matrices(cache, family, kind, dtype):
    packed, plain = (proof(checkpoint(family, cache), dtype, lora=LORA, quantize=kind) for _ in range(2))
    plain.model.load_state_dict(drawn_adapters(packed.model).state_dict())
    unpack(plain.model)
    one, two = steps(packed), steps(plain)
    assert one.keys() == two.keys()
    bound = 1e-10 if dtype == torch.float64 else 1e-5
    for name, value in one.items():
        assert (value - two[name]).norm() <= bound * two[name].norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_too(cache, kind):
    packed = proof(checkpoint("llava", cache), torch.float32, lora=LORA, quantize=kind)
    drawn_adapters(packed.model)
    plain = deepcopy(packed)
    unpack(plain.model)
    with torch.autocast("cpu", torch.bfloat16):
        one, two = steps(packed), steps(plain)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def text_loss(model: LVLM) -> torch.Tensor:
    """Of one sentence."""
    spans = (Span("user", "What is here?"), Span("assistant", "A red circle.", 1.0))
    encoded = model.encoder.supervised(SupervisedDialogue("sft", spans, False), "", None)
    (forest,) = collate([Example([build_tree([encoded])], None)], 1000).forests
    return model(forest, forest.weight)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_composed_model_answers_as_unpacked_and_learns_after_it_answered(tmp_path, tokenizer, kind):
    torch.manual_seed(0)
    packed = drawn_adapters(ComposedLVLM(composed_settings(tmp_path / "language", kind), tokenizer))
    plain = unpack(deepcopy(packed))
    seen = []
    for model in (packed, plain):
        model.set_trainable(["lora"])
        questions = [Prompt((Span("user", f"What is {number}?"),), None) for number in range(5)]
        answers = generate(model, questions, [], SamplingParams(12), batch_size=8)
        loss = text_loss(model)
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        seen.append((list(map(str, answers)), loss.detach(), grads))
    (one, loss, grads), (two, expected, others) = seen
    assert one == two
    assert abs(loss - expected) <= 1e-6 * expected
    assert grads.keys() == others.keys() and len(grads) > 10
    for name, grad in grads.items():
        assert (grad - others[name]).norm() <= 1e-5 * others[name].norm(), name


@pytest.mark.parametrize(("kind", "error"), [("nf4", 0.092), ("int8", 0.0079)])
def test_gaussian_weights_are_rounded_as_far_as_the_page_says(kind, error):
    torch.manual_seed(0)
    layer = nn.Linear(1024, 1024)
    nn.init.normal_(layer.weight, std=0.02)
    weight = layer.weight.detach()
    assert float((KINDS[kind](layer).matrix() - weight).norm() / weight.norm()) == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_casts_and_moves_leave_packed_matrices_as_they_are(cache, kind):
    settings = config.HFModel(kind="hf", name=str(checkpoint("llava", cache)), lora=LORA, quantize=kind)
    model = HFLVLM(settings)
    before = {name: one.matrix() for name, one in model.named_modules() if isinstance(one, QuantizedLinear)}
    assert len(before) == 7 * 3 and all(".layers." in name for name in before)
    model.round(["vision", "language"])
    model.hold_rounded()
    model.to(torch.bfloat16).to("cpu").half().float()
    model.set_trainable(["lora"])
    after = {name: one.matrix() for name, one in model.named_modules() if isinstance(one, QuantizedLinear)}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(not p.requires_grad for name, p in model.named_parameters() if p.dtype in (torch.uint8, torch.int8))
    numbers = {part: total for part, total, _ in model.parameter_table()}
    plain = HFLVLM(settings.model_copy(update={"quantize": None}))
    assert numbers == {part: total for part, total, _ in plain.parameter_table()}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_gradients_of_one(cache, kind, tmp_path, tokenizer, shapes_folder, phases):
    case = Case(["projector", "lora"], family="llava", lora=2, share="text")

    def model() -> LVLM:
        torch.manual_seed(0)
        lora = config.Lora(rank=2, alpha=8)
        return drawn_adapters(
            HFLVLM(config.HFModel(kind="hf", name=str(checkpoint("llava", cache)), lora=lora, quantize=kind))
        )

    for ranks in ("single", "ddp"):

        def work(ranks: str = ranks) -> None:
            network = model()
            fit(network, case, ranks, shares_of(case, network, shapes_folder, phases), tmp_path, ranks)

        on_ranks(ranks, work)
    near(load_file(tmp_path / "ddp.gradients"), load_file(tmp_path / "single.gradients"), 1e-5)
    near(load_file(tmp_path / "ddp.history"), load_file(tmp_path / "single.history"), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_is_trained_and_comes_back_packed_or_exact(cache, tmp_path, kind):
    settings = config.HFModel(kind="hf", name=str(checkpoint("llava", cache)), lora=LORA, quantize=kind)
    model = drawn_adapters(HFLVLM(settings, 1024)).eval()
    facts = {"config": {"curriculum": {"stages": {"sft": {"trainable": ["lora"]}}}}}
    save_model(model, settings, tmp_path / "one", facts)
    assert all("lora_" in name for name in load_file(tmp_path / "one" / "model.safetensors"))
    again, _ = load_model(tmp_path / "one")
    exact = read_model(tmp_path / "one", settings, exact=True)
    with torch.no_grad():
        loss, same, other = (float(text_loss(one.eval())) for one in (model, again, exact))
    assert loss == same and 1e-6 < abs(loss - other) < 0.5
    assert not [one for one in exact.modules() if isinstance(one, QuantizedLinear)]
    plain = AutoModelForImageTextToText.from_pretrained(settings.name, dtype=torch.float32)
    lora = {n: v for n, v in merged_state(exact).items() if n.endswith("q_proj.weight") and "language" in n}
    assert lora and all(not torch.equal(value, plain.state_dict()[name]) for name, value in lora.items())
    with pytest.raises(TypeError, match="packed"):
        merged_state(again)


def test_an_adapter_of_a_packed_base_is_refused_beside_another_base(cache, tmp_path):
    settings = config.HFModel(kind="hf", name=str(checkpoint("llava", cache)), lora=LORA, quantize="nf4")
    facts = {"config": {"curriculum": {"stages": {"sft": {"trainable": ["lora"]}}}}}
    save_model(HFLVLM(settings, 1024), settings, tmp_path / "one", facts)
    other = tmp_path / "other"
    shutil.copytree(settings.name, other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    save_file(weights | {name: weights[name] + 1}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="an adapter for another base"):
        read_model(tmp_path / "one", settings.model_copy(update={"name": str(other)}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "expected a language model from files"),
        (["model=hf", "model.name=x", "model.lora=null"], r"expected adapters \(model.lora\)"),
        (["model=hf", "model.name=x", "model.lora.dora=true"], "dora=false"),
        (["model=hf", "model.name=x", "parallel.strategy=shard"], "expected parallel.strategy=auto, single or ddp"),
        (["model=hf", "model.name=x", "curriculum.stages.sft.trainable=[language]"], "names language"),
        (
            ["model=hf", "model.name=x", "generation.engine=server", "generation.server.command='s {model} {port}'"],
            "expected generation.engine=native",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(overrides, message):
    with pytest.raises(ValueError, match=f"model.quantize=nf4: .*{message}"):
        composed("experiment=dress_full", "scale=tiny", *overrides, "model.quantize=nf4")


@pytest.mark.slow
def test_a_run_learns_answers_and_is_exported_in_full_precision(cache, tmp_path):
    packed = [*fast(checkpoint("qwen2_5_vl", cache)), "model.lora={rank: 4, alpha: 8}", "model.quantize=nf4"]
    packed += [f"curriculum.stages.{name}.trainable=[projector, lora]" for name in ("sft", "dress")]
    packed += ["curriculum.stages.align.trainable=[projector]"]
    ends_well(tmp_path, "train.py", *packed)
    run = tmp_path / "logs" / "latest"
    assert json.loads((run / "metrics.json").read_text())["dress"]
    tensors = load_file(run / "stages" / "dress" / "model.safetensors")
    assert tensors and all("lora_" in name or "merger" in name for name in tensors)
    ends_well(tmp_path, "export.py", "run=logs/latest", "out=exported", "compared=2")
    network = AutoModelForImageTextToText.from_pretrained(tmp_path / "exported")
    base = AutoModelForImageTextToText.from_pretrained(checkpoint("qwen2_5_vl", cache))
    name = "model.language_model.embed_tokens.weight"
    assert torch.equal(network.state_dict()[name], base.state_dict()[name])
    assert "nf4" in (tmp_path / "exported" / "README.md").read_text()


@pytest.mark.slow  # imports everything in a process of its own
def test_no_code_of_the_hub_is_asked_for(tmp_path):
    """On CPUs with bf16 bitsandbytes asks the package `kernels` for code of the hub."""
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*args, **kwargs):\n    open('asked', 'w').close()\n    raise OSError\n"
    )
    code = "import dress.model.quantization, peft.tuners.lora, bitsandbytes, kernels; print(kernels.__file__)"
    env = environment() | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "kernels.py"), done.stderr
    assert not (tmp_path / "asked").exists() and "kernels" not in done.stderr
