"""Interaction: answers over several turns, each after the annotator's feedback on the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dress.base.progress import CurriculumProgress
from dress.base.seeding import rng_for, seed_for
from dress.config import Config, Data
from dress.data.shards import Sample
from dress.data.stream import open_split
from dress.evaluation.suites.answering import CHUNK, Asker
from dress.evaluation.suites.measures import Measure, Pair, Suite
from dress.evaluation.suites.outcome import SuiteOutcome, counted
from dress.evaluation.suites.output import finish
from dress.evaluation.suites.settings import Interaction
from dress.feedback.raters import build_rater, check_rater
from dress.rater import NoRater, Rater
from dress.record import TOP_RATING, Dialogue, Feedback, Turn
from dress.rollout.answers_file import FileResponder
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Opening, Rollout, converse
from dress.rollout.kinds import run_settings
from dress.rollout.responder import Responder
from dress.worlds.prepared import prepared


class AsksAgain(NoRater):
    """Nobody's feedback: it only asks again, in words that say nothing about the answer."""

    def __init__(self, words: str) -> None:
        self._words = words

    def rate(self, *arguments: Any, **more: Any) -> list[Feedback]:
        return [one.model_copy(update={"refinement": self._words}) for one in super().rate(*arguments, **more)]


def _measures(outcomes: Sequence[SuiteOutcome]) -> list[Measure]:
    turns = range(max((o.turn for o in outcomes if o.failed is None), default=0) + 1)
    return [
        *(_at(f"rating_turn_{t}", f"rating, turn {t}", t) for t in turns),
        *(_at(f"unsolved_turn_{t}", f"unsolved at first, turn {t}", t, unsolved=True) for t in turns),
        *(_at(f"latest_turn_{t}", f"latest rating after turn {t}", t, latest=True) for t in turns),
        Measure("improved_share", "answers rated higher than the one before", lambda o: _change(o, 1)),
        Measure("regressed_share", "answers rated lower than the one before", lambda o: _change(o, -1), up=False),
        Measure("top_lost_share", "answers rated lower after one rated 4",
                lambda o: _change(o, -1) if o.facts["before"] == TOP_RATING else None, up=False),
        *(_nll(key, name, up) for key, name, up in _NLL),
    ]  # fmt: skip


_NLL = (
    ("nll_true", "NLL per token of later answers, true history", False),
    ("nll_shuffled", "the same, history of another dialogue", None),
    ("nll_gap", "shuffled minus true", True),
)


def _at(key: str, name: str, turn: int, unsolved: bool = False, latest: bool = False) -> Measure:
    def of(outcome: SuiteOutcome) -> Pair | None:
        """`latest`: a dialogue that ended before counts with the answer that it ended with."""
        here = outcome.turn == turn or (latest and outcome.turn < turn and outcome.facts["last"])
        if not here or (unsolved and outcome.facts["first"] in (None, TOP_RATING)):
            return None
        return outcome.facts["rating"], 1

    return Measure(key, name, of, kind="mean", per_cent=False)


def _change(outcome: SuiteOutcome, sign: int) -> Pair | None:
    before = outcome.facts["before"]
    return None if before is None else (sign * (outcome.facts["rating"] - before) > 0, 1)


def _nll(key: str, name: str, up: bool | None) -> Measure:
    def of(outcome: SuiteOutcome) -> Pair | None:
        return None if outcome.facts.get(key) is None else (outcome.facts[key], 1)

    return Measure(key, name, of, kind="mean", up=up, per_cent=False)


def _told(outcomes: Sequence[SuiteOutcome]) -> dict[str, Any]:
    """Who annotated, and how many answers after another one there are, and rated lower than it."""
    changes = [change[0] for o in counted(outcomes) if (change := _change(o, -1)) is not None]
    who = {o.facts["annotator"] for o in outcomes if "annotator" in o.facts}
    told = {"later_answers": len(changes), "regressions": int(sum(changes))}
    return {"annotator": ", ".join(sorted(who)) or None, **told}


SUITE = Suite("interaction", _measures, _told)


