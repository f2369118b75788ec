"""The mappings of configs/source/, each on small files of our own in the published columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from huggingface_hub import DatasetCard
from imports import import_table, json_lines, mapping_of, photo, photos, reasons, records
from rich.console import Console
from test_own_rows import parquet

from dress.base.files import read_json
from dress.config.rows import Format, RowMapping
from dress.config.tasks import Export
from dress.exports.export_task import run as export
from dress.record import Dialogue
from dress.sources import SOURCES

IMAGE = {"bytes": photo(1), "path": "a.jpg"}


def judged(name: str, path: Path, out: Path, **more: Any) -> list[Dialogue]:
    """The judged dialogues of an import with a set's mapping."""
    import_table(path, out, mapping_of(name), held_out=0, **more)
    found = records(out, "feedback")
    assert {record.source for record in found} == {name}
    return [dialogue for record in found for dialogue in record.dialogues]


def said(dialogues: list[Dialogue]) -> list[tuple[str | None, int | None, str | None]]:
    """Answer, rating and critique of each last turn."""
    return [(d.turns[-1].assistant, d.turns[-1].rating, d.turns[-1].critique) for d in dialogues]


PAIR = {"question": "What is it?", "chosen": "A dog.", "rejected": "A cat."}
BOTH = [("A dog.", 4, None), ("A cat.", 1, None)]


def test_rlaif_v_and_rlhf_v(tmp_path: Path) -> None:
    about = {
        "ds_name": "d",
        "image": IMAGE,
        "origin_dataset": "o",
        "origin_split": "{}",
        "idx": 3,
        "image_path": "a.jpg",
    }
    flat = judged("rlaif_v", parquet(tmp_path / "a" / "data" / "x.parquet", about | PAIR).parents[1], tmp_path / "o1")
    nested = about | {"text": json.dumps(PAIR)}
    inside = judged("rlhf_v", parquet(tmp_path / "b" / "x.parquet", nested), tmp_path / "o2")
    assert said(flat) == said(inside) == BOTH
    assert {d.criterion for d in flat + inside} == {"honesty"}
    assert flat[0].extra == inside[0].extra == {"ds_name": "d", "origin_dataset": "o", "origin_split": "{}", "idx": 3}


def test_spa_vl_with_its_splits_in_folders(tmp_path: Path) -> None:
    photos(tmp_path / "in" / "images", "1.jpg", "2.jpg")
    for folder, image in (("default", "1.jpg"), ("test", "2.jpg")):
        json_lines(tmp_path / "in" / folder / "rows.jsonl", [{"id": 1, "image": image} | PAIR])
    dialogues = judged("spa_vl", tmp_path / "in", tmp_path / "out", images=str(tmp_path / "in" / "images"))
    assert said(dialogues) == BOTH and dialogues[0].criterion == "harmlessness" and dialogues[0].extra == {"id": 1}
    assert [record.key for record in records(tmp_path / "out", "eval")] == ["2"]


def test_mmpr_by_its_listing_of_files_and_folders_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "MMPR"
    photos(folder / "images", "one/a.jpg", "two/a.jpg")
    listing = {}
    for name in ("one", "two"):
        json_lines(folder / "annotations" / f"{name}.jsonl", [{"image": "a.jpg"} | PAIR])
        listing[name] = {"root": f"MMPR/images/{name}", "annotation": f"MMPR/annotations/{name}.jsonl",
                         "data_augment": False, "repeat_time": 1, "length": 1}  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(listing))
    assert said(judged("mmpr", folder, tmp_path / "out")) == BOTH * 2
    names = {record.image.id for record in records(tmp_path / "out", "feedback") if record.image}
    assert names == {"MMPR/images/one/a.jpg", "MMPR/images/two/a.jpg"}


def test_beavertails_v_has_an_answer_that_helps_more_and_one_that_is_safer(tmp_path: Path) -> None:
    row = {"question": "How?", "image": IMAGE, "response_1": "So.", "response_2": "No.", "more_helpful_response_id": 1,
           "safer_response_id": 2, "response_1_harmless_rate": -2, "response_2_harmless_rate": 3}  # fmt: skip
    bad = row | {"image": {"bytes": photo(2), "path": "b.jpg"}, "safer_response_id": 3}
    dialogues = judged("beavertails_v", parquet(tmp_path / "x.parquet", row, bad), tmp_path / "out")
    rated = [[(f.criterion, f.rating) for f in d.turns[0].feedback] for d in dialogues]
    assert rated == [[("helpfulness", 4), ("harmlessness", 1)], [("helpfulness", 1), ("harmlessness", 4)]]
    assert reasons(tmp_path / "out") == ["bad rating"]
    assert dialogues[0].extra == {"response_1_harmless_rate": -2, "response_2_harmless_rate": 3}


def critic(judge: str, verdict: str, number: int = 1) -> dict[str, Any]:
    image = {"bytes": photo(number), "path": f"{number}.jpg"}
    return {"id": number, "source": "s", "image": image,
            "conversations": [{"from": "human", "value": judge}, {"from": "gpt", "value": verdict}]}  # fmt: skip


def test_llava_critic_has_question_answer_and_score_inside_of_texts(tmp_path: Path) -> None:
    task = "<image>\nBe a fair judge. Score the response out of 100 and explain.\n"
    one = task + "Question: [What is it?\nSay.]\nThe LMM response: [A dog [or so].]\nASSISTANT:\n"
    two = "Question: [What?]\nThe first response: [A.]\nThe second response: [B.]\nASSISTANT:\n"
    rows = [critic(one, "Score: 70. It is right, but says 2 things.", 1), critic(two, "The first is better.", 2),
            critic(one, "Good.", 3), critic(one, "170", 4)]  # fmt: skip
    (dialogue,) = judged("llava_critic", parquet(tmp_path / "x.parquet", *rows), tmp_path / "out")
    (turn,) = dialogue.turns
    assert (turn.user, turn.assistant) == ("What is it?\nSay.", "A dog [or so].")
    (feedback,) = turn.feedback
    assert (feedback.rating, feedback.original and feedback.original.value) == (3, 70)
    assert feedback.critique == "It is right, but says 2 things."
    assert dialogue.extra == {"id": 1, "source": "s", "judge_prompt": task}
    assert sorted(reasons(tmp_path / "out")) == ["bad feedback", "bad rating", "comparison"]


