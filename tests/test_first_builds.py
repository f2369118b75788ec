"""The first rank builds, and the others get its model: the same bits, without reading or drawing a weight."""

from __future__ import annotations

import ctypes
import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_settings
from families import checkpoint
from safetensors.torch import load_file
from test_parallel import CASES, EVERYTHING, Case, fit, near, on_ranks, shares_of
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from dress import config
from dress.model.building import build_model, own_tokenizer
from dress.model.checkpoint import loaded_weights
from dress.model.lvlm import LVLM
from dress.model.sharding import own_part, units
from dress.model.skeleton import Form, form_of, named_tensors

KINDS = ("ddp", "shard")
LORA = config.Lora(rank=2, alpha=4)


@dataclass(frozen=True)
class Build:
    """What is built."""

    settings: config.Model
    rounded: tuple[str, ...] = ()


def composed(lora: config.Lora | None = None, **language: Any) -> config.ComposedModel:
    settings = small_settings(**language)
    return settings.model_copy(update={"language": settings.language.model_copy(update={"lora": lora})})


def hf(folder: Path, lora: config.Lora | None = None) -> config.HFModel:
    return config.HFModel(kind="hf", name=str(folder), lora=lora)


def built(build: Build, tokenizer: Any, kind: str, seed: int = 0) -> LVLM:
    spread = torch.device("cpu") if kind == "shard" else None
    if build.settings.kind == "hf":
        tokenizer = own_tokenizer(build.settings)
    return build_model(build.settings, tokenizer, 1024, seed, build.rounded, spread)


def meet() -> int:
    torch.distributed.init_process_group("gloo")
    return torch.distributed.get_rank()


def contents(model: LVLM) -> tuple[Form, dict[str, Tensor], dict[str, Any]]:
    """All that is compared: form, numbers, and what else a model knows."""
    form = form_of(model, model.facts())
    kinds = {name: kind.removeprefix("FSDP") for name, kind in form.kinds.items()}
    numbers = {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in named_tensors(model)}
    beside = {
        "facts": model.image_facts("exact"), "weights": loaded_weights(model, config.HFModel(kind="hf", name="any")),
        "tokens": getattr(model, "image_tokens", None), "training": [one.training for one in model.modules()],
        "stops": model.encoder.stops, "wide": model.wide,
    }  # fmt: skip
    return replace(form, kinds=kinds), numbers, beside


def same_on_every_rank(builds: dict[str, Build], tokenizer: Any, elsewhere: Callable[[Build], Build]) -> None:
    """Build everywhere, meet, and build again on the first rank alone; the others have another seed, and no weights."""
    for kind in KINDS:

        def work(kind: str = kind) -> None:
            expected = {name: contents(built(build, tokenizer, "ddp")) for name, build in builds.items()}
            rank = meet()
            for name, build in builds.items():
                model = built(elsewhere(build) if rank else build, tokenizer, kind, seed=99 * rank)
                assert bool(units(model)) == (kind == "shard"), name
                (form, numbers, beside), (form2, numbers2, beside2) = contents(model), expected[name]
                assert form.kinds == form2.kinds, name
                assert form.tensors == form2.tensors, name
                assert form.facts == form2.facts, name
                assert torch.equal(form.random, form2.random), name
                assert beside == beside2, name
                for one, value in numbers.items():
                    assert value.dtype == numbers2[one].dtype and torch.equal(value, numbers2[one]), (name, one)
                model.set_trainable(EVERYTHING)

        on_ranks(kind, work)


def test_every_rank_has_the_first_ones_model_to_the_last_bit(tokenizer):
    builds = {
        "tied": Build(composed()),
        "untied": Build(composed(tie_word_embeddings=False)),
        "lora": Build(composed(LORA), ("vision", "language")),
        "dora": Build(composed(LORA.model_copy(update={"dora": True})), ("vision",)),
    }
    same_on_every_rank(builds, tokenizer, lambda build: build)


@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llava", "gemma3", "qwen3_vl"))]
)
def test_models_of_transformers_come_from_the_first_rank_whose_files_the_others_lack(family, tokenizer, tmp_path):
    folder = checkpoint(family, tmp_path)
    lacking = tmp_path / "without weights"
    shutil.copytree(folder, lacking, ignore=shutil.ignore_patterns("*.safetensors"))
    builds = {"plain": Build(hf(folder)), "lora": Build(hf(folder, LORA), ("vision", "language"))}
    same_on_every_rank(
        builds,
        tokenizer,
        lambda build: replace(build, settings=build.settings.model_copy(update={"name": str(lacking)})),
    )


