"""What a stage's phases find in its records apart from first answers that are only held in place."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from itertools import islice

from dress import config
from dress.base.errors import mistake
from dress.data.remote import RemoteShards
from dress.data.stream import Stream
from dress.record import RecordError, Turn
from dress.train.supervision import LOOK, NothingToLearn, Supervision
from dress.train.tasks import TrainTask

REFINEMENT, CRITIQUE = "refinement", "critique"


def idle_phases(look: Supervision, task: TrainTask, stream: Stream) -> Iterator[str]:
    """Lines on phases that find nothing, and what makes them find something.

    Anchors alone are no reason to train: they hold in place what a refinement would move.

    Args:
        look: through the records.
        task: of the stage.
        stream: its records.

    Raises:
        ValueError: no phase finds anything in records that were there before the run; names settings.
    """
    anchored = REFINEMENT in task.stage.phases and task.phases.refinement.anchor > 0
    bare = copy(look)
    bare.phases = _without_anchors(task.phases)
    try:
        lines = list(bare.check_any(stream))
    except RecordError:
        raise
    except ValueError as nothing:
        if not mistake(nothing):  # a bug in a phase of somebody's own
            raise
        if not anchored or not task.awaits_collection:
            raise NothingToLearn(f"{nothing}{_mend(task, stream)}") from None
        lines = [f"stage {task.name}: phase {REFINEMENT} finds no better answer in {task.stage.data_title}"]
    for line in lines:
        yield line
        if f"phase {CRITIQUE} " in line and (mend := _mend(task, stream)):
            yield f"stage {task.name}: phase {CRITIQUE}{mend}"
        if anchored and f"phase {REFINEMENT} " in line:
            yield (
                f"stage {task.name}: phase {REFINEMENT} only holds first answers in place "
                f"(phases.refinement.anchor={task.phases.refinement.anchor:g}; 0 leaves them alone)"
            )


def _without_anchors(phases: config.Phases) -> config.Phases:
    return phases.model_copy(update={"refinement": phases.refinement.model_copy(update={"anchor": 0.0})})


def _mend(task: TrainTask, stream: Stream) -> str:
    """The setting with which phase critique learns from ratings, where there are some; else nothing."""
    words = CRITIQUE in task.stage.phases and task.phases.critique.condition != "rating"
    if not words or not any(turn.rating is not None and turn.assistant for turn in _turns(stream)):
        return ""
    return ": answers are rated and not criticised; phases.critique.condition=rating learns from the ratings"


def _turns(stream: Stream) -> Iterator[Turn]:
    """Of the first records of each dataset that lies here."""
    for shards in (part.shards for part in stream.parts):
        if isinstance(shards, RemoteShards):
            continue
        for index in islice(range(len(shards)), LOOK):
            try:
                dialogues = shards.record(index).dialogues
            except RecordError:  # named by who needs it
                continue
            yield from (turn for dialogue in dialogues for turn in dialogue.turns)