@dataclass(frozen=True)
class _Held:
    """A dialogue that was held: its name, the sample, its turns, and the judge's feedback on each answer."""

    key: str
    sample: Sample
    dialogue: Dialogue
    ratings: list[Feedback]

    @property
    def answered(self) -> list[Turn]:
        return [turn for turn in self.dialogue.turns if turn.assistant is not None]


def run(settings: Interaction, console: Console) -> dict[str, Any]:
    """`suite=interaction`.

    Raises:
        FileNotFoundError, ValueError: no such responder or records, or a rater that cannot rate them.
    """
    for rater in (settings.annotator, settings.judge):
        check_rater(rater)
    out = Path(settings.out)
    asker = Asker(settings)
    responder = asker.responder or FileResponder(Path(settings.responder))
    annotator = build_rater(settings.annotator, out)
    if settings.annotator.kind == "none":
        annotator = AsksAgain(settings.again)
    # One and the same rater: its word as annotator is its word as judge.
    judge = None if settings.judge == settings.annotator else build_rater(settings.judge, out)
    outcomes: list[SuiteOutcome] = []
    with CurriculumProgress(console, {}) as progress:
        samples = _samples(settings, progress)
        dialogues = sum(len(record.dialogues) for record, _ in samples)
        for run_ in range(settings.runs if asker.repeats else 1):
            progress.start("interaction", dialogues * settings.turns)
            held = _hold(settings, asker, responder, annotator, judge, samples, run_, progress)
            progress.end()
            likelihood = _likelihood(settings, asker, responder, held, progress)
            for number, one in enumerate(held):
                outcomes += _outcomes(one, responder.name, annotator.name, likelihood[number], run_)
    if isinstance(responder, FileResponder):
        outcomes += [
            SuiteOutcome(f"line {row['line']}", "", f"answer: {row['reason']}", where=f"{responder.name}:{row['line']}")
            for row in responder.unused
        ]
    return finish(SUITE, outcomes, settings, console)


def _samples(settings: Interaction, progress: CurriculumProgress) -> list[Sample]:
    trained: Config | None = run_settings(settings.responder, settings)
    if settings.shards is not None:
        shards = open_split(settings.shards, ".", trained.data if trained else Data(path="."))
    elif trained is not None:
        folder = prepared(trained.data, lambda n: progress.start("shapes world", n), progress.advance)
        shards = open_split(trained.data.eval, folder, trained.data)
    else:
        raise ValueError(f"responder={settings.responder}: expected to be told whose questions are asked: shards=DIR")
    return [shards[i] for i in range(min(settings.records or len(shards), len(shards)))]


def _hold(
    settings: Interaction, asker: Asker, responder: Responder, annotator: Rater, judge: Rater | None,
    samples: Sequence[Sample], run_: int, progress: CurriculumProgress,
) -> list[_Held]:  # fmt: skip
    later = asker.conditions.get(settings.refine_condition, "")
    conditions = [asker.condition, *[later] * (settings.turns - 1)]
    found: list[_Held] = []
    for first in range(0, len(samples), CHUNK):
        some = samples[first : first + CHUNK]
        asked = [(i, dialogue) for i, (record, _) in enumerate(some) for dialogue in record.dialogues]
        names = [f"{record.key}/{n}" for record, _ in some for n in range(len(record.dialogues))]
        held = converse(
            Rollout(responder, annotator, asker.sampling, seed_for(run_, first)), some,
            [Opening(*one, conditions) for one in asked], answered=progress.advance,
        )  # fmt: skip
        parts = [(some[i], dialogue) for (i, _), dialogue in zip(asked, held, strict=True)]
        ratings = _ratings(judge, parts)
        found += [_Held(name, *part, rated) for name, part, rated in zip(names, parts, ratings, strict=True)]
    return found


def _ratings(judge: Rater | None, parts: Sequence[tuple[Sample, Dialogue]]) -> list[list[Feedback]]:
    """The judge's feedback on every answer; the annotator's own where they are one."""
    answered = [[turn for turn in dialogue.turns if turn.assistant is not None] for _, dialogue in parts]
    if judge is None:
        return [[turn.feedback[0] for turn in turns] for turns in answered]
    items, images = [], []
    for (sample, dialogue), turns in zip(parts, answered, strict=True):
        for number in range(len(turns)):
            items.append((sample[0], dialogue.model_copy(update={"turns": turns[: number + 1]})))
            images.append(sample[1])
    given = iter(judge.rate(items, images))
    return [[next(given) for _ in turns] for turns in answered]


