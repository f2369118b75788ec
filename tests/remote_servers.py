"""Servers on loopback for tests of remote shards: a proxy that cuts connections, and what Hugging Face's client asks a
hub for."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import socket
import socketserver
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[str]:
    """Its address as a URL, while it serves."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield "http://{}:{}".format(*server.server_address[:2])
    finally:
        server.shutdown()
        server.server_close()


class CuttingProxy(socketserver.ThreadingTCPServer):
    """Hands connections on to a server; every so many-th is cut after `limit` bytes of answers.

    Args:
        port: of the server, on loopback.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, every: int, limit: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarded)
        self.port, self.every, self.limit = port, every, limit
        self.connections, self.cuts = 0, 0
        self.left: dict[int, int] = {}
        """Bytes that a connection may still carry, by its file descriptor."""

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        self.connections += 1
        self.left[request.fileno()] = self.limit if self.connections % self.every == 0 else 1 << 60
        super().process_request(request, client_address)


class _Forwarded(socketserver.BaseRequestHandler):
    server: CuttingProxy

    def handle(self) -> None:
        left = self.server.left[self.request.fileno()]
        with socket.create_connection(("127.0.0.1", self.server.port)) as behind:
            threading.Thread(target=self._questions, args=(behind,), daemon=True).start()
            try:
                while data := behind.recv(1 << 16):
                    self.request.sendall(data[:left])
                    left -= len(data)
                    if left <= 0:
                        self.server.cuts += 1
                        break
            except OSError:
                pass
            for end in (behind, self.request):
                _shut(end)

    def _questions(self, behind: socket.socket) -> None:
        try:
            while data := self.request.recv(1 << 16):
                behind.sendall(data)
        except OSError:
            pass
        _shut(behind)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # the other side did
        end.shutdown(socket.SHUT_RDWR)


class Hub(http.server.ThreadingHTTPServer):
    """A dataset `somebody/shards`, whose files lie in a folder; only who shows the token may read it.

    Its revisions `main` and `v1` are the same. As on the Hub, files of LFS (`*.tar`) are handed out by another address,
    which is signed.
    """

    def __init__(self, folder: Path, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.folder, self.token = folder, token
        self.asked: Counter[str] = Counter()
        """Requests by kind, and the bytes of files that were sent."""


class _HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        path = urllib.parse.unquote(path)
        if signed := re.fullmatch(r"/storage/(.+)", path):
            assert "X-Amz-Signature=" in query
            self._send_file(self.server.folder / signed[1])
        elif self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif re.fullmatch(r"/api/datasets/somebody/shards(/revision/(main|v1))?", path):
            self.server.asked["repo"] += 1
            self._send(200, json.dumps({"id": "somebody/shards", "siblings": [], "private": True}).encode())
        elif listed := re.fullmatch(r"/api/datasets/somebody/shards/tree/(main|v1)/?(.*)", path):
            self.server.asked["tree"] += 1
            self.server.asked[f"tree of {listed[1]}"] += 1
            self._list(self.server.folder / listed[2])
        elif asked := re.fullmatch(r"/datasets/somebody/shards/resolve/(main|v1)/(.+)", path):
            file = self.server.folder / asked[2]
            if file.suffix == ".tar" and file.is_file():
                to = f"/storage/{urllib.parse.quote(asked[2])}?X-Amz-Signature=5167ed5167ed"
                self._send(302, b"", {"Location": to})
            else:
                self._send_file(file)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _list(self, folder: Path) -> None:
        if not folder.is_dir():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        entries = []
        for item in sorted(folder.iterdir()):
            name = item.relative_to(self.server.folder).as_posix()
            if item.is_dir():
                entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": name})
                continue
            data = item.read_bytes()
            entry = {"type": "file", "size": len(data), "path": name, "oid": hashlib.sha1(data).hexdigest()}
            if item.suffix == ".tar":
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _send_file(self, file: Path) -> None:
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data, status = file.read_bytes(), 200
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            data, status = data[int(asked[1]) : int(asked[2] or len(data)) + 1], 206
        self.server.asked["bytes"] += len(data)
        self._send(status, data)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
