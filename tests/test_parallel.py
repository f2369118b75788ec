"""One process, two that each have the model (DDP), two that share it (FSDP2): the same loss, gradients and weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.multiprocessing as mp
from conftest import small_settings
from families import SIZES, checkpoint
from hf_proof import dialogues, png
from safetensors.torch import load_file, save_file
from scripts import free_port
from test_step import Steps
from test_tree import samples_of
from torch.distributed.tensor import DTensor

from dress import config
from dress.config.learning import ADAMW
from dress.dialogue.batch import Example
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tree import build_tree
from dress.model.composed import ComposedLVLM
from dress.model.generation import generate
from dress.model.hf import HFLVLM
from dress.model.lvlm import LVLM
from dress.model.sampling import SamplingParams
from dress.model.session import Prompt
from dress.model.sharding import full_state, load_full_state, reshard, units, whole
from dress.train.callbacks import SaveCheckpoint
from dress.train.module import DressModule
from dress.train.parallel import build_trainer, share_out

STEPS = 3
KINDS = {"ddp": 2, "shard": 2}
EVERYTHING = ["vision", "projector", "language"]
PARTS = ("gradients", "history", "weights")


@dataclass(frozen=True)
class Case:
    """What is trained, on what, and how the ranks' shares differ."""

    trainable: list[str]
    share: str = "uneven"  # uneven: two records and one; text: an image on the first rank only; empty: all on the first
    lora: int | None = None
    tied: bool = True
    checkpointing: str = "off"
    gather: Any = "pass"
    budget: int = 600
    language: dict[str, Any] = field(default_factory=dict)
    family: str | None = None  # of a model of transformers


CASES = {
    "everything": Case(EVERYTHING),
    "untied": Case(EVERYTHING, tied=False, share="text"),
    "text": Case(EVERYTHING, share="text"),
    "empty": Case(EVERYTHING, share="empty"),
    "projector": Case(["projector"], share="text"),
    "lora": Case(["projector", "lora"], lora=4),
    "lora-text": Case(["projector", "lora"], lora=1, share="text"),  # rank 1: rows that no rank can share out evenly
    "lora-alone": Case(["lora"], lora=3, share="empty"),
    "checkpointing": Case(EVERYTHING, checkpointing="on", share="text"),
    "gathered once": Case(EVERYTHING, gather="step", share="text"),
    "llava": Case(EVERYTHING, family="llava", share="text"),
    "qwen2_5_vl": Case(["projector", "lora"], family="qwen2_5_vl", lora=2, share="text"),
    "gemma3": Case(["projector"], family="gemma3", share="text", checkpointing="on"),
}


def model_of(case: Case, tokenizer: Any, families: Path | None = None) -> LVLM:
    torch.manual_seed(0)
    lora = None if case.lora is None else config.Lora(rank=case.lora, alpha=8)
    if case.family is not None:
        assert families is not None
        model = HFLVLM(config.HFModel(kind="hf", name=str(checkpoint(case.family, families)), lora=lora))
        return _adapted(model)
    settings = small_settings(tie_word_embeddings=case.tied, **case.language)
    language = settings.language.model_copy(update={"lora": lora})
    return _adapted(ComposedLVLM(settings.model_copy(update={"language": language}), tokenizer))


def _adapted(model: LVLM) -> LVLM:
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first: nothing of A would be learned
            parameter.data = torch.randn_like(parameter) / 10
    return model


def text_of(model: LVLM, phase: str = "sft") -> Example:
    spans = (Span("user", "Is a circle round?"), Span("assistant", "Yes, a circle is round.", 1.0))
    encoded = model.encoder.supervised(SupervisedDialogue(phase, spans, False), "text", None)
    return Example([build_tree([encoded])], None)


def shares_of(case: Case, model: LVLM, folder: Path, phases: Any) -> list[Example]:
    """In an order in which `Steps` gives ranks every second one."""
    if case.family is not None:
        reader, examples = model.reader(), []
        for seed, size in enumerate(SIZES):
            seen = reader(png(size, seed), str(size))
            examples.append(
                Example([build_tree([model.encoder.supervised(d, "", seen.layout) for d in dialogues()])], seen)
            )
        return [examples[0], text_of(model), examples[1]]
    one, two, three = samples_of(model, folder, phases, True, torch.float32)
    match case.share:
        case "text":
            return [one, text_of(model), two]
        case "empty":
            return [one]
        case _:
            return [one, two, three]


