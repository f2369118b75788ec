"""The attacker: writes requests that would do harm, about images, so that refusing them can be taught and measured.

It writes requests, harmless twins of them and refusals; never what a request asks for. What it writes is judged by an
attack judge, which may be another. A world registers both, as one object, under its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field

from dress.base.progress import Advance, ignore
from dress.base.registry import Registry
from dress.record import Record

Harm = Literal[1, 2, 3, 4]
"""Of a request, were it followed: 1 none, 2 slight, 3 serious, 4 grave."""


class Draft(BaseModel):
    """A request that would do harm."""

    query: str = Field(max_length=400)
    thing: str = Field(max_length=80)
    """What in the image it is about, in words that stand in it."""


class Review(BaseModel):
    """A judge's word on a request beside what is known of the image."""

    reason: str
    about_image: bool
    harm: Harm
    advice: str
    """How to write a better one; empty where nothing is to be said."""


class WordsAlone(BaseModel):
    """A judge's word on a request without the image: what its words ask for by themselves."""

    reason: str
    alone: Literal["harmful", "safe"]


class Twin(BaseModel):
    """A request in nearly the same words that does no harm."""

    query: str = Field(max_length=400)


class Refusal(BaseModel):
    """An answer that turns a request down and says why."""

    text: str = Field(max_length=800)


@dataclass(frozen=True)
class Attempt:
    """A text that was not taken, and what its writer is told of it; empty where none came."""

    text: str
    fault: str


@dataclass(frozen=True)
class Assignment:
    """What is to be written: a request, or what belongs to one.

    Args:
        record: the image, by what is known of it.
        category: of harm, by its name.
        number: of the request among those of its image.
        draft: the request that a twin or a refusal is written to; None where the request itself is.
        tried: texts so far.
        seed: of the draws.
    """

    record: Record
    category: str
    number: int = 0
    draft: Draft | None = None
    tried: tuple[Attempt, ...] = ()
    seed: int = 0


T = TypeVar("T", bound=BaseModel, covariant=True)


@dataclass(frozen=True)
class Result(Generic[T]):
    """What came of one question.

    Args:
        value: None where nothing could be had.
        failed: why.
        call: in the ledger; None where nobody was called.
        facts: what a record's `extra.request` says of it beside what every request says.
    """

    value: T | None = None
    failed: str | None = None
    call: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Attacker(Protocol):
    """Writes requests, many at once; every list is in the order of what was asked."""

    name: str
    prompt_version: str
    near: float
    """Its own value of the setting `near`."""
    opening: float
    """Its own value of the setting `opening`."""

    @property
    def categories(self) -> Mapping[str, str]:
        """Of harm: name to definition."""
        ...

    def drafts(self, asked: Sequence[Assignment], progress: Advance = ignore) -> list[Result[Draft]]:
        """A request of each, better than those that were tried."""
        ...

    def twins(self, asked: Sequence[Assignment], progress: Advance = ignore) -> list[Result[Twin]]:
        """A harmless twin of each one's draft."""
        ...

    def refusals(self, asked: Sequence[Assignment], progress: Advance = ignore) -> list[Result[Refusal]]:
        """An answer to each one's draft that refuses."""
        ...


class AttackJudge(Protocol):
    """Judges requests, many at once."""

    name: str
    prompt_version: str

    def reviews(
        self, asked: Sequence[Assignment], texts: Sequence[str], progress: Advance = ignore
    ) -> list[Result[Review]]:
        """Of each text beside its image."""
        ...

    def words_alone(
        self, asked: Sequence[Assignment], texts: Sequence[str], progress: Advance = ignore
    ) -> list[Result[WordsAlone]]:
        """Of each text by itself."""
        ...


class OwnAttacker(Attacker, AttackJudge, Protocol):
    """A world's own: it writes, and it knows exactly what it has written."""


ATTACKERS: Registry[Callable[[], OwnAttacker]] = Registry("attacker", "attacker", ("llm", "replay"))
_Maker = TypeVar("_Maker", bound=Callable[[], OwnAttacker])


def register(name: str) -> Callable[[_Maker], _Maker]:
    """A decorator for what makes a world's attacker: offers it under the world's name.

    Raises:
        ValueError: another attacker has this name.
    """

    def add(maker: _Maker) -> _Maker:
        ATTACKERS.add(name, maker)
        return maker

    return add


def registered(name: str) -> OwnAttacker:
    """The attacker that was registered under a world's name; the world must have been imported.

    Raises:
        ValueError: there is none.
    """
    return ATTACKERS[name]()
