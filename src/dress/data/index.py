"""The index of a shard: where each sample's members lie, and what in it cannot be used.

One pass over the tar headers; of the members only the headers of stored features are read. webdataset's
own reader takes a cut tar for a whole one and unpickles by default (RELIABILITY §1); here every member is
on a list of what may be read.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

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


NAME_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class _Member(tarfile.TarInfo):
    """A header whose long names have a limit."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in NAME_TYPES and self.size > MAX_NAME_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes at byte {self.offset}")
        return super()._proc_member(tar)  # type: ignore[misc]


def index_shard(path: Path, form: Format = "records", ignore: Collection[str] = ()) -> dict[str, Any]:
    """`{"sha256", "samples": [[key, {extension: [offset, size]}]], "problems": [[member, reason]], "features"}`.

    `features` is what the stored features of the shard have in common (`data.features`), None where it holds none.

    Args:
        path: a tar file.
        form: which members a sample has.
        ignore: further extensions that may stand there and are passed over.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    problems: list[tuple[str, str]] = []
    size, end = path.stat().st_size, 0
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
                for member in tar:
                    reason, end = _refused(member, form, ignore), tar.offset
                    if not reason and member.offset_data + member.size > size:
                        problems.append((member.name, f"the file was cut: {tar.offset} bytes expected, {size} got"))
                        break
                    if not reason and member.isreg():
                        reason = _enter(samples, member, ignore)
                    if reason:
                        problems.append((member.name, reason))
        except (tarfile.TarError, OverflowError) as error:
            problems.append(("", f"expected a whole tar file, got one that is damaged ({error})"))
        if end + 512 > size and not problems:
            problems.append(("", f"expected at least {end + 512} bytes (members and end mark), got {size}: it was cut"))
        file.seek(min(end, size))
        if file.read(512).strip(b"\0"):
            problems.append(("", f"damaged header at byte {end}; {len(samples)} samples stand before it"))
        for key in [key for key, members in samples.items() if not _whole(members, form)]:
            missing = "json" if form == "records" else "txt or .json, and its image"
            problems.append((key, f"expected {key}.{missing} beside it, found none"))
            del samples[key]
        header, damaged = _features(samples, file)
        for key, reason in damaged:
            problems.append((f"{key}.{FEATURES}", reason))
            del samples[key][FEATURES]
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    common = None if header is None else header.common()
    return {"sha256": checksum, "samples": list(samples.items()), "problems": problems, "features": common}


def _features(
    samples: dict[str, dict[str, tuple[int, int]]], file: BinaryIO
) -> tuple[FeatureHeader | None, list[tuple[str, str]]]:
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


def _whole(members: dict[str, Any], form: Format) -> bool:
    if form == "records":
        return "json" in members
    return ("txt" in members or "json" in members) and any(ext in members for ext in IMAGE_EXTENSIONS)


def _refused(member: tarfile.TarInfo, form: Format, ignore: Collection[str]) -> str | None:
    """Why a member is not read, if it is not; nothing for folders either."""
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        return "expected a plain file, got a link, a device or a sparse file"
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        return "expected a key inside the shard, got a path that leads out of it"
    extension = _extension(place)
    allowed = EXTENSIONS if form == "records" else CAPTION_EXTENSIONS
    if extension not in allowed:
        if extension in ignore:
            return None
        return f"expected one of .{', .'.join(allowed)}, got .{extension}; other kinds of file are never decoded"
    limit = MAX_JSON_BYTES if extension in ("json", "txt") else MAX_MEMBER_BYTES
    return f"expected at most {limit} bytes, got {member.size}" if member.size > limit else None


def _enter(
    samples: dict[str, dict[str, tuple[int, int]]], member: tarfile.TarInfo, ignore: Collection[str]
) -> str | None:
    """Enter a member that may be read; a reason if its place is taken."""
    place = PurePosixPath(member.name)
    extension, stem = _extension(place), place.name.partition(".")[0]
    if extension in ignore:
        return None
    key = stem if place.parent == PurePosixPath(".") else f"{place.parent}/{stem}"
    members = samples.setdefault(key, {})
    if extension in members:
        return "the key occurs twice"
    members[extension] = (member.offset_data, member.size)
    return None


def _extension(place: PurePosixPath) -> str:
    return place.name.partition(".")[2].lower()
