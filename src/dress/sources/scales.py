"""A publisher's ratings on the scale 1-4."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from typing import Any

from dress.config.rows import Scale
from dress.record import TOP_RATING, Original
from dress.sources.protocol import RowError

USUAL = (0, 1), (1, 5), (0, 5), (1, 10), (0, 10), (0, 100)
"""Scales that ratings are often of; narrower ones first."""
MOST = Fraction(9, 10)
"""Share of ratings that tells a scale where others lie outside of every usual one."""
WORDS = 12
"""Words of a scale that a message repeats."""
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d{1,2}")
_TYPED, _NO_TEXT = re.compile(r"[A-Za-z_][\w-]*( [\w-]+)*", re.ASCII), ("true", "false", "null", "inf", "nan")
"""Words that can be keys on the command line, and those that stand for something else there."""
BAD_RATING, NO_RATING = "bad rating", "empty rating"


def number_of(value: Any) -> Fraction | None:
    """A number, or a text that is one; None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
        value = value.strip().replace(",", ".")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return Fraction(repr(number)) if math.isfinite(number) else None  # 2.5 is a half, whatever binary makes of it


def mapped(value: Any, scale: Scale | None, field: str) -> tuple[int, Original | None]:
    """A rating on the scale 1-4, and the original where it stood as a number on another one.

    Args:
        value: number or text.
        scale: linear onto 1-4, rounded half up, or word by word; None: whole numbers 1-4.
        field: names the value in an error.

    Raises:
        RowError: empty, no number or word of the scale, or outside of it.
    """
    if isinstance(value, str) and not value.strip():
        raise RowError(NO_RATING, f"{field}: expected a rating, got an empty text")
    if scale is not None and scale.map is not None:
        return _word(value, scale.map, field), None
    number = number_of(value)
    low, high = (1, TOP_RATING) if scale is None or scale.from_ is None else scale.from_
    if number is None or not min(low, high) <= number <= max(low, high):
        raise RowError(BAD_RATING, f"{field}: expected a number {low:g}-{high:g}, got {value!r:.80}")
    if (low, high) == (1, TOP_RATING):
        if number.denominator != 1:
            expected = f"a whole number 1-{TOP_RATING}"
            raise RowError(BAD_RATING, f"{field}: expected {expected} (or rating={{from: …}}), got {value!r:.80}")
        return int(number), None
    share = (number - Fraction(str(low))) / (Fraction(str(high)) - Fraction(str(low)))
    rating = math.floor(1 + (TOP_RATING - 1) * share + Fraction(1, 2))
    return rating, Original(value=float(number), min=low, max=high)


def _word(value: Any, words: dict[str, int], field: str) -> int:
    text = str(value).strip()
    folded = {word.casefold(): rating for word, rating in words.items()}
    rating = words.get(text, folded.get(text.casefold()))
    if rating is None:
        raise RowError(BAD_RATING, f"{field}: expected one of {', '.join(words)}, got {value!r:.80}")
    return rating


def suggestion(values: list[Any]) -> str | None:
    """What to say of ratings that are no whole numbers 1-4: the setting that takes them; None where all fit.

    Args:
        values: ratings as they stand in the first rows; null and empty ones are passed over.
    """
    values = [value for value in values if value is not None and str(value).strip()]
    numbers = [number for value in values if (number := number_of(value)) is not None]
    if not numbers:
        words = list(dict.fromkeys(str(value).strip() for value in values))[:WORDS]
        return f"words ({', '.join(words)}): {_stated_words(words)}, N from 1 (worst) to 4 (best)" if words else None
    low, high = min(numbers), max(numbers)
    if low >= 1 and high <= TOP_RATING and all(number.denominator == 1 for number in numbers):
        return None
    worst, best = _usual(numbers)
    outside = sum(not worst <= number <= best for number in numbers)
    note = f"; {outside} of the first {len(numbers)} lie outside of it and become rejects" if outside else ""
    return f"{float(low):g} to {float(high):g}: rating={{from: [{worst:g}, {best:g}]}} (the worst, the best){note}"


def _usual(numbers: list[Fraction]) -> tuple[float, float]:
    """The narrowest usual scale that has room for all numbers, else for most, else from the least to the greatest."""

    def share(scale: tuple[int, int]) -> Fraction:
        return Fraction(sum(scale[0] <= number <= scale[1] for number in numbers), len(numbers))

    narrow = [scale for scale in USUAL if scale[1] <= 10]
    for scales, least in ((narrow, Fraction(1)), (narrow, MOST), (USUAL, Fraction(1)), (USUAL, MOST)):
        if found := next((scale for scale in scales if share(scale) >= least), None):
            return found
    return float(min(numbers)), float(max(numbers))


def _stated_words(words: list[str]) -> str:
    """The setting with a letter in the place of each number, to be pasted and filled in; in a file where it must be."""
    if all(_TYPED.fullmatch(word) and word.casefold() not in _NO_TEXT for word in words):
        return f"'rating={{map: {{{', '.join(f'{word}: N' for word in words)}}}}}'"
    quoted = ", ".join(f"{json.dumps(word, ensure_ascii=False)}: N" for word in words)
    return f"source=mine.yaml, a file with the line rating: {{map: {{{quoted}}}}}"
