"""One pass over a set, and before it one over each set that it is compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dress.data.counts import Counts
from dress.data.images import MAX_ASPECT
from dress.inspection.annotators import Annotators
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
    annotators: Annotators
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
            "annotators": self.annotators.to_json(),
            "damage": self.data.damage,
        }


@dataclass(frozen=True)
class Options:
    """How to look: what makes a dialogue a leaked one, how many records are picked to be shown, and the longer side of
    an image ÷ its shorter side, at most."""

    leaked_by: By = "text"
    samples: int = 24
    max_aspect: float = MAX_ASPECT


def inspect(
    data: DataSet, other: DataSet | None, lengths: Lengths | None, track: Track, options: Options,
    annotators: Annotators | None = None,
) -> Inspection:  # fmt: skip
    """Look at every record.

    Args:
        data: the set.
        other: the set that it may leak from, or None.
        lengths: counts tokens, or None.
        track: shows progress.
        options: how to look.
        annotators: of the set, and of those beside it; None: of the set alone.

    Raises:
        ValueError: rows without users' texts, or a set beside that has other answers.
    """
    annotators = annotators or Annotators([data])
    inspection = Inspection(data, annotators, findings=Findings(options.max_aspect), lengths=lengths)
    if other is not None:
        other_set = Known()
        for item in track(other, "read the other set"):
            other_set.add(item, None if item.image is None else hashlib.sha256(item.image).hexdigest())
        inspection.leakage = Leakage(other_set, options.leaked_by)
    for number, beside in enumerate(annotators.sets[1:], start=1):
        for item in track(beside, f"read {beside.path}"):
            annotators.add_beside(number, item)
    samples = _Smallest(options.samples)
    for item in track(data, "inspect"):
        sha256 = inspection.findings.add(item, data.has_images)
        inspection.counts.setdefault(item.split, Counts()).add(item.record)
        if inspection.leakage is not None:
            inspection.leakage.add(item, sha256)
        if lengths is not None:
            lengths.add(item.record, item.image)
        samples.add(item)
        annotators.add(item)
    annotators.check()
    inspection.samples = list(samples)
    return inspection


class _Smallest:
    """The items with the smallest hashes: which they are depends on nothing but their keys."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._items: list[tuple[bytes, int, Item]] = []
        self._count = 0

    def add(self, item: Item) -> None:
        """Keep an item as long as it is among the smallest."""
        self._count += 1
        self._items.append((hashlib.sha256(place(item).encode()).digest(), self._count, item))
        if len(self._items) > 2 * self.number:
            self._items = sorted(self._items, key=lambda entry: entry[:2])[: self.number]

    def __iter__(self) -> Iterator[Item]:
        return (item for *_, item in sorted(self._items, key=lambda entry: entry[:2])[: self.number])
