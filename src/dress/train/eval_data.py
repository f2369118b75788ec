"""What the records of evaluations say before training: are they trained on too, and can anything be measured."""

from __future__ import annotations

from collections.abc import Iterator

from dress import config
from dress.data.remote import RemoteShards
from dress.data.shards import Shards
from dress.feedback.rules import RuleRater
from dress.record import Dialogue, ImageRef, Record, RecordError, known_answers
from dress.train.run_data import RunData
from dress.train.splits import reads

MOST_READ = 4000
"""Records of two sets together whose checksums of images are compared; of larger ones those of equal keys."""
LOOK = 500
"""Records of an evaluation that are looked at."""


def eval_lines(settings: config.Config, data: RunData) -> Iterator[str]:
    """What a person should know of the evaluations of a run whose data are not drawn by a world.

    Args:
        settings: of the run.
        data: of the run.
    """
    stages = [settings.curriculum.stages[name] for name in settings.curriculum.order]
    asked = {stage.data for stage in stages if isinstance(stage, config.EvalStage)}
    if settings.data.world is not None or not asked:
        return
    read = dict.fromkeys(split for stage in stages for split in reads(stage) if split not in asked)
    for split in sorted(asked):
        (part,) = data.stream(getattr(settings.data, split)).parts
        if isinstance(part.shards, RemoteShards):
            continue
        for other in read:
            trained = [one.shards for one in data.stream(getattr(settings.data, other)).parts]
            keys = _shared([one for one in trained if not isinstance(one, RemoteShards)], part.shards)
            if keys:
                few = ", ".join(sorted(keys)[:3]) + (", …" if len(keys) > 3 else "")
                yield (
                    f"{len(keys):,} of {len(part.shards):,} images of data.{split} are also in data.{other} ({few}): "
                    f"the figures are of images that were trained on"
                )
        if settings.judge.kind in ("rules", "none") and not any(_measurable(part.shards, settings.judge.kind)):
            yield (
                f"data.{split}: no record has a reference, and judge={settings.judge.kind} rates no answer of them: "
                f"nothing will be measured. judge=llm rates every answer (docs/feedback.md)"
            )


def _shared(trained: list[Shards], asked: Shards) -> set[str]:
    """The keys of the evaluated records whose images are in other shards too."""
    keys = {key: index for index, key in enumerate(asked.keys())}
    shared: set[str] = set()
    sums: dict[str, str] = {}
    for shards in trained:
        alike = [(index, key) for index, key in enumerate(shards.keys()) if key in keys]
        for index, key in alike[:MOST_READ]:
            one, other = _image(shards, index), _image(asked, keys[key])
            if one and other and (None in (one.sha256, other.sha256) or one.sha256 == other.sha256):
                shared.add(key)
        if len(shards) + len(asked) > MOST_READ:
            continue
        if not sums:
            images = ((key, _image(asked, index)) for key, index in keys.items())
            sums = {image.sha256: key for key, image in images if image and image.sha256}
        found = (_image(shards, index) for index in range(len(shards))) if sums else ()
        shared |= {sums[image.sha256] for image in found if image and image.sha256 in sums}
    return shared


def _image(shards: Shards, index: int) -> ImageRef | None:
    record = _record(shards, index)
    return None if record is None else record.image


def _record(shards: Shards, index: int) -> Record | None:
    try:
        return shards.record(index)
    except RecordError:  # named by the stage that needs it
        return None


def _measurable(shards: Shards, judge: str) -> Iterator[bool]:
    """Of each question whether an answer to it can be measured."""
    for index in range(min(len(shards), LOOK)):
        record = _record(shards, index)
        for dialogue in record.dialogues if record else ():
            yield bool(known_answers(dialogue)) or (
                judge == "rules" and record is not None and _rated(record, dialogue)
            )


def _rated(record: Record, dialogue: Dialogue) -> bool:
    """Whether the rules can say anything of an answer."""
    answered = dialogue.turns[0].model_copy(update={"assistant": "?"})
    (feedback,) = RuleRater().rate([(record, dialogue.model_copy(update={"turns": [answered]}))])
    return feedback.rating is not None or bool(feedback.extra)
