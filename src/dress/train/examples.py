"""What is trained on of one record, and what becomes of a record that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random

from dress import config
from dress.data.features import StoredImage
from dress.dialogue.batch import Example
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.image import Picture
from dress.dialogue.tree import build_tree, build_trees
from dress.model.pictures import PictureReader
from dress.phases import supervised
from dress.record import Record, RecordError

SMALLER = "Have images made smaller (model=hf: model.processor={max_pixels: …} or {size: …})"
"""What to do where an image has too many tokens."""


class Examples:
    """Examples of a stage, each built from one record.

    Args:
        mixture: of the stage: phase name to the weight of its tokens in the loss.
        phases: settings of the phases.
        data: sharing, packing, what to do with damage.
        encoder: tokens and loss weights.
        reader: image bytes to what the model takes.
        rejects: file that names every record that cannot be used.
    """

    def __init__(
        self,
        mixture: Mapping[str, float],
        phases: config.Phases,
        data: config.Data,
        encoder: DialogueEncoder,
        reader: PictureReader,
        rejects: Path,
    ) -> None:
        self.mixture, self.phases, self.data = mixture, phases, data
        self.encoder, self.reader, self.rejects = encoder, reader, rejects

    def build(self, record: Record, picture: bytes | StoredImage | None, where: str, rng: Random) -> Example:
        """One record's trees and its picture; without a tree if it gives nothing to train on.

        Args:
            record: what it says.
            picture: its image's bytes, or with `data.features` its stored features.
            where: shard and key to name in an error.
            rng: of this sample in this epoch.

        Raises:
            RecordError: it cannot be used.
        """
        dialogues = supervised(record, self.mixture, self.phases)
        most = self.data.dialogues_per_record
        if most is not None and len(dialogues) > most:
            dialogues = [dialogues[i] for i in sorted(rng.sample(range(len(dialogues)), most))]
        if not dialogues:
            return Example([], None, where=where)
        if picture is None and record.image is not None:
            what = "stored features" if self.data.stored else "an image file"
            raise RecordError(f"{where}: expected {what} beside the JSON, found none")
        read = None if picture is None else self._read(picture, where)
        layout = None if read is None else read.layout
        encoded = [self.encoder.supervised(dialogue, where, layout) for dialogue in dialogues]
        if self.data.share_prefixes:
            trees = build_trees(encoded, self.data.tokens_per_forest)
        else:
            trees = [build_tree([one]) for one in encoded]
        return Example(trees, read, self.data.share_prefixes and len(trees) > 1, where)

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