class Drawn(torch.nn.Linear):
    """A projector of somebody's own, which asks its weights something when it is made."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out)
        self.scale = float(self.weight.norm())


def test_what_the_first_rank_alone_can_know_is_not_guessed(tokenizer, monkeypatch):
    """A kernel that its numbers refuse; a class that cannot do without numbers; a model that cannot be built at all."""
    own = composed().model_copy(update={"projector": {"_target_": f"{__name__}.Drawn"}})

    def work() -> None:
        expected = contents(built(Build(own), tokenizer, "ddp"))
        rank = meet()
        with monkeypatch.context() as patch:
            if rank == 0:
                patch.setattr("dress.kernels.fused.TOLERANCE", -1.0)  # nothing is the same
            model = built(Build(composed()), tokenizer, "ddp")
        assert not any(type(one).__name__.startswith("Fused") for one in model.modules())
        assert model.replaced == []

        warned: list[str] = []
        monkeypatch.setattr("dress.model.building.LOG.warning", lambda text, why: warned.append(text % why))
        model = built(Build(own), tokenizer, "shard")
        assert not units(model)
        assert len(warned) == (rank == 0)
        assert all("every rank builds the model for itself" in line and "meta" in line for line in warned), warned
        _, numbers, _ = contents(model)
        assert all(torch.equal(one, expected[1][name]) for name, one in numbers.items())

        with pytest.raises(SystemExit if rank else ValueError):  # no rank waits for ever
            built(Build(composed(num_attention_heads=5)), tokenizer, "ddp")

    on_ranks("ddp", work)


@pytest.mark.slow
def test_what_the_first_rank_built_learns_what_every_ranks_own_learns(tokenizer, shapes_folder, phases, tmp_path):
    """But for 1e-8; `test_parallel` compares that with one process."""
    names = ("everything", "untied", "lora", "llava", "qwen2_5_vl", "gemma3")
    for name in names:
        if (family := CASES[name].family) is not None:
            checkpoint(family, tmp_path)

    def settings_of(case: Case) -> config.Model:
        lora = None if case.lora is None else config.Lora(rank=case.lora, alpha=8)
        return (
            composed(lora, tie_word_embeddings=case.tied) if case.family is None else hf(tmp_path / case.family, lora)
        )

    for kind in KINDS:
        out = {built_by: tmp_path / f"{kind} {built_by}" for built_by in ("every", "first")}
        for folder in out.values():
            folder.mkdir()

        def work(kind: str = kind, out: dict[str, Path] = out) -> None:
            own = {name: built(Build(settings_of(CASES[name])), tokenizer, "ddp") for name in names}
            rank = meet()
            for name, every in own.items():
                case = CASES[name]
                first = built(Build(settings_of(case)), tokenizer, kind, seed=99 * rank)
                for built_by, model in (("every", every), ("first", first)):
                    fit(model, case, kind, shares_of(case, model, shapes_folder, phases), out[built_by], name)

        on_ranks(kind, work)
        for name in names:
            for what in ("gradients", "history", "weights"):
                near(*(load_file(folder / f"{name}.{what}") for folder in out.values()), 0)


def peak() -> int:
    """The most memory of this process since `on_fresh_memory`, in bytes."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def on_fresh_memory() -> int:
    """Give back what was freed, and forget the most that this process had; what it has now, in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


@pytest.mark.slow
@pytest.mark.parametrize("rounded", [(), ("language",)])
def test_no_rank_but_the_first_holds_a_whole_model_that_is_spread(rounded, tokenizer, tmp_path):
    """A model of 200 MB in fp32: the other of two ranks grows by less than 3/4 of it, and has no file of weights."""
    language = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1536, num_hidden_layers=16,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=2048,
    )  # fmt: skip
    LlamaForCausalLM(language).save_pretrained(tmp_path / "0")
    (tmp_path / "1").mkdir()
    shutil.copy(tmp_path / "0" / "config.json", tmp_path / "1")
    size = (tmp_path / "0" / "model.safetensors").stat().st_size
    assert size > 200e6
    model_bytes = size / (2 if rounded else 1)

    def work() -> None:
        rank = meet()
        settings = composed().model_copy(
            update={"language": config.Language(name=str(tmp_path / str(rank)), chat="plain")}
        )
        built(Build(composed(), rounded), tokenizer, "shard")  # what is loaded once, however large a model is
        before = on_fresh_memory()
        model = built(Build(settings, rounded), tokenizer, "shard")
        growth = peak() - before
        print(f"rank {rank}: at most {growth / 1e6:.0f} MB more, of {model_bytes / 1e6:.0f}", flush=True)
        assert len(units(model)) == 17
        parts = sum(own_part(one).nbytes for _, one in named_tensors(model))
        assert parts < 0.52 * model_bytes
        assert growth >= 0.9 * parts, "the measure does not see them"
        if rank:
            assert growth < 0.75 * model_bytes

    on_ranks("shard", work)
