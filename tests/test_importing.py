"""The import as a whole: the same bytes whatever happens to it, little memory, bad input counted and kept."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import webdataset
from conftest import ROOT
from filelock import FileLock
from imports import content, do_import, json_lines, llava_folder, llava_row, photo, photos, reasons, records, rejects

from dress.base.files import read_json
from dress.data.shards import image_extension, write_shards
from dress.sources import importing
from dress.sources.protocol import SourceError
from dress.worlds.shapes import generate as shapes

PREPARE = [sys.executable, str(ROOT / "src" / "prepare.py")]
PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 rows about 100 photos, a few of which cannot be used."""
    return llava_folder(tmp_path_factory.mktemp("many") / "in", 500, 100)


@pytest.fixture(scope="module")
def alone(many: Path) -> dict[str, bytes]:
    """What one process makes of it without being disturbed."""
    out = many.parent / "alone"
    result = do_import("llava", many, out, splits=["sft", "prompts", "eval"], per_shard=15)
    assert result.written == {"sft": 84, "prompts": 84, "eval": 14}
    assert result.rejected == {"image unusable": 5, "image missing": 5, "bad field": 2, "duplicate row": 1}
    return content(out)


# --- the same bytes ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bytes(
    workers: int, many: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    do_import("llava", many, tmp_path / "out", splits=["sft", "prompts", "eval"], per_shard=15, workers=workers)
    assert content(tmp_path / "out") == alone


