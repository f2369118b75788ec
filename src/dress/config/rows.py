"""What the columns of a table mean: the mapping that `source=rows` and the files of `configs/source/` state."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from dress.config.types import Name, Section
from dress.record import TOP_RATING, Criterion


class _Stated(Section):
    """Read from YAML and from the command line alike: lists for tuples, numbers for texts."""

    model_config = ConfigDict(strict=False, coerce_numbers_to_str=True, populate_by_name=True)


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


def _with_text_keys(value: Any) -> Any:
    return {str(key): one for key, one in value.items()} if isinstance(value, dict) else value


Column = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
"""A column by its name; `a.b` is the field b of column a (of a list: of each of its entries; also where a holds JSON as
text), `a|b` the first of two that is not null, `a?` one that may be missing. Several columns are one list."""
Stars = Annotated[int, Field(ge=1, le=TOP_RATING)]


class Scale(_Stated):
    """How a publisher's rating becomes 1-4: linear, rounded half up, or word by word."""

    from_: tuple[float, float] | None = Field(default=None, alias="from")  # the worst and the best rating: [1, 5]
    map: Annotated[dict[str, Stars] | None, BeforeValidator(_with_text_keys)] = None  # words: {good: 4, bad: 1}

    @model_validator(mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        """Two numbers are the worst and the best."""
        return {"from": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Scale:
        if (self.from_ is None) == (self.map is None):
            raise ValueError("expected either {from: [worst, best]} or {map: {good: 4, bad: 1}}")
        if self.from_ and self.from_[0] == self.from_[1]:
            raise ValueError(f"from: expected two different numbers, got {list(self.from_)}")
        return self


class Columns(_Stated):
    """Which column holds what; null for one that is not there, whatever it is called."""

    image: Column | None = None  # file name, bytes, {bytes, path}, base64 or data URI; null in a row: text only
    video: Column | None = None  # rows that have one are rejected
    key: Column | None = None  # the record's name; else made of the image's
    system: Column | None = None  # stands before all turns
    user: Column | None = None  # the question
    conversations: Column | None = None  # messages {role, content} or {from, value}
    draft: Column | None = None  # a first answer, which the answers follow after the refinement
    assistant: Column | None = None  # the answer; a list or several columns are several answers
    rating: Column | None = None  # of the answer
    critique: Column | None = None  # what is good and bad about the answer
    refinement: Column | None = None  # advice: the user's next turn
    better_answer: Column | None = None  # after refinement or critique the next answer; without them a reference
    reference: Column | None = None  # a known good answer; a list is several, of which the first is taught
    chosen: Column | None = None  # the better answer of a pair
    rejected: Column | None = None  # the worse one
    chosen_critique: Column | None = None  # why it is better
    rejected_critique: Column | None = None  # why it is worse
    tie: Column | None = None  # true: the pair is not rated
    criterion: Column | None = None  # helpfulness, honesty, harmlessness, or a word of `criteria`
    annotator: Column | None = None  # who judged
    responder: Column | None = None  # who answered
    captions: Column | None = None  # what is to be seen; a list is several


class FeedbackColumns(_Stated):
    """What one rater says of each answer under one criterion; columns as in `Columns`."""

    criterion: Criterion | None = None
    rating: Column | None = None
    scale: Scale | None = None  # null = `rating` of the mapping
    critique: Column | None = None
    refinement: Column | None = None
    better: Column | None = None  # the number, from 1, of the better answer; rated as `pair` says
    annotator: str | None = None


class Markers(_Stated):
    """Words before the parts of a text that is critique and refinement in one."""

    critique: str
    refinement: str


class RowMapping(_Stated):
    """A table's meaning: a public set's file in `configs/source/`, or a user's own."""

    name: Name = "rows"  # stands as `source` in every record
    licence: str = "not stated"  # of the set; import.json and cards repeat it
    about: str = ""  # where the set is published
    guess: StrictBool = True  # take columns of usual names for what they are called
    columns: Columns = Columns()
    feedback: tuple[FeedbackColumns, ...] = ()  # in place of the columns rating, critique and refinement
    rating: Scale | None = None  # null = whole numbers 1-4
    pair: tuple[Stars, Stars] = (4, 1)  # ratings of the chosen and of the rejected answer
    better_rating: Stars = TOP_RATING  # of a better answer that follows a rated one
    criterion: Criterion | None = None  # of every row
    criteria: Annotated[dict[str, Criterion], BeforeValidator(_with_text_keys)] = Field(default={})  # word: criterion
    question: str | None = None  # asked where a row has none
    advice: str | None = None  # stands between a draft and the answers after it where a row has none
    annotator: str | None = None  # who judged every row
    markers: Markers | None = None  # in critiques
    unpack: Literal["llava_critic"] | None = None  # code that takes rows of this form apart first
    listing: str | None = None  # a JSON file {name: {annotation: FILE, root: FOLDER of images}} beside the rows


class Format(_Stated):
    """A file of `configs/source/` for a format that code of its own reads."""

    format: str
    licence: str = "not stated"