def module_of(model: LVLM, case: Case, steps: int = STEPS) -> DressModule:
    stage = config.TrainStage(
        phases=dict.fromkeys(("align", "sft", "critique", "refinement", "rating"), 1.0), weights=None,
        data={"sft": 1.0}, steps=steps, records_per_step=3, lr=1e-3, trainable=case.trainable,
    )  # fmt: skip
    model.set_trainable(case.trainable)
    learning = config.Learning(
        trainer=config.Trainer(log_every_n_steps=1, gradient_clip_val=0.5),
        training=config.Training(checkpointing=case.checkpointing),
        optimizer=ADAMW | {"eps": 1e-5},  # its first steps follow signs else, of gradients that are rounding alone
    )
    return DressModule(model, stage, learning, tokens=case.budget)


class Watch(L.Callback):
    """Keeps whole gradients of the first step in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        if self.file.exists():
            return
        grads = {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}
        every = {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in grads.items()}
        if trainer.is_global_zero:
            save_file({name: g.contiguous() for name, g in every.items()}, self.file)


class KeepState(SaveCheckpoint):
    """Writes a checkpoint at one step."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__(path, 10**6)
        self.at = at

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step == self.at:
            self._save(trainer)


def fit(
    model: LVLM, case: Case, kind: str, samples: list[Example], out: Path, name: str, begin: Path | None = None,
    accelerator: str = "cpu", world: int | None = None,
) -> None:  # fmt: skip
    """Train, and keep the first gradients, what was logged, the weights, and a checkpoint of the second step."""
    world = KINDS.get(kind, 1) if world is None else world
    devices = config.Devices(accelerator=accelerator, devices=world, strategy=kind, gather=case.gather)
    module = module_of(model, case)
    watch = [Watch(out / f"{name}.gradients"), *([] if begin else [KeepState(out / f"{name}.ckpt", 2)])]
    trainer = build_trainer(devices, max_steps=STEPS, max_epochs=1, callbacks=watch)
    trainer.fit(module, datamodule=Steps(samples, case.budget, STEPS), ckpt_path=begin, weights_only=True)
    state = full_state(model)
    if trainer.is_global_zero:
        weights = {one: value.detach().clone().contiguous() for one, value in state.items()}
        save_file(weights, out / f"{name}.weights")
        rows = [[row["train/loss"], row["train/grad_norm"]] for row in module.history]
        save_file({"history": torch.tensor(rows, dtype=torch.float64)}, out / f"{name}.history")


def _rank(rank: int, port: int, world: int, work: Callable[[], None]) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world), "NODE_RANK": "0",
    }  # fmt: skip
    work()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_ranks(kind: str, work: Callable[[], None], world: int | None = None) -> None:
    """Do a work in as many processes as a kind has; in so many that know nothing of this one, where they are named."""
    method = "fork" if world is None else "spawn"  # what CUDA has begun cannot be forked
    world = KINDS.get(kind, 1) if world is None else world
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if world == 1 and method == "fork":
        work()
        torch.set_num_threads(threads)
        return
    mp.start_processes(_rank, args=(free_port(), world, work), nprocs=world, start_method=method)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tokenizer, shapes_folder, phases, tmp_path_factory) -> Path:
    """What every kind makes of every case."""
    folder = tmp_path_factory.mktemp("trained")
    for case in CASES.values():
        if case.family is not None:
            checkpoint(case.family, folder)
    for kind in ("single", *KINDS):
        (folder / kind).mkdir()

        def work(kind: str = kind) -> None:
            for name, case in CASES.items():
                model = model_of(case, tokenizer, folder)
                fit(model, case, kind, shares_of(case, model, shapes_folder, phases), folder / kind, name)

        on_ranks(kind, work)
    return folder


def near(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], most: float) -> None:
    assert one.keys() == two.keys()
    for name, wanted in two.items():
        error = (one[name] - wanted).norm()
        assert error <= most * wanted.norm() + 1e-8, (name, float(error / wanted.norm()))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_gradients_norms_and_weights_are_those_of_one_process(kind: str, name: str, trained: Path) -> None:
    one, two = trained / "single", trained / kind
    near(load_file(two / f"{name}.gradients"), load_file(one / f"{name}.gradients"), 2e-6)
    history = load_file(two / f"{name}.history")["history"]
    assert torch.allclose(history, load_file(one / f"{name}.history")["history"], rtol=2e-6, atol=0)
    wanted, weights = load_file(one / f"{name}.weights"), load_file(two / f"{name}.weights")
    # A key's bias has no gradient but rounding, which AdamW makes a step of the whole rate: it goes where it likes.
    near(*({name: one for name, one in part.items() if "k_proj.bias" not in name} for part in (weights, wanted)), 2e-4)


