"""Inspection: the figures are those of the set, what repeats and what leaks is found, the page opens offline."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import webdataset
from conftest import ROOT, composed
from hypothesis import given
from hypothesis import strategies as st
from pages import Parsed
from PIL import Image
from rich.console import Console

from dress.base.files import read_json, read_lines
from dress.config import ConfigError
from dress.data.shards import Sample, write_shards
from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.image import ImageLayout
from dress.dialogue.spans import Span
from dress.dialogue.tokenizer import save_tokenizer
from dress.inspection.inspecting import Inspection
from dress.inspection.texts import image_name, normalised
from dress.record import Dialogue, Feedback, ImageRef, Record, Turn
from dress.run.composing import compose
from dress.run.preparing import task
from dress.worlds.shapes import generate as shapes

PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))


def picture(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 90, 200)).save(data, "PNG")
    return data.getvalue()


def rated(criterion: Any, question: str, *ratings: int | None, advice: str = "Better.") -> Dialogue:
    """A dialogue with one answer per rating; None is an answer without one."""
    turns = []
    for number, rating in enumerate(ratings):
        said = [Feedback(rating=rating, critique=f"worth {rating}", refinement=advice)] if rating else []
        turns.append(Turn(user=advice if number else question, assistant=f"Answer {number}.", feedback=said))
    return Dialogue(criterion=criterion, turns=turns)


def about(key: str, *dialogues: Dialogue, image: str | None = None, **more: Any) -> Record:
    return Record(key=key, image=ImageRef(id=image or f"{key}.png"), dialogues=list(dialogues), **more)


def run(path: Path | str, *overrides: str, **more: Any) -> tuple[Inspection, str]:
    """`python src/prepare.py task=inspect path=…`, without lengths unless asked for."""
    given_ = [f"path={path}", *(f"{name}={value}" for name, value in more.items()), *overrides]
    lengths = [] if any(text.startswith(("lengths", "scale")) for text in given_) else ["lengths=false"]
    settings, inspect_ = task(compose("prepare", ["task=inspect", *lengths, *given_]))
    console = Console(record=True, width=200, file=io.StringIO())
    return inspect_(settings, console), console.export_text()


# --- what the set holds ------------------------------------------------------------------------


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    samples: list[Sample] = [
        (about("a", rated("honesty", "What?", 1, 3, 4), rated("honesty", "Who?", 2), source="x"), picture(1)),
        (about("b", rated("honesty", "What else?", 4, 2), rated("helpfulness", "Why?", None, 4)), picture(2)),
        (about("c", rated(None, "Hm?", 3)), picture(3)),
    ]
    write_shards(tmp_path / "judged", samples)
    return tmp_path / "judged"


def test_counts_by_source_criterion_turn_and_rating(judged: Path) -> None:
    found, text = run(judged)
    counts = found.counts[""]
    assert (counts.records, counts.dialogues, counts.questions, counts.answers) == (3, 5, 9, 9)
    assert counts.table() == {
        "helpfulness": {"0": [0, 0, 0, 0, 1], "1": [0, 0, 0, 1, 0]},
        "honesty": {"0": [1, 1, 0, 1, 0], "1": [0, 1, 1, 0, 0], "2": [0, 0, 0, 1, 0]},
        "none": {"0": [0, 0, 1, 0, 0]},
    }
    assert dict(counts.criteria) == {"honesty": 3, "helpfulness": 1, "none": 1}
    assert dict(counts.sources) == {"x": 1, "none": 2}
    assert re.search(r"honesty +0 +1 +1 +0 +1 +0 +2\.33", text)


def test_advice_is_judged_by_the_dialogues_that_have_both_ratings(judged: Path) -> None:
    found, text = run(judged)
    assert found.counts[""].changes == {"honesty": {0: {(1, 3): 1, (4, 2): 1}, 1: {(3, 4): 1}}}
    # 1, 4 before and 3, 2 after; the answer rated 2 that nobody followed up does not count. Student's t of two changes.
    assert re.search(r"honesty +0 → 1 +2 +2\.50 → 2\.50 +\+0\.00 ± 25\.41 +50 % / 0 % / 50 %", text)
    assert re.search(r"honesty +1 → 2 +1 +3\.00 → 4\.00 +\+1\.00 ± 0\.00 +100 % / 0 % / 0 %", text)


def test_an_answer_that_is_rated_for_several_criteria_counts_for_each(tmp_path: Path) -> None:
    said = [Feedback(criterion="honesty", rating=1), Feedback(criterion="helpfulness", rating=4)]
    several = Dialogue(criterion="honesty", turns=[Turn(user="What?", assistant="It.", feedback=said)])
    write_shards(tmp_path / "d", [(about("a", several), picture(1))])
    assert run(tmp_path / "d")[0].counts[""].table() == {
        "helpfulness": {"0": [0, 0, 0, 1, 0]}, "honesty": {"0": [1, 0, 0, 0, 0]},
    }  # fmt: skip


def test_splits_are_told_apart(shapes_folder: Path) -> None:
    found, text = run(shapes_folder)
    assert {split: counts.records for split, counts in found.counts.items()} == dict.fromkeys(sorted(shapes.SPLITS), 30)
    assert re.search(r"images of eval that stand in another split +0", text)


# --- lengths -----------------------------------------------------------------------------------


def test_lengths_are_those_that_training_counts(judged: Path, tmp_path: Path, tokenizer: Any) -> None:
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    found, text = run(judged, lengths=True, tokenizer=tmp_path)
    lengths = found.lengths
    assert lengths is not None and lengths.scale.image_tokens == 9
    encoder = DialogueEncoder(tokenizer, FORMATS["plain"])
    whole = []
    for counts in (d for item in found.data for d in item.record.dialogues):
        spans = [s for t in counts.turns for s in (Span("user", t.user), Span("assistant", t.assistant or ""))]
        whole.append(len(encoder.prompt(spans, ImageLayout((9,))).ids) - 9)
    assert sorted(lengths.by_kind["dialogue"].elements()) == sorted(whole)
    assert lengths.by_kind["answer"].total() == 9 and lengths.by_kind["critique"].total() == 8
    assert lengths.summary()["answer"]["longest"] == len(tokenizer.encode(" Answer 0."))
    assert "An image adds 9 tokens" in text and f"tokenizer: {tmp_path / 'tokenizer.json'}" in text


def test_a_tokenizer_is_trained_on_the_set_where_the_scale_has_none(judged: Path) -> None:
    fine, _ = run(judged, lengths=True)
    coarse, _ = run(judged, "model.tokenizer.vocabulary=260", lengths=True)
    assert fine.lengths is not None and coarse.lengths is not None
    assert fine.lengths.summary()["answer"]["median"] < coarse.lengths.summary()["answer"]["median"]
    assert coarse.lengths.scale.tokenizer.vocab_size == 260
    assert composed().model.language.chat == "auto" and fine.lengths.scale.chat.name == "plain"


def test_the_evaluation_split_trains_no_tokenizer(judged: Path, tmp_path: Path) -> None:
    strange = rated("honesty", "zyxwvut zyxwvut zyxwvut", 1)
    write_shards(tmp_path / "d" / "eval", [(about(f"e{n}", strange), picture(n)) for n in range(9)])
    alone, _ = run(tmp_path / "d" / "eval", lengths=True)
    shutil.copytree(judged, tmp_path / "d" / "sft")
    beside, _ = run(tmp_path / "d", lengths=True)
    assert alone.lengths is not None and beside.lengths is not None
    assert "Ġzyxwvut" in alone.lengths.scale.tokenizer.get_vocab()
    assert "Ġzyxwvut" not in beside.lengths.scale.tokenizer.get_vocab()


def test_dialogues_that_are_too_long_to_train_on_are_counted(tmp_path: Path) -> None:
    long = rated("honesty", "What?", 1).model_copy(update={"reference": None})
    long.turns[0].assistant = " ".join(str(number) for number in range(4096))
    write_shards(tmp_path / "d", [(about("a", long, rated("honesty", "What?", 1)), picture(1))])
    found, text = run(tmp_path / "d", "lengths=true")
    assert found.lengths is not None and found.lengths.too_long == 1
    assert "Dialogues that are then longer than 4,096: 1." in text


def test_a_scale_whose_folders_are_not_there_says_how_to_make_them(
    judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"models/SmolLM2.*make photos"):
        run(judged, "scale=small")


def test_settings_that_do_not_fit_are_named(judged: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.tokenizer\.vocab: no such setting\. Did you mean model"):
        run(judged, "model.tokenizer.vocab=5")
    with pytest.raises(ConfigError, match="leaked_by"):
        run(judged, leaked_by="name")
    with pytest.raises(ValueError, match="expected a run folder or a tokenizer"):
        run(judged, lengths=True, tokenizer=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="expected shards or rows"):
        run(tmp_path / "nowhere")


# --- missing and repeated ----------------------------------------------------------------------


def test_what_is_missing_or_repeated_is_found(tmp_path: Path) -> None:
    asked = rated("honesty", "What is it?", 1)
    other = Dialogue(turns=[Turn(user="What is it?", assistant="Another answer.")])
    samples: list[Sample] = [
        (about("a", asked, other, asked), picture(1)),
        (about("b", rated("honesty", "WHAT is  it", 2)), picture(1)),
        (about("lost", rated("honesty", "Where?", 1)), None),
        (about("cut"), picture(2)[:40]),
        (Record(key="wrong", image=ImageRef(id="wrong.png", sha256="0" * 64)), picture(3)),
        (Record(key="text", dialogues=[asked]), None),
    ]
    write_shards(tmp_path / "d" / "one", samples)
    write_shards(tmp_path / "d" / "two", [(about("a", asked), picture(1))])  # another split: no repetition
    with webdataset.TarWriter(str(tmp_path / "d" / "two" / "bad.tar"), encoder=False) as writer:
        writer.write({"__key__": "x", "json": b"{}", "pkl": b"."})
        writer.write({"__key__": "a", "json": about("a").dump(), "png": picture(4)})
    found, text = run(tmp_path / "d", out=tmp_path / "out")
    assert dict(found.findings.counts) == {
        "same question, same image": 2,
        "same question and answers": 1,
        "same image": 1,
        "nearly the same question": 1,
        "image missing": 1,
        "image unreadable": 1,
        "image differs": 1,
    }
    assert (
        len(found.data.damage) == 3
        and "shard-000000.tar: a: expected each key once" in " ".join(found.data.damage)
        and ".pkl" in text
        and "cannot be read" in text
    )
    written = read_json(tmp_path / "out" / "inspect.json")
    assert written["findings"]["image missing"]["first"] == ["one/lost: lost.png"]
    assert written["findings"]["same image"]["first"] == ["one/b and a"]
    assert "picture not here: lost.png" in (tmp_path / "out" / "inspect.html").read_text()


def test_images_of_eval_that_were_trained_on_are_counted(tmp_path: Path) -> None:
    write_shards(tmp_path / "d" / "eval", [(about("a"), picture(1)), (about("b"), picture(2))])
    write_shards(tmp_path / "d" / "sft", [(about("c", image="train2017/b.jpg"), picture(2))])
    assert re.search(r"images of eval that stand in another split +1", run(tmp_path / "d")[1])


# --- leakage -----------------------------------------------------------------------------------


@given(st.text(max_size=40))
def test_normalising_is_stable_and_blind_to_case_and_punctuation(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once
    assert normalised(f" {text}?!\n") == once


def test_what_names_an_image_is_its_number_in_coco_and_its_stem_elsewhere() -> None:
    names = ["000000151112.jpg", "train2017/000000151112.jpg", "COCO_train2014_000000151112.jpg"]
    assert {image_name(ImageRef(id=name)) for name in names} == {"000000151112"}
    assert image_name(ImageRef(id="folder/a.b.png")) == "a.b"


@pytest.fixture
def leaking(tmp_path: Path) -> tuple[Path, Path]:
    """Five dialogues, of which one stands letter for letter in the other set, one nearly, one on the same image."""
    mine = [
        about("a", rated("honesty", "Where is the cat?", 4, 4)),
        about("b", rated("honesty", "WHERE is the dog", 1, 1)),
        about("c", rated("honesty", "Where is the cow?", 2, 4), image="shared.png"),
        about("d", rated("honesty", "Where is the fox?", 1, 3), image="other.png"),
        about("e", rated("helpfulness", "Where is the elk?", 3, 3, advice="Where is the bee?")),
    ]
    theirs = [
        about("x", rated("honesty", "Where is the cat?", 1), rated("honesty", "Where is the dog?", 1)),
        about("y", rated("honesty", "Where is the owl?", 1), image="train/shared.jpg"),
        about("z", rated("honesty", "where is the fox", 1), image="other.png"),
        about("w", rated("honesty", "Where is the bee?", 1)),
    ]
    write_shards(tmp_path / "mine", [(record, picture(n)) for n, record in enumerate(mine)])
    write_shards(tmp_path / "theirs", [(record, picture(100 + n)) for n, record in enumerate(theirs)])
    return tmp_path / "mine", tmp_path / "theirs"


@pytest.mark.parametrize(
    ("by", "leaked"),
    [("text", "abd"), ("image", "cd"), ("text_and_image", "d"), ("any", "abcd")],
)
def test_leaked_dialogues_are_listed(by: str, leaked: str, leaking: tuple[Path, Path], tmp_path: Path) -> None:
    found, text = run(leaking[0], other=leaking[1], leaked_by=by, out=tmp_path / "out")
    rows = read_lines(tmp_path / "out" / "leaked.jsonl")
    clean = read_lines(tmp_path / "out" / "clean.jsonl")
    assert "".join(row["key"] for row in rows) == leaked
    assert "".join(sorted(row["key"] for row in rows + clean)) == "abcde"
    ways = {row["key"]: row["leak"] for row in rows + clean}
    assert ways == {
        "a": ["verbatim", "normalised"], "b": ["normalised"], "c": ["image"],
        "d": ["normalised", "image", "text_and_image"], "e": [],  # its second text is advice, no question
    }  # fmt: skip
    assert f"{len(leaked)} of 5" in text and found.leakage is not None
    assert found.leakage.leaked.dialogues + found.leakage.clean.dialogues == 5


def test_full_and_clean_figures_stand_side_by_side(leaking: tuple[Path, Path]) -> None:
    _, text = run(leaking[0], other=leaking[1])
    assert re.search(r"dialogues +5 +2 +3", text)
    assert re.search(r"dialogues: helpfulness +1 +1 +0", text)
    # honesty at turn 0: 4, 1, 2, 1 in all; the cow's 2 is clean; 4, 1, 1 leaked
    assert re.search(r"honesty, turn 0: mean rating +2\.00 \(n 4\) +2\.00 \(n 1\) +2\.00 \(n 3\)", text)
    assert re.search(r"honesty, turn 1: mean rating +3\.00 \(n 4\) +4\.00 \(n 1\) +2\.67 \(n 3\)", text)


def test_equal_bytes_are_the_same_image_under_any_name(tmp_path: Path) -> None:
    write_shards(tmp_path / "mine", [(about("a", rated("honesty", "Q?", 1)), picture(1))])
    write_shards(tmp_path / "theirs", [(about("z", rated("honesty", "R?", 1)), picture(1))])
    found, _ = run(tmp_path / "mine", other=tmp_path / "theirs")
    assert found.leakage is not None and found.leakage.ways["image"] == 1


def test_rows_of_anybody_are_read_as_far_as_they_hold_questions(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A bus."}]
    turn = {"user": "What is it?", "model": "A car.", "rating": "2", "critique NLF": "No."}
    rows = {
        "a": [{"image_id": "1.jpg", "caption": "A bus", "query": "What is it?"}],
        "b": [{"id": "1", "image": "1.jpg", "conversations": said}],
        "honesty_nlf": [{"image_id": "1.jpg", "caption": [], "interaction": [turn]}],
        "d": [json.loads(about("k", rated("honesty", "What is it?", 1)).dump()), {"nothing": 1}, ["no row"]],
        "e": [{"question_id": 1, "image": "1.jpg", "text": "What is it?", "label": "yes"}],
    }
    (tmp_path / "rows").mkdir()
    for name, table in rows.items():
        (tmp_path / "rows" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    (tmp_path / "mine.jsonl").write_text(json.dumps({"query": "What is it?"}) + "\n")
    found, _ = run(tmp_path / "rows", other=tmp_path / "mine.jsonl")
    assert found.leakage is not None and found.leakage.leaked.dialogues == found.leakage.all.dialogues == 5
    assert found.counts["honesty_nlf"].table() == {"honesty": {"0": [0, 1, 0, 0, 0]}}
    assert [what.split(": ")[0] for what in found.data.damage] == [f"{tmp_path}/rows/d.jsonl:{line}" for line in (2, 3)]
    (tmp_path / "bad.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl: expected rows with users' texts.*got name"):
        run(tmp_path / "bad.jsonl")


@pytest.mark.public_data
@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
def test_the_real_leak_of_vlsafe(tmp_path: Path) -> None:
    mine, theirs = PUBLIC / "coco_vlsafe" / "harmlessness_examine.jsonl", PUBLIC / "vlsafe"
    found, text = run(mine, other=theirs, out=tmp_path / "out")
    assert re.search(r"same question, letter for letter +83 of 700 +11\.9 %", text)
    known = {row["query"] for row in read_lines(theirs / "harmlessnss_alignment.jsonl")}
    leaked = read_lines(tmp_path / "out" / "leaked.jsonl")
    verbatim = {row["user"] for row in leaked if "verbatim" in row["leak"]}
    assert verbatim == {row["query"] for row in read_lines(mine)} & known
    assert len(leaked) + len(read_lines(tmp_path / "out" / "clean.jsonl")) == 700
    assert found.leakage is not None and found.leakage.ways["image"] == 0


# --- the page ----------------------------------------------------------------------------------


def test_the_page_shows_24_records_and_fetches_nothing(shapes_folder: Path, tmp_path: Path) -> None:
    run(shapes_folder / "sft", lengths=True, out=tmp_path / "out")
    page = Parsed((tmp_path / "out" / "inspect.html").read_text())
    assert (len(page.cards), len(page.attributes("img")), page.fetched(), page.open) == (24, 24, [], [])


def test_the_page_shows_turns_ratings_and_critiques_as_text(tmp_path: Path) -> None:
    evil = rated("honesty", "<script>alert(1)</script>", 2, 4, advice="Say & see <b>more</b>.")
    write_shards(tmp_path / "d", [(about("a", evil, *(rated(None, f"Q{n}", 1) for n in range(4))), picture(1))])
    run(tmp_path / "d", out=tmp_path / "out")
    page = Parsed((tmp_path / "out" / "inspect.html").read_text())
    (card,) = page.cards
    assert "<script>alert(1)</script>" in card and len(page.code) == 1
    for shown in ("rated 2 of 4", "rated 4 of 4", "worth 2", "Say & see <b>more</b>.", "3 more dialogues"):
        assert shown in card
    assert page.fetched() == []


def test_equal_sets_give_equal_pages_and_the_sample_does_not_depend_on_order(judged: Path, tmp_path: Path) -> None:
    samples = [(about(f"k{number}", rated("honesty", f"Q{number}", 1)), picture(number)) for number in range(60)]
    write_shards(tmp_path / "one", samples)
    write_shards(tmp_path / "two", reversed(samples))
    first, _ = run(tmp_path / "one", samples=5)
    second, _ = run(tmp_path / "two", samples=5)
    smallest = sorted((f"k{n}" for n in range(60)), key=lambda key: hashlib.sha256(key.encode()).digest())[:5]
    assert [item.record.key for item in first.samples] == [item.record.key for item in second.samples] == smallest
    pages = []
    for out in ("x", "y"):
        run(judged, out=tmp_path / out)
        pages.append({file.name: file.read_bytes() for file in (tmp_path / out).iterdir()})
    assert pages[0] == pages[1]
