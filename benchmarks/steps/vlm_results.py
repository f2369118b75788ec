"""Results on vision-language models as JSON and as tables in Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.rounds import Measured, paired

GIB = 2**30


def opened(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Results to add to: those of the file, where they are of the same machine and precision.

    Raises:
        ValueError: they are not.
    """
    out = {**about, "cases": {}}
    if not file.exists():
        return out
    saved: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    expected, got = ([one["precision"], one["machine"]["cpu"], one["machine"]["gpu"]] for one in (out, saved))
    if expected != got:
        raise ValueError(f"{file}: expected results for {expected}, got {got}: name another --out")
    return {**out, "cases": saved["cases"]}


def figures(
    measured: dict[str, Measured], ours: str, others: Sequence[str], gates: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What each arm reached.

    Args:
        measured: by "number/arm", the number of the other that ours ran beside.
        ours: its name.
        others: names.
        gates: an arm that did not pass, or beside which ours did not, has no ratio.

    Returns:
        by arm: median seconds per step, bytes that a step takes beyond weights and optimiser (`activations`), peak
        bytes, and `slower`: its time ÷ ours, paired by round, with the interval.
    """
    out: dict[str, dict[str, Any]] = {}
    for number, other in enumerate(others):
        mine = measured[f"{number}/{ours}"]
        for name in (ours, other):
            one = measured[f"{number}/{name}"]
            if name in out:
                continue
            if not one.seconds:
                out[name] = {"error": one.error or "not run"}
                continue
            out[name] = {
                "step": one.step, "activations": one.activations, "peak": one.peak, "rounds": one.per_round,
                "warm_up": one.warm_up, "loss": one.losses[0],
            }  # fmt: skip
            if name != ours and mine.seconds and all(gates.get(each, {}).get("passes") for each in (ours, name)):
                out[name]["slower"] = paired(one.per_round, mine.per_round)
    return out


def write(file: Path, results: dict[str, Any]) -> None:
    """The file and its .md."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(markdown(results), encoding="utf-8")


def markdown(results: dict[str, Any]) -> str:
    """All tables."""
    machine, cases = results["machine"], results["cases"]
    commands = dict.fromkeys(one["command"] for one in cases.values())
    versions = ", ".join(f"{name} {machine['versions'].get(name, '-')}" for name in ("torch", "transformers", "trl"))
    lines = [
        "# Training steps of vision-language models", "",
        f"{', '.join(f'`{one}`' for one in commands)}: random weights, {machine['gpu'] or machine['cpu']}, "
        f"{machine['threads']} threads, {results['precision']}; {versions}.", "", *summary(cases),
    ]  # fmt: skip
    for name, case in cases.items():
        counted, sizes, tower = case["tokens"], case["model"]["sizes"], case["model"]["tower"]
        lines += [
            f"## {name}", "",
            f"Picture {case['picture'][0]} x {case['picture'][1]}; text model {sizes['layers']} layers of "
            f"{sizes['width']}, tower {tower['layers']} of {tower['width']}; trained: {', '.join(case['trained'])}; "
            f"{case['model']['tuples_per_step']} tuples a step; a tuple's tree {counted['tree']} tokens, its rows "
            f"{counted['rows']} (padded {counted['padded']}); the peers' micro-batches: "
            f"{case['rows_at_once'] or 'all'} rows.", "",
            "| arm | loss | worst gradient | s per step | activations, GiB | peak, GiB | time ÷ ours, 95 % |",
            "|---|---|---|---|---|---|---|",
            *(_row(arm, one, case["gate"].get(arm, {})) for arm, one in case["arms"].items()), "",
            *(f"- {note}" for note in case["notes"]), "",
        ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def summary(cases: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each model: what trees save."""
    others = list(dict.fromkeys(arm for case in cases.values() for arm in case["arms"] if arm != "dress"))
    head = ["model, image tokens, trained", "tokens, rows ÷ tree", "dress, s", *(f"{arm} ÷ dress" for arm in others)]
    head += ["activations, GiB: dress", *others]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, case in cases.items():
        arms, counted = case["arms"], case["tokens"]
        cells = [name, f"{counted['rows'] / counted['tree']:.2f}", _figure(arms["dress"], "step", 1, 2)]
        cells += [_ratio(arms.get(arm, {})) for arm in others]
        cells += [_figure(arms.get(arm, {}), "activations", GIB, 2) for arm in ("dress", *others)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _row(arm: str, one: dict[str, Any], gate: dict[str, Any]) -> str:
    learned = [f"{gate[name]:.1e}" if name in gate else "-" for name in ("loss", "gradient")]
    if gate and not gate["passes"]:
        learned[1] += " does not pass"
    if "error" in one:
        return f"| {arm} | {' | '.join(learned)} | {one['error']} | | | |"
    cells = [_figure(one, "step", 1, 2), _figure(one, "activations", GIB, 2), _figure(one, "peak", GIB, 2)]
    return f"| {arm} | {' | '.join([*learned, *cells])} | {_ratio(one)} |"


def _ratio(one: dict[str, Any]) -> str:
    slower = one.get("slower")
    return f"{slower['ratio']:.2f} [{slower['low']:.2f}, {slower['high']:.2f}]" if slower else ""


def _figure(one: dict[str, Any], name: str, unit: float, digits: int) -> str:
    return f"{one[name] / unit:.{digits}f}" if name in one else ""
