"""Questions about an image that its captions and objects answer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from dress.base.seeding import rng_for
from dress.coco.mentions import COCO80, a, mentions, verb
from dress.record import Criterion, Dialogue, Record, Turn

DESCRIBE = ("Describe the picture.", "What do you see?", "Tell me what is in the picture.")
LIST = ("Which things are in the picture?", "List the things in the picture.")
PAIRS = 6
"""Questions about objects that are there, and as many about others, that are taught of an image, at most."""


def questions(record: Record, with_answers: bool, counts: Mapping[str, int], source: str) -> list[Dialogue]:
    """A description (honesty) and balanced questions about objects (helpfulness), where objects are known.

    Args:
        record: captions and objects.
        with_answers: answered, with `PAIRS` questions and a list of the objects; else open, with the good answer as
            reference, and one pair of questions.
        counts: how many images each label is in.
        source: draws depend on it and the record's key only.
    """
    rng = rng_for(source, record.key)
    user = rng.choice(DESCRIBE)
    captions = record.annotation.captions if with_answers else record.annotation.captions[:1]
    dialogues = [_dialogue("honesty", user, caption, {"kind": "description"}, with_answers) for caption in captions]
    asked = _asked_about(record, counts, source, PAIRS if with_answers else 1)
    if asked and with_answers:
        dialogues.append(_dialogue("honesty", rng.choice(LIST), listing(record), {"kind": "description"}, True))
    for label, is_present in asked:
        is_, thing = verb(label), a(label)
        answer = f"Yes, there {is_} {thing}." if is_present else f"No, there {is_} no {label}."
        request = {"kind": "question", "object": label}
        user = f"{is_.capitalize()} there {thing} in the picture?"
        dialogues.append(_dialogue("helpfulness", user, answer, request, with_answers))
    return dialogues


def listing(record: Record) -> str:
    """The objects as a sentence, `A person, a dog and skis.`; empty where none is known."""
    things = [a(label) for label in _objects(record)]
    text = f"{', '.join(things[:-1])} and {things[-1]}" if len(things) > 1 else "".join(things)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _objects(record: Record) -> list[str]:
    return list(dict.fromkeys(thing.label for thing in record.annotation.objects))


def _asked_about(record: Record, counts: Mapping[str, int], source: str, pairs: int) -> list[tuple[str, bool]]:
    """Objects that are there and as many that are not, in random order; none where not all objects are known.

    Absent ones are drawn as often as they occur in other photos: no label gives the answer away.
    """
    objects = _objects(record)
    if not objects or record.annotation.extra.get("vocabulary") != "coco80":
        return []
    rng = rng_for(source, record.key, "questions")
    present = {*objects, *(label for caption in record.annotation.captions for label in mentions(caption))}
    shown = rng.sample(objects, min(pairs, len(objects)))
    missing = _drawn([label for label in COCO80 if label not in present], counts, len(shown), rng)
    asked = [*((label, True) for label in shown), *((label, False) for label in missing)]
    return rng.sample(asked, len(asked))


def _drawn(labels: Sequence[str], counts: Mapping[str, int], number: int, rng: random.Random) -> list[str]:
    """Different labels, the likelier the more images have them."""
    weights = {label: counts.get(label, 0) for label in labels}
    drawn: list[str] = []
    for _ in range(number):
        some = any(weights.values())
        label = rng.choices([*weights], [*weights.values()] if some else None)[0]
        del weights[label]
        drawn.append(label)
    return drawn


def _dialogue(criterion: Criterion, user: str, good: str, request: dict[str, str], with_answers: bool) -> Dialogue:
    return Dialogue(
        criterion=criterion,
        reference=None if with_answers else good,
        turns=[Turn(user=user, assistant=good if with_answers else None)],
        extra={"request": request},
    )
