"""The records of the shapes world: splits `align`, `sft`, `prompts` and `eval`.

Scenes whose graph is held out appear in `eval` only, and each of them once.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator

from dress.base.seeding import rng_for
from dress.record import Dialogue, ImageAnnotation, ImageRef, Object, Record, Turn
from dress.worlds.shapes import requests
from dress.worlds.shapes.scene import Scene, draw

SPLITS = ("align", "sft", "prompts", "eval")
WORLD_VERSION = 9
"""Raised when the same settings would give other records."""

GOOD_SHARE = 0.28
"""How often the teacher behaves well instead of following its habits."""

REPEAT = ("Say it again.", "Say that again.", "Please say the same again.")
"""The teacher says the same once more."""

RETRY = ("Please answer again.", "Answer again.", "Try again.")
"""The teacher answers afresh, by habit or well."""


def fingerprint(sizes: dict[str, int], seed: int) -> str:
    """Equal for settings that give equal records."""
    settings = {"version": WORLD_VERSION, "sizes": sizes, "seed": seed, "good_share": GOOD_SHARE}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def samples(split: str, size: int, seed: int) -> Iterator[tuple[Record, bytes]]:
    """The records of a split with their pictures (PNG); the same for the same arguments.

    Args:
        split: one of `SPLITS`.
        size: number of records.
        seed: of the world, not of the run.
    """
    seen: set[str] = set()
    for number in range(size):
        rng = rng_for("shapes", seed, split, number)
        scene = Scene.draw_at_random(rng)
        while scene.held_out != (split == "eval") or (split == "eval" and scene.fingerprint in seen):
            scene = Scene.draw_at_random(rng)
        seen.add(scene.fingerprint)
        picture = draw(scene, rng)
        yield (
            Record(
                key=f"{split}-{number:06d}",
                source=f"shapes/{split}",
                image=ImageRef(id=f"{split}-{number:06d}.png", sha256=hashlib.sha256(picture).hexdigest()),
                annotation=_annotation(scene),
                dialogues=_DIALOGUES[split](scene, rng),
                extra={"scene": scene.to_json()},
            ),
            picture,
        )


def _annotation(scene: Scene) -> ImageAnnotation:
    caption = ", ".join(f"{thing.place} {thing.label}" for thing in scene.things) + "."
    return ImageAnnotation(captions=[caption], objects=[Object(label=t.label, box=t.box) for t in scene.things])


def _requests(scene: Scene, rng: random.Random, questions: int) -> list[requests.Request]:
    asked = [requests.question(scene, rng) for _ in range(questions)]
    return [requests.describe(rng), *asked, requests.harmful(scene, rng), requests.harmless(scene, rng)]


def _taught(scene: Scene, rng: random.Random) -> list[Dialogue]:
    """The teacher's answers, mostly habitual; some dialogues go on to another request or ask again."""
    asked = _requests(scene, rng, questions=3)
    dialogues: list[Dialogue] = []
    for request in asked:
        turns = [Turn(user=request.user, assistant=_teacher(scene, request, rng))]
        for _ in range(2):
            wish = rng.random()
            if wish < 0.45:
                turns.append(Turn(user=rng.choice(REPEAT), assistant=turns[-1].assistant))
            elif wish < 0.55:
                turns.append(Turn(user=rng.choice(RETRY), assistant=_teacher(scene, request, rng)))
            else:
                break
        dialogues.append(Dialogue(criterion=request.criterion, turns=turns, extra={"request": request.to_json()}))
    return dialogues


def _teacher(scene: Scene, request: requests.Request, rng: random.Random) -> str:
    answer = requests.good_answer if rng.random() < GOOD_SHARE else requests.habitual_answer
    return answer(scene, request)


def _asked(scene: Scene, rng: random.Random) -> list[Dialogue]:
    return [
        Dialogue(
            criterion=request.criterion,
            reference=requests.good_answer(scene, request),
            turns=[Turn(user=request.user)],
            extra={"request": request.to_json()},
        )
        for request in _requests(scene, rng, questions=1)
    ]


_DIALOGUES: dict[str, Callable[..., list[Dialogue]]] = {
    "align": lambda scene, rng: [],
    "sft": _taught,
    "prompts": _asked,
    "eval": _asked,
}
