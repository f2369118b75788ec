"""Which column of a table is what: the names that a mapping states, and for the rest the usual ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dress.config.nearest import nearest
from dress.config.rows import RowMapping
from dress.sources.cells import ABSENT, Place, alternatives, is_answers, look_up, opened_json
from dress.sources.protocol import SourceError

Meaning = dict[str, tuple[tuple[Place, ...], ...]]
"""Role (of `Columns`, or `feedback.0.rating` …) to its columns, each with the places where it may stand."""

USUAL: dict[str, tuple[str, ...]] = {
    "image": ("image", "img", "imagepath", "imgpath", "imagefile", "imagename", "filename", "picture", "photo",
              "pic", "images"),
    "video": ("video", "videos"),
    "conversations": ("conversations", "conversation", "messages", "dialogue", "dialog", "chat"),
    "user": ("question", "prompt", "instruction", "query", "user", "questions"),
    "assistant": ("answer", "response", "output", "assistant", "completion", "modelanswer", "modelresponse",
                  "prediction", "answers", "responses", "completions"),
    "rating": ("rating", "score", "stars", "grade", "ratings", "scores"),
    "critique": ("feedback", "critique", "comment", "rationale", "review", "critiques", "rationales"),
    "refinement": ("refinement", "advice", "suggestion", "hint"),
    "better_answer": ("betteranswer", "betterresponse", "improved", "improvedanswer", "revised", "revisedanswer",
                      "corrected", "correctedanswer", "refinedanswer"),
    "reference": ("reference", "groundtruth", "gt", "referenceanswer", "gold", "goldanswer", "targetanswer",
                  "references", "groundtruths", "referenceanswers"),
    "chosen": ("chosen", "preferred"),
    "rejected": ("rejected", "dispreferred"),
    "chosen_critique": ("chosenreason", "chosencritique"),
    "rejected_critique": ("rejectedreason", "rejectedcritique"),
    "system": ("system", "systemprompt"),
    "criterion": ("criterion",),
    "annotator": ("annotator", "rater"),
    "captions": ("caption", "captions", "description"),
}  # fmt: skip
"""In small letters without blanks and underscores; of several columns the first name here."""
NUMBERED = ("assistant", "rating", "critique")
"""Roles that `answer_1, answer_2` are of."""
_IMAGE_NAME = re.compile(r"[^\n]+\.(jpe?g|png|webp)|(data:image/|/9j/|iVBORw0KGgo).*", re.IGNORECASE | re.DOTALL)


def meaning(mapping: RowMapping, rows: Sequence[Mapping[str, Any]], path: Path) -> Meaning:
    """Which columns hold what.

    Args:
        mapping: states columns; usual names count for what it does not state.
        rows: the first of the table.
        path: of the table, for errors.

    Raises:
        SourceError: a column that is stated and not there, or neither question, conversation nor caption.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stated = {f"columns.{role}": value for role, value in mapping.columns}
    for number, one in enumerate(mapping.feedback):
        roles = ("rating", "critique", "refinement", "better")
        stated |= {f"feedback.{number}.{role}": getattr(one, role) for role in roles}
    meaning: Meaning = {}
    for setting, names in stated.items():
        if names is not None:
            places = [_places(setting, name, columns, rows, path) for name in names]
            if any(places):
                meaning[setting.removeprefix("columns.")] = tuple(tuple(place) for place in places if place)
    if mapping.guess:
        _guess(meaning, mapping, columns, rows)
    _check(meaning, mapping, columns, rows, path)
    return meaning


def _places(setting: str, name: str, columns: list[str], rows: Sequence[Mapping[str, Any]], path: Path) -> list[Place]:
    places, optional = alternatives(name, columns)
    present = [place for place in places if any(look_up(row, place) is not ABSENT for row in rows)]
    if not present and not optional:
        raise SourceError(
            f"{setting}={name}: no such column in the first {len(rows)} rows of {path}."
            f"{nearest(name, columns)} Its columns: {', '.join(columns)}"
        )
    return places if len(present) > 1 or optional else present


def _guess(meaning: Meaning, mapping: RowMapping, columns: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Add what usual names say; a column that is something already is nothing else."""
    names = {re.sub(r"[\W_]+", "", column).casefold(): column for column in reversed(columns)}
    stated = mapping.columns.model_fields_set
    skipped = {"rating", "critique", "refinement"} if mapping.feedback else set()
    if mapping.columns.user or mapping.columns.assistant:
        skipped |= {"conversations"}
    if "reference" not in stated and (people := _of_people(columns, rows, meaning)):
        meaning["reference"] = (((people,),),)
    for role, usual in USUAL.items():
        asked = "conversations" in meaning and role in ("user", "assistant")
        if role in stated or role in meaning or role in skipped or asked:
            continue
        in_use = _in_use(meaning)
        one = next((names[name] for name in usual if name in names and names[name] not in in_use), None)
        several = _numbered(usual, names, in_use) if role in NUMBERED and one is None else []
        for column in [one] if one else several:
            meaning[role] = (*meaning.get(role, ()), ((column,),))


def _in_use(meaning: Meaning) -> set[str]:
    """The columns that are something already."""
    return {place[0] for places in meaning.values() for one in places for place in one}


def _of_people(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], meaning: Meaning) -> str | None:
    """VQA's `answers`: a list of what people answered, which are references and no model's answers."""
    named = (column for column in columns if column.casefold() == "answers" and column not in _in_use(meaning))
    return next((name for name in named if any(is_answers(opened_json(row.get(name))) for row in rows)), None)


def _numbered(usual: Sequence[str], names: Mapping[str, str], in_use: set[str]) -> list[str]:
    """`response_1, response_2` in the order of their numbers, where there are two or more."""
    for name in usual:
        numbers = {int(match[1]): column for key, column in names.items()
                   if (match := re.fullmatch(name + r"(\d{1,3})", key)) and column not in in_use}  # fmt: skip
        if len(numbers) > 1:
            return [numbers[number] for number in sorted(numbers)]
    return []


def _check(
    meaning: Meaning, mapping: RowMapping, columns: list[str], rows: Sequence[Mapping[str, Any]], path: Path
) -> None:
    listing = f"The columns of {path}: {', '.join(columns)}"
    if not {"user", "conversations", "captions"} & meaning.keys() and not (mapping.question or mapping.unpack):
        raise SourceError(
            f"expected a question, a conversation or a caption in each row, and no column has a usual name of one. "
            f"Say which it is: columns={{image: …, user: …, assistant: …}}. {listing}"
        )
    if "image" in meaning or "image" in mapping.columns.model_fields_set:
        return
    for column in columns:
        values = [row[column] for row in rows if row.get(column)]
        if values and all(isinstance(value, str) and _IMAGE_NAME.fullmatch(value) for value in values):
            raise SourceError(
                f"column {column!r} holds images, and none was taken for the image. Say so: columns={{image: "
                f"'{column}'}}, or columns={{image: null}} for text only. {listing}"
            )


def placed(meaning: Meaning, role: str) -> str:
    """A role's columns as a mapping states them, for messages."""
    return ", ".join("|".join(".".join(place) for place in one) for one in meaning.get(role, ()))
