"""What a stage's records give to learn from, known before training: is there anything, and does it fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dress import config
from dress.base.progress import CurriculumProgress
from dress.data.images import upright_size
from dress.data.index import MAX_JSON_BYTES
from dress.data.remote import RemoteShards
from dress.data.shards import Shards
from dress.data.stream import Stream
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.image import ImageLayout
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.model.pictures import PictureReader
from dress.objectives.stage import StageObjectives
from dress.record import Record, RecordError
from dress.train.examples import SMALLER

SMALLEST_TURN = 26
"""Bytes of the JSON of a turn without words: `{"user":"","assistant":""}`."""
REPEATING = {"refinement", "distill", "self_correction"}
"""Phases whose dialogues may hold a text of the record twice."""
LOOK = 1000
"""Records of each dataset that are read to see whether a phase finds something, once another one has."""
NAMED = 3
"""Rows that an error names."""


@dataclass(frozen=True)
class TooLong:
    """A row that training would set aside, with its tokens; or, where nothing was read, that could be one."""

    where: str
    tokens: int
    image: int = 0
    """How many of them are its image's."""

    def __str__(self) -> str:
        image = f", {self.image:,} of them its image's" if self.image else ""
        return f"{self.where} ({self.tokens:,} tokens{image})"


class NothingToLearn(ValueError):
    """No record of a stage has a supervised token."""


