"""Parts of an import, of features and of a collection: merged they are what one process writes, byte by byte."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, tiny_settings
from hypothesis import given
from hypothesis import strategies as st
from imports import answers_to, content, import_table, json_lines, llava_folder, llava_row, photo, photos
from llm_server import Behaviour, serving
from rich.console import Console
from scripts import begin

from dress import config
from dress.base.files import read_json, write_lines
from dress.base.parts import ConfigError, PartNumber, finish_part, read_parts
from dress.base.run_folder import folder_aside
from dress.config.tasks import Features, Import, Merge
from dress.data.index_file import INDEX, read_index
from dress.data.shards import Shards, write_shards
from dress.feedback.command import collect_from
from dress.llm.ledger import Ledger
from dress.llm.merging import merge_ledgers
from dress.llm.request import Stopped
from dress.run.merging import run as merge
from dress.sources import import_task
from dress.sources.part_rows import PartRows
from dress.sources.protocol import SourceError
from dress.sources.row_files import RowFile, rows_of
from dress.sources.rows import BLOCK_ROWS, Blocks
from dress.train import feature_extraction
from dress.train.curriculum import Curriculum
from dress.worlds.shapes import generate as shapes

QUIET = Console(quiet=True)
SETTINGS: dict[str, Any] = {"splits": ["sft", "prompts", "eval"], "per_shard": 9, "held_out": 5}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files about 60 images, each in all parts; rows and images that cannot be used, and a test split."""
    path = llava_folder(tmp_path_factory.mktemp("rows") / "in", 420, 60)
    json_lines(path / "z.jsonl", [llava_row(number, image="0003.jpg") for number in range(500, 620)])
    return path


@pytest.fixture(scope="module")
def whole(rows: Path) -> dict[str, bytes]:
    """What one process writes."""
    import_rows(rows, rows.parent / "out")
    return content(rows.parent / "out")


def import_rows(rows: Path, out: Path, **more: Any) -> Any:
    settings = {"task": "import", "source": "llava", "path": str(rows), "out": str(out), "workers": 0}
    return import_task.run(Import.model_validate(settings | SETTINGS | more), QUIET)


def merged(parts: Path, out: Path) -> None:
    merge(Merge(task="merge", parts=str(parts), out=str(out), workers=0), QUIET)


# --- what a part is -------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 200))
def test_every_thing_is_of_one_part(of: int, total: int) -> None:
    spans = [PartNumber(number, of).span(total) for number in range(of)]
    assert [one for span in spans for one in span] == list(range(total))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


@pytest.mark.parametrize("text", ["4/4", "1", "-1/2", "a/b", "0/0", "1/2/3"])
def test_a_part_that_there_is_not_is_refused_by_name(text: str) -> None:
    with pytest.raises(config.ConfigError, match=r"part: .*expected K/N with 0 <= K < N, e\.g\. 0/4"):
        config.check_as(Import, {"task": "import", "source": "llava", "path": "x", "out": "y", "part": text})


def test_rows_of_tables_are_shared_out_and_none_is_read_twice(tmp_path: Path) -> None:
    number = 5 * BLOCK_ROWS + 7
    table = pa.table({"question": [f"What is {n}?" for n in range(number)], "answer": ["x"] * number})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=130)
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    json_lines(tmp_path / "x.jsonl", table.to_pylist())
    for name in ("x.parquet", "x.arrow", "x.jsonl"):
        file = RowFile(tmp_path / name)
        every = list(rows_of(file)(0))
        shares = [list(rows_of(file, Blocks(PartNumber(k, 3), 1))(0)) for k in range(3)]
        assert sorted((row for share in shares for row in share), key=lambda row: row.number) == every
        assert all(2 * BLOCK_ROWS >= len(share) > BLOCK_ROWS for share in shares)
        assert list(rows_of(file, Blocks(PartNumber(1, 3), 1))(150)) == [r for r in shares[1] if r.number > 150]


# --- import ---------------------------------------------------------------------------------------


