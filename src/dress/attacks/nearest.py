"""Texts that say nearly the same: the longest run of common words in order, found without comparing all with all."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from dress.inspection.texts import normalised


def words_of(text: str) -> list[str]:
    """The words, without case and punctuation."""
    return normalised(text).split()


def common(first: Sequence[str], second: Sequence[str]) -> int:
    """Words of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for place, other in enumerate(second, start=1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    return row[-1]


def likeness(first: Sequence[str], second: Sequence[str]) -> float:
    """F1 of their common subsequence (ROUGE-L): 0 nothing in common, 1 the same words in the same order."""
    total = len(first) + len(second)
    return 2 * common(first, second) / total if total else 1.0


class Nearest:
    """Texts so far, found again by their rarer words.

    Two texts of likeness `near` share so many words that at least one of the rarer ones is among them: only texts that
    hold one of these are compared.

    Args:
        near: likeness, above 0, from which a text counts as said already.
    """

    def __init__(self, near: float) -> None:
        self.near = near
        self._texts: list[tuple[str, list[str]]] = []
        self._having: dict[str, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Take a text in."""
        words = words_of(text)
        for word in set(words):
            self._having[word].append(len(self._texts))
        self._texts.append((text, words))

    def find(self, text: str) -> tuple[str, float] | None:
        """The earliest text that is likest, and its likeness; None where none reaches `near`."""
        words = words_of(text)
        best: tuple[str, float] | None = None
        for number in self._candidates(words):
            other, others = self._texts[number]
            share = likeness(words, others)
            if share >= self.near and (best is None or share > best[1]):
                best = other, share
        return best

    def _candidates(self, words: list[str]) -> list[int]:
        needed = math.ceil(len(words) * self.near / (2 - self.near) - 1e-9)  # of this text's words, also the repeated
        rarest = sorted(words, key=lambda word: len(self._having.get(word, ())))[: len(words) - needed + 1]
        return sorted({number for word in set(rarest) for number in self._having.get(word, ())})
