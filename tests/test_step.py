"""One optimiser step: what it holds in which type, what it does not compute, what it counts; ranks change nothing."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import LAYOUT, ROOT, small_model
from safetensors.torch import load_file, save_file
from test_tree import collected, samples_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from dress import config
from dress.data.shards import Shards
from dress.dialogue.batch import Batch, Example, collate
from dress.dialogue.spans import Span
from dress.dialogue.tree import build_trees
from dress.model.generation import generate
from dress.model.lvlm import LVLM
from dress.model.sampling import SamplingParams
from dress.model.session import Prompt
from dress.phases import supervised
from dress.train.module import DressModule
from dress.train.strategies import Replicated

SRC = ROOT / "src"


def module_of(model: LVLM, trainable: list[Any], steps: int = 1, objective: Any = "lm") -> DressModule:
    stage = config.TrainStage(
        objective=objective,
        phases=dict.fromkeys(("align", "sft", "critique", "refinement", "rating"), 1.0),
        weights=None, data={"sft": 1.0}, steps=steps, records_per_step=3, lr=1e-3, trainable=trainable,
    )  # fmt: skip
    model.set_trainable(trainable)
    return DressModule(
        model, stage, config.Learning(trainer=config.Trainer(log_every_n_steps=1, gradient_clip_val=1e9)), tokens=500
    )


class Steps(L.LightningDataModule):
    """Each rank's part of every step."""

    def __init__(self, samples: list[Example], budget: int, steps: int = 1) -> None:
        super().__init__()
        self.samples, self.budget, self.steps = samples, budget, steps

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        mine = self.samples[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader([collate(mine, self.budget)] * self.steps, batch_size=None)  # type: ignore[arg-type]


class Watch(L.Callback):
    """Keeps the gradients of the first step in a file, and the types of the language model's weights."""

    def __init__(self, file: Path | None = None) -> None:
        self.file, self.types = file, set()

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            torch.set_num_threads(1)

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Batch, index: int) -> None:
        self.types = {p.dtype for n, p in module.model.named_parameters() if n.startswith("language") and p.ndim > 1}

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        if self.file and trainer.is_global_zero:
            save_file({n: p.grad for n, p in module.model.named_parameters() if p.grad is not None}, self.file)


def fit(module: DressModule, data: Steps, watch: Watch, **more: Any) -> None:
    trainer = L.Trainer(
        accelerator="cpu", max_steps=data.steps, max_epochs=1, logger=False, callbacks=[watch], num_sanity_val_steps=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **more,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)


@pytest.mark.parametrize("objective", ["lm", "words"])
@pytest.mark.parametrize("ranks", [1, 2], ids=["accumulation", "ranks"])
def test_forests_and_ranks_give_the_gradient_of_one_batch(ranks, objective, tokenizer, shapes_folder, phases, tmp_path):
    trained = ["vision", "projector"] + ["language"] * (objective == "lm")
    found = {}
    for name, budget, more in (
        ("whole", 10**6, {}),
        ("parts", 500, {"devices": ranks, "strategy": Replicated(start_method="fork")} if ranks > 1 else {}),
    ):
        model = small_model(tokenizer)
        samples = samples_of(model, shapes_folder, phases, True, torch.float32)
        assert name == "whole" or ranks > 1 or len(collate(samples, budget).forests) > 1
        fit(module_of(model, trained, objective=objective), Steps(samples, budget), Watch(tmp_path / name), **more)
        found[name] = load_file(tmp_path / name)
    assert found["whole"].keys() == found["parts"].keys()
    for name, wanted in found["whole"].items():
        assert (found["parts"][name] - wanted).norm() <= 2e-6 * wanted.norm() + 1e-9, name


