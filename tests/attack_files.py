"""What tests of attacks look at in a folder that `task=attack` wrote."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from rich.console import Console

from dress.base.files import read_json, read_lines

QUIET = Console(quiet=True)
BESIDE = ("ledger", "attack.json", "index.arrow")


def written(out: Path) -> dict[str, str]:
    """sha256 of everything that a folder holds but the ledger and what says with which settings it was begun."""
    files = [file for file in out.rglob("*") if file.is_file() and not file.name.startswith(BESIDE)]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def adds_up(out: Path) -> None:
    """Every text is taken or rejected, and the files say so too."""
    counts, rejected = (
        read_json(out / "attack.json")["counts"],
        Counter(row["kind"] for row in read_lines(out / "rejected.jsonl")),
    )
    rows, twins = read_lines(out / "vlsafe/harmful.jsonl"), read_lines(out / "benign.jsonl")
    taken = {"request": len(rows), "twin": len(twins), "refusal": sum(row["reference"] is not None for row in rows)}
    for kind, own in counts["texts"].items():
        assert own["written"] == own["taken"] + sum(own["rejected"].values()), kind
        assert (own["taken"], sum(own["rejected"].values())) == (taken[kind], rejected[kind]), kind
