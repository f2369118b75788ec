"""The outcome of a suite: one line per sample (and turn, and run), whether it is counted or not.

Every figure of `suite.json` is a pure function of these lines. What cannot be counted is a line too:
it names the reason, so that no figure is computed over a silent remainder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dress.base.files import read_lines, write_lines


@dataclass(frozen=True)
class SuiteOutcome:
    """One judged sample.

    `key` names the sample: two outputs are paired by it, and of two outcomes of one sample (key, turn
    and run) one counts. `failed` says why it is in no figure. `facts` are what figures are sums of.
    `judge` and `prompt` (name and hash) say who judged; `where` is the place in the file that was read.
    """

    key: str
    category: str = ""
    failed: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    turn: int = 0
    run: int = 0
    user: str | None = None
    answer: str | None = None
    responder: str | None = None
    judge: str | None = None
    prompt: str | None = None
    where: str | None = None


def save(path: Path, outcomes: Sequence[SuiteOutcome]) -> None:
    write_lines(path, (asdict(outcome) for outcome in outcomes))


def load(path: Path) -> list[SuiteOutcome]:
    """Raises ValueError naming file and line where one is damaged, FileNotFoundError where there is none."""
    rows = []
    for number, row in enumerate(read_lines(path), start=1):
        try:
            rows.append(SuiteOutcome(**row))
        except TypeError as error:
            raise ValueError(f"{path}:{number}: expected an outcome of a suite, got {row!r:.80} ({error})") from None
    return rows


def counted(outcomes: Iterable[SuiteOutcome]) -> list[SuiteOutcome]:
    """Those without a failure, one of each sample, turn and run: the first."""
    kept: dict[tuple[str, int, int], SuiteOutcome] = {}
    for outcome in outcomes:
        if outcome.failed is None:
            kept.setdefault((outcome.key, outcome.turn, outcome.run), outcome)
    return list(kept.values())


def failures(outcomes: Iterable[SuiteOutcome]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    found = Counter(outcome.failed for outcome in outcomes if outcome.failed is not None)
    return {reason: number for reason, number in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))}
