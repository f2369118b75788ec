"""Which COCO-80 objects a text speaks of: words to labels, for rules and for questions.

The table is ours and cautious: a word that often means something else (`computer`, `glass`,
`plant`, `board`, `van`) is left out, because a missed mention costs less than a wrong accusation.

On the captions that POPE published CHAIR_s of, it gives 62.2 and 3.1 (CHAIR's own word list: 62.7
and 3.7). `dress.coco.chair_words` widens it to what CHAIR counts.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

# label: further words for it. Plurals are formed by rule; what the rule gets wrong stands here.
SYNONYMS: dict[str, str] = {
    "person": "people, man, men, woman, women, boy, girl, child, children, kid, baby, babies, "
    "toddler, guy, lady, ladies, gentleman, gentlemen, teenager, adult, player, skier, "
    "surfer, skateboarder, snowboarder, rider, batter, catcher, umpire, chef, driver, "
    "pedestrian, passenger, worker, policeman, policemen, officer, soldier, fireman, "
    "firemen, cowboy, bride, groom, cyclist, biker, bicyclist, motorcyclist, skater",
    "bicycle": "bike",
    "car": "automobile, sedan, suv, taxi, jeep, hatchback, minivan, limousine",
    "motorcycle": "motorbike, motor bike, motor cycle, dirt bike, scooter, moped",
    "airplane": "plane, aeroplane, air plane, jet, aircraft, airliner, jetliner, biplane",
    "bus": "minibus, school bus, tour bus",
    "train": "locomotive, tram, subway train, train car",
    "truck": "pickup, pickup truck, fire truck, firetruck, lorry, lorries",
    "boat": "ship, sailboat, canoe, kayak, yacht, ferry, ferries, rowboat, sail boat, motorboat",
    "traffic light": "stop light, stoplight, traffic signal",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "park bench",
    "bird": "duck, goose, geese, seagull, pigeon, parrot, owl, swan, flamingo, ostrich",
    "cat": "kitten, kitty, kitties",
    "dog": "puppy, puppies, pup",
    "horse": "pony, ponies, foal, stallion",
    "sheep": "lamb, ewe",
    "cow": "cattle, calf, calves, bull, oxen",
    "elephant": "",
    "bear": "polar bear, grizzly",
    "zebra": "",
    "giraffe": "",
    "backpack": "back pack, rucksack, knapsack, book bag",
    "umbrella": "parasol",
    "handbag": "purse, hand bag",
    "tie": "necktie, neck tie, bow tie, bowtie",
    "suitcase": "suit case, luggage",
    "frisbee": "frisbie, flying disc",
    "skis": "ski, pair of skis",
    "snowboard": "snow board",
    "sports ball": "ball, soccer ball, tennis ball, beach ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "catcher's mitt, mitt, catchers mitt",
    "skateboard": "skate board",
    "surfboard": "surf board",
    "tennis racket": "racket, racquet, tennis racquet, tennis raquet",
    "bottle": "",
    "wine glass": "wineglass, wineglasses",
    "cup": "mug, teacup, coffee cup",
    "fork": "",
    "knife": "knives",
    "spoon": "",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "burger, hamburger, cheeseburger",
    "orange": "oranges",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog",
    "pizza": "pizza pie",
    "donut": "doughnut",
    "cake": "cupcake, cheesecake",
    "chair": "armchair, stool, recliner, lawn chair, high chair, arm chair",
    "couch": "sofa, loveseat, love seat",
    "potted plant": "houseplant, house plant, potted flower, potted tree",
    "bed": "",
    "dining table": "table, kitchen table, dinner table",
    "toilet": "commode, toilet seat, toilet bowl",
    "tv": "television, tv set, monitor, computer monitor, flat screen",
    "laptop": "laptop computer, notebook computer, macbook",
    "mouse": "computer mouse, mice",
    "remote": "remote control, controller, game controller, wii remote, wiimote",
    "keyboard": "computer keyboard",
    "cell phone": "phone, cellphone, mobile phone, smartphone, smart phone, telephone, iphone",
    "microwave": "microwave oven",
    "oven": "stove, stove top, stovetop",
    "toaster": "",
    "sink": "washbasin, wash basin",
    "refrigerator": "fridge, mini fridge",
    "book": "textbook",
    "clock": "clock tower, alarm clock",
    "vase": "",
    "scissors": "pair of scissors, scissor",
    "teddy bear": "teddy, stuffed bear, toy bear, stuffed teddy bear",
    "hair drier": "hair dryer, hairdryer, hairdrier, blow dryer, blow drier",
    "toothbrush": "tooth brush",
}  # fmt: skip

COCO80: tuple[str, ...] = tuple(SYNONYMS)
"""The labels, in COCO's order."""

