"""A server, a provider that says what tests want, and a service whose function has the server ask it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

import stepwell
from stepwell import ai
from stepwell.server import Server
from stepwell.testing.provider import Provider
from tests.docs.running import running_server, working

KEY = "sk-canary-of-live-streams"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def quiet_provider(provider: Provider) -> Provider:
    provider.requests.clear()
    provider.answer()
    return provider


def service_of(provider: Provider) -> stepwell.Service:
    """`talk/talk` asks a model as often as `times` says, one time after the other."""
    service = stepwell.Service("talk")
    model = ai.openai("gpt-4o-mini", base_url=f"{provider.url}/v1", api_key=KEY)
    body = {"messages": [{"role": "user", "content": "Hello"}]}

    @service.function(on="talk/talk", retries=2)
    async def talk(ctx: stepwell.Context[Any]) -> list[str]:
        said = []
        for number in range(ctx.event.data.get("times", 1)):
            reply = await ctx.step.ai.infer(f"say-{number}", model=model, body=body, stream=True)
            said.append(reply.text)
        return said

    return service


@pytest.fixture(scope="module")
def server(provider: Provider) -> Iterator[Server]:
    with running_server(retry_interval_ms=20) as server, working([service_of(provider)], server):
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[stepwell.Client]:
    with stepwell.Client(server.url) as client:
        yield client


class Events:
    """Server-sent events as they are on the wire."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.iter_lines()

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        """Kind, id and data of each event until the stream ends."""
        kind = id = ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                id = value
            elif name == "data":
                yield kind, id, json.loads(value)

    def until(self, enough: Callable[[str, Any], bool]) -> list[tuple[str, str, Any]]:
        """The events to the first that is enough, or to the end."""
        found = []
        for kind, id, data in self:
            found.append((kind, id, data))
            if enough(kind, data):
                break
        return found


@contextmanager
def followed(url: str, run: str, after: str | None = None, **more: Any) -> Iterator[Events]:
    headers = {"Last-Event-ID": after} if after is not None else {}
    with httpx2.Client(base_url=url, timeout=10, trust_env=False) as http:
        with http.stream("GET", f"/api/runs/{run}/stream", headers=headers | more.pop("headers", {}), **more) as answer:
            assert answer.status_code == 200, answer.read()
            yield Events(answer)


def everything(url: str, run: str, after: str | None = None) -> list[tuple[str, str, Any]]:
    with followed(url, run, after) as events:
        return list(events)


def said(events: list[tuple[str, str, Any]]) -> str:
    """The words of the pieces."""
    return "".join(data["text"] for kind, _, data in events if kind == "delta" and data["kind"] == "text")
