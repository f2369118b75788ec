"""Parts of an answer that a rater marked: read, weighed, kept, and where the raters here mark."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dress.coco.mentions import places
from dress.data.shards import Shards, write_shards
from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.feedback.rules import RuleRater
from dress.phases import supervised
from dress.record import Dialogue, Feedback, ImageAnnotation, MarkedSpan, Object, Record, RecordError, Turn
from dress.worlds.shapes import generate as shapes
from dress.worlds.shapes.rater import OracleRater


def marked(answer: str, *places: tuple[int, int], rating: int = 2) -> Record:
    spans = [MarkedSpan(start=start, end=end, label="invented") for start, end in places]
    feedback = Feedback(rating=rating, critique="It invents something.", spans=spans)
    return Record(key="r", dialogues=[Dialogue(turns=[Turn(user="q", assistant=answer, feedback=[feedback])])])


def test_spans_are_read_and_kept_and_none_are_needed(tmp_path):
    one, other = marked("A red dog.", (2, 5), (6, 9)), marked("A red dog.")
    other.key = "s"
    write_shards(tmp_path, [(one, None), (other, None)], 5)
    assert [record for record, _ in Shards(tmp_path)] == [one, other]
    assert b'"spans":[{"start":2,"end":5,"label":"invented"' in one.dump()
    without = other.dump().replace(b'"spans":[],', b"")
    assert without != other.dump() and Record.parse(without, "file") == other
    assert one.dialogues[0].turns[0].marked == ((2, 5), (6, 9))


@pytest.mark.parametrize("place", [(0, 11), (5, 5), (6, 2)])
def test_spans_outside_of_the_answer_are_refused(place):
    with pytest.raises(ValueError, match="expected 0 <= start < end <= 10, the characters of the answer"):
        marked("A red dog.", place)
    broken = marked("A red dog.", (0, 5)).dump().replace(b'"end":5', b'"end":50')
    with pytest.raises(RecordError, match=r"file: dialogues\.0\.turns\.0: .*characters of the answer, got 0 and 50"):
        Record.parse(broken, "file")


@pytest.fixture(scope="module")
def encoder(tokenizer) -> DialogueEncoder:
    return DialogueEncoder(tokenizer, FORMATS["plain"])


@given(st.text(st.sampled_from("ab é\n红😀"), min_size=1, max_size=12), st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_token_counts_as_what_is_marked_of_it(encoder, text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    plain = encoder.supervised(
        SupervisedDialogue("sft", (Span("user", "q"), Span("assistant", text, 1.0)), False), "", None
    )
    spans = (Span("user", "q"), Span("assistant", text, 1.0, marks=((start, end, 0.25),)))
    weighed = encoder.supervised(SupervisedDialogue("sft", spans, False), "", None)
    assert np.array_equal(plain.ids, weighed.ids)
    assert weighed.weights[-1] == 1.0  # the end of the answer
    low = np.flatnonzero(weighed.weights == 0.25)
    assert len(low) and np.array_equal(low, np.arange(low[0], low[-1] + 1))
    before = encoder.tokenizer.decode(plain.ids[: low[0]])
    through = encoder.tokenizer.decode(plain.ids[: low[-1] + 1])
    begin = len(through) - len(through.rpartition("<|assistant|>")[2])
    assert len(before) - begin <= start + 1 and len(through) - begin >= end  # with the blank of the format's gap


@pytest.mark.parametrize(("phase", "weight"), [("critique", 3.0), ("sft", 0.0)])
def test_phases_weigh_what_is_marked(encoder, phases, phase, weight):
    section = getattr(phases, phase).model_copy(update={"marked_weight": weight})
    (dialogue,) = supervised(marked("A red dog.", (2, 5)), {phase: 1.0}, phases.model_copy(update={phase: section}))
    encoded = encoder.supervised(dialogue, "", None)
    at = encoded.weights[-len(encoder.texts.encode(" A red dog.", False)) - 1 : -1]
    pieces = [encoder.tokenizer.decode([token]).strip() for token in encoder.texts.encode(" A red dog.", False)]
    assert {piece: float(value) for piece, value in zip(pieces, at, strict=True) if value != 1} == {"red": weight}


def test_the_oracle_marks_what_is_not_there():
    (record, _), *_ = shapes.samples("eval", 1, seed=0)
    (dialogue, *_) = (d for d in record.dialogues if d.extra["request"]["kind"] == "description")
    there = [one.label for one in record.annotation.objects]
    absent = next(f"{c} {s}" for c in ("red", "blue", "green") for s in ("circle", "square") if f"{c} {s}" not in there)
    colour, shape = absent.split()
    answer = f"I see  a {there[0]} and a {colour.title()}\n{shape}, a {absent}."
    asked = dialogue.model_copy(update={"turns": [Turn(user=dialogue.turns[0].user, assistant=answer)]})
    (feedback,) = OracleRater().rate([(record, asked)])
    texts = [answer[span.start : span.end] for span in feedback.spans]
    assert texts == [f"{colour.title()}\n{shape}", absent] and {span.label for span in feedback.spans} == {"invented"}


def test_the_rules_mark_what_is_not_there():
    record = Record(
        key="r", annotation=ImageAnnotation(objects=[Object(label="dog")], captions=["a dog"]),
        dialogues=[Dialogue(criterion="honesty", turns=[Turn(user="Describe the picture.")])],
    )  # fmt: skip
    answer = "A dog with a  Teddy-Bear. No cat, but TWO wine glasses; an\nelephant’s there"
    asked = record.dialogues[0].model_copy(update={"turns": [Turn(user="Describe the picture.", assistant=answer)]})
    (feedback,) = RuleRater().rate([(record, asked)])
    assert [answer[span.start : span.end] for span in feedback.spans] == ["Teddy-Bear", "wine glasses", "elephant"]
    denied = [one.label for one in places(answer) if not one.there]
    assert denied == ["cat"]
