"""Two scores from the text of a review, as judges state them; rather none than a wrong one."""

from __future__ import annotations

import re
from collections.abc import Iterator

LOWEST, HIGHEST = 1, 10

# A whole number with its own `/10`, if any: neither a part of 7/5, 8-9 or 7.5.1, nor a per cent.
_NUMBER = (
    r"(?<![\d.,/−-])(?P<nTAG>\d+(?:\.\d+)?)"
    r"(?P<tenTAG>[ \t]*(?:/|out[ ]of)[ \t]*10)?(?!\d|[.,:/−-]\d|[ \t]*(?:%|/|out[ ]of\b))"
)
_ONE, _FIRST, _SECOND = (_NUMBER.replace("TAG", tag) for tag in ("", "1", "2"))
_PAIR = rf"[(\[]?[ \t]*{_FIRST}(?:[ \t]*[,;|&][ \t]*|[ \t]+(?:and[ \t]+)?){_SECOND}[ \t]*[)\]]?"
_TITLE = r"(?:(?:my|the|final|overall|total|so|therefore|thus),?[ \t]+)*(?:scores?|ratings?|final)"

_BARE = re.compile(rf"{_PAIR}\.?")
_LONE = re.compile(rf"{_ONE}\.?")
_TITLED = re.compile(
    rf"(?:^|[.!?][ \t]+)[ \t]*{_TITLE}[ \t]*(?:are|is)?[ \t]*[:=]?[ \t]*{_PAIR}[ \t]*\.?[ \t]*$", re.I | re.M
)
_IN_BRACKETS = re.compile(
    rf"\bscores?\b(?:(?!scale|range|from|between)[^.\n()]){{0,300}}\([ \t]*{_FIRST}[ \t]*,[ \t]*{_SECOND}[ \t]*\)", re.I
)

_SAYS = (
    "gets?|got|receives?|received|deserves?|earns?|earned|is|was|be|would|should|given|awarded|rated?|an?|the|of|at|as|"
    "with|overall|final|total|answer|response"
)
_SCORE = r"\b(?:scores?|scored|ratings?)\b"
_KIND = "assistant|answer|response|model"
_NAME = rf"\b(?P<kind>{_KIND})[ \t]*#?[ \t]*(?P<side>1|2|one|two)\b(?![-–&/.]\d)"
_ORDINAL = rf"\b(?P<kind>the)?[ \t]*\b(?P<side>first|second)\b(?:[ \t]+(?:{_KIND}|one)\b)?"
_NEXT = rf"(?:the[ \t]+)?(?:{_KIND}|first|second)\b"
_STATED = (
    rf"(?P<before>{_SCORE}[ \t]+(?:of|for)[ \t]+(?:the[ \t]+)?)?{{name}}"
    rf"(?P<between>(?:[ \t:=–—|-]|['’]s\b|{_SCORE}|\b(?:{_SAYS})\b"
    rf"|\n+[ \t]*(?=(?:overall|final|total)?[ \t]*{_SCORE}))*)"
    rf"{_ONE}(?P<after>[ \t]*(?:[.,;)]?[ \t]*$|\|[ \t]*$|\(|[–—-][ \t]+(?=[^\d\s])"
    rf"|(?:[.,;]|,?[ \t]+(?:and|while|whereas|but))[ \t]+(?={_NEXT}))|[.,;][ \t]+(?=\D))"
)
_BY_NAME = re.compile(_STATED.format(name=_NAME), re.I | re.M)
_BY_ORDINAL = re.compile(_STATED.format(name=_ORDINAL), re.I | re.M)

_THOUGHTS = re.compile(r"<(think|thinking)>.*?(?:</\1>|\Z)|\A.*</(?:think|thinking)>", re.I | re.S)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.M)
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|_{1,3}|`)(?=\S)([^\n]{0,300}?\S)\1(?!\w)")
_LINE_START = re.compile(r"^[ \t]*(?:#{1,6}|>|[*•-])[ \t]+", re.M)


def stated_scores(review: str) -> tuple[float, float, bool] | str:
    """The scores of answers 1 and 2, and whether they had to be found in prose; or why there are none.

    LLaVA asks for a first line of two numbers: where it is there, nothing else is read. Else scores are
    taken where both are stated as such: `Scores: 7 8`, `scores … (1, 5)`, `Assistant 1: 8, Assistant 2: 7`,
    `Assistant 1 gets a score of 8. …`, `the first answer deserves 7 out of 10, the second …`, or two
    first lines of one number each. Markdown, fences and a model's thoughts (`<think>`) are passed over.
    Two statements that differ are none, nor are numbers of a list, of steps, of another scale.
    """
    text = _plain(review)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = _BARE.fullmatch(lines[0]) if lines else None
    statements = {_numbers(first)} if first else {*_pairs(text), *_lone(lines), *_named(text)}
    if not statements:
        return "no scores in the review"
    if len(statements) > 1:
        return "several scores in the review"
    one, two = statements.pop()
    if not (LOWEST <= one <= HIGHEST and LOWEST <= two <= HIGHEST):
        return f"score is not from {LOWEST} to {HIGHEST}"
    return one, two, first is None


def _plain(review: str) -> str:
    text = _LINE_START.sub("", _FENCE.sub("", _THOUGHTS.sub("", review)))
    for _ in range(3):  # bold in italics, code in bold
        text = _EMPHASIS.sub(r"\2", text)
    return re.sub(r"[ \t]+$", "", text, flags=re.M)


def _numbers(match: re.Match[str]) -> tuple[float, float]:
    return float(match["n1"]), float(match["n2"])


def _pairs(text: str) -> Iterator[tuple[float, float]]:
    for pattern in (_TITLED, _IN_BRACKETS):
        yield from map(_numbers, pattern.finditer(text))


def _lone(lines: list[str]) -> Iterator[tuple[float, float]]:
    """Two first lines of one number each; three are something else."""
    numbers = [_LONE.fullmatch(line) for line in lines[:3]]
    if len(numbers) > 1 and numbers[0] and numbers[1] and not any(numbers[2:]):
        yield float(numbers[0]["n"]), float(numbers[1]["n"])


def _named(text: str) -> Iterator[tuple[float, float]]:
    """Every pair of what is said of either answer."""
    scores: dict[str, set[float]] = {"1": set(), "2": set()}
    for pattern in (_BY_NAME, _BY_ORDINAL):
        for match in pattern.finditer(text):
            scored = bool(match["before"] or match["ten"] or re.search(_SCORE, match["between"], re.I))
            bare = (match["kind"] or "").lower() == "assistant" and re.search(r"[:=–—|-]", match["between"])
            # `Assistant 1: 1. It adds` begins a list; `… a score of 8. It adds` does not.
            listed = (
                not scored
                and re.match(r"[.,;][ \t]", match["after"])
                and not re.match(_NEXT, text[match.end() :], re.I)
            )
            if (scored or bare) and not listed:
                side = {"one": "1", "first": "1", "two": "2", "second": "2"}.get(match["side"].lower(), match["side"])
                scores[side].add(float(match["n"]))
    yield from ((one, two) for one in scores["1"] for two in scores["2"])
