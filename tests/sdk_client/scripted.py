"""A local HTTP server that answers as it is told: for what a client does when things go wrong."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What to answer. `pieces` are sent one by one as a stream; `cut` breaks the connection instead of ending it."""

    status: int = 200
    value: Any = None
    text: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] | None = None
    cut: bool = False


Script = Callable[[Asked], Reply]


class Scripted:
    """Every request goes to `script` and is remembered in `asked`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                parts = urlsplit(self.path)
                asked = Asked(
                    self.command,
                    parts.path,
                    {name: values[0] for name, values in parse_qs(parts.query).items()},
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(length),
                )
                outer.asked.append(asked)
                self.write(outer.script(asked))

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def write(self, reply: Reply) -> None:
                if reply.pieces is not None:
                    self.send_response(reply.status)
                    self.send_header("content-type", "text/event-stream")
                    self.send_header("transfer-encoding", "chunked")
                    self.end_headers()
                    for piece in reply.pieces:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                        self.wfile.flush()
                    if not reply.cut:
                        self.wfile.write(b"0\r\n\r\n")
                elif not reply.cut:
                    body = reply.text.encode() if reply.text is not None else json.dumps(reply.value).encode()
                    self.send_response(reply.status)
                    for name, value in {"content-type": "application/json", **reply.headers}.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                if reply.cut:
                    self.close_connection = True
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, format: str, *args: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                return  # a client may leave in the middle of a stream

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def to(self, path: str) -> list[Asked]:
        """The requests to one path."""
        return [one for one in self.asked if one.path == path]


@contextmanager
def scripted(script: Script) -> Iterator[Scripted]:
    server = Scripted(script)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def change(number: int, kind: str, /, **members: Any) -> bytes:
    """One event of a followed run."""
    data = {"number": number, "at": "2026-08-21T10:00:00.000Z", "type": kind, **members}
    return f"event: {kind}\nid: {number}\ndata: {json.dumps(data)}\n\n".encode()


def the_end(number: int, status: str) -> bytes:
    return f"event: end\nid: {number}\ndata: {json.dumps({'id': 'r', 'status': status})}\n\n".encode()
