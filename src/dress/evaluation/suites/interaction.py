"""Interaction: answers over several turns, each after the annotator's feedback on the one before."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import StrictBool
from rich.console import Console

from dress.base.progress import CurriculumProgress
from dress.base.seeding import rng_for, seed_for
from dress.config import Config, Data, Positive
from dress.config.inherited import inherited
from dress.config.raters import RaterSettings
from dress.evaluation.answers import CHUNK, Asker
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, counted
from dress.evaluation.settings import Judged
from dress.evaluation.suite import suite
from dress.feedback.raters import build_rater, check_rater
from dress.rater import NoRater, Rater
from dress.record import TOP_RATING, Dialogue, Feedback, Turn
from dress.rollout.answers_file import FileResponder
from dress.rollout.kinds import run_settings
from dress.rollout.responder import Responder

if TYPE_CHECKING:
    from dress.data.shards import Sample


class Interaction(Judged):
    """Answers over several turns, each after feedback on the one before."""

    shards: str | None = None  # a folder of shards whose questions are asked; null = a run's own eval split
    records: Positive | None = None  # from the first; null = all
    turns: Positive = 3  # answers per dialogue
    refine_condition: str = "none"  # from the second answer on
    annotator: RaterSettings  # whose feedback the next answer follows
    again: str = "Please answer again."  # what annotator=none says: the next turn without any feedback
    nll: StrictBool = True  # of a run: answers' NLL after their own turns and after another dialogue's


class AsksAgain(NoRater):
    """Nobody's feedback: it only asks again, in words that say nothing about the answer.

    Args:
        words: of the next user turn.
    """

    def __init__(self, words: str) -> None:
        self._words = words

    def rate(self, *arguments: Any, **more: Any) -> list[Feedback]:
        """Feedback whose refinement are the words."""
        return [one.model_copy(update={"refinement": self._words}) for one in super().rate(*arguments, **more)]


def _measures(outcomes: Sequence[Outcome]) -> list[Measure]:
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
    def of(outcome: Outcome) -> tuple[float, float] | None:
        """`latest`: a dialogue that ended before counts with the answer that it ended with."""
        here = outcome.turn == turn or (latest and outcome.turn < turn and outcome.facts["last"])
        if not here or (unsolved and outcome.facts["first"] in (None, TOP_RATING)):
            return None
        return outcome.facts["rating"], 1

    return Measure(key, name, of, kind="mean")


def _change(outcome: Outcome, sign: int) -> tuple[float, float] | None:
    before = outcome.facts["before"]
    return None if before is None else (sign * (outcome.facts["rating"] - before) > 0, 1)


def _nll(key: str, name: str, up: bool | None) -> Measure:
    def of(outcome: Outcome) -> tuple[float, float] | None:
        return None if outcome.facts.get(key) is None else (outcome.facts[key], 1)

    return Measure(key, name, of, kind="mean", up=up)


def _details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Who annotated, and how many answers after another one there are, and rated lower than it."""
    changes = [change[0] for o in counted(outcomes) if (change := _change(o, -1)) is not None]
    who = {o.facts["annotator"] for o in outcomes if "annotator" in o.facts}
    return {
        "annotator": ", ".join(sorted(who)) or None, "later_answers": len(changes), "regressions": int(sum(changes))
    }  # fmt: skip


@dataclass(frozen=True)
class _Conversation:
    """A finished dialogue: its name, the sample, its turns, and the judge's feedback on each answer."""

    item: str
    sample: Sample
    dialogue: Dialogue
    ratings: list[Feedback]

    @property
    def answered(self) -> list[Turn]:
        return [turn for turn in self.dialogue.turns if turn.assistant is not None]


def _pictures(settings: Interaction, keys: Collection[str]) -> dict[str, bytes]:
    with CurriculumProgress(Console(quiet=True), {}) as progress:
        samples = _samples(settings, progress)
    return {record.key: image for record, image in samples if image is not None and record.key in keys}


