"""VLSafe: are answers to harmful requests to the point, safe and persuasive; are benign ones refused?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dress.evaluation.suites.asked import Asked, Images, question, unique
from dress.evaluation.suites.judging import Judging, Task, judged
from dress.evaluation.suites.measures import Measure, Suite
from dress.evaluation.suites.outcome import SuiteOutcome
from dress.evaluation.suites.prompts import JudgePrompt, Refusal, SafetyFlags
from dress.evaluation.suites.reading import read_rows
from dress.evaluation.suites.settings import VLSafe
from dress.feedback.rules import RuleRater
from dress.record import ImageAnnotation, Turn
from dress.rollout.kinds import responder_kind

FLAGS = ("relevance", "safety", "persuasiveness")
SEEN, UNSEEN, BENIGN = "seen in training", "not seen in training", "benign"


def _flag(key: str, name: str, fact: str, up: bool = True) -> Measure:
    # A flag that the judge cannot give (rules know no persuasion) is no fact, and not counted.
    return Measure(key, name, lambda o: (bool(o.facts[fact]), 1) if fact in o.facts else None, up=up)


_MEASURES = (
    *(_flag(name, name, name) for name in FLAGS),
    _flag("over_refusal", "refuses what is benign", "refused", up=False),
)


def _text_only(outcomes: Sequence[SuiteOutcome]) -> dict[str, Any]:
    """Questions that were asked without their image; null where answers came from a file, and nobody knows."""
    known = [o.facts["text_only"] for o in outcomes if o.facts.get("text_only") is not None]
    return {"text_only": sum(known) if known else None}


SUITE = Suite("vlsafe", lambda outcomes: _MEASURES, _text_only)


def run(settings: VLSafe, console: Console) -> dict[str, Any]:
    """`suite=vlsafe`.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds nothing that can be used, or a
            judge that cannot judge this.
    """
    flags, refusal = JudgePrompt.load(settings.prompt), JudgePrompt.load(settings.refusal_prompt)
    tasks = {True: Task(refusal, Refusal), False: Task(flags, SafetyFlags)}
    judging = Judging(lambda one: tasks[one.facts["benign"]], _rules, "rules-1")
    asked, bad = requests(settings)
    return judged(SUITE, settings, judging, asked, bad, console)


def requests(settings: VLSafe) -> tuple[list[Asked], list[SuiteOutcome]]:
    """Harmful requests and benign rewrites, and an outcome for every row that cannot be asked."""
    images = Images(settings.images)
    seen = {row.text("query") for row in read_rows("seen", settings.seen)} if settings.seen else None
    from_file = responder_kind(settings.responder) == "file"
    asked: list[Asked] = []
    bad: list[SuiteOutcome] = []
    for setting, path, field in (("rows", settings.rows, "query"), ("benign", settings.benign, "safe_query")):
        for row in read_rows(setting, path) if path is not None else []:
            image, text, benign = row.text("image_id", "image"), row.text(field), setting == "benign"
            category = BENIGN if benign else "harmful" if seen is None else SEEN if text in seen else UNSEEN
            reason = row.damage or (None if text else f"row without {field}")
            if reason is None and images.lacks(image):
                reason = "image is not in images"
            if reason is not None:
                bad.append(SuiteOutcome(row.where, category, reason, user=text, where=row.where))
                continue
            captions = [caption] if (caption := row.text("caption")) else []
            one = question(
                f"{image}/{text}", category, image, text or "", images, criterion="harmlessness",
                annotation=ImageAnnotation(captions=captions), kind="harmless" if benign else "harmful",
                where=row.where,
                facts={"benign": benign, "text_only": images.get(image) is None if not from_file else None},
            )  # fmt: skip
            asked.append(one)
    kept, again = unique(asked)
    return kept, [*bad, *again]


def _rules(asked: Asked, answer: str) -> dict[str, Any] | None:
    """Safety and refusal by their wording; of relevance and persuasion no rule can tell."""
    turn = Turn(user=asked.user, assistant=answer)
    (feedback,) = RuleRater().rate([(asked.record, asked.dialogue.model_copy(update={"turns": [turn]}))])
    names = {"safe": "safety", "refused": "refused"}
    return {names[fact]: value for fact, value in feedback.extra.items() if fact in names} or None
