"""The cells of an evaluation: every model under every condition, each a file of outcomes, on one process or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

from dress import config
from dress.base.progress import Advance, ignore
from dress.base.ranks import rank, wait_for
from dress.data.shards import Sample
from dress.dialogue.image import Picture
from dress.evaluation import references
from dress.evaluation.likelihood import LastAnswer, image_use
from dress.evaluation.outcomes import Outcome, kind_of, load_outcomes, save_outcomes
from dress.feedback.collect import in_turn
from dress.feedback.llm import waits
from dress.llm.request import Stopped
from dress.rater import Rater
from dress.record import Dialogue
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Opening, Rollout, conversation
from dress.rollout.pipeline import Pipeline
from dress.rollout.responder import Responder, Sampling

RECORDS_PER_SHARE = 32
"""Many dialogues, of which those that fit are decoded together; the same for any number of ranks."""

Gather = Callable[[list[Outcome]], list[list[Outcome]]]
"""What this process has, to what all have that share the work; all of them call."""
ShareOut = Callable[[Responder, Callable[[int], None], int, Callable[[Gather], None]], None]
"""Who does which share of a work: called with who answers, the work on a share, their number, and what each that has
shares does after them."""
Answering = Callable[[], AbstractContextManager[Responder | None]]
"""How a responder is had; None on a rank that has no share in its answers."""


def alone(responder: Responder, work: Callable[[int], None], shares: int, finish: Callable[[Gather], None]) -> None:
    """Do every share in this process, whether the run has others or not."""
    in_turn(work, shares)
    finish(lambda mine: [mine])


@dataclass(frozen=True)
class Questions:
    """What every model of an evaluation is asked, and who judges.

    Args:
        samples: held-out records with image bytes.
        judge: rates every answer; its refinements drive the interaction.
        settings: conditions and turns.
        texts: of each model, condition name to its text.
        sampling: greedy, so that figures can be had again.
    """

    samples: Sequence[Sample]
    judge: Rater
    settings: config.Eval
    texts: Mapping[str, Mapping[str, str]]
    sampling: Sampling

    @property
    def dialogues(self) -> int:
        """How many one model has under one condition."""
        return sum(len(record.dialogues) for record, _ in self.samples)

    def files(self, folder: Path, model: str) -> dict[str, Path]:
        """Condition to the file of a model's outcomes."""
        return {condition: folder / f"{model}-{condition}.jsonl" for condition in self.settings.conditions}


def evaluate_models(
    models: Mapping[str, Answering], questions: Questions, folder: Path, *,
    share_out: ShareOut = alone, progress: Advance = ignore,
) -> list[Outcome]:  # fmt: skip
    """Evaluate on all ranks, or read what an earlier call already finished; the first rank writes.

    Args:
        models: label to how its responder is had; only called when a cell is missing.
        questions: what is asked.
        folder: holds `<model>-<condition>.jsonl`.
        share_out: does the shares.
        progress: called with the number of finished answers.

    Returns:
        All outcomes; only those that were not there before on ranks after the first.

    Raises:
        Interrupted: SIGINT or SIGTERM, where `share_out` says so.
    """
    outcomes: list[Outcome] = []
    for model, responder in models.items():
        files = questions.files(folder, model)
        missing = [condition for condition, file in files.items() if not file.exists()]
        if missing:
            with responder() as asked:
                new = [] if asked is None else _answered(asked, questions, (model, missing), share_out, progress)
                if asked is None:  # no rank goes on to what all do together while the first one asks a server
                    for condition in missing:
                        wait_for(files[condition])
            if rank() > 0:
                outcomes += new
                continue
            for condition in missing:
                save_outcomes(files[condition], [o for o in new if o.condition == condition])
        if rank() == 0:
            outcomes += [outcome for file in files.values() for outcome in load_outcomes(file)]
    return outcomes


def _answered(
    responder: Responder, questions: Questions, cells: tuple[str, Sequence[str]], share_out: ShareOut,
    progress: Advance,
) -> list[Outcome]:  # fmt: skip
    """The outcomes of one model under some conditions for all records, on every rank."""
    records, size = len(questions.samples), RECORDS_PER_SHARE
    mine, every = list[Outcome](), list[Outcome]()
    with Pipeline(questions.judge, partial(waits, questions.judge)) as pipeline:

        def answer(number: int) -> None:
            share = _Share(questions, cells, range(records)[number * size : (number + 1) * size])
            talk = conversation(share.rollout(responder), share.samples, share.openings, progress)
            pipeline.hold(talk, lambda dialogues: mine.extend(share.outcomes(dialogues, responder)))

        def finish(gather: Gather) -> None:
            pipeline.finish()
            every.extend(in_order(chain.from_iterable(gather(mine))))

        share_out(responder, answer, math.ceil(records / size), finish)
    return every


