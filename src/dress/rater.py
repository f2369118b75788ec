"""The rater: gives rating, critique and refinement to the last answer of a dialogue.

Mounted twice: as `annotator` (writes feedback to train on) and as `judge` (scores for evaluation). A rater that needs
no settings registers here under its name and is chosen by it: `annotator=NAME judge=NAME`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from dress.base.progress import Advance, ignore
from dress.base.registry import Registry
from dress.record import Dialogue, Feedback, Record

Images = Sequence[bytes | None]
"""An image for each dialogue; empty where the rater need not see any."""


class Rater(Protocol):
    """Anything that judges answers; it may judge many at once."""

    name: str

    def rate(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Advance = ignore
    ) -> list[Feedback]:
        """Feedback on the last turn's answer of each dialogue, in order.

        `Feedback.extra` holds the facts that metrics are made of: `correct` (questions); `mentions`,
        `invented`, `present`, `named` (descriptions); `safe` (harmful requests); `refused` (harmless ones).

        Args:
            items: records and their dialogues, whose last turn is answered.
            images: of each dialogue, or none at all.
            progress: called with the number of answers that are judged since.
        """
        ...


@runtime_checkable
class Panel(Protocol):
    """A rater that is several: each of them may have a word of its own on an answer."""

    def rate_by_each(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Advance = ignore
    ) -> list[list[Feedback]]:
        """Feedback of everybody on the last turn's answer of each dialogue, one at least; else as `Rater.rate`."""
        ...


def feedback_of_each(
    rater: Rater, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Advance = ignore
) -> list[list[Feedback]]:
    """All feedback of a rater on each answer: several of a panel, one of any other; see `Rater.rate`."""
    if isinstance(rater, Panel):
        return rater.rate_by_each(items, images, progress)
    return [[feedback] for feedback in rater.rate(items, images, progress)]


RATERS: Registry[Callable[[], Rater]] = Registry("rater", "annotator or judge")
_Maker = TypeVar("_Maker", bound=Callable[[], Rater])


def register(name: str) -> Callable[[_Maker], _Maker]:
    """A decorator for a class of raters, or a function without arguments that makes one: offers it under `name`.

    Raises:
        ValueError: another rater has this name.
    """

    def add(maker: _Maker) -> _Maker:
        RATERS.add(name, maker)
        return maker

    return add


def registered(name: str) -> Rater:
    """The rater that was registered under a name; the module that registers it must have been imported.

    Raises:
        ValueError: there is none.
    """
    return RATERS[name]()


@register("none")
class NoRater:
    """Says nothing: answers are collected without feedback."""

    name = "none"

    def rate(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Advance = ignore
    ) -> list[Feedback]:
        """Feedback that holds nothing but the dialogue's criterion; see `Rater.rate`."""
        progress(len(items), "")
        return [Feedback(criterion=dialogue.criterion, annotator=self.name) for _, dialogue in items]
