"""Captioning under the paper's two instructions, judged by CHAIR (rules), or by what a language model reads."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from rich.console import Console

from dress.coco.chair_list import load_words
from dress.coco.mentions import COCO80
from dress.evaluation.judging import JudgePrompt, Judging, Task, judged
from dress.evaluation.outcomes import Outcome
from dress.evaluation.questions import Background, Images, Question, question
from dress.evaluation.rows import image_key, read_rows
from dress.evaluation.settings import Judged
from dress.evaluation.suite import suite
from dress.evaluation.suites import chair
from dress.rollout.kinds import responder_kind

INSTRUCTIONS = {
    "short caption": "Generate a short caption of the image.",
    "brief description": "Provide a brief description of the given image.",
}
"""Instruction-1 and Instruction-2 of the paper, in POPE's words."""


class Captioning(Judged):
    """CHAIR of captions to the paper's two instructions."""

    objects: str  # {image: [labels]}, COCO's instances file, or rows with image and instances
    references: str | None = None  # COCO's captions file: what people name is there, too
    words: str | None = None  # CHAIR's own list in its publisher's form (synonyms.txt); null = ours
    images: str | None = None  # a folder: these are captioned
    prompt: str = "captioning"  # configs/prompts/<name>.yaml, or a file


class NamedObjects(BaseModel):
    """Kinds of object that a caption names, as a judge reads it."""

    objects: list[str]


@suite("captioning", Captioning, measures=chair.MEASURES, more=chair.most_invented)
def captioning(settings: Captioning, console: Console) -> list[Outcome]:
    """Captions, with the objects that rules or a judge find in them.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds nothing that can be used, or a
            judge that cannot judge this.
    """
    objects = chair.read_objects(settings.objects, settings.references, load_words(settings.words))
    prompt = JudgePrompt.load(settings.prompt)

    def present(one: Question) -> set[str]:
        assert one.record.image is not None
        return objects.by_image[image_key(one.record.image.id)]

    def rules(one: Question, answer: str) -> dict[str, Any]:
        return chair.facts(answer, present(one), objects.words)

    def read(one: Question, answer: str, reply: NamedObjects) -> dict[str, Any]:
        return chair.counted_facts([n for n in dict.fromkeys(reply.objects) if n in COCO80], present(one))

    judging = Judging(lambda one: Task(prompt, NamedObjects, read), rules, objects.words.version)
    return judged(settings, judging, *images_to_caption(settings, objects), console)


def images_to_caption(settings: Captioning, objects: chair.Objects) -> tuple[list[Question], list[Outcome]]:
    """Both instructions for every image, and an outcome for every image that cannot be asked about.

    The images are those of the folder; without one, all of `objects`, or, where those are of a whole
    data set, those that the file of answers names.
    """
    images = Images(settings.images)
    bad = [row.failed(f"objects: {row.damage}") for row in objects.damaged]
    wanted = list(objects.by_image) if objects.complete else []
    if images.has_folder:
        wanted = sorted({*wanted, *images.names()})
    elif not objects.complete and responder_kind(settings.responder) == "file":
        names = (row.image for row in read_rows("responder", settings.responder))
        wanted = list(dict.fromkeys(image_key(name) for name in names if name is not None))
    asked: list[Question] = []
    for image in wanted:
        known = image in objects.by_image
        for name, instruction in INSTRUCTIONS.items():
            one = question(
                f"{image}/{name}", name, image, instruction, images, Background(criterion="honesty", kind="description")
            )  # fmt: skip
            if not known or images.lacks(image):
                bad.append(one.outcome("image is not in images" if known else "image is not in objects"))
            else:
                asked.append(one)
    if not asked:
        raise ValueError(f"objects={settings.objects}: expected images to caption: give images=DIR, found none")
    return asked, bad