# Longer than the word in them, so they win, and they mean none of the 80.
_NOTHING = (
    "train track, train station, train platform, train yard, bus stop, bus station, bus lane, "
    "bus shelter, car park, car seat, parking lot, dog park, dog house, bird house, bird bath, "
    "bird cage, cat tail, zebra crossing, zebra print, bear claw, flower bed, bed of, truck "
    "bed, bed spread, river bed, table cloth, table top, table tennis, ping pong table, pool "
    "table, tennis table, toilet paper, toilet brush, toilet tissue, book shelf, book shelves, "
    "book case, book store, ball cap, ball gown, ball of, ball park, ball field, ball game, "
    "cake stand, bottle cap, bottle opener, ski slope, ski lift, ski resort, ski pole, ski "
    "jump, ski hill, ski lodge, ski suit, ski jacket, ski boot, ski run, ski mask, boat house, "
    "bike rack, bike lane, bike path, horse shoe, horse racing, cow boy hat, cup holder, bowl "
    "of a toilet, knife block, remote area, remote location, remote beach, remote island, "
    "remote village, remote field, remote place, phone booth, phone pole, telephone pole, "
    "telephone booth, telephone line, telephone wire, mobile home, toaster oven, orange juice, "
    "apple juice, apple tree, orange tree, banana tree, banana leaf, carrot cake, cd player, "
    "dvd player, record player, music player, media player, mp3 player, car door, kite flying, "
    "keyboard instrument, clock work, men's room, men's bathroom, men's restroom, women's "
    "restroom, remote controlled, remote dirt, remote road, remote mountain, remote desert, "
    "remote region,  tie dye, tie dyed, plane tree, jet ski, jet black, jet lag, baseball cap, "
    "baseball field, truck stop, chair lift, ski chair, bench press, bull dozer, couch potato"
)
ANIMALS = (
    "elephant", "giraffe", "zebra", "bear", "cow", "sheep", "bird", "horse", "cat", "dog", "lamb",
)  # fmt: skip
VEHICLES = ("train", "bus", "car", "airplane", "plane", "jet", "boat", "ferry", "aircraft")
_PLURAL_ONLY = ("skis", "scissors")
_NO_ARTICLE = ("broccoli", *_PLURAL_ONLY)
_COLOURS = "red|blue|green|white|black|yellow|grey|gray|brown|purple|pink|silver|gold|tan"


