"""The ablation: what critique and refinement each bring, over seeds, with paired intervals.

    python benchmarks/ablation.py --seeds 0 1 2 --out logs/ablation -- training.threads=1

Runs `dress_full` and then every other experiment with `reuse`, for each seed; finished runs are kept.
Gains are paired by scene: per scene the mean over its dialogues and the seeds, then a bootstrap over scenes.
Writes `benchmarks/results/ablation.json` and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from dress.evaluation.outcomes import Outcome, load_outcomes  # noqa: E402
from dress.record import TOP_RATING  # noqa: E402

EXPERIMENTS = ("dress_full", "critique_only", "refinement_only", "rating_only", "best_of")
Gains = dict[str, list[float]]


def run(experiment: str, seed: int, out: Path, more: list[str]) -> Path:
    """Run an experiment unless its folder is finished; ablations branch from dress_full's run."""
    folder = out / f"{experiment}-{seed}"
    if (folder / "metrics.json").exists():
        return folder
    command = [sys.executable, str(ROOT / "src/train.py"), f"experiment={experiment}", f"seed={seed}"]
    reuse = [] if experiment == "dress_full" else [f"reuse={out / f'dress_full-{seed}'}"]
    subprocess.run([*command, f"run_dir={folder}", *reuse, *more], cwd=ROOT, check=True)
    return folder


def dialogues(outcomes: list[Outcome], model: str, condition: str) -> dict[str, dict[int, int]]:
    """item -> turn -> rating."""
    ratings: dict[str, dict[int, int]] = defaultdict(dict)
    for o in outcomes:
        if (o.model, o.condition) == (model, condition) and o.rating is not None:
            ratings[o.item][o.turn] = o.rating
    return ratings


def gains(folder: Path) -> tuple[Gains, Gains]:
    """By scene: rating of `dress` (praise) minus `sft` (none) at turn 0; rise of unsolved `dress` answers to turn 1."""
    outcomes = load_outcomes(folder / "outcomes.jsonl")
    sft, dress = dialogues(outcomes, "sft", "none"), dialogues(outcomes, "dress", "praise")
    first: Gains = defaultdict(list)
    unsolved: Gains = defaultdict(list)
    for item, by_turn in dress.items():
        scene = item.rpartition("/")[0]
        first[scene].append(by_turn[0] - sft[item][0])
        if by_turn[0] < TOP_RATING and 1 in by_turn:
            unsolved[scene].append(by_turn[1] - by_turn[0])
    return first, unsolved


def interval(per_seed: list[Gains]) -> dict[str, float]:
    """Mean over all dialogues of all seeds, with a 95 % bootstrap interval over scenes."""
    scenes = sorted({scene for one in per_seed for scene in one})
    values = [[v for one in per_seed for v in one.get(scene, [])] for scene in scenes]
    sums = np.array([sum(v) for v in values])
    counts = np.array([len(v) for v in values])
    draws = np.random.default_rng(0).integers(0, len(scenes), (2000, len(scenes)))
    low, high = np.percentile(sums[draws].sum(1) / counts[draws].sum(1), [2.5, 97.5])
    mean = float(sums.sum() / counts.sum())
    return {"value": mean, "n": int(counts.sum()), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "logs" / "ablation")
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    parser.add_argument("overrides", nargs="*", help="for every run, e.g. training.threads=1")
    arguments = parser.parse_args()
    results = {}
    for experiment in arguments.experiments:
        pairs = [gains(run(experiment, s, arguments.out.resolve(), arguments.overrides)) for s in arguments.seeds]
        results[experiment] = {
            "turn0_gain": interval([first for first, _ in pairs]),
            "unsolved_gain": interval([unsolved for _, unsolved in pairs]),
            "turn0_gain_by_seed": [interval([first])["value"] for first, _ in pairs],
            "unsolved_gain_by_seed": [interval([unsolved])["value"] for _, unsolved in pairs],
        }
    file = ROOT / "benchmarks" / "results" / "ablation.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"seeds": arguments.seeds, "experiments": results}, indent=1) + "\n")
    print("| experiment | gain at turn 0 over SFT | by seed | rise of unsolved, turn 0 to 1 | n | by seed |")
    print("|---|---|---|---|---|---|")
    for name, r in results.items():
        cells = []
        for key in ("turn0_gain", "unsolved_gain"):
            g = r[key]
            cells.append(f"{g['value']:+.2f} [{g['low']:+.2f}, {g['high']:+.2f}]")
            if key == "unsolved_gain":
                cells.append(str(g["n"]))
            cells.append(", ".join(f"{v:+.2f}" for v in r[f"{key}_by_seed"]))
        print(f"| `{name}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
