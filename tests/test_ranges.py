"""Rows of a file as byte ranges: the same rows as the whole file parsed at once, and what is no row named."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dress.sources import ranges
from dress.sources.ranges import AFTER, CUT, Layout, layout, members
from dress.sources.rows import Rejected, SourceError, Table
from dress.sources.values import parse, value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
SURROGATES = [chr(code) for code in range(0xD800, 0xE000)]


def rows(path: Path, how: Layout | None = None, after: tuple[int, int] | None = None) -> list[bytes]:
    raw = path.read_bytes()
    found = ranges.ranges(path, how or layout(Table(path)), after)
    return [raw[row.offset : row.offset + row.size] for row in found]


@given(
    data=st.lists(JSON, max_size=8),
    chunk=st.integers(1, 40),
    form=st.sampled_from(["array", "indented array", "values", "lines"]),
    ascii_only=st.booleans(),
)
def test_rows_are_those_of_the_whole_file_and_reading_goes_on_at_any(data, chunk, form, ascii_only, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / ("x.jsonl" if form == "lines" else "x.json")
    how = None
    if form.endswith("array"):
        text = json.dumps(data, indent=1 if form != "array" else None, ensure_ascii=ascii_only)
    elif form == "values":
        text, how = "\n".join(json.dumps(row, indent=1, ensure_ascii=ascii_only) for row in data), Layout("values", 0)
    else:
        text = "\r\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in data)
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "CHUNK", chunk)  # every token is cut somewhere
        assert [json.loads(row) for row in rows(path, how)] == data
        found = list(ranges.ranges(path, how or layout(Table(path))))
        for number, row in enumerate(found):
            rest = ranges.ranges(path, how or layout(Table(path)), (row.number, row.offset + row.size))
            assert list(rest) == found[number + 1 :]


@given(
    data=st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")), min_size=2, max_size=2)
    )
)
def test_lines_of_csv_are_those_of_the_csv_module(data, tmp_path_factory):
    import csv

    path = tmp_path_factory.mktemp("rows") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "caption"], *data])
    how = layout(Table(path))
    assert how.columns == ("image", "caption")
    raw = path.read_bytes()
    found = list(ranges.ranges(path, how))
    got = [value(raw[row.offset : row.offset + row.size], row, how) for row in found]
    assert got == [{"image": a, "caption": b} for a, b in data if a or b]
    for number, row in enumerate(found):
        assert list(ranges.ranges(path, how, (row.number, row.offset + row.size))) == found[number + 1 :]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": 1}, {"b": "x', [b'{"a": 1}', b'{"b": "x']),
        ('[{"a": 1}, {"b": [1, {"c"', [b'{"a": 1}', b'{"b": [1, {"c"']),
        ('[{"a": 1}, {"b": "\\', [b'{"a": 1}', b'{"b": "\\']),
        ('[{"a": 1},', [b'{"a": 1}', b""]),
        ('{"a": 1}\n{"b": 2', [b'{"a": 1}', b'{"b": 2']),
    ],
)
def test_a_file_that_was_cut_gives_the_rows_before_and_says_so(
    text: str, expected: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert rows(path) == expected
    last = list(ranges.ranges(path, layout(Table(path))))[-1]
    raw = expected[-1]
    with pytest.raises(Rejected) as refused:
        value(raw, last, layout(Table(path)))
    assert refused.value.reason == (CUT if text.startswith("[") else "not JSON")


def test_a_broken_row_of_an_array_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"b": nope}, {"c": 3}]\n{"d": 4}')
    assert rows(path) == [b'{"a": 1}', b'{"b": nope}', b'{"c": 3}', b'{"d": 4}']
    faults = [row.fault for row in ranges.ranges(path, layout(Table(path)))]
    assert faults == ["", "", "", AFTER]
    path.write_text('[1, {"a": [}, }, "x", true]')
    assert rows(path)[:2] == [b"1", b'{"a": [}, }']


def test_the_form_of_a_file_is_seen_from_its_beginning(tmp_path: Path) -> None:
    forms = {
        "a.json": "\n [1]", "b.json": '{"a": 1}\n{"a": 2}\n', "c.json": '{\n "a": 1\n}\n{\n "a": 2\n}',
        "d.json": '{"a": 1} {"a": 2}', "e.jsonl": "[1, 2]\n[3]", "f.csv": "image,caption\n", "g.json": '{"a": 1, "b',
    }  # fmt: skip
    for name, text in forms.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" * (name < "c") + text.encode())
    found = [layout(Table(tmp_path / name)).form for name in forms]
    assert found == ["array", "lines", "values", "values", "lines", "csv", "values"]
    assert rows(tmp_path / "d.json") == [b'{"a": 1}', b'{"a": 2}']
    assert len(rows(tmp_path / "c.json")) == 2


def test_arrays_of_an_object_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text('{"info": {"images": [9]}, "n": 1, "images": [{"id": 1}, {"id": 2}], "annotations": []}')
    assert members(path) == ["images", "annotations"]
    assert rows(path, layout(Table(path, "images"))) == [b'{"id": 1}', b'{"id": 2}']
    assert rows(path, layout(Table(path, "annotations"))) == []
    with pytest.raises(SourceError, match=r"expected an array 'categories', got these arrays: images, annotations"):
        layout(Table(path, "categories"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (gzip.compress(b"[]", mtime=0), "compressed with gzip"),
        (b"PK\x03\x04", "compressed with zip"),
        (b"PAR1....", "got Parquet"),
        ("[]".encode("utf-16"), "expected UTF-8, got UTF-16"),
        ("[]".encode("utf-32-le"), "expected UTF-8, got UTF-16"),
    ],
)
def test_what_is_no_text_is_refused_by_name(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=rf"x\.json: .*{told}"):
        layout(Table(path))


def test_a_row_of_100_mb_takes_the_memory_of_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.write(b'[{"a": 1}, {"huge": "')
        for _ in range(100):
            file.write(b'quote \\" and more ' * 55_000)
        file.write(b'"}, {"b": 2}]')
    how = layout(Table(path))
    tracemalloc.start()
    found = list(ranges.ranges(path, how))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [row.number for row in found] == [1, 2, 3] and found[1].size > 90_000_000
    assert peak < 10_000_000
    with pytest.raises(Rejected, match="at most 16,777,216 bytes, got 99"):
        value(b"", found[1], how)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 10_000 + "]" * 10_000, "nested too deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested too deep"),
        ('{"a": 1, "a": 2}', "name twice"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": 1e999}', "not JSON"),
        ("9" * 5000, "not JSON"),
        ('"\\ud83d"', "broken text"),
        ("{'a': 1}", "not JSON"),
        ("__import__('os').system('true')", "not JSON"),
    ],
)
def test_json_is_strict(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse(text)
    assert refused.value.reason == reason
    assert parse('["\\ud83d\\ude00", "[[[[", 1e30]' + " " * 5) == ["\U0001f600", "[[[[", 1e30]
