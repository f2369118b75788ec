"""Several annotators of the same answers: of one set, or of sets beside it. Do they say the same?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from dress.data.counts import NO_CRITERION
from dress.evaluation.statistics import Array, Figure, alpha, mean, share
from dress.feedback.answer_key import answer_key
from dress.inspection.data_set import DataSet, Item
from dress.inspection.texts import digest, image_name
from dress.record import TOP_RATING, Dialogue, Feedback, up_to_answers

ALL = "all"
STANDARDS = ("oracle", "human")
"""Annotators that others are measured by where nobody says by whom, the first that there is."""
UNNAMED = "unnamed"


class Annotator(NamedTuple):
    """Who rated: number of the set, name (`human/Ana` of a person), version of the prompt."""

    place: int
    name: str
    version: str


class Place(NamedTuple):
    """Where an answer stands: split, number of the record in it, of the dialogue, and of the answer in that."""

    split: str
    record: int
    dialogue: int
    answer: int


class Answer(NamedTuple):
    """The ratings of an answer, by annotator and criterion, and where it stands in the set."""

    ratings: dict[tuple[int, str], int]
    place: Place


class Unit(NamedTuple):
    """What several annotators rated: an answer, for one criterion. `ratings` by annotator; `cluster` is its record."""

    ratings: dict[int, int]
    cluster: str


@dataclass(frozen=True)
class Differing:
    """An answer that annotators differ on: its record, the dialogue up to it, and where it stands in each set."""

    item: Item
    dialogue: Dialogue
    criterion: str
    ratings: dict[int, int]
    places: Mapping[int, Place]


@dataclass(frozen=True)
class Pair:
    """Two annotators on the answers that both rated for a criterion; `difference` is the second less the first."""

    criterion: str
    first: str
    second: str
    equal: Figure
    within_one: Figure
    difference: Figure
    alpha: Figure


@dataclass
class Annotators:
    """Ratings of the same answers by several annotators.

    Two ratings are of the same answer where the picture (its bytes where all sets have them, else its name, else the
    key), all texts up to it and the answer are equal; of several equal ones the first goes with the first. An
    annotator that rated an answer twice for a criterion counts with the lowest.

    Args:
        sets: the set, and those beside it.
        standard: name of the annotator that others are measured by; None: oracle, else human.
        most: answers that are kept to be shown.
    """

    sets: Sequence[DataSet]
    standard: str | None = None
    most: int = 12
    rated: list[int] = field(default_factory=list)
    """Of each set, how many rated answers it has."""
    paired: list[int] = field(default_factory=list)
    """How many of them stand in the first set."""
    mapped: set[int] = field(default_factory=set)
    """Annotators with ratings that were mapped from another scale."""
    units: dict[str, list[Unit]] = field(default_factory=dict)
    """By criterion, those that two annotators rated."""
    _numbers: dict[Annotator, int] = field(default_factory=dict)
    _beside: list[dict[bytes, list[Answer]]] = field(default_factory=list)
    _seen: Counter[bytes] = field(default_factory=Counter)
    _differing: list[tuple[int, bytes, int, Differing]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rated, self.paired = [0] * len(self.sets), [0] * len(self.sets)
        self._beside = [{} for _ in self.sets]
        self._by_bytes = len(self.sets) > 1 and all(data.has_images for data in self.sets)

    def add_beside(self, number: int, item: Item) -> None:
        """Note the ratings of a record of a set beside; all of these come first."""
        about = self._about(item)
        for base, _, answer in self._answers(number, item, about):
            self.rated[number] += bool(answer.ratings)
            self._beside[number].setdefault(base, []).append(answer)

    def add(self, item: Item) -> None:
        """Put the ratings of a record of the set together with those beside."""
        about = self._about(item)
        for base, dialogue, answer in self._answers(0, item, about):
            ratings, places = dict(answer.ratings), {0: answer.place}
            self.rated[0] += bool(ratings)
            times = self._seen[base]
            if len(self.sets) > 1:
                self._seen[base] += 1
            for number, beside in enumerate(self._beside):
                there = beside.get(base, ())
                if times < len(there):
                    ratings |= there[times].ratings
                    places[number] = there[times].place
                    self.paired[number] += bool(there[times].ratings)
            for criterion in sorted({criterion for _, criterion in ratings}):
                of_criterion = {who: rating for (who, other), rating in ratings.items() if other == criterion}
                if len(of_criterion) > 1:
                    self.units.setdefault(criterion, []).append(Unit(of_criterion, about))
                    self._keep(base, Differing(item, dialogue, criterion, of_criterion, places))

    def check(self) -> None:
        """Refuse what makes all figures meaningless.

        Raises:
            ValueError: a set beside has none of the set's answers, or nobody has the standard's name.
        """
        for data, rated, paired in zip(self.sets[1:], self.rated[1:], self.paired[1:], strict=True):
            if not paired:
                raise ValueError(
                    f"beside={data.path}: expected the answers of {self.sets[0].path}, rated by others; none of its "
                    f"{rated:,} rated answers stands there"
                )
        if self.standard is not None and not self.standards:
            names = ", ".join(sorted({annotator.name for annotator in self._numbers})) or "nobody"
            raise ValueError(f"standard={self.standard}: expected an annotator of these sets: {names}")

    @property
    def standards(self) -> list[int]:
        """The annotators that others are measured by: one, or people."""
        for name in STANDARDS if self.standard is None else (self.standard,):
            if of_name := [n for who, n in self._numbers.items() if name in (who.name, who.name.partition("/")[0])]:
                return of_name
        return []

    @property
    def differing(self) -> list[Differing]:
        """The answers that annotators differ on most; of equal ones those with the smallest hashes."""
        return [one for *_, one in sorted(self._differing, key=lambda entry: entry[:3])[: self.most]]

    @cached_property
    def labels(self) -> dict[int, str]:
        """What each annotator is called, the standard first: its version and set only where names are equal."""
        first = set(self.standards)
        labels = {}
        for who, number in sorted(self._numbers.items(), key=lambda one: (one[1] not in first, one[0])):
            same = [other for other in self._numbers if other.name == who.name]
            parts = [who.name]
            if len({other.version for other in same}) > 1:
                parts.append(who.version or "no version")
            if len({other.place for other in same}) > 1:
                parts.append(self.sets[who.place].path)
            labels[number] = " · ".join(parts)
        return labels

    @cached_property
    def by_criterion(self) -> dict[str, list[Unit]]:
        """All units, and where there are several criteria those of all of them."""
        units = dict(sorted(self.units.items()))
        return units if len(units) < 2 else {**units, ALL: [unit for part in units.values() for unit in part]}

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every two annotators that rated the same answers, by criterion."""
        pairs = []
        for criterion, units in self.by_criterion.items():
            for first, second in combinations(self.labels, 2):
                both = [unit for unit in units if first in unit.ratings and second in unit.ratings]
                if both:
                    pairs.append(self._pair(criterion, first, second, both))
        return pairs

    @cached_property
    def together(self) -> dict[str, Figure]:
        """Alpha of all annotators, by criterion, where there are more than two."""
        return {
            criterion: alpha(_counts(unit.ratings.values() for unit in units), clusters=[u.cluster for u in units])
            for criterion, units in self.by_criterion.items()
            if len({who for unit in units for who in unit.ratings}) > 2
        }

    @cached_property
    def against_standard(self) -> dict[str, dict[str, list[list[int]]]]:
        """Annotator -> criterion -> rating of the standard -> how many answers it rated 1, 2, 3, 4."""
        standards = self.standards
        tables: dict[str, dict[str, list[list[int]]]] = {}
        for who in (number for number in self.labels if standards and number not in standards):
            for criterion, units in self.by_criterion.items():
                table = [[0] * TOP_RATING for _ in range(TOP_RATING)]
                for unit in units:
                    for standard in standards:
                        if who in unit.ratings and standard in unit.ratings:
                            table[unit.ratings[standard] - 1][unit.ratings[who] - 1] += 1
                if any(map(any, table)):
                    tables.setdefault(self.labels[who], {})[criterion] = table
        return tables

    def to_json(self) -> dict[str, Any]:
        """All figures as plain data."""
        who = {number: annotator for annotator, number in self._numbers.items()}
        return {
            "annotators": [
                {"label": label, "annotator": who[number].name, "prompt_version": who[number].version,
                 "set": self.sets[who[number].place].path, "mapped": number in self.mapped}
                for number, label in self.labels.items()
            ],
            "standard": [label for number, label in self.labels.items() if number in self.standards],
            "beside": [
                {"path": data.path, "rated": rated, "paired": paired, "damage": data.damage}
                for data, rated, paired in zip(self.sets[1:], self.rated[1:], self.paired[1:], strict=True)
            ],
            "pairs": [vars(pair) for pair in self.pairs],
            "together": self.together,
            "against_standard": self.against_standard,
            "differing": [
                {"split": one.item.split, "key": one.item.record.key, "dialogue": one.places[0].dialogue,
                 "answer": one.places[0].answer, "criterion": one.criterion,
                 "ratings": {self.labels[number]: rating for number, rating in one.ratings.items()}}
                for one in self.differing
            ],
        }  # fmt: skip

    def words(self, one: Differing) -> list[tuple[str, Feedback]]:
        """What each annotator said of an answer, by label and in that order."""
        said: dict[int, Feedback] = {}
        for number, place in one.places.items():
            item = self.sets[number].at([place[:2]])[place[:2]] if number else one.item
            dialogue = item.record.dialogues[place.dialogue]
            for feedback in dialogue.turns[place.answer].feedback:
                who, criterion = self._who(number, feedback), feedback.criterion or dialogue.criterion or NO_CRITERION
                if criterion == one.criterion and who in one.ratings and feedback.rating == one.ratings[who]:
                    said.setdefault(who, feedback)
        return [(label, said[who]) for who, label in self.labels.items() if who in said]

    def _about(self, item: Item) -> str:
        """What names the record's picture, or the record where it has none."""
        if self._by_bytes and item.image is not None:
            return hashlib.sha256(item.image).hexdigest()
        return image_name(item.record.image) if item.record.image is not None else item.record.key

    def _answers(self, number: int, item: Item, about: str) -> Iterable[tuple[bytes, Dialogue, Answer]]:
        for place, dialogue in enumerate(item.record.dialogues):
            for judged in up_to_answers(dialogue):
                ratings: dict[tuple[int, str], int] = {}
                for feedback in judged.turns[-1].feedback:
                    if feedback.rating is not None:
                        key = self._who(number, feedback), feedback.criterion or dialogue.criterion or NO_CRITERION
                        ratings[key] = min(feedback.rating, ratings.get(key, TOP_RATING))
                        self._note_scale(key[0], feedback)
                where = Place(item.split, item.number, place, len(judged.turns) - 1)
                yield digest(about, answer_key(None, judged)), judged, Answer(ratings, where)

    def _who(self, number: int, feedback: Feedback) -> int:
        name, person = feedback.annotator or UNNAMED, feedback.extra.get("who")
        who = Annotator(number, f"{name}/{person}" if person else name, feedback.prompt_version or "")
        return self._numbers.setdefault(who, len(self._numbers))

    def _note_scale(self, who: int, feedback: Feedback) -> None:
        scale = feedback.original
        if scale is not None and (scale.min, scale.max) != (1, TOP_RATING):
            self.mapped.add(who)

    def _keep(self, base: bytes, one: Differing) -> None:
        apart = max(one.ratings.values()) - min(one.ratings.values())
        if apart:
            self._differing.append((-apart, digest(base.hex(), one.criterion), len(self._differing), one))
        if len(self._differing) > 2 * self.most:
            self._differing = sorted(self._differing, key=lambda entry: entry[:3])[: self.most]

    def _pair(self, criterion: str, first: int, second: int, units: Sequence[Unit]) -> Pair:
        clusters = [unit.cluster for unit in units]
        apart = [unit.ratings[second] - unit.ratings[first] for unit in units]
        return Pair(
            criterion, self.labels[first], self.labels[second],
            share([float(one == 0) for one in apart], clusters),
            share([float(abs(one) <= 1) for one in apart], clusters),
            mean(apart, clusters),
            alpha(_counts((unit.ratings[first], unit.ratings[second]) for unit in units), clusters=clusters),
        )  # fmt: skip


def _counts(ratings: Iterable[Iterable[int]]) -> Array:
    """[units, ratings from 1 to 4]: how many annotators gave each."""
    return np.array([[Counter(unit)[rating] for rating in range(1, TOP_RATING + 1)] for unit in map(list, ratings)])
