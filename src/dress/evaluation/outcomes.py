"""Outcomes: one line per answer that was judged. Every figure is a pure function of this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dress.base.files import read_lines, write_lines
from dress.base.progress import Advance, ignore
from dress.data.shards import Sample
from dress.rater import Rater
from dress.record import Dialogue
from dress.rollout.conversation import Opening, Rollout, converse
from dress.rollout.responder import Responder, Sampling

KINDS = ("description", "question", "harmful", "harmless")


@dataclass(frozen=True)
class Outcome:
    """One answer of one model under one condition.

    `model` is its label (the stage that trained it), `condition` none or praise; `item` names the dialogue
    among all, `turn` counts from 0. `facts` are the judge's (see rater.Rater.rate).
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
    responder: Responder,
    judge: Rater,
    samples: Sequence[Sample],
    *,
    model: str,
    texts: Mapping[str, Sequence[str]],
    sampling: Sampling,
    first: int = 0,
    progress: Advance = ignore,
) -> list[Outcome]:
    """Ask everything, judge, give the judge's refinement, ask again: one outcome per answer.

    Conditions are asked side by side, so that a question and its image are read once for all of them.

    Args:
        responder: the model.
        judge: rates every answer; its refinements drive the interaction.
        samples: held-out records with image bytes.
        model: its name in the outcomes.
        texts: of each condition, by name, the text of each turn; their number is the number of turns.
        sampling: greedy, so that figures can be had again.
        first: number of the first dialogue among all, where these samples are a slice.
        progress: called with the number of finished answers.
    """
    questions = [(i, dialogue) for i, (record, _) in enumerate(samples) for dialogue in record.dialogues]
    asked = [(number, condition) for number in range(len(questions)) for condition in texts]
    openings = [Opening(*questions[number], texts[condition]) for number, condition in asked]
    held = converse(Rollout(responder, judge, sampling), samples, openings, answered=progress)
    outcomes = []
    for (number, condition), dialogue in zip(asked, held, strict=True):
        position, _ = questions[number]
        key = samples[position][0].key
        for turn, said in enumerate(dialogue.turns):
            given = said.feedback[0]
            outcomes.append(
                Outcome(
                    model=model,
                    condition=condition,
                    item=f"{key}/{first + number}",
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