def _outcomes(
    held: _Held, responder: str, annotator: str, likelihood: dict[int, dict[str, float]], run_: int
) -> list[SuiteOutcome]:
    turns, ratings = held.dialogue.turns, [given.rating for given in held.ratings]
    category = held.dialogue.criterion or ""
    found = []
    for number, turn in enumerate(turns):
        told: dict[str, Any] = {"annotator": annotator}
        common: dict[str, Any] = {"turn": number, "run": run_, "user": turn.user, "responder": responder}
        if turn.assistant is None:
            reason = f"responder: {turn.provenance.get('failed', 'no answer')}"
            found.append(SuiteOutcome(held.key, category, reason, told, **common))
            continue
        given = held.ratings[number]
        failed = "empty answer" if not turn.assistant.strip() else None
        if failed is None and given.rating is None:
            failed = f"judge: {given.extra.get('failed', 'no rating')}"
        facts = {
            **told, "rating": given.rating, "before": ratings[number - 1] if number else None, "first": ratings[0],
            "last": number == len(held.answered) - 1, "call": given.extra.get("call"), **likelihood.get(number, {}),
        }  # fmt: skip
        found.append(
            SuiteOutcome(
                held.key, category, failed, facts, answer=turn.assistant, judge=given.annotator,
                prompt=given.prompt_version, **common,
            )
        )  # fmt: skip
        gone = turn.feedback[0].extra.get("failed") if turn.feedback else None
        if gone is not None and number == len(turns) - 1:  # the next turn was to follow this feedback
            found.append(SuiteOutcome(held.key, category, f"annotator: {gone}", told, **{**common, "turn": number + 1}))
    return found


def _likelihood(
    settings: Interaction, asker: Asker, responder: Responder, held: Sequence[_Held], progress: CurriculumProgress
) -> list[dict[int, dict[str, float]]]:
    """For every dialogue and later turn: the answer's NLL after its own turns, and after another dialogue's.

    Question, image and answer stay; only the turns before are exchanged, for those of a dialogue over
    another image, of the same criterion where there is one. Only a model in memory can tell.
    """
    found: list[dict[int, dict[str, float]]] = [{} for _ in held]
    if not (settings.nll and isinstance(responder, CkptResponder)):
        return found
    from dress.evaluation.suites.likelihood import Said, answer_nll

    later = asker.conditions.get(settings.refine_condition, "")
    places, said = [], []
    for number, one in enumerate(held):
        record, image = one.sample
        pixels = None if image is None else responder.preprocess(image, record.key)
        for turn in range(1, len(one.answered)):
            donor = _donor(held, number, turn)
            if donor is None or not (one.answered[turn].assistant or "").strip():
                continue
            places.append((number, turn))
            said += [
                Said([*before[:turn], one.answered[turn]], later, pixels) for before in (one.answered, donor.answered)
            ]
    progress.start("likelihood", len(said))
    nll = answer_nll(responder.model, said, progress.advance)
    progress.end()
    for place, (number, turn) in enumerate(places):
        true, shuffled = nll[2 * place : 2 * place + 2]
        if true is not None and shuffled is not None and math.isfinite(true) and math.isfinite(shuffled):
            found[number][turn] = {"nll_true": true, "nll_shuffled": shuffled, "nll_gap": shuffled - true}
    return found


def _donor(held: Sequence[_Held], number: int, turns: int) -> _Held | None:
    """Another dialogue with so many answers, over another image; the same one every time."""
    one = held[number]
    others = [o for o in held if o.sample[0].key != one.sample[0].key and len(o.answered) >= turns]
    alike = [o for o in others if o.dialogue.criterion == one.dialogue.criterion]
    return rng_for("donor", one.key, turns).choice(alike or others) if others else None
