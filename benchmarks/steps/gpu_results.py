"""The page and the figures of benchmarks/gpu.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(folder: Path, figures: dict[str, Any]) -> None:
    """gpu.json and gpu.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text("\n".join(page(figures)) + "\n", encoding="utf-8")


def line(part: str, figures: dict[str, Any]) -> str:
    """A part in one line."""
    if "error" in figures:
        return f"FAILED: {figures['error']}"
    if part == "equality":
        return f"{len(figures['tests'])} tests, equal: {figures['equal']}"
    if part.startswith("step"):
        return f"{figures['step']:.3f} s, MFU {figures['mfu']:.0%}, {figures['peak'] / 1e9:.1f} GB"
    return f"{figures['tokens_per_second']:,.0f} tokens/s"


def page(figures: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    machine, parts = figures["machine"], figures["parts"]
    where = ", ".join(figures["gpus"]) or f"{machine['cpu']} (no GPU)"
    yield "# On a GPU"
    yield ""
    yield (
        f"`{figures['command']}`: {figures['what']}; {where}, commit {figures['commit']}, torch "
        f"{machine['versions']['torch']}, lightning {machine['versions']['lightning']}."
    )
    for part, one in parts.items():
        if "error" in one:
            yield from ("", f"**{part}: {one['error']}** ({one['seconds']:.0f} s)")
    if "tests" in parts.get("equality", {}):
        yield from _equality(parts["equality"])
    steps = [one for part, one in parts.items() if part.startswith("step") and "step" in one]
    if steps:
        yield from _steps(steps)
    collects = [one for part, one in parts.items() if part.startswith("collect") and "rounds" in one]
    if collects:
        yield from _collects(collects)


def _equality(one: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## Equality", "", "| test | ends | s |", "|---|---|--:|")
    for name, test in one["tests"].items():
        yield f"| {name} | {test['end']} | {test['seconds']:.1f} |"


def _steps(steps: list[dict[str, Any]]) -> Iterator[str]:
    yield from ("", "## A training step: projector and LoRA of rank 64 on all linear maps, tower and base frozen", "")
    yield (
        "MFU: operations of the language model on unique tokens, nothing computed twice counted, the tower left out, ÷ "
        "time ÷ matrix products of the model's shapes measured between the rounds (first) or the data sheet (second)."
    )
    yield ""
    yield (
        "| model | tokens of a step | s | tokens/s | supervised/s | records/s | MFU | of the data sheet | peak, GB | "
        "by arithmetic, recomputed - kept | first step, s |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for one in steps:
        sheet = "" if one["mfu_data_sheet"] is None else f"{one['mfu_data_sheet']:.0%}"
        yield (
            f"| {one['what']} | {one['forest']:,} | {one['step']:.3f} | {one['tokens_per_second']:,.0f} | "
            f"{one['supervised_per_second']:,.0f} | {one['tuples_per_second']:.1f} | {one['mfu']:.0%} | {sheet} | "
            f"{one['peak'] / 1e9:.1f} | "
            f"{one['predicted'][0] / 1e9:.1f} - {one['predicted'][1] / 1e9:.1f} | {one['warm_up'][0]:.1f} |"
        )


def _collects(collects: list[dict[str, Any]]) -> Iterator[str]:
    yield from (
        "",
        "## Answers",
        "",
        "| model | answers × tokens | tokens/s | answers/s | decoding alone, tokens/s | reading, s | peak, GB |",
    )
    yield "|---|---|--:|--:|--:|--:|--:|"
    for one in collects:
        yield (
            f"| {one['what']} | {one['answers']} × {one['new_tokens']} | {one['tokens_per_second']:,.0f} | "
            f"{one['answers_per_second']:.1f} | {one['decoding_tokens_per_second']:,.0f} | {one['reading']:.2f} | "
            f"{one['peak'] / 1e9:.1f} |"
        )
