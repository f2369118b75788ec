"""First answers beside known good ones: exact match and soft accuracy as VQA has them, and ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome
from dress.record import known_answers as known_answers

ENOUGH = 3
"""So many people must have given an answer for it to be fully right."""

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = {"a", "an", "the"}
# ROUGE's own words are runs of a-z and 0-9; other scripts have words too, and where nothing parts them, characters.
_UNPARTED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNPARTED}]|[^\W_{_UNPARTED}]+")


def facts(answer: str, known: Sequence[str]) -> dict[str, Any]:
    """What the figures of an answer with references are made of: `exact_match`, `vqa_accuracy`, `rouge_l`.

    Args:
        answer: of a model.
        known: one reference or several.
    """
    return {
        "exact_match": exact(answer, known), "vqa_accuracy": accuracy(answer, known),
        "rouge_l": rouge_l(answer, tuple(known)),
    }  # fmt: skip


def accuracy(answer: str, known: Sequence[str]) -> float:
    """VQA's soft accuracy: the mean, over the other people for each of them, of min(1, agreeing / 3).

    Where fewer than four answers are known, any of them is right.
    """
    agree = [normalised(one) == normalised(answer) for one in known]
    if len(agree) <= ENOUGH:
        return float(any(agree))
    return sum(min(1.0, (sum(agree) - one) / ENOUGH) for one in agree) / len(agree)


def exact(answer: str, known: Sequence[str]) -> bool:
    """Whether it is one of the known answers, in VQA's words."""
    return normalised(answer) in set(map(normalised, known))


def normalised(answer: str) -> str:
    """Small letters, figures for numbers, no articles, no marks: what VQA compares."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", answer.casefold().replace("’", "'").replace("'", ""))
    words = re.sub(r"[^\w\s:.]|\.(?!\d)|_", " ", text).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 16)
def rouge_l(answer: str, known: tuple[str, ...]) -> float:
    """ROUGE-L's F1 with the reference that is nearest, by torchmetrics; words of every script count."""
    from torchmetrics.functional.text.rouge import rouge_score  # late: suites that need no model load no torch

    scores = rouge_score(
        answer, [list(known)], accumulate="best", normalizer=str.casefold, tokenizer=_WORD.findall, rouge_keys="rougeL"
    )
    return float(scores["rougeL_fmeasure"])


def _fact(name: str) -> Callable[[Outcome], tuple[float, float] | None]:
    def of(outcome: Outcome) -> tuple[float, float] | None:
        return (outcome.facts[name], 1) if not outcome.turn and name in outcome.facts else None

    return of


MEASURES = (
    Measure("reference/exact_match", "exact match", _fact("exact_match")),
    Measure("reference/vqa_accuracy", "VQA accuracy", _fact("vqa_accuracy")),
    Measure("reference/rouge_l", "ROUGE-L", _fact("rouge_l")),
)


def measures(outcomes: Sequence[Outcome]) -> dict[str, Measure]:
    """Those over all first answers that have references, and of each criterion where there are several."""
    with_references = [outcome for outcome in outcomes if MEASURES[0].of(outcome) is not None]
    criteria = sorted({outcome.criterion for outcome in with_references})
    named = ("", *filter(None, criteria if len(criteria) > 1 else ())) if with_references else ()
    return {key: one for measure in MEASURES for key, one in ((_key(measure, c), _of(measure, c)) for c in named)}


def _key(measure: Measure, criterion: str) -> str:
    return f"{measure.key}/{criterion}" if criterion else measure.key


def _of(measure: Measure, criterion: str) -> Measure:
    """The measure of a criterion's answers; of all where it is empty."""
    if not criterion:
        return measure
    return replace(
        measure,
        key=_key(measure, criterion),
        name=f"{measure.name}, {criterion}",
        of=lambda outcome: measure.of(outcome) if outcome.criterion == criterion else None,
    )


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of first answers that have references, over all and by criterion; none where no answer has any.

    Returns:
        By `reference/rouge_l` and, where answers are of several criteria, `reference/rouge_l/honesty` and so on.
    """
    return {key: measure.figure(outcomes) for key, measure in measures(outcomes).items()}