class _Share:
    """Some records of an evaluation.

    Args:
        questions: what is asked.
        cells: the model's label, and the conditions.
        records: numbers of the records.
    """

    def __init__(self, questions: Questions, cells: tuple[str, Sequence[str]], records: range) -> None:
        self._questions, self._model = questions, cells[0]
        settings, texts = questions.settings, questions.texts[self._model]
        later = [texts[settings.refine_condition]] * (settings.turns - 1)
        self._records = records
        self._before = [0, *accumulate(len(record.dialogues) for record, _ in questions.samples)][records.start]
        self.samples = [questions.samples[number] for number in records]
        self._dialogues = [
            (place, dialogue) for place, (record, _) in enumerate(self.samples) for dialogue in record.dialogues
        ]
        self._pairs = [(number, condition) for number in range(len(self._dialogues)) for condition in cells[1]]
        self.openings = [
            Opening(*self._dialogues[number], [texts[condition], *later]) for number, condition in self._pairs
        ]

    def rollout(self, responder: Responder) -> Rollout:
        """Who answers and who judges."""
        return Rollout(responder, self._questions.judge, self._questions.sampling)

    def outcomes(self, answered: Sequence[Dialogue], responder: Responder) -> list[Outcome]:
        """One for each answer of the dialogues.

        Raises:
            Stopped: a question got none.
        """
        if failed := [one.turns[-1].provenance for one in answered if one.turns[-1].assistant is None]:
            raise Stopped(
                f"{len(failed)} of {len(answered)} questions got no answer of {responder.name} "
                f"({failed[0]['failed']}), and figures would leave them out. "
                f"Ask them again: generation.server.retry_failed=true"
            )
        outcomes = []
        seen = self._image_use(answered, responder)
        for place_of_pair, ((number, condition), dialogue) in enumerate(zip(self._pairs, answered, strict=True)):
            key = self.samples[self._dialogues[number][0]][0].key
            known = references.known_answers(self._dialogues[number][1])
            for place, turn in enumerate(dialogue.turns):
                feedback, beside = turn.feedback[0], () if place else known
                facts = references.facts(turn.assistant or "", beside) if beside else {}
                facts |= seen.get(place_of_pair, {}) if place == 0 else {}
                outcomes.append(
                    Outcome(
                        self._model, condition, f"{key}/{self._before + number}", key, dialogue.criterion or "",
                        kind_of(dialogue), place, turn.user, turn.assistant or "", feedback.rating, feedback.critique,
                        feedback.refinement, {**feedback.extra, **facts}, reference="\n".join(beside) or None,
                    )
                )  # fmt: skip
        return outcomes

    def _image_use(self, answered: Sequence[Dialogue], responder: Responder) -> dict[int, dict[str, float]]:
        """Of first answers to the first records, by place; where the model is in memory."""
        most = self._questions.settings.blank_images - self._records.start
        if not isinstance(responder, CkptResponder) or most <= 0:
            return {}
        pictures: dict[int, Picture | None] = {}
        chosen: dict[int, LastAnswer] = {}
        for place, ((number, _), opening) in enumerate(zip(self._pairs, self.openings, strict=True)):
            sample = self._dialogues[number][0]
            record, image = self.samples[sample]
            if sample < most and image is not None:
                if sample not in pictures:
                    pictures[sample] = responder.preprocess(image, record.key)
                dialogue = answered[place]
                chosen[place] = LastAnswer(dialogue.turns[:1], opening.conditions[0], pictures[sample], dialogue.system)
        return dict(zip(chosen, image_use(responder.model, list(chosen.values())), strict=True))


def in_order(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Each once, sorted by model, condition, item and turn."""
    # The number of the dialogue among all stands at the end of the item.
    unique = {(o.model, o.condition, int(o.item.rpartition("/")[2]), o.turn): o for o in outcomes}
    return [unique[place] for place in sorted(unique)]
