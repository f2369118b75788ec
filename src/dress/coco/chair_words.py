"""Which COCO-80 objects a caption mentions, counted as CHAIR counts them (Rohrbach et al., 2018).

CHAIR takes words literally: every mention counts, a denied one too, and `an orange cat` mentions an
orange. It compares singular words with a list of names for each object, where the longest name wins
(`hot dog` is no dog) and `toilet seat`, `baby giraffe` and `passenger train` are what their second
or first word says. The table of `dress.coco.mentions` is the base; `_WIDER` adds names that a rater,
who must not accuse wrongly, leaves out: kinds of a thing, and near synonyms. Left out are names that
more often mean something else (`couple`, `crane`), and roles that the situation tells and not the
looks (`customer`, `tourist`).
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache

from dress.coco.mentions import ANIMALS, SYNONYMS, VEHICLES

_WIDER = {
    "person": "male, female, cop, doctor, nurse, hunter, farmer, fisherman, fishermen, mother, "
    "father, sister, brother, daughter, son, grandmother, grandfather, husband, wife, infant, teen, "
    "youth, sailor, athlete, goalie, waiter, waitress, jockey, swimmer, runner, jogger, dancer, "
    "musician, businessman, businesswoman",
    "bicycle": "tricycle, unicycle",
    "car": "van, cab, taxicab, coupe, station wagon, convertible",
    "airplane": "seaplane",
    "bus": "trolley, trolley bus",
    "train": "caboose, streetcar",
    "truck": "semi truck, tow truck, dump truck, garbage truck, tractor trailer",
    "boat": "vessel, barge, tugboat, tug boat, speedboat, speed boat, lifeboat, steamship, "
    "catamaran, gondola, dinghy, cruise ship, fishing boat, house boat, houseboat",
    "traffic light": "street light, streetlight",
    "bench": "pew",
    "bird": "crow, raven, sparrow, robin, hawk, eagle, heron, pelican, rooster, hen, peacock, "
    "penguin, gull, finch, woodpecker, hummingbird, falcon, vulture, dove, gosling, duckling, "
    "cockatoo, macaw, parakeet",
    "cat": "feline, tabby",
    "dog": "canine, hound, terrier, bulldog, poodle, retriever, labrador, beagle, collie, corgi, "
    "dachshund, husky, pug, sheepdog, chihuahua, doggy",
    "horse": "mare, colt",
    "sheep": "goat",
    "cow": "ox, buffalo, bison, heifer, steer",
    "bear": "panda",
    "handbag": "wallet, briefcase, pocketbook",
    "suitcase": "baggage",
    "surfboard": "longboard",
    "knife": "pocketknife",
    "cake": "pancake, shortcake",
    "donut": "bagel",
    "chair": "seat, rocker",
    "couch": "futon, settee",
    "dining table": "desk, coffee table",
    "toilet": "urinal, lavatory, toilet seat",
    "laptop": "computer, notebook, netbook",
    "oven": "stove top oven",
    "refrigerator": "freezer",
}
_NOTHING = ("train track", "home plate")
"""Names of two words that mean none of the 80."""


@cache
def singular(word: str) -> str:
    """`knives` → `knife`; a word that is no plural stays.

    Raises:
        ValueError: the library that knows singulars is not installed.
    """
    try:
        engine = _engine()
    except ImportError:
        raise ValueError("CHAIR needs inflect for singulars: pip install inflect") from None
    return str(engine.singular_noun(word) or word)


def chair_mentions(text: str) -> list[tuple[str, str]]:
    """Every mention of an object: (COCO-80 label, the words that were taken for it), in order."""
    words = _words(text)
    singles = [singular(word) for word in words]
    names, longest, mentions, place = _names(), _longest(), [], 0
    while place < len(words):
        for end in range(min(place + longest, len(words)), place, -1):
            name = " ".join(words[place:end])
            label = names.get(name) or names.get(" ".join(singles[place:end]))
            if label is not None:
                if label:
                    mentions.append((label, name))
                place = end
                break
        else:
            place += 1
    return mentions


def vocabulary_hash() -> str:
    """Changes when, and only when, some name means another object."""
    return hashlib.sha256(json.dumps(_names(), sort_keys=True).encode()).hexdigest()[:12]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"['’]s\b", "", text.lower()))


@cache
def _engine():
    import inflect

    return inflect.engine()


@cache
def _longest() -> int:
    return max(len(name.split()) for name in _names())


@cache
def _names() -> dict[str, str]:
    """Name (as written, and with singular words) to label; an empty label means none of the 80."""
    names = dict.fromkeys(_NOTHING, "")
    for label, more in SYNONYMS.items():
        for written in f"{label}, {more}, {_WIDER.get(label, '')}".split(", "):
            name = " ".join(_words(written))
            names[name] = names[" ".join(map(singular, name.split()))] = label
    for young in ("baby", "adult"):
        names |= {f"{young} {animal}": names[animal] for animal in ANIMALS}
    del names[""]  # of labels without further names
    return names | {f"passenger {vehicle}": names[vehicle] for vehicle in VEHICLES}
