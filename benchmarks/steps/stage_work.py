"""What teams do: steps of a stage of a run, the same steps in a plain Lightning loop, and answers of its model."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from dress import config
from dress.base.progress import CurriculumProgress
from dress.base.ranks import of_ranks, rank
from dress.data.shards import Shards
from dress.data.stream import Part, Stream
from dress.dialogue.batch import Batch
from dress.feedback.collect import Collection, collect_slice
from dress.feedback.raters import build_rater
from dress.kernels.memory import keep_freed_memory
from dress.model.checkpoint import load_model
from dress.model.lvlm import LVLM
from dress.objectives.stage import stage_objectives
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Rollout
from dress.rollout.responder import Sampling
from dress.train.callbacks import SaveCheckpoint, ShowProgress
from dress.train.datamodule import StageData
from dress.train.examples import Examples
from dress.train.module import DressModule, build_optimizer
from dress.train.parallel import build_trainer, share_out
from dress.train.steps import StepDataset
from steps.gate import Targets, of_forest, save
from steps.teams import Member

STEPS = 1_000_000
FIXED = 12
"""Steps whose forests are made beforehand where only the loop is timed; used again and again."""


@dataclass(frozen=True)
class StageWork:
    """A train stage, or the questions of a collect stage, of a run that is there.

    Args:
        settings: of the run, with the devices of the team.
        stage: whose steps.
        weights: folder of the weights that it begins with.
        records: folder of shards.
        out: folder that keeps what the first step learned, as NAME.
        name: of the team.
        fixed: make the first steps' forests beforehand.
        plain: a plain Lightning loop instead of ours.
    """

    settings: config.Config
    stage: str
    weights: Path
    records: Path
    out: Path
    name: str
    fixed: bool = False
    plain: bool = False


class Orders(L.Callback):
    """Trains as many steps as it is asked for, then waits; keeps what the first step learned for `gate.compare`."""

    def __init__(self, member: Member, gate: Path | None = None) -> None:
        self.member, self.gate, self.left = member, gate, 0
        self.targets, self.gradients = Targets(), dict[str, Tensor]()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.member.reply(startup=time.monotonic() - self.member.began, pid=os.getpid())
        self._wait(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Batch, batch_idx: int) -> None:
        if self.gate:
            for forest in batch.forests:
                of_forest(self.targets, forest)

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        if self.gate:
            grads = {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}
            self.gradients = {
                name: (g.full_tensor() if isinstance(g, DTensor) else g).clone() for name, g in grads.items()
            }

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.gate:
            losses, targets = zip(*of_ranks((float(outputs["loss"]), self.targets)), strict=True)
            if rank() == 0:
                learned = sum(targets, Counter())
                save(self.gate, sum(losses), self.gradients, Targets(learned))
            self.gate, self.gradients = None, {}
        self.left -= 1
        if not self.left:
            self.member.reply(cpu=time.process_time() - self._cpu, **self.figures(trainer))
            self._wait(trainer)

    def figures(self, trainer: L.Trainer) -> dict[str, Any]:
        """What else a reply says."""
        return {}

    def _wait(self, trainer: L.Trainer) -> None:
        order = self.member.orders()
        if order is None:
            trainer.should_stop = True
            return
        self.left, self._cpu = order, time.process_time()


class Fixed(L.LightningDataModule):
    """Steps that are there already, again and again."""

    def __init__(self, steps: list[Batch]) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> DataLoader[Batch]:
        again = [self.steps[number % len(self.steps)] for number in range(STEPS)]
        return DataLoader(again, batch_size=None)  # type: ignore[arg-type]


class Plain(L.LightningModule):
    """A step without anything of ours but model and forests: losses, PyTorch's clipping, an optimiser, a schedule."""

    def __init__(self, model: LVLM, stage: config.TrainStage, learning: config.Learning) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.stage, self.learning = model, stage, learning
        self.learned = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def on_fit_start(self) -> None:
        """What ours does for every stage: keep freed memory, keep activations."""
        keep_freed_memory()
        self.model.checkpoint_activations(False)

    def training_step(self, step: Batch, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        total = torch.stack([forest.weight.sum() for forest in step.forests]).sum()
        loss = torch.zeros(())
        for forest in step.forests:
            part, _ = self.model(forest, forest.weight / total)
            self.manual_backward(part)
            loss += part.detach()
        torch.nn.utils.clip_grad_norm_(self.learned, self.learning.trainer.gradient_clip_val or 0.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        return loss

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = build_optimizer(self.learned, self.stage, self.learning)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(member: Member, work: StageWork) -> None:
    """Steps of a stage, as `train.train_stage` makes them; ends with the weights in `out/NAME/weights`."""
    settings = work.settings
    model, _ = load_model(work.weights)
    stage_settings = settings.curriculum.stages[work.stage]
    assert isinstance(stage_settings, config.TrainStage)
    stage = stage_settings.model_copy(update={"steps": STEPS, "epochs": None})
    model.set_trainable(list(stage.trainable))
    learning = settings.learning
    stream = Stream([Part("", Shards(work.records))], settings.seed)
    reader = model.reader(settings.data.images, settings.data.max_aspect)
    rejects = work.out / "rejects.jsonl"
    examples = Examples(
        stage_objectives(stage, settings.objectives), settings.phases, settings.data, model.encoder, reader, rejects
    )

    def dataset(rank: int, world: int) -> StepDataset:
        return StepDataset(stream, stage, examples, False, rank, world)

    if work.fixed:
        data: L.LightningDataModule = Fixed([dataset(0, 1)[number] for number in range(FIXED)])
    else:
        data = StageData(dataset, settings.data, None)
    more: dict[str, Any] = {"precision": settings.trainer.precision, "max_steps": STEPS, "max_epochs": 1}
    orders = Orders(member, work.out / work.name)
    if work.plain:
        module: L.LightningModule = Plain(model, stage, learning)
        more["callbacks"] = [orders]
        plain = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
        bare = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
        trainer = L.Trainer(**plain, **bare, **more)
    else:
        module = DressModule(model, stage, learning, tokens=settings.data.tokens_per_forest)
        progress = CurriculumProgress(Console(quiet=True), {})
        progress.start(work.stage, STEPS)
        beside = [ShowProgress(progress), SaveCheckpoint(work.out / work.name / "last.ckpt", STEPS)]
        trainer = build_trainer(settings.devices, callbacks=[*beside, orders], log_every_n_steps=1, **more)
    trainer.fit(module, datamodule=data)
    if rank() == 0:
        weights = {name: value.detach().clone().contiguous() for name, value in model.named_parameters()}
        save_file(weights, work.out / work.name / "weights.safetensors")
    member.reply(done=True)


def collect(member: Member, work: StageWork) -> None:
    """Answers to questions and feedback on them, as `train.collect_stage` has them, a share of records at a time.

    An order is a number of shares, of which this rank does those whose turn it is; a reply has what was written of
    each.
    """
    settings = work.settings
    model, _ = load_model(work.weights)
    stage_settings = settings.curriculum.stages[work.stage]
    assert isinstance(stage_settings, config.CollectStage) and stage_settings.condition == "none"
    generation, questions = settings.generation, Shards(work.records)
    responder = CkptResponder(model, "model", generation.keep_cache, settings.data.max_aspect)
    sampling = Sampling(
        generation.max_new_tokens, generation.batch_size, stage_settings.temperature, stage_settings.top_p
    )
    rollout = Rollout(responder, build_rater(settings.annotator), sampling, settings.seed)
    collection = Collection(questions, stage_settings, work.out)
    member.reply(startup=time.monotonic() - member.began, pid=os.getpid())

    texts: dict[int, str] = {}
    turns = 0

    def answer(number: int) -> None:
        nonlocal turns
        records = list(questions.readable(collection.slices[number % len(collection.slices)]))
        samples = collect_slice(rollout, records, stage_settings)
        texts[number] = "\n".join(record.model_dump_json() for record, _ in samples)
        turns += sum(len(dialogue.turns) for record, _ in samples for dialogue in record.dialogues)

    while (order := member.orders()) is not None:
        turns, began = 0, time.process_time()
        texts.clear()
        share_out(model, answer, order, devices=settings.devices)
        member.reply(cpu=time.process_time() - began, answers=turns, texts=dict(texts))
