"""What is trained on of one record, and what becomes of a record that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from dress import config
from dress.data.features import StoredImage
from dress.dialogue.batch import Example
from dress.dialogue.encode import DialogueEncoder, EncodedDialogue
from dress.dialogue.image import Picture
from dress.dialogue.spans import MISMATCHED, STUDENT, TEACHER, SupervisedDialogue
from dress.dialogue.tree import build_tree, build_trees, groups_of
from dress.model.pictures import PictureReader
from dress.objectives.stage import StageObjectives
from dress.record import Record, RecordError

SMALLER = "Have images made smaller (model=hf: model.processor={max_pixels: …} or {size: …})"
"""What to do where an image has too many tokens."""


class Examples:
    """Examples of a stage, each built from one record.

    Args:
        objectives: of the stage's phases.
        phases: settings of the phases.
        data: sharing, packing, what to do with damage.
        encoder: tokens and loss weights.
        reader: image bytes to what the model takes.
        rejects: file that names every record that cannot be used.
    """

    def __init__(
        self,
        objectives: StageObjectives,
        phases: config.Phases,
        data: config.Data,
        encoder: DialogueEncoder,
        reader: PictureReader,
        rejects: Path,
    ) -> None:
        self.objectives, self.phases, self.data = objectives, phases, data
        self.encoder, self.reader, self.rejects = encoder, reader, rejects

    def build(
        self, record: Record, picture: bytes | StoredImage | None, where: str, rng: Random, other: Record | None = None
    ) -> Example:
        """One record's trees and its picture; without a tree if it gives nothing to train on.

        Args:
            record: what it says.
            picture: its image's bytes, or with `data.features` its stored features.
            where: shard and key to name in an error.
            rng: of this sample in this epoch.
            other: a record of the same step, whose answers stand after this one's questions where an objective asks.

        Raises:
            RecordError: it cannot be used.
        """
        dialogues = self._some(self.objectives.dialogues(record, self.phases), rng)
        if not dialogues:
            return Example([], None, where=where)
        if picture is None and record.image is not None:
            what = "stored features" if self.data.stored else "an image file"
            raise RecordError(f"{where}: expected {what} beside the JSON, found none")
        read = None if picture is None else self._read(picture, where)
        layout = None if read is None else read.layout
        encoded = [self.encoder.supervised(dialogue, where, layout) for dialogue in dialogues]
        _check_teachers(encoded, where)
        for one in () if other is None else mismatched(dialogues, self.mismatching(other)):
            with suppress(RecordError):  # too long together, though neither record is
                encoded.append(self.encoder.supervised(one, where, layout))
        if self.data.share_prefixes:
            trees = build_trees(encoded, self.data.tokens_per_forest)
        else:
            trees = [build_tree(one) for one in groups_of(encoded)]
        return Example(trees, read, self.data.share_prefixes and len(trees) > 1, where)

    def mismatching(self, record: Record) -> list[SupervisedDialogue]:
        """Rated answers of a record that can stand after another one's questions."""
        phases = self.objectives.mismatching
        return [one for one in self.objectives.dialogues(record, self.phases) if one.phase in phases]

    def _some(self, dialogues: list[SupervisedDialogue], rng: Random) -> list[SupervisedDialogue]:
        """As many as a record may have, drawn; answers that are compared come and go together."""
        most = self.data.dialogues_per_record
        if most is None or len(dialogues) <= most:
            return dialogues
        groups: dict[tuple[str, str] | int, list[int]] = {}
        for number, one in enumerate(dialogues):
            groups.setdefault(number if one.answer is None else (one.phase, one.answer.group), []).append(number)
        every, chosen = list(groups.values()), list[int]()
        for place in rng.sample(range(len(every)), min(most, len(every))):
            if not chosen or len(chosen) + len(every[place]) <= most:
                chosen += every[place]
        return [dialogues[number] for number in sorted(chosen)]

    def _read(self, picture: bytes | StoredImage, where: str) -> Picture:
        """An image as the model takes it.

        Raises:
            RecordError: it cannot be read, or has more tokens than a forest or a dialogue may.
        """
        if isinstance(picture, StoredImage):
            read = self.reader.stored(picture.features, picture.layout)
        else:
            read = self.reader(picture, where)
        limits = {name: getattr(self.data, name) for name in ("tokens_per_forest", "max_tokens")}
        name = min(limits, key=limits.__getitem__)
        if read.layout.tokens > limits[name]:
            raise RecordError(
                f"{where}: expected an image of at most data.{name}={limits[name]} tokens, got {read.layout.tokens}. "
                f"{SMALLER}, or enlarge data.{name}"
            )
        return read

    def reject(self, where: str, reason: str) -> None:
        """Name what cannot be used in the reject file, or stop (`data.on_damage`).

        Raises:
            RecordError: on_damage is stop.
        """
        if self.data.on_damage == "stop":
            raise RecordError(reason)
        self.rejects.parent.mkdir(parents=True, exist_ok=True)
        with self.rejects.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"where": where, "reason": reason}) + "\n")


def mismatched(
    dialogues: Sequence[SupervisedDialogue], others: Sequence[SupervisedDialogue]
) -> list[SupervisedDialogue]:
    """Each rated answer's question with an answer of another record, in turn.

    Args:
        dialogues: of a record.
        others: rated answers of another one.
    """
    added = []
    for phase in dict.fromkeys(one.phase for one in others):
        answers = [one.spans[-1] for one in others if one.phase == phase]
        for number, one in enumerate(one for one in dialogues if one.phase == phase):
            assert one.answer is not None
            facts = replace(one.answer, side=MISMATCHED, rating=None)
            added.append(replace(one, spans=(*one.spans[:-1], answers[number % len(answers)]), answer=facts))
    return added


def _check_teachers(dialogues: Sequence[EncodedDialogue], where: str) -> None:
    """Raises RecordError: an answer has other tokens where the teacher reads it than where the student does."""
    sides = {(one.phase, one.answer.group, one.answer.side): one for one in dialogues if one.answer is not None}
    for (phase, group, side), one in sides.items():
        student = sides.get((phase, group, STUDENT))
        if side == TEACHER and student is not None and not np.array_equal(one.targets, student.targets):
            raise RecordError(f"{where}: phase {phase}: an answer has other tokens after feedback than without")