def test_weights_that_no_stage_trains_are_held_in_bf16_and_stay_so(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    model.round({"vision", "language"})
    model.hold_rounded()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    samples, watch = samples_of(model, shapes_folder, phases, True, torch.float32), Watch()
    fit(module_of(model, ["projector"], 2), Steps(samples, 10**6, 2), watch, precision="bf16-mixed")
    assert watch.types == {torch.bfloat16}
    assert {p.dtype for name, p in before.items() if name.startswith("projector")} == {torch.float32}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == before[name].dtype, name
        assert torch.equal(parameter, before[name]) != name.startswith("projector"), name


def test_a_model_that_holds_bf16_answers_as_it_does_in_bf16(tokenizer):
    """Whoever asks: products are of the type that the matrices have, and these have the values that they had before."""
    model = small_model(tokenizer)
    model.round({"vision", "language"})
    prompts = [Prompt((Span("user", f"What is {number}?"),), None) for number in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        wanted = generate(model, prompts, [], SamplingParams(8), batch_size=3)
    wide = model.logits(torch.ones(2, 32))
    model.hold_rounded()
    assert generate(model, prompts, [], SamplingParams(8), batch_size=3) == wanted
    narrow = model.logits(torch.ones(2, 32))
    assert narrow.dtype == torch.float32 and 0 < (narrow - wide).abs().max() < 0.05 * wide.abs().max()


def test_weights_that_another_stage_trains_are_not_rounded(tokenizer, shapes_folder, phases):
    model, watch = small_model(tokenizer), Watch()
    samples = samples_of(model, shapes_folder, phases, True, torch.float32)
    fit(module_of(model, ["projector"]), Steps(samples, 10**6), watch, precision="bf16-mixed")
    assert watch.types == {torch.float32}


class Copies(TorchDispatchMode):
    """Where the tensors stand that are copied to another type."""

    def __init__(self) -> None:
        super().__init__()
        self.of: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._to_copy.default:
            self.of.add(args[0].data_ptr())
        return function(*args, **(kwargs or {}))


def test_autocast_copies_no_frozen_weight(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    model.set_trainable(["projector"])
    model.round({"vision", "language"})
    forest = collate(samples_of(model, shapes_folder, phases, True, torch.float32), 10**6).forests[0]
    copied = []
    for held in (False, True):
        if held:
            model.hold_rounded()
        frozen = {p.data_ptr() for n, p in model.named_parameters() if n.startswith("language") and p.ndim > 1}
        with Copies() as copies, torch.autocast("cpu", torch.bfloat16):
            model(forest, forest.weight / forest.weight.sum())
        copied.append(len(frozen & copies.of))
    assert copied[0] > 10 and copied[1] == 0


def test_nothing_is_computed_below_the_lowest_weight_that_learns(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    forest = collate(samples_of(model, shapes_folder, phases, True, torch.float32), 10**6).forests[0]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name)
    needs: list[bool] = []
    for layer in model.language.model.layers:
        layer.register_forward_hook(lambda _, __, out: needs.append(out.requires_grad))
    model(forest, forest.weight / forest.weight.sum())[0].backward()
    assert needs == [False, True]


def test_split_trees_are_counted_in_the_history(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    samples = samples_of(model, shapes_folder, phases, True, torch.float32)
    mixture = {"sft": 1.0, "critique": 0.5, "refinement": 0.5}
    record, _ = next(iter(Shards(shapes_folder / "sft")))
    dialogues = supervised(collected(record), mixture, phases)
    encoded = [model.encoder.supervised(d, record.key, LAYOUT) for d in dialogues]
    parts = build_trees(encoded, max(len(one.ids) for one in encoded))
    assert len(parts) > 1
    samples[0] = Example(parts, samples[0].picture, split=True)
    module = module_of(model, ["projector"], 2)
    fit(module, Steps(samples, max(len(t) for s in samples for t in s.trees), 2), Watch())
    assert [row["train/split_trees"] for row in module.history] == [1, 1]
    assert all(0.3 < row["train/forest_fill"] <= 1 for row in module.history)


def test_the_sums_of_a_checkpoint_go_to_their_phases_by_name_also_those_of_0_1(tokenizer):
    module = module_of(small_model(tokenizer), ["projector"])
    state = {"lr_schedulers": [{"base_lrs": [1.0], "_last_lr": [1.0]}], "optimizer_states": []}
    saved: dict[str, Any] = {}
    columns = {"align": [1.0, 2.0, 3.0], "sft": [4.0, 5.0, 6.0], "rating": [7.0, 8.0, 9.0]}
    none = [0.0] * 3
    of_0_1 = [columns["align"], columns["sft"], none, none, columns["rating"], none]  # the six phases that there were
    for sums in (columns, [list(row) for row in zip(*of_0_1, strict=True)]):
        own = {"dress": {"history": [], "sums": sums, "packing": [0.0] * 4}, "state_dict": module.state_dict()}
        module.on_load_checkpoint(own | deepcopy(state))
        module.on_save_checkpoint(saved)
        assert saved["dress"]["sums"] == columns | {"critique": none, "refinement": none}


FAULTS = """
import resource, sys
import torch, transformers  # a trainer's libraries: with fewer, glibc's heap has no place to grow
from dress.kernels.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
if kept is False:
    raise SystemExit("no glibc")
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = torch.ones(16 * 2**20)
    del block
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("policy, spin, expected", [(None, None, "passive 1000"), (None, "7", "passive 7"),
                                                    ("active", None, "active None")])  # fmt: skip
def test_threads_spin_briefly_unless_the_user_says_otherwise(policy, spin, expected):
    given = {"OMP_WAIT_POLICY": policy, "GOMP_SPINCOUNT": spin}
    environment = {name: value for name, value in (os.environ | given).items() if value is not None}
    code = "import dress, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SRC, env=environment)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_freed_block_that_is_asked_for_again_costs_no_new_pages():
    median = {}
    for way in ("keep", "give back"):
        done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, timeout=120, cwd=SRC)
        assert done.returncode == 0, done.stderr
        median[way] = statistics.median(map(int, done.stdout.split()))
    assert median["keep"] < 100 and median["give back"] > 10_000, median  # 64 MiB are 16384 pages


@pytest.mark.parametrize("setting, passes", [("on", 2), ("off", 1)])
def test_layers_of_a_model_that_came_in_eval_mode_are_checkpointed_too(
    setting, passes, tokenizer, shapes_folder, phases
):
    model = small_model(tokenizer).eval()  # as `from_pretrained` gives it
    counted = Counter[int]()
    for number, layer in enumerate(model.language.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: counted.update([number]))
    module = module_of(model, ["projector", "language"])
    module.learning = module.learning.model_copy(update={"training": config.Training(checkpointing=setting)})
    fit(module, Steps(samples_of(model, shapes_folder, phases, True, torch.float32), 10**6), Watch())
    assert set(counted.values()) == {passes}, counted
