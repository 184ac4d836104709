"""Apps to call: one that answers as told on a raw socket, and the messages that come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from stepwell.model.function import Function
from stepwell.model.ids import JobId, RunId
from stepwell.model.message import Message
from stepwell.wire.inngest.reply import SDK_HEADER
from stepwell.workers.base import Dispatch

EVENT = b'{"data":{},"id":"e","name":"a/b","ts":1780000000000,"user":{}}'
RUN = RunId("01JZ0000000000000000000001")

Writer = asyncio.StreamWriter
Answer = Callable[["Request", Writer], Awaitable[None]]


@dataclass
class Request:
    """One request as it came, bytes and all."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class App:
    """A server on a socket. `answers` are used in order, the last one again and again."""

    answers: Sequence[Answer]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    url: str = ""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def seen(self, count: int = 1) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(10):
            while len(self.requests) < count:
                self._news.clear()
                await self._news.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {}
                for line in filter(None, head[1:]):
                    name, _, value = line.partition(": ")
                    headers[name.lower()] = value
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                request = Request(method, target, headers, body)
                self.requests.append(request)
                self._news.set()
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                await answer(request, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def an_app(*answers: Answer, host: str = "127.0.0.1") -> AsyncIterator[App]:
    app = App(answers)
    server = await asyncio.start_server(app.serve, host, 0, limit=1 << 24)
    port = server.sockets[0].getsockname()[1]
    app.url = f"http://localhost:{port}/api/inngest"
    try:
        yield app
    finally:
        server.close()


def raw(text: bytes, *, then_close: bool = False, reset: bool = False) -> Answer:
    """Exactly these bytes."""

    async def answer(request: Request, writer: Writer) -> None:
        writer.write(text)
        await writer.drain()
        if reset:
            writer.transport.abort()
        elif then_close:
            writer.close()

    return answer


def http(status: int, body: bytes = b"", *, sdk: bool = True, **headers: str) -> Answer:
    """A well-formed response."""
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    if sdk:
        lines.setdefault(SDK_HEADER, "inngest-py:v0.5.18")
        lines.setdefault("x-inngest-req-version", "2")
    lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return raw(f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body)


class Mailbox:
    """What a performer delivered."""

    def __init__(self) -> None:
        self.messages: list[tuple[RunId, JobId, int, Message]] = []
        self._news = asyncio.Event()

    def __call__(self, run: RunId, job: JobId, fence: int, message: Message, /) -> None:
        self.messages.append((run, job, fence, message))
        self._news.set()

    async def wait(self, count: int = 1) -> list[Message]:
        async with asyncio.timeout(10):
            while len(self.messages) < count:
                self._news.clear()
                await self._news.wait()
        return [message for _, _, _, message in self.messages]


def a_dispatch(url: str = "", **fields: Any) -> Dispatch:
    service = fields.pop("service", "shop")
    slug = fields.pop("slug", f"{service}-a")
    function = Function(slug=slug, name="A", service=service, triggers=(), url=url)
    return Dispatch(**{"job": JobId("J"), "fence": 3, "run": RUN, "function": function, "events": (EVENT,), **fields})
