"""Collection: the model answers, a rater judges, the model tries again with the advice as next turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dress import config
from dress.base.seeding import seed_for
from dress.data.images import MAX_ASPECT, open_image
from dress.data.index_file import INDEX
from dress.data.shards import Sample, Shards, write_shards
from dress.dialogue.spans import Completion, prompt
from dress.feedback.failures import settled
from dress.feedback.rater import Progress, Rater, ignore
from dress.model.generation import Prompt, check_new_tokens, generate
from dress.model.lvlm import LVLM
from dress.model.session import ImageTokens, SamplingParams, Session
from dress.record import CUT, Dialogue, Feedback, Record, RecordError, Turn
from dress.rollout.responders import Holds, NoAnswer, Responder, Sampling
from dress.sources.lvlm_nlf import KEPT


class CkptResponder:
    """Answers with a model that is in memory.

    Args:
        model: the LVLM.
        name: what provenance calls it.
        keep_cache: go on from the keys and values of the turn before (`auto`: where they fit into
            memory), or read every prompt from its beginning.
        max_aspect: longer side ÷ shorter side of an image, at most.
    """

    def __init__(
        self, model: LVLM, name: str, keep_cache: Literal["auto", "on", "off"] = "auto", max_aspect: float = MAX_ASPECT
    ) -> None:
        self.model, self.name, self._keep, self._max_aspect = model, name, keep_cache, max_aspect
        self._session: Session | None = None

    def preprocess(self, data: bytes, where: str) -> Tensor:
        """Pixels [3, H, W].

        Raises:
            RecordError: the image does not decode, or is too narrow.
        """
        return self.model.vision.preprocess(open_image(data, where, self._max_aspect))

    def answer(
        self,
        records: Sequence[Record],
        dialogues: Sequence[Dialogue],
        image: Sequence[int | None],
        pixels: Sequence[Tensor],
        conditions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int], None] = lambda n: None,
    ) -> list[Completion]:
        """See `Responder.answer`; inside of `hold`, dialogues that were answered before are not read again.

        Raises:
            RecordError: a system text, and the model's chat format has no place for one.
            ValueError: answers may be longer than the language model has positions.
        """
        check_new_tokens(self.model, sampling.max_new_tokens)
        chat = self.model.encoder.chat
        for record, dialogue in zip(records, dialogues, strict=True):
            if dialogue.system and chat.system_open is None:
                raise RecordError(
                    f"{record.key}: system: expected none, since model.language.chat={chat.name} has no place for it, "
                    f"got {dialogue.system!r:.80}"
                )
        prompts = [
            Prompt(tuple(prompt(dialogue, condition=condition)), place)
            for dialogue, condition, place in zip(dialogues, conditions, image, strict=True)
        ]
        drawing = SamplingParams(sampling.max_new_tokens, sampling.temperature, sampling.top_p)
        if self._session is not None:
            keys, images, auto = (
                [id(dialogue) for dialogue in dialogues],
                ImageTokens(self.model, pixels),
                self._keep == "auto",
            )
            out = self._session.answer(prompts, keys, images, drawing, seeds, if_fits=auto)
            if out is not None:
                progress(len(out))
                return [self.model.encoder.decode(tokens) for tokens in out]
            self._session = None
        return generate(
            self.model, prompts, pixels,
            max_new_tokens=sampling.max_new_tokens, batch_size=sampling.batch_size,
            temperature=sampling.temperature, top_p=sampling.top_p, seed=seeds, progress=progress,
        )  # fmt: skip

    def hold(self, dialogues: int, sampling: Sampling) -> Iterator[range]:
        """See `Holds.hold`: as many as are decoded together. The model's weights must stay as they are meanwhile."""
        if self._keep == "off":
            yield range(dialogues)
            return
        self._session = Session(self.model)
        try:
            for first in range(0, dialogues, sampling.batch_size):
                yield range(first, min(first + sampling.batch_size, dialogues))
        finally:
            self._session = None


