"""CHAIR's own way with its own list of words (`synonyms.txt`; Rohrbach et al., 2018), beside ours.

A caption in small letters is cut into words and signs, words are made singular, certain pairs become one
word, `seat` is none where a toilet is named, and every word of the list counts as its line's first one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dress.base.files import read_text
from dress.coco.chair_words import chair_mentions, singular, vocabulary_hash
from dress.coco.mentions import COCO80

_PAIRS = (
    "motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, "
    "stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, "
    "hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, laptop computer, home plate, train track"
)
"""One word each; what the list does not name, as a train track, is no object."""
_MEANT = {"bow tie": "tie", "toilet seat": "toilet"}
_YOUNG = "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, animal, cub"
_FOR_PASSENGERS = "jet, train"
_NAME = re.compile(r"[^\W_]+(?:[ '’.-]+[^\W_]+)*")


@dataclass(frozen=True)
class Words:
    """How captions are read: `mentions` gives (object, words taken for it) of each mention, `label` the object
    that a name alone means; `version` changes with the list. `unknown` says what a label without object is.
    """

    mentions: Callable[[str], list[tuple[str, str]]]
    label: Callable[[str], str | None]
    version: str
    unknown: str = "objects: label is not in words"


def load_words(path: str | None) -> Words:
    """The list of a file, read as CHAIR reads its own; None: ours.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged; the message names the line.
    """
    if path is None:
        return Words(chair_mentions, _our_label, f"chair@{vocabulary_hash()}", "objects: label is none of COCO's 80")
    names = _read(path)
    known = hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:12]
    return Words(lambda caption: list_mentions(caption, names), names.get, f"chair-list@{known}")


def list_mentions(caption: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every mention of an object in order, by CHAIR's rules.

    Args:
        caption: English text.
        names: name to object.
    """
    words = [singular(word) for word in re.findall(r"\w+(?:[-/.]\w+)*|[^\w\s]", caption.lower())]
    pairs, joined, place = _pairs(), [], 0
    while place < len(words):
        pair = " ".join(words[place : place + 2])
        joined.append(pairs.get(pair, words[place]))
        place += 2 if pair in pairs else 1
    if "toilet" in joined:
        joined = [word for word in joined if word != "seat"]
    return [(names[word], word) for word in joined if word in names]


def _pairs() -> dict[str, str]:
    pairs = {pair: pair for pair in _PAIRS.split(", ")} | _MEANT
    pairs |= {f"{age} {animal}": animal for age in ("baby", "adult") for animal in _YOUNG.split(", ")}
    return pairs | {f"passenger {vehicle}": vehicle for vehicle in _FOR_PASSENGERS.split(", ")}


def _our_label(name: str) -> str | None:
    meant = {name} if name in COCO80 else {label for label, _ in chair_mentions(name)}
    return meant.pop() if len(meant) == 1 else None


def _read(path: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in enumerate(read_text("words", path).split("\n"), start=1):
        listed = [name.strip().lower() for name in line.split(",")]
        bad = next((name for name in listed if not _NAME.fullmatch(name)), None)
        if bad is not None and line.strip():
            raise ValueError(
                f"words={path}:{number}: expected an object and its synonyms, separated by commas, got {bad!r:.60}"
            )
        names |= {name: listed[0] for name in listed if name}
    if not names:
        raise ValueError(f"words={path}:1: expected an object and its synonyms on each line, got an empty file")
    return names
