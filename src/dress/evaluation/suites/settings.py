"""The suites of `src/eval.py`: the settings of each (configs/suite/) and where its function is.

Light on purpose: a suite's module is imported only when its settings are known to be good.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

from pydantic import ConfigDict, StrictBool, model_validator

from dress.config import Consent, Positive, Section, TopP, check_as
from dress.config.raters import RaterSettings, ResponderName, Server
from dress.config.types import Real


class SuiteSettings(Section):
    """What every suite takes."""

    model_config = ConfigDict(strict=False, coerce_numbers_to_str=True)

    out: str  # suite.json, outcomes.jsonl and run.json go here
    baseline: str | None = None  # the folder of an earlier evaluation, to compare with


class Chair(SuiteSettings):
    """Objects that captions name and images do not hold (Rohrbach et al., 2018)."""

    suite: Literal["chair"]
    captions: str  # image_id, caption (or text)
    objects: str  # {image: [labels]}, COCO's instances, or rows of image and instances
    references: str | None = None  # COCO's captions: what people name is there too
    words: str | None = None  # CHAIR's synonyms.txt; null = ours


class Asking(SuiteSettings, Consent):
    """What suites take that ask a responder."""

    responder: ResponderName | None  # a file of answers, a run folder, or the address of a server
    server: Server = Server()  # where the responder is one
    stage: str | None = None  # of a run: whose model answers; null = the last
    condition: str | None = None  # of a run: none or praise; null = praise where the stage taught it
    temperature: Real = 0.0  # of answers
    top_p: TopP = 1.0
    max_new_tokens: Positive | None = None  # null = as in the run; 512 of a server
    batch_size: Positive = 256  # prompts
    runs: Positive = 1  # times that answers (if sampled) are drawn, and judged


class Pope(Asking):
    """Is there a … in the image? (Li et al., 2023)"""

    suite: Literal["pope"]
    questions: str | None = None  # question_id, image, text; null where answers name their image
    labels: str | list[str]  # image, text, label; one file or several
    answers: str | None = None  # question_id, prompt, text
    responder: ResponderName | None = None  # instead of answers
    images: str | None = None  # for a responder

    @property
    def label_files(self) -> tuple[str, ...]:
        return (self.labels,) if isinstance(self.labels, str) else tuple(self.labels)

    @model_validator(mode="after")
    def _one_source(self) -> Pope:
        if (self.answers is None) == (self.responder is None):
            raise ValueError("expected one of answers (a file) and responder (a run folder, or a server's address)")
        return self


class Judged(Asking):
    """What suites take that have the responder's answers judged."""

    responder: ResponderName
    judge: RaterSettings


class LlavaQuestions(Judged):
    """LLaVA's questions, and what the judge is told beside the answers."""

    questions: str
    references: str | None = None  # question_id, text
    context: str | None = None  # image, captions, instances
    images: str | None = None
    prompt: str


class LlavaEval(LlavaQuestions):
    """Answers to LLaVA's questions, scored in four aspects."""

    suite: Literal["llava_eval"]
    prompt: str = "llava_eval"


class LlavaBench(LlavaQuestions):
    """Reviews of two answers by one judge, as LLaVA writes them."""

    suite: Literal["llava_bench"]
    reviews: str | None = None  # question_id, content (or text), category
    responder: ResponderName | None = None  # type: ignore[assignment]  # instead of reviews
    questions: str | None = None  # type: ignore[assignment]
    prompt: str = "review"

    @model_validator(mode="after")
    def _one_source(self) -> LlavaBench:
        if (self.reviews is None) == (self.responder is None):
            raise ValueError(
                "expected one of reviews (a file) and responder (a file, a run folder, a server's address)"
            )
        if self.responder is not None and (self.questions is None or self.references is None):
            raise ValueError("responder needs questions and references, the answers of assistant 1")
        return self


class VLSafe(Judged):
    """Answers to harmful requests, and refusals of benign ones."""

    suite: Literal["vlsafe"]
    rows: str
    seen: str | None = None
    benign: str | None = None
    images: str | None = None
    prompt: str = "vlsafe"
    refusal_prompt: str = "refusal"


class Captioning(Judged):
    """CHAIR of captions to the paper's two instructions."""

    suite: Literal["captioning"]
    objects: str
    references: str | None = None
    words: str | None = None
    images: str | None = None
    prompt: str = "captioning"


class VQA(Judged):
    """Short answers beside what people answered."""

    suite: Literal["vqa"]
    questions: str
    annotations: str | None = None
    images: str | None = None
    prompt: str = "vqa"


class Interaction(Judged):
    """Answers over several turns, each after feedback on the one before."""

    suite: Literal["interaction"]
    shards: str | None = None
    records: Positive | None = None
    turns: Positive = 3
    refine_condition: str = "none"
    annotator: RaterSettings
    again: str = "Please answer again."
    nll: StrictBool = True


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
    "llava_eval": (LlavaEval, "dress.evaluation.suites.llava_eval"),
    "vlsafe": (VLSafe, "dress.evaluation.suites.vlsafe"),
    "captioning": (Captioning, "dress.evaluation.suites.captioning"),
    "vqa": (VQA, "dress.evaluation.suites.vqa"),
    "interaction": (Interaction, "dress.evaluation.suites.interaction"),
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
