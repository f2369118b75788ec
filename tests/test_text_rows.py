"""Rows of a file as byte ranges: the same rows as the whole file parsed at once, and what is no row named."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dress.sources import text_rows
from dress.sources.protocol import RowError, RowFile, SourceError
from dress.sources.rows import Row
from dress.sources.strict_json import parse, parse_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
SURROGATES = [chr(code) for code in range(0xD800, 0xE000)]


def rows(path: Path, array: str = "", after: int = 0) -> list[Row]:
    return list(text_rows.text_rows(RowFile(path, array))(after))


def data(path: Path, array: str = "") -> list[bytes]:
    return [row.data for row in rows(path, array)]


@given(
    values=st.lists(JSON, max_size=8),
    chunk=st.integers(1, 40),
    form=st.sampled_from(["array", "indented array", "values", "lines"]),
    ascii_only=st.booleans(),
)
def test_rows_are_those_of_the_whole_file_and_reading_goes_on_at_any(values, chunk, form, ascii_only, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / ("x.jsonl" if form == "lines" else "x.json")
    if form.endswith("array"):
        text = json.dumps(values, indent=1 if form != "array" else None, ensure_ascii=ascii_only)
    elif form == "values":
        values = [{"a": 1}, *values]
        text = "{\n" + "\n".join(json.dumps(row, indent=1, ensure_ascii=ascii_only) for row in values)[1:]
    else:
        text = "\r\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in values)
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_rows, "CHUNK", chunk)  # every token is cut somewhere
        everything = rows(path)
        assert [json.loads(row.data) for row in everything] == values
        for number, row in enumerate(everything):
            assert rows(path, after=row.number) == everything[number + 1 :]


@given(
    lines=st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")), min_size=2, max_size=2)
    )
)
def test_lines_of_csv_are_those_of_the_csv_module(lines, tmp_path_factory):
    import csv

    path = tmp_path_factory.mktemp("rows") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "caption"], *lines])
    everything = rows(path)
    assert [parse_bytes(row.data) for row in everything] == [{"image": a, "caption": b} for a, b in lines if a or b]
    for number, row in enumerate(everything):
        assert rows(path, after=row.number) == everything[number + 1 :]


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
    assert data(path) == expected
    last = rows(path)[-1]
    if text.startswith("["):
        assert last.fault and last.fault.reason == "cut short"
    else:
        with pytest.raises(RowError, match="delimiter"):
            parse_bytes(last.data)


def test_a_broken_row_of_an_array_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"b": nope}, {"c": 3}]\n{"d": 4}')
    assert data(path) == [b'{"a": 1}', b'{"b": nope}', b'{"c": 3}', b'{"d": 4}']
    assert [row.fault and row.fault.reason for row in rows(path)] == [None, None, None, "after the array"]
    path.write_text('[1, {"a": [}, }, "x", true]')
    assert data(path)[:2] == [b"1", b'{"a": [}, }']


def test_the_form_of_a_file_is_seen_from_its_beginning(tmp_path: Path) -> None:
    forms = {
        "a.json": ("\n [1]", [b"1"]), "b.json": ('{"a": 1}\n{"a": 2}\n', [b'{"a": 1}', b'{"a": 2}']),
        "c.json": ('{\n "a": 1\n}\n{\n "a": 2\n}', [b'{\n "a": 1\n}', b'{\n "a": 2\n}']),
        "d.json": ('{"a": 1} {"a": 2}', [b'{"a": 1}', b'{"a": 2}']), "e.jsonl": ("[1, 2]\n[3]", [b"[1, 2]", b"[3]"]),
        "f.csv": ("image,caption\na,b", [b'{"image": "a", "caption": "b"}']),
        "g.json": ('{"a": 1, "b', [b'{"a": 1, "b']),
    }  # fmt: skip
    for name, (text, expected) in forms.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" * (name < "c") + text.encode())
        assert data(tmp_path / name) == expected, name


def test_arrays_of_an_object_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text('{"info": {"images": [9]}, "n": 1, "images": [{"id": 1}, {"id": 2}], "annotations": []}')
    assert text_rows.arrays(path) == ["images", "annotations"]
    assert data(path, "images") == [b'{"id": 1}', b'{"id": 2}'] and data(path, "annotations") == []
    with pytest.raises(SourceError, match=r"expected an array 'categories', got these arrays: images, annotations"):
        rows(path, "categories")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"[]", mtime=0), "compressed with gzip"),
        (b"PK\x03\x04", "compressed with zip"),
        ("[]".encode("utf-16"), "expected UTF-8, got UTF-16"),
        ("[]".encode("utf-32-le"), "expected UTF-8, got UTF-16"),
    ],
)
def test_what_is_no_text_is_refused_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=rf"x\.json: .*{message}"):
        rows(path)


@pytest.mark.parametrize("unit", ['quote \\" and more ', "0", '"text", '])
def test_a_huge_row_takes_the_memory_of_the_largest_that_is_read(unit: str, tmp_path: Path) -> None:
    path, quote = tmp_path / "x.json", '"' if unit.startswith("quote") else ""
    with path.open("w") as file:
        file.write('[{"a": 1}, {"huge": [' + quote)
        for _ in range(80 if quote else 20):
            file.write(unit * (1_000_000 // len(unit)))
        file.write(quote + ']}, {"b": 2}]')
    tracemalloc.start()
    first, huge, last = rows(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (first.data, last.data, last.number) == (b'{"a": 1}', b'{"b": 2}', 3)
    assert huge.fault and huge.fault.reason == "too large" and len(huge.data) == 1000
    assert re.search(r"at most 16,777,216 bytes, got \d\d,\d{3},\d{3} at byte 11", huge.fault.detail)
    assert peak < 60_000_000


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
    with pytest.raises(RowError) as error:
        parse(text)
    assert error.value.reason == reason
    assert parse('["\\ud83d\\ude00", "[[[[", 1e30]' + " " * 5) == ["\U0001f600", "[[[[", 1e30]
