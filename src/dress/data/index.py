"""The index of a shard: where each sample's members lie, and what in it cannot be used.

One pass over the tar headers, without opening a member. webdataset's own reader takes a cut tar for a
whole one and unpickles by default (RELIABILITY §1); here every member is on a list of what may be read.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, Literal

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
FEATURES = "features.safetensors"
EXTENSIONS = ("json", FEATURES, *IMAGE_EXTENSIONS)
CAPTION_EXTENSIONS = ("txt", "json", *IMAGE_EXTENSIONS)
MAX_MEMBER_BYTES = 64 * 1024 * 1024
MAX_JSON_BYTES = 16 * 1024 * 1024

Format = Literal["records", "captions"]
"""`records`: a record per sample. `captions`: anybody's webdataset of images with `.txt` or `.json` captions."""


def index_shard(path: Path, form: Format = "records", ignore: Collection[str] = ()) -> dict[str, Any]:
    """`{"sha256", "samples": [[key, {extension: [offset, size]}]], "problems": [[member, reason]]}`.

    Args:
        path: a tar file.
        form: which members a sample has.
        ignore: further extensions that may stand there and are passed over.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    problems: list[tuple[str, str]] = []
    size, end = path.stat().st_size, 0
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + (member.size + 511) // 512 * 512
                if member.offset_data + member.size > size:
                    problems.append((member.name, f"the file was cut: {end} bytes expected, {size} got"))
                    break
                reason = _add(samples, member, form, ignore)
                if reason:
                    problems.append((member.name, reason))
    except tarfile.ReadError as error:
        problems.append(("", f"expected a whole tar file, got one that is damaged ({error})"))
    with path.open("rb") as file:
        if end + 512 > size and not problems:
            problems.append(("", f"expected at least {end + 512} bytes (members and end mark), got {size}: it was cut"))
        file.seek(min(end, size))
        if file.read(512).strip(b"\0"):
            problems.append(("", f"damaged header at byte {end}; {len(samples)} samples stand before it"))
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    for key in [key for key, members in samples.items() if not _whole(members, form)]:
        missing = "json" if form == "records" else "txt or .json, and its image"
        problems.append((key, f"expected {key}.{missing} beside it, found none"))
        del samples[key]
    return {"sha256": checksum, "samples": list(samples.items()), "problems": problems}


def _whole(members: dict[str, Any], form: Format) -> bool:
    if form == "records":
        return "json" in members
    return ("txt" in members or "json" in members) and any(ext in members for ext in IMAGE_EXTENSIONS)


def _add(
    samples: dict[str, dict[str, tuple[int, int]]], member: tarfile.TarInfo, form: Format, ignore: Collection[str]
) -> str | None:
    """Enter a member; what is wrong with it, if anything is."""
    if member.isdir():
        return None
    if not member.isreg():
        return "expected a plain file, got a link or a device"
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        return "expected a key inside the shard, got a path that leads out of it"
    stem, _, extension = place.name.partition(".")
    extension = extension.lower()
    allowed = EXTENSIONS if form == "records" else CAPTION_EXTENSIONS
    if extension not in allowed:
        if extension in ignore:
            return None
        return f"expected one of .{', .'.join(allowed)}, got .{extension}; other kinds of file are never decoded"
    limit = MAX_JSON_BYTES if extension in ("json", "txt") else MAX_MEMBER_BYTES
    if member.size > limit:
        return f"expected at most {limit} bytes, got {member.size}"
    key = stem if place.parent == PurePosixPath(".") else f"{place.parent}/{stem}"
    members = samples.setdefault(key, {})
    if extension in members:
        return "the key occurs twice"
    members[extension] = (member.offset_data, member.size)
    return None
