"""Every way to learn from the same feedback, on the shapes world: one table.

For each seed one run aligns, learns SFT and collects; every method then learns from that model and that collection,
with as many supervised tokens as DRESS, and answers the held-out questions under `none` and under `praise`.

    python benchmarks/methods.py [overrides of src/train.py] --seeds 0 1 2 [--methods dpo_only …] [--out DIR] [--jobs 2]

Runs that are finished are not made again; with `--jobs 2` two run side by side, one process each. Writes methods.json,
methods.md and methods.svg.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from steps.machine import commit, facts  # noqa: E402
from steps.methods_results import page, picture  # noqa: E402

from dress import config  # noqa: E402
from dress.config.consent import checked_run  # noqa: E402
from dress.config.stages import SPLITS  # noqa: E402
from dress.data.shards import Shards  # noqa: E402
from dress.evaluation.measures import Measure  # noqa: E402
from dress.evaluation.outcomes import Outcome, load_outcomes  # noqa: E402
from dress.model.checkpoint import load_model  # noqa: E402
from dress.objectives.stage import stage_objectives  # noqa: E402
from dress.phases import used_settings  # noqa: E402
from dress.record import TOP_RATING  # noqa: E402
from dress.run.composing import compose  # noqa: E402
from dress.train.examples import Examples  # noqa: E402
from dress.train.run_data import RunData  # noqa: E402
from dress.worlds.prepared import prepared  # noqa: E402

BASE = "dress_full"
"""The method whose supervised tokens the others get."""
METHODS = (
    BASE, "refinement_only", "critique_only", "rating_only", "best_of", "reward_weighted_only", "dpo_only", "kto_only",
    "distill_only", "dress_distill", "self_correction_only", "llf", "rounds_fcp", "rounds_dress",
    "dress_unconditional",
)  # fmt: skip
OWN_STEPS = ("dress_unconditional",)
"""Methods that are shown once more with the steps of their experiments, which are more than those of the base."""
CONDITIONS = ("none", "praise")
LONGER = " at full length"
"""What their labels end with."""
COUNTED = 1600
"""Records of a data set, at least, whose supervised tokens are counted."""
START = "sft"
"""Label of the model that all begin with."""
COMPOSING = Lock()
"""Hydra is one for a process."""


@dataclass(frozen=True)
class Run:
    """A finished run of a method."""

    folder: Path
    seed: int

    @property
    def history(self) -> list[dict[str, float]]:
        """What was logged of the stages that learn from feedback, each one's last point."""
        curriculum = checked_run(self.folder / "config.json").curriculum
        names = [name for name in curriculum.train_stages() if name.startswith("dress")]
        files = [self.folder / "stages" / name / "history.json" for name in names]
        return [json.loads(file.read_text())[-1] for file in files if file.exists()]

    @property
    def tokens(self) -> float:
        """Supervised, of all stages that learn from feedback."""
        return sum(point["train/supervised_tokens"] for point in self.history)

    @property
    def seconds(self) -> float:
        """Of the stages that learn from feedback, or collect more of it."""
        stages = json.loads((self.folder / "run.json").read_text())["stages"]
        return sum(value for name, value in stages.items() if name not in ("align", "sft", "collect", "eval"))

    def outcomes(self, condition: str, model: str | None = None) -> Iterator[Outcome]:
        """Answers of the last model, or of another one; items and records of several seeds are told apart."""
        every = load_outcomes(self.folder / "outcomes.jsonl")
        label = model or list(checked_run(self.folder / "config.json").curriculum.stages["eval"].models)[-1]  # type: ignore[union-attr]
        for one in every:
            if (one.model, one.condition) == (label, condition):
                yield replace(one, item=f"{self.seed}/{one.item}", key=f"{self.seed}/{one.key}")


