"""The text that the hermetic tokenizer is trained on: training text, and the annotator's words on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dress.data.shards import Shards
from dress.rater import Rater
from dress.record import Dialogue, Feedback, Record, Turn


def corpus(splits: Sequence[Shards], annotator: Rater, records: int) -> Iterator[str]:
    """Captions, questions, answers, and the feedback that the annotator would give to those answers.

    Args:
        splits: training shards; never the evaluation split.
        annotator: its critiques and refinements are read and written by the model later on.
        records: taken from the beginning of each split.
    """
    for shards in splits:
        for record, _ in shards.readable(range(min(len(shards), records))):
            yield from record.annotation.captions
            for dialogue in record.dialogues:
                for turn in dialogue.turns:
                    yield turn.user
                    if turn.assistant is not None:
                        yield turn.assistant
                        yield from _texts(turn.feedback)
                        yield from _feedback(record, dialogue, turn, annotator)


def _feedback(record: Record, dialogue: Dialogue, turn: Turn, annotator: Rater) -> Iterator[str]:
    first = dialogue.turns[0].model_copy(update={"assistant": turn.assistant})
    yield from _texts(annotator.rate([(record, dialogue.model_copy(update={"turns": [first]}))]))


def _texts(feedback: Iterable[Feedback]) -> Iterator[str]:
    for one in feedback:
        yield from (text for text in (one.critique, one.refinement) if text)
