"""Plain data on disk, written so that a crash leaves the old file or the new one."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING_FAILS: tuple[type[Exception], ...] = (OSError, RuntimeError)
"""What torch (RuntimeError), safetensors and Python raise when a file cannot be written; see `write_aside`."""


@contextmanager
def write_aside(path: Path, *fails: type[Exception]) -> Iterator[Path]:
    """A file beside `path` to write to; once it is whole and on disk it takes the place of `path`.

    Where writing fails, what stood at `path` stays, and nothing else does.

    Args:
        path: of the file; its folder is made if missing.
        fails: what the writer raises, beside OSError and RuntimeError, when a file cannot be written.

    Raises:
        OSError: it cannot be written; names `path` and the space that is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
    except (*WRITING_FAILS, *fails) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        free = shutil.disk_usage(path.parent).free / 1e9
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        raise OSError(
            number, f"cannot be written ({why}; {free:.2f} GB free there); what stood there before stays", str(path)
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Onto disk: a file's bytes, or the names in a folder."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs no folders
            raise
    finally:
        os.close(place)


def write_text(path: Path, text: str) -> None:
    """Write aside, sync, rename."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, data: Any) -> None:
    """A number that is not finite, which JSON has no word for, is written as null."""
    write_text(path, _dumps(data, indent=1))


def read_text(setting: str, path: str) -> str:
    """The text of a file that a setting names, without a byte order mark, with plain line ends.

    Raises:
        FileNotFoundError: no such file; the message names the setting.
        ValueError: it is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{setting}={path}: expected a file, found none") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting}={path}: expected UTF-8, got byte {error.start}: {error.reason}") from None


def read_json(path: Path, expected: type | None = None, remedy: str = "") -> Any:
    """What a JSON file holds.

    Args:
        path: of the file.
        expected: dict or list; None takes any value.
        remedy: what a user can do about a damaged file.

    Raises:
        ValueError: it is not JSON, or holds something else than expected; names file, expected and got.
    """
    tail = f". {remedy}" if remedy else ""
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got a damaged file ({error}){tail}") from None
    if expected is not None and not isinstance(value, expected):
        name = {"dict": "a JSON object", "list": "a JSON list"}.get(expected.__name__, expected.__name__)
        raise ValueError(f"{path}: expected {name}, got {json.dumps(value)[:60]}{tail}")
    return value


def required(value: dict[str, Any], names: Iterable[str], path: Path, remedy: str = "") -> None:
    """Refuse a file's object that lacks a field.

    Raises:
        ValueError: names file, field and what is there.
    """
    for name in names:
        if name not in value:
            fields = ", ".join(map(str, value))[:200] or "none"
            raise ValueError(f"{path}: expected a field {name!r}, got {fields}{f'. {remedy}' if remedy else ''}")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """JSON lines; a number that is not finite is written as null."""
    write_text(path, "".join(_dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[Any]:
    """JSON lines; an error names file and line."""
    rows = []
    # Not splitlines(): that also cuts at U+2028, which may stand in an answer.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: expected JSON, got {line[:80]!r} ({error})") from None
    return rows


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(file: Path, target: Path) -> None:
    """Let a file that nobody changes stand at `target`, too: linked where the file system can, else copied."""
    try:
        os.link(file, target)
    except OSError:  # another file system, or one without links
        with write_aside(target) as aside:
            shutil.copy2(file, aside)


def image_extension(data: bytes) -> str:
    """The file extension that the bytes' signature asks for."""
    if data.startswith(b"\x89PNG"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "jpg"


def data_uri(picture: bytes) -> str:
    """An image file as an address that holds it."""
    kind = image_extension(picture).replace("jpg", "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _dumps(data: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:  # rare, so the copy is made only then
        return json.dumps(_finite(data), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(data: Any) -> Any:
    """The same with None in the place of NaN and infinity."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
