"""The record: one image, what is known about it, and the dialogues held over it.

One record is one sample of a shard (`<key>.json` beside `<key>.{jpg,png,webp}`). Every part of the
project reads and writes this and nothing else. Unknown JSON fields are kept in `extra`.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Criterion = Literal["helpfulness", "honesty", "harmlessness"]
CRITERIA: tuple[Criterion, ...] = ("helpfulness", "honesty", "harmlessness")
TOP_RATING = 4
MAX_PARTS = 20_000
"""Of a record: dialogues, turns, feedback and whatever else is an object. So many take half a second to read."""
CUT = "length"
"""`finish_reason` of an answer that ended because it had no room left."""

REFERENCES = "references"
"""Name in the `extra` of a dialogue of a list of texts, where more than one good answer is known."""
PUBLISHED_ROW = "lvlm_nlf"
"""Name in the `extra` of a dialogue or turn under which an importer keeps what else its published row says."""


class RecordError(ValueError):
    """A record that cannot be used; the message names file, key, field, expected and got."""


def _finite(extra: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError: NaN or an infinity, which JSON does not have."""
    unvisited = list(extra.values())
    while unvisited:
        value = unvisited.pop()
        if isinstance(value, dict):
            unvisited += value.values()
        elif isinstance(value, list):
            unvisited += value
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"expected finite numbers, got {value}")
    return extra


