"""Outcomes: one line per answer that was judged. Every figure is a pure function of this file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dress.data.shards import Sample
from dress.feedback.collect import CkptResponder, Sampling, converse
from dress.feedback.rater import Rater
from dress.files import read_lines, write_lines
from dress.record import Dialogue

KINDS = ("description", "question", "harmful", "harmless")


@dataclass(frozen=True)
class Outcome:
    """One answer of one model under one condition.

    `model` is sft or dress, `condition` none or praise; `item` names the dialogue among all, `turn`
    counts from 0. `facts` are the judge's (see feedback.rater.Rater.rate).
    """

    model: str
    condition: str
    item: str
    key: str
    criterion: str
    kind: str
    turn: int
    user: str
    answer: str
    rating: int | None
    critique: str | None
    refinement: str | None
    facts: dict[str, Any]


def kind_of(dialogue: Dialogue) -> str:
    """description, question, harmful or harmless; by criterion where the record does not say."""
    kind = dialogue.extra.get("request", {}).get("kind")
    if kind in KINDS:
        return kind
    return {"honesty": "description", "harmlessness": "harmful"}.get(dialogue.criterion or "", "question")


def evaluate(
    responder: CkptResponder,
    judge: Rater,
    samples: Sequence[Sample],
    *,
    model: str,
    condition: str,
    texts: Sequence[str],
    sampling: Sampling,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Outcome]:
    """Ask everything, judge, give the judge's refinement, ask again: one outcome per answer.

    Args:
        responder: the model.
        judge: rates every answer; its refinements drive the interaction.
        samples: held-out records with image bytes.
        model, condition: names in the outcomes.
        texts: condition text of each turn; their number is the number of turns.
        sampling: greedy, so that figures can be had again.
        progress: called with the number of finished answers.
    """
    asked = [(i, dialogue) for i, (record, _) in enumerate(samples) for dialogue in record.dialogues]
    held = converse(
        responder,
        judge,
        samples,
        asked,
        turns=len(texts),
        conditions=texts,
        sampling=sampling,
        seed=0,
        progress=progress,
    )
    outcomes = []
    for number, ((position, _), dialogue) in enumerate(zip(asked, held, strict=True)):
        key = samples[position][0].key
        for turn, said in enumerate(dialogue.turns):
            given = said.feedback[0]
            outcomes.append(
                Outcome(
                    model=model,
                    condition=condition,
                    item=f"{key}/{number}",
                    key=key,
                    criterion=dialogue.criterion or "",
                    kind=kind_of(dialogue),
                    turn=turn,
                    user=said.user,
                    answer=said.assistant or "",
                    rating=given.rating,
                    critique=given.critique,
                    refinement=given.refinement,
                    facts=given.extra,
                )
            )
    return outcomes


def save_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    write_lines(path, (asdict(outcome) for outcome in outcomes))


def load_outcomes(path: Path) -> list[Outcome]:
    return [Outcome(**row) for row in read_lines(path)]