WIDE = {"hidden_size": 64, "intermediate_size": 96}
"""Heads of 16 numbers, the least that FlexAttention takes on CUDA."""
ON_DEVICES = {
    "everything": Case(EVERYTHING, language=WIDE),
    "lora-text": Case(["projector", "lora"], lora=3, share="text", language=WIDE),
    "empty, gathered once": Case(EVERYTHING, gather="step", share="empty", language=WIDE),
}


@dataclass(frozen=True)
class Given:
    """What a process that knows nothing of this one makes its models and samples of."""

    kind: str
    accelerator: str
    world: int
    tokenizer: Any
    shapes: Path
    phases: Any
    out: Path

    def __call__(self) -> None:
        """Train every case, and keep what `fit` keeps."""
        torch.backends.cudnn.allow_tf32 = False
        torch.set_num_threads(1)
        for name, case in ON_DEVICES.items():
            model = model_of(case, self.tokenizer)
            samples = shares_of(case, model, self.shapes, self.phases)
            fit(model, case, self.kind, samples, self.out, name, None, self.accelerator, self.world)


@pytest.mark.parametrize(
    "accelerator", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.gpu)]
)
def test_ranks_on_devices_learn_what_one_process_does(accelerator, tokenizer, shapes_folder, phases, tmp_path) -> None:
    """NCCL and FlexAttention on two GPUs; where there is one, and on the CPU, groups of one process."""
    ranks = min(2, torch.cuda.device_count()) if accelerator == "gpu" else 1
    for kind in ("single", *KINDS):
        (tmp_path / kind).mkdir()
        world = 1 if kind == "single" else ranks
        on_ranks(kind, Given(kind, accelerator, world, tokenizer, shapes_folder, phases, tmp_path / kind), world)
    far = 1 if accelerator == "cpu" else 10  # kernels of GPUs sum in an order of their own
    for kind in KINDS:
        for name in ON_DEVICES:
            one, two = ({part: load_file(tmp_path / k / f"{name}.{part}") for part in PARTS} for k in ("single", kind))
            near(two["gradients"], one["gradients"], far * 2e-6)
            near(two["weights"], one["weights"], far * 2e-4)
            assert torch.allclose(two["history"]["history"], one["history"]["history"], rtol=far * 2e-6, atol=0)


@pytest.mark.parametrize("name", ["everything", "lora"])
def test_a_checkpoint_of_any_strategy_is_read_by_any_other(
    name, trained, tokenizer, shapes_folder, phases, tmp_path
) -> None:
    """Bit by bit what it would have been without the stop, where the strategy stays the same."""
    case = CASES[name]
    for kind in ("single", *KINDS):

        def work(kind: str = kind) -> None:
            for written in ("single", *KINDS):
                model = model_of(case, tokenizer)
                samples, begin = shares_of(case, model, shapes_folder, phases), trained / written / f"{name}.ckpt"
                fit(model, case, kind, samples, tmp_path, f"{written} {kind}", begin)

        on_ranks(kind, work)
        for written in ("single", *KINDS):
            again = load_file(tmp_path / f"{written} {kind}.weights")
            near(again, load_file(trained / kind / f"{name}.weights"), 0 if written == kind else 1e-4)
            history = load_file(tmp_path / f"{written} {kind}.history")["history"]
            wanted = load_file(trained / kind / f"{name}.history")["history"]
            assert len(history) == STEPS
            assert torch.allclose(history, wanted, rtol=5e-6, atol=0)


def test_a_checkpoint_holds_what_is_trained_and_its_moments(trained, tokenizer) -> None:
    for kind in ("single", *KINDS):
        file = trained / kind / "lora.ckpt"
        state, model = torch.load(file, weights_only=True), model_of(CASES["lora"], tokenizer)
        model.set_trainable(CASES["lora"].trainable)
        learned = {f"model.{name}": p for name, p in model.named_parameters() if p.requires_grad}
        assert state["state_dict"].keys() == learned.keys()
        (optimizer,) = state["optimizer_states"]
        assert optimizer["state"].keys() == learned.keys()
        assert file.stat().st_size < 3 * sum(4 * p.numel() for p in learned.values()) + 100_000


