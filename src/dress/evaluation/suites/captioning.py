"""Captioning under the paper's two instructions, judged by CHAIR (rules), or by what a language model reads."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from dress.coco.chair_list import load_words
from dress.coco.mentions import COCO80
from dress.evaluation.suites import chair
from dress.evaluation.suites.asked import Asked, Images, question
from dress.evaluation.suites.judging import Judging, Task, judged
from dress.evaluation.suites.measures import Suite
from dress.evaluation.suites.outcome import SuiteOutcome
from dress.evaluation.suites.prompts import JudgePrompt, Named
from dress.evaluation.suites.reading import image_key, read_rows
from dress.evaluation.suites.settings import Captioning
from dress.rollout.kinds import responder_kind

INSTRUCTIONS = {
    "short caption": "Generate a short caption of the image.",
    "brief description": "Provide a brief description of the given image.",
}
"""Instruction-1 and Instruction-2 of the paper, in POPE's words."""

SUITE = Suite("captioning", lambda outcomes: chair.MEASURES, chair.SUITE.more)


def run(settings: Captioning, console: Console) -> dict[str, Any]:
    """`suite=captioning`.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds nothing that can be used, or a
            judge that cannot judge this.
    """
    objects = chair.read_objects(settings.objects, settings.references, load_words(settings.words))
    prompt = JudgePrompt.load(settings.prompt)

    def present(asked: Asked) -> set[str]:
        assert asked.record.image is not None
        return objects.by_image[image_key(asked.record.image.id)]

    def rules(asked: Asked, answer: str) -> dict[str, Any]:
        return chair.facts(answer, present(asked), objects.words)

    def read(asked: Asked, answer: str, reply: Named) -> dict[str, Any]:
        return chair.counted_facts([n for n in dict.fromkeys(reply.objects) if n in COCO80], present(asked))

    judging = Judging(lambda one: Task(prompt, Named, read), rules, objects.words.version)
    asked, bad = images_to_caption(settings, objects)
    return judged(SUITE, settings, judging, asked, bad, console)


def images_to_caption(settings: Captioning, objects: chair.Objects) -> tuple[list[Asked], list[SuiteOutcome]]:
    """Both instructions for every image, and an outcome for every image that cannot be asked about.

    The images are those of the folder; without one, all of `objects`, or, where those are of a whole
    data set, those that the file of answers names.
    """
    images = Images(settings.images)
    bad = [SuiteOutcome(row.where, "", f"objects: {row.damage}", where=row.where) for row in objects.damaged]
    wanted = list(objects.by_image) if objects.complete else []
    if images.given:
        wanted = sorted({*wanted, *images.names()})
    elif not objects.complete and responder_kind(settings.responder) == "file":
        named = (row.text("image", "image_id") for row in read_rows("responder", settings.responder))
        wanted = list(dict.fromkeys(image_key(name) for name in named if name is not None))
    asked: list[Asked] = []
    for image in wanted:
        known = image in objects.by_image
        for name, instruction in INSTRUCTIONS.items():
            one = question(
                f"{image}/{name}", name, image, instruction, images, criterion="honesty", kind="description"
            )  # fmt: skip
            if not known or images.lacks(image):
                bad.append(one.failed("image is not in images" if known else "image is not in objects"))
            else:
                asked.append(one)
    if not asked:
        raise ValueError(f"objects={settings.objects}: expected images to caption: give images=DIR, found none")
    return asked, bad
