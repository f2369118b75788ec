"""What people go through one after another: questions of a set, or answers that stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dress.config.commands import ChatCommand
from dress.config.consent import Consent
from dress.config.data import Data
from dress.data.shards import Shards
from dress.data.stream import open_split
from dress.record import Criterion, Dialogue, Record
from dress.rollout.kinds import run_settings
from dress.worlds.prepared import prepared


@dataclass(frozen=True)
class Item:
    """A place of a queue.

    Attributes:
        sample: number of its record in the set.
        record: its key.
        dialogue: number of the dialogue in the record.
        turn: whose answer is rated; None: the first question is asked, and the answer rated.
        criterion: that the question is about; None: any.
    """

    sample: int
    record: str
    dialogue: int
    turn: int | None
    criterion: Criterion | None


class Queue:
    """Items of a set of shards, in its order.

    Args:
        shards: the set.
        asked: whether its first questions are asked; else the answers in it are rated.
        records: how many of its records, from the first; None: all.

    Raises:
        ValueError: nothing in it can be rated.
    """

    def __init__(self, shards: Shards, asked: bool, records: int | None) -> None:
        self.shards = shards
        self.items: list[Item] = []
        self._samples: dict[str, int] = {}
        for number in range(min(len(shards), records or len(shards))):
            record = shards.record(number)
            self._samples[record.key] = number
            for place, dialogue in enumerate(record.dialogues):
                for turn in [None] if asked else _answered(dialogue):
                    self.items.append(Item(number, record.key, place, turn, dialogue.criterion))
        if not self.items:
            what = "questions" if asked else "answers (or responder=…, who answers its questions)"
            raise ValueError(f"queue={shards.folder}: expected {what}, found none")

    def record(self, key: str) -> Record:
        """The record of a key.

        Raises:
            ValueError: the journal was written over another queue.
        """
        if key not in self._samples:
            raise ValueError(
                f"queue={self.shards.folder}: expected the record {key}, which the journal names, found none"
            )
        return self.shards.record(self._samples[key])

    def picture(self, item: Item) -> bytes | None:
        """The image file's bytes."""
        return self.shards.image(item.sample)

    def dialogue(self, item: Item) -> Dialogue:
        """The dialogue up to the turn that is rated; its last turn is open where it is asked."""
        dialogue = self.shards.record(item.sample).dialogues[item.dialogue]
        if item.turn is None:
            turns = [dialogue.turns[0].model_copy(update={"assistant": None, "feedback": []})]
            return dialogue.model_copy(update={"turns": turns})
        return dialogue.model_copy(update={"turns": dialogue.turns[: item.turn + 1]})


def _answered(dialogue: Dialogue) -> Sequence[int]:
    return [number for number, turn in enumerate(dialogue.turns) if turn.assistant]


def open_queue(settings: ChatCommand) -> Queue | None:
    """The queue that is asked for.

    Raises:
        ValueError: the responder is no run, and the queue is no folder, or nothing in it can be rated.
        FileNotFoundError: no such folder or split.
    """
    if settings.queue is None:
        return None
    if Path(settings.queue).is_dir():
        shards = open_split(settings.queue, ".", Data(path="."))
    else:
        consent = Consent(trust_remote_code=settings.trust_remote_code, trust_targets=settings.trust_targets)
        run = None if settings.responder is None else run_settings(settings.responder, consent)
        if run is None:
            raise ValueError(
                f"queue={settings.queue}: expected a folder of shards, or the name of a split of the run that is the "
                f"responder, got neither"
            )
        folder = prepared(run.data, lambda _: None, lambda: None)
        split = {"prompts": run.data.prompts, "eval": run.data.eval}.get(settings.queue, settings.queue)
        shards = open_split(split, folder, run.data)
    return Queue(shards, settings.responder is not None, settings.records)
