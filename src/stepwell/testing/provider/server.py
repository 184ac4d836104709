"""The stand-in itself: a server on a free loopback port, in a thread of its own.

The thread makes it usable from coroutines and from plain functions alike, and keeps its pauses honest while a test
blocks its own loop.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepwell.testing.provider.asked import Asked
from stepwell.testing.provider.default import default_reply
from stepwell.testing.provider.dialects import WRITERS, Event
from stepwell.testing.provider.endpoints import Endpoints
from stepwell.testing.provider.script import Drop, Fail, Raw, Reply, Say, Scripted
from stepwell.testing.provider.sending import BreakableProtocol, PacedResponse

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_PLAIN_PIECES = 8


class Provider:
    """A provider of AI models, and a plain web server, that does what a test says.

    Use it with `with` or `async with`. Replies are given one to a request, in order; the last one repeats. Without
    any it answers by itself: it repeats what the user said, calls the tool it must call, fills the schema it is given.

    Args:
        replies: What to answer; more can be given by `answer`.
        port: 0 takes a free one.

    Addresses, below `url`:
        `/v1` for OpenAI (chat completions and responses), `/` for Anthropic and Gemini, `/grok/v1`, and
        `/openai/deployments/<name>/chat/completions` or `/openai/v1` for Azure; `/http/...` is plain HTTP
        (`stepwell.testing.provider.endpoints`).
    """

    def __init__(self, *replies: Scripted, port: int = 0) -> None:
        self.requests: list[Asked] = []
        self.most_in_flight = 0
        self._replies: deque[Scripted] = deque(replies)
        self._port = port
        self._in_flight = 0
        self._held: deque[asyncio.Event] = deque()
        self._released = 0
        self._news = threading.Condition()
        self._endpoints = Endpoints()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    # what a test says

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def calls(self) -> list[Asked]:
        """The requests to a model, without those to the plain endpoints."""
        return [asked for asked in self.requests if asked.dialect != "http"]

    def answer(self, *replies: Scripted) -> None:
        """Answer the requests to come with these, instead of what was left of those before."""
        with self._news:
            self._replies = deque(replies)

    def release(self, count: int = 1) -> None:
        """Let `count` held answers go, in the order of their requests; those still to come count too."""
        assert self._loop is not None, "the stand-in is not running"
        self._loop.call_soon_threadsafe(self._release, count)

    def wait(self, count: int = 1, *, timeout_s: float = 10.0) -> list[Asked]:
        """Block until `count` requests have come, and return all of them.

        Raises:
            TimeoutError: They did not.
        """
        with self._news:
            if not self._news.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came within {timeout_s:g} s")
            return list(self.requests)

    async def asked(self, count: int = 1, *, timeout_s: float = 10.0) -> list[Asked]:
        """The same for coroutines.

        Raises:
            TimeoutError: They did not come.
        """
        return await asyncio.to_thread(self.wait, count, timeout_s=timeout_s)

    # its life

    def start(self) -> Self:
        """Listen; returns when requests are answered."""
        listener = socket.create_server(("127.0.0.1", self._port))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or each piece waits 40 ms for the last one
        self._port = listener.getsockname()[1]
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=_METHODS)])
        config = uvicorn.Config(
            app,
            http=BreakableProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            h11_max_incomplete_event_size=1 << 20,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(listener, started), name="stand-in provider", daemon=True
        )
        self._thread.start()
        started.wait()
        return self

    def stop(self) -> None:
        """Stop listening and break off what is still being answered."""
        if self._server is None or self._thread is None or self._loop is None:
            return
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=10)
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    # in its thread

    def _run(self, listener: socket.socket, started: threading.Event) -> None:
        assert self._server is not None
        server = self._server

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(started.set)  # the socket listens already: a request waits in its backlog
            await server.serve(sockets=[listener])

        with listener, asyncio.Runner() as runner:
            runner.run(serve())

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        dialect = _dialect(request)
        with self._news:
            asked = Asked(
                number=len(self.requests) + 1,
                dialect=dialect,
                method=request.method,
                path=request.url.path,
                query=request.url.query,
                headers=dict(request.headers.items()),
                body=body,
            )
            asked.streamed = _streamed(asked)
            self.requests.append(asked)
            scripted = None
            if dialect in WRITERS and self._replies:
                scripted = self._replies.popleft() if len(self._replies) > 1 else self._replies[0]
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            self._news.notify_all()
        response = self._response(request, asked, scripted)
        return _Counted(response, self._left)

    def _response(self, request: Request, asked: Asked, scripted: Scripted | None) -> Response:
        if asked.path.startswith("/http/"):
            return self._endpoints.answer(request, asked)
        if asked.dialect not in WRITERS:
            return self._written(Raw(body=b'{"error": {"message": "no such address"}}', status=404), asked)
        if scripted is None:
            scripted = default_reply
        reply = scripted(asked) if callable(scripted) else scripted
        return self._written(reply, asked)

    def _written(self, reply: Reply, asked: Asked) -> Response:
        writer = WRITERS.get(asked.dialect)
        if isinstance(reply, Drop):
            return PacedResponse(0, {}, None, pace=reply.pace, asked=asked, wait=self._hold)
        if isinstance(reply, Raw) or writer is None:
            assert isinstance(reply, Raw)
            headers = {"content-type": "application/octet-stream", **reply.headers}
            return self._paced(reply, asked, reply.status, headers, [reply.body])
        if isinstance(reply, Fail):
            headers = {"content-type": "application/json", **writer.headers(reply), **reply.headers}
            return self._paced(reply, asked, reply.status, headers, [json.dumps(writer.error(reply)).encode()])
        if not asked.streamed:
            plain = json.dumps(writer.plain(reply, asked), separators=(",", ":"), ensure_ascii=False).encode()
            step = max(1, -(-len(plain) // _PLAIN_PIECES))
            pieces = [plain[start : start + step] for start in range(0, len(plain), step)]
            return self._paced(reply, asked, 200, {"content-type": "application/json", **reply.headers}, pieces)
        events = writer.events(reply, asked)
        if reply.error_after is not None:
            events = [
                *events[: reply.error_after],
                writer.error_event(reply.error or Fail(status=500, message="broke")),
            ]
        if reply.malformed_after is not None:
            events.insert(reply.malformed_after, (events[0][0], '{"id": "broken'))
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **reply.headers}
        end_of_line = "\r\n" if asked.dialect == "gemini" else "\n"
        pieces = [_event(event, end_of_line) for event in events]
        return self._paced(reply, asked, 200, headers, pieces, with_length=False)

    def _paced(
        self,
        reply: Say | Fail | Raw,
        asked: Asked,
        status: int,
        headers: dict[str, str],
        pieces: list[bytes],
        *,
        with_length: bool = True,
    ) -> Response:
        if (size := reply.pace.chunk_bytes) is not None:
            whole = b"".join(pieces)
            pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        return PacedResponse(
            status, headers, pieces, pace=reply.pace, asked=asked, wait=self._hold, with_length=with_length
        )

    async def _hold(self) -> None:
        if self._released:
            self._released -= 1
            return
        go = asyncio.Event()
        self._held.append(go)
        try:
            await go.wait()
        finally:
            if go in self._held:
                self._held.remove(go)

    def _release(self, count: int) -> None:
        for _ in range(count):
            if self._held:
                self._held.popleft().set()
            else:
                self._released += 1

    def _left(self) -> None:
        with self._news:
            self._in_flight -= 1
            self._news.notify_all()


class _Counted(Response):
    """A response that tells when it is over."""

    def __init__(self, response: Response, over: Callable[[], None]) -> None:
        super().__init__()
        self._response, self._over = response, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._over()


def _dialect(request: Request) -> str:
    path = request.url.path
    if request.method != "POST" or path.startswith("/http/"):
        return "http"
    if path.endswith("/chat/completions"):
        return "azure-openai" if path.startswith("/openai/") else "grok" if path.startswith("/grok/") else "openai-chat"
    if path.endswith("/responses"):
        return "openai-responses"
    if path.endswith("/messages"):
        return "anthropic"
    return "gemini" if path.endswith((":generateContent", ":streamGenerateContent")) else "http"


def _streamed(asked: Asked) -> bool:
    if asked.dialect == "gemini":
        return asked.path.endswith(":streamGenerateContent")
    return isinstance(asked.json, dict) and asked.json.get("stream") is True


def _event(event: Event, end_of_line: str) -> bytes:
    name, data = event
    lines = [f"event: {name}"] if name else []
    return end_of_line.join([*lines, f"data: {data}", "", ""]).encode()