Extra = Annotated[dict[str, Any], AfterValidator(_finite)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=False, allow_inf_nan=False)

    _names: ClassVar[frozenset[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls._names = frozenset(cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _unknown_fields_to_extra(cls, data: Any) -> Any:
        # Runs for every part of every record that is streamed: the usual case first, without a look-up by name.
        if not isinstance(data, dict) or data.keys() <= cls._names or "extra" not in cls._names:
            return data
        if not isinstance(data.get("extra", {}), dict):
            return data
        fields = {name: value for name, value in data.items() if name in cls._names}
        more = {name: value for name, value in data.items() if name not in cls._names}
        return fields | {"extra": {**fields.get("extra", {}), **more}}


class Original(_Part):
    """A rating on its publisher's own scale, kept beside the mapped one."""

    value: float
    min: float
    max: float


class MarkedSpan(_Part):
    """A part of an answer that a rater marked: characters [start, end) of the text; `label` says what it is."""

    start: int = Field(ge=0, strict=True)
    end: int = Field(ge=1, strict=True)
    label: str | None = None
    extra: Extra = Field(default_factory=dict)


class Feedback(_Part):
    """What a rater said of one answer.

    `rating` is 1-4 (4 is best) or null; `critique` says what is good and bad; `refinement` says how to
    improve the answer and becomes the user's next turn. `spans` are parts of the answer that are wrong: an object that
    is not there, for example.
    """

    criterion: Criterion | None = None
    rating: int | None = Field(default=None, ge=1, le=TOP_RATING, strict=True)
    critique: str | None = None
    refinement: str | None = None
    annotator: str | None = None
    prompt_version: str | None = None
    original: Original | None = None
    spans: list[MarkedSpan] = Field(default_factory=list)
    extra: Extra = Field(default_factory=dict)


class Turn(_Part):
    """A user's text and the answer to it; `assistant` is null where no answer was given yet.

    `provenance.finish_reason` says how the answer ended: `stop` (by itself), `length` (it was cut), or a server's
    own word. Where it is missing nobody knows.
    """

    user: str = Field(min_length=1)
    assistant: str | None = None
    feedback: list[Feedback] = Field(default_factory=list)
    provenance: Extra = Field(default_factory=dict)
    extra: Extra = Field(default_factory=dict)

    @model_validator(mode="after")
    def _spans_are_in_the_answer(self) -> Turn:
        for span in (span for feedback in self.feedback for span in feedback.spans):
            if not span.start < span.end <= len(self.assistant or ""):
                raise ValueError(
                    f"feedback.spans: expected 0 <= start < end <= {len(self.assistant or '')}, the characters of the "
                    f"answer, got {span.start} and {span.end}"
                )
        return self

    @property
    def marked(self) -> tuple[tuple[int, int], ...]:
        """Characters [start, end) of the answer that any rater marked, in order."""
        return tuple(sorted({(span.start, span.end) for feedback in self.feedback for span in feedback.spans}))

    @property
    def rating(self) -> int | None:
        """The lowest rating any rater gave this answer, or None if it was not rated."""
        return min((f.rating for f in self.feedback if f.rating is not None), default=None)

    @property
    def cut(self) -> bool:
        """Whether the answer is known to have ended for lack of room: its end is no end."""
        return self.provenance.get("finish_reason") == CUT

    @property
    def critique(self) -> str | None:
        """The first critique of this answer."""
        return next((f.critique for f in self.feedback if f.critique), None)


class Dialogue(_Part):
    """Turns over one image. `reference` is a known good answer to the first question.

    `system` stands before all turns, in place of the chat format's own default; null keeps that.
    """

    criterion: Criterion | None = None
    reference: str | None = None
    system: str | None = None
    turns: list[Turn] = Field(min_length=1)
    extra: Extra = Field(default_factory=dict)

    @model_validator(mode="after")
    def _system_of_older_shards(self) -> Dialogue:
        if self.system is None and isinstance(self.extra.get("system"), str):
            self.system = self.extra["system"]
            self.extra = {name: value for name, value in self.extra.items() if name != "system"}
        return self


class ImageRef(_Part):
    """Which image a record is about; the bytes lie beside the JSON in the shard."""

    id: str
    sha256: str | None = None
    extra: Extra = Field(default_factory=dict)


class Object(_Part):
    """Something to be seen; `box` is x0, y0, x1, y1 as fractions of width and height."""

    label: str = Field(min_length=1)
    box: tuple[float, float, float, float] | None = None
    extra: Extra = Field(default_factory=dict)


class ImageAnnotation(_Part):
    """What is known to be in the image."""

    captions: list[str] = Field(default_factory=list)
    objects: list[Object] = Field(default_factory=list)
    extra: Extra = Field(default_factory=dict)


class Record(_Part):
    """The tuple: image, annotation, dialogues with feedback."""

    version: Literal[1] = 1
    key: str = Field(min_length=1)
    source: str = ""
    image: ImageRef | None = None
    annotation: ImageAnnotation = Field(default_factory=ImageAnnotation)
    dialogues: list[Dialogue] = Field(default_factory=list)
    extra: Extra = Field(default_factory=dict)

    @field_validator("key")
    @classmethod
    def _plain_key(cls, key: str) -> str:
        if "." in key or "/" in key or key.startswith("-"):
            raise ValueError("a key holds no dots and no slashes (webdataset splits file names there)")
        if not key.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in key):
            raise ValueError("a key holds no control characters")
        return key

    @classmethod
    def parse(cls, data: bytes | str, where: str) -> Record:
        """Read one record from JSON.

        Args:
            data: UTF-8 JSON.
            where: file (and key) to name in an error.

        Raises:
            RecordError: not JSON, a field is missing, unknown in kind, or out of range, or more than `MAX_PARTS`.
        """
        check_parts(data, where)
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise RecordError(f"{where}: {describe(error)}") from None

    def dump(self) -> bytes:
        """UTF-8 JSON in the field order of this class: equal records give equal bytes."""
        return self.model_dump_json().encode()


def up_to_answers(dialogue: Dialogue) -> Iterator[Dialogue]:
    """The dialogue up to each of its answers, which is the last turn then."""
    for number, turn in enumerate(dialogue.turns, start=1):
        if turn.assistant is not None:
            yield dialogue.model_copy(update={"turns": dialogue.turns[:number]})


def known_answers(dialogue: Dialogue) -> tuple[str, ...]:
    """Good answers to the first question: the references, or the answer that stands there and that nobody judged."""
    several = dialogue.extra.get(REFERENCES)
    if isinstance(several, list) and (texts := tuple(text for text in several if _says(text))):
        return texts
    first = dialogue.turns[0]
    one = dialogue.reference if _says(dialogue.reference) else None if first.feedback else first.assistant
    return (one,) if one is not None and _says(one) else ()


def _says(text: Any) -> bool:
    return isinstance(text, str) and not (text == "" or text.isspace())


def check_parts(data: bytes | str, where: str) -> None:
    """Refuse a record that takes long to read, each time anew.

    Raises:
        RecordError: more than `MAX_PARTS` objects.
    """
    braces = data.count("{") if isinstance(data, str) else data.count(b"{")
    if braces <= MAX_PARTS:
        return
    try:
        unvisited = [json.loads(data)]  # braces may stand in texts
    except (ValueError, RecursionError):
        return
    parts = 0
    while unvisited:
        value = unvisited.pop()
        if isinstance(value, dict):
            parts += 1
            unvisited += value.values()
        elif isinstance(value, list):
            unvisited += value
    if parts > MAX_PARTS:
        raise RecordError(
            f"{where}: expected at most {MAX_PARTS:,} parts (dialogues, turns, feedback), got {parts:,}. "
            f"Divide the record"
        )


def describe(error: ValidationError) -> str:
    """One line per problem: field, expected, got."""
    lines = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"]) or "(whole)"
        got = repr(problem["input"])
        lines.append(f"{field}: {problem['msg']} (got {got[:80]})")
    return "; ".join(lines)
