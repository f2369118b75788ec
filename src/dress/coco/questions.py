"""Questions about an image that its captions and objects answer."""

from __future__ import annotations

from collections.abc import Mapping

from dress.base.seeding import rng_for
from dress.coco.mentions import COCO80, a, mentions, verb
from dress.record import Criterion, Dialogue, Record, Turn

DESCRIBE = ("Describe the picture.", "What do you see?", "Tell me what is in the picture.")


def questions(record: Record, with_answers: bool, counts: Mapping[str, int], source: str) -> list[Dialogue]:
    """A description (honesty) and two balanced questions about objects (helpfulness), where objects are known.

    Args:
        record: captions and objects.
        with_answers: answered; else open, with the good answer as reference.
        counts: how many images each label is in.
        source: draws depend on it and the record's key only.
    """
    rng = rng_for(source, record.key)
    user = rng.choice(DESCRIBE)
    captions = record.annotation.captions if with_answers else record.annotation.captions[:1]
    dialogues = [_dialogue("honesty", user, caption, {"kind": "description"}, with_answers) for caption in captions]
    for label, is_present in _asked_about(record, counts, source):
        is_, thing = verb(label), a(label)
        answer = f"Yes, there {is_} {thing}." if is_present else f"No, there {is_} no {label}."
        request = {"kind": "question", "object": label}
        user = f"{is_.capitalize()} there {thing} in the picture?"
        dialogues.append(_dialogue("helpfulness", user, answer, request, with_answers))
    return dialogues


def _asked_about(record: Record, counts: Mapping[str, int], source: str) -> list[tuple[str, bool]]:
    """One object that is there and one that is not, in random order; none where not all objects are known.

    The absent one is drawn as often as it occurs in other photos: no label gives the answer away.
    """
    objects = list(dict.fromkeys(thing.label for thing in record.annotation.objects))
    if not objects or record.annotation.extra.get("vocabulary") != "coco80":
        return []
    rng = rng_for(source, record.key, "questions")
    present = {*objects, *(label for caption in record.annotation.captions for label in mentions(caption))}
    absent = [label for label in COCO80 if label not in present]
    weights = [counts.get(label, 0) for label in absent]
    shown = (rng.choice(objects), True)
    missing = (rng.choices(absent, weights if any(weights) else None)[0], False)
    return rng.sample([shown, missing], 2)


def _dialogue(criterion: Criterion, user: str, good: str, request: dict[str, str], with_answers: bool) -> Dialogue:
    return Dialogue(
        criterion=criterion,
        reference=None if with_answers else good,
        turns=[Turn(user=user, assistant=good if with_answers else None)],
        extra={"request": request},
    )
