"""A bounded local cache of remote shards, shared by all processes of a machine.

A shard is fetched piece by piece through fsspec, so that a dropped connection costs a piece; it
appears under its name only when size and checksum are right. The shards used longest ago make room.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock

from dress.base.files import checksum
from dress.base.redaction import redacted, reveal

T = TypeVar("T")

PIECE = 8 << 20
NAME = re.compile(r"[0-9a-f]{16}-[\w.-]{0,60}")
"""Of a fetched shard."""
TRIES = 6
"""Of one piece; the waits between them double, from 0.2 s on."""
TRIES_OF_BACKEND = {"hf": 2}
"""Of backends whose own tries cannot be turned off; they take up to half a minute."""

TAGS = ("ETag", "etag", "blob_id", "Content-MD5", "Digest", "Last-Modified", "LastModified", "mtime", "created")
"""What backends of fsspec call something that changes with a file, the surest first."""
_HTTP = {"client_kwargs": {"auto_decompress": False, "headers": {"Accept-Encoding": "identity"}}}
BACKENDS: dict[str, dict[str, Any]] = {
    "http": _HTTP,  # bytes as they are: what a server compresses is never unpacked, however small it looks
    "https": _HTTP,
    "s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}}},  # those here are enough
}
"""How filesystems of fsspec are made."""
READS: dict[str, dict[str, Any]] = {"hf": {"cache_type": "none"}}
"""How pieces are read: nothing beyond them."""
STALE = 3600.0
"""Seconds after which a half-fetched shard is left over from a process that was killed."""


class FetchError(OSError):
    """A shard that could not be fetched; the message names the URL and what was tried."""


class ChangedShardError(FetchError):
    """A shard that came whole, twice, and is not the one that was indexed."""


class RemoteFile(NamedTuple):
    """What a server says of a file: its size and what changes with it, as far as it tells."""

    size: int | None = None
    tag: str | None = None
    missing: bool = False


def is_remote(place: str) -> bool:
    """Whether a place is a URL (or a `pipe:` command) and no path."""
    return "://" in place or place.startswith("pipe:")


class ShardCache:
    """Fetched files under `folder`, at most `gigabytes` of them. Other files there stay as they are.

    Args:
        folder: made if missing; `~/.cache/dress` by default.
        gigabytes: 10^9 bytes.
        allow_pipe: run the shell command of a `pipe:` URL. Whoever writes the URL runs what he likes.
    """

    def __init__(self, folder: str | None = None, gigabytes: float = 50.0, allow_pipe: bool = False) -> None:
        self.folder = Path(folder or Path.home() / ".cache" / "dress").expanduser()
        self.bytes, self.allow_pipe = int(gigabytes * 1e9), allow_pipe
        self.retries = 0
        """Pieces that had to be asked for again, in this process."""
        self._fs: dict[tuple[int, str], Any] = {}

    def check_window(self, sizes: list[int], window: int) -> None:
        """Refuse a shuffle window that the cache cannot hold: every sample would fetch a shard anew.

        Raises:
            ValueError: names both settings.
        """
        need = sum(sorted(sizes, reverse=True)[:window])
        if need > self.bytes:
            raise ValueError(
                f"data.window={window}: these shards take up to {need / 1e9:.3g} GB, more than "
                f"data.cache_gb={self.bytes / 1e9:g}. Enlarge data.cache_gb or lessen data.window"
            )

    def beside(self, url: str, suffix: str) -> Path:
        """The local name of a URL; it never holds more of the URL than letters, digits, dots and dashes."""
        name = "".join(c if c.isalnum() or c in ".-" else "_" for c in url.rpartition("/")[2])[-60:]
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}{suffix}"

    def look(self, url: str) -> RemoteFile:
        """Size and tag of a remote file, without fetching it.

        Raises:
            FetchError: the server does not answer.
        """
        if url.startswith("pipe:"):
            return RemoteFile()
        try:
            info = self._tried(url, lambda: self._filesystem(url).info(reveal(url)))
        except FileNotFoundError:
            return RemoteFile(missing=True)
        size = info.get("size")
        tag = next((f"{name} {info[name]}" for name in TAGS if info.get(name)), None)
        return RemoteFile(None if size is None else int(size), tag)

    def small_file(self, url: str) -> bytes:
        """A file that is read whole and not kept.

        Raises:
            FetchError: it is not there or cannot be fetched.
        """
        return self._piece(url, None, None)

    def fetch(
        self, url: str, size: int | None = None, sha256: str | None = None, anew: bool = False, verify: bool = False
    ) -> Path:
        """The local copy of a shard, fetched unless it is there.

        Args:
            url: through fsspec, or `pipe:command`.
            size: bytes that it must have; None where it is not known yet.
            sha256: what its bytes must come to; None as of the size.
            anew: the remote file may have changed: do not trust the copy that is there.
            verify: compare the checksum of the copy that is there, too.

        Raises:
            FetchError: it cannot be fetched.
            ChangedShardError: it is another one than was indexed, twice.
            ValueError: a `pipe:` URL without `data.allow_pipe=true`.
        """
        path = self.beside(url, "")
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if path.exists() and not anew and _difference(path, size, sha256 if verify else None) is None:
                os.utime(path)
                return path
            for last in (False, True):
                aside = path.with_name(path.name + ".partial")
                aside.unlink(missing_ok=True)
                self._evict(size or 0, path)
                with aside.open("wb") as file:
                    self._fill(url, file)
                    file.flush()
                    os.fsync(file.fileno())
                difference = _difference(aside, size, sha256)
                if difference is None:
                    aside.replace(path)
                    return path
                aside.unlink()
                if last:
                    raise ChangedShardError(
                        f"{url}: {difference}, fetched twice. The remote file is not the one that was indexed"
                    )
        raise AssertionError("unreachable")

    def _fill(self, url: str, file: Any) -> None:
        if url.startswith("pipe:"):
            if not self.allow_pipe:
                raise ValueError(
                    f"{url!r:.80}: a pipe: URL runs a shell command. If you trust who wrote it, set "
                    f"data.allow_pipe=true (or allow_pipe=true where it stands in a run's files)"
                )
            command = reveal(url).removeprefix("pipe:")
            process = subprocess.run(command, shell=True, stdout=file, stderr=subprocess.PIPE)
            if process.returncode:
                message = redacted(process.stderr.decode(errors="replace"))
                raise FetchError(f"{url}: the command ended with {process.returncode}: {message[-200:]}")
            return
        total, _, missing = self.look(url)
        if missing:
            raise FetchError(f"{url}: expected a shard, found none")
        if total is None:
            file.write(self._piece(url, None, None))
            return
        at = 0
        while at < total:
            piece = self._piece(url, at, min(at + PIECE, total))
            if len(piece) == total and at == 0:  # a server without ranges gives the whole
                file.write(piece)
                return
            file.write(piece)
            at += len(piece)

    def _piece(self, url: str, start: int | None, stop: int | None) -> bytes:
        how = READS.get(_protocol(url), {})

        def ask() -> bytes:
            data: bytes = self._filesystem(url).cat_file(reveal(url), start=start, end=stop, **how)
            if start is not None and stop is not None and not data:
                raise OSError("no bytes came")
            return data

        try:
            return self._tried(url, ask, f", bytes {start} to {stop}")
        except FileNotFoundError:
            raise FetchError(f"{url}: expected a file, found none") from None

    def _tried(self, url: str, ask: Callable[[], T], what: str = "") -> T:
        """The answer, asked for again and again where connections break off.

        Raises:
            FileNotFoundError: there is none.
            FetchError: the server refuses it, or no answer came.
        """
        tries = TRIES_OF_BACKEND.get(_protocol(url), TRIES)
        for attempt in range(tries):
            try:
                return ask()
            except FileNotFoundError as missing:
                if (error := _behind(url, missing)) is None:
                    raise
            except ValueError:
                raise
            except Exception as failure:  # each backend of fsspec raises its own
                error = failure
            if _is_final(error):
                raise FetchError(
                    f"{url}: the server refuses it ({redacted(str(error) or repr(error)):.500}). Is it there, and may "
                    f"you read it? docs/data.md says where credentials are looked for"
                ) from None
            self.retries += 1
            time.sleep(0.2 * 2**attempt if attempt + 1 < tries else 0)
        raise FetchError(f"{url}: not fetched after {tries} tries{what} ({redacted(repr(error))})")

    def _filesystem(self, url: str) -> Any:
        """One per process: connections do not survive a fork."""
        import fsspec  # type: ignore[import-untyped]  # ships no types

        protocol = _protocol(url)
        name = (os.getpid(), protocol)
        if name not in self._fs:
            how = BACKENDS.get(protocol, {})
            try:
                filesystem = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **how)
            except (ImportError, ValueError) as error:
                raise ValueError(f"{url}: fsspec cannot open {protocol}:// here ({error})") from error
            if hasattr(filesystem, "retries"):  # of s3fs; those here are enough
                filesystem.retries = 1
            self._fs[name] = filesystem
        return self._fs[name]

    def _evict(self, need: int, wanted: Path) -> None:
        with FileLock(self.folder / ".room.lock"):
            shards = []
            for path in self.folder.iterdir():
                if path == wanted or not _is_ours(path):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    if path.suffix != ".partial" or time.time() - stat.st_mtime > STALE:
                        shards.append((stat.st_mtime_ns, stat.st_size, path))
            total = sum(size for _, size, _ in shards)
            for _, size, path in sorted(shards):
                if total + need <= self.bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fs": {}}


def _is_ours(path: Path) -> bool:
    """Whether the cache made a file: it has its form of name, and the lock of that name beside it."""
    shard = path.with_name(path.name.removesuffix(".partial"))
    return (
        NAME.fullmatch(shard.name) is not None
        and shard.suffix not in (".lock", ".json", ".arrow")
        and path.is_file()
        and not path.is_symlink()
        and shard.with_name(shard.name + ".lock").is_file()
    )


def _protocol(url: str) -> str:
    return url.partition("://")[0]


def _behind(url: str, missing: FileNotFoundError) -> BaseException | None:
    """What a backend calls a missing file and is none: HTTP's says so of any failure, others of a repository or bucket
    that is not there for us; else None."""
    cause = missing.__cause__
    if _protocol(url) in ("http", "https"):
        return None if _status(cause) in (404, 410) else cause
    return None if _status(cause) is None else missing


def _is_final(error: BaseException) -> bool:
    """Whether asking again is of no use: not allowed, or not understood."""
    status = _status(error)
    refused = status is not None and 400 <= status < 500 and status not in (408, 425, 429)
    return refused or isinstance(error, (PermissionError, FileNotFoundError)) or "Credentials" in type(error).__name__


def _status(error: BaseException | None) -> int | None:
    """The HTTP status in an exception of aiohttp, huggingface_hub or botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _difference(path: Path, size: int | None, sha256: str | None) -> str | None:
    if size is not None and path.stat().st_size != size:
        return f"expected {size} bytes, got {path.stat().st_size}"
    if sha256 is not None and (got := checksum(path)) != sha256:
        return f"expected sha256 {sha256[:12]}, got {got[:12]}"
    return None