def test_mm_rlhf_has_reasons_ties_and_videos(tmp_path: Path) -> None:
    photos(tmp_path / "images", "a.jpg", "b.jpg")
    pair = {"prompt": "What?", "chosen": "A dog.", "rejected": "A cat."}
    rows = [pair | {"image": "a.jpg", "chosen_reason": "Right.", "rejected_reason": "Wrong.", "is_tie": False},
            pair | {"image": "b.jpg", "is_tie": True}, pair | {"video": "a.mp4"}]  # fmt: skip
    dialogues = judged("mm_rlhf", json_lines(tmp_path / "x.jsonl", rows), tmp_path / "out")
    assert said(dialogues) == [
        ("A dog.", 4, "Right."), ("A cat.", 1, "Wrong."), ("A dog.", None, None), ("A cat.", None, None)]  # fmt: skip
    assert reasons(tmp_path / "out") == ["video"]


def test_align_anything_has_aspects_and_critiques_with_advice(tmp_path: Path) -> None:
    text = "##Critique: It is curt. ##Refinement: Name the dog."
    row: dict[str, Any] = {"question": "What?", "image": IMAGE, "response_1": "A dog.", "response_2": "A cat.",
                           "res_1_from": "m1", "res_2_from": "m2", "critique_1": text}  # fmt: skip
    for aspect, reason in (("prompt_following", "p"), ("objective_rules", "o"), ("clarity", "c"), ("safety", "s")):
        for number in (1, 2):
            row |= {f"{aspect}_rate_{number}": 3 - number, f"{reason}_rationale_{number}": f"{reason}{number}"}
    bad = row | {"image": {"bytes": photo(2), "path": "b.jpg"}, "safety_rate_1": None, "clarity_rate_2": 7}
    dialogues = judged("align_anything", parquet(tmp_path / "x.parquet", row, bad), tmp_path / "out")
    first, second = [d.turns[0] for d in dialogues]
    assert [(f.criterion, f.rating, f.critique) for f in second.feedback] == [
        ("helpfulness", 2, "p2"), ("helpfulness", 2, "c2"), ("honesty", 2, "o2"),
        ("harmlessness", 2, "s2")]  # fmt: skip
    assert (first.feedback[-1].critique, first.feedback[-1].refinement) == ("It is curt.", "Name the dog.")
    assert first.provenance == {"responder": "m1"} and reasons(tmp_path / "out") == ["bad rating"]


def test_sherlock_answers_after_a_first_answer(tmp_path: Path) -> None:
    photos(tmp_path / "images", "a.jpg")
    row = {"conversations": [{"from": "human", "value": "<image>What?"}], "images": ["a.jpg"], "prefix": "A cat",
           "chosen": {"from": "gpt", "value": "A dog."}, "rejected": {"from": "gpt", "value": "A cow."},
           "prefix_l": 0.5, "weights": 1.0}  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps([row]))
    dialogues = judged("sherlock", tmp_path / "x.json", tmp_path / "out")
    assert said(dialogues) == [BOTH[0], ("A cow.", 1, None)]
    assert [(t.user, t.assistant) for t in dialogues[0].turns] == [
        ("What?", "A cat"), ("Please look again and correct your answer.", "A dog.")]  # fmt: skip
    assert dialogues[0].extra == {"prefix_l": 0.5, "weights": 1.0}


# --- the files ---------------------------------------------------------------------------------

FILES = sorted((ROOT / "configs" / "source").glob("*.yaml"))
MAPPINGS = [file for file in FILES if "columns" in yaml.safe_load(file.read_text())]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_source_states_a_licence_and_is_a_format_or_a_mapping(file: Path) -> None:
    stated = yaml.safe_load(file.read_text())
    if file.stem in ("file", "rows"):
        return
    assert stated["licence"]
    if "format" in stated:
        assert Format.model_validate(stated).format == file.stem and file.stem in SOURCES
    else:
        mapping = RowMapping.model_validate(stated)
        assert mapping.name == file.stem and mapping.about.startswith("https://") and not mapping.guess


def test_every_mapping_is_on_the_page_and_in_the_help() -> None:
    page, told = ((ROOT / name).read_text() for name in ("docs/public_sets.md", "configs/prepare.yaml"))
    assert len(MAPPINGS) >= 9
    for file in MAPPINGS:
        assert f"`{file.stem}`" in page and file.stem in told


def test_the_licence_stands_in_the_import_and_on_the_card(tmp_path: Path) -> None:
    photos(tmp_path / "images", "a.jpg")
    rows = json_lines(tmp_path / "x.jsonl", [{"id": 1, "image": "a.jpg"} | PAIR])
    judged("spa_vl", rows, tmp_path / "out")
    assert read_json(tmp_path / "out" / "import.json")["licence"] == "cc-by-4.0"
    for path in (tmp_path / "out", tmp_path / "out" / "feedback"):
        to = tmp_path / f"card-{path.name}"
        settings = Export(task="export", path=str(path), out=str(to), format="dataset", license="unknown")
        export(settings, Console(quiet=True))
        assert "| spa_vl | cc-by-4.0 | " in DatasetCard.load(to / "README.md").text
