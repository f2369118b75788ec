"""LVLM_NLF: dialogues over COCO photos with GPT-4's ratings, critiques and refinements.

A row is `image_id, caption, interaction [{user, model, rating: "4", "critique NLF"}]`; the refinement of a
turn is the `user` of the next. `row_of` gives the row back as it was: what a record has no field for
(spellings, order of keys, unknown fields, the caption as it stood) is kept in `extra.lvlm_nlf` of dialogue
and turn, and a row that would not come back equal is rejected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dress.record import PUBLISHED_ROW, TOP_RATING, Criterion, Dialogue, Feedback, ImageAnnotation, Record, Turn
from dress.sources.fields import plain_path, rating
from dress.sources.protocol import Part, Place, RowError, RowFile, Source
from dress.sources.row_files import row_files_of

CRITERIA_OF_FILES: dict[str, Criterion] = {
    "helpfulness": "helpfulness",
    "honesty": "honesty",
    "hallucination": "honesty",  # the name that the publisher's repository has
    "harmlessness": "harmlessness",
}
ROW = ("image_id", "caption", "interaction")
SYSTEM = "system"
"""Ours, where a dialogue has a system text: the published rows have none."""
TURN = ("user", "model", "rating", "critique NLF")
CRITIQUES = ("critique NLF", "critique_NLF")


class LVLMNLF(Source):
    """See `protocol.Source`. Unless `splits=` asks for `eval`, nothing is held out: the rows stay together."""

    name = "lvlm_nlf"
    splits = ("align", "prompts", "feedback", "eval")
    usual = ("feedback",)

    def row_files(self, path: Path) -> list[RowFile]:
        """`{helpfulness,honesty or hallucination,harmlessness}_nlf.jsonl`, one of them at least.

        Raises:
            SourceError: none of them is there.
        """
        # The publisher's repository has a folder of its own name.
        patterns = [f"{folder}{name}_nlf.jsonl" for name in CRITERIA_OF_FILES for folder in ("", "LVLM_NLF/")]
        return row_files_of(path, *patterns)

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """One dialogue about one photo.

        Raises:
            RowError: a field is missing or of another kind, or a rating is none of 1-4.
            ValidationError: a text is no text.
        """
        if not isinstance(value, dict):
            raise RowError("bad field", f"row: expected an object, got {value!r:.80}")
        image = plain_path(value.get("image_id"), "image_id")
        criterion = _criterion(place.file)
        dialogue = _dialogue(value, place, criterion)
        _check_lossless(value, image, dialogue)
        key = f"coco-{image[:12]}" if re.fullmatch(r"\d{12}\.jpg", image) else None
        source = f"{self.name}/{criterion}" if criterion else self.name
        annotation = ImageAnnotation(captions=list(dict.fromkeys(_captions(value))))
        yield Part(image=image, key=key, source=source, annotation=annotation, dialogues=[dialogue])


def caption_of(record: Record, dialogue: Dialogue) -> str | list[str] | None:
    """The caption beside a dialogue as the publishers write it: a text with harmful requests, else a list."""
    captions = record.annotation.captions
    if not captions:
        return None
    return captions[0] if dialogue.criterion == "harmlessness" else captions


def row_of(image_id: str, dialogue: Dialogue, caption: str | list[str] | None = None) -> dict[str, Any]:
    """The row that a dialogue came from, or, of any other dialogue, the row that it would be.

    Of the feedback on an answer a row has place for one rating and one critique.

    Args:
        image_id: of the record's image.
        dialogue: all of its turns are answered.
        caption: stands for the row's where the dialogue came from elsewhere.
    """
    rest = dialogue.extra.get(PUBLISHED_ROW, {})
    values = {
        "image_id": rest.get("image_id", image_id),
        "caption": rest.get("caption", caption),
        "interaction": [_turn_row(turn, dialogue.criterion) for turn in dialogue.turns],
    } | rest.get("more", {})
    if dialogue.system is not None:
        values[SYSTEM] = dialogue.system
    return _ordered(values, ROW if SYSTEM in rest.get("more", {}) else (*ROW, SYSTEM), rest)


def feedback_of(turn: Turn, criterion: Criterion | None) -> Feedback | None:
    """The one feedback that a row has place for: the first of the dialogue's criterion, else the first."""
    return next((f for f in turn.feedback if f.criterion == criterion), next(iter(turn.feedback), None))


def _criterion(file: str) -> Criterion | None:
    return CRITERIA_OF_FILES.get(Path(file).name.partition("_")[0])


