"""Several processes on a CPU: records per second, what `parallel` costs one process, memory of each rank.

    python benchmarks/scaling.py                              # 6 minutes on 2 quiet cores
    python benchmarks/scaling.py --quick --out /tmp/scaling   # a minute; no figures to quote

1. Records per second of steps of the SFT and the DRESS stage at scale=tiny, and answers per second of its collect
   stage, by one process of one thread, one of two, and two of one, forked as a run forks them. They hand the machine
   over to one another (A B C C B A …); ratios are paired by round. A run made before begins all of them.
2. Overhead: our module and strategy in one process against a plain Lightning loop over the same forests, interleaved.
3. Memory: bytes of weights, gradients and moments that each rank holds, and how its memory (PSS) grows in a step,
   beside the arithmetic of steps/model_memory.py.

Before a time is taken the first steps must have the same targets, loss (1e-5) and gradients (1e-4) as one process of
one thread, and answers must be equal to the byte; weights after the timed steps of 2. must be equal (1e-6).
Results: benchmarks/results/scaling.{json,md}, written after each part; `--parts memory` measures one anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
for folder in (ROOT / "src", HERE):
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])

import dress  # noqa: E402, F401, I001 - first: sets how CPU threads wait
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from dress import config  # noqa: E402
from dress.run.composing import compose  # noqa: E402
from steps import memory_work, scaling_results, stage_work  # noqa: E402
from steps.flops import Sizes  # noqa: E402
from steps.gate import compare  # noqa: E402
from steps.machine import commit, facts  # noqa: E402
from steps.model_memory import rank_of, sharded, table  # noqa: E402
from steps.models import ModelSpec  # noqa: E402
from steps.teams import PSS, Spec, Team, Timed, interleave, ratio, spread  # noqa: E402
from steps.tuples import TOY, Shape  # noqa: E402

TEAMS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
ONE, WIDE, TWO = TEAMS
OURS, PLAIN = "dress", "plain Lightning"
STAGES = {"sft": ("align", "sft"), "dress": ("sft", "collect")}
"""Stage: whose weights it begins with, and which records it learns."""
STATE: dict[str, tuple[int, config.Gather]] = {
    "single": (1, "pass"),
    "ddp": (2, "pass"),
    "shard": (2, "pass"),
    "shard, gather=step": (2, "step"),
}
"""Ranks, and `parallel.gather`."""
SHARES = {"sft": 0.15, "dress": 0.15, "collect": 0.15, "overhead sft": 0.27, "overhead dress": 0.28}
"""Of the time that all measured rounds may take."""
WEIGHTS = 1e-6
"""Relative difference of weights after equal steps."""
PARTS = ("stages", "overhead", "memory")


class Bench:
    """One run of the benchmark."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder, self.began = options, folder, time.monotonic()
        self.quick = options.quick
        self.file = options.out / "scaling.json"
        saved = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        machine = facts(options.threads)
        earlier = (
            saved if saved.get("machine", {}).get("cpu") == machine["cpu"] and set(options.parts) < set(PARTS) else {}
        )
        self.out: dict[str, Any] = earlier | {
            "machine": machine, "commit": commit(ROOT), "commands": earlier.get("commands", {}),
            "what": "a quick run, nothing to quote" if self.quick else "scale=tiny, shapes world, fp32",
        }  # fmt: skip

    def run(self) -> bool:
        """The chosen parts; True where all that was compared is equal."""
        for part in self.options.parts:
            self.out["commands"][part] = " ".join(["python benchmarks/scaling.py", *sys.argv[1:]])
            getattr(self, part)()
            self.out["load_average"] = os.getloadavg()
            scaling_results.write(self.options.out, self.out)
        passes = all(one["passes"] for one in scaling_results.gates(self.out))
        self.say(f"results: {self.file}, .md; all equal: {passes}")
        return passes

    def say(self, text: str) -> None:
        print(f"[{(time.monotonic() - self.began) / 60:4.1f} min] {text}", flush=True)

    # --- a run that everything begins with ---

    def base(self) -> Path:
        """A short run up to its collect stage; its folder."""
        run = self.folder / "run"
        if run.exists():
            return run
        steps = ("2", "4") if self.quick else ("20", "40")
        records = 24 if self.quick else 96
        command = [
            *self.typed(), "curriculum.run=[collect]", f"curriculum.stages.align.steps={steps[0]}",
            f"curriculum.stages.sft.steps={steps[1]}", f"curriculum.stages.collect.records={records}",
            "trainer.devices=1", f"run_dir={run}",
        ]  # fmt: skip
        script = [sys.executable, str(ROOT / "src" / "train.py"), *command]
        ended = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(ended.stdout[-2000:] + ended.stderr[-2000:])
        self.say("a run up to its collect stage is made")
        return run

    def typed(self) -> list[str]:
        """Settings of that run and of all that is measured."""
        size = 64 if self.quick else 320
        return [
            "scale=tiny", "trainer.accelerator=cpu", f"data.path={self.folder / 'data'}", "logger=csv",
            f"data.sizes={{align: {size}, sft: {size}, prompts: {size}, eval: 8}}",
        ]  # fmt: skip

    def settings(self, processes: int, threads: int) -> config.Config:
        """Of a team."""
        size = 2 if self.quick else 8
        typed = [
            *self.typed(), f"trainer.devices={processes}", f"training.threads={threads}", "run_dir=unused",
            f"curriculum.stages.collect.per_shard={size}",
        ]  # fmt: skip
        return config.check(compose("train", typed))

    def split(self, name: str) -> Path:
        """The shards of a split."""
        (split,) = (self.folder / "data").glob(f"*/{name}")
        return split

    def work(self, team: tuple[int, int], stage: str, name: str, **more: bool) -> stage_work.StageWork:
        """What a team does."""
        run, out = self.base(), self.folder / "gates" / stage
        out.mkdir(parents=True, exist_ok=True)
        weights, records = STAGES.get(stage, ("sft", "prompts"))
        place = run / "stages" / records / "shards" if records == "collect" else self.split(records)
        return stage_work.StageWork(
            self.settings(*team), stage, run / "stages" / weights, place, out, name.replace(" ", "-"), **more
        )

    # --- 1. records and answers per second ---

    def stages(self) -> None:
        """Steps of two stages, and answers, by each team."""
        self.out["stages"] = {}
        for stage in STAGES:
            works = {name: self.work(team, stage, name) for name, team in TEAMS.items()}
            specs = [Spec(name, *TEAMS[name], stage_work.train, work) for name, work in works.items()]
            teams, startup = self.start(specs)
            for team in teams.values():
                team.ask(1)
            gates = {
                name: compare(works[name].out / works[name].name, works[ONE].out / works[ONE].name) for name in teams
            }
            self.check(teams, gates, stage)
            timed, order = self.rounds(teams, stage, steps=3)
            self.stop(teams)
            each = self.settings(1, 1).curriculum.stages[stage].records_per_step  # type: ignore[union-attr]
            self.out["stages"][stage] = self.figures(timed, order * each, startup) | {"gate": gates, "records": each}
            self.say_rates(stage)
        specs = [
            Spec(name, *team, stage_work.collect, self.work(team, "collect", name)) for name, team in TEAMS.items()
        ]
        teams, startup = self.start(specs)
        shares = 4
        texts = {
            name: [one for reply in team.ask(shares) for one in reply["texts"].items()] for name, team in teams.items()
        }
        gates = {name: {"passes": sorted(one) == sorted(texts[ONE])} for name, one in texts.items()}
        self.check(teams, gates, "collect")
        timed, _ = self.rounds(teams, "collect", order=shares)
        answers = sum(reply["answers"] for reply in timed[ONE].replies[0])
        self.stop(teams)
        self.out["stages"]["collect"] = self.figures(timed, answers, startup) | {"gate": gates, "records": answers}
        self.say_rates("collect")

    def start(self, specs: list[Spec]) -> tuple[dict[str, Team], dict[str, float]]:
        """Teams, one started after another, and the seconds until the last process of each could begin."""
        teams, startup = {}, {}
        for spec in specs:
            teams[spec.name] = Team(spec)
            startup[spec.name] = max(reply["startup"] for reply in teams[spec.name].ready)
        return teams, startup

    def rounds(self, teams: dict[str, Team], part: str, steps: int = 1, order: int = 0) -> tuple[dict[str, Timed], int]:
        """Rounds for as long as the part may take; an order of so many steps, or that `order`."""
        order = order or (1 if self.quick else steps)
        seconds = sum(interleave(teams, order, 1)[name].seconds[0] for name in teams)
        count = 2 if self.quick else max(5, int(SHARES[part] * self.options.seconds / seconds))
        return interleave(teams, order, count), order

    def check(self, teams: dict[str, Team], gates: dict[str, Any], part: str) -> None:
        """End before a time is taken, where a team does something else than it should."""
        if wrong := [name for name, gate in gates.items() if not gate["passes"]]:
            self.stop(teams)
            raise SystemExit(f"{part}: {', '.join(wrong)}: not equal to {next(iter(teams))}, nothing is timed: {gates}")

    def stop(self, teams: dict[str, Team]) -> None:
        for team in teams.values():
            team.stop()

    def figures(self, timed: dict[str, Timed], amount: int, startup: dict[str, float]) -> dict[str, Any]:
        """Of each team what it does in a second, and its time against the first one's."""
        return {
            "rounds": len(timed[ONE].seconds), "seconds": {name: one.seconds for name, one in timed.items()},
            "startup": startup, "per_second": {
                name: spread([amount / second for second in one.seconds]) for name, one in timed.items()
            },
            "faster": {name: ratio(timed, ONE, name) for name in timed if name != ONE},
            "two processes to two threads": ratio(timed, WIDE, TWO),
        }  # fmt: skip

    def say_rates(self, stage: str) -> None:
        one = self.out["stages"][stage]
        rates = ", ".join(f"{name} {rate['median']:.1f}/s" for name, rate in one["per_second"].items())
        self.say(f"{stage}: {rates}; equal: {all(gate['passes'] for gate in one['gate'].values())}")

    # --- 2. overhead ---

    def overhead(self) -> None:
        """Ours in one process against a plain loop over the same forests."""
        self.out["overhead"] = {}
        for stage in STAGES:
            works = {
                name: replace(self.work((1, 1), stage, f"{name} loop", plain=name == PLAIN), fixed=True)
                for name in (PLAIN, OURS)
            }
            teams, _ = self.start([Spec(name, 1, 1, stage_work.train, work) for name, work in works.items()])
            for team in teams.values():
                team.ask(1)
            places = {name: work.out / work.name for name, work in works.items()}
            gate = compare(places[OURS], places[PLAIN])
            self.check(teams, {OURS: gate}, f"overhead {stage}")
            timed, order = self.rounds(teams, f"overhead {stage}", steps=4)
            self.stop(teams)
            gate["weights"] = _difference(places[OURS], places[PLAIN])
            gate["passes"] = gate["passes"] and gate["weights"] <= WEIGHTS
            self.out["overhead"][stage] = {
                "gate": gate, "steps": order, "rounds": len(timed[OURS].seconds),
                "step": {name: spread([second / order for second in one.seconds]) for name, one in timed.items()},
                "seconds": {name: one.seconds for name, one in timed.items()}, "slower": ratio(timed, OURS, PLAIN),
                "cpu": _cpu(timed),
            }  # fmt: skip
            slower = self.out["overhead"][stage]["slower"]
            self.say(
                f"overhead, {stage}: {slower['ratio'] - 1:+.2%} [{slower['low'] - 1:+.2%}, {slower['high'] - 1:+.2%}]; "
                f"weights differ by {gate['weights']:.1e}"
            )

    # --- 3. memory ---

    def memory(self) -> None:
        """What each rank holds, beside the arithmetic."""
        sizes = Sizes(2, 64, 96, 4, 2, 512) if self.quick else Sizes(8, 576, 1536, 9, 3, 16384)
        tower: dict[str, Any] = {"tower_width": 64, "tower_layers": 1} if self.quick else {}
        shape = TOY if self.quick else Shape(image=64, question=20, answer=40, advice=16, critique=16, words=16_000)
        rows = []
        for trained, lora in (("all but the tower", 0), ("projector and LoRA, rank 64", 64)):
            model = ModelSpec(sizes, lora=lora, **tower)
            for name, (ranks, gather) in STATE.items():
                strategy: Any = name.split(",")[0]
                devices = config.Devices(accelerator="cpu", devices=ranks, strategy=strategy, gather=gather)
                work = memory_work.MemoryWork(model, shape, devices)
                team = Team(Spec(f"{trained}, {name}", ranks, 1, memory_work.weigh, work))
                pids, steps = [reply["pid"] for reply in team.ready], list[dict[str, Any]]()
                for passes in memory_work.PASSES:
                    with PSS(pids) as pss:
                        counted = team.ask(1)
                    steps.append({"passes": passes, "ranks": counted, "growth": pss.growth})
                sizes = team.stop()[0]["sizes"]
                rows.append({
                    "trained": trained, "strategy": name, "ranks": ranks, "parameters": sizes.trained,
                    "weights": sizes.weights, "steps": steps[1:], "passes": True,
                    "predicted": [vars(rank_of(sizes, strategy, ranks, gather, one["passes"])) for one in steps[1:]],
                })  # fmt: skip
                rows[-1]["passes"] = scaling_results.counted_as_predicted(rows[-1])
                self.say(f"memory, {trained}, {name}: counted as predicted: {rows[-1]['passes']}")
        self.out["memory"] = {"counted": rows, "table": table(), "sharded": sharded()}


def _difference(one: Path, two: Path) -> float:
    """The largest relative difference of a tensor of the weights."""
    weights, reference = (load_file(folder / "weights.safetensors") for folder in (one, two))
    return max(
        float((weights[name] - value).norm() / value.norm().clamp(min=1e-12)) for name, value in reference.items()
    )


def _cpu(timed: dict[str, Timed]) -> float:
    """CPU seconds of ours ÷ the plain loop's, over all rounds: what else the machine does is not in them."""
    spent = {name: sum(reply["cpu"] for replies in one.replies for reply in replies) for name, one in timed.items()}
    return float(spent[OURS] / spent[PLAIN])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute, a toy")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=PARTS, default=list(PARTS),
                        help=f"these only, the others as measured before: {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=100, help="of all measured rounds (100)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        raise SystemExit(0 if Bench(options, Path(folder)).run() else 1)


if __name__ == "__main__":
    main()
