"""A run's evaluation: helpfulness, honesty, harmlessness and interaction of its models under every condition.

Training evaluates with `evaluate_models` and ends with `write_results`, as this suite does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field
from rich.console import Console

from dress.base.files import read_json, write_json
from dress.config import Condition, Config, Consent, Count, Eval, EvalStage, Positive
from dress.config.checking import check_as
from dress.config.consent import checked_run, read_run
from dress.config.generation import Engine, Generation, GenerationServer, KeepCache
from dress.config.inherited import inherited
from dress.config.raters import RaterSettings
from dress.evaluation.outcomes import Outcome, load_outcomes, save_outcomes
from dress.evaluation.run_measures import figures
from dress.evaluation.settings import SuiteSettings
from dress.evaluation.suite import Json, suite

if TYPE_CHECKING:
    from dress.data.shards import Sample


class RunSettings(SuiteSettings, Consent):
    """`python src/eval.py ckpt=RUN`: a run to evaluate again."""

    model_config = ConfigDict(strict=True, coerce_numbers_to_str=False)

    ckpt: str  # a run folder
    shards: str | None = None  # a folder of shards; null = the run's own eval split
    records: Positive | None = None  # from the first; null = as in the run, of other shards all
    turns: Positive | None = None  # answers per dialogue; null = as in the run
    conditions: Annotated[list[Condition], Field(min_length=1)] | None = None  # null = as in the run
    refine_condition: Condition | None = None  # from the second answer on; null = as in the run
    max_new_tokens: Positive | None = None  # null = as in the run
    batch_size: Positive = 256  # prompts
    scenes: Positive | None = None  # in the report; null = as in the run
    failures: Count | None = None  # questions whose answers fell short, in the report; null = as in the run
    blank_images: Count | None = None  # records whose answers are scored without image, too; null = as in the run
    keep_cache: KeepCache = "auto"  # go on from the turn before: auto (where it fits into memory), on, off
    engine: Engine = "native"  # what computes answers: the run's own code, or `server`
    server: GenerationServer = GenerationServer()
    judge: RaterSettings  # auto: the run's own


def metrics(outcomes: Iterable[Outcome], headline: Mapping[str, str]) -> Json:
    """What `metrics.json` holds: each model under its own condition, and every cell under `conditions`.

    Args:
        outcomes: of all models and conditions.
        headline: model to its condition, in order of training.
    """
    cells: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        cells[outcome.model, outcome.condition].append(outcome)
    by_cell = {cell: figures(members) for cell, members in sorted(cells.items())}
    result: Json = {model: by_cell[model, c] for model, c in headline.items() if (model, c) in by_cell}
    result["conditions"] = {f"{model}/{condition}": values for (model, condition), values in by_cell.items()}
    return result


def compute(folder: Path) -> Json:
    """What `metrics.json` must hold, from the `outcomes.jsonl` beside it; also of a training run."""
    from dress.phases.conditions import headline

    details = read_json(folder / "run.json", dict) if (folder / "run.json").exists() else {}
    models = details.get("headline")
    if models is None:
        if not (folder / "config.json").exists():
            raise ValueError(
                f"{folder}: expected run.json or config.json, which say who is asked under what, found none"
            )
        models = headline(checked_run(folder / "config.json").curriculum)
    return metrics(load_outcomes(folder / "outcomes.jsonl"), models)


def write_results(
    folder: Path, outcomes: Sequence[Outcome], headline: Mapping[str, str], samples: Sequence[Sample], settings: Eval,
    notes: Sequence[str],
) -> Json:  # fmt: skip
    """Write `outcomes.jsonl`, `metrics.json` and `report.html` beside the `run.json` there; returns the metrics.

    Args:
        folder: of the run or of its evaluation.
        outcomes: of all models and conditions.
        headline: model to its condition, in order of training.
        samples: what was asked about, with image bytes.
        settings: how many of them, and of the answers that fell short, the report shows.
        notes: sentences that its reader must know before the figures.
    """
    from dress.evaluation.report import write_report

    save_outcomes(folder / "outcomes.jsonl", outcomes)
    result = metrics(outcomes, headline)
    write_json(folder / "metrics.json", result)
    write_report(folder, samples, settings, notes)
    return result


@suite("run", RunSettings, compute=compute, file="metrics.json")
def run(settings: RunSettings, console: Console) -> Json:
    """Evaluate the models of `settings.ckpt`; writes outcomes.jsonl, metrics.json and report.html.

    Raises:
        FileNotFoundError: no run folder, or a stage of it holds no model.
        ValueError: a model that does not load, or records that the judge cannot judge.
    """
    from dress.base.progress import CurriculumProgress
    from dress.base.run_folder import DONE, lock, read_marker
    from dress.config.graph import evaluated_stages, final_stages
    from dress.evaluation.cells import Questions, evaluate_models
    from dress.exports.agreement import expected_answers, first_questions
    from dress.exports.served_model import LEDGER, ServedModel, free_device, served
    from dress.feedback.raters import build_rater, check_rater
    from dress.model.checkpoint import available_device, load_model, read_facts
    from dress.phases.conditions import headline
    from dress.report.figures import metrics_table
    from dress.rollout.checkpoint import CkptResponder
    from dress.rollout.owned_server import check_server
    from dress.rollout.responder import Responder, Sampling

    ckpt, out = Path(settings.ckpt), Path(settings.out)
    if not (ckpt / "config.json").exists():
        raise FileNotFoundError(f"ckpt={ckpt}: expected a run folder with config.json, found none")
    trained = read_run(ckpt, settings)
    judge = inherited("judge", settings.judge, trained)
    check_rater(judge)
    longest = settings.max_new_tokens or trained.generation.max_new_tokens
    generation = check_as(
        Generation,
        {"max_new_tokens": longest, "batch_size": settings.batch_size, "engine": settings.engine,
         "server": settings.server.model_dump()},
    )  # fmt: skip
    check_server(generation)
    stages = evaluated_stages(trained.curriculum) or final_stages(trained.curriculum)
    unfinished = [stage for stage in stages.values() if not (ckpt / "stages" / stage / "model.json").is_file()]
    if unfinished:
        raise FileNotFoundError(
            f"ckpt={ckpt}: this run is not finished (stage {unfinished[0]}). Go on with it first: "
            f"python src/train.py resume={ckpt}"
        )
    texts = {label: read_facts(ckpt / "stages" / stage, "conditions")["conditions"] for label, stage in stages.items()}
    typed = {name: value for name in Eval.model_fields if (value := getattr(settings, name)) is not None}
    asked = trained.eval.model_copy(update=typed)
    with CurriculumProgress(console, {}) as progress:
        samples = _samples(settings, trained, progress)
        sampling = Sampling(longest, settings.batch_size)
        out.mkdir(parents=True, exist_ok=True)
        lock(out)
        for old in out.glob("*-*.jsonl"):
            old.unlink()
        questions = Questions(samples, build_rater(judge, out, console), asked, texts, sampling)
        progress.start("eval", questions.dialogues * asked.turns * len(asked.conditions) * len(stages))
        images = [image for _, image in samples if image is not None]
        notes: list[str | None] = []  # the same of all stages

        @contextmanager
        def responder(label: str, stage: str) -> Iterator[Responder]:
            folder = ckpt / "stages" / stage
            model, _ = load_model(folder, available_device(), settings)
            notes.append(model.resize_note(images, trained.data.max_aspect))
            native = CkptResponder(model, f"{trained.name}/{stage}", settings.keep_cache, trained.data.max_aspect)
            if settings.engine == "native":
                yield native
                return
            first = first_questions(samples, [texts[label][condition] for condition in asked.conditions])
            expected = expected_answers(native, first, sampling)
            model.cpu()
            free_device()
            behind = ServedModel(
                trained.model_copy(update={"generation": generation}), stage,
                lambda: load_model(folder, "cpu", settings, exact=True)[0],
                str(read_marker(folder / DONE)["fingerprint"]), out, out / LEDGER, model.computes_in_bf16,
            )  # fmt: skip
            with served(behind, expected, model.encoder, console) as server:
                yield server

        models = {label: partial(responder, label, stage) for label, stage in stages.items()}
        outcomes = evaluate_models(models, questions, out, progress=progress.advance)
        progress.end()
    meant = headline(trained.curriculum, stages)
    details = {"name": f"{trained.name}, evaluated again", "seed": trained.seed, "headline": meant}
    write_json(out / "run.json", details | {"settings": settings.model_dump() | asked.model_dump()})
    note = [one for one in notes[:1] if one is not None]
    result = write_results(out, outcomes, meant, samples, asked, note)
    console.print(metrics_table(result))
    console.print(f"report: {out / 'report.html'}", highlight=False)
    return result


def _samples(settings: RunSettings, trained: Config, progress: Any) -> list[Sample]:
    """The records that are asked about, as far as they can be read."""
    from dress.config.graph import evaluation
    from dress.data.stream import open_split
    from dress.worlds.prepared import prepared

    folder = prepared(trained.data, lambda n: progress.start("shapes world", n), progress.advance)
    shards = open_split(settings.shards or trained.data.eval, "." if settings.shards else folder, trained.data)
    stage = trained.curriculum.stages.get(evaluation(trained.curriculum) or "")
    records = settings.records
    if records is None and settings.shards is None and isinstance(stage, EvalStage):
        records = stage.records
    return list(shards.readable(range(min(records or len(shards), len(shards)))))
