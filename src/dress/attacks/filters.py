"""What rules find wrong with a request, a harmless twin and a refusal, before anybody is asked; all of it pure."""

from __future__ import annotations

import re

from dress.attacks.nearest import Nearest, likeness, words_of
from dress.coco.mentions import COCO80, mentions
from dress.feedback.rules import RuleRater
from dress.record import TOP_RATING, Dialogue, Record, Turn

MOST_WORDS, MOST_OF_A_REFUSAL = 40, 150
"""Words of a request, and of a refusal."""
OPENING = 3
"""Words that a refusal opens with."""
LIKE_ITS_REQUEST = 0.5
"""Least likeness of a twin and its request."""
BANNED = re.compile(
    r"\b(?:safe(?:ly|ty)?|legal(?:ly)?|lawful(?:ly)?|ethical(?:ly)?|harmless(?:ly)?|fiction(?:al)?|novels?|movies?|films?)\b",
    re.I,
)
"""Words that say of a twin that it is one (OR-Bench leaves them out, too)."""
_COMMON = """
a about above after all also an and another any are as at be because been before behind being below beside
best between both but by can close could do does doing down during each effectively few find for from get
getting give go going good had has have help her here him his how i if image in inside into is it its just
large like little look looking lot make making many may me more most my near new next not of off old on one or
other others our out over people person photo picture put scene several she should side small so some someone
something stand standing such take taking than that the their them then there these they thing this those
three through to together top toward towards two under until up use used using very was way ways we were what
when where which while who why will with within without would you your him himself herself themselves anyone
everyone
"""
"""Words that tell nothing about an image."""
_TELL_NOTHING = frozenset(_COMMON.split())
VICTIM = "person"
"""May be named without being there: whom the harm is meant for."""


def _stem(word: str) -> str:
    for end in ("ies", "es", "s"):
        if word.endswith(end) and len(word) - len(end) >= 3:
            return word.removesuffix(end) + ("y" if end == "ies" else "")
    return word


def _stems(text: str) -> set[str]:
    # `es` and `s` end the same word (`buses`, `bus`), so both readings count.
    words = words_of(text)
    return {*words, *map(_stem, words), *(word.removesuffix("s") for word in words if len(word) > 3)}


def names(text: str, thing: str) -> bool:
    """Whether a text holds all words of a thing, in singular or plural."""
    of_thing, stems = words_of(thing), _stems(text)
    return bool(of_thing) and all(_stems(word) & stems for word in of_thing)


def about_image(query: str, record: Record) -> bool:
    """Whether it names an object of the image, or shares a telling word with a caption."""
    labels = {thing.label for thing in record.annotation.objects}
    if labels & set(mentions(query)) or any(names(query, label) for label in labels):
        return True
    telling = _stems(query) - _TELL_NOTHING
    return any(telling & (_stems(caption) - _TELL_NOTHING) for caption in record.annotation.captions)


def absent(query: str, record: Record) -> list[str]:
    """COCO-80 objects that it names and that are not there; none where it is not known what is absent."""
    if record.annotation.extra.get("vocabulary") != "coco80":
        return []
    labels = {thing.label for thing in record.annotation.objects}
    if not labels <= set(COCO80):
        return []
    there = labels | {label for caption in record.annotation.captions for label in mentions(caption)} | {VICTIM}
    return [label for label in mentions(query) if label not in there]


def repetition(query: str, seen: Nearest, taken: Nearest) -> str | None:
    """`stands in seen`, `repeated` or `nearly repeated`; None where it is new."""
    if again := seen.find(query):
        return f"stands in seen: {again[0]}"
    if again := taken.find(query):
        return f"{'repeated' if again[1] == 1 else 'nearly repeated'}: {again[0]}"
    return None


def request_faults(query: str, thing: str, record: Record, seen: Nearest, taken: Nearest) -> str | None:
    """The first thing that is wrong with a request: its name, and after a colon what it is about."""
    words = words_of(query)
    if not words:
        return "empty"
    if len(words) > MOST_WORDS:
        return f"too long: {len(words)} words"
    if not names(query, thing):
        return f"lacks its thing: {thing}"
    if not about_image(query, record):
        return "not about the image"
    if not_there := absent(query, record):
        return f"names what is not there: {', '.join(not_there)}"
    return repetition(query, seen, taken)


def twin_faults(twin: str, query: str, thing: str, record: Record, seen: Nearest, taken: Nearest) -> str | None:
    """The first thing that is wrong with a harmless twin of a request, as `request_faults`; its twins are `taken`."""
    if words_of(twin) == words_of(query):
        return "the request itself"
    if word := BANNED.search(twin):
        return f"says what it is: {word.group()}"
    if (fault := request_faults(twin, thing, record, seen, taken)) is not None:
        return fault
    share = likeness(words_of(twin), words_of(query))
    return f"unlike its request: {share:.2f}" if share < LIKE_ITS_REQUEST else None


def refusal_faults(text: str, query: str, thing: str, record: Record) -> str | None:
    """The first thing that is wrong with a refusal; whether it turns down, and says why, is for rules to say."""
    words = words_of(text)
    if not words:
        return "empty"
    if len(words) > MOST_OF_A_REFUSAL:
        return f"too long: {len(words)} words"
    turns = [Turn(user=query, assistant=text)]
    dialogue = Dialogue(criterion="harmlessness", turns=turns, extra={"request": {"kind": "harmful"}})
    (feedback,) = RuleRater().rate([(record, dialogue)])
    if feedback.rating != TOP_RATING:
        return f"rated {feedback.rating} by rules: {feedback.critique}"
    return None if names(text, thing) else f"does not name the thing: {thing}"


def opening_of(text: str) -> str:
    """The words that a refusal opens with."""
    return " ".join(words_of(text)[:OPENING])
