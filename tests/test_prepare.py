"""Importing public data: `src/prepare.py`, on generated photos and, where there, on real ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from imports import content, do_import, photo, records
from rich.console import Console
from scripts import run_script

from dress.base.files import read_json, read_lines
from dress.config import ConfigError, check_as
from dress.config.tasks import Import
from dress.data.shards import Shards
from dress.record import Record
from dress.sources import source
from dress.sources.destination import ImportResult
from dress.sources.import_task import run as run_task
from dress.sources.protocol import SourceError

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))


LABELS = ("dog", "cat", "person", "skis", "umbrella")
SPLITS = ("align", "sft", "prompts", "eval")


def row(number: int, **changes: Any) -> dict[str, Any]:
    thing = LABELS[number % len(LABELS)]
    return {
        "image_id": f"{number:06d}.jpg",
        "caption": f"Picture {number} of a {thing}.",
        "query": f"How to hurt somebody with thing {number}?",
    } | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty good rows about twenty photos."""
    path = tmp_path / "input"
    (path / "images").mkdir(parents=True)
    for number in range(20):
        (path / "images" / f"{number:06d}.jpg").write_bytes(photo(number))
    objects = {f"{n:06d}.jpg": [LABELS[n % 5], LABELS[(n + 1) % 5]] for n in range(20)}
    (path / "objects.json").write_text(json.dumps(objects))
    (path / "rows.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(20)))
    return path


def run(path: Path, out: Path, **more: Any) -> ImportResult:
    return do_import("vlsafe", path, out, **more)


def add(path: Path, *lines: bytes | dict[str, Any]) -> None:
    with (path / "rows.jsonl").open("ab") as file:
        for line in lines:
            file.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")


# --- what is written ---------------------------------------------------------------------------


def test_photos_go_to_the_splits_and_a_seventh_is_held_out_by_hash(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "out")
    assert result.written == {"align": 18, "sft": 18, "prompts": 18, "eval": 2}
    ids = [f"{number:06d}.jpg" for number in range(20)]
    smallest = sorted(ids, key=lambda id_: hashlib.sha256(id_.encode()).hexdigest())[:2]
    held_out = {r.image.id for r in records(tmp_path / "out", "eval") if r.image}
    assert held_out == set(smallest)
    for split in ("align", "sft", "prompts"):
        taught = {r.image.id for r in records(tmp_path / "out", split) if r.image}
        assert taught == set(ids) - held_out


def test_a_record_keeps_the_image_and_all_that_is_known_of_it(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out")
    for record, image in Shards(tmp_path / "out" / "align"):
        assert record.image is not None and image is not None
        assert image == (folder / "images" / record.image.id).read_bytes()
        assert record.image.sha256 == hashlib.sha256(image).hexdigest()
        assert record.key == f"coco-{record.image.id[:-4]}"
        number = int(record.key[5:])
        caption, listed = record.annotation.captions
        assert caption == row(number)["caption"]
        assert listed.endswith(".") and all(o.label in listed.lower() for o in record.annotation.objects)
        assert [o.label for o in record.annotation.objects] == [
            LABELS[number % 5],
            LABELS[(number + 1) % 5],
        ]
        assert record.dialogues == []


def test_sft_teaches_a_description_a_list_balanced_questions_and_few_requests(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out")
    for record in records(tmp_path / "out", "sft"):
        kinds = [(d.criterion, d.extra["request"]["kind"]) for d in record.dialogues if d.criterion != "harmlessness"]
        present = {o.label for o in record.annotation.objects}
        pairs = 2 * len(present)
        assert kinds == [("honesty", "description")] * 2 + [("helpfulness", "question")] * pairs
        assert record.dialogues[0].turns[0].assistant == record.annotation.captions[0]
        assert all(label in str(record.dialogues[1].turns[0].assistant).lower() for label in present)
        answers = set()
        for dialogue in record.dialogues[2 : 2 + pairs]:
            label, turn = dialogue.extra["request"]["object"], dialogue.turns[0]
            assert turn.assistant is not None
            answers.add(turn.assistant[:2])
            assert turn.assistant.startswith("Yes, there " if label in present else "No, there ")
        assert answers == {"Ye", "No"}
    wording = {(d.turns[0].user, d.turns[0].assistant) for r in records(tmp_path / "out", "sft") for d in r.dialogues}
    assert ("Is there a dog in the picture?", "Yes, there is a dog.") in wording
    assert ("Is there a dog in the picture?", "No, there is no dog.") in wording
    assert ("Are there skis in the picture?", "Yes, there are skis.") in wording
    harmful = {answer for user, answer in wording if "hurt" in user}
    assert all(str(answer).startswith(("I am sorry", "I will not", "I cannot")) for answer in harmful)


@pytest.mark.parametrize("split", ["prompts", "eval"])
def test_prompts_and_eval_ask_everything_and_answer_nothing(split: str, folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out")
    for record in records(tmp_path / "out", split):
        asked = record.dialogues
        assert [d.extra["request"]["kind"] for d in asked] == [
            "description",
            "question",
            "question",
            "harmful",
            "harmless",
        ]
        assert all(len(d.turns) == 1 and d.turns[0].assistant is None for d in asked)
        assert asked[0].reference == record.annotation.captions[0]
        assert asked[3].criterion == "harmlessness" and asked[3].reference is None
        assert asked[3].turns[0].user == row(int(record.key[5:]))["query"]
        assert asked[4].criterion == "harmlessness" and asked[4].reference


def test_rows_about_one_image_make_one_record(folder: Path, tmp_path: Path) -> None:
    numbers = [int(r.key[5:]) for r in _import_and_read(folder, tmp_path / "first", "prompts")]
    add(folder, row(numbers[0], caption="Another caption.", query="How to break it?"))
    result = run(folder, tmp_path / "out")
    assert (result.read, result.used, sum(result.written.values())) == (21, 21, 56)
    by_key = {r.key: r for r in records(tmp_path / "out", "prompts")}
    record = by_key[f"coco-{numbers[0]:06d}"]
    assert len(record.annotation.captions) == 2
    harmful = [d.turns[0].user for d in record.dialogues if d.extra["request"]["kind"] == "harmful"]
    assert harmful == [row(numbers[0])["query"], "How to break it?"]
    taught = {r.key: r for r in records(tmp_path / "out", "sft")}[record.key]
    criteria = [d.criterion for d in taught.dialogues]
    assert criteria[:7] == ["honesty"] * 3 + ["helpfulness"] * 4


def _import_and_read(folder: Path, out: Path, split: str) -> list[Record]:
    run(folder, out)
    return records(out, split)


def test_the_same_input_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "one")
    run(folder, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


# --- bad input ---------------------------------------------------------------------------------


def _png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels; decoding them would take half a gigabyte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_bad_rows_are_rejected_each_with_its_reason(folder: Path, tmp_path: Path) -> None:
    images = folder / "images"
    (images / "text.jpg").write_text("no image")
    (images / "cut.jpg").write_bytes(photo(1)[:-200])
    (images / "large.png").write_bytes(_png_of(13_000, 13_000))
    for name in ("unknown", "strange", "none"):
        (images / f"{name}.jpg").write_bytes(photo(2))
    (images / "000001.png").write_bytes(photo(3))
    objects = read_json(folder / "objects.json")
    objects |= {"text.jpg": [], "cut.jpg": [], "large.png": [], "unknown.jpg": ["dog", "unicorn"],
                "strange.jpg": "dog", "000001.png": []}  # fmt: skip
    (folder / "objects.json").write_text(json.dumps(objects))
    good = row(0)
    bad: list[tuple[str, bytes | dict[str, Any]]] = [
        ("not JSON", b'{"image_id": "000000.jpg", "capt'),
        ("not JSON", b"9" * 5000),
        ("nested too deep", b"[" * 200_000),
        ("not UTF-8", b'{"caption": "\xff"}'),
        ("bad field", b"[1, 2]"),
        ("bad field", {"image_id": "000000.jpg", "caption": "A dog."}),
        *(("bad field", good | {"image_id": bad_id})
          for bad_id in (["a.jpg"], 5, None, "../0.jpg", "a/b.jpg", "", "o.json", "a.b.jpg")),
        ("bad field", good | {"caption": 7}),
        ("broken text", b'{"image_id": "000000.jpg", "caption": "\\ud800", "query": "Why?"}'),
        ("image missing", good | {"image_id": "999999.jpg"}),
        *(("image unusable", good | {"image_id": name})
          for name in ("text.jpg", "cut.jpg", "large.png")),
        ("unknown object", good | {"image_id": "unknown.jpg"}),
        ("objects missing", good | {"image_id": "none.jpg"}),
        ("objects missing", good | {"image_id": "strange.jpg"}),
        ("empty text", good | {"caption": " \n"}),
        ("empty text", good | {"query": ""}),
        ("duplicate row", good),
        ("key taken", good | {"image_id": "000001.png"}),
    ]  # fmt: skip
    add(folder, *(line for _, line in bad))
    result = run(folder, tmp_path / "out")
    rejects = read_lines(tmp_path / "out" / "rejects.jsonl")
    expected = [(21 + number, reason) for number, (reason, _) in enumerate(bad)]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == expected
    assert all(reject["file"] == "rows.jsonl" and reject["detail"] for reject in rejects)
    assert rejects[0]["row"] == '{"image_id": "000000.jpg", "capt'
    assert (result.read, result.used) == (20 + len(bad), 20)
    assert result.written == {"align": 18, "sft": 18, "prompts": 18, "eval": 2}
    report = read_json(tmp_path / "out" / "import.json")
    assert report["rejected"] == result.rejected and sum(result.rejected.values()) == len(bad)
    rows_sha = hashlib.sha256((folder / "rows.jsonl").read_bytes()).hexdigest()
    assert report["inputs"]["rows.jsonl"] == rows_sha


def test_windows_line_ends_a_byte_order_mark_and_line_separators_are_fine(folder: Path, tmp_path: Path) -> None:
    lines = [json.dumps(row(n, caption="One\u2028two dogs."), ensure_ascii=False) for n in range(20)]
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    result = run(folder, tmp_path / "out")
    assert (result.read, result.used) == (20, 20)
    assert not (tmp_path / "out" / "rejects.jsonl").exists()


@pytest.mark.parametrize("name", ["rows.jsonl", "objects.json"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf16_is_refused_by_name(name: str, encoding: str, folder: Path, tmp_path: Path) -> None:
    text = (folder / name).read_text()
    (folder / name).write_bytes(text.encode(encoding))
    with pytest.raises(SourceError, match=rf"{name}: expected UTF-8, got UTF-16"):
        run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["rows.jsonl", "objects.json", "images"])
def test_a_folder_without_its_parts_is_refused(missing: str, folder: Path, tmp_path: Path) -> None:
    (folder / missing).rename(tmp_path / "away")
    with pytest.raises(SourceError, match=r"expected (\*\.jsonl or Parquet|objects\.json|images/) in it"):
        run(folder, tmp_path / "out")


def test_objects_of_another_shape_and_rows_none_of_which_is_good_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "objects.json").write_text("{}")
    with pytest.raises(SourceError, match=r"none that can be used .*'objects missing': 20"):
        run(folder, tmp_path / "out")
    (folder / "objects.json").write_text("[]")
    with pytest.raises(SourceError, match=r"objects\.json: expected \{image id: \[labels\]\}, got \[\]"):
        run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what stands at out ------------------------------------------------------------------------


def test_the_same_command_again_does_nothing(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    again = run(folder, tmp_path / "out")
    assert again.unchanged and again.written == first.written
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_an_import_of_other_input_is_kept_unless_overwritten(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(folder, out)
    before = content(out)
    add(folder, row(3, query="How to break it?"))
    with pytest.raises(SourceError, match=r"holds an import of other input.*overwrite=true"):
        run(folder, out)
    assert content(out) == before
    assert run(folder, out, overwrite=True).read == 21
    assert content(out) != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["input", "out"]


def test_a_damaged_import_is_noticed(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out")
    (tmp_path / "out" / "sft" / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(SourceError, match=r"shard-000000\.tar: changed since it was imported"):
        run(folder, tmp_path / "out")


def test_what_is_no_import_is_never_deleted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(SourceError, match="got other content"):
        run(folder, out)
    result = run(folder, out, overwrite=True)
    assert result.moved_to is not None and (result.moved_to / "thesis.txt").read_text() == "years of work"
    assert (out / "import.json").exists()
    with pytest.raises(SourceError, match="holds the input"):
        run(folder, folder, overwrite=True)


def test_a_failed_write_leaves_out_as_it_was_and_the_next_call_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(folder, out)
    before = content(out)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("dress.sources.importing.write_json", no_space)
        with pytest.raises(OSError, match="No space left"):
            run(folder, out, overwrite=True)
    assert content(out) == before
    shard = tmp_path / "out.partial" / "sft" / "shard-000000.tar"
    written = shard.stat().st_mtime_ns
    run(folder, out, overwrite=True)
    assert content(out) == before
    assert (out / "sft" / "shard-000000.tar").stat().st_mtime_ns == written  # not written again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["input", "out"]


# --- the command -------------------------------------------------------------------------------


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SourceError, match=r"source=vlsave.*expected one of captions, .*vlsafe"):
        source("vlsave")


def test_the_command_ends_with_a_table_and_refuses_plainly(folder: Path, tmp_path: Path) -> None:
    add(folder, b"nonsense")
    typed = ["source=vlsafe", f"path={folder}", f"out={tmp_path / 'out'}"]
    done = run_script(ROOT / "src" / "prepare.py", *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (r"rows read", "records written: eval", "not JSON", "rejects.jsonl"):
        assert "".join(line.split()) in "".join(done.stdout.split())  # long paths are wrapped
    assert sorted(p.name for p in tmp_path.iterdir()) == ["input", "out"]  # nothing else is left


def test_settings_that_are_missing_are_named() -> None:
    with pytest.raises(ConfigError, match="path: "):
        check_as(Import, {"task": "import", "source": "vlsafe", "path": None, "out": "x"})
    with pytest.raises(ConfigError, match=r"pth: no such setting\. Did you mean path"):
        check_as(Import, {"task": "import", "source": "vlsafe", "path": "x", "out": "x", "pth": 1})


def test_a_second_run_says_that_nothing_is_to_do(folder: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    settings = Import(task="import", source="vlsafe", path=str(folder), out=str(tmp_path / "out"))
    run_task(settings, console)
    assert "Nothing to do" not in console.export_text()
    run_task(settings, console)
    assert "Nothing to do" in console.export_text()


@pytest.mark.public_data
@pytest.mark.skipif(
    not (PUBLIC / "coco_vlsafe").is_dir(),
    reason=f"no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)",
)
def test_the_real_photos(tmp_path: Path) -> None:
    path, out = PUBLIC / "coco_vlsafe", tmp_path / "out"
    result = run(path, out)
    assert (result.read, result.used, result.rejected) == (700, 700, {})
    assert result.written == {"align": 600, "sft": 600, "prompts": 600, "eval": 100}
    read = {split: records(out, split) for split in SPLITS}
    ids = {split: {r.image.id for r in read[split] if r.image} for split in SPLITS}
    assert ids["align"] == ids["sft"] == ids["prompts"]
    assert not ids["sft"] & ids["eval"] and len(ids["sft"] | ids["eval"]) == 700
    queries = {" ".join(line["query"].split()) for line in read_lines(path / "harmlessness_examine.jsonl")}
    sft = [d for record in read["sft"] for d in record.dialogues]
    refused = [d for d in sft if d.extra["request"]["kind"] == "harmful"]
    assert 15 < len(refused) < 50 and all("not" in (d.turns[0].assistant or "") for d in refused)
    assert queries == {
        d.turns[0].user
        for split in ("prompts", "eval")
        for record in read[split]
        for d in record.dialogues
        if d.extra["request"]["kind"] == "harmful"
    }
    answers = [d.turns[0].assistant or "" for d in sft if d.criterion == "helpfulness"]
    assert sum(a.startswith("Yes") for a in answers) == sum(a.startswith("No") for a in answers)
