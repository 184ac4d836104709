"""A real server on a free port, with each store, and a client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from stepwell.server import Server, ServerSettings
from tests.api.api import Api
from tests.api.scripted import Scripted, scripted

Start = Callable[..., Awaitable[Api]]


@pytest.fixture(params=["memory", "sqlite"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "data" if request.param == "sqlite" else None


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What is entered here is left at the end of the test."""
    async with AsyncExitStack() as entered:
        yield entered


@pytest.fixture
def start(stack: AsyncExitStack) -> Start:
    """Starts a server in memory with these settings; stops it at the end of the test."""

    async def start(**settings: Any) -> Api:
        defaults: dict[str, Any] = {
            "data": None,
            "port": 0,
            "discovery": False,
            "poll": False,
            "retry_interval_ms": 20,
            "drain_s": 0.5,
            "manage_logging": False,
        }
        server = Server(ServerSettings(**{**defaults, **settings}))
        await server.start()
        stack.push_async_callback(server.stop)
        api = Api(server)
        stack.push_async_callback(api.http.aclose)
        return api

    return start


@pytest.fixture
async def api(start: Start, data: Path | None) -> Api:
    return await start(data=data)


@pytest.fixture
async def plain(start: Start) -> Api:
    """In memory only, for what does not depend on the store."""
    return await start()


@pytest.fixture
async def shop(api: Api, stack: AsyncExitStack) -> Scripted:
    """A service named `shop` that has not registered yet."""
    return await stack.enter_async_context(scripted("shop", api.server.url))
