"""Exports: what others read is there, what has no place is counted, equal shards give equal bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import webdataset
import yaml
from conftest import ROOT
from huggingface_hub import DatasetCard
from imports import do_import
from PIL import Image
from rich.console import Console
from scripts import run_script

from dress.base.files import read_json, read_lines
from dress.config import ConfigError, check_as
from dress.config.tasks import Export
from dress.data.index_file import INDEX, read_index
from dress.data.shards import Sample, ShardError, Shards, write_shards
from dress.exports.export_task import run
from dress.record import Dialogue, Feedback, ImageRef, Record, RecordError, Turn
from dress.worlds.shapes import generate as shapes


def picture(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 90, 200)).save(data, "PNG")
    return data.getvalue()


def said(rating: int | None, critique: str | None, refinement: str | None = None, **more: Any) -> Feedback:
    return Feedback(rating=rating, critique=critique, refinement=refinement, annotator="gpt-4", **more)


def samples() -> list[Sample]:
    """A bus with a judged dialogue and an open one, a text-only record, one without its image."""
    first = [said(1, "No car.", "Look again."), said(2, "Curt.")]
    judged = Dialogue(
        criterion="honesty",
        turns=[
            Turn(user="What is it?", assistant="A car.", feedback=first),
            Turn(user="Look again.", assistant="A bus.", feedback=[said(4, "Right.", "Say more.")]),
            Turn(user="And now?"),
        ],
    )  # fmt: skip
    plain = Dialogue(turns=[Turn(user="Who are you?", assistant="A model.", provenance={"responder": "mine"})])
    marked = Dialogue(turns=[Turn(user="What does <image> mean?", assistant="A mark.")])
    open_ = Dialogue(criterion="helpfulness", reference="Red.", turns=[Turn(user="Which colour?")])
    bus, lost = ImageRef(id="bus.png"), ImageRef(id="lost.jpg")
    return [
        (Record(key="bus", source="a", image=bus, dialogues=[judged, open_, marked]), picture(1)),
        (Record(key="text", source="b", dialogues=[plain]), None),
        (Record(key="lost", image=lost, dialogues=[plain]), None),
        (Record(key="alone", image=ImageRef(id="no-name")), picture(2)),
    ]


@pytest.fixture
def one(tmp_path: Path) -> Path:
    write_shards(tmp_path / "one", samples(), per_shard=2)
    return tmp_path / "one"


def export(path: Path | str, out: Path, form: str, **more: Any) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    run(check_as(Export, {"task": "export", "path": str(path), "out": str(out), "format": form} | more), console)
    return console.export_text()


def content(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def left_out(out: Path) -> list[tuple[str, int, str]]:
    return [(left["key"], left["dialogue"], left["reason"]) for left in read_json(out / "export.json")["left_out"]]


# --- formats -----------------------------------------------------------------------------------


def test_records_are_whole_and_images_lie_beside_them(one: Path, tmp_path: Path) -> None:
    export(one, tmp_path / "out", "records")
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    read = [Record.parse(line, "here") for line in lines]
    assert read[:3] == [record for record, _ in samples()][:3]
    alone = read[3].image
    assert alone is not None and alone.id == "alone.png" and alone.extra == {"original_id": "no-name"}
    images = {name: data for name, data in content(tmp_path / "out").items() if name.startswith("images/")}
    assert images == {"images/bus.png": picture(1), "images/alone.png": picture(2)}
    assert left_out(tmp_path / "out") == []


def test_another_image_of_the_same_name_gets_a_name_of_its_own(tmp_path: Path) -> None:
    for number, split in enumerate(("a", "b", "c")):
        record = Record(key="same", image=ImageRef(id="same.png"))
        write_shards(tmp_path / "d" / split, [(record, picture(min(number, 1)))])
    export(tmp_path / "d", tmp_path / "out", "records")
    files = [read_lines(tmp_path / "out" / f"{split}.jsonl")[0]["image"] for split in ("a", "b", "c")]
    names = [image["id"] for image in files]
    assert [(tmp_path / "out" / "images" / name).read_bytes() for name in names] == [picture(0), picture(1), picture(1)]
    assert len(set(names)) == 2


def test_llava_holds_the_answered_dialogues(one: Path, tmp_path: Path) -> None:
    text = export(one, tmp_path / "out", "llava")
    assert read_json(tmp_path / "out" / "records.json") == [
        {"id": "bus-0", "image": "bus.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A car."},
            {"from": "human", "value": "Look again."}, {"from": "gpt", "value": "A bus."}]},
        {"id": "text", "conversations": [
            {"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A model."}]},
    ]  # fmt: skip
    reasons = [("bus", 1, "no answer"), ("bus", 2, "<image> stands in a text"), ("lost", 0, "image missing")]
    assert left_out(tmp_path / "out") == reasons
    assert read_json(tmp_path / "out" / "export.json")["no_place"] == {
        "questions without answer at the end": 1, "feedback on answers": 3, "records without dialogues": 1,
    }  # fmt: skip
    assert all(reason in text for *_, reason in reasons) and "feedback on answers" in text
    assert [name for name in content(tmp_path / "out") if name.startswith("images/")] == ["images/bus.png"]


def test_messages_go_through_a_chat_template_with_images(one: Path, tmp_path: Path, tokenizer: Any) -> None:
    export(one, tmp_path / "out", "messages")
    rows = read_lines(tmp_path / "out" / "records.jsonl")
    assert [row["images"] for row in rows] == [["images/bus.png"], []]
    template = (
        "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}"
        "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    told = [tokenizer.apply_chat_template(row["messages"], chat_template=template, tokenize=False) for row in rows]
    assert told[0] == "[user]<image>What is it?[assistant]A car.[user]Look again.[assistant]A bus."
    assert told[1] == "[user]Who are you?[assistant]A model."


def test_exported_records_make_the_same_shards_again(shapes_folder: Path, tmp_path: Path) -> None:
    export(shapes_folder, tmp_path / "out", "records")
    do_import("records", tmp_path / "out", tmp_path / "again")

    def content_of(folder: Path) -> list[tuple[bytes, bytes | None]]:
        return sorted((record.dump(), image) for record, image in Shards(folder))

    for split in shapes.SPLITS:
        assert content_of(tmp_path / "again" / split) == content_of(shapes_folder / split)


def test_exported_llava_rows_are_llava_rows(one: Path, tmp_path: Path) -> None:
    export(one, tmp_path / "out", "llava")
    result = do_import("llava", tmp_path / "out" / "records.json", tmp_path / "again", splits=["sft"])
    assert (result.used, result.rejected) == (2, {})
    dialogues = [dialogue for record, _ in Shards(tmp_path / "again" / "sft") for dialogue in record.dialogues]
    said = {dialogue.extra["id"]: [(turn.user, turn.assistant) for turn in dialogue.turns] for dialogue in dialogues}
    bus = [("What is it?", "A car."), ("Look again.", "A bus.")]
    assert said == {"bus-0": bus, "text": [("Who are you?", "A model.")]}
    export(tmp_path / "again", tmp_path / "back", "llava")
    assert {row["id"] for row in read_json(tmp_path / "back" / "sft.json")} == {"bus-0", "text"}


def test_without_images_rows_keep_their_names_and_nothing_is_missing(one: Path, tmp_path: Path) -> None:
    export(one, tmp_path / "out", "llava", images=False)
    rows = read_json(tmp_path / "out" / "records.json")
    assert [row.get("image") for row in rows] == ["bus.png", None, "lost.jpg"]
    assert not (tmp_path / "out" / "images").exists()


def test_lvlm_nlf_takes_what_was_judged(one: Path, tmp_path: Path) -> None:
    export(one, tmp_path / "out", "lvlm_nlf")
    assert read_lines(tmp_path / "out" / "honesty_nlf.jsonl") == [
        {"image_id": "bus.png", "interaction": [
            {"user": "What is it?", "model": "A car.", "rating": "1", "critique NLF": "No car."},
            {"user": "Look again.", "model": "A bus.", "rating": "4", "critique NLF": "Right."}]}
    ]  # fmt: skip
    assert left_out(tmp_path / "out") == [
        ("bus", 1, "no answer"), ("bus", 2, "no feedback"), ("text", 0, "no image"), ("lost", 0, "no feedback"),
    ]  # fmt: skip
    assert read_json(tmp_path / "out" / "export.json")["no_place"] == {
        "questions without answer at the end": 1, "further feedback on an answer": 1,
        "refinements that are not the next user's text": 1, "records without dialogues": 1,
    }  # fmt: skip


def test_a_row_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    bad = Dialogue(turns=[Turn(user="Q", assistant="A")], extra={"lvlm_nlf": {"file": "../../x.jsonl", "row": 1}})
    write_shards(tmp_path / "d", [(Record(key="k", image=ImageRef(id="../../i.png"), dialogues=[bad]), picture(0))])
    with pytest.raises(ValueError, match="expected a name inside"):
        export(tmp_path / "d", tmp_path / "a" / "b" / "out", "lvlm_nlf")
    export(tmp_path / "d", tmp_path / "a" / "b" / "out", "records")
    assert "images/k.png" in content(tmp_path / "a" / "b" / "out")


# --- a dataset to publish ----------------------------------------------------------------------


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    write_shards(tmp_path / "d" / "feedback", samples(), per_shard=2)
    write_shards(tmp_path / "d" / "prompts", shapes.samples("prompts", 3, seed=0))
    return tmp_path / "d"


def test_a_dataset_has_splits_card_counts_and_checksums(splits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(splits, out, "dataset", license="cc-by-4.0", title="Buses | and more")
    for split in ("feedback", "prompts"):
        assert list(Shards(out / split, verify="full")) == list(Shards(splits / split))
        index = read_index(out / split / INDEX)  # quickly checked when it is opened
        assert [(out / split / s.name).stat().st_mtime_ns for s in index.shards] == [s.mtime_ns for s in index.shards]
    counts = read_json(out / "counts.json")
    assert counts["feedback"]["annotators"] == [{"annotator": "gpt-4", "prompt_version": "", "answers": 3}]
    assert counts["feedback"]["ratings"]["honesty"] == {"0": [1, 0, 0, 0, 0], "1": [0, 0, 0, 1, 0]}
    assert counts["feedback"]["responders"] == {"mine": 2}
    assert (counts["prompts"]["records"], counts["prompts"]["answers"]) == (3, 0)
    sums = [line.split("  ") for line in (out / "SHA256SUMS").read_text().splitlines()]
    files = content(out)
    assert {name for _, name in sums} == files.keys() - {"SHA256SUMS"}
    assert all(hashlib.sha256(files[name]).hexdigest() == sha for sha, name in sums)


def test_the_card_is_one_that_a_hub_reads(splits: Path, tmp_path: Path) -> None:
    export(splits, tmp_path / "out", "dataset", license="cc-by-4.0", title="Buses")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.pretty_name, card.data.size_categories) == ("cc-by-4.0", "Buses", ["n<1K"])
    (config,) = yaml.safe_load(card.content.split("---")[1])["configs"]
    paths = {files["split"]: files["path"] for files in config["data_files"]}
    found = {split: sorted((tmp_path / "out").glob(path)) for split, path in paths.items()}
    assert [len(found[split]) for split in ("feedback", "prompts")] == [2, 1]
    raw = list(webdataset.WebDataset([str(path) for path in found["feedback"]], shardshuffle=False))
    assert [sample["__key__"] for sample in raw] == ["bus", "text", "lost", "alone"]
    for row in ("| feedback | honesty | 1 | 0 | 0 | 0 | 1 | 0 | 4.00 |", "| gpt-4 | – | 3 |", "| mine | 2 |"):
        assert row in card.content
    assert "natural-language-feedback" in card.data.tags


def test_a_card_claims_no_feedback_where_there_is_none(splits: Path, tmp_path: Path) -> None:
    export(splits / "prompts", tmp_path / "out", "dataset", license="unknown")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert "without feedback" in card.content and "natural-language-feedback" not in card.data.tags
    assert "Not stated" in card.content and (tmp_path / "out" / "train" / "shard-000000.tar").exists()


def test_a_dataset_needs_a_licence_and_whole_shards() -> None:
    given = {"task": "export", "path": "x", "out": "y", "format": "dataset"}
    with pytest.raises(ConfigError, match="license=unknown to say that you do not know it"):
        check_as(Export, given)
    with pytest.raises(ConfigError, match="license: String should match"):
        check_as(Export, given | {"license": "CC BY"})
    with pytest.raises(ConfigError, match="published whole"):
        check_as(Export, given | {"license": "mit", "on_damage": "skip"})


def test_a_shard_that_changed_is_not_published(splits: Path, tmp_path: Path) -> None:
    Shards(splits / "prompts")
    shard = splits / "prompts" / "shard-000000.tar"
    before = shard.stat()
    data = bytearray(shard.read_bytes())
    data[700] ^= 1  # inside the first JSON; size and time stay as they were
    shard.write_bytes(data)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ShardError, match=r"shard-000000\.tar: content changed"):
        export(splits, tmp_path / "out", "dataset", license="mit")
    assert not (tmp_path / "out").exists()


# --- what holds for every format ---------------------------------------------------------------


@pytest.mark.parametrize("form", ["records", "lvlm_nlf", "llava", "messages", "dataset"])
def test_equal_shards_give_equal_bytes_and_nothing_is_replaced(form: str, splits: Path, tmp_path: Path) -> None:
    license = {"license": "mit", "title": "Same"} if form == "dataset" else {}
    export(splits, tmp_path / "out", form, **license)
    export(splits, tmp_path / "again", form, **license)
    assert content(tmp_path / "out") == content(tmp_path / "again")
    with pytest.raises(ValueError, match="expected nothing there, got other content"):
        export(splits, tmp_path / "out", form, **license)
    assert content(tmp_path / "out") == content(tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "d", "out"]


def test_places_that_do_not_fit_are_refused(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lies in path"):
        export(splits, splits / "out", "records")
    with pytest.raises(FileNotFoundError, match="expected shards"):
        export(tmp_path / "nowhere", tmp_path / "out", "records")
    with pytest.raises(ValueError, match="got a URL"):
        export("https://host/x", tmp_path / "out", "records")
    write_shards(splits, samples())
    with pytest.raises(ValueError, match="got both"):
        export(splits, tmp_path / "out", "records")


def test_an_export_of_nothing_says_why_and_leaves_nothing(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected something to export, got none: \{'no answer': 12\}"):
        export(splits / "prompts", tmp_path / "out", "llava")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]


def test_a_damaged_record_stops_or_is_counted(tmp_path: Path) -> None:
    write_shards(tmp_path / "d", samples())
    with webdataset.TarWriter(str(tmp_path / "d" / "bad.tar"), encoder=False) as writer:
        writer.write({"__key__": "bad", "json": b'{"key": 5}'})
    with pytest.raises(RecordError, match=r"bad\.tar: bad"):
        export(tmp_path / "d", tmp_path / "out", "records")
    text = export(tmp_path / "d", tmp_path / "out", "records", on_damage="skip")
    (left,) = read_json(tmp_path / "out" / "export.json")["left_out"]
    assert "bad.tar: bad" in left["key"] and "key" in left["reason"]
    assert len(read_lines(tmp_path / "out" / "records.jsonl")) == 4 and "left out" in text


def test_the_command_ends_with_a_table(splits: Path, tmp_path: Path) -> None:
    typed = ["task=export", f"path={splits}", f"out={tmp_path / 'out'}", "format=messages"]
    done = run_script(ROOT / "src" / "prepare.py", *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows: feedback.jsonl" in done.stdout and "no answer" in done.stdout
    assert json.loads((tmp_path / "out" / "feedback.jsonl").read_text().splitlines()[0])["id"] == "bus-0"
