"""What is trained on of one record, and what becomes of a record that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from torch import Tensor

from dress import config
from dress.dialogue.batch import Example
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.tree import build_tree, build_trees
from dress.phases import supervised
from dress.record import Record, RecordError


class Examples:
    """Examples of a stage, each built from one record.

    Args:
        mixture: of the stage: phase name to the weight of its tokens in the loss.
        phases: settings of the phases.
        data: sharing, packing, what to do with damage.
        encoder: tokens and loss weights.
        pixels: image bytes (and where they are from, to name it) to pixels [3, H, W].
        rejects: file that names every record that cannot be used.
    """

    def __init__(
        self,
        mixture: Mapping[str, float],
        phases: config.Phases,
        data: config.Data,
        encoder: DialogueEncoder,
        pixels: Callable[[bytes, str], Tensor],
        rejects: Path,
    ) -> None:
        self.mixture, self.phases, self.data = mixture, phases, data
        self.encoder, self.pixels, self.rejects = encoder, pixels, rejects

    def build(self, record: Record, picture: bytes | Tensor | None, where: str, rng: Random) -> Example:
        """One record's trees and pixels or features; without a tree if it gives nothing to train on.

        Args:
            record: what it says.
            picture: its image's bytes, or with `data.features` its stored features [V, D_v].
            where: shard and key to name in an error.
            rng: of this sample in this epoch.

        Raises:
            RecordError: it cannot be used.
        """
        dialogues = supervised(record, self.mixture, self.phases)
        most = self.data.dialogues_per_record
        if most is not None and len(dialogues) > most:
            dialogues = [dialogues[i] for i in sorted(rng.sample(range(len(dialogues)), most))]
        encoded = [self.encoder.supervised(dialogue, where) for dialogue in dialogues]
        if not encoded:
            return Example([], None, where=where)
        if self.data.share_prefixes:
            trees = build_trees(encoded, self.data.tokens_per_forest)
        else:
            trees = [build_tree([one]) for one in encoded]
        if picture is None and record.image is not None:
            what = "stored features" if self.data.features else "an image file"
            raise RecordError(f"{where}: expected {what} beside the JSON, found none")
        split = self.data.share_prefixes and len(trees) > 1
        if isinstance(picture, Tensor):
            return Example(trees, None, picture, split, where)
        return Example(trees, None if picture is None else self.pixels(picture, where), split=split, where=where)

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