def converse(
    responder: Responder,
    rater: Rater,
    samples: Sequence[Sample],
    dialogues: Sequence[tuple[int, Dialogue]],
    *,
    conditions: Sequence[Sequence[str]],
    sampling: Sampling,
    seed: int,
    progress: Callable[[int], None] = lambda n: None,
    judged: Progress = ignore,
) -> list[Dialogue]:
    """Hold dialogues over several turns: answer, feedback, answer to the refinement …

    Args:
        responder: answers.
        rater: judges every answer; its refinement is the next user text.
        samples: records with image bytes.
        dialogues: (index into samples, dialogue whose first user text is asked). Those of one record
            should follow one another: they share what is read of the image.
        conditions: condition text of each turn, for each dialogue; a dialogue has as many turns, fewer
            where the rater gives no refinement.
        sampling: how answers are drawn.
        seed: of the sampling.
        progress: called with the number of finished answers.
        judged: called with the number of judged answers.

    Returns:
        The dialogues with answers, feedback and provenance, in order. Where no answer could be had, the
        last turn has none, and its provenance says why (`failed`, `call`).
    """
    pixels, place = _pixels(responder, samples)
    held = [_asked(dialogue) for _, dialogue in dialogues]
    groups = responder.hold(len(held), sampling) if isinstance(responder, Holds) else [range(len(held))]
    for group in groups:
        open_, turn = list(group), 0
        while open_:
            answers = responder.answer(
                [samples[dialogues[i][0]][0] for i in open_],
                [held[i] for i in open_],
                [place[dialogues[i][0]] for i in open_],
                pixels,
                [conditions[i][turn] for i in open_],
                sampling,
                [seed_for(seed, turn, i) for i in open_],
                progress,
            )
            for i, said in zip(open_, answers, strict=True):
                held[i].turns[-1] = held[i].turns[-1].model_copy(update=_answered(said, responder.name))
            open_ = [i for i, said in zip(open_, answers, strict=True) if isinstance(said, str)]
            feedback = rater.rate(
                [(samples[dialogues[i][0]][0], held[i]) for i in open_],
                [samples[dialogues[i][0]][1] for i in open_],
                judged,
            )
            for i, given in zip(open_, feedback, strict=True):
                held[i].turns[-1].feedback.append(given)
            turn += 1
            open_ = [
                i for i, given in zip(open_, feedback, strict=True) if given.refinement and turn < len(conditions[i])
            ]
            for i in open_:
                held[i].turns.append(Turn(user=_refinement(held[i].turns[-1].feedback)))
    return held


def _asked(dialogue: Dialogue) -> Dialogue:
    """Its first question, without what an importer kept of the published row: that is about other answers."""
    extra = {name: value for name, value in dialogue.extra.items() if name != KEPT}
    return dialogue.model_copy(update={"turns": [Turn(user=dialogue.turns[0].user)], "extra": extra})


def _answered(given: str | NoAnswer, responder: str) -> dict[str, Any]:
    """The fields of a turn that the answer fills."""
    if isinstance(given, str):
        ended = getattr(given, "finish_reason", None)
        end = {} if ended is None else {"finish_reason": ended}
        return {"assistant": str(given), "provenance": {"responder": responder, **end}}
    call = {} if given.call is None else {"call": given.call}
    return {"provenance": {"responder": responder, "failed": given.reason, **call}}


def slices(prompts: Shards, stage: config.CollectSettings) -> list[range]:
    """Which records make which shard."""
    total = min(stage.records, len(prompts))
    return [range(first, min(first + stage.per_shard, total)) for first in range(0, total, stage.per_shard)]


def hold_slice(
    responder: Responder,
    rater: Rater,
    samples: Sequence[Sample],
    stage: config.CollectSettings,
    sampling: Sampling,
    seed: int,
    judged: Progress = ignore,
    answered: Callable[[int], None] = lambda n: None,
) -> list[Sample]:
    """The records of one shard with the dialogues that were held over them.

    Args:
        responder, rater: as in `converse`.
        samples: the records, whose dialogues' first questions are asked.
        stage: turns, and samples per question.
        sampling: how answers are drawn.
        seed: of the sampling.
        judged: called with the number of judged answers.
        answered: called with the number of answers.
    """
    asked = [
        (position, dialogue)
        for position, (record, _) in enumerate(samples)
        for dialogue in record.dialogues
        for _ in range(stage.samples)
    ]
    held = converse(
        responder, rater, samples, asked,
        conditions=[[sampling.condition] * stage.turns] * len(asked), sampling=sampling, seed=seed,
        progress=answered, judged=judged,
    )  # fmt: skip
    return _with_dialogues(samples, asked, held)


def in_turn(work: Callable[[int], None], shares: int) -> None:
    """Do every share of a work in this process."""
    for number in range(shares):
        work(number)


ShareOut = Callable[[Callable[[int], None], int], None]
"""Who does which share of a work: this process alone (`in_turn`), or all ranks of a run."""


