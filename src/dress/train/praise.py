"""What praise means in feedback that exists: the words that its top-rated critiques have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dress import config
from dress.base.progress import CurriculumProgress
from dress.config.phases import FROM_DATA
from dress.data.remote import RemoteShards
from dress.data.shards import Shards
from dress.data.stream import Stream
from dress.record import TOP_RATING, RecordError
from dress.train.run_data import RunData

WORTH_SHOWING = 2000
"""Records: fewer are read at once."""


class PraiseOfData:
    """The critiques of top-rated answers in the feedback that a run's stages read, and that is there before it.

    Args:
        settings: of the run.
        data: of the run.
        progress: shows how far reading is.
    """

    def __init__(self, settings: config.Config, data: RunData, progress: CurriculumProgress) -> None:
        self.settings, self.data, self.progress = settings, data, progress

    def resolved(self) -> tuple[config.Config, str | None]:
        """The settings with the text of `phases.praise=from_data`; and what a person should know of praise, or None.

        Raises:
            ValueError: `from_data`, and no stage reads feedback that is there, or no top-rated answer of it has a
                critique.
        """
        settings, wanted = self.settings, self.settings.phases.praise
        source = settings.data.feedback
        if source is None or not self._learns_critiques():
            if wanted == FROM_DATA:
                raise ValueError(
                    f"phases.praise={FROM_DATA}: expected a stage with phase critique that reads data.feedback, which "
                    f"is there before the run; found none. Give the words: phases.praise=…"
                )
            return settings, None
        critiques = self._critiques(self.data.stream(source), even_remote=wanted == FROM_DATA)
        if critiques is None:
            return settings, None
        what = "data.feedback" + (f" ({source})" if isinstance(source, str) else "")
        if not critiques:
            none = f"no answer rated {TOP_RATING} in {what} has a critique"
            if wanted == FROM_DATA:
                raise ValueError(f"phases.praise={FROM_DATA}: {none}. Give the words: phases.praise=…")
            return settings, (
                f"phases.praise: {none}, so nothing teaches what {wanted!r} means; "
                f"phases.critique.condition=rating learns from ratings alone"
            )
        text, number = min(critiques.items(), key=lambda pair: (-pair[1], pair[0]))
        share = f"{number:,} of {critiques.total():,} critiques of answers rated {TOP_RATING}"
        if wanted == FROM_DATA:
            phases = settings.phases.model_copy(update={"praise": text})
            return settings.model_copy(update={"phases": phases}), f"phases.praise: {text!r:.200}, as {share} in {what}"
        if any(_words(wanted) in _words(critique) for critique in critiques):
            return settings, None
        return settings, (
            f"phases.praise: no critique of an answer rated {TOP_RATING} in {what} holds the words {wanted!r:.80}; "
            f"the most frequent is {text!r:.80} ({number:,} of {critiques.total():,}). "
            f"phases.praise={FROM_DATA} takes it"
        )

    def _learns_critiques(self) -> bool:
        curriculum = self.settings.curriculum
        stages = [curriculum.stages[name] for name in curriculum.order]
        words = self.settings.phases.critique.condition != "rating"
        return words and any(
            isinstance(stage, config.TrainStage) and "feedback" in stage.data and "critique" in stage.phases
            for stage in stages
        )

    def _critiques(self, stream: Stream, even_remote: bool) -> Counter[str] | None:
        """How often each stands; None where shards would have to be fetched only for it."""
        parts = [part.shards for part in stream.parts]
        if not even_remote and any(isinstance(shards, RemoteShards) for shards in parts):
            return None
        shown = sum(map(len, parts)) > WORTH_SHOWING
        if shown:
            self.progress.start("critiques of data.feedback", sum(map(len, parts)))
        counts = Counter(critique for shards in parts for critique in self._of(shards, shown))
        if shown:
            self.progress.end()
        return counts

    def _of(self, shards: Shards, shown: bool) -> Iterator[str]:
        for index in range(len(shards)):
            if shown:
                self.progress.advance()
            try:
                record = shards.record(index)
            except RecordError:
                continue  # named when it is trained on
            for turn in (turn for dialogue in record.dialogues for turn in dialogue.turns):
                if turn.rating == TOP_RATING and turn.critique and not turn.critique.isspace():
                    yield turn.critique


def _words(text: str) -> str:
    """To compare by: small letters, single blanks."""
    return " ".join(text.casefold().split())
