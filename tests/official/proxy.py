"""A proxy that tests put between a server and a service: it counts, refuses, or gives up on what takes too long."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWN = {"connection", "content-length", "transfer-encoding", "host", "accept-encoding", "keep-alive", "date", "server"}


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to `target`.

    `refuse` may give a status for a request (method, path), which is then not passed on. `patience_s` may give how
    long a request may take; after that it is answered 504 while it goes on at the target. `lose` may say that the
    answer gets lost, and is 504 instead. `passed` has what was passed on, and the status that came back; None for no
    answer.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target = target
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.refuse: Callable[[str, str], int | None] = lambda method, path: None
        self.patience_s: Callable[[str, str], float | None] = lambda method, path: None
        self.lose: Callable[[str, str], bool] = lambda method, path: False
        self.refused: list[str] = []
        self.passed: list[tuple[str, int | None]] = []
        self.client = httpx2.Client(timeout=60, follow_redirects=False, trust_env=False)

    def statuses(self, word: str) -> list[int | None]:
        """What came back for requests whose path has that word in it."""
        return [status for path, status in self.passed if word in path]


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        self._pass()

    def do_PUT(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def _pass(self) -> None:
        proxy, body = self.server, self.rfile.read(int(self.headers.get("content-length") or 0))
        refused = proxy.refuse(self.command, self.path)
        if refused is not None:
            proxy.refused.append(self.path)
            self._answer(refused, {}, b"refused by the proxy")
            return
        answers: list[httpx2.Response] = []
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}

        def ask() -> None:
            with contextlib.suppress(httpx2.TransportError):  # whoever is asked may end
                url = f"{proxy.target}{self.path}"
                answers.append(proxy.client.request(self.command, url, content=body, headers=headers))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(proxy.patience_s(self.command, self.path))
        if not answers or proxy.lose(self.command, self.path):
            proxy.passed.append((self.path, None))
            self._answer(504, {}, b"the proxy has lost patience")
            return
        answer = answers[0]
        proxy.passed.append((self.path, answer.status_code))
        kept = {
            name: value for name, value in answer.headers.items() if name.lower() not in {*_OWN, "content-encoding"}
        }
        self._answer(answer.status_code, kept, answer.content)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        with contextlib.suppress(ConnectionError):  # whoever asked may be gone
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    """A proxy on a port of its own."""
    with Proxy(target) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
            server.client.close()
