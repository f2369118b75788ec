"""Results as JSON, as tables in Markdown, and as a picture."""

from __future__ import annotations

import json
import statistics
from html import escape
from pathlib import Path
from typing import Any

from dress.dialogue.tree import build_tree
from steps.flops import Sizes, floor
from steps.rounds import Measured, paired
from steps.tuples import Shape, make

OURS, UNSHARED, TUNED = "dress", "dress, sharing off", "TRL tuned"
ROWS = ("a tuple at once", "a row at a time")
"""Micro-batches of TRL tuned, by its number of rows: 0 is all."""
CHECKPOINTED = "dress, activation checkpointing"


def figures(
    measured: dict[str, Measured],
    groups: list[list[str]],
    shape: Shape,
    sizes: Sizes,
    full: bool,
    per_step: int,
    peak: float,
    gates: dict[str, dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """What each arm reached on one shape of tuples.

    Args:
        measured: by "group/arm" where ours ran in several groups.
        groups: arms that were interleaved with one another.
        shape, sizes, full, per_step: of tuples, model, training; they give the floor.
        peak: matrix products measured in the same run, in operations per second.
        gates: an arm that did not pass prints no ratio.

    Returns:
        by arm: seconds per step, supervised tokens and tuples per second, MFU, peak and activation bytes, loss
        of the first step, and `slower`: its time ÷ ours, paired by round, with the interval.
    """
    one = make(shape, 0, image=False)
    trees = [build_tree(one.encoded())]
    operations = per_step * floor(sizes, trees, full)
    supervised = per_step * int(sum(d.weights.sum() for d in one.encoded()))
    out: dict[str, dict[str, Any]] = {}
    for number, group in enumerate(groups):
        ours = measured[f"{number}/{OURS}"]
        for name in group:
            arm = measured[f"{number}/{name}"]
            if not arm.seconds:
                out[name] = {"error": arm.error or "not run"}
                continue
            if name == OURS:
                if name in out:
                    continue
                arm = _joined([measured[f"{i}/{OURS}"] for i in range(len(groups))])
            figures: dict[str, Any] = {
                "step": arm.step, "supervised": supervised / arm.step, "tuples": per_step / arm.step,
                "mfu": operations / arm.step / peak, "peak": arm.peak, "activations": arm.activations,
                "loss": arm.losses[0], "rounds": arm.per_round, "cpu_seconds": arm.cpu, "warm_up": arm.warm_up,
            }  # fmt: skip
            if arm.parts:
                figures["parts"] = {
                    part: statistics.median(one[part] for one in arm.parts) for part in arm.parts[0]
                }  # fmt: skip
            if gates.get(name, {}).get("passes") and name != OURS and ours.seconds:
                figures["slower"] = paired(arm.per_round, ours.per_round)
            out[name] = figures
    return out


def _joined(runs: list[Measured]) -> Measured:
    """Ours from every group it ran in: all its steps, its largest memory."""
    most = max(runs, key=lambda one: one.activations)
    joined = Measured(peak=most.peak, before=most.before)
    for one in runs:
        joined.seconds += one.seconds
        joined.cpu += one.cpu
        joined.losses += one.losses
        joined.parts += one.parts
        joined.warm_up += one.warm_up
    return joined


def ragged_ratio(shape: Shape) -> float:
    """Tokens of the dialogues as separate sequences ÷ tokens of their tree."""
    encoded = make(shape, 0, image=False).encoded()
    return sum(len(one.ids) for one in encoded) / len(build_tree(encoded))


def operations_ratio(shape: Shape, sizes: Sizes) -> float:
    """Operations that dialogues as separate sequences need ÷ those of their tree.

    Less than the ratio of tokens: the head's rows are the same in both, and attention shrinks by less.
    """
    encoded = make(shape, 0, image=False).encoded()
    return floor(sizes, [build_tree([one]) for one in encoded]) / floor(sizes, [build_tree(encoded)])


def targets(
    arms: dict[str, dict[str, Any]], shape: Shape, rows: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """What was to be reached on STD-256, and what was; None where an arm did not run or did not pass its gate.

    Args:
        arms: of `figures`.
        shape: of the tuples.
        rows: of TRL tuned, by its micro-batch: the activations in it.
    """

    def ratio(name: str) -> float | None:
        return arms.get(name, {}).get("slower", {}).get("ratio")

    off = ratio(UNSHARED)
    ours = arms.get(OURS, {})

    def activations(way: str) -> float | None:
        return ours["activations"] / rows[way]["activations"] if way in rows and "step" in ours else None

    checkpointed = (
        rows[CHECKPOINTED]["activations"] / rows[ROWS[1]]["activations"]
        if {CHECKPOINTED, ROWS[1]} <= set(rows)
        else None
    )
    figures = {
        "times TRL defaults": (5.0, 8.0, ratio("TRL defaults")),
        "times plain HF padded": (4.0, 6.0, ratio("plain HF padded")),
        "times TRL tuned": (2.5, 3.5, ratio(TUNED)),
        "share of the ragged token ratio": (0.9, 0.95, None if off is None else off / ragged_ratio(shape)),
        "MFU on unique tokens": (0.5, 0.7, ours.get("mfu")),
        **{f"activations ÷ TRL tuned's, {way} (at most)": (0.45, 0.45, activations(way)) for way in ROWS},
        f"with checkpointing ÷ TRL tuned's, {ROWS[1]} (at most)": (0.45, 0.45, checkpointed),
    }  # fmt: skip
    return {
        name: {"floor": low, "aim": aim, "value": value,
               "reached": value is not None and (value <= low if "at most" in name else value >= low)}
        for name, (low, aim, value) in figures.items()
    }  # fmt: skip


def write(folder: Path, results: dict[str, Any]) -> None:
    """`train_step.json`, `.md` and `.svg`; called after each part, so that nothing measured is lost."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train_step.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "train_step.md").write_text(markdown(results), encoding="utf-8")
    if results.get("arms"):
        (folder / "train_step.svg").write_text(picture(results["arms"]), encoding="utf-8")


def markdown(results: dict[str, Any]) -> str:
    """All tables."""
    machine, commands = results["machine"], dict.fromkeys(results["commands"].values())
    lines = [
        "# Training steps", "",
        f"{', '.join(f'`{one.strip()}`' for one in commands)}: {results['what']}, {machine['cpu']}, "
        f"{machine['threads']} threads, "
        f"{results['precision']}; torch {machine['versions']['torch']}, "
        f"transformers {machine['versions']['transformers']}, trl {machine['versions'].get('trl', 'not installed')}. "
        f"{sum(results['minutes'].values()):.0f} minutes.", "",
    ]  # fmt: skip
    notes = [one for part in results["said"].values() for one in part]
    if notes:
        lines += ["What happened on the way:", "", *(f"- {one}" for one in notes), ""]
    for part in (_packing, _gate, _targets, _arms, _together, _rows, _split, _ladder, _sweep, _traces):
        lines += part(results)
    return "\n".join(lines).rstrip() + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(r) + " |" for r in rows), ""]


def _packing(results: dict[str, Any]) -> list[str]:
    figures = results.get("packing")
    if not figures:
        return []
    return [
        f"Trees and forests from tokenised records of mixed lengths: {figures['tuples_per_second']:,.0f} tuples per "
        f"second and core, forests of 16,384 tokens {figures['fill']:.1%} full (the last of a step not counted); "
        f"separate sequences would hold {figures['tokens']:.2f} times the tokens.", "",
    ]  # fmt: skip


def _gate(results: dict[str, Any]) -> list[str]:
    rows = [
        [name, "yes" if g.get("targets") else "no", f"{g.get('loss', float('nan')):.1e}",
         f"{g.get('gradient', float('nan')):.1e}", "yes" if g.get("passes") else f"no {g.get('error', '')}"]
        for name, g in results.get("gate", {}).items()
    ]  # fmt: skip
    if not rows:
        return []
    title = f"## Do they learn the same? First step in fp32 against `{results['reference']}`"
    return [title, "", *_table(["arm", "same targets", "loss", "worst gradient", "passes"], rows)]


def _targets(results: dict[str, Any]) -> list[str]:
    rows = [
        [name, f"{t['floor']:g}", f"{t['aim']:g}", "not measured" if t["value"] is None else f"{t['value']:.2f}",
         "yes" if t["reached"] else "no"]
        for name, t in results.get("targets", {}).items()
    ]  # fmt: skip
    return ["## Reached", "", *_table(["", "floor", "aim", "measured", "floor reached"], rows)] if rows else []


def _arms(results: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, arms in results.get("arms", {}).items():
        rate = results["products"][name]
        lines += [f"## {name}: matrix products of the model's shapes {rate / 1e9:.0f} GFLOP/s", ""]
        rows = []
        for arm, one in arms.items():
            if "error" in one:
                rows.append([arm, one["error"], *[""] * 6])
                continue
            slower = one.get("slower")
            ratio = f"{slower['ratio']:.2f} [{slower['low']:.2f}, {slower['high']:.2f}]" if slower else ""
            rows.append(
                [arm, f"{one['step']:.2f}", f"{one['supervised']:.1f}", f"{one['tuples']:.3f}", f"{one['mfu']:.0%}",
                 f"{one['activations'] / 2**30:.2f}", f"{one['peak'] / 2**30:.2f}", ratio]
            )  # fmt: skip
        lines += _table(
            ["arm", "s per step", "supervised tokens/s", "tuples/s", "MFU, unique tokens", "activations, GiB",
             "peak memory, GiB", "time ÷ ours, 95 %"], rows
        )  # fmt: skip
        if (bound := results.get("sharing", {}).get(name)) is not None:
            lines += [
                f"Separate sequences hold {bound['tokens']:.2f} times the tokens, and need {bound['operations']:.2f} "
                "times the operations: a step that is all matrix products at their peak reaches "
                f"{bound['operations'] / bound['tokens']:.0%} of the ratio of tokens.", "",
            ]  # fmt: skip
    return lines


def _together(results: dict[str, Any]) -> list[str]:
    figures = results.get("together")
    if not figures:
        return []
    step, ratio = figures["step"], figures["slower"]
    return [
        f"With {figures['per_step']} tuples in an optimiser step, in two forests each: {OURS} {step[OURS]:.2f} s, "
        f"{UNSHARED} {step[UNSHARED]:.2f} s, {ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] "
        f"times as long: {ratio['ratio'] / figures['tokens']:.0%} of the ratio of tokens.", "",
    ]  # fmt: skip


def _rows(results: dict[str, Any]) -> list[str]:
    figures = [
        [way, f"{one['step']:.1f}", f"{one['activations'] / 2**30:.2f}"] for way, one in results.get("rows", {}).items()
    ]
    title = f"## Memory: micro-batches of {TUNED} on STD-256, whose arm runs the faster; ours with checkpointing"
    return [title, "", *_table(["", "s per step", "activations, GiB"], figures)] if figures else []


def _split(results: dict[str, Any]) -> list[str]:
    first = next(iter(results.get("arms", {}).values()), {})
    parts = {name: first[name]["parts"] for name in (OURS, UNSHARED) if "parts" in first.get(name, {})}
    lines: list[str] = []
    if len(parts) == 2:
        lines += ["## Where a step goes (STD-256)", "", "In the rounds above, seconds, medians:", ""]
        lines += _table(["part", OURS, UNSHARED, "÷"], _side_by_side(parts))
    if kinds := results.get("split"):
        lines += ["In a profile of forward and backward pass, by kind of operator (profiling adds to the last):", ""]
        lines += _table(["operators", OURS, UNSHARED, "÷"], _side_by_side(kinds))
    return lines


def _side_by_side(figures: dict[str, dict[str, float]]) -> list[list[str]]:
    ours, other = figures[OURS], figures[UNSHARED]
    return [
        [name, f"{ours[name]:.3f}", f"{other[name]:.3f}", f"{other[name] / max(ours[name], 1e-9):.2f}"]
        for name in ours
    ]  # fmt: skip


def _ladder(results: dict[str, Any]) -> list[str]:
    ladder = results.get("ladder")
    if not ladder:
        return []
    rows, first, before = [], None, None
    for name, one in ladder.items():
        if not one["passes"]:
            rows.append([name, "another loss: no figure", "", "", ""])
            continue
        first, before = first or one["seconds"], before or one["seconds"]
        rows.append(
            [name, f"{one['seconds']:.2f}", f"{before / one['seconds']:.2f}", f"{first / one['seconds']:.2f}",
             f"{one['activations'] / 2**30:.2f}"]
        )  # fmt: skip
        before = one["seconds"]
    title = "## Where it comes from: one switch more on every line (STD-256, forward and backward pass)"
    return [title, "", *_table(["", "s per tuple", "× the line before", "× the first", "activations, GiB"], rows)]


def _sweep(results: dict[str, Any]) -> list[str]:
    rows = [
        [str(c["branches"]), str(c["image"]), str(c["answer"]), str(c["unique"]), f"{c['tokens']:.2f}",
         f"{c['operations']:.2f}",
         f"{c['ratio']['ratio']:.2f} [{c['ratio']['low']:.2f}, {c['ratio']['high']:.2f}]",
         f"{c['plain']['ratio']:.2f} [{c['plain']['low']:.2f}, {c['plain']['high']:.2f}]" if "plain" in c else ""]
        for c in results.get("sweep", [])
    ]  # fmt: skip
    if not rows:
        return []
    head = ["answers", "image tokens", "tokens per answer", "unique tokens", "tokens, sequences ÷ tree", "operations",
            "time, sequences ÷ tree", "time, tree ÷ no tree at all"]  # fmt: skip
    note = "The head has two thirds of the slice's weights and the same rows in both; of 30 layers' it has a fifth."
    return ["## Where it pays: a slice of four layers, forward and backward pass", "", *_table(head, rows), note, ""]


def _traces(results: dict[str, Any]) -> list[str]:
    figures = results.get("traces")
    if not figures or not figures["losses"]:
        return []
    rows = [[name, *(f"{one[i]:.4f}" for i in (0, len(one) // 2, -1))] for name, one in figures["losses"].items()]
    lines = ["## Losses of the first steps, bf16, a slice of four layers", ""]
    lines += _table(["arm", "first", "middle", "last"], rows)
    if "spread" in figures:
        verdict = "passes" if figures["passes"] else "does not pass"
        lines += [
            f"Two layouts without sharing differ by at most {figures['spread']:.1e}, ours from the nearer of them by "
            f"{figures['distance']:.1e}: {verdict} (at most 1.2 times as far).", "",
        ]  # fmt: skip
    return lines


def picture(arms: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Supervised tokens per second of every arm, as bars."""
    width, unread, bar, gap = 640, 150, 18, 8
    parts, top = [], 0
    most = max(one["supervised"] for figures in arms.values() for one in figures.values() if "step" in one)
    for name, figures in arms.items():
        parts.append(f'<text x="0" y="{top + 16}" font-weight="bold">{escape(name)}, supervised tokens/s</text>')
        top += 26
        for arm, one in figures.items():
            if "step" not in one:
                continue
            size = (width - unread - 60) * one["supervised"] / most
            colour = "#0b7285" if arm == OURS else "#868e96"
            parts.append(
                f'<text x="{unread - 6}" y="{top + 13}" text-anchor="end">{escape(arm)}</text>'
                f'<rect x="{unread}" y="{top}" width="{size:.1f}" height="{bar}" fill="{colour}"/>'
                f'<text x="{unread + size + 4:.1f}" y="{top + 13}">{one["supervised"]:.0f}</text>'
            )
            top += bar + gap
        top += 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}" '
        f'font-family="sans-serif" font-size="12" fill="#495057">\n' + "\n".join(parts) + "\n</svg>\n"
    )
