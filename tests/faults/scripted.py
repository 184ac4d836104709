"""A service over HTTP that answers as a test says: to the byte, to the moment, or not at all.

It speaks the wire of the official SDKs, as far as a test wants it to. `answer` is asked for every call and returns what
to write; None closes the connection with a reset. Everything that came is in `calls`, in order.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.faults.harness import Server, free_port

HEADERS = {"content-type": "application/json", "x-inngest-sdk": "py:v0.5.18", "x-inngest-req-version": "2"}


@dataclass(slots=True)
class Call:
    """One request of the server."""

    function: str  # without the name of the service
    target: str | None  # the step that is asked for; None lets the function go as far as it can
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)

    @property
    def run(self) -> str:
        return str(self.body["ctx"]["run_id"])

    @property
    def attempt(self) -> int:
        return int(self.body["ctx"]["attempt"])

    @property
    def steps(self) -> dict[str, Any]:
        """Results that the server remembers, by step."""
        steps: dict[str, Any] = self.body["steps"]
        return steps

    @property
    def data(self) -> dict[str, Any]:
        """What came with the event."""
        data: dict[str, Any] = self.body["event"]["data"]
        return data


Answer = Callable[[Call], Awaitable[bytes | None]]


def response(
    status: int, body: object = None, headers: dict[str, str] | None = None, *, raw: bytes | None = None
) -> bytes:
    """A whole HTTP response. Without `headers` it looks like an SDK's."""
    text = raw if raw is not None else json.dumps(body).encode()
    given = {**(HEADERS if headers is None else headers), "content-length": str(len(text))}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} Because\r\n{head}\r\n".encode() + text


def result(value: object) -> bytes:
    """The function returned."""
    return response(200, value)


def ops(*reported: dict[str, Any]) -> bytes:
    """The function tells of steps."""
    return response(206, list(reported))


def done(step: str, value: object = None, **more: Any) -> dict[str, Any]:
    return {"op": "StepRun", "id": step, "displayName": step, "data": value, **more}


def planned(step: str, **more: Any) -> dict[str, Any]:
    return {"op": "StepPlanned", "id": step, "displayName": step, **more}


def failed(step: str, message: str) -> dict[str, Any]:
    return {"op": "StepFailed", "id": step, "displayName": step, "error": {"name": "Error", "message": message}}


def sleep(step: str, duration: str) -> dict[str, Any]:
    return {"op": "Sleep", "id": step, "displayName": step, "opts": {"duration": duration}}


def wait(step: str, event: str, timeout: str, expression: str | None = None) -> dict[str, Any]:
    opts = {"event": event, "timeout": timeout, **({"if": expression} if expression else {})}
    return {"op": "WaitForEvent", "id": step, "displayName": step, "opts": opts}


class Scripted:
    """`async with Scripted(server, {"function": answer}) as service`: it is registered then.

    A function `f` of the service `raw` is started by the event `raw/f` and has `retries`.
    """

    def __init__(
        self, server: Server, answers: dict[str, Answer], *, name: str = "raw", retries: int = 3, url: str | None = None
    ) -> None:
        self.server = server
        self.name = name
        self.answers = answers
        self.retries = retries
        self.port = free_port()
        self.url = url or f"http://127.0.0.1:{self.port}/api/inngest"
        self.calls: list[Call] = []
        self._sockets: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.listen()
        await self.register()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def listen(self) -> None:
        self._sockets = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=64 * 1024 * 1024)

    async def close(self) -> None:
        """As if the program had ended: nobody listens, and what was open is reset."""
        if self._sockets is not None:
            self._sockets.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def config(self) -> dict[str, Any]:
        return {
            "appname": self.name,
            "url": self.url,
            "sdk": "py:v0.5.18",
            "framework": "test",
            "v": "0.1",
            "deployType": "ping",
            "functions": [self._function(one) for one in self.answers],
        }

    def _function(self, own: str) -> dict[str, Any]:
        slug = f"{self.name}-{own}"
        runtime = {"type": "http", "url": f"{self.url}?fnId={slug}&stepId=step"}
        step = {"id": "step", "name": "step", "runtime": runtime, "retries": {"attempts": self.retries + 1}}
        return {"id": slug, "name": own, "triggers": [{"event": f"{self.name}/{own}"}], "steps": {"step": step}}

    async def register(self) -> None:
        answer = await self.server.http.post("/fn/register", json=self.config())
        assert answer.status_code == 200, answer.text

    def of(self, run: str, target: str | None = "any") -> Sequence[Call]:
        """The calls of a run; those of one step, or with None those of the function as a whole."""
        return [call for call in self.calls if call.run == run and target in ("any", call.target)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (call := await _read(reader, self.name)) is not None:
                self.calls.append(call)
                answer = await self.answers[call.function](call)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if b"connection: close" in answer[:2000].lower():
                    writer.close()  # after all that was written, whether it is all that was promised or not
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side is gone, or this service is
        finally:
            self._tasks.discard(task)
            if not writer.is_closing():
                writer.transport.abort()


async def _read(reader: asyncio.StreamReader, service: str) -> Call | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    line, *rest = head.split("\r\n")
    method, address, _ = line.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in rest if one)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    assert method == "POST", "nobody polls: servers are started so"
    query = parse_qs(urlsplit(address).query)
    step = query["stepId"][0]
    return Call(
        query["fnId"][0].removeprefix(f"{service}-"), None if step == "step" else step, json.loads(body or b"{}")
    )
