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
from dress.worlds.shapes import instructions
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


def _instructions(scene: Scene, rng: random.Random, number: int) -> list[instructions.Instruction]:
    """One of every kind, but so many questions."""
    questions = [instructions.question(scene, rng) for _ in range(number)]
    return [instructions.describe(rng), *questions, instructions.harmful(scene, rng), instructions.harmless(scene, rng)]


def _taught_dialogues(scene: Scene, rng: random.Random) -> list[Dialogue]:
    """The teacher's answers, mostly habitual; in some dialogues they are said or given again."""
    dialogues: list[Dialogue] = []
    for instruction in _instructions(scene, rng, number=3):
        turns = [Turn(user=instruction.user, assistant=_teacher(scene, instruction, rng))]
        for _ in range(2):
            wish = rng.random()
            if wish < 0.45:
                turns.append(Turn(user=rng.choice(REPEAT), assistant=turns[-1].assistant))
            elif wish < 0.55:
                turns.append(Turn(user=rng.choice(RETRY), assistant=_teacher(scene, instruction, rng)))
            else:
                break
        dialogues.append(
            Dialogue(criterion=instruction.criterion, turns=turns, extra={"request": instruction.to_json()})
        )
    return dialogues


def _teacher(scene: Scene, instruction: instructions.Instruction, rng: random.Random) -> str:
    answer = instructions.good_answer if rng.random() < GOOD_SHARE else instructions.habitual_answer
    return answer(scene, instruction)


def _open_dialogues(scene: Scene, rng: random.Random) -> list[Dialogue]:
    return [
        Dialogue(
            criterion=instruction.criterion,
            reference=instructions.good_answer(scene, instruction),
            turns=[Turn(user=instruction.user)],
            extra={"request": instruction.to_json()},
        )
        for instruction in _instructions(scene, rng, number=1)
    ]


_DIALOGUES: dict[str, Callable[..., list[Dialogue]]] = {
    "align": lambda scene, rng: [],
    "sft": _taught_dialogues,
    "prompts": _open_dialogues,
    "eval": _open_dialogues,
}
