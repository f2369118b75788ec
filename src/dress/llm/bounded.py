"""A server's reply is read up to a size that no reply has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

LARGEST = 16 * 2**20
"""Bytes of a reply; a compressed one may have a 64th, since what it grows to is not known."""


class TooLarge(ValueError):
    """A reply that is larger than any reply."""


async def bound_size(response: httpx2.Response) -> None:
    """Hook of the HTTP client: let no more than `LARGEST` bytes in."""
    plain = response.headers.get("Content-Encoding", "identity") == "identity"
    stream = response.stream
    assert isinstance(stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(stream, LARGEST if plain else LARGEST // 64)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, largest: int) -> None:
        self._stream, self._largest = stream, largest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > self._largest:
                raise TooLarge(f"a reply of more than {self._largest:,} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
