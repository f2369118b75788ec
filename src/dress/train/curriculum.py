"""The curriculum: the stages of an experiment, each after those that it names, resumable at any point.

A run folder holds, per stage, what it made and a marker with the fingerprint of everything that it received. `resume`
skips marked stages and goes on inside the unfinished one; `reuse` takes over another run's stages as long as the
fingerprints agree, and the runs of a sweep take over each other's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from dress import config
from dress.base.files import write_json
from dress.base.progress import CurriculumProgress
from dress.base.ranks import rank, wait_for
from dress.base.run_folder import DONE, read_marker, short
from dress.base.seeding import seed_for
from dress.config.graph import description, evaluated_stages, evaluation, lineage, steps_before
from dress.data.features import FeatureError
from dress.dialogue.tokenizer import tokenizer_hash
from dress.exports.model_folder import check_form
from dress.feedback.raters import build_rater, check_rater
from dress.kernels.precision import precision_for
from dress.llm.request import Stopped
from dress.model.building import build_model, check_model
from dress.model.checkpoint import loaded_weights, save_model
from dress.model.generation import check_new_tokens
from dress.model.lvlm import LVLM
from dress.objectives.stage import stage_objectives
from dress.phases.conditions import conditions
from dress.rater import Rater
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.owned_server import check_server
from dress.rollout.responder import Responder
from dress.train.amounts import in_steps
from dress.train.collect_stage import collect
from dress.train.current_model import CurrentModel
from dress.train.engine import Asking, Engine, check_served, first_samples, uses_answers
from dress.train.eval_data import eval_lines
from dress.train.eval_stage import evaluate
from dress.train.export_stage import export
from dress.train.module import NotFinite, TrainingStopped
from dress.train.parallel import rank_device
from dress.train.praise import PraiseOfData
from dress.train.results import Results
from dress.train.reuse import Reuse
from dress.train.run_data import Output, RunData, set_aside
from dress.train.show import show_records
from dress.train.splits import check_drawn, check_places, check_splits, ignored
from dress.train.tasks import (
    CollectTask,
    EvalTask,
    ExportTask,
    InitialModel,
    Task,
    Tasks,
    TrainTask,
    facts,
    fingerprint,
)
from dress.train.tokenizer import run_tokenizer
from dress.train.tools import Loggers, NoLoggers, Tools
from dress.train.train_stage import LAST, check_learning, look_through, train
from dress.train.words import in_a_new_projector
from dress.worlds.prepared import prepared

Begin = Callable[[config.Config, Mapping[str, Any]], None]
"""Takes settings and facts of a run that begins."""


class Curriculum:
    """Runs the stages of `settings.curriculum` in `settings.run_dir`.

    Args:
        settings: the whole configuration.
        console: for tables and progress.
        loggers: where curves and results go, beside the run folder.

    Raises:
        ValueError, FileNotFoundError: a rater that cannot work, or no run at `reuse`.
    """

    def __init__(self, settings: config.Config, console: Console, loggers: Loggers | None = None) -> None:
        self.settings, self.console = settings, console
        self.folder = Path(settings.run_dir)
        for rater in (settings.annotator, settings.judge):
            check_rater(rater)  # now, not after hours of training
        if uses_answers(settings.curriculum):
            check_server(settings.generation)
        self.loggers = loggers or NoLoggers()
        self.progress = CurriculumProgress(
            console, {name: description(settings.curriculum.stages[name]) for name in settings.curriculum.order}
        )
        self.tools = Tools(console, self.progress, settings.devices, self.loggers)
        self.seconds: dict[str, float] = {}
        self.own_stages: list[str] = []

    @cached_property
    def annotator(self) -> Rater:
        """Gives feedback to collected answers."""
        return build_rater(self.settings.annotator, self.folder, self.console)

    @cached_property
    def judge(self) -> Rater:
        """Rates answers in evaluations."""
        return build_rater(self.settings.judge, self.folder, self.console)

    @cached_property
    def engine(self) -> Engine:
        """Computes answers."""
        return Engine(self.settings, self.tools)

    def run(self, begin: Begin = lambda settings, facts: None) -> dict[str, Any]:
        """Run or go on; returns the metrics (nothing on processes after the first).

        Args:
            begin: called before the first stage, when all that can be known to be wrong has been looked at, with the
                settings, where epochs have become steps, and the facts of the run: its stages with their records,
                amounts and rates.

        Raises:
            Interrupted: asked to stop; where it stands is saved.
            ValueError: data, checkpoint or setting that does not fit, named.
        """
        began = time.monotonic()
        if self.settings.training.threads:
            torch.set_num_threads(self.settings.training.threads)
        self.reuse = Reuse(self.settings.reuse, self.folder, self.console)
        with self.progress:
            self._open()
            if rank() > 0:
                wait_for(self.folder / "config.json")  # the first process found nothing wrong, and its loggers began
            self.loggers.begin(self.settings)
            begin(self.settings, {"stages": {name: facts(task) for name, task in self.tasks.by_name.items()}})
            for name, task in self.tasks.by_name.items():
                self._stage(name, task)
                self.loggers.stage_done(task, self.stage_folder(name))
        if rank() > 0:
            return {}
        last = self.tasks.by_name.get(evaluation(self.settings.curriculum) or "")
        results = Results(self.settings, last if isinstance(last, EvalTask) else None, self.loggers)
        spent = results.write_times(time.monotonic() - began, self.seconds, self.own_stages)
        self.console.print(spent, highlight=False, soft_wrap=True)
        return results.write(self.model.lvlm, self.data)

    def show_batch(self) -> None:
        """Print the first records of a train stage as they are learned: bold green carries loss.

        Raises:
            ValueError: `stage` names no train stage that runs, or one whose data are not collected yet.
        """
        curriculum = self.settings.curriculum
        names = curriculum.train_stages()
        name = self.settings.stage or (names[0] if names else "")
        stage = curriculum.stages.get(name)
        if name not in names or not isinstance(stage, config.TrainStage):
            raise ValueError(f"stage={name}: expected a train stage of this run, one of {', '.join(names)}")
        with self.progress:
            self._open_data()
        with TemporaryDirectory() as aside:
            model = self._build(Path(aside))  # leaves nothing behind
        outputs = {one: Output(self.stage_folder(one), "") for one in curriculum.order}
        try:
            stream = self.data.records(stage.data, outputs).stream(seed_for(self.settings.seed, name))
        except FileNotFoundError as missing:
            raise ValueError(
                f"stage={name}: its data are not collected yet ({missing}). Name a stage before it, or data.feedback"
            ) from None
        objectives = stage_objectives(stage, self.settings.objectives)
        show_records(stream, objectives, stage.records_per_step, self.settings.phases, model, self.console)

    def stage_folder(self, name: str) -> Path:
        """Where a stage's results are."""
        return self.folder / "stages" / name

    # --- before the first stage ---

    def _open(self) -> None:
        """Open all data, build the model and know what each stage receives; refuse early what would stop a stage."""
        self._open_data()
        settings = self.settings
        self.model = CurrentModel(partial(self._build, self.folder), settings.model)
        model = self.model.lvlm
        check_new_tokens(model, settings.generation.max_new_tokens)
        check_served(model, settings)
        tokenizer = tokenizer_hash(model.encoder.tokenizer) + model.encoder.chat.digest
        initial = InitialModel(settings.model, tokenizer, loaded_weights(model, settings.model), settings.seed)
        self.tasks = Tasks(settings, self.data, fingerprint(initial))
        auto = settings.data.features == "auto"
        # Once, on all ranks: where they share the model, each gathers what the digest is of.
        facts = model.image_facts(settings.data.images) if auto or settings.data.stored else {}
        if auto:
            self._choose_features(facts)
            settings = self.settings
            self.tasks = Tasks(settings, self.data, fingerprint(initial))
        for name, task in self.tasks.by_name.items():
            if settings.data.stored and isinstance(task, TrainTask | CollectTask):
                self._check_features(task, facts)
            if isinstance(task, ExportTask):
                check_form(task.stage, settings, task.stage.model)
            if isinstance(task, TrainTask):
                check_learning(task, settings.devices)
                if not task.awaits_collection:
                    self._look_through(name, task)

    def _open_data(self) -> None:
        """The data of the run, and the settings with what only they can tell; says what lies there and is not read."""
        check_model(self.settings.model)  # before a world is drawn
        check_drawn(self.settings)
        check_places(self.settings)
        folder = self._data_folder()
        check_splits(self.settings, folder)
        self.data = RunData(self.settings.data, folder)
        self.settings, praised = PraiseOfData(self.settings, self.data, self.progress).resolved()
        self.settings, amounts = in_steps(self.settings, self.data)
        self.settings, objective = in_a_new_projector(self.settings)
        if rank() > 0:
            return
        for line in (
            ignored(self.settings, folder),
            praised,
            objective,
            *amounts,
            *eval_lines(self.settings, self.data),
        ):
            if line:
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _build(self, folder: Path) -> LVLM:
        """The model before any stage, with a tokenizer that `folder` keeps if it is the run's own."""
        settings, rounded = self.settings, set[str]()
        if precision_for(settings.trainer.precision) == "bf16-mixed":
            stages = [settings.curriculum.stages[name] for name in settings.curriculum.train_stages()]
            learned = {part for stage in stages if isinstance(stage, config.TrainStage) for part in stage.trainable}
            rounded = {"vision", "language"} - learned
        spread = rank_device(settings.devices) if settings.devices.strategy == "shard" else None
        return build_model(
            settings.model, run_tokenizer(settings, self.data, folder, self.console), settings.data.max_tokens,
            seed_for(settings.seed, "init"), rounded, spread,
        )  # fmt: skip

    def _choose_features(self, facts: dict[str, str]) -> None:
        """What `data.features: auto` means here: true where all that is trained on holds features of this encoder."""
        tasks = [task for task in self.tasks.by_name.values() if isinstance(task, TrainTask | CollectTask)]
        trained = {part for task in tasks if isinstance(task, TrainTask) for part in task.stage.trainable}
        chosen = trained.isdisjoint(self.settings.stored_parts)
        if chosen:
            try:
                chosen = sum(self._check_features(task, facts) for task in tasks) > 0
            except FeatureError:
                chosen = False
        data = self.settings.data.model_copy(update={"features": chosen})
        self.settings = self.settings.model_copy(update={"data": data})
        self.data.data = data
        if chosen and rank() == 0:
            self.console.print(
                "training reads the features that are stored, and no image; the loss on data.eval is not measured "
                "(data.features=false: images, and that loss)", highlight=False, soft_wrap=True,
            )  # fmt: skip

    def _check_features(self, task: TrainTask | CollectTask, facts: dict[str, str]) -> int:
        """Refuse stored features of another encoder before the first stage; how many shards hold those of this one."""
        if isinstance(task, TrainTask):
            sources = [None if task.awaits_collection else task.records, task.validation]
        else:
            sources = [task.questions]
        parts = (part for source in sources if source for part in source.stream().parts)
        return sum(part.shards.check_features(facts) for part in parts)

    def _look_through(self, name: str, task: TrainTask) -> None:
        """Look through what a stage will train on; the first process does, and the others begin later."""
        if rank() == 0 and not (self.stage_folder(name) / DONE).exists():
            look_through(task, self.model.lvlm, self.tools)

    def _data_folder(self) -> Path | str:
        began = False

        def start(total: int) -> None:
            nonlocal began
            began = True
            self.progress.start("shapes world", total)

        folder = prepared(self.settings.data, start, self.progress.advance)
        if began:
            self.progress.end()
        return folder

    # --- one stage ---

    def _stage(self, name: str, task: Task) -> None:
        """Do a stage unless its marker says that it is done.

        Raises:
            ValueError: it was done with other settings or data.
        """
        marker, expected = self.stage_folder(name) / DONE, self.tasks.outputs[name].fingerprint
        self.reuse.stage(name, expected, marker.parent)
        if marker.exists():
            state = read_marker(marker)
            if state["fingerprint"] != expected:
                raise ValueError(
                    f"{marker}: stage {name} was made with other settings or data (expected fingerprint "
                    f"{expected}, got {state['fingerprint']}). Start a new run, or resume without overrides"
                )
            self.seconds[name] = state["seconds"]
            if isinstance(task, TrainTask):
                self.model.at(self.tasks.outputs[name])  # damage is named now, not when it is needed
            return
        marker.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            match task:
                case TrainTask():
                    self._train(name, task)
                case CollectTask():
                    self._collect(name, task)
                case EvalTask():
                    self._evaluate(name, task)
                case ExportTask():
                    self._export(name, task)
        except Stopped as stop:
            raise Stopped(
                f"stage {name}: {stop}. Go on with: python src/train.py resume={short(self.folder)}"
            ) from None
        except NotFinite as stop:
            raise NotFinite(f"stage {name}, {stop}. {self._after_stop(name)}") from None
        except TrainingStopped as stop:
            raise TrainingStopped(f"stage {name}, {stop}") from None
        self.progress.end()
        self.seconds[name] = time.monotonic() - began
        self.own_stages.append(name)
        if rank() == 0:
            if line := set_aside(marker.parent):
                self.console.print(line, highlight=False)
            write_json(marker, {"fingerprint": expected, "seconds": round(self.seconds[name], 2)})
        wait_for(marker)

    def _train(self, name: str, task: TrainTask) -> None:
        """Train from the weights that the task names; writes the model."""
        curriculum, folder = self.settings.curriculum, self.stage_folder(name)
        if task.awaits_collection:  # its records were not there before
            self._look_through(name, task)
        model = self.model.at(task.weights)
        train(task, model, folder, self.tools, steps_before(curriculum, name))
        beside = {
            "stage": name,
            "stages": lineage(curriculum, name),
            "conditions": conditions(curriculum, self.settings.phases, name),
            "config": self.settings.model_dump(),
        }
        save_model(model, self.settings.model, folder, beside)
        if rank() == 0:
            (folder / LAST).unlink(missing_ok=True)
        self.model.wrote(folder)

    def _collect(self, name: str, task: CollectTask) -> None:
        """Collect answers of a stage's model."""
        folder, source = self.stage_folder(name), task.stage.model
        responder = self._responder(source, task.model, task.stage.condition)
        asking = Asking(source, task.model, folder, [task.condition], lambda: first_samples(task.questions))
        with self.engine.answering(responder, asking) as asked:
            if asked is not None:
                collect(task, asked, self.annotator, folder, self.tools)

    def _evaluate(self, name: str, task: EvalTask) -> None:
        sources, folder = evaluated_stages(self.settings.curriculum, name), self.stage_folder(name)
        self.reuse.cells(task, folder)
        engine = self.engine

        @contextmanager
        def answering(label: str, output: Output) -> Iterator[Responder | None]:
            texts = [task.conditions[label][condition] for condition in task.eval.conditions]
            asking = Asking(sources[label], output, folder, texts, lambda: first_samples(task.questions))
            with engine.answering(self._responder(sources[label], output), asking) as asked:
                yield asked

        responders = {label: partial(answering, label, output) for label, output in task.models.items()}
        evaluate(task, responders, self.judge, folder, self.tools, engine.share_out)

    def _export(self, name: str, task: ExportTask) -> None:
        """Write a stage's model for others; the first process does."""
        if rank() > 0:
            return
        last = self.tasks.by_name.get(evaluation(self.settings.curriculum) or "")
        evaluated = last if isinstance(last, EvalTask) else None
        export(task, evaluated, self.settings, self.tools)

    def _responder(self, stage: str, output: Output, condition: str = "none") -> CkptResponder:
        """Answers with a stage's model."""
        under = "" if condition == "none" else f" ({condition})"
        keep, aspect = self.settings.generation.keep_cache, self.settings.data.max_aspect
        return CkptResponder(self.model.at(output), f"{self.settings.name}/{stage}{under}", keep, aspect)

    def _after_stop(self, name: str) -> str:
        """What is left of a stage that stopped, and how to go on."""
        last = self.stage_folder(name) / LAST
        left = f"{short(last)} holds the last state that was finite" if last.exists() else "No checkpoint was written"
        rate = f"curriculum.stages.{name}.lr=…"
        return f"{left}. Go on with another rate: python src/train.py resume={short(self.folder)} {rate}"
