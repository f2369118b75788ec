"""Collection: the model answers, a rater judges, the model tries again with the advice as next turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from dress import config
from dress.data.images import open_image
from dress.data.shards import Sample, Shards, write_shards
from dress.dialogue.spans import Span
from dress.feedback.rater import Rater
from dress.model.generation import Prompt, generate
from dress.model.lvlm import LVLM
from dress.record import Dialogue, Feedback, Turn
from dress.seeding import seed_for


@dataclass(frozen=True)
class Sampling:
    """How a responder answers; temperature 0 is greedy."""

    max_new_tokens: int
    batch_size: int
    temperature: float = 0.0
    top_p: float = 1.0


class CkptResponder:
    """Answers with a model that is in memory.

    Args:
        model: the LVLM.
        name: what provenance calls it.
    """

    def __init__(self, model: LVLM, name: str) -> None:
        self.model, self.name = model, name

    def preprocess(self, image: Image.Image) -> Tensor:
        return self.model.vision.preprocess(image)

    def answer(
        self,
        dialogues: Sequence[Dialogue],
        image: Sequence[int | None],
        pixels: Sequence[Tensor],
        condition: str,
        sampling: Sampling,
        seed: int,
        progress: Callable[[int], None] = lambda n: None,
    ) -> list[str]:
        """An answer to the last turn of every dialogue.

        Args:
            dialogues: their last turn has no answer yet.
            image: index into `pixels` for each dialogue, or None.
            pixels: images [3, H, W].
            condition: text after the last user text; empty for none.
            sampling: greedy or sampled.
            seed: of the sampling.
            progress: called with the number of finished answers.
        """
        prompts = [Prompt(prompt_spans(d, condition), i) for d, i in zip(dialogues, image, strict=True)]
        return generate(
            self.model, prompts, pixels,
            max_new_tokens=sampling.max_new_tokens, batch_size=sampling.batch_size,
            temperature=sampling.temperature, top_p=sampling.top_p, seed=seed, progress=progress,
        )  # fmt: skip


def prompt_spans(dialogue: Dialogue, condition: str) -> tuple[Span, ...]:
    """History and the open user text; the condition follows the last user text only."""
    spans: list[Span] = []
    for turn in dialogue.turns:
        spans.append(Span("user", turn.user))
        if turn is not dialogue.turns[-1]:
            spans.append(Span("assistant", turn.assistant or ""))
    return (*spans, Span("condition", condition)) if condition else tuple(spans)


def converse(
    responder: CkptResponder,
    rater: Rater,
    samples: Sequence[Sample],
    dialogues: Sequence[tuple[int, Dialogue]],
    *,
    turns: int,
    conditions: Sequence[str],
    sampling: Sampling,
    seed: int,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Dialogue]:
    """Hold dialogues over several turns: answer, feedback, answer to the refinement …

    Args:
        responder: answers.
        rater: judges every answer; its refinement is the next user text.
        samples: records with image bytes.
        dialogues: (index into samples, dialogue whose first user text is asked).
        turns: answers per dialogue; it ends early where the rater gives no refinement.
        conditions: condition text of each turn.
        sampling: how answers are drawn.
        seed: of the sampling.
        progress: called with the number of finished answers.

    Returns:
        The dialogues with answers, feedback and provenance, in order.
    """
    pixels, place = _pixels(responder, samples)
    held = [dialogue.model_copy(update={"turns": [Turn(user=dialogue.turns[0].user)]}) for _, dialogue in dialogues]
    open_ = list(range(len(held)))
    for turn in range(turns):
        answers = responder.answer(
            [held[i] for i in open_],
            [place[dialogues[i][0]] for i in open_],
            pixels,
            conditions[turn],
            sampling,
            seed_for(seed, turn),
            progress,
        )
        for i, answer in zip(open_, answers, strict=True):
            held[i].turns[-1] = (
                held[i].turns[-1].model_copy(update={"assistant": answer, "provenance": {"responder": responder.name}})
            )
        feedback = rater.rate([(samples[dialogues[i][0]][0], held[i]) for i in open_])
        for i, given in zip(open_, feedback, strict=True):
            held[i].turns[-1].feedback.append(given)
        if turn + 1 < turns:
            open_ = [i for i, given in zip(open_, feedback, strict=True) if given.refinement]
            for i in open_:
                held[i].turns.append(Turn(user=_refinement(held[i].turns[-1].feedback)))
    return held


def collect(
    responder: CkptResponder,
    rater: Rater,
    prompts: Shards,
    folder: Path,
    stage: config.CollectStage,
    sampling: Sampling,
    seed: int,
    progress: Callable[[int], None] = lambda n: None,
) -> None:
    """Write `folder/shard-*.tar`: the prompts' records with the model's own answers and feedback on them.

    Goes on where an earlier call stopped: each shard is a fixed slice of the prompts with a seed of
    its own, so a shard that is there is the shard that would be written.
    """
    total = min(stage.records, len(prompts))
    for number, first in enumerate(range(0, total, stage.per_shard)):
        indices = range(first, min(first + stage.per_shard, total))
        if not (folder / f"shard-{number:06d}.tar").exists():
            samples = list(prompts.readable(indices))
            asked = [
                (position, dialogue)
                for position, (record, _) in enumerate(samples)
                for dialogue in record.dialogues
                for _ in range(stage.samples)
            ]
            held = converse(
                responder, rater, samples, asked,
                turns=stage.turns, conditions=[""] * stage.turns, sampling=sampling, seed=seed_for(seed, number),
            )  # fmt: skip
            write_shards(
                folder, _with_dialogues(samples, asked, held), stage.per_shard, start=number,
                features=stored_features(prompts, indices),
            )  # fmt: skip
        progress(len(indices))


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


def _pixels(responder: CkptResponder, samples: Sequence[Sample]) -> tuple[list[Tensor], list[int | None]]:
    pixels: list[Tensor] = []
    place: list[int | None] = []
    for record, image in samples:
        place.append(None if image is None else len(pixels))
        if image is not None:
            pixels.append(responder.preprocess(open_image(image, record.key)))
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
