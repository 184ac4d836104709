"""No credential is ever found where it must not be, whatever its server does with it (S19, S22 to S25).

The server that is asked repeats what it is sent in every member of every answer, as it came and in other forms. Then
all that Stepwell wrote or tells is looked through: database, its log, large texts, logs, traces, answers, streams.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pytest

from tests.fleet import nodes_wanted
from tests.official.harness import NotYet, Run, Server, until
from tests.sdk_e2e.harness import OwnService, a_server, a_service

pytestmark = pytest.mark.slow

OWN = "sk-canary/own+4711=="  # of the service
NAMED = "sk-canary/kept+0815=="
ALONE_S = 20.0 if nodes_wanted() else 3.0
"""How long a request is waited for that a server may make alone; of several, once the lease of the lost one is over."""
SECRET = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"


class Repeater:
    """A server that repeats what it is sent.

    Args:
        status: Of its answers to `/answer` and to models.
        stream: Whether it answers models with a stream.
        size_bytes: About as much more is said beside.
    """

    def __init__(self) -> None:
        self.status, self.stream, self.size_bytes = 200, True, 0
        self.other: str = ""
        self.seen: list[tuple[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.came = threading.Event()
        handler = type("Handler", (_Handler,), {"repeater": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    repeater: ClassVar[Repeater]
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        repeater = self.repeater
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sent = f"{self.path} {dict(self.headers.items())}"
        repeater.seen.append((self.path, sent))
        repeater.came.set()
        repeater.hold.wait(30)
        path = self.path.partition("?")[0]
        if path == "/redirect":
            self._send(302, b"", [("Location", f"{repeater.other}/answer")])
            return
        brought = [form for key in (OWN, NAMED) if key in _decoded(sent) for form in forms(key)]
        said = [sent, *brought]
        text = " | ".join(said) + " x" * (repeater.size_bytes // 2)
        status = repeater.status
        streamed = repeater.stream and status == 200 and b'"stream":true' in body.replace(b" ", b"")
        headers = [("X-Seen", sent[:2000]), ("Set-Cookie", f"seen={' '.join(brought)}")]
        if streamed:
            chunk = {"id": text, "model": text, "choices": [{"index": 0, "delta": {"content": text}}]}
            whole = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
            self._send(200, whole, [*headers, ("Content-Type", "text/event-stream")])
        else:
            whole = json.dumps(_everything(text)).encode()
            self._send(status, whole, [*headers, ("Content-Type", "application/json")])

    def _send(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(0, len(body), 701):  # so that a key lies across two pieces now and then
            self.wfile.write(body[at : at + 701])
            self.wfile.flush()


def _decoded(sent: str) -> str:
    """What was sent, with the user and password in it."""
    found = [word for word in sent.replace("'", " ").split() if len(word) > 8]
    for word in found:
        try:
            sent += base64.b64decode(word, validate=True).decode()
        except ValueError:
            continue
    return sent.replace("%2F", "/").replace("%2B", "+").replace("%3D", "=")


def forms(key: str) -> list[str]:
    """A key as a server may write it."""
    encoded = [base64.b64encode(f"{before}{key}".encode()).decode() for before in ("", "a", "ab")]
    return [key, quote(key, safe=""), key.replace("/", "\\/"), *encoded]


def _everything(text: str) -> dict[str, Any]:
    """An answer in the form of every API at once, that says the same everywhere."""
    return {
        "id": text,
        "object": "chat.completion",
        "created": 1,
        "model": text,
        "modelVersion": text,
        "responseId": text,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "content": [{"type": "text", "text": text}],
        "output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}],
        "candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}],
        "error": {"message": text, "type": text, "code": text},
    }


@contextlib.contextmanager
def repeaters() -> Iterator[tuple[Repeater, Repeater]]:
    """One that is asked, and one that it redirects to."""
    first, second = Repeater(), Repeater()
    first.other = second.url
    try:
        yield first, second
    finally:
        first.close()
        second.close()


@pytest.fixture
def asked() -> Iterator[tuple[Repeater, Repeater]]:
    with repeaters() as both:
        yield both


@pytest.fixture(scope="class", autouse=True)
def _pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, OwnService]]:
    assert request.cls is not None
    folder = tmp_path_factory.mktemp("canaries")
    key_file = folder / "secret.key"
    key_file.write_text(f"{SECRET}\n")
    key_file.chmod(0o600)
    options = ["--secret-key-file", str(key_file), *request.cls.options]
    with (
        a_server(folder, *options) as server,
        a_service("worker", server, folder, name="keys", app="keys") as service,
    ):
        request.cls.server, request.cls.service, request.cls.folder = server, service, folder
        yield server, service


class Canaries:
    options: ClassVar[tuple[str, ...]] = ()
    server: Server
    service: OwnService
    folder: Path

    def keep(self, url: str) -> str:
        """Have the server keep a credential for a place; its name."""
        for name, query in (("kept", ""), ("kept-in-address", "key")):
            body = {"name": name, "hosts": [url], "value": NAMED, "query": query}
            answer = self.server.http.post("/api/credentials", json=body)
            assert answer.status_code in (200, 201), answer.text
            assert "canary" not in answer.text
        return "kept"

    def ended(self, event: str) -> Run:
        return self.server.ended(self.server.started(event).id, 90)

    def followed(self, asked: Repeater, data: dict[str, str]) -> tuple[Run, str]:
        """A run that asks all, and what who followed it was told while it went on."""
        asked.hold.clear()
        run = self.server.started(self.server.send("keys/ask", data))
        pieces: list[str] = []
        with self.server.http.stream("GET", f"/api/runs/{run.id}/stream", timeout=90) as answer:
            for piece in answer.iter_text():
                pieces.append(piece)
                asked.hold.set()  # somebody follows it by now
        return self.server.ended(run.id), "".join(pieces)

    def nothing_is_found(self, run: Run) -> None:
        texts: dict[str, bytes] = {}
        http = self.server.http
        for path in (
            f"/api/runs/{run.id}",
            f"/api/runs/{run.id}/lines",
            f"/v1/runs/{run.id}",
            f"/v0/runs/{run.id}/actions",
            "/api/runs",
            "/api/services",
            "/api/credentials",
            "/api/status",
            "/status",
            "/metrics",
        ):
            answer = http.get(path)
            texts[path] = answer.content + str(answer.headers).encode()
        texts["graphql"] = str(self.server.trace(run.id)).encode()
        with http.stream("GET", f"/api/runs/{run.id}/follow") as answer:
            texts["follow"] = b"".join(answer.iter_bytes())
        texts |= {str(path): path.read_bytes() for path in self.server.files()}
        texts |= {f"log {program.name}": program.tail(10_000).encode() for program in self.service.programs}
        assert any(run.id.encode() in text for name, text in texts.items() if "/data" in name or "rows" in name)
        wrong = [
            f"{form!r} in {name}"
            for name, text in texts.items()
            for key in (OWN, NAMED)
            for form in (*forms(key), base64.b64encode(f"ann:{key}".encode()).decode())
            if form.encode() in text
        ]
        assert wrong == []

    @pytest.mark.parametrize("size_bytes", [0, 40_000])
    @pytest.mark.parametrize("stream", [True, False])
    def test_answers(self, asked: tuple[Repeater, Repeater], stream: bool, size_bytes: int) -> None:
        first, second = asked
        first.stream, first.size_bytes = stream, size_bytes
        for named in (False, True):
            data = {"base": first.url} | ({"credential": self.keep(first.url)} if named else {})
            run, live = self.followed(first, data)
            key, name = (NAMED, "[credential:kept]") if named else (OWN, "[credential:")
            assert name in str(run.output)
            assert len(run.output) == (12 if named else 13)
            assert "[credential:" in live
            assert not [form for key in (OWN, NAMED) for form in forms(key) if form in live]
            assert "event: delta" in live  # of one that came whole, too
            assert sum(key in _decoded(sent) for _, sent in first.seen) >= len(run.output) - 1
            self.nothing_is_found(run)
            notes = str(self.server.http.get(f"/api/runs/{run.id}/lines").json())
            assert "repeated credentials of its request" in notes
            first.seen.clear()
        assert [sent for _, sent in second.seen if "canary" in _decoded(sent)] == []
        assert len(second.seen) == 2

    @pytest.mark.parametrize("status", [401, 500])
    def test_errors_and_retries(self, asked: tuple[Repeater, Repeater], status: int) -> None:
        first, _ = asked
        first.status = status
        for named in (False, True):
            data = {"base": first.url} | ({"credential": self.keep(first.url)} if named else {})
            run = self.ended(self.server.send("keys/ask", data))
            assert len(first.seen) >= (12 if status == 401 else 22)
            self.nothing_is_found(run)
            first.seen.clear()

    def test_a_credential_for_another_place_is_refused(self, asked: tuple[Repeater, Repeater]) -> None:
        first, second = asked
        run = self.ended(self.server.send("keys/ask", {"base": second.url, "credential": self.keep(first.url)}))
        assert str(run.output).count("may be sent to") == 10  # the library says in its own words that it got no answer
        assert second.seen == []
        self.nothing_is_found(run)

    def killed_while_asking(self, asked: tuple[Repeater, Repeater], *, named: bool) -> tuple[Run, int]:
        """The run, and how many requests were made without its service, which was stopped before the kill."""
        first, _ = asked
        data = {"base": first.url} | ({"credential": self.keep(first.url)} if named else {})
        first.hold.clear()
        event = self.server.send("keys/once", data)
        assert first.came.wait(30)
        run = self.server.started(event)
        self.server.waits_at(run.id, "ask")
        self.service.program.stop()
        self.server.kill()
        first.hold.set()
        first.seen.clear()
        self.server.start()
        with contextlib.suppress(NotYet):
            until("a request without the service", ALONE_S, lambda: first.seen or None, str)
        alone = len(first.seen)
        self.service.start()
        run = self.server.completed(event, seconds=60)
        assert len(first.seen) == 1
        self.nothing_is_found(run)
        return run, alone

    def notes(self, run: Run) -> str:
        return str(self.server.http.get(f"/api/runs/{run.id}/lines").json())

    def test_a_named_credential_goes_on_alone(self, asked: tuple[Repeater, Repeater]) -> None:
        run, alone = self.killed_while_asking(asked, named=True)
        assert alone == 1
        assert "what came of it is unknown" in self.notes(run)
        assert "asked for them again" not in self.notes(run)


class TestInMemory(Canaries):
    def test_a_kill_costs_a_question_and_says_so(self, asked: tuple[Repeater, Repeater]) -> None:
        run, alone = self.killed_while_asking(asked, named=False)
        assert alone == 0
        assert "so the function is asked for them again" in self.notes(run)


class TestSealed(Canaries):
    options = ("--seal-credentials",)

    def test_a_kill_costs_no_question(self, asked: tuple[Repeater, Repeater]) -> None:
        run, alone = self.killed_while_asking(asked, named=False)
        assert alone == 1
        assert "asked for them again" not in self.notes(run)
