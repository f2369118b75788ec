"""What a set of records holds: how much of which source and criterion, and how it was rated at which turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dress.record import TOP_RATING, Dialogue, Record, Turn

NO_CRITERION = "none"


@dataclass
class Counts:
    """Counts of records that were added.

    `ratings` is criterion -> turn -> how many answers were rated 1, 2, 3, 4 and, last, not at all; an
    answer that was rated for several criteria counts for each of them. `changes` is criterion -> turn ->
    (rating, rating of the next turn) -> dialogues.
    """

    records: int = 0
    dialogues: int = 0
    questions: int = 0
    answers: int = 0
    with_image: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    criteria: Counter[str] = field(default_factory=Counter)
    annotators: Counter[tuple[str, str]] = field(default_factory=Counter)
    responders: Counter[str] = field(default_factory=Counter)
    ratings: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    changes: dict[str, dict[int, Counter[tuple[int, int]]]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Count a record with all its dialogues."""
        self.add_about(record)
        for dialogue in record.dialogues:
            self.add_dialogue(dialogue)

    def add_about(self, record: Record) -> None:
        """Count a record without its dialogues."""
        self.records += 1
        self.with_image += record.image is not None
        self.sources[record.source or NO_CRITERION] += 1

    def add_dialogue(self, dialogue: Dialogue) -> None:
        """Count a dialogue with its answers and their ratings."""
        self.dialogues += 1
        self.questions += len(dialogue.turns)
        self.criteria[dialogue.criterion or NO_CRITERION] += 1
        before: dict[str, int | None] = {}
        for number, turn in enumerate(dialogue.turns):
            if turn.assistant is None:
                continue
            self.answers += 1
            if turn.provenance.get("responder"):
                self.responders[str(turn.provenance["responder"])] += 1
            for feedback in turn.feedback:
                if feedback.rating is not None or feedback.critique is not None or feedback.refinement is not None:
                    self.annotators[feedback.annotator or "", feedback.prompt_version or ""] += 1
            ratings = dict(ratings_of(dialogue, turn))
            for criterion, rating in ratings.items():
                table = self.ratings.setdefault(criterion, {}).setdefault(number, [0] * (TOP_RATING + 1))
                table[(rating or TOP_RATING + 1) - 1] += 1
                last = before.get(criterion)
                if last is not None and rating is not None:
                    pairs = self.changes.setdefault(criterion, {}).setdefault(number - 1, Counter())
                    pairs[last, rating] += 1
            before = ratings

    def to_json(self) -> dict[str, Any]:
        """Plain data, in a fixed order."""
        annotators = [
            {"annotator": name, "prompt_version": version, "answers": number}
            for (name, version), number in sorted(self.annotators.items())
        ]
        return {
            "records": self.records, "with_image": self.with_image, "dialogues": self.dialogues,
            "questions": self.questions, "answers": self.answers,
            "sources": dict(sorted(self.sources.items())), "criteria": dict(sorted(self.criteria.items())),
            "annotators": annotators, "responders": dict(sorted(self.responders.items())), "ratings": self.table(),
        }  # fmt: skip

    def table(self) -> dict[str, dict[str, list[int]]]:
        """`ratings` in order, with texts as keys."""
        return {
            criterion: {str(turn): counts for turn, counts in sorted(turns.items())}
            for criterion, turns in sorted(self.ratings.items())
        }


def ratings_of(dialogue: Dialogue, turn: Turn) -> Iterator[tuple[str, int | None]]:
    """Each criterion for which an answer was rated, with its lowest rating; or the dialogue's and None."""
    lowest: dict[str, int] = {}
    for feedback in turn.feedback:
        if feedback.rating is not None:
            criterion = feedback.criterion or dialogue.criterion or NO_CRITERION
            lowest[criterion] = min(feedback.rating, lowest.get(criterion, TOP_RATING))
    yield from lowest.items() or [(dialogue.criterion or NO_CRITERION, None)]


def mean_rating(counts: list[int]) -> float | None:
    """The mean of how many answers were rated 1, 2, 3, 4 (and, last, not at all)."""
    rated = sum(counts[:TOP_RATING])
    return sum((i + 1) * n for i, n in enumerate(counts[:TOP_RATING])) / rated if rated else None
