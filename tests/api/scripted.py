"""A service without an SDK: it registers what it is told to and answers calls as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs

import httpx2
import uvicorn

from stepwell.server.listening import listen

SDK = {"x-inngest-sdk": "inngest-py:v0.5.18", "x-inngest-req-version": "2"}

Answer = tuple[int, dict[str, str], Any]
"""Status, headers, value to be sent as JSON."""


def returned(value: object) -> Answer:
    return 200, SDK, value


def ops(*found: dict[str, Any]) -> Answer:
    return 206, SDK, list(found)


def done(step: str, value: object) -> dict[str, Any]:
    return {"op": "StepRun", "id": step, "name": step, "displayName": step, "data": value}


def sleep(step: str, duration: str) -> dict[str, Any]:
    return {"op": "Sleep", "id": step, "name": duration, "displayName": step}


class Scripted:
    """`answers` maps the end of a function's slug to what it answers, given the body of the call."""

    def __init__(self, name: str, server_url: str) -> None:
        self.name = name
        self.server_url = server_url
        self.url = ""
        self.answers: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self.calls: list[dict[str, Any]] = []
        self.asked = 0
        self.on_put: Callable[[], Answer] | None = None
        self.content = False  # says that all is well, whatever became of its registration
        self.options: dict[str, dict[str, Any]] = {}
        self.hold: asyncio.Event | None = None

    def payload(self) -> dict[str, Any]:
        """The body of its registration, as inngest-py writes it."""
        return {
            "appname": self.name,
            "url": self.url,
            "sdk": "py:v0.5.18",
            "framework": "scripted",
            "v": "0.1",
            "deploy_type": "ping",
            "functions": [config(self.name, one, self.url, **self.options.get(one, {})) for one in self.answers],
        }

    async def register(self, **headers: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.post(f"{self.server_url}/fn/register", json=self.payload(), headers=headers)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, headers, value = await self._answer(scope, body)
        text = json.dumps(value).encode()
        sent = [(name.encode(), one.encode()) for name, one in headers.items()]
        sent += [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": text})

    async def _answer(self, scope: Any, body: bytes) -> Answer:
        if scope["path"] != "/api/inngest":
            return 404, {}, {}
        match scope["method"]:
            case "GET":
                return 200, SDK, {"function_count": len(self.answers), "mode": "dev"}
            case "PUT":
                self.asked += 1
                if self.on_put is not None:
                    return self.on_put()
                response = await self.register()
                return 200 if self.content else response.status_code, SDK, response.json()
            case _:
                call = json.loads(body)
                self.calls.append(call)
                slug = parse_qs(scope["query_string"].decode())["fnId"][0]
                if self.hold is not None:
                    await self.hold.wait()
                return self.answers[slug.removeprefix(f"{self.name}-")](call)


def config(service: str, function: str, url: str, **options: Any) -> dict[str, Any]:
    """The configuration of one function, triggered by `<service>/<function>`."""
    slug = f"{service}-{function}"
    runtime = {"type": "http", "url": f"{url}?fnId={slug}&stepId=step"}
    return {
        "id": slug,
        "name": function,
        "triggers": [{"event": f"{service}/{function}"}],
        "steps": {"step": {"id": "step", "name": "step", "runtime": runtime, "retries": {"attempts": 1}}},
        **options,
    }


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def scripted(name: str, server_url: str, port: int = 0) -> AsyncIterator[Scripted]:
    """A scripted service on a port of its own."""
    service = Scripted(name, server_url)
    sockets = listen("127.0.0.1", port)
    service.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/api/inngest"
    web = _Quiet(
        uvicorn.Config(service.app, interface="asgi3", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(web.serve(sockets))
    try:
        yield service
    finally:
        web.should_exit = True
        await serving