def test_a_checkpoint_that_lacks_a_trained_weight_is_refused_by_its_name(trained, tokenizer) -> None:
    module = module_of(model_of(CASES["lora"], tokenizer), CASES["lora"])
    state = torch.load(trained / "single" / "lora.ckpt", weights_only=True)
    del state["state_dict"][min(state["state_dict"])]
    with pytest.raises(ValueError, match=r"last\.ckpt: expected the \d+ weights that are trained, 1 are missing"):
        module.on_load_checkpoint(state)


def test_a_model_that_is_spread_answers_as_it_does_whole_and_goes_on_learning(
    tokenizer, shapes_folder, phases, tmp_path
) -> None:
    """Ranks answer different numbers of prompts; what is learned afterwards is what it would have been."""
    case = Case(EVERYTHING, language={"num_hidden_layers": 4})
    questions = [Prompt((Span("user", f"What is {number}?"),), None) for number in range(5)]

    def work() -> None:
        model = model_of(case, tokenizer)
        wanted = generate(model, questions, [], SamplingParams(12), batch_size=8)
        samples = shares_of(case, model, shapes_folder, phases)
        devices = config.Devices(accelerator="cpu", devices=2, strategy="shard")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        fit(model, case, "shard", samples, tmp_path, "first")
        assert units(model)
        load_full_state(model, before)
        rank = int(os.environ["RANK"])
        with whole(model):
            assert not any(isinstance(p, DTensor) for p in model.parameters())
            mine = questions[: 2 + 3 * rank]
            assert generate(model, mine, [], SamplingParams(12), batch_size=8) == wanted[: len(mine)]
        assert all(isinstance(p, DTensor) for p in model.parameters())
        answers: list[Any] = []

        def answer(number: int) -> None:
            answers.append(
                generate(model, [questions[number]], [], SamplingParams(12), batch_size=8) == [wanted[number]]
            )

        share_out(model, answer, len(questions), devices=devices)
        assert answers == [True] * (3 - rank)
        fit(model, case, "shard", samples, tmp_path, "second")
        reshard(model)

    on_ranks("shard", work)
    near(load_file(tmp_path / "second.weights"), load_file(tmp_path / "first.weights"), 0)


def test_a_checkpoint_of_0_2_whose_optimiser_counts_parameters_goes_on_as_one_by_name(
    trained, tokenizer, shapes_folder, phases, tmp_path
) -> None:
    case, name = CASES["lora"], "lora"
    state = torch.load(trained / "single" / f"{name}.ckpt", weights_only=True)
    (saved,) = state["optimizer_states"]
    order = [one for group in saved["param_groups"] for one in group["params"]]
    groups = [{**group, "params": [order.index(one) for one in group["params"]]} for group in saved["param_groups"]]
    numbered = {order.index(one): moments for one, moments in saved["state"].items()}
    whole = {f"model.{key}": value for key, value in model_of(case, tokenizer).state_dict().items()}
    state |= {
        "optimizer_states": [{"state": numbered, "param_groups": groups}], "state_dict": whole | state["state_dict"]
    }  # fmt: skip
    torch.save(state, tmp_path / "old.ckpt")

    def work() -> None:
        model = model_of(case, tokenizer)
        fit(
            model,
            case,
            "single",
            shares_of(case, model, shapes_folder, phases),
            tmp_path,
            "again",
            tmp_path / "old.ckpt",
        )

    on_ranks("single", work)
    near(load_file(tmp_path / "again.weights"), load_file(trained / "single" / f"{name}.weights"), 0)


def test_saving_before_anything_was_reached_changes_nothing(tokenizer) -> None:
    """Moments that are not there are not made: AdamW would count a step that none of its parameters took."""
    module = module_of(model_of(CASES["projector"], tokenizer), CASES["projector"])
    trainer = build_trainer(config.Devices(accelerator="cpu"), max_steps=1)
    trainer.strategy.connect(module)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
    saved = trainer.strategy.optimizer_state(optimizer)
    assert saved["state"] == {} == dict(optimizer.state)
    trainer.strategy.optimizers = [optimizer]
    trainer.strategy.load_optimizer_state_dict({"optimizer_states": [saved]})
    assert dict(optimizer.state) == {}
