"""The index of a shard: where each sample's members lie, and what in it cannot be used.

One pass over the tar headers and what follows the end mark; of the members only the headers of stored features are
read, and on demand the images. webdataset's own reader takes a cut tar for a whole one and unpickles by default; here
every member is on a list of what may be read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import tarfile
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NotRequired

from typing_extensions import TypedDict

from dress.data.features import FeatureError, FeatureHeader, read_header

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
FEATURES = "features.safetensors"
EXTENSIONS = ("json", FEATURES, *IMAGE_EXTENSIONS)
CAPTION_EXTENSIONS = ("txt", "json", *IMAGE_EXTENSIONS)
MAX_MEMBER_BYTES = 64 * 1024 * 1024
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_NAME_BYTES = 64 * 1024
"""Of a long file name or a pax header, which tarfile reads into memory."""

Format = Literal["records", "captions"]
"""`records`: a record per sample. `captions`: anybody's webdataset of images with `.txt` or `.json` captions."""

Places = dict[str, tuple[int, int]]
"""Extension to (offset, size) of a sample's members."""

NAME_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
DAMAGED = (
    tarfile.TarError, ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
    struct.error,
)  # fmt: skip
"""What tarfile raises of headers that are damaged."""
PIECE = 1 << 20
PROBED = 200
"""JSON files that are read to tell records from captions, at most."""
OURS = {"dialogues", "annotation", "version"}
"""Fields that captions do not have."""


class Contents(TypedDict):
    """What is in a shard: its samples by key, what cannot be used, and what its stored features have in common."""

    sha256: str
    samples: list[tuple[str, Places]]
    problems: list[tuple[str, str]]  # (member, reason)
    features: dict[str, Any] | None


class Entry(Contents):
    """A shard of an index."""

    name: str  # its path below the folder, or its URL
    size: int
    mtime_ns: int
    tag: NotRequired[str | None]  # ETag or the like, of a remote shard


class _Member(tarfile.TarInfo):
    """A header whose long names have a limit, whose size is one, and whose sparse map is not read."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in NAME_TYPES and self.size > MAX_NAME_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes at byte {self.offset}")
        if self.size < 0:
            raise tarfile.ReadError(f"a size of {self.size} bytes at byte {self.offset}")
        return super()._proc_member(tar)  # type: ignore[misc]  # tarfile's own, without stubs

    def _proc_gnusparse_00(self, member: tarfile.TarInfo, *_: Any) -> None:
        """Noted and not read: sparse files are refused."""
        member.sparse = []  # type: ignore[assignment]  # stubs lack this field

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


def check_regular(path: Path | str) -> os.stat_result:
    """What the file system says of a file; refuses what could never end: a FIFO, a device, or a link to one.

    Raises:
        ValueError: names the file; also where a link leads nowhere.
    """
    try:
        result = os.stat(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a regular file, got a link that leads nowhere") from None
    if not stat.S_ISREG(result.st_mode):
        raise ValueError(f"{path}: expected a regular file, got a folder, a FIFO, a socket or a device")
    return result


def printable(name: str) -> str:
    """A name without control characters, which could change what a terminal shows."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def index_shard(path: Path, form: Format = "records", ignore: Collection[str] = (), images: bool = False) -> Contents:
    """What is in a shard, read to its last byte. Its `features` are None where it holds none.

    Args:
        path: a tar file.
        form: which members a sample has.
        ignore: further extensions that may stand there and are passed over.
        images: compare each image with the checksum in its record.

    Raises:
        ValueError: no regular file.
    """
    check_regular(path)
    problems: list[tuple[str, str]] = []
    with path.open("rb") as file:
        samples = _members(file, path.stat().st_size, form, ignore, problems)
        for key, members in list(samples.items()):
            reason = _incomplete(key, members, form)
            if reason is None and images and form == "records":
                reason = _other_image(file, members)
            if reason is not None:
                problems.append((key, reason))
                del samples[key]
        header, damaged = _features(samples, file)
        for key, reason in damaged:
            problems.append((f"{key}.{FEATURES}", reason))
            del samples[key][FEATURES]
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "sha256": checksum,
        "samples": list(samples.items()),
        "problems": [(printable(member), reason) for member, reason in problems],
        "features": None if header is None else header.common(),
    }


def detect_format(path: Path, ignore: Collection[str] = ()) -> Format | None:
    """`records` or `captions`, by the first sample that tells; None where none does.

    Captions are a `.txt` beside the image, or JSON with a `caption` and nothing that a record of ours has.

    Raises:
        ValueError: no regular file.
    """
    check_regular(path)
    with path.open("rb") as file:
        samples = _members(file, path.stat().st_size, "captions", ["*", *ignore], [])
        for members in list(samples.values())[:PROBED]:
            if "txt" in members:
                return "captions"
            value = _json(file, members)
            if isinstance(value, dict):
                if value.keys() & OURS or isinstance(value.get("image"), dict):
                    return "records"
                if "caption" in value or "key" in value:
                    return "captions" if "caption" in value else "records"
    return None