class Supervision:
    """Looks through the records of a train stage.

    Args:
        name: of the stage.
        stage: its mixture of phases.
        objectives: of its phases.
        phases: their settings.
        data: `max_tokens`, `on_damage`.
        encoder: tokens of a dialogue.
        reader: tokens of an image.
    """

    def __init__(
        self, name: str, stage: config.TrainStage, objectives: StageObjectives, phases: config.Phases,
        data: config.Data, encoder: DialogueEncoder, reader: PictureReader,
    ) -> None:  # fmt: skip
        self.name, self.stage, self.objectives, self.phases = name, stage, objectives, phases
        self.data, self.encoder, self.reader = data, encoder, reader
        turn = (Span("user", "a"), Span("assistant", "a", 1.0))
        one, two = (
            len(encoder.supervised(SupervisedDialogue("sft", turn * n, image=False), "", None).ids) for n in (1, 2)
        )
        self._first, self._turn = one, two - one

    def check(self, stream: Stream, progress: CurriculumProgress) -> Iterator[str]:
        """Is there something to learn, and does every row fit into `data.max_tokens`?

        Only rows whose text could be too long are tokenised. Remote shards are not fetched for it.

        Yields:
            What a person should know of rows that are set aside, or may be.

        Raises:
            ValueError: names stage, data and rows.
        """
        yield from self.check_any(stream)
        rows: list[TooLong] = []
        for shards in (part.shards for part in stream.parts):
            doubtful = shards.longer_texts(self.longest_text())
            if doubtful and isinstance(shards, RemoteShards):
                yield (
                    f"stage {self.name}: {len(doubtful):,} rows of {shards.folder} could be longer than "
                    f"data.max_tokens; known when they are fetched"
                )
            elif doubtful:
                progress.start(f"lengths of {self.stage.data_title}", len(doubtful))
                rows += self.too_long(shards, progress.advance)
                progress.end()
        if line := self.refuse(rows):
            yield line

    def check_any(self, stream: Stream) -> Iterator[str]:
        """Refuse records of which none has a supervised token; reads up to the first that has one for each phase.

        Yields:
            Phases that the first records have nothing for.

        Raises:
            ValueError: names stage, data and phases.
        """
        phases = {name for name, weight in self.stage.phases.items() if weight}
        idle, records = set(phases), 0
        for part in stream.parts:
            for number, (record, _) in enumerate(self._records(part.shards, range(len(part.shards))), 1):
                records += 1
                idle -= {one.phase for one in self._dialogues(record) if any(span.weight for span in one.spans)}
                if not idle or (idle < phases and number == LOOK):
                    break
        if idle < phases:
            for phase in sorted(idle):
                yield f"stage {self.name}: phase {phase} learns nothing from {self.stage.data_title} ({records:,} read)"
            return
        raise NothingToLearn(
            f"stage {self.name}: no supervised token in {self.stage.data_title}: none of its {records:,} records gives "
            f"phase {', '.join(self.stage.phases)} anything to learn. show=batch shows what a stage learns"
        )

    def too_long(self, shards: Shards, advance: Callable[[], None] = lambda: None) -> list[TooLong]:
        """Rows with a dialogue of more than `data.max_tokens` tokens; what cannot be that long is not read.

        A token stands for at least one byte of text, so the size of a record's JSON bounds its tokens.

        Args:
            shards: local ones.
            advance: called for each row that is read.
        """
        longest = []
        for index in shards.longer_texts(self.longest_text()):
            advance()
            for record, where in self._records(shards, [index]):
                image = self._layout(shards, index)
                tokens = max((self._tokens(one, image) for one in self._dialogues(record)), default=0)
                if tokens > self.data.max_tokens:
                    longest.append(TooLong(where, tokens, image.tokens if image else 0))
        return longest

    def longest_text(self) -> int:
        """The most bytes of JSON of which no dialogue can be too long; -1 where any could be."""
        return bisect_left(range(MAX_JSON_BYTES), True, key=self.could_be_longer) - 1

    def could_be_longer(self, size: int) -> bool:
        """Whether a record of so many bytes of JSON could hold a dialogue that is too long."""
        repeated = 2 if REPEATING & self.stage.phases.keys() else 1  # an answer may stand there once more
        phases = self.phases
        own = {
            "distill": (phases.distill.refinement_template, phases.distill.reference_template),
            "self_correction": (phases.self_correction.prompt,), "critic": (phases.language_feedback.critic_prompt,),
            "advised": (phases.language_feedback.template,),
        }  # fmt: skip
        texts = [phases.align.prompt, phases.critique_template, phases.rating_template, phases.praise]
        texts += [text for phase in self.stage.phases for text in own.get(phase, ())]
        fixed = sum(len(text.encode()) for text in texts)
        turns = size // SMALLEST_TURN + 2
        bound = repeated * size + turns * self._turn + self._first + fixed + self.reader.most_tokens
        return bound > self.data.max_tokens

    def refuse(self, rows: list[TooLong]) -> str | None:
        """What to say of rows that are too long, or nothing.

        Raises:
            ValueError: data.on_damage is stop.
        """
        if not rows:
            return None
        most = f"data.max_tokens={self.data.max_tokens:,}"
        few = ", ".join(map(str, rows[:NAMED]))
        what = f"stage {self.name}: {len(rows):,} rows of {self.stage.data_title} are longer than {most}"
        if self.data.on_damage == "stop":
            images = f". {SMALLER}" if any(2 * row.image > row.tokens for row in rows) else ""
            raise ValueError(
                f"{what}: {few}{images}. data.on_damage=skip goes on without them; or enlarge data.max_tokens"
            )
        return f"{what} and set aside: {few}"

    def _layout(self, shards: Shards, index: int) -> ImageLayout | None:
        """The tokens of a record's image; none where it cannot be read, which is named when it is trained on."""
        try:
            data = shards.image(index)
            return None if data is None else ImageLayout((self.reader.length(upright_size(data, shards.where(index))),))
        except RecordError:
            return None

    def _tokens(self, dialogue: SupervisedDialogue, image: ImageLayout | None) -> int:
        size = sum(len(span.text.encode()) for span in dialogue.spans) + len(dialogue.spans) * (self._turn + 1)
        most = self.data.max_tokens
        if size + self._first + self.reader.most_tokens <= most or (dialogue.image and image is None):
            return 0
        return self.encoder.length(dialogue, image)

    def _dialogues(self, record: Record) -> list[SupervisedDialogue]:
        return self.objectives.dialogues(record, self.phases)

    def _records(self, shards: Shards, indices: range | list[int]) -> Iterator[tuple[Record, str]]:
        """The records that can be read; others are named when they are met."""
        for index in indices:
            try:
                yield shards.record(index), shards.where(index)
            except RecordError:
                if self.data.on_damage == "stop":
                    raise
