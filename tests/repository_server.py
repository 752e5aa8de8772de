"""A real HTTP server on this machine that answers as the repository Zenodo does, or misbehaves."""

import hashlib
import json
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nodulebook.download import transfer as download

RECORD = "/api/records/"


@dataclass
class Stored:
    """A file of a record, and how it is served."""

    content: bytes
    checksum: str = ""  # as listed; the right one where empty
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)  # answered first, one a request
    breaks: list[int] = field(default_factory=list)  # bytes sent before it breaks, one a request
    headers: dict[str, str] = field(default_factory=dict)  # instead of the right ones
    instead: bytes | None = None  # sent instead of the content
    chunked: bool = False  # no Content-Length
    hold_after: int | None = None  # bytes sent, then wait for `release`


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # broken connections are what is tested


class Repository:
    """Records of files; what was asked for is in `asked`, bytes sent of each file in `sent`."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Stored]] = defaultdict(dict)
        self.answers: dict[str, tuple[int, bytes]] = {}  # instead of a record's JSON
        self.new_form = False
        self.asked: list[tuple[str, str]] = []  # last part of the path, Range
        self.sent: dict[str, int] = defaultdict(int)
        self.holding, self.release = threading.Event(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.site = f"http://127.0.0.1:{self._server.server_port}"
        self.api = f"{self.site}{RECORD}".rstrip("/")

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, record: str, name: str, content: bytes, **how: Any) -> Stored:
        self.records[record][name] = Stored(content, **how)
        return self.records[record][name]

    def listing(self, record: str) -> dict[str, Any]:
        files = []
        for name, stored in self.records[record].items():
            md5 = hashlib.md5(stored.content, usedforsecurity=False).hexdigest()
            size = len(stored.content)
            checksum = stored.checksum or f"md5:{md5}"
            link = f"{self.api}/{record}/files/{name}/content"
            if self.new_form:
                bare = checksum.removeprefix("md5:")
                files.append({"filename": name, "filesize": size, "checksum": bare})
            else:
                entry = {"key": name, "size": size, "checksum": checksum, "links": {"self": link}}
                files.append({"id": f"id-{name}", **entry})
        return {"id": int(record), "doi": f"10.5281/zenodo.{record}", "files": files}

    def asked_for(self, name: str) -> list[str]:
        """The Range headers of the requests for a file or record, in order."""
        return [given for last, given in self.asked if last == name]


def _handler(repository: Repository) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = self.path.removeprefix(RECORD).split("/")
            name = parts[0] if len(parts) == 1 else parts[2]
            repository.asked.append((name, self.headers.get("Range", "")))
            if len(parts) == 1:
                self._record(name)
            else:
                self._file(name, repository.records[parts[0]].get(name))

        def _record(self, record: str) -> None:
            if record in repository.answers:
                self._answer(*repository.answers[record])
            elif record in repository.records:
                self._answer(200, json.dumps(repository.listing(record)).encode())
            else:
                self._answer(404, b'{"status": 404, "message": "The record does not exist."}')

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _file(self, name: str, stored: Stored | None) -> None:
            if stored is None:
                self._answer(404, b"not found")
                return
            if stored.statuses:
                status = stored.statuses.pop(0)
                self.send_response(status)
                for key, value in ({"Content-Length": "0"} | stored.headers).items():
                    self.send_header(key, value)
                self.end_headers()
                return
            content = stored.content if stored.instead is None else stored.instead
            asked = self.headers.get("Range", "")
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and stored.ranges else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = content[start:]
            headers = {"Content-Type": "application/octet-stream"}
            if stored.chunked:
                self.close_connection = True  # without a length, the end is the connection's
                headers["Connection"] = "close"
            else:
                headers["Content-Length"] = str(len(body))
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_response(206 if start else 200)
            for key, value in (headers | stored.headers).items():
                self.send_header(key, value)
            self.end_headers()
            self._send(name, stored, body)

        def _send(self, name: str, stored: Stored, body: bytes) -> None:
            at = stored.breaks.pop(0) if stored.breaks else None
            if stored.hold_after is not None:
                held, stored.hold_after = stored.hold_after, None
                self._write(name, body[:held])
                repository.holding.set()
                repository.release.wait(600)
                body = body[held:]
            self._write(name, body[:at])
            if at is not None:
                # Both ways that connections end in life: orderly, and with a reset.
                if len(stored.breaks) % 2:
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def _write(self, name: str, body: bytes) -> None:
            try:
                for start in range(0, len(body), 4096):
                    piece = body[start : start + 4096]
                    # Counted first: who has read it may look before this thread goes on.
                    repository.sent[name] += len(piece)
                    self.wfile.write(piece)
                    self.wfile.flush()
            except OSError:  # the other side is gone
                self.close_connection = True

    return Handler


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """A repository that stands in for the real one in `nodulebook.download.transfer`."""
    repository = Repository()
    monkeypatch.setenv("NODULEBOOK_ZENODO", repository.api)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS_S", (0.0, 0.0, 0.0))
    # Small blocks, so that something is on the disk when a small file breaks off.
    monkeypatch.setattr(download, "_BLOCK", 4096)
    try:
        yield repository
    finally:
        repository.close()