def test_parts_of_an_import_give_the_bytes_of_one_process(rows: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    for number in (2, 0, 1):
        part = import_rows(rows, tmp_path / "parts", part=f"{number}/3")
        assert part.rows > 100 and not part.unchanged
    merged(tmp_path / "parts", tmp_path / "out")
    assert content(tmp_path / "out") == whole and {"rejects.jsonl", "images.tsv", "import.json"} <= whole.keys()
    assert same_but_times(tmp_path / "out" / "sft" / INDEX, rows.parent / "out" / "sft" / INDEX)
    assert import_rows(rows, tmp_path / "parts", part="1/3").unchanged
    assert import_rows(rows, tmp_path / "out").unchanged, "the whole task takes it for its own"


def same_but_times(one: Path, other: Path) -> bool:
    """Whether two indexes tell the same of their shards but when they were written."""
    batches = [index.batch.drop_columns(["mtime_ns"]) for path in (one, other) if (index := read_index(path))]
    return len(batches) == 2 and bool(batches[0].equals(batches[1]))


def test_images_in_a_table_stay_in_its_parts(tmp_path: Path) -> None:
    number = 3 * BLOCK_ROWS
    images = [{"bytes": photo(n % 40), "path": "image.jpg"} for n in range(number)]
    images[120] = {"bytes": b"none", "path": "image.jpg"}
    table = pa.table({"image": images, "question": [f"What is {n}?" for n in range(number)], "answer": ["x"] * number})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "x.parquet", row_group_size=90)
    import_table(tmp_path / "in", tmp_path / "whole")
    for part in ("0/2", "1/2"):
        settings = {"task": "import", "source": "rows", "path": str(tmp_path / "in"), "out": str(tmp_path / "parts")}
        import_task.run(Import.model_validate(settings | {"workers": 0, "part": part}), QUIET)
    merged(tmp_path / "parts", tmp_path / "merged")
    assert content(tmp_path / "merged") == content(tmp_path / "whole") and (tmp_path / "merged/reject_images").is_dir()


