"""The suites of `src/eval.py`: the settings of each (configs/suite/) and where its function is.

Light on purpose: a suite's module is imported only when its settings are known to be good.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

from pydantic import ConfigDict

from dress.config import Section, check_as


class SuiteSettings(Section):
    """What every suite takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    out: str  # suite.json, outcomes.jsonl and run.json go here
    baseline: str | None = None  # the folder of an earlier evaluation, to compare with


class Pope(SuiteSettings):
    """Is there a … in the image? (Li et al., 2023)"""

    suite: Literal["pope"]
    questions: str | None = None  # question_id, image, text; null where answers name their image
    labels: str | tuple[str, ...]  # image, text, label; one file or several
    answers: str  # question_id, prompt, text

    @property
    def label_files(self) -> tuple[str, ...]:
        return (self.labels,) if isinstance(self.labels, str) else self.labels


class Chair(SuiteSettings):
    """Objects that captions name and images do not hold (Rohrbach et al., 2018)."""

    suite: Literal["chair"]
    captions: str  # image_id, caption (or text)
    objects: str  # {image: [labels]}, COCO's instances, or rows of image and instances
    references: str | None = None  # COCO's captions: what people name is there too


class LlavaBench(SuiteSettings):
    """Reviews of two answers by one judge, as LLaVA writes them."""

    suite: Literal["llava_bench"]
    reviews: str  # question_id, content (or text), category


class Paper(Section):
    """The paper's three tables with a row of one's own, from outputs of other suites."""

    suite: Literal["paper"]
    name: str = "ours"  # of the row
    llava_eval: str | None = None  # an output of suite=llava_eval on LLaVA-Eval's 90 questions
    llava_bench: str | None = None  # the same on LLaVA-Bench's 60
    captioning: str | None = None  # of suite=captioning
    short_caption: str | None = None  # of suite=chair on captions to Instruction-1, instead of captioning
    brief_description: str | None = None  # and to Instruction-2
    vlsafe: str | None = None  # of suite=vlsafe
    interaction: str | None = None  # of suite=interaction
    tables: str | None = None  # published tables; null = those of the paper
    out: str


SUITES: dict[str, tuple[type[Section], str]] = {
    "pope": (Pope, "dress.evaluation.suites.pope"),
    "chair": (Chair, "dress.evaluation.suites.chair"),
    "llava_bench": (LlavaBench, "dress.evaluation.suites.llava_bench"),
    "paper": (Paper, "dress.evaluation.suites.paper"),
}
"""Suite name to its settings and to the module whose `run(settings, console)` does it."""


def suite(composed: dict[str, Any]) -> tuple[Section, Callable[..., Any]]:
    """The checked settings of the composed suite, and its function.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    settings, module = SUITES[composed["suite"]]
    checked = check_as(settings, composed)
    return checked, import_module(module).run
