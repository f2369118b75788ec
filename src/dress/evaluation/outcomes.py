"""Outcomes: one line per answer, whether it is counted or not. Every figure is a pure function of these lines.

What cannot be counted is a line too: it names the reason, so that no figure is computed over a silent remainder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dress.base.files import read_lines, write_lines
from dress.record import Dialogue

KINDS = ("description", "question", "harmful", "harmless")


@dataclass(frozen=True)
class Outcome:
    """One answer, or why there is none.

    `item` names the sample: two evaluations are paired by it, and of two outcomes of one item (model, condition, turn
    and run) one counts. `key` is its record's: samples of one record are no independent ones. `failed` says why the
    outcome is in no figure; `facts` are what figures are sums of, `rating`, `critique` and `refinement` the judge's
    feedback.

    A run's models: `model` is the label and `condition` none or praise; `kind` is one of KINDS; `reference` is what is
    known to be a good answer (several: a line each). A suite: `category`
    has a column of its own, `run` counts repetitions, `responder`, `judge` and `prompt` (name and hash) say who
    answered and judged, `where` is the place in the file that was read.
    """

    model: str = ""
    condition: str = ""
    item: str = ""
    key: str = ""
    criterion: str = ""
    kind: str = ""
    turn: int = 0
    user: str | None = None
    answer: str | None = None
    rating: int | None = None
    critique: str | None = None
    refinement: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    category: str = ""
    failed: str | None = None
    run: int = 0
    responder: str | None = None
    judge: str | None = None
    prompt: str | None = None
    where: str | None = None
    reference: str | None = None

    @property
    def cluster(self) -> str:
        """The record; the item itself where none is known."""
        return self.key or self.item

    def line(self) -> dict[str, Any]:
        """As `outcomes.jsonl` has it: without empty fields, but a model's outcome has all up to `facts`."""
        names = list(_DEFAULTS)
        always = names[: names.index("facts") + 1] if self.model else ("item", "user", "answer", "facts")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if name in always or value != _DEFAULTS[name]}


_DEFAULTS = {f.name: None if f.default is MISSING else f.default for f in fields(Outcome)}


def kind_of(dialogue: Dialogue) -> str:
    """One of KINDS: what the record says, else by criterion."""
    kind = dialogue.extra.get("request", {}).get("kind")
    if kind in KINDS:
        return kind
    return {"honesty": "description", "harmlessness": "harmful"}.get(dialogue.criterion or "", "question")


def save_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write JSON lines, atomically."""
    write_lines(path, (outcome.line() for outcome in outcomes))


def load_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of a run or a suite, of any version.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is no outcome; names file and line.
    """
    outcomes = []
    for number, row in enumerate(read_lines(path), start=1):
        try:
            if "item" not in row:  # suites of 0.1 called it `key`, and knew no record
                row["item"] = row.pop("key")
            outcomes.append(Outcome(**row))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}:{number}: expected an outcome, got {row!r:.80} ({error})") from None
    return outcomes


def counted(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those without a failure, one of each item, turn and run: the first."""
    first: dict[tuple[str, int, int], Outcome] = {}
    for outcome in outcomes:
        if outcome.failed is None:
            first.setdefault((outcome.item, outcome.turn, outcome.run), outcome)
    return list(first.values())


def once(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The same outcomes; of those of one item, model, condition, turn and run only the first is counted."""
    seen: set[tuple[Any, ...]] = set()
    checked = []
    for one in outcomes:
        place = (one.item, one.model, one.condition, one.turn, one.run)
        checked.append(replace(one, failed="given again") if one.failed is None and place in seen else one)
        seen |= {place} if one.failed is None else set()
    return checked


def failures(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    reasons = Counter(outcome.failed for outcome in outcomes if outcome.failed is not None)
    return dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