def collect(
    responder: Responder,
    rater: Rater,
    prompts: Shards,
    folder: Path,
    stage: config.CollectSettings,
    sampling: Sampling,
    seed: int,
    progress: Progress = ignore,
    anew: bool = False,
    share_out: ShareOut = in_turn,
) -> list[dict[str, Any]]:
    """Write `folder/shard-*.tar`: the prompts' records with the responder's answers and feedback on them.

    Goes on where an earlier call stopped: each shard is a fixed slice of the prompts with a seed of
    its own, so a shard that is there is the shard that would be written.

    Args:
        responder, rater: as in `converse`.
        prompts: whose questions are asked.
        folder: of the shards.
        stage: how many records, turns, samples.
        sampling: how answers are drawn.
        seed: of the sampling.
        progress: called with the number of finished records.
        anew: write shards that are there once more, each in the place of the old one.
        share_out: does the shards; each is written whole by one process.

    Returns:
        What failed in the shards that this process wrote: a row for each answer or feedback that could not be had.
    """
    failed: list[dict[str, Any]] = []
    if anew:
        (folder / INDEX).unlink(missing_ok=True)  # it tells of the old shards
    parts = slices(prompts, stage)

    def write(number: int) -> None:
        indices = parts[number]
        if anew or not (folder / f"shard-{number:06d}.tar").exists():
            samples = list(prompts.readable(indices))
            held = hold_slice(responder, rater, samples, stage, sampling, seed_for(seed, number))
            whole, rows = settled(held)
            failed.extend(rows)
            features = stored_features(prompts, indices)
            if not write_shards(folder, whole, stage.per_shard, start=number, features=features):
                (folder / f"shard-{number:06d}.tar").unlink(missing_ok=True)
        progress(len(indices), "")

    share_out(write, len(parts))
    return failed


def stored_features(prompts: Shards, indices: Iterable[int]) -> dict[str, bytes]:
    """The vision features of the prompts that have some, by key: they go with the answers, as the images do."""
    return {key: data for key, data in map(prompts.features_file, indices) if data is not None}


def _with_dialogues(
    samples: Sequence[Sample], asked: Sequence[tuple[int, Dialogue]], held: Sequence[Dialogue]
) -> list[Sample]:
    by_record: dict[int, list[Dialogue]] = {}
    for (position, _), dialogue in zip(asked, held, strict=True):
        by_record.setdefault(position, []).append(dialogue)
    return [
        (record.model_copy(update={"dialogues": by_record[position]}), image)
        for position, (record, image) in enumerate(samples)
        if position in by_record
    ]


def _pixels(responder: Responder, samples: Sequence[Sample]) -> tuple[list[Any], list[int | None]]:
    pixels: list[Any] = []
    place: list[int | None] = []
    for record, image in samples:
        place.append(None if image is None else len(pixels))
        if image is not None:
            pixels.append(responder.preprocess(image, record.key))
    return pixels, place


def _refinement(feedback: Sequence[Feedback]) -> str:
    return next(given.refinement for given in feedback if given.refinement)


def ratings_table(shards: Shards) -> dict[str, dict[str, list[int]]]:
    """criterion -> turn -> how many answers were rated 1, 2, 3, 4 (and, last, not at all)."""
    table: dict[str, dict[str, list[int]]] = {}
    for record, _ in shards:
        for dialogue in record.dialogues:
            for number, turn in enumerate(dialogue.turns):
                row = table.setdefault(dialogue.criterion or "none", {}).setdefault(str(number), [0] * 5)
                row[(turn.rating or 5) - 1] += 1
    return {criterion: dict(sorted(turns.items())) for criterion, turns in sorted(table.items())}


def endings_table(shards: Shards) -> dict[str, dict[str, dict[str, int]]]:
    """criterion -> turn -> how many answers there are, how many of them were cut, of how many nobody knows."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for record, _ in shards:
        for dialogue in record.dialogues:
            for number, turn in enumerate(dialogue.turns):
                turns = table.setdefault(dialogue.criterion or "none", {})
                row = turns.setdefault(str(number), {"answers": 0, CUT: 0, "unknown": 0})
                row["answers"] += turn.assistant is not None
                row[CUT] += turn.assistant is not None and turn.cut
                row["unknown"] += turn.assistant is not None and turn.provenance.get("finish_reason") is None
    return {criterion: dict(sorted(turns.items())) for criterion, turns in sorted(table.items())}