def train(method: str, seed: int, folder: Path, overrides: Sequence[str]) -> Run:
    """One run, begun or gone on with, unless it is finished."""
    if not (folder / "metrics.json").exists():
        words = [f"run={folder}", f"experiment={method}", f"seed={seed}", "logger=[]", *overrides]
        command = [sys.executable, str(ROOT / "src" / "train.py"), *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{method}, seed {seed}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Run(folder, seed)


def check_same(folder: Path, expected: config.Config) -> None:
    """Raises SystemExit: a run is there that was made with other settings of what is learned or collected."""
    if not (folder / "config.json").exists():
        return
    before = checked_run(folder / "config.json")
    for name in ("model", "data", "phases", "objectives", "generation"):
        if getattr(before, name) != getattr(expected, name):
            raise SystemExit(f"{folder} was made with other settings of {name}: delete it, or give another --out")
    for name, stage in expected.curriculum.stages.items():
        if name != "eval" and before.curriculum.stages.get(name) != stage:
            raise SystemExit(f"{folder} was made with another stage {name}: delete it, or give another --out")


def tokens_per_step(run: Run, settings: config.Config, name: str) -> float:
    """Supervised tokens that a method's stage finds in a step, in the mean; its records are those of a run."""
    stage = settings.curriculum.stages[name]
    assert isinstance(stage, config.TrainStage)
    model, _ = load_model(run.folder / "stages" / START)
    phases = used_settings(settings.phases, stage.phases)
    objectives = stage_objectives(stage, settings.objectives)
    rejects = run.folder / "rejects_of_methods.jsonl"
    examples = Examples(objectives, phases, settings.data, model.encoder, model.reader(), rejects)
    data = RunData(settings.data, prepared(settings.data, lambda _: None, lambda: None))
    per_record = 0.0
    for part, share in stage.data.items():
        own = part if part in SPLITS else run.folder / "stages" / part / "shards"
        shards = Shards(own) if isinstance(own, Path) else data.records({own: 1.0}, {}).shards
        numbers = range(0, len(shards), max(1, len(shards) // COUNTED))
        total = 0
        for number in numbers:
            trees = examples.build(shards.record(number), shards.image(number), "", Random(0)).trees
            total += sum(int((tree.weight > 0).sum()) for tree in trees)
        per_record += share / sum(stage.data.values()) * total / len(numbers)
    return per_record * stage.records_per_step


def composed(method: str, seed: int, overrides: Sequence[str]) -> config.Config:
    """The settings of a run."""
    with COMPOSING:
        return config.check(compose("train", ["run_dir=x", f"experiment={method}", f"seed={seed}", *overrides]))


def as_long(base: Run, settings: config.Config, folder: Path, method: str, more: Sequence[str]) -> list[str]:
    """Overrides by which a method's stages all together see as many supervised tokens as the base.

    Each stage has an equal share of the tokens that are left. Where its records are yet to be collected, a run beside
    the folder goes as far as that, and is what the next one takes its stages from.
    """
    names = [name for name in settings.curriculum.train_stages() if name.startswith("dress")]
    known, learned, steps = base, 0.0, []
    for place, name in enumerate(names):
        stage = settings.curriculum.stages[name]
        assert isinstance(stage, config.TrainStage)
        missing = [one for one in stage.data if one not in SPLITS and not (known.folder / "stages" / one).is_dir()]
        if missing:
            until = [f"curriculum.run=[{','.join(missing)}]", f"reuse={known.folder}"]
            known = train(
                method, base.seed, folder.with_name(f"{folder.name}_to_{missing[0]}"), [*more, *steps, *until]
            )
            learned = known.tokens
        share = (base.tokens - learned) / (len(names) - place)
        count = max(1, round(share / tokens_per_step(known, settings, name)))
        steps.append(f"curriculum.stages.{name}.steps={count}")
    return [*steps, f"reuse={known.folder}"]


def measures(outcomes: Sequence[Outcome]) -> dict[str, Measure]:
    """What the table shows, by key."""
    from dress.evaluation.image_use import MEASURES as IMAGE
    from dress.evaluation.run_measures import MEASURES

    ratings = {(one.item, one.turn): one.rating for one in outcomes if one.rating is not None}

    def first(one: Outcome) -> tuple[float, float] | None:
        return None if one.turn or one.rating is None else (one.rating, 1)

    def rise(one: Outcome) -> tuple[float, float] | None:
        after = ratings.get((one.item, 1))
        return None if one.turn or one.rating in (None, TOP_RATING) or after is None else (after - (one.rating or 0), 1)

    def solved(turn: int) -> Measure:
        def of(one: Outcome) -> tuple[float, float] | None:
            return None if one.turn != turn or one.rating is None else (one.rating == TOP_RATING, 1)

        return Measure(f"solved_{turn}", f"rated 4, turn {turn}", of)

    def regressed(one: Outcome) -> tuple[float, float] | None:
        after = ratings.get((one.item, one.turn + 1))
        return None if one.rating != TOP_RATING or after is None else (after < TOP_RATING, 1)

    own = [
        Measure("first_rating", "first rating", first, kind="mean"), *MEASURES,
        Measure("rise", "rise after advice", rise, kind="mean"), *(solved(turn) for turn in range(3)),
        Measure("regressed", "regressed", regressed, up=False, pooled=True),
        next(one for one in IMAGE if one.key == "image/gap"),
    ]  # fmt: skip
    return {one.key: one for one in own}


def row(runs: Sequence[Run], base: Sequence[Run], condition: str, model: str | None = None) -> dict[str, Any]:
    """Figures of a method under a condition, and their paired differences to the base under the same one."""
    ours = [one for run in runs for one in run.outcomes(condition, model)]
    theirs = [one for run in base for one in run.outcomes(condition)]
    kinds, other = measures(ours), measures(theirs)
    figures: dict[str, Any] = {}
    for key, measure in kinds.items():
        figures[key] = measure.figure(ours)
        # A measure that looks at later answers knows those of its own run: each side is read by its own.
        one, two = measure.parts(ours), other[key].parts(theirs)
        figures[key]["against_base"] = measure.mean_of([(one, two)])
    return figures


def main() -> None:
    """Run, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="experiments beside the base")
    parser.add_argument("--out", type=Path, default=ROOT / "logs" / "methods", help="of runs; kept")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--own-steps", nargs="*", default=list(OWN_STEPS), help="shown once more, at their own length")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each one process")
    options, overrides = parser.parse_known_args()
    methods = [BASE, *(name for name in options.methods if name != BASE), *(one + LONGER for one in options.own_steps)]
    one_process = ["trainer.devices=1", "training.threads=1"] if options.jobs > 1 else []

    def run(label: str, seed: int, base: Run | None) -> Run:
        began, more, method = time.monotonic(), [*one_process, *overrides], label.removesuffix(LONGER)
        folder = (options.out / f"{label.replace(' ', '_')}-{seed}").absolute()
        if base is not None:
            settings = composed(method, seed, more)
            evaluation = settings.curriculum.stages["eval"]
            assert isinstance(evaluation, config.EvalStage)
            more += [f"curriculum.stages.eval.models.{one}=null" for one in list(evaluation.models)[:-1]]
            more += as_long(base, settings, folder, method, more) if label == method else [f"reuse={base.folder}"]
        check_same(folder, composed(method, seed, more))
        last = train(method, seed, folder, more)
        print(
            f"seed {seed}, {label}: {last.tokens:,.0f} supervised tokens, {last.seconds:.0f} s of learning, "
            f"{time.monotonic() - began:.0f} s", flush=True,
        )  # fmt: skip
        return last

    with ThreadPoolExecutor(options.jobs) as pool:
        bases = list(pool.map(lambda seed: run(BASE, seed, None), options.seeds))
        others = {name: [pool.submit(run, name, base.seed, base) for base in bases] for name in methods if name != BASE}
        runs = {BASE: bases} | {name: [one.result() for one in some] for name, some in others.items()}
    rows = {f"{START}/{condition}": row(runs[BASE], runs[BASE], condition, START) for condition in CONDITIONS} | {
        f"{method}/{condition}": row(runs[method], runs[BASE], condition)
        for method in methods
        for condition in CONDITIONS
    }
    results = {
        "seeds": options.seeds, "jobs": options.jobs, "rows": rows,
        "command": shlex.join(["python", "benchmarks/methods.py", *sys.argv[1:]]),
        "tokens": {name: [run.tokens for run in some] for name, some in runs.items()},
        "seconds": {name: [run.seconds for run in some] for name, some in runs.items()},
        "names": {key: measure.name for key, measure in measures([]).items()},
        "up": {key: measure.up for key, measure in measures([]).items()},
        "per_cent": {key: measure.per_cent for key, measure in measures([]).items()},
        "commit": commit(ROOT), "cpu": facts(1)["cpu"],
    }  # fmt: skip
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "methods.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.results / "methods.md").write_text(page(results), encoding="utf-8")
    (options.results / "methods.svg").write_text(picture(results), encoding="utf-8")
    print(page(results))


if __name__ == "__main__":
    main()
