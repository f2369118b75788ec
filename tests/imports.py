"""What tests of imports share: tiny photos, an import of them, and what it wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT
from PIL import Image

from dress.base.files import read_lines
from dress.config.rows import RowMapping
from dress.config.tasks import Import
from dress.data.index_file import INDEX
from dress.data.shards import Sample, Shards
from dress.record import Record
from dress.sources import source, source_of
from dress.sources.destination import ImportResult
from dress.sources.importing import run_import


class Silent:
    """Shows no progress."""

    def start(self, step: str, total: int) -> None: ...

    def advance(self, number: int) -> None: ...

    def end(self) -> None: ...


def photo(number: int = 0, size: tuple[int, int] = (24, 16)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (number * 5 % 256, number // 50 % 256, 200)).save(data, "JPEG")
    return data.getvalue()


def photos(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo(number))


def llava_row(number: int, images: int = 100, **changes: Any) -> dict[str, Any]:
    """A question about one of so many images."""
    turns = [{"from": "human", "value": f"<image>\nWhat is {number}?"}, {"from": "gpt", "value": f"A thing {number}."}]
    return {"id": str(number), "image": f"{number % images:04d}.jpg", "conversations": turns} | changes


def llava_folder(path: Path, rows: int, images: int) -> Path:
    """`rows.json` about so many images, the last of which is missing and one damaged; three rows cannot be used."""
    photos(path / "images", *(f"{number:04d}.jpg" for number in range(images - 1)))
    (path / "images" / "0007.jpg").write_bytes(photo()[:-100])
    values = [llava_row(number, images) for number in range(rows)]
    values[110]["image"], values[220]["conversations"], values[330] = 5, [], values[0]
    (path / "rows.json").write_text(json.dumps(values))
    return path


def answers_to(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A file's rows: an answer to every question."""
    return [
        {"key": record.key, "question": dialogue.turns[0].user, "answer": f"Answer {number}."}
        for record, _ in samples
        for number, dialogue in enumerate(record.dialogues)
    ]


def do_import(name: str, path: Path, out: Path, **more: Any) -> ImportResult:
    settings = Import(task="import", source=name, path=str(path), out=str(out), **{"workers": 0} | more)
    return run_import(source(name), settings, Silent())


def records(out: Path, split: str) -> list[Record]:
    return [record for record, _ in Shards(out / split)]


def rejects(out: Path) -> list[dict[str, Any]]:
    return read_lines(out / "rejects.jsonl")


def reasons(out: Path) -> list[str]:
    return [reject["reason"] for reject in rejects(out)]


def content(out: Path) -> dict[str, bytes]:
    """Every file of an import but the index, which holds times."""
    files = (file for file in out.rglob("*") if file.is_file() and file.name != INDEX)
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}


def json_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mapping_of(name: str) -> RowMapping:
    """A public set's mapping, as `source=NAME` reads it."""
    return RowMapping.model_validate(yaml.safe_load((ROOT / "configs" / "source" / f"{name}.yaml").read_text()))


def import_table(path: Path, out: Path, mapping: RowMapping | None = None, **more: Any) -> ImportResult:
    """An import with `source=rows`, or with a mapping."""
    stated = {"source": "rows", "mapping": mapping, "workers": 0} | more
    settings = Import(task="import", path=str(path), out=str(out), **stated)
    return run_import(source_of(settings), settings, Silent())