@suite("interaction", Interaction, measures=_measures, more=_details, pictures=_pictures)
def interaction(settings: Interaction, console: Console) -> list[Outcome]:
    """Every answer of every dialogue, rated.

    Raises:
        FileNotFoundError, ValueError: no such responder or records, or a rater that cannot rate them.
    """
    run = run_settings(settings.responder, settings)
    annotator, judge = inherited("annotator", settings.annotator, run), inherited("judge", settings.judge, run)
    settings = settings.model_copy(update={"annotator": annotator, "judge": judge})
    for rater in (settings.annotator, settings.judge):
        check_rater(rater)
    parties = _Parties(settings)
    outcomes: list[Outcome] = []
    with CurriculumProgress(console, {}) as progress:
        samples = _samples(settings, progress)
        dialogues = sum(len(record.dialogues) for record, _ in samples)
        for number in range(settings.runs if parties.asker.repeats else 1):
            progress.start("interaction", dialogues * settings.turns)
            conversations = list(parties.converse(samples, number, progress))
            progress.end()
            likelihood = _likelihood(parties, conversations, progress)
            for one, of_turns in zip(conversations, likelihood, strict=True):
                outcomes += _outcomes(parties, one, of_turns, number)
    if isinstance(parties.responder, FileResponder):
        if (there := parties.responder.unmatched) is not None:
            wanted = ", ".join(repr(record.key) for record, _ in samples[:3])
            raise ValueError(
                f"responder={settings.responder}: none of its rows answers one of the questions (n = 0): looked for "
                f"the keys (or images) {wanted} …; the rows are of {there}"
            )
        outcomes += [
            Outcome(
                item=f"line {row['line']}", failed=f"answer: {row['reason']}",
                where=f"{parties.responder.name}:{row['line']}",
            )
            for row in parties.responder.unused
        ]  # fmt: skip
    return outcomes


def _samples(settings: Interaction, progress: CurriculumProgress) -> list[Sample]:
    from dress.data.stream import open_split
    from dress.worlds.prepared import prepared

    trained: Config | None = run_settings(settings.responder, settings)
    if settings.shards is not None:
        shards = open_split(settings.shards, ".", trained.data if trained else Data(path="."))
    elif trained is not None:
        folder = prepared(trained.data, lambda n: progress.start("shapes world", n), progress.advance)
        shards = open_split(trained.data.eval, folder, trained.data)
    else:
        raise ValueError(f"responder={settings.responder}: expected to be told whose questions are asked: shards=DIR")
    return [shards[i] for i in range(min(settings.records or len(shards), len(shards)))]


class _Parties:
    """Who answers, who gives feedback, and who judges (None: the annotator's word is the judge's)."""

    def __init__(self, settings: Interaction) -> None:
        out = Path(settings.out)
        self.settings, self.asker = settings, Asker(settings)
        self.responder: Responder = self.asker.responder or FileResponder(Path(settings.responder))
        self.annotator: Rater = build_rater(settings.annotator, out)
        if settings.annotator.kind == "none":
            self.annotator = AsksAgain(settings.again)
        self.judge = None if settings.judge == settings.annotator else build_rater(settings.judge, out)
        self.later = self.asker.conditions.get(settings.refine_condition, "")

    def converse(self, samples: Sequence[Sample], number: int, progress: CurriculumProgress) -> Iterator[_Conversation]:
        """All dialogues of one run."""
        from dress.rollout.conversation import Opening, Rollout, converse

        conditions = [self.asker.condition, *[self.later] * (self.settings.turns - 1)]
        for first in range(0, len(samples), CHUNK):
            some = samples[first : first + CHUNK]
            asked = [(i, dialogue) for i, (record, _) in enumerate(some) for dialogue in record.dialogues]
            items = [f"{record.key}/{n}" for record, _ in some for n in range(len(record.dialogues))]
            dialogues = converse(
                Rollout(self.responder, self.annotator, self.asker.sampling, seed_for(number, first)), some,
                [Opening(*one, conditions) for one in asked], answered=progress.advance,
            )  # fmt: skip
            parts = [(some[i], dialogue) for (i, _), dialogue in zip(asked, dialogues, strict=True)]
            for item, part, ratings in zip(items, parts, self._ratings(parts), strict=True):
                yield _Conversation(item, *part, ratings)

    def _ratings(self, parts: Sequence[tuple[Sample, Dialogue]]) -> list[list[Feedback]]:
        """The judge's feedback on every answer; the annotator's own where they are one."""
        answered = [[turn for turn in dialogue.turns if turn.assistant is not None] for _, dialogue in parts]
        if self.judge is None:
            return [[turn.feedback[0] for turn in turns] for turns in answered]
        records, images = [], []
        for (sample, dialogue), turns in zip(parts, answered, strict=True):
            for number in range(len(turns)):
                records.append((sample[0], dialogue.model_copy(update={"turns": turns[: number + 1]})))
                images.append(sample[1])
        feedback = iter(self.judge.rate(records, images))
        return [[next(feedback) for _ in turns] for turns in answered]


