"""The page and the figures of benchmarks/scaling.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NEAR = 1e-3
"""Relative difference of counted bytes to predicted ones; ranks share out rows, which may be uneven."""
AIM = 0.02
"""Of the overhead."""


def gates(figures: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All that was compared."""
    for stage in figures.get("stages", {}).values():
        yield from stage["gate"].values()
    for stage in figures.get("overhead", {}).values():
        yield stage["gate"]
    yield from figures.get("memory", {}).get("counted", [])


def counted_as_predicted(row: dict[str, Any]) -> bool:
    """Whether the ranks together hold the weights, gradients and moments that arithmetic says."""
    for step, predicted in zip(row["steps"], row["predicted"], strict=True):
        weights = sum(rank["trained"] + rank["frozen"] for rank in step["ranks"])
        counted = {name: sum(rank[name] for rank in step["ranks"]) for name in ("moments", "gradients")}
        for name, got in {"weights": weights, **counted}.items():
            prediction = predicted[name]
            if abs(got - row["ranks"] * prediction) > NEAR * row["ranks"] * prediction:
                return False
    return True


def write(folder: Path, figures: dict[str, Any]) -> None:
    """scaling.json and scaling.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scaling.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (folder / "scaling.md").write_text("\n".join(page(figures)) + "\n", encoding="utf-8")


def page(figures: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    machine = figures["machine"]
    commands = ", ".join(f"`{command}`" for command in dict.fromkeys(figures["commands"].values()))
    load = ", ".join(f"{one:.1f}" for one in figures.get("load_average", machine["load_average"]))
    yield "# Several processes"
    yield ""
    yield (
        f"{commands}: {figures['what']}; {machine['cpu']}, {machine['cores']} cores, commit {figures['commit']}, torch "
        f"{machine['versions']['torch']}, lightning {machine['versions']['lightning']}; load average afterwards {load}."
    )
    yield ""
    yield "Rounds are interleaved (A B C C B A …); medians with quartiles, ratios paired by round with 95 % intervals."
    if "stages" in figures:
        yield from _stages(figures["stages"])
    if "overhead" in figures:
        yield from _overhead(figures["overhead"])
    if "memory" in figures:
        yield from _memory(figures["memory"])


def _stages(stages: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Records and answers per second"
    yield ""
    yield "| stage | processes | per second | × 1 process, 1 thread | start-up, s | loss, gradient against it | equal |"
    yield "|---|---|--:|--:|--:|---|---|"
    for stage, one in stages.items():
        unit = "answers" if stage == "collect" else f"records, {one['records']} a step"
        for name, rate in one["per_second"].items():
            faster = f"{_ratio(one['faster'][name])}" if name in one["faster"] else ""
            gate = one["gate"][name]
            error = f"{gate['loss']:.0e}, {gate['gradient']:.0e}" if "loss" in gate else "bytes"
            rates = f"{rate['median']:.1f} ({rate['low']:.1f}-{rate['high']:.1f})"
            yield (
                f"| {stage} ({unit}) | {name} | {rates} | {faster} | "
                f"{one['startup'][name]:.1f} | {error} | {'yes' if gate['passes'] else '**no**'} |"
            )
        two = one["two processes to two threads"]
        yield f"| {stage} | two processes against two threads | | {_ratio(two)} | | {one['rounds']} rounds | |"
    yield ""
    yield (
        "Start-up: from asking for the processes, everything imported, to the first step; what a second process adds "
        "is the difference to one."
    )


def _overhead(overhead: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## What `parallel` costs one process"
    yield ""
    yield (
        "Our module, strategy and callbacks against a plain Lightning loop (one process, SingleDeviceStrategy, manual "
        "optimisation, PyTorch's clipping) over the same forests, one thread; the model is the same."
    )
    yield ""
    yield (
        "| stage | plain Lightning, ms a step | ours | overhead | by CPU time | rounds × steps | weights after them | "
        "equal |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|---|"
    for stage, one in overhead.items():
        plain, ours = (1e3 * one["step"][name]["median"] for name in ("plain Lightning", "dress"))
        slower, gate = one["slower"], one["gate"]
        more = f"{slower['ratio'] - 1:+.2%} [{slower['low'] - 1:+.2%}, {slower['high'] - 1:+.2%}]"
        yield (
            f"| {stage} | {plain:.1f} | {ours:.1f} | {more} | {one['cpu'] - 1:+.2%} | {one['rounds']} × {one['steps']} "
            f"| {gate['weights']:.0e} | {'yes' if gate['passes'] else '**no**'} |"
        )


def _memory(memory: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Memory of a rank, MB (1e6 bytes)"
    yield ""
    yield (
        "Counted from the tensors of the first rank; predicted by arithmetic: 16 bytes a trained parameter, 2 (bf16) "
        "or 4 a frozen one, divided by the ranks where the model is in parts. Held: what the process has grown since "
        "the model was built (PSS), tokenizer and libraries included, beside weights, moments and DDP's copies of "
        "gradients. For the exchange: what is gathered, and gradients that are whole until ranks exchange them. "
        "Grows: the most that PSS grew in a step; expected: the growth of one process with its gradients changed for "
        "those of this rank, and what the exchange takes. A step of three forests is three passes, the exchange in "
        "the last."
    )
    yield ""
    yield (
        "| trained | strategy, ranks | forests | weights, predicted | counted | moments | counted | gradients | "
        "counted | held | measured | for the exchange | grows, expected | measured |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    alone: dict[Any, float] = {}
    for row in memory["counted"]:
        for step, rank in zip(row["steps"], row["predicted"], strict=True):
            counted, grown, key = step["ranks"][0], max(step["growth"]), (row["trained"], step["passes"])
            beside = rank["gradients"] + rank["whole"] + rank["gathered"]
            alone.setdefault(key, grown - beside)
            figures = [
                rank["weights"], counted["trained"] + counted["frozen"], rank["moments"], counted["moments"],
                rank["gradients"], counted["gradients"], rank["weights"] + rank["moments"] + rank["buckets"],
                counted["held"], rank["whole"] + rank["gathered"], alone[key] + beside, grown,
            ]  # fmt: skip
            numbers = " | ".join(f"{one / 1e6:.1f}" for one in figures)
            yield f"| {row['trained']} | {row['strategy']}, {row['ranks']} | {step['passes']} | {numbers} |"
    yield ""
    yield "## The same arithmetic for real checkpoints, GB (1e9 bytes)"
    yield ""
    yield (
        "Predicted, not measured. All that one device holds in a step over a forest of so many tokens, activations "
        "computed again; 0.55 GB for the head's logits and 1.5 GB for CUDA itself are in it."
    )
    yield ""
    yield "| checkpoint | trained | base | 4k | 8k | 16k | 32k |"
    yield "|---|---|---|--:|--:|--:|--:|"
    for row in memory["table"]:
        sums = " | ".join(f"{row[tokens]:.1f}" for tokens in ("4096", "8192", "16384", "32768"))
        yield f"| {row['checkpoint']} | {row['trained']} | {row['base']} | {sums} |"
    yield ""
    yield (
        "The whole language model trained, `parallel.strategy=shard` on 8 devices: each holds an eighth, and gathers a "
        "layer and the root (embeddings, head, projector, encoder). With several forests in a step its gradients are "
        "whole until the last."
    )
    yield ""
    yield "| checkpoint | in all | a rank's share | a layer | the root | the exchange, one forest | several |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for row in memory["sharded"]:
        sums = " | ".join(f"{row[name]:.1f}" for name in ("all", "held", "layer", "root", "step", "several"))
        yield f"| {row['checkpoint']} | {sums} |"


def _ratio(one: dict[str, float]) -> str:
    return f"{one['ratio']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