def _captions(row: dict[str, Any]) -> list[str]:
    """Raises RowError: neither a text nor texts."""
    caption = row.get("caption")
    captions = [] if caption is None else [caption] if isinstance(caption, str) else caption
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise RowError("bad field", f"caption: expected a text or a list of texts, got {caption!r:.80}")
    return [text for text in captions if text.strip()]


def _dialogue(row: dict[str, Any], place: Place, criterion: Criterion | None) -> Dialogue:
    turns = row.get("interaction")
    if not isinstance(turns, list) or not turns:
        raise RowError("bad field", f"interaction: expected a list of turns, got {turns!r:.80}")
    for number, turn in enumerate(turns):
        where = f"interaction.{number}"
        if not isinstance(turn, dict):
            raise RowError("bad field", f"{where}: expected an object, got {turn!r:.80}")
        for name in ("user", "model"):
            if not isinstance(turn.get(name), str):
                raise RowError("bad field", f"{where}.{name}: expected a text, got {turn.get(name)!r:.80}")
        if not turn["user"].strip():
            raise RowError("empty text", f"{where}.user: expected a text, got {turn['user']!r:.80}")
    refinements = [*(turn["user"] for turn in turns[1:]), None]
    more = {name: value for name, value in row.items() if name not in ROW}
    rest = {"file": place.file, "row": place.number, "caption": row.get("caption")}
    if row["image_id"] != plain_path(row["image_id"], "image_id"):
        rest["image_id"] = row["image_id"]
    return Dialogue(
        criterion=criterion,
        system=row[SYSTEM] if isinstance(row.get(SYSTEM), str) else None,
        turns=[
            _turn(turn, criterion, refinement, f"interaction.{number}")
            for number, (turn, refinement) in enumerate(zip(turns, refinements, strict=True))
        ],
        extra={PUBLISHED_ROW: rest | _deviations(row, ROW, more)},
    )


def _turn(row: dict[str, Any], criterion: Criterion | None, refinement: str | None, where: str) -> Turn:
    spelling = next((name for name in CRITIQUES if name in row), CRITIQUES[0])
    score = row.get("rating")
    number = None if score is None else rating(score, 1, TOP_RATING, f"{where}.rating")[0]
    more = {name: value for name, value in row.items() if name not in ("user", "model", "rating", spelling)}
    rest = _deviations(row, TURN, more)
    if score is not None and score != str(number):
        rest["rating"] = score
    feedback = Feedback(
        criterion=criterion,
        rating=number,
        critique=row.get(spelling),
        refinement=refinement,
        annotator="gpt-4",  # says the data card
    )
    extra = {PUBLISHED_ROW: rest} if rest else {}
    return Turn(user=row["user"], assistant=row["model"], feedback=[feedback], extra=extra)


def _deviations(row: dict[str, Any], usual: Sequence[str], more: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a row or a turn beside the values of its usual fields."""
    rest: dict[str, Any] = {"more": more} if more else {}
    if list(row) != list(_ordered(row, usual, rest)):
        rest["order"] = list(row)
    return rest


def _ordered(values: dict[str, Any], usual: Sequence[str], rest: dict[str, Any]) -> dict[str, Any]:
    """The fields as they stood; without a note of that the usual ones that are not null, then the others."""
    names = [*(name for name in usual if values.get(name) is not None), *rest.get("more", ())]
    order = rest.get("order", names)
    return {name: values[name] for name in [*order, *(name for name in names if name not in order)]}


def _turn_row(turn: Turn, criterion: Criterion | None) -> dict[str, Any]:
    rest = turn.extra.get(PUBLISHED_ROW, {})
    feedback, more = feedback_of(turn, criterion) or Feedback(), rest.get("more", {})
    score = None if feedback.rating is None else str(feedback.rating)
    if "rating" in rest and rating(rest["rating"], 1, TOP_RATING)[0] == feedback.rating:
        score = rest["rating"]
    spelling = next((name for name in CRITIQUES if name in rest.get("order", ()) and name not in more), CRITIQUES[0])
    values = {"user": turn.user, "model": turn.assistant, "rating": score, spelling: feedback.critique}
    return _ordered(values | more, (*TURN[:3], spelling), rest)


def _check_lossless(row: dict[str, Any], image_id: str, dialogue: Dialogue) -> None:
    """Raises RowError: what is written would not give the row back (NaN, 1e999, half a surrogate pair …)."""
    try:
        again = row_of(image_id, Dialogue.model_validate_json(dialogue.model_dump_json()))
    except ValueError as error:
        raise RowError("broken text", f"expected Unicode text and plain JSON ({error})") from None
    if json.dumps(again) != json.dumps(row):
        raise RowError("cannot be kept", "expected plain JSON, got a row that does not come back equal")
