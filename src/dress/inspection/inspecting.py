"""One pass over a set, and before it one over the set that it may leak from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dress.data.counts import Counts
from dress.data.images import MAX_ASPECT
from dress.inspection.data_set import DataSet, Item
from dress.inspection.duplicates import Findings, place
from dress.inspection.leakage import By, Known, Leakage

if TYPE_CHECKING:
    from dress.inspection.lengths import Lengths

Track = Callable[[DataSet, str], Iterable[Item]]
"""Goes through a set and shows how far it is: (set, what is done with it)."""


@dataclass
class Inspection:
    """What was found; `samples` are the records whose keys have the smallest hashes."""

    data: DataSet
    counts: dict[str, Counts] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    lengths: Lengths | None = None
    leakage: Leakage | None = None
    samples: list[Item] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All figures as plain data."""
        return {
            "path": self.data.path,
            "splits": {name: counts.to_json() for name, counts in self.counts.items()},
            "findings": self.findings.to_json(),
            "eval_images_elsewhere": self.findings.overlap("eval") if "eval" in self.counts else None,
            "lengths": self.lengths.to_json() if self.lengths else None,
            "leakage": self.leakage.to_json() if self.leakage else None,
            "damage": self.data.damage,
        }


def inspect(
    data: DataSet, other: DataSet | None, by: By, lengths: Lengths | None, samples: int, track: Track,
    max_aspect: float = MAX_ASPECT,
) -> Inspection:  # fmt: skip
    """Look at every record.

    Args:
        data: the set.
        other: the set that it may leak from, or None.
        by: what makes a dialogue a leaked one.
        lengths: counts tokens, or None.
        samples: how many records are kept to be shown.
        track: shows progress.
        max_aspect: longer side ÷ shorter side of an image, at most.

    Raises:
        ValueError: rows without users' texts.
    """
    inspection = Inspection(data, findings=Findings(max_aspect), lengths=lengths)
    if other is not None:
        other_set = Known()
        for item in track(other, "read the other set"):
            other_set.add(item, None if item.image is None else hashlib.sha256(item.image).hexdigest())
        inspection.leakage = Leakage(other_set, by)
    picked = _Picked(samples)
    for item in track(data, "inspect"):
        sha256 = inspection.findings.add(item, data.has_images)
        inspection.counts.setdefault(item.split, Counts()).add(item.record)
        if inspection.leakage is not None:
            inspection.leakage.add(item, sha256)
        if lengths is not None:
            lengths.add(item.record)
        picked.add(item)
    inspection.samples = list(picked)
    return inspection


class _Picked:
    """The items with the smallest hashes: which they are depends on nothing but their keys."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._held: list[tuple[bytes, int, Item]] = []
        self._seen = 0

    def add(self, item: Item) -> None:
        self._seen += 1
        self._held.append((hashlib.sha256(place(item).encode()).digest(), self._seen, item))
        if len(self._held) > 2 * self.number:
            self._held = sorted(self._held, key=lambda entry: entry[:2])[: self.number]

    def __iter__(self) -> Iterator[Item]:
        return (item for *_, item in sorted(self._held, key=lambda entry: entry[:2])[: self.number])