@pytest.mark.parametrize("until", ["progress.sqlite", "sft/shard-000001.tar"])
def test_a_killed_import_goes_on_and_gives_the_same_bytes(
    until: str, many: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    given = [f"path={many}", f"out={out}", "splits=[sft,prompts,eval]", "per_shard=15", "workers=1"]
    process = subprocess.Popen([*PREPARE, "source=llava", *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    waited = time.monotonic()
    while not (partial / until).exists() and process.poll() is None and time.monotonic() - waited < 60:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not out.exists()
    written = {path: path.stat().st_mtime_ns for path in partial.glob("*/shard-*.tar")}
    if "shard" in until:
        (partial / "sft" / "shard-000099.tar.partial").write_bytes(b"half of a shard")
    done = subprocess.run([*PREPARE, "source=llava", *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (out / "sft" / "shard-000099.tar.partial").unlink(missing_ok=True)
    assert content(out) == alone
    kept = [path for path, when in written.items() if (out / path.relative_to(partial)).stat().st_mtime_ns == when]
    assert len(kept) == len(written)  # whole shards stay, recorded or not
    assert not partial.exists()


def test_no_worker_outlives_a_killed_import(many: Path, tmp_path: Path) -> None:
    given = [f"path={many}", f"out={tmp_path / 'out'}", "per_shard=2", "workers=2"]
    process = subprocess.Popen([*PREPARE, "source=llava", *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found: list[int] = []
    while process.poll() is None and len(found) < 3:  # two workers and what tracks their resources
        found = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in found) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found and not any(_alive(pid) for pid in found)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_second_process_is_refused_while_one_is_at_work(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "in" / "x.jsonl", [llava_row(0)])
    photos(path.parent, "0000.jpg")

    (tmp_path / "out.partial").mkdir()
    with FileLock(tmp_path / "out.partial" / "lock"), pytest.raises(SourceError, match="another process is making"):
        do_import("llava", path, tmp_path / "out")
    assert do_import("llava", path, tmp_path / "out").used == 1


def test_what_is_left_of_another_import_is_not_continued(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "in" / "x.jsonl", [llava_row(0)])
    photos(path.parent, "0000.jpg", "0001.jpg")
    (tmp_path / "out.partial" / "sft").mkdir(parents=True)
    (tmp_path / "out.partial" / "sft" / "shard-000007.tar").write_bytes(b"of another import")
    (tmp_path / "out.partial" / "progress.sqlite").write_bytes(b"no database")
    do_import("llava", path, tmp_path / "out")
    do_import("llava", path, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_an_import_needs_no_torch() -> None:
    code = "import sys; import dress.sources.import_task; sys.exit('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_the_writer_gives_the_bytes_of_webdatasets_own(tmp_path: Path) -> None:
    samples = list(shapes.samples("sft", 5, seed=0))
    samples.append((samples[0][0].model_copy(update={"key": "text", "image": None}), None))
    samples.append((samples[0][0].model_copy(update={"key": "ü-photo"}), photo()))
    write_shards(tmp_path / "ours", samples, 100)
    with webdataset.TarWriter(str(tmp_path / "theirs.tar"), encoder=False, mtime=0) as writer:
        for record, image in samples:
            sample = {"__key__": record.key, "json": record.dump()}
            writer.write(sample if image is None else sample | {image_extension(image): image})
    assert (tmp_path / "ours" / "shard-000000.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


# --- held out, keys, images --------------------------------------------------------------------


def test_held_out_images_are_in_no_other_split_and_none_are_held_out_where_eval_is_not_written(
    many: Path, tmp_path: Path
) -> None:
    do_import("llava", many, tmp_path / "a", held_out=10)
    held = {r.image.id for r in records(tmp_path / "a", "eval") if r.image}
    assert len(held) == 10 and not held & {r.image.id for r in records(tmp_path / "a", "sft") if r.image}
    assert do_import("llava", many, tmp_path / "b", splits=["sft"], held_out=10).written == {"sft": 98}
    with pytest.raises(SourceError, match=r"splits=feedback: source=llava writes sft, prompts, eval"):
        do_import("llava", many, tmp_path / "c", splits=["feedback"])


def test_images_of_equal_names_in_two_folders_have_two_keys(tmp_path: Path) -> None:
    names = ["a/b.jpg", "a-b.jpg", "a/b.png", "x" * 100 + ".jpg", "é.jpg"]
    path = json_lines(tmp_path / "in" / "x.jsonl", [llava_row(n, image=name) for n, name in enumerate(names)])
    photos(path.parent, *names)
    result = do_import("llava", path, tmp_path / "out", held_out=0)
    assert result.written == {"sft": 5, "eval": 0}
    keys = [record.key for record in records(tmp_path / "out", "sft")]
    assert keys[0] == "a-b" and keys[1].startswith("a-b-") and keys[4] == "é" and len(set(keys)) == 5
    assert max(map(len, keys)) == 80


def test_an_image_that_is_not_there_is_rejected_unless_that_is_allowed(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "in" / "x.jsonl", [llava_row(n) for n in range(4)])
    photos(tmp_path / "elsewhere", "0000.jpg")
    (tmp_path / "elsewhere" / "0001.jpg").mkdir()
    with pytest.raises(SourceError, match=r"images=.*nowhere: expected a folder"):
        do_import("llava", path, tmp_path / "out", images=str(tmp_path / "nowhere"))
    result = do_import("llava", path, tmp_path / "out", images=str(tmp_path / "elsewhere"), held_out=0)
    assert result.rejected == {"image missing": 3} and result.written["sft"] == 1
    photos(tmp_path / "elsewhere", "0000.jpg", "0002.jpg")
    with pytest.raises(SourceError, match=r"made when the image 0002\.jpg was not there"):
        do_import("llava", path, tmp_path / "out", images=str(tmp_path / "elsewhere"), held_out=0)
    allowed = do_import("llava", path, tmp_path / "all", allow_missing_images=True, held_out=0)
    assert allowed.written["sft"] == 4 and allowed.rejected == {}
    assert [r.image and r.image.id for r in records(tmp_path / "all", "sft")] == [f"000{n}.jpg" for n in range(4)]


# --- rejects -----------------------------------------------------------------------------------


def test_rejected_rows_are_repaired_and_imported_again(tmp_path: Path) -> None:
    path = tmp_path / "in"
    photos(path / "images", "0000.jpg", "0001.jpg", "0002.jpg", "0003.jpg")
    lines = [
        json.dumps(row) for row in (llava_row(0), llava_row(1, image=["0001.jpg", "x"]), llava_row(2, conversations=[]))
    ]
    (path / "rows.jsonl").write_text("\n".join([*lines, json.dumps(llava_row(3))[:-1]]))
    do_import("llava", path, tmp_path / "out", held_out=0)
    kept = rejects(tmp_path / "out")
    assert [(r["file"], r["line"], r["reason"]) for r in kept] == [
        ("rows.jsonl", 2, "several images"), ("rows.jsonl", 3, "bad field"), ("rows.jsonl", 4, "not JSON"),
    ]  # fmt: skip
    assert kept[0]["row"] == llava_row(1, image=["0001.jpg", "x"]) and kept[2]["row"] == json.dumps(llava_row(3))[:-1]
    kept[0]["row"]["image"] = "0001.jpg"
    kept[2]["row"] += "}"
    json_lines(tmp_path / "out" / "rejects.jsonl", kept)
    again = do_import("llava", tmp_path / "out" / "rejects.jsonl", tmp_path / "again", held_out=0)
    assert (again.read, again.used, again.rejected) == (3, 2, {"bad field": 1})
    assert [r.image and r.image.id for r in records(tmp_path / "again", "sft")] == ["0001.jpg", "0003.jpg"]
    (still,) = rejects(tmp_path / "again")
    assert (still["file"], still["line"], still["row"]) == ("rows.jsonl", 3, llava_row(2, conversations=[]))


def test_rejects_of_csv_and_of_arrays_go_back_to_where_they_stood(tmp_path: Path) -> None:
    path = tmp_path / "in" / "x.csv"
    photos(path.parent, "a.jpg", "b.jpg")
    path.write_text("image,caption\na.jpg,A dog.\nb.jpg, \nb.jpg\n")
    do_import("captions", path, tmp_path / "out", held_out=0)
    kept = rejects(tmp_path / "out")
    assert [(r["line"], r["reason"], r["row"]) for r in kept] == [
        (2, "empty text", {"image": "b.jpg", "caption": " "}), (3, "bad columns", "b.jpg"),
    ]  # fmt: skip
    kept[0]["row"]["caption"] = "A cat."
    repaired = json_lines(tmp_path / "repaired.jsonl", kept)
    result = do_import("captions", repaired, tmp_path / "again", images=str(path.parent), held_out=0)
    assert (result.used, result.rejected) == (1, {"not JSON": 1})


# --- bad input ---------------------------------------------------------------------------------


def _png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_after_all_bad_input_the_good_rows_are_all_there(form: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / f"x.{form}"
    photos(path.parent, *(f"{n:04d}.jpg" for n in range(50)))
    (path.parent / "huge.png").write_bytes(_png_of(13_000, 13_000))
    (path.parent / "text.jpg").write_text("no image")
    pickle = b"cos\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR."
    (path.parent / "evil.jpg").write_bytes(pickle)
    bad: list[tuple[str, bytes]] = [
        ("too large", b'{"image": "' + b"x" * 100_000_000 + b'"}'),
        ("nested too deep", b"[" * 10_000 + b"]" * 10_000),
        ("nested too deep", b'{"image": ' * 10_000 + b"1" + b"}" * 10_000),
        ("name twice", b'{"id": "1", "id": "2", "image": "0000.jpg", "conversations": []}'),
        *((reason, json.dumps(llava_row(0, image=image)).encode()) for reason, image in (
            ("several images", ["0000.jpg", "0001.jpg"]), ("several images", []), ("bad field", 5), ("bad field", {}),
            ("no image named", None), ("bad image name", "../../in/0000.jpg"), ("bad image name", "a/../../0000.jpg"),
            ("bad image name", "/etc/passwd"), ("bad image name", "..\\0000.jpg"), ("bad image name", "a\0.jpg"),
            ("image unusable", "huge.png"), ("image unusable", "text.jpg"), ("image unusable", "evil.jpg"),
        )),
        ("duplicate row", json.dumps(llava_row(3)).encode()),
        ("not UTF-8", b'{"id": "\xff"}'),
        ("broken text", json.dumps(llava_row(0)).replace("What", "\\ud800").encode()),
    ]  # fmt: skip
    good = [json.dumps(llava_row(number)).encode() for number in range(50)]
    lines = [*good[:25], *(row for _, row in bad), *good[25:]]
    joined = b"[\r\n" + b",\r\n".join(lines) + b"\r\n]" if form == "json" else b"\r\n".join(lines) + b"\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + joined)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = do_import("llava", path, tmp_path / "out", held_out=0)
    assert sorted(reasons(tmp_path / "out")) == sorted(reason for reason, _ in bad)
    assert (result.read, result.used) == (50 + len(bad), 50)
    assert {r.image.id for r in records(tmp_path / "out", "sft") if r.image} == {f"{n:04d}.jpg" for n in range(50)}
    assert not (tmp_path / "executed").exists()
    huge = next(reject for reject in rejects(tmp_path / "out") if reject["reason"] == "too large")
    assert "got 100,000,01" in huge["detail"] and len(huge["row"]) == 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KB


def test_a_file_that_was_cut_gives_its_rows_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "in" / "x.json"
    photos(path.parent, *(f"{n:04d}.jpg" for n in range(10)))
    whole = json.dumps([llava_row(n) for n in range(10)])
    for cut in (whole[: whole.index("A thing 7")], whole[: whole.index(', {"id": "7"') + 1]):
        path.write_text(cut)
        result = do_import("llava", path, tmp_path / "out", held_out=0, overwrite=True)
        assert (result.used, result.rejected) == (7, {"cut short": 1})


def test_a_compressed_or_foreign_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in" / "x.json"
    photos(path.parent, "0000.jpg")
    for data, told in (
        (gzip.compress(b"[]", mtime=0), "gzip. Unpack it first"),
        (json.dumps([llava_row(0)]).encode("utf-16"), "UTF-16"),
    ):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=told):
            do_import("llava", path, tmp_path / "out")
    path.write_text("[]")
    with pytest.raises(SourceError, match="expected rows, got none that can be used"):
        do_import("llava", path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("more", [True, False])
def test_rows_that_change_while_they_are_read_are_noticed(
    more: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = json_lines(tmp_path / "in" / "x.jsonl", [llava_row(0)])
    photos(path.parent, "0000.jpg")
    real = importing._check

    def meanwhile(*given: Any) -> None:
        real(*given)
        json_lines(path, [llava_row(0), llava_row(1)] if more else [llava_row(0, id="other")])

    monkeypatch.setattr(importing, "_check", meanwhile)
    with pytest.raises(SourceError, match="changed while it was read"):
        do_import("llava", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- memory ------------------------------------------------------------------------------------


def big_llava(path: Path, megabytes: int, seed: int = 0) -> int:
    """A JSON array of LLaVA rows without images, of that size; returns how many rows."""
    rng = random.Random(seed)
    words = ["the", "a", "of", "man", "dog", "street", "red", "on", "table", "large", "image", "shows", '"é"', "\n"]
    rows = written = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        while written < megabytes * 1_000_000:
            texts = [" ".join(rng.choices(words, k=rng.randint(10, 80))) for _ in range(2 * rng.randint(1, 4))]
            said = [{"from": ("human", "gpt")[n % 2], "value": f"{n} {text}"} for n, text in enumerate(texts)]
            row = json.dumps({"id": f"{rows:012d}", "model": "", "conversations": said})
            written += file.write((",\n" if rows else "") + row)
            rows += 1
        file.write("]\n")
    return rows


@pytest.mark.slow
def test_a_large_array_takes_little_memory(tmp_path: Path) -> None:
    """What parent and worker hold together levels off: 295, 324, 333 MB of files of 40, 120 and 240 MB."""
    peaks = []
    for megabytes in (40, 120):
        rows = big_llava(tmp_path / f"{megabytes}.json", megabytes)
        out = tmp_path / f"out{megabytes}"
        command = [*PREPARE, "source=llava", f"path={tmp_path / f'{megabytes}.json'}", f"out={out}", "workers=1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.05)
        assert process.returncode == 0 and read_json(out / "import.json")["used"] == rows
        peaks.append(peak)
    print([f"{peak / 1e6:.0f} MB" for peak in peaks])
    assert 0 < peaks[1] < peaks[0] + 50_000_000


def _resident(pid: int) -> int:
    """Bytes that a process and its children hold."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
    return own + sum(_resident(int(child)) for child in children)


# --- public files ------------------------------------------------------------------------------


@pytest.mark.public_data
@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
def test_the_alignment_rows_of_vlsafe_and_their_references(tmp_path: Path) -> None:
    path = tmp_path / "vlsafe"
    path.mkdir()
    (path / "harmlessnss_alignment.jsonl").symlink_to(PUBLIC / "vlsafe" / "harmlessnss_alignment.jsonl")
    result = do_import(
        "vlsafe", path, tmp_path / "out", allow_missing_images=True, images=str(PUBLIC / "coco_vlsafe" / "images")
    )
    assert result.read == 1500 and result.rejected.keys() <= {"duplicate row"}
    asked = [d for split in ("prompts", "eval") for r in records(tmp_path / "out", split) for d in r.dialogues]
    assert all(d.reference for d in asked if d.criterion == "harmlessness")
    taught = [d for r in records(tmp_path / "out", "sft") for d in r.dialogues]
    refusals = [d for d in taught if d.criterion == "harmlessness"]  # of one photo in twenty, with its reference
    assert 40 < len(refusals) < 100 and not any(d.reference for d in refusals)
    assert {d.criterion for d in taught} == {"honesty", "harmlessness"}  # no objects are known


@pytest.mark.public_data
@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
def test_the_rows_of_llava(tmp_path: Path) -> None:
    instructions = PUBLIC / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl"
    result = do_import("llava", instructions, tmp_path / "qa", allow_missing_images=True)
    assert (result.read, result.used, result.written) == (90, 90, {"sft": 26, "eval": 4})
    boxes = PUBLIC / "llava" / "caps_boxes_coco2014_val_80.jsonl"
    result = do_import("captions", boxes, tmp_path / "boxes", allow_missing_images=True)
    assert (result.read, result.used, result.written) == (80, 80, {"align": 69, "eval": 11})
    assert all(thing.box for r in records(tmp_path / "boxes", "align") for thing in r.annotation.objects)