def _members(
    file: BinaryIO, size: int, form: Format, ignore: Collection[str], problems: list[tuple[str, str]]
) -> dict[str, Places]:
    """Key to extension to (offset, size) of every member that may be read; what may not goes to `problems`."""
    samples: dict[str, Places] = {}
    end, cut = 0, False
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
            for member in _each(tar):
                reason, end = _refused(member, form, ignore), tar.offset
                if not reason and member.offset_data + member.size > size:
                    problems.append((member.name, f"the file was cut: {tar.offset} bytes expected, {size} got"))
                    cut = True
                    break
                if not reason and member.isreg():
                    reason = _enter(samples, member, ignore)
                if reason:
                    problems.append((member.name, reason))
    except DAMAGED as error:
        problems.append(("", f"expected a whole tar file, got one that is damaged behind byte {end} ({error})"))
        cut = True
    if not cut and end + 512 > size:
        problems.append(("", f"expected at least {end + 512} bytes (members and end mark), got {size}: it was cut"))
    elif not cut and (at := _first_byte(file, end)) is not None:
        what = "damaged header" if at < end + 512 else f"expected zeros from the end mark at byte {end} on, got others"
        problems.append(("", f"{what} at byte {at}; {len(samples)} samples stand before it"))
    return samples


def _each(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members, of which each must end behind the one before: a size may be negative, or more than a file can have."""
    end = -1
    for member in tar:
        if member.size < 0 or tar.offset <= end or tar.offset > 1 << 62:
            raise tarfile.ReadError(f"{printable(member.name)!r:.80}: a size of {member.size} bytes")
        end = tar.offset
        # Else as many headers as a file holds stay in memory.
        tar.members.clear()  # type: ignore[attr-defined]  # stubs lack this field
        yield member


def _first_byte(file: BinaryIO, start: int) -> int | None:
    """Where the first byte stands from `start` on that is not zero; None if all are."""
    file.seek(start)
    while piece := file.read(PIECE):
        if rest := piece.lstrip(b"\0"):
            return start + len(piece) - len(rest)
        start += len(piece)
    return None


def _incomplete(key: str, members: dict[str, Any], form: Format) -> str | None:
    """Why the members of a sample are none, if so."""
    pictures = [extension for extension in IMAGE_EXTENSIONS if extension in members]
    if len(pictures) > 1:
        return f"expected one image, got .{' and .'.join(pictures)}"
    if form == "records":
        return None if "json" in members else f"expected {key}.json beside it, found none"
    if pictures and ("txt" in members or "json" in members):
        return None
    return f"expected {key}.txt or .json, and its image beside it, found none"


def _other_image(file: BinaryIO, members: Places) -> str | None:
    """Why the image is not the record's, if so; JSON that is no record is named when it is read."""
    image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
    record = _json(file, members)
    about = record.get("image") if isinstance(record, dict) else None
    expected = about.get("sha256") if isinstance(about, dict) else None
    if image is None or not isinstance(expected, str):
        return None
    file.seek(image[0])
    checksum = hashlib.sha256(file.read(image[1])).hexdigest()
    return (
        None if checksum == expected else f"image.sha256: expected an image of {expected[:64]}, got one of {checksum}"
    )


def _json(file: BinaryIO, members: Places) -> Any:
    """A sample's JSON, None if it has none or a damaged one."""
    if "json" not in members:
        return None
    offset, size = members["json"]
    file.seek(offset)
    try:
        return json.loads(file.read(size))
    except (ValueError, RecursionError):
        return None


def _features(samples: dict[str, Places], file: BinaryIO) -> tuple[FeatureHeader | None, list[tuple[str, str]]]:
    """What the features of a shard have in common, and (key, reason) of those that are damaged or unlike the first."""
    first: FeatureHeader | None = None
    damaged = []
    for key, members in samples.items():
        if FEATURES not in members:
            continue
        offset, size = members[FEATURES]
        file.seek(offset)
        try:
            header = read_header(file.read(min(size, FeatureHeader.LONGEST)), size)
            if first is not None and header.common() != first.common():
                raise FeatureError(f"expected features like the shard's first, {first.common()}, got {header.common()}")
            first = first or header
        except FeatureError as error:
            damaged.append((key, str(error)))
    return first, damaged


def _refused(member: tarfile.TarInfo, form: Format, ignore: Collection[str]) -> str | None:
    """Why a member is not read, if it is not; nothing for folders either."""
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        return "expected a plain file, got a link, a device or a sparse file"
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        return "expected a key inside the shard, got a path that leads out of it"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in member.name):
        return "expected a name in UTF-8 without control characters"
    extension = _extension(place)
    allowed = EXTENSIONS if form == "records" else CAPTION_EXTENSIONS
    if extension not in allowed:
        if extension in ignore or "*" in ignore:
            return None
        return f"expected one of .{', .'.join(allowed)}, got .{extension}; other kinds of file are never decoded"
    limit = MAX_JSON_BYTES if extension in ("json", "txt") else MAX_MEMBER_BYTES
    return f"expected at most {limit} bytes, got {member.size}" if member.size > limit else None


def _enter(samples: dict[str, Places], member: tarfile.TarInfo, ignore: Collection[str]) -> str | None:
    """Enter a member that may be read; a reason if its place is taken."""
    place = PurePosixPath(member.name)
    extension, stem = _extension(place), place.name.partition(".")[0]
    if extension in ignore or extension not in {*EXTENSIONS, *CAPTION_EXTENSIONS}:
        return None
    key = stem if place.parent == PurePosixPath(".") else f"{place.parent}/{stem}"
    members = samples.setdefault(key, {})
    if extension in members:
        return "the key occurs twice"
    members[extension] = (member.offset_data, member.size)
    return None


def _extension(place: PurePosixPath) -> str:
    return place.name.partition(".")[2].lower()
