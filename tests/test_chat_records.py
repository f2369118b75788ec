"""What people said becomes records and shards."""

from __future__ import annotations

from pathlib import Path

from conftest import png
from feedback_events import A, B, C, new, said, shown

from dress.chat.pictures import Pictures
from dress.chat.records import records
from dress.chat.shards import PER_SHARD, FeedbackShards
from dress.data.shards import Shards
from dress.feedback.answer_key import answer_key
from dress.feedback.human import HumanRater, read_words
from dress.feedback.journal import AnyEvent, EditEvent, FeedbackJournal
from dress.record import Dialogue, Feedback, Record, Turn


def folded(*events: AnyEvent) -> list[Record]:
    return [one.record for one in records(events, lambda key: Record(key=key))]


def test_what_was_said_becomes_a_dialogue_for_each_criterion() -> None:
    spans = [{"start": 0, "end": 6, "label": "x"}]
    events = [
        shown(A, picture=C), said(A, rating=1), said(A, rating=2, critique="Wrong.", refinement="Qb", spans=spans),
        shown(B, A, picture=C), said(B, rating=4, criterion="helpfulness"), said(B, rating=3, who="Bob"),
        EditEvent(id=new(), at="1", who="Ann", answer=A, text="Better."),
    ]  # fmt: skip
    (record,) = folded(*events)
    helpful, honest = record.dialogues
    assert record.image is not None and record.image.sha256 == C and record.key == f"chat-{C[:24]}"
    assert [turn.rating for turn in honest.turns] == [2, 3] and honest.turns[1].user == "Qb"
    assert honest.turns[0].feedback == [
        Feedback(criterion="honesty", rating=2, critique="Wrong.", refinement="Qb", annotator="human", spans=spans,
                 extra={"who": "Ann", "at": "t"})
    ]  # fmt: skip
    assert [turn.rating for turn in helpful.turns] == [None, 4]
    assert helpful.turns[0].feedback == [Feedback(criterion="helpfulness", annotator="none")]  # no model for others
    assert helpful.reference == honest.reference == "Better."


def test_each_answer_is_learned_from_once_and_better_ones_later_too() -> None:
    """Two answers follow one: what was said of that one stands in one of the dialogues."""
    events = [
        shown(A), said(A, rating=1), shown(B, A), said(B, rating=2), shown(C, A), said(C, rating=4),
        EditEvent(id=new(), at="1", who="Ann", answer=B, text="Better b."),
    ]  # fmt: skip
    (record,) = folded(*events)
    one, two, edited = record.dialogues
    assert [[turn.rating for turn in dialogue.turns] for dialogue in (one, two)] == [[1, 2], [None, 4]]
    assert (edited.turns[-1].assistant, edited.turns[-1].rating) == ("Better b.", 4)
    assert edited.turns[-1].provenance == {"responder": "human", "edited_from": B}
    assert edited.turns[0].rating is None and edited.reference is None


def test_what_is_taken_back_is_gone() -> None:
    events = [shown(A), said(A, rating=1), EditEvent(id=new(), at="1", who="Ann", answer=A, text="x")]
    assert folded(*events) != []
    assert folded(*events, said(A), EditEvent(id=new(), at="2", who="Ann", answer=A, text=None)) == []
    assert folded(shown(A)) == []  # nobody said anything
    assert said(A, critique="  ").critique is None


def test_the_rater_human_says_what_the_page_wrote(tmp_path: Path) -> None:
    dialogue = Dialogue(criterion="honesty", turns=[Turn(user="Qa", assistant="answer a")])
    name = answer_key(png(), dialogue)
    journal = FeedbackJournal(tmp_path)
    for event in (shown(name), said(name, rating=2, critique="Hm."), said(name, rating=4, criterion="helpfulness")):
        journal.append(event)
    journal.close()
    rater = HumanRater(read_words(str(tmp_path)))
    (feedback,) = rater.rate([(Record(key="x", image={"id": "y"}), dialogue)], [png()])
    assert (feedback.rating, feedback.critique, feedback.annotator) == (2, "Hm.", "human")


def test_a_word_writes_the_shard_of_its_record_again_and_no_other(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    names = [f"{number:064x}" for number in range(2 * PER_SHARD + 1)]
    events: list[AnyEvent] = []
    for number, name in enumerate(names):
        events += [shown(name, picture=pictures.keep(png() + number.to_bytes(2))), said(name, rating=2)]
    shards = FeedbackShards(tmp_path, pictures, lambda key: Record(key=key))
    assert shards.write(events) == len(Shards(tmp_path)) == len(names)
    files = sorted(tmp_path.glob("shard-*.tar"))
    before = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 3 and shards.write(events) == len(names)
    assert [file.stat().st_mtime_ns for file in files] == before
    events.append(said(names[PER_SHARD], rating=4))
    shards.write(events)
    after = [file.stat().st_mtime_ns for file in files]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
    ratings = [record.dialogues[0].turns[0].rating for record, _ in Shards(tmp_path)]
    assert ratings == [2] * PER_SHARD + [4] + [2] * PER_SHARD
    shards.write([*events, said(names[-1])])  # taken back: its record is gone, and the shard that held it alone
    assert len(Shards(tmp_path)) == 2 * PER_SHARD and not files[-1].exists()


def test_a_picture_that_is_judged_late_moves_no_record_to_another_shard(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    names = [f"{number:064x}" for number in range(PER_SHARD + 1)]
    events: list[AnyEvent] = [shown(name, picture=pictures.keep(png() + name.encode())) for name in names]
    events += [said(name, rating=2) for name in names[1:]]
    shards = FeedbackShards(tmp_path, pictures, lambda key: Record(key=key))
    assert shards.write(events) == PER_SHARD
    files = sorted(tmp_path.glob("shard-*.tar"))
    before = [file.stat().st_mtime_ns for file in files]
    assert shards.write([*events, said(names[0], rating=1)]) == len(Shards(tmp_path)) == PER_SHARD + 1
    after = [file.stat().st_mtime_ns for file in files]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]