def _outcomes(
    parties: _Parties, conversation: _Conversation, likelihood: dict[int, dict[str, float]], run: int
) -> list[Outcome]:
    turns, ratings = conversation.dialogue.turns, [feedback.rating for feedback in conversation.ratings]
    annotator = {"annotator": parties.annotator.name}
    outcomes = []
    for number, turn in enumerate(turns):
        common: dict[str, Any] = {
            "item": conversation.item, "key": conversation.sample[0].key, "run": run, "user": turn.user,
            "category": conversation.dialogue.criterion or "", "responder": parties.responder.name,
        }  # fmt: skip
        if turn.assistant is None:
            reason = f"responder: {turn.provenance.get('failed', 'no answer')}"
            outcomes.append(Outcome(turn=number, failed=reason, facts=annotator, **common))
            continue
        feedback = conversation.ratings[number]
        failed = "empty answer" if not turn.assistant.strip() else None
        if failed is None and feedback.rating is None:
            failed = f"judge: {feedback.extra.get('failed', 'no rating')}"
        facts = {
            **annotator, "rating": feedback.rating, "before": ratings[number - 1] if number else None,
            "first": ratings[0], "last": number == len(conversation.answered) - 1, "call": feedback.extra.get("call"),
            **likelihood.get(number, {}),
        }  # fmt: skip
        outcomes.append(
            Outcome(
                turn=number, failed=failed, facts=facts, answer=turn.assistant, judge=feedback.annotator,
                prompt=feedback.prompt_version, rating=feedback.rating, critique=feedback.critique,
                reference=conversation.dialogue.reference, **common,
            )
        )  # fmt: skip
        lost = turn.feedback[0].extra.get("failed") if turn.feedback else None
        if lost is not None and number == len(turns) - 1:  # the next turn was to follow this feedback
            outcomes.append(Outcome(turn=number + 1, failed=f"annotator: {lost}", facts=annotator, **common))
    return outcomes


def _likelihood(
    parties: _Parties, conversations: Sequence[_Conversation], progress: CurriculumProgress
) -> list[dict[int, dict[str, float]]]:
    """For every dialogue and later turn: the answer's NLL after its own turns, and after another dialogue's.

    Question, image and answer stay; only the turns before are exchanged, for those of a dialogue over
    another image, of the same criterion where there is one. Only a model in memory can tell.
    """
    by_turn: list[dict[int, dict[str, float]]] = [{} for _ in conversations]
    if not (parties.settings.nll and parties.asker.kind == "checkpoint"):
        return by_turn
    from dress.evaluation.likelihood import LastAnswer, answer_nll
    from dress.rollout.checkpoint import CkptResponder

    assert isinstance(parties.responder, CkptResponder)
    places, answers = [], []
    for number, one in enumerate(conversations):
        record, image = one.sample
        pixels = None if image is None else parties.responder.preprocess(image, record.key)
        for turn in range(1, len(one.answered)):
            donor = _donor(conversations, number, turn)
            if donor is None or not (one.answered[turn].assistant or "").strip():
                continue
            places.append((number, turn))
            answers += [
                LastAnswer([*before[:turn], one.answered[turn]], parties.later, pixels)
                for before in (one.answered, donor.answered)
            ]
    progress.start("likelihood", len(answers))
    nll = answer_nll(parties.responder.model, answers, progress.advance)
    progress.end()
    for place, (number, turn) in enumerate(places):
        true, shuffled = nll[2 * place : 2 * place + 2]
        if true is not None and shuffled is not None and math.isfinite(true) and math.isfinite(shuffled):
            by_turn[number][turn] = {"nll_true": true, "nll_shuffled": shuffled, "nll_gap": shuffled - true}
    return by_turn


def _donor(conversations: Sequence[_Conversation], number: int, turns: int) -> _Conversation | None:
    """Another dialogue with so many answers, over another image; the same one every time."""
    one = conversations[number]
    others = [o for o in conversations if o.sample[0].key != one.sample[0].key and len(o.answered) >= turns]
    alike = [o for o in others if o.dialogue.criterion == one.dialogue.criterion]
    return rng_for("donor", one.item, turns).choice(alike or others) if others else None
