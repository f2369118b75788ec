"""The answers of a row, and what is said of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dress.config.rows import Markers, RowMapping, Scale
from dress.record import Criterion, Feedback
from dress.sources.protocol import RowError
from dress.sources.row_cells import RowCells, plain_text
from dress.sources.scales import mapped

CRITERIA: dict[str, Criterion] = {
    "helpfulness": "helpfulness", "helpful": "helpfulness",
    "honesty": "honesty", "honest": "honesty",
    "harmlessness": "harmlessness", "harmless": "harmlessness",
}  # fmt: skip
"""What a column's words mean without a mapping's `criteria`."""


@dataclass(frozen=True)
class Answer:
    """A text, what raters said of it, and which of a pair it is."""

    text: str
    feedback: list[Feedback] = field(default_factory=list)
    better: str | None = None
    responder: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def advice(self) -> str | None:
        """What a user would say next."""
        texts = [one.refinement for one in self.feedback] + [one.critique for one in self.feedback]
        return next((text for text in texts if text), None)

    @property
    def rated(self) -> bool:
        """Whether anybody gave a number."""
        return any(one.rating is not None for one in self.feedback)


@dataclass(frozen=True)
class _Rater:
    """What all feedback of a row shares."""

    cells: RowCells
    mapping: RowMapping
    criterion: Criterion | None
    annotator: str | None


def criterion_of(cells: RowCells, mapping: RowMapping) -> Criterion | None:
    """The criterion of a row.

    Raises:
        RowError: a word that is none.
    """
    word = cells.text("criterion")
    if word is None:
        return mapping.criterion
    words = CRITERIA | mapping.criteria
    criterion = words.get(word) or {name.casefold(): one for name, one in words.items()}.get(word.strip().casefold())
    if criterion is None:
        names = ", ".join(mapping.criteria or ("helpfulness", "honesty", "harmlessness"))
        raise RowError("unknown criterion", f"{cells.name('criterion')}: expected one of {names}, got {word!r:.80}")
    return criterion


def answers(cells: RowCells, mapping: RowMapping, criterion: Criterion | None, last: str | None = None) -> list[Answer]:
    """All answers of a row: of its own column or columns, and of a pair.

    Args:
        cells: the row.
        mapping: says what its ratings mean.
        criterion: of the row.
        last: the answer that ends its conversation.

    Raises:
        RowError: a rating, a list or a text that does not fit.
    """
    rater = _Rater(cells, mapping, criterion, cells.text("annotator") or mapping.annotator)
    value = last if last is not None else cells.value("assistant")
    several = isinstance(value, list) and not (value and all(_is_message(one) for one in value))
    texts = value if several else [value]
    plain = [None if one is None else plain_text(one, cells.name("assistant")) for one in texts]
    judged = _judged(rater, plain, several) if any(plain) else []
    pair = _pair(rater)
    if cells.has("assistant") and not judged and not pair:
        _refuse_feedback(cells)
    return judged + pair


def _refuse_feedback(cells: RowCells) -> None:
    """Raises RowError: something is said of an answer that is not there."""
    for role in ("rating", "critique"):
        if not _is_blank(cells.value(role)):
            expected = f"an answer beside {cells.name(role)}"
            raise RowError("no answer", f"{cells.name('assistant')}: expected {expected}, got none")


def _is_blank(value: Any) -> bool:
    return value in (None, "", []) or (isinstance(value, str) and value.isspace())


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and bool({"role", "from"} & value.keys())


def _judged(rater: _Rater, texts: list[str | None], several: bool) -> list[Answer]:
    cells, number = rater.cells, len(texts)
    feedback: list[list[Feedback]] = [[] for _ in texts]
    stated = [one.model_dump(include={"criterion", "annotator"}) | {"scale": one.scale, "prefix": f"feedback.{n}."}
              for n, one in enumerate(rater.mapping.feedback)]  # fmt: skip
    for one in stated or [{"criterion": None, "annotator": None, "scale": None, "prefix": ""}]:
        for place, comments in enumerate(_comments(rater, texts, several, one)):
            feedback[place] += comments
    better = cells.each("better_answer", number, several)
    responders = cells.each("responder", number, several)
    return [
        Answer(
            text,
            feedback[place],
            None if better[place] is None else plain_text(better[place], cells.name("better_answer")),
            None if responders[place] is None else plain_text(responders[place], cells.name("responder")),
        )
        for place, text in enumerate(texts)
        if text is not None
    ]


def _comments(rater: _Rater, texts: list[str | None], several: bool, stated: dict[str, Any]) -> list[list[Feedback]]:
    """Of each answer what one rater says under one criterion: one feedback or none."""
    cells, mapping, prefix = rater.cells, rater.mapping, stated["prefix"]
    number = len(texts)
    ratings, critiques, refinements = (
        cells.each(prefix + role, number, several) for role in ("rating", "critique", "refinement")
    )
    scale: Scale | None = stated["scale"] or mapping.rating
    better = _better(rater, prefix, number)
    feedback: list[list[Feedback]] = []
    for place, text in enumerate(texts):
        rating = original = None
        extra: dict[str, Any] = {}
        if text is None:
            if several and not all(_is_blank(values[place]) for values in (ratings, critiques)):
                expected = f"{number} answers, as many as are judged"
                raise RowError("no answer", f"{cells.name('assistant')}: expected {expected}, got none as {place + 1}")
            feedback.append([])
            continue
        if ratings[place] is not None:
            rating, original = mapped(ratings[place], scale, cells.name(prefix + "rating"))
            extra = {"rating": ratings[place]} if scale and scale.map else {}
        elif better is not None:
            rating = mapping.pair[0 if place == better else 1]
        critique, advice = _divided(
            _text(critiques[place], cells.name(prefix + "critique")),
            _text(refinements[place], cells.name(prefix + "refinement")),
            mapping.markers,
        )
        one = Feedback(
            criterion=stated["criterion"] or rater.criterion,
            rating=rating,
            critique=critique,
            refinement=advice,
            annotator=stated["annotator"] or rater.annotator,
            original=original,
            extra=extra,
        )
        feedback.append([one] if rating is not None or critique or advice else [])
    return feedback


def _text(value: Any, field: str) -> str | None:
    return None if value is None else plain_text(value, field)


def _divided(critique: str | None, advice: str | None, markers: Markers | None) -> tuple[str | None, str | None]:
    """Critique and refinement of a text that marks where each begins; any other stays as it is."""
    if critique is None or markers is None or markers.refinement not in critique:
        return critique, advice
    before, _, after = critique.partition(markers.refinement)
    head, marker, text = before.partition(markers.critique)
    text = text if marker else head
    return text.strip() or None, advice or after.strip() or None


def _better(rater: _Rater, prefix: str, number: int) -> int | None:
    """The place of the answer that a column names as the better one; None where it names none."""
    value = rater.cells.value(prefix + "better")
    if value is None:
        return None
    text = str(value).strip()
    if not text.isdigit() or not 1 <= int(text) <= number:
        expected = f"the number of an answer, 1-{number}"
        raise RowError("bad rating", f"{rater.cells.name(prefix + 'better')}: expected {expected}, got {value!r:.80}")
    return int(text) - 1


def _pair(rater: _Rater) -> list[Answer]:
    """The chosen and the rejected answer, rated as the mapping says; not rated where they are a tie."""
    cells = rater.cells
    texts = {role: cells.text(role) for role in ("chosen", "rejected")}
    if not any(texts.values()):
        return []
    missing = next((role for role, text in texts.items() if text is None), None)
    if missing:
        raise RowError("half a pair", f"{cells.name(missing)}: expected an answer beside the other one, got none")
    tie = cells.value("tie")
    if tie not in (None, True, False, "", 0, 1, "0", "1", "true", "false", "True", "False"):
        raise RowError("bad field", f"{cells.name('tie')}: expected true or false, got {tie!r:.80}")
    is_tie = str(tie).lower() in ("true", "1")
    if texts["chosen"] == texts["rejected"] and not is_tie:
        raise RowError("no difference", f"{cells.name('chosen')}, {cells.name('rejected')}: expected two answers, one "
                       f"better than the other; chosen and rejected are the same text")  # fmt: skip
    return [
        Answer(
            text,
            [
                Feedback(
                    criterion=rater.criterion,
                    rating=None if is_tie else rating,
                    critique=cells.text(f"{role}_critique"),
                    annotator=rater.annotator,
                )
            ],
            extra={"pair": "tie" if is_tie else role},
        )
        for (role, text), rating in zip(texts.items(), rater.mapping.pair, strict=True)
        if text is not None
    ]
