"""The curriculum: the stages of an experiment, one after another, resumable at any point.

A run folder holds, per stage, what it produced and a marker with a fingerprint of everything that
it depends on. `resume` skips marked stages and goes on inside the unfinished one; `reuse` takes
over another run's stages as long as the fingerprints agree.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from rich.console import Console

from dress import config
from dress.base.files import read_json, write_json
from dress.base.progress import CurriculumProgress
from dress.base.ranks import of_ranks, rank, wait_for
from dress.base.run_folder import read_marker, read_run_json, short
from dress.base.seeding import seed_for
from dress.config.raters import PlainRater
from dress.data.pixels import Pixels, resize_note
from dress.data.shards import Sample, Shards
from dress.data.stream import Stream
from dress.dialogue.tokenizer import tokenizer_hash
from dress.evaluation.cells import evaluate_cells
from dress.evaluation.metrics import metrics
from dress.evaluation.outcomes import Outcome, load_outcomes, save_outcomes
from dress.evaluation.report import write_report
from dress.feedback.annotate import gather, keeping
from dress.feedback.collect import CkptResponder, Sampling, endings_table, in_turn, ratings_table
from dress.feedback.rater import Rater, build_rater, check_rater
from dress.kernels.precision import precision_for
from dress.llm.request import Stopped
from dress.model.building import build_model
from dress.model.checkpoint import load_weights, loaded_weights, read_training_state, save_model
from dress.model.generation import check_new_tokens
from dress.phases import supervised
from dress.run.loggers import build_loggers, log_results
from dress.run.result_rows import ENDINGS
from dress.train.callbacks import SaveCheckpoint, ShowProgress, build_callbacks
from dress.train.datamodule import StageData
from dress.train.module import DressModule, NotFinite, TrainingStopped
from dress.train.parallel import build_trainer, on_device, share_out
from dress.train.run_data import REJECTS, RunData, name_damage, told
from dress.train.show import coloured, parameter_table, ratings_as_table
from dress.train.stages import (
    cell_depends_on,
    conditions,
    depends_on,
    depends_on_first,
    evaluated_stages,
    fingerprint,
    headline,
    trained_stages,
)
from dress.train.steps import HeldOut, StepDataset
from dress.train.supervision import Supervision
from dress.worlds.prepared import prepared

DONE = "done.json"
"""Marks a finished stage."""
SHOWN_RECORDS = 4
"""Records that `show=batch` prints."""

Made = TypeVar("Made", bound=StepDataset)


class Curriculum:
    """Runs the stages of `settings.curriculum.order` in `settings.run_dir`.

    Args:
        settings: the whole configuration.
        console: for tables and progress.
    """

    def __init__(self, settings: config.Config, console: Console) -> None:
        self.settings, self.console = settings, console
        self.folder = Path(settings.run_dir)
        for rater in (settings.annotator, settings.judge):
            check_rater(rater)  # now, not after hours of training
        names = settings.curriculum.order
        expected = {name: float(settings.budget.get(name, {}).get("seconds", 60)) for name in names}
        self.progress = CurriculumProgress(console, expected)
        self.seconds: dict[str, float] = {}

    @cached_property
    def annotator(self) -> Rater:
        return build_rater(self.settings.annotator, self.folder, self.console)

    @cached_property
    def judge(self) -> Rater:
        return build_rater(self.settings.judge, self.folder, self.console)

    # --- the whole ---

    def run(self) -> dict[str, Any]:
        """Run or go on; returns the metrics (nothing on processes after the first).

        Raises:
            Interrupted: asked to stop; where it stands is saved.
            ValueError: data, checkpoint or setting that does not fit, named.
        """
        began = time.monotonic()
        if self.settings.training.threads:
            torch.set_num_threads(self.settings.training.threads)
        with self.progress:
            self.data = RunData(self.settings.data, self._data_folder())
            self.model = build_model(self.settings, self.data, self.folder, self.console)
            check_new_tokens(self.model, self.settings.generation.max_new_tokens)
            made_from = fingerprint("", depends_on_first(
                self.settings, tokenizer_hash(self.model.encoder.tokenizer),
                loaded_weights(self.model, self.settings.model),
            ))  # fmt: skip
            vision, images = self.model.vision, self.settings.data.images
            self.data.check(self.settings.curriculum, vision.facts(images) if self.settings.data.features else None)
            for name in self.trained():
                stage = self.settings.curriculum.stages[name]
                if isinstance(stage, config.TrainStage) and getattr(self.settings.data, stage.data) is not None:
                    self._check_supervision(name, stage)
            self.chain: dict[str, str] = {}
            for name in self.settings.curriculum.order:
                made_from = fingerprint(made_from, depends_on(self.settings, self.data, name))
                self.chain[name] = made_from
                self._stage(name, made_from)
        if rank() > 0:
            return {}
        outcomes = self._outcomes()
        result = metrics(outcomes, headline(self.settings.curriculum))
        self._write_run_json(time.monotonic() - began)
        write_json(self.folder / "metrics.json", result)
        samples = self._eval_samples() if outcomes else []
        write_report(self.folder, samples, self.settings.eval.scenes, self._notes(samples))
        log_results(self.settings, result, outcomes, samples)
        return result

    def _check_supervision(self, name: str, stage: config.TrainStage) -> None:
        """Look through what a stage will train on; the first process does, and the others begin later."""
        if rank() == 0 and not (self.stage_folder(name) / DONE).exists():
            look = Supervision(name, stage, self.settings, self.model.encoder)
            for line in look.check(self._stream(name, stage), self.progress):
                self.console.print(line, highlight=False, markup=False)

    def show_batch(self) -> None:
        """Print the first records of a train stage as they are learned: bold green carries loss.

        Raises:
            ValueError: `stage` names no train stage of the order, or one whose data are not collected yet.
        """
        name = self.settings.stage or self.trained()[0]
        stage = self.settings.curriculum.stages.get(name)
        if name not in self.trained() or not isinstance(stage, config.TrainStage):
            raise ValueError(f"stage={name}: expected a train stage of this run, one of {', '.join(self.trained())}")
        with self.progress:
            self.data = RunData(self.settings.data, self._data_folder())
        with TemporaryDirectory() as aside:
            encoder = build_model(self.settings, self.data, Path(aside), self.console).encoder  # leaves nothing behind
        try:
            stream = self._stream(name, stage)
        except FileNotFoundError as missing:
            raise ValueError(
                f"stage={name}: its data are not collected yet ({missing}). Name a stage before it, or data.feedback"
            ) from None
        for place in stream.step(0, stage.records_per_step)[:SHOWN_RECORDS]:
            record, _ = stream[place]
            self.console.print(f"\n{stream.where(place)}", style="dim", highlight=False, markup=False)
            for dialogue in supervised(record, stage.phases, self.settings.phases):
                self.console.print(coloured(encoder, encoder.supervised(dialogue, stream.where(place))))

    def stage_folder(self, name: str) -> Path:
        return self.folder / "stages" / name

    def trained(self) -> list[str]:
        """Train stages in order."""
        return trained_stages(self.settings.curriculum)

    def evaluated(self, name: str | None = None) -> dict[str, str]:
        """Label to the stage whose model it is, of an eval stage; see `stages.evaluated_stages`."""
        return evaluated_stages(self.settings.curriculum, name)

    # --- one stage ---

    def _stage(self, name: str, made_from: str) -> None:
        folder, stage = self.stage_folder(name), self.settings.curriculum.stages[name]
        marker = folder / DONE
        if not marker.exists():
            self._take_over(name, made_from)
        if marker.exists():
            done = read_marker(marker)
            if done["fingerprint"] != made_from:
                raise ValueError(
                    f"{marker}: stage {name} was made with other settings or data (expected fingerprint "
                    f"{made_from}, got {done['fingerprint']}). Start a new run, or resume without overrides"
                )
            self.seconds[name] = done["seconds"]
            if isinstance(stage, config.TrainStage):
                load_weights(self.model, self.settings.model, folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        try:
            match stage:
                case config.TrainStage():
                    self._train(name, stage)
                case config.EvalStage():
                    self._evaluate(name, stage)
                case config.CollectStage():
                    self._collect(name, stage)
        except Stopped as stop:
            raise Stopped(
                f"stage {name}: {stop}. Go on with: python src/train.py resume={short(self.folder)}"
            ) from None
        except NotFinite as stop:
            raise NotFinite(f"stage {name}, {stop}. {self._after_stop(name)}") from None
        except TrainingStopped as stop:
            raise TrainingStopped(f"stage {name}, {stop}") from None
        self.seconds[name] = self.progress.end()
        if rank() == 0:
            if line := told(folder):
                self.console.print(line, highlight=False)
            write_json(marker, {"fingerprint": made_from, "seconds": round(self.seconds[name], 2)})
        wait_for(marker)

    def _after_stop(self, name: str) -> str:
        """What is left of a stage that stopped, and how to go on."""
        last = self.stage_folder(name) / "last.ckpt"
        left = f"{short(last)} holds the last state that was finite" if last.exists() else "No checkpoint was written"
        rate = f"curriculum.stages.{name}.lr=…"
        return f"{left}. Go on with another rate: python src/train.py resume={short(self.folder)} {rate}"

    def _take_over(self, name: str, made_from: str) -> None:
        """Take a finished stage from the run named by `reuse` if it was made from the same things."""
        if self.settings.reuse is None or not (Path(self.settings.reuse) / "stages").is_dir():
            if self.settings.reuse is not None:
                raise ValueError(f"reuse={self.settings.reuse}: expected a run folder with stages/, found none")
            return
        source, target = Path(self.settings.reuse) / "stages" / name, self.stage_folder(name)
        marker = source / DONE
        if not marker.exists() or (done := read_marker(marker))["fingerprint"] != made_from:
            return
        if rank() == 0:
            shutil.copytree(
                source, target, dirs_exist_ok=True, copy_function=_link, ignore=shutil.ignore_patterns(marker.name)
            )
            write_json(target / marker.name, done)  # last: what is marked is whole
            self.console.print(f"stage {name}: taken over from {self.settings.reuse}", highlight=False)
        wait_for(target / marker.name)

    def _train(self, name: str, stage: config.TrainStage) -> None:
        training, trainer_settings, folder = self.settings.training, self.settings.trainer, self.stage_folder(name)
        if getattr(self.settings.data, stage.data) is None:  # not there before
            self._check_supervision(name, stage)
        self.model.set_trainable(list(stage.trainable))
        self.console.print(parameter_table(self.model, f"stage {name}"))
        last = folder / "last.ckpt"
        resumed = last.exists()
        order = self.trained()
        stages = self.settings.curriculum.stages
        earlier = [stages[n] for n in order[: order.index(name)]]
        before = sum(s.steps for s in earlier if isinstance(s, config.TrainStage))
        module = DressModule(self.model, stage, self.settings.learning, before, self.settings.data.tokens_per_forest)

        def dataset(kind: type[Made], stream: Stream, rank: int, world: int) -> Made:
            return kind(
                stream, stage, self.settings.data, self.settings.phases, self.model.encoder,
                Pixels(
                    self.model.vision.preprocessing, self.model.vision.transform, self.settings.data.images,
                    self.settings.data.max_aspect,
                ),
                folder / REJECTS, training.overfit, rank, world,
            )  # fmt: skip

        held_out = self.settings.data.validation and self.data.stream(self.settings.data.validation)
        data = StageData(
            partial(dataset, StepDataset, self._stream(name, stage)), self.settings.data,
            partial(dataset, HeldOut, held_out) if held_out else None,
        )  # fmt: skip
        done = read_training_state(last)["global_step"] if resumed else 0
        self.progress.start(name, stage.steps, done)
        trainer = build_trainer(
            self.settings.devices,
            precision=cast(Any, precision_for(trainer_settings.precision)),
            max_steps=stage.steps,
            max_epochs=1,
            logger=build_loggers(self.settings, name, resumed),
            callbacks=[
                ShowProgress(self.progress),
                SaveCheckpoint(last, training.checkpoint_every),
                *build_callbacks(self.settings),
            ],
            log_every_n_steps=1,
            val_check_interval=trainer_settings.val_check_interval if held_out else None,
            check_val_every_n_epoch=None if held_out else 1,
            **{"limit_val_batches": 1.0 if held_out else 0, **trainer_settings.more()},
        )
        trainer.fit(
            module, datamodule=data,
            ckpt_path=str(last) if resumed else None, weights_only=True,
        )  # fmt: skip
        module.check_weights()
        self._tell_unreached(module, stage)
        if trainer.is_global_zero:
            write_json(folder / "history.json", module.history)
            save_model(self.model, self.settings.model, folder, self._facts(name))
            last.unlink(missing_ok=True)

    def _tell_unreached(self, module: DressModule, stage: config.TrainStage) -> None:
        """Say how many steps taught nothing, or stop if none taught anything."""
        if module.unreached_steps == stage.steps:
            raise TrainingStopped(
                f"no step reached a trained parameter: trainable {', '.join(stage.trainable)}, and no image in the "
                f"records of data.{stage.data}"
            )
        if module.unreached_steps:
            self.console.print(
                f"{module.unreached_steps} of {stage.steps} steps held no image and reached nothing that is trained "
                f"({', '.join(stage.trainable)})", highlight=False,
            )  # fmt: skip

    def _collect(self, name: str, stage: config.CollectStage) -> None:
        """Answers with feedback: on all ranks, or on the first alone where a server is asked and paid."""
        source, folder = self.settings.curriculum.trained(name)[-1], self.stage_folder(name)
        devices, prompts = self.settings.devices, self.data.shards("prompts")
        alone = not isinstance(self.settings.annotator, PlainRater)
        if alone and rank() > 0:
            return
        sampling = replace(
            self._sampling(stage.temperature, stage.top_p), condition=conditions(self.settings, source)[stage.condition]
        )

        def gather_skipped() -> None:
            prompts.skipped[:] = of_ranks(prompts.skipped)

        with on_device(self.model, devices) if alone else nullcontext():
            gather(
                name, keeping(self._responder(source, stage.condition), self.annotator, self.chain[source]),
                self.annotator, prompts, folder / "shards", stage, sampling,
                seed_for(self.settings.seed, name), self.progress,
                in_turn if alone else partial(share_out, self.model, devices, finish=gather_skipped),
            )  # fmt: skip
        if rank() > 0:
            return
        name_damage(folder, prompts)
        shards = Shards(folder / "shards")
        table, ends = ratings_table(shards), endings_table(shards)
        write_json(folder / "ratings.json", table)
        write_json(folder / ENDINGS, ends)
        self.console.print(ratings_as_table(table, ends, name))

    def _evaluate(self, name: str, stage: config.EvalStage) -> None:
        samples = self._eval_samples()
        name_damage(self.stage_folder(name), self.data.shards("eval"))
        dialogues = sum(len(record.dialogues) for record, _ in samples)
        settings, models = self.settings.eval, self.evaluated(name)
        self._take_over_cells(name)
        missing = sum(not file.exists() for model in models for file in self._cells(name, model))
        self.progress.start(name, missing * dialogues * settings.turns)

        def responder(source: str) -> CkptResponder:
            load_weights(self.model, self.settings.model, self.stage_folder(source))
            return self._responder(source)

        evaluate_cells(
            {model: partial(responder, source) for model, source in models.items()},
            self.judge, samples, settings,
            {model: conditions(self.settings, source) for model, source in models.items()},
            self._sampling(0.0), self.stage_folder(name),
            self.settings.devices, self.progress.advance,
        )  # fmt: skip

    def _take_over_cells(self, name: str) -> None:
        """Take answers of the same model to the same questions from the run named by `reuse`."""
        prints = self.cell_fingerprints(name)
        if rank() == 0:
            write_json(self.stage_folder(name) / "cells.json", prints)
        if self.settings.reuse is None:
            return
        source = Path(self.settings.reuse) / "stages" / name
        known = read_json(source / "cells.json", dict) if (source / "cells.json").exists() else {}
        for model in prints:
            if known.get(model) == prints[model]:
                for target in self._cells(name, model):
                    if (source / target.name).exists():
                        _link(str(source / target.name), str(target))

    def cell_fingerprints(self, name: str) -> dict[str, str]:
        """Model name to a fingerprint of everything that its cells of an eval stage depend on."""
        return {
            model: fingerprint(self.chain[source], cell_depends_on(self.settings, self.data, name, model))
            for model, source in self.evaluated(name).items()
        }

    def _cells(self, name: str, model: str) -> list[Path]:
        """The files of a model's outcomes, by condition."""
        return [self.stage_folder(name) / f"{model}-{condition}.jsonl" for condition in self.settings.eval.conditions]

    def _eval_samples(self) -> list[Sample]:
        shards, stages = self.data.shards("eval"), self.settings.curriculum.stages
        (*_, stage) = [s for n in self.settings.curriculum.order if isinstance(s := stages[n], config.EvalStage)]
        return list(shards.readable(range(min(stage.records or len(shards), len(shards)))))

    # --- parts ---

    def _responder(self, stage: str, condition: str = "none") -> CkptResponder:
        under = "" if condition == "none" else f" ({condition})"
        keep, most = self.settings.generation.keep_cache, self.settings.data.max_aspect
        return CkptResponder(self.model, f"{self.settings.name}/{stage}{under}", keep, most)

    def _sampling(self, temperature: float, top_p: float = 1.0) -> Sampling:
        generation = self.settings.generation
        return Sampling(generation.max_new_tokens, generation.batch_size, temperature, top_p)

    def _facts(self, name: str) -> dict[str, Any]:
        done = self.trained()
        return {
            "stage": name,
            "stages": done[: done.index(name) + 1],
            "conditions": conditions(self.settings, name),
            "config": self.settings.model_dump(),
        }

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

    def _stream(self, name: str, stage: config.TrainStage) -> Stream:
        """What a train stage streams: its split, or what the nearest collect stage before it wrote."""
        source = getattr(self.settings.data, stage.data)
        if source is None:
            collected = self.settings.curriculum.collected(name)
            assert collected is not None, "checked with the configuration"
            source = (self.stage_folder(collected) / "shards").absolute()
        return self.data.stream(source, seed_for(self.settings.seed, name))

    def _outcomes(self) -> list[Outcome]:
        """All cells of the last eval stage, as one file beside the metrics."""
        stages = self.settings.curriculum.stages
        names = [n for n in self.settings.curriculum.order if isinstance(stages[n], config.EvalStage)]
        outcomes = [
            o
            for name in names[-1:]
            for cell in sorted(cell for model in self.evaluated(name) for cell in self._cells(name, model))
            for o in load_outcomes(cell)
        ]
        save_outcomes(self.folder / "outcomes.jsonl", outcomes)
        return outcomes

    def _write_run_json(self, seconds: float) -> None:
        file = self.folder / "run.json"
        if file.exists():
            seconds += read_run_json(file)["seconds"]
        write_json(
            file,
            {
                "name": self.settings.name,
                "seed": self.settings.seed,
                "seconds": round(seconds, 2),
                "stages": {name: round(value, 2) for name, value in self.seconds.items()},
                "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
                "precision": precision_for(self.settings.trainer.precision),
                "threads": torch.get_num_threads(),
            },
        )

    def _notes(self, samples: list[Sample]) -> list[str]:
        """What a reader of the report must know before its figures."""
        data, language = self.settings.data, self.settings.model.language
        images = [image for _, image in samples if image is not None]
        resized = resize_note(images, self.model.vision.preprocessing, data.max_aspect)
        notes = [] if resized is None else [resized]
        if data.world is None and language.config is not None:
            records = sum(len(part.shards) for part in self.data.stream(data.sft).parts)
            notes.append(
                f"A model from scratch on {records:,} real images: nobody should expect good captions. "
                f"What this shows is that the whole method runs on these data. A model whose SFT data hold "
                f"no refusal never samples one, so feedback on its own answers cannot teach it to refuse."
            )
        return notes


def _link(source: str, target: str) -> None:
    """Files of a finished stage are never changed, so two runs may share them; a file that is there is whole."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass  # an earlier copy, or another rank
    except OSError:
        aside = f"{target}.{os.getpid()}.partial"
        shutil.copy2(source, aside)
        os.replace(aside, target)