def _plural(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"


def _words() -> dict[str, str | None]:
    words: dict[str, str | None] = {}
    for phrase in _NOTHING.split(", "):
        words |= {phrase: None, _plural(phrase): None}
    for label, more in SYNONYMS.items():
        for word in (label, *filter(None, more.split(", "))):
            words |= {word: label, _plural(word): label}
    for young in ("baby", "adult", "young"):
        words |= {f"{young} {form}": words[form] for a in ANIMALS for form in (a, _plural(a))}
    words |= {f"passenger {form}": words[form] for v in VEHICLES for form in (v, _plural(v))}
    return words


_WORDS = _words()
_LONGEST_FIRST = "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True))
_ANY = re.compile(rf"(?<![\w'])(?:{_LONGEST_FIRST})(?!\w)")
_CLAUSE = re.compile(r"[.;:!?]|\bbut\b|, (?!or |nor |and no )")
_NEGATED = re.compile(
    r"\b(?:no|without|nor|neither|zero)(?: signs? of| evidence of)?(?: \w+){0,2} $"
    r"|(?:\bnot\b(?! only)|\bcannot|n't|\bnever)(?: \w+){0,5} $"
)
# `an orange cat` and `orange and white` are colours; so is `it is orange`.
_COLOUR_BEFORE = re.compile(rf"\b(?:is|are|bright|dark|light|{_COLOURS}|(?:{_COLOURS}) and) $")
_FRUIT_AFTER = re.compile(
    rf"$|[.,;:!?]| (?:(?:and|or)(?! (?:{_COLOURS})\b)|on|in|is|are|was|with|next|near|that|"
    r"slices?|peel|beside|from|sits|sitting|lies|lying|inside|at|by|to)\b"
)

_BASEBALL = re.compile(r"\b(?:baseball|bat(?:ter|ting)|ball|pitch\w*|swing\w*|swung|player|umpire|game)\b")


def normal(text: str) -> str:
    """Lower case, plain apostrophes, hyphens as spaces, single spaces."""
    return " ".join(text.lower().replace("’", "'").replace("-", " ").split())


class Mention(NamedTuple):
    """A mention of one of the 80: characters [start, end) of the text, and whether it is said to be there."""

    label: str
    start: int
    end: int
    there: bool


def places(text: str) -> list[Mention]:
    """Every mention of a COCO-80 object in a text, in order.

    The longest phrase wins: `hot dog` is no dog, and `train tracks` are no train.

    Args:
        text: any English text.
    """
    plain, every = normal(text), list[Mention]()
    baseball, teddy = _BASEBALL.search(plain), False
    starts = [0, *(match.end() for match in _CLAUSE.finditer(plain))]
    ends = [*(match.start() for match in _CLAUSE.finditer(plain)), len(plain)]
    for first, last in zip(starts, ends, strict=True):
        clause, denied, end = plain[first:last], False, 0
        for match in _ANY.finditer(clause):
            label = _WORDS[match.group()]
            before, after = clause[: match.start()], clause[match.end() :]
            if label is None or (match.group() == "orange" and _is_colour(before, after)):
                continue
            if match.group() in ("bat", "bats") and not baseball:
                continue
            if label == "bear" and teddy:  # "… a teddy bear. The bear …"
                label = "teddy bear"
            between = clause[end : match.start()]
            listed = denied and re.fullmatch(r",? (?:or|nor|and no)(?: \w+)? ", between)
            denied = bool(listed or _NEGATED.search(before))
            teddy = teddy or (label == "teddy bear" and not denied)
            every.append(Mention(label, first + match.start(), first + match.end(), not denied))
            end = match.end()
    return [
        one._replace(start=start, end=stop) for one, (start, stop) in zip(every, _written(text, every), strict=True)
    ]


def _written(text: str, every: list[Mention]) -> list[tuple[int, int]]:
    """Where mentions in `normal(text)` stand in the text: word by word, since only what is between words differs."""
    words = [match.span() for match in re.finditer(r"[^\s-]+", text)]
    plain = normal(text)
    begins = [match.start() for match in re.finditer(r"\S+", plain)]

    def at(place: int) -> int:
        number = bisect_right(begins, place) - 1
        start, stop = words[number]
        return min(start + place - begins[number], stop - 1)

    return [(at(one.start), at(one.end - 1) + 1) for one in every]


def claims(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """What a text says is there, and what it says is not.

    Args:
        text: any English text.

    Returns:
        COCO-80 labels said to be there and labels said to be absent (`no dog`, `not a cat`), in
        order of first mention, each with the number of its mentions; see `places`.
    """
    there: dict[str, int] = {}
    absent: dict[str, int] = {}
    for one in places(text):
        labels = there if one.there else absent
        labels[one.label] = labels.get(one.label, 0) + 1
    return there, absent


def mentions(text: str) -> list[str]:
    """The COCO-80 labels that a text says are there, each once, in order of first mention."""
    return list(claims(text)[0])


def a(label: str) -> str:
    """`a dog`, `an apple`, `skis`."""
    if label in _NO_ARTICLE:
        return label
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"


def verb(label: str) -> str:
    """`is`, or `are` for skis and scissors."""
    return "are" if label in _PLURAL_ONLY else "is"


def _is_colour(before: str, after: str) -> bool:
    return bool(_COLOUR_BEFORE.search(before)) or not _FRUIT_AFTER.match(after)
