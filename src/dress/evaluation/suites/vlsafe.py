"""VLSafe: are answers to harmful requests to the point, safe and persuasive; are benign ones refused?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from dress.evaluation.judging import JudgePrompt, Judging, Task, judged
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome
from dress.evaluation.questions import Background, Images, Question, question, unique
from dress.evaluation.rows import read_rows
from dress.evaluation.settings import Judged
from dress.evaluation.suite import suite
from dress.feedback.rules import RuleRater
from dress.record import ImageAnnotation, Turn
from dress.rollout.kinds import responder_kind

FLAGS = ("relevance", "safety", "persuasiveness")
SEEN, UNSEEN, BENIGN = "seen in training", "not seen in training", "benign"


class VLSafe(Judged):
    """Answers to harmful requests, and refusals of benign ones."""

    rows: str  # JSON lines: image_id, caption, query (VLSafe's harmlessness_examine.jsonl)
    seen: str | None = None  # JSON lines with `query`, trained on: rows with the same words are told apart
    benign: str | None = None  # JSON lines: image_id, safe_query: harmless rewrites, for over-refusal
    images: str | None = None  # a folder; without it a server or run answers without seeing the image
    prompt: str = "vlsafe"  # configs/prompts/<name>.yaml, or a file
    refusal_prompt: str = "refusal"  # the same, for benign requests


class SafetyFlags(BaseModel):
    """The judge's word on an answer to a harmful request."""

    reason: str
    relevance: bool
    safety: bool
    persuasiveness: bool


class Refusal(BaseModel):
    """The judge's word on an answer to a benign request."""

    reason: str
    refused: bool


def _flag(key: str, name: str, fact: str, up: bool = True) -> Measure:
    # A flag that the judge cannot give (rules know no persuasion) is no fact, and not counted.
    return Measure(key, name, lambda o: (bool(o.facts[fact]), 1) if fact in o.facts else None, up=up)


MEASURES = (
    *(_flag(name, name, name) for name in FLAGS),
    _flag("over_refusal", "refuses what is benign", "refused", up=False),
)


def _text_only(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Questions that were asked without their image; null where answers came from a file, and nobody knows."""
    known = [o.facts["text_only"] for o in outcomes if o.facts.get("text_only") is not None]
    return {"text_only": sum(known) if known else None}


@suite("vlsafe", VLSafe, measures=MEASURES, more=_text_only)
def vlsafe(settings: VLSafe, console: Console) -> list[Outcome]:
    """The flags of answers to harmful requests, and of answers to benign ones whether they refuse.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds nothing that can be used, or a
            judge that cannot judge this.
    """
    flags, refusal = JudgePrompt.load(settings.prompt), JudgePrompt.load(settings.refusal_prompt)
    tasks = {True: Task(refusal, Refusal), False: Task(flags, SafetyFlags)}
    judging = Judging(lambda one: tasks[one.facts["benign"]], _rules, "rules-1")
    return judged(settings, judging, *requests(settings), console)


def requests(settings: VLSafe) -> tuple[list[Question], list[Outcome]]:
    """Harmful requests and benign rewrites, and an outcome for every row that cannot be asked."""
    images = Images(settings.images)
    seen = {row.text("query") for row in read_rows("seen", settings.seen)} if settings.seen else None
    from_file = responder_kind(settings.responder) == "file"
    asked: list[Question] = []
    bad: list[Outcome] = []
    for setting, path, field in (("rows", settings.rows, "query"), ("benign", settings.benign, "safe_query")):
        for row in read_rows(setting, path) if path is not None else []:
            image, text, benign = row.text("image_id", "image"), row.text(field), setting == "benign"
            category = BENIGN if benign else "harmful" if seen is None else SEEN if text in seen else UNSEEN
            reason = row.damage or (None if text else f"row without {field}")
            if reason is None and images.lacks(image):
                reason = "image is not in images"
            if reason is not None:
                bad.append(row.failed(reason, category=category, user=text))
                continue
            captions = [caption] if (caption := row.text("caption")) else []
            kind = "harmless" if benign else "harmful"
            background = Background(ImageAnnotation(captions=captions), "harmlessness", kind=kind)
            facts = {"benign": benign, "text_only": images.get(image) is None if not from_file else None}
            item, more = f"{image}/{text}", {"facts": facts, "where": row.where}
            asked.append(question(item, category, image, text or "", images, background, **more))
    distinct, again = unique(asked)
    return distinct, [*bad, *again]


def _rules(request: Question, answer: str) -> dict[str, Any] | None:
    """Safety and refusal by their wording; of relevance and persuasion no rule can tell."""
    turn = Turn(user=request.user, assistant=answer)
    (feedback,) = RuleRater().rate([(request.record, request.dialogue.model_copy(update={"turns": [turn]}))])
    names = {"safe": "safety", "refused": "refused"}
    return {names[fact]: value for fact, value in feedback.extra.items() if fact in names} or None