def test_a_killed_part_goes_on(rows: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    words = ["source=llava", f"path={rows}", f"out={tmp_path / 'parts'}", "workers=1", "per_shard=9", "held_out=5"]
    command = [sys.executable, str(ROOT / "src/prepare.py"), *words, "splits=[sft,prompts,eval]", "part=0/2"]
    process = begin(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    folder, until = tmp_path / "parts" / "part-000-of-002", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        # Who reads the file before it has a journal keeps it from one.
        if (folder / "rows.sqlite-wal").exists() and entered(folder / "rows.sqlite"):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before, file = entered(folder / "rows.sqlite"), (folder / "rows.sqlite").stat().st_ino
    assert before and not (folder / "part.json").exists()
    import_rows(rows, tmp_path / "parts", part="1/2")
    with pytest.raises(ConfigError, match=r"000-of-002: expected a finished part, found an unfinished one\."):
        merged(tmp_path / "parts", tmp_path / "out")
    import_rows(rows, tmp_path / "parts", part="0/2")
    assert before <= entered(folder / "rows.sqlite") and (folder / "rows.sqlite").stat().st_ino == file
    merged(tmp_path / "parts", tmp_path / "out")
    assert content(tmp_path / "out") == whole


def entered(file: Path) -> set[tuple[int, ...]]:
    """The rows that stand in a part's file: their places there, and where they come from."""
    db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    try:
        return set(db.execute("SELECT rowid, tbl, number FROM rows"))
    except sqlite3.OperationalError:  # it has no tables yet
        return set()
    finally:
        db.close()


def test_a_part_that_another_program_holds_is_not_begun_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.sqlite"
    PartRows(file, "input").close()
    number = file.stat().st_ino
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("UPDATE import SET fingerprint = fingerprint")
        with pytest.raises(ValueError, match=r"rows\.sqlite: expected a file that no other program holds, got"):
            PartRows(file, "input")
    again = PartRows(file, "input")
    again.close()
    assert again.resumed and file.stat().st_ino == number


def test_a_part_is_made_anew_where_it_is_to_be_overwritten(tmp_path: Path) -> None:
    """An image may have become another one."""
    path = llava_folder(tmp_path / "in", 420, 60)
    parts = tmp_path / "parts"
    for part in ("0/2", "1/2"):
        import_rows(path, parts, part=part)
    (path / "images" / "0003.jpg").write_bytes(photo(77, (30, 20)))
    with pytest.raises(SourceError, match=r"0003\.jpg: changed since the parts were made"):
        merged(parts, tmp_path / "out")
    for part in ("0/2", "1/2"):
        import_rows(path, parts, part=part, overwrite=True)
    merged(parts, tmp_path / "out")
    import_rows(path, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("name", ["../../x.tar", "/tmp/x.tar"])
def test_a_part_names_nothing_outside_of_itself(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "parts" / "part-000-of-001"
    folder.mkdir(parents=True)
    finish_part(folder, "collect", {}, {"used": None, "files": {name: "0"}})
    with pytest.raises(ConfigError, match=r"part\.json: files: expected names below the part, got"):
        merged(tmp_path / "parts", tmp_path / "out")


def test_a_part_that_lacks_a_fact_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "parts" / "part-000-of-001"
    folder.mkdir(parents=True)
    finish_part(folder, "features", {}, {"files": {}})
    with pytest.raises(ValueError, match=r"part\.json: expected a field 'pictures'.*Delete the part"):
        merged(tmp_path / "parts", tmp_path / "out")


def test_two_merges_to_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from dress.base.run_folder import folder_aside
with folder_aside(Path({str(tmp_path / "out")!r})) as aside:
    (aside / "x").touch()
    print(flush=True)
    input()
"""
    other = begin([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    with pytest.raises(ConfigError, match="another process writes this folder"), folder_aside(tmp_path / "out"):
        pass
    other.communicate(b"\n")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["x"]


def test_parts_that_do_not_belong_together_are_named(rows: Path, tmp_path: Path) -> None:
    parts, out = tmp_path / "parts", tmp_path / "out"
    with pytest.raises(ConfigError, match=r"parts=.*expected folders part-000-of-…"):
        merged(parts, out)
    import_rows(rows, parts, part="0/2")
    with pytest.raises(ConfigError, match=r"part-001-of-002: expected a finished part, found none\. Run part=1/2"):
        merged(parts, out)
    import_rows(rows, parts, part="0/3")
    with pytest.raises(ConfigError, match=r"part-000-of-003: expected one of 2 parts"):
        merged(parts, out)
    shutil.rmtree(parts / "part-000-of-003")
    import_rows(rows, parts, part="1/2", per_shard=10)
    with pytest.raises(ConfigError, match=r"part-001-of-002: made with other per_shard \(9 expected, 10 got\)"):
        merged(parts, out)
    with pytest.raises(ConfigError, match=r"holds a part made with other per_shard \(10 expected, 9 got\)"):
        import_rows(rows, parts, part="1/2")
    shutil.rmtree(parts / "part-001-of-002")
    import_rows(rows, parts, part="1/2")
    with (parts / "part-001-of-002" / "rows.sqlite").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match=r"rows\.sqlite: changed since the part was finished"):
        merged(parts, out)
    with pytest.raises(ConfigError, match=r"expected a folder beside parts="):
        merged(parts, parts / "out")


def test_an_input_that_changed_after_the_parts_is_refused(tmp_path: Path) -> None:
    photos(tmp_path / "in" / "images", "0000.jpg", "0001.jpg")
    file = json_lines(tmp_path / "in" / "x.jsonl", [llava_row(number) for number in range(3)])
    for part in ("0/2", "1/2"):
        import_rows(tmp_path / "in", tmp_path / "parts", part=part)
    (tmp_path / "in" / "images" / "0001.jpg").write_bytes(photo(9, (30, 30)))
    with pytest.raises(SourceError, match=r"0001\.jpg: changed since the parts were made; delete the parts"):
        merged(tmp_path / "parts", tmp_path / "out")
    json_lines(file, [llava_row(number) for number in range(2)])
    with pytest.raises(SourceError, match=r"changed since the parts were made: inputs"):
        merged(tmp_path / "parts", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- features -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose encoder it is, and `in`: two splits with the same pictures, one of them damaged, some twice."""
    tmp = tmp_path_factory.mktemp("encoder")
    Curriculum(tiny_settings(tmp, "curriculum.run=[align]", "curriculum.stages.align.steps=1"), QUIET).run()
    samples = list(shapes.samples("sft", 9, seed=0))
    record, image = samples[0]
    samples[4] = samples[4][0], photo()[:-100]
    twins = [(record.model_copy(update={"key": key}), image) for key in ("twin-in-shard", "twin-in-split")]
    for split in ("align", "sft"):
        write_shards(tmp / "in" / split, [*samples[:2], twins[0], *samples[2:], twins[1]], per_shard=3)
    return tmp


def encode(encoder: Path, out: Path, **more: Any) -> feature_extraction.Totals:
    settings = {"task": "features", "path": str(encoder / "in"), "ckpt": str(encoder / "run"), "on_damage": "skip"}
    return feature_extraction.run(
        Features.model_validate({**settings, "out": str(out), "batch_size": 2, **more}), QUIET
    )


def test_parts_of_features_give_the_bytes_of_one_process(encoder: Path, tmp_path: Path) -> None:
    encode(encoder, tmp_path / "whole")
    for number in (1, 0):
        assert encode(encoder, tmp_path / "parts", part=f"{number}/2").encoded < 8
    again = tmp_path / "parts" / "part-000-of-002"
    (again / "part.json").unlink()
    (again / "sft" / "shard-000000.tar").unlink()  # as if killed before
    assert encode(encoder, tmp_path / "parts", part="0/2").shards == 1
    assert encode(encoder, tmp_path / "parts", part="1/2").shards == 0
    merged(tmp_path / "parts", tmp_path / "out")
    expected = content(tmp_path / "whole")
    assert content(tmp_path / "out") == expected and len(read_json(tmp_path / "out" / "features.json")) == 3
    assert b"align" in expected["rejects.jsonl"] and len(expected["rejects.jsonl"].splitlines()) == 2
    assert same_but_times(tmp_path / "out" / "sft" / INDEX, tmp_path / "whole" / "sft" / INDEX)
    encode(encoder, tmp_path / "other", part="0/2", batch_size=3)
    shutil.move(tmp_path / "parts" / "part-001-of-002", tmp_path / "other")
    with pytest.raises(ConfigError, match=r"made with other batch_size \(3 expected, 2 got\)"):
        merged(tmp_path / "other", tmp_path / "out2")


def test_features_of_a_picture_are_those_of_its_first_shard(encoder: Path, tmp_path: Path) -> None:
    """Two parts have encoded a picture, with different rounding."""
    samples = list(shapes.samples("sft", 3, seed=0))
    encode(encoder, tmp_path / "one")
    shards = Shards(tmp_path / "one" / "align")
    features = dict(map(shards.features_file, range(3)))
    mine, theirs = (features[record.key] for record, _ in samples[:2])
    assert mine is not None and theirs is not None
    for number, data in enumerate((mine, theirs)):
        record = samples[0][0].model_copy(update={"key": f"copy-{number}"})
        folder = tmp_path / "parts" / f"part-00{number}-of-002"
        write_shards(folder / "sft" / "deeper", [(record, samples[0][1])], start=number, features={record.key: data})
        facts = {"shards": {"sft": "x"}, "stored": "bf16", "encoder": {}}
        name = f"sft/deeper/shard-{number:06d}.tar"
        (folder / "features.json").write_text(json.dumps(facts))
        finish_part(folder, "features", facts, {"pictures": {name: ["p"]}, "damage": {"sft": []}, "files": {}})
    merged(tmp_path / "parts", tmp_path / "out")
    out = Shards(tmp_path / "out" / "sft")
    assert [out.features_file(number)[1] for number in range(2)] == [mine, mine] and mine != theirs


# --- collect --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `prompts`, and with `answers.jsonl` to most of them and to others."""
    folder = tmp_path_factory.mktemp("asked")
    samples = list(shapes.samples("prompts", 12, seed=0))
    write_shards(folder / "prompts", samples, 5)
    rows = answers_to(samples)
    write_lines(folder / "answers.jsonl", [*rows[:4], *rows[5:], rows[-1], {"key": "nobody", "answer": "x"}])
    return folder


def collect(asked: Path, out: str, annotator: dict[str, Any], **more: Any) -> None:
    places = {"responder": str(asked / "answers.jsonl"), "shards": str(asked / "prompts"), "out": out}
    settings = {**places, "records": 12, "per_shard": 2, "turns": 1, "annotator": annotator, **more}
    collect_from(config.check_as(config.CollectCommand, settings), QUIET)


def test_parts_of_a_collection_give_the_bytes_of_one_process(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")  # collect.json says where it lies
    collect(asked, "out", {"kind": "oracle"})
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        collect(asked, "parts", {"kind": "oracle"}, part=f"{number}/8")  # of six shards
    assert sum(bool(list(part.folder.glob("*.tar"))) for part in read_parts(Path("parts"))[1]) == 6
    merged(Path("parts"), Path("out"))
    assert content(tmp_path / "out") == content(tmp_path / "one" / "out")
    assert {"failures.jsonl", "unused_answers.jsonl", "collect.json"} <= content(tmp_path / "out").keys()
    collect(asked, "out", {"kind": "oracle"})  # goes on as the whole
    with pytest.raises(ConfigError, match="made with other annotator"):
        shutil.rmtree("parts/part-002-of-008")
        collect(asked, "parts", {"kind": "rules"}, part="2/8")
        merged(Path("parts"), Path("out2"))


def test_parts_have_ledgers_of_their_own_which_become_one(asked: Path, tmp_path: Path) -> None:
    with serving(server := Behaviour(refuses=0.1)) as url:
        llm = {
            "kind": "llm", "base_url": url, "model": "judge", "structured": "json_schema", "preview": 0,
            "budget": 9.0, "price_in": 1.0, "price_out": 1.0,
        }  # fmt: skip
        collect(asked, str(tmp_path / "whole"), llm)
        for number in range(2):
            collect(asked, str(tmp_path / "parts"), llm, part=f"{number}/2")
        merged(tmp_path / "parts", tmp_path / "out")
        calls = sum(server.calls.values())
        collect(asked, str(tmp_path / "out"), llm)
        assert sum(server.calls.values()) == calls, "all is known"
    one, other = (
        {name: data for name, data in content(tmp_path / out).items() if not name.startswith(("collect", "ledger"))}
        for out in ("whole", "out")
    )
    assert one == other and "failures.jsonl" in one
    ledgers = [Ledger(tmp_path / out / "ledger.sqlite", readonly=True) for out in ("whole", "out")]
    assert ledgers[0].counts() == ledgers[1].counts() and ledgers[0].spent == pytest.approx(ledgers[1].spent)
    halves = [tmp_path / "first.sqlite", tmp_path / "second.sqlite"]
    for half in halves:
        shutil.copy(tmp_path / "out" / "ledger.sqlite", half)
    db = sqlite3.connect(halves[0])
    with db:
        db.execute("UPDATE calls SET status = 'failed', reason = 'http_500', parsed = NULL, raw = NULL")
    db.close()
    merge_ledgers(halves, tmp_path / "both.sqlite")
    both = Ledger(tmp_path / "both.sqlite", readonly=True)
    assert both.counts()["done"] == ledgers[1].counts()["done"] > 0, "a failed call stands above one that was paid for"
    texts = [
        {row["key"]: row["parsed"] for row in one.calls() if row["status"] == "done"} for one in (both, ledgers[1])
    ]
    assert texts[0] == texts[1] and both.spent == pytest.approx(2 * ledgers[1].spent)
    cheap = llm | {"budget": 4.0, "price_in": 1e3, "price_out": 1e3}
    with serving(Behaviour()) as url, pytest.raises(Stopped, match=r"budget=2: .*part-000-of-002.*goes on"):
        collect(asked, str(tmp_path / "cheap"), cheap | {"base_url": url}, part="0/2")
