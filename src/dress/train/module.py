"""The LightningModule: one training step for every phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from dress import config
from dress.base.ranks import of_ranks
from dress.dialogue.batch import Batch, Forest, blank_forest
from dress.kernels.memory import keep_freed_memory
from dress.model.composed import ComposedLVLM
from dress.model.lvlm import LVLM
from dress.model.memory import needs_checkpointing
from dress.model.sharding import clip_gradients, own_part, reshard, shard
from dress.model.states import States
from dress.objectives.lm import add_sums, factors
from dress.objectives.stage import StageObjectives
from dress.train.answer_pass import AnswerPasses, Logged, Pass
from dress.train.average import MovingAverage
from dress.train.optimizer import build_optimizer, set_rate
from dress.train.step_log import StepLog
from dress.train.strategies import ByName, Replicated, Sharded
from dress.train.words import Costs, mean_embedding, word_costs

NAMED_RECORDS = 8
"""Of a step that stopped a stage."""


class TrainingStopped(ValueError):
    """A stage learns nothing: a step without a supervised token, or records that reach nothing that is trained."""


class NotFinite(TrainingStopped):
    """A loss, gradient norm or weight that is not finite."""


class DressModule(L.LightningModule):
    """Trains an LVLM through one stage.

    Args:
        model: trained in place.
        stage: its steps, learning rate and trainable parts.
        learning: clipping, logging, optimizer and schedule.
        steps_before: optimizer steps of the stages before, for `curriculum/step`.
        tokens: of the largest forest.
        records: that there are, for `epoch`; 0 where it is not wanted.
        objectives: of the stage's phases; None for those that need no settings.
        reference: log-probabilities of answers at the stage's start, by key, where an objective reads them.
    """

    def __init__(
        self, model: LVLM, stage: config.TrainStage, learning: config.Learning, steps_before: int = 0,
        tokens: int = 0, records: int = 0, objectives: StageObjectives | None = None,
        reference: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint holds what is trained; the rest is what the stage began with
        self.model, self.stage, self.learning = model, stage, learning
        self.tokens = tokens
        self.validates_every: int | None = None
        """Steps between looks at held-out records; None: there are none."""
        self.objectives = objectives or StageObjectives(stage, {})
        self.log_of_steps = StepLog(stage, self.objectives, steps_before, records)
        self._phases = tuple(stage.phases)
        self._answers = AnswerPasses(self.objectives, reference or {}) if self.objectives.comparing else None
        self._average: MovingAverage | None = None
        self._saved_average: dict[str, Tensor] = {}
        self._waiting: dict[str, float] = {}
        self._centre: Tensor | None = None  # the mean word embedding, which objective words does not change
        self.unreached_steps = 0
        """Steps whose records reached no trained parameter on any rank (a projector alone, text-only records)."""

    @property
    def history(self) -> list[dict[str, float]]:
        """What was logged, by `curriculum/step`."""
        return self.log_of_steps.history

    def configure_model(self) -> None:
        """Spread the model over the ranks where the strategy asks for that; once, for all stages to come."""
        if isinstance(self.trainer.strategy, Sharded):
            assert self.device_mesh is not None
            shard(self.model, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Settle what is held in memory: freed blocks, activations (`training.checkpointing`)."""
        if self.learning.training.keep_memory and self.device.type == "cpu":
            keep_freed_memory()
        setting, half = self.learning.training.checkpointing, "16" in str(self.trainer.precision)
        self.model.checkpoint_activations(
            setting == "on" or (setting == "auto" and needs_checkpointing(self.model, self.tokens, self.device, half))
        )

    def on_train_start(self) -> None:
        """Begin a teacher's weights, or go on with those of a checkpoint, which has been read by now."""
        distilling = next(iter(self.objectives.distilling.values()), None)
        if distilling is not None and distilling.settings.teacher == "average":
            self._average = MovingAverage(self.model, distilling.settings.decay, self._saved_average)

    def on_fit_end(self) -> None:
        """Send what waits."""
        self.send_waiting()

    def training_step(self, step: Batch, batch_idx: int) -> Tensor:
        """One optimizer step: every rank makes the same passes and the same collectives, whatever its share holds.

        Raises:
            TrainingStopped: on all ranks: no supervised token.
            NotFinite: on all ranks: a loss or gradient norm that is not finite.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        self.log_of_steps.add_packing(step)
        assert not isinstance(optimizer, list) and isinstance(scheduler, LRScheduler)
        amounts = self._answers.amounts(step.forests) if self._answers else [step.weight]
        shares = self._of_ranks(step.weight, len(step.forests), step.images, *amounts)
        weight, images = shares[:, 0].sum(), bool(shares[:, 2].any())
        idle = self._answers is not None or (self.stage.awaits_collection and self.learning.training.idle == "pass")
        if not weight and not idle:
            raise TrainingStopped(self._at(step, "no supervised token"))
        surprises: list[Tensor] = []
        if not weight:  # nothing to compare in these records: the step only counts
            loss = torch.zeros((), device=self.device)
        elif self.stage.objective == "words":
            loss = self._learn_words(step)
        else:
            loss, surprises = self._learn_answers(step, shares[:, 3:].sum(0), int(shares[:, 1].max()))
        if not images:  # a blank image is no reason to decay or to move what no record reached
            for name, parameter in self.model.named_parameters():
                if self.model.part_of(name) in ("vision", "projector"):
                    parameter.grad = None
        reached = [p for p in self.parameters() if p.grad is not None]
        norm = clip_gradients(reached, self.learning.trainer.gradient_clip_val or math.inf)
        self._check_finite(step, loss, norm, surprises)
        self.unreached_steps += not reached
        optimizer.step()  # with no gradient at all it only counts
        if self._average:
            self._average.update()
        optimizer.zero_grad()
        scheduler.step()
        self._log(float(norm), float(scheduler.get_last_lr()[0]))
        return loss

    def _learn_answers(self, step: Batch, amounts: Tensor, most: int) -> tuple[Tensor, list[Tensor]]:
        """Loss of this rank's share, after its gradient, and the negative log-likelihoods of each forest's entries.

        Args:
            step: the share.
            amounts: what the step's losses are divided by, of all ranks.
            most: forests that any rank has, and passes that each makes.
        """
        passes = [*step.forests, *[self._blank()] * (most - len(step.forests))]
        compute: Callable[..., tuple[Tensor, Tensor]] = partial(self._loss, total=amounts[0].to(self.device))
        if self._answers:
            compute = self._comparing(self._answers, passes, amounts, self.log_of_steps.sums)
        loss = torch.zeros((), device=self.device)
        surprises = []
        for number, forest in enumerate(passes):
            with self._pass(last=number == len(passes) - 1):
                part, nll = compute(forest, touch=self._exchanges)
                self.log_of_steps.tokens += forest.tokens
                self._descend(part)
            loss += part.detach()
            surprises.append(nll)
        return loss, surprises

    def _comparing(
        self, answers: AnswerPasses, passes: Sequence[Forest], amounts: Tensor, sums: Tensor
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        """What computes a pass's part of a loss in which answers are compared; see `_loss`.

        Args:
            answers: of the stage.
            passes: of the step; all ranks have as many.
            amounts: what its losses are divided by, of all ranks.
            sums: [3, P], added to.
        """
        of_step, mismatches = answers.of_step(amounts), bool(self.objectives.mismatching)
        logged = self._logged(sums)
        drift = torch.zeros(2, len(self.objectives.scoring))
        if mismatches and len(passes) > 1:  # how far it drifted is known when all of them have been looked at
            with torch.no_grad():
                every = [self.model(one, one.weight, read=partial(answers.drifts_alone, one))[0] for one in passes]
            reshard(self.model)
            drift = self._sum_of_ranks(torch.stack(every).sum(0))

        def compute(forest: Forest, touch: bool = False) -> tuple[Tensor, Tensor]:
            teacher = None
            if self._average and not self.objectives.distilling.keys().isdisjoint(forest.phases):
                with self._average.in_place(), torch.no_grad():
                    teacher, _ = self.model(forest, forest.weight, read=lambda states: (states.detached(), states))

            def read(states: States) -> tuple[Tensor, Tensor]:
                scored = answers.scored(forest, states)
                here = self._sum_of_ranks(answers.drifts(scored)) if mismatches and len(passes) == 1 else drift
                return answers.loss(forest, Pass(states, scored, teacher), of_step, here, logged)

            result: tuple[Tensor, Tensor] = self.model(forest, forest.weight, touch, read=read)
            return result

        return compute

    def _sum_of_ranks(self, values: Tensor) -> Tensor:
        """Of a tensor that all have, float64 on the CPU."""
        return self._of_ranks(*values.flatten().tolist()).sum(0).view_as(values)

    def _learn_words(self, step: Batch) -> Tensor:
        """This rank's share of the loss of all ranks, after its gradient to this one's images."""
        costs = self._words(step, self.log_of_steps.sums)
        self.log_of_steps.right.scatter_add_(0, costs.phase, costs.best.double())
        if costs.learned:
            touched = 0 * self.model.blank_images().sum() if self._exchanges and not step.images else 0
            self._descend(costs.loss + touched)
        return costs.loss.detach() / self.trainer.world_size

    def _words(self, step: Batch, sums: Tensor) -> Costs:
        """What a step's words cost, added to sums."""
        assert isinstance(self.model, ComposedLVLM)
        if self._centre is None:
            self._centre = mean_embedding(self.model)
        trainer = self.trainer
        costs = word_costs(self.model, self._centre, step, self._phases, trainer.global_rank)
        add_sums(sums, costs.cost, costs.weight, costs.phase)
        return costs

    def _descend(self, loss: Tensor) -> None:
        """Add the gradient of a loss to that of the step; of several ranks the mean is taken, and the sum wanted."""
        if loss.requires_grad:
            self.manual_backward(loss * self.trainer.world_size if self.trainer.world_size > 1 else loss)

    @property
    def _exchanges(self) -> bool:
        """Whether all that is trained must have a gradient in every exchange, be it of one process with itself."""
        return self.trainer.world_size > 1 or isinstance(self.trainer.strategy, Replicated | Sharded)

    def _of_ranks(self, *values: float) -> Tensor:
        """These numbers of every rank, [ranks, numbers], float64 on the CPU."""
        mine = torch.tensor(values, dtype=torch.float64)
        if self.trainer.world_size == 1:
            return mine[None]
        mine = mine.to(self.device)
        every = [torch.empty_like(mine) for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather(every, mine)
        return torch.stack(every).cpu()

    def _check_finite(self, step: Batch, loss: Tensor, norm: Tensor, surprises: list[Tensor]) -> None:
        """Stop on all ranks, before anything is learned, if the loss or the gradient norm of any is not finite."""
        figures = self._of_ranks(float(loss), float(norm))
        if bool(figures.isfinite().all()):
            return
        phases = {
            forest.phases[number]
            for forest, nll in zip(step.forests, surprises, strict=False)
            for number in forest.phase[~nll.isfinite()].unique().tolist()
        }
        what = "loss" if not figures[:, 0].isfinite().all() else "gradient norm"
        value = figures[:, 0].sum() if what == "loss" else figures[0, 1]
        raise NotFinite(self._at(step, f"a {what} of {float(value)}", phases))

    def check_weights(self) -> None:
        """Refuse to keep weights that are not finite.

        Raises:
            NotFinite: an update overflowed; on all ranks.
        """
        trained = [(name, own_part(p)) for name, p in self.model.named_parameters() if p.requires_grad]
        bad = next((number for number, (_, p) in enumerate(trained) if not bool(p.isfinite().all())), len(trained))
        first = int(self._of_ranks(bad).min())
        if first < len(trained):
            raise NotFinite(
                f"step {self.trainer.global_step}: weights that are not finite, first {trained[first][0]} (phase "
                f"{', '.join(self.stage.phases)})"
            )

    def _at(self, step: Batch, what: str, phases: Collection[str] = ()) -> str:
        """What happened, with the step's phases and records of all ranks."""
        shares = of_ranks((set(phases), step.places))
        named = sorted(set().union(*(share[0] for share in shares))) or list(self.stage.phases)
        places = [place for share in shares for place in share[1]]
        records = ", ".join(places[:NAMED_RECORDS]) or f"none of data.{self.stage.data} that can be used"
        more = f" and {len(places) - NAMED_RECORDS} more" if len(places) > NAMED_RECORDS else ""
        return f"step {self.trainer.global_step + 1}: {what} (phase {', '.join(named)}; records {records}{more})"

    def _loss(self, forest: Forest, total: Tensor, touch: bool = False) -> tuple[Tensor, Tensor]:
        """Sum over entries of weight x negative log-likelihood ÷ total, and the latter of each entry [E]."""
        likeliest = torch.zeros(len(forest.target), dtype=torch.bool, device=forest.target.device)
        loss, nll = self.model(forest, factors(forest.weight, total), touch, likeliest)
        with torch.no_grad():
            self._logged(self.log_of_steps.sums).add(forest.columns(self._phases), nll, forest.weight, likeliest)
        return loss, nll

    def _logged(self, sums: Tensor) -> Logged:
        """What a pass adds to: these sums, and the log's own of all else."""
        return Logged(sums, self.log_of_steps.right, self.log_of_steps.figures.values)

    def _blank(self) -> Forest:
        """What a rank computes where others have a forest more: every pass is one of all ranks."""
        return blank_forest(self._phases[0], self.device)

    def validation_step(self, step: Batch, batch_idx: int) -> None:
        """Add a step's weighted loss, by phase, and what it would be without images."""
        log = self.log_of_steps
        if self.stage.objective == "words":
            self._words(step, log.held_out)
            return
        amounts = self._answers.amounts(step.forests) if self._answers else []
        shares = self._of_ranks(len(step.forests), 0 if step.stored else step.images, *amounts)
        passes = [*step.forests, *[self._blank()] * (int(shares[:, 0].max()) - len(step.forests))]
        right, figures = log.right.clone(), log.figures.copy()
        if self._answers:
            compute = self._comparing(self._answers, passes, shares[:, 2:].sum(0), log.held_out)
        seeing = bool(shares[:, 1].any())  # some rank does: all compute
        for forest in passes:
            _, nll = compute(forest) if self._answers else self.model(forest, forest.weight)
            columns = forest.columns(self._phases)
            if not self._answers:
                add_sums(log.held_out, nll, forest.weight, columns)
            if seeing:
                _, unseen = self.model(forest.blank(), forest.weight)
                counted = forest.weight * forest.seeing * (nll > 0)  # of a divergence no likelihood is known
                add_sums(log.image_gap, unseen - nll, counted, columns)
        log.right, log.figures = right, figures  # of what is trained on alone

    def on_validation_epoch_end(self) -> None:
        """Mean loss on held-out records, by phase."""
        reshard(self.model)
        logged = self.log_of_steps.held_out_point(self.trainer.global_step, self._reduced)
        self._send(self._waiting | logged)
        self._waiting = {}

    def _pass(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged once per optimizer step."""
        strategy = self.trainer.strategy
        return strategy.pass_of_step(last) if isinstance(strategy, ByName) else nullcontext()

    def _log(self, norm: float, lr: float) -> None:
        """Means since the last log, by phase."""
        done = self.trainer.global_step
        if done % self.learning.trainer.log_every_n_steps and done != self.stage.total_steps:
            return
        point = self.log_of_steps.point(done, norm, lr, self._reduced)
        self.send_waiting()
        self._waiting = point | self.log_of_steps.speed(point, self.trainer.world_size, self.device)
        if not self.validates_every or done % self.validates_every:  # else with what is about to be measured
            self.send_waiting()

    def _reduced(self, values: Tensor) -> Tensor:
        """Sums over ranks, on the CPU."""
        reduced: Tensor = self.trainer.strategy.reduce(values.to(self.device), reduce_op="sum")
        return reduced.cpu()

    def send_waiting(self) -> None:
        """Send the point that waits for the loss on held-out records, if one does."""
        if self._waiting:
            self._send(self._waiting)
        self._waiting = {}

    def _send(self, values: dict[str, float]) -> None:
        """One point to every logger: what goes through `self.log` is sent again at every step."""
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=int(values["curriculum/step"]))

    def configure_optimizers(self) -> Any:
        """The optimizer and schedule of the settings."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer, scheduler = build_optimizer(parameters, self.stage, self.learning)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def trained_names(self) -> set[str]:
        """Of the state: parameters that learn, and buffers of the parts that do."""
        parameters = dict(self.named_parameters())
        buffers = {
            name for name, _ in self.named_buffers()
            if self.model.part_of(name.removeprefix("model.")) in self.stage.trainable
        }  # fmt: skip
        return {name for name, parameter in parameters.items() if parameter.requires_grad} | buffers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was logged, and the sums since the last log."""
        checkpoint["dress"] = {**self.log_of_steps.state(), "unreached": self.unreached_steps}
        if self._average:
            checkpoint["dress"]["average"] = {name: one.cpu() for name, one in self._average.values.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` kept, and go on with the stage's own learning rate.

        Raises:
            ValueError: the checkpoint lacks a weight that is trained; names it.
        """
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        if missing := sorted(trained - checkpoint["state_dict"].keys()):
            raise ValueError(
                f"last.ckpt: expected the {len(trained)} weights that are trained, {len(missing)} are missing, first "
                f"{missing[0]}. Delete the file: the stage then begins anew"
            )
        self.log_of_steps.load(checkpoint["dress"])
        self.unreached_steps = checkpoint["dress"].get("unreached", 0)
        self._saved_average = checkpoint["dress"].get("average", {})
        set_rate(checkpoint, self.stage.rate)
