"""A real server on a free port, with each store, and a client for it.

With `STEPWELL_TEST_STORE=postgres` it is several servers on one database, and each request reaches another of them; see
`tests.fleet`. Tests that say nothing about what is kept are left out then: they would be the same again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from stepwell.server import Server, ServerSettings
from tests.api.api import Api
from tests.api.scripted import Scripted, scripted
from tests.fleet import nodes_wanted

Place = Path | str
Start = Callable[..., Awaitable[Api]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not nodes_wanted():
        return
    here = Path(__file__).parent
    same = [one for one in items if here in one.path.parents and "kept" not in getattr(one, "fixturenames", ())]
    config.hook.pytest_deselected(items=same)
    items[:] = [one for one in items if one not in set(same)]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    found: Place = request.getfixturevalue("postgres_url") if nodes_wanted() else tmp_path / "data"
    return found


@pytest.fixture
def kept(place: Place) -> Place:
    """Where a server keeps what the next one finds: a folder, or the URL of a database."""
    return place


@pytest.fixture(params=["postgres"] if nodes_wanted() else ["memory", "sqlite"])
def data(request: pytest.FixtureRequest, kept: Place) -> Place | None:
    return None if request.param == "memory" else kept


@pytest.fixture
async def stack(place: Place) -> AsyncIterator[AsyncExitStack]:
    """What is entered here is left at the end of the test, before its database is emptied."""
    async with AsyncExitStack() as entered:
        yield entered


@pytest.fixture
def start(stack: AsyncExitStack) -> Start:
    """Starts a server with these settings, in memory unless they say where else; stops it at the end of the test."""

    async def start(*, data: Place | None = None, **settings: Any) -> Api:
        defaults: dict[str, Any] = {
            "port": 0,
            "discovery": False,
            "poll": False,
            "retry_interval_ms": 20,
            "drain_s": 0.5,
            "manage_logging": False,
        }
        there = {"db": data} if isinstance(data, str) else {"data": data}
        servers = [
            Server(ServerSettings(**{**defaults, **there, **settings}))
            for _ in range(max(1, nodes_wanted()) if isinstance(data, str) else 1)
        ]
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        api = Api(*servers)
        stack.push_async_callback(api.close)
        return api

    return start


@pytest.fixture
async def api(start: Start, data: Place | None) -> Api:
    return await start(data=data)


@pytest.fixture
async def plain(start: Start) -> Api:
    """In memory only, for what does not depend on the store."""
    return await start()


@pytest.fixture
async def shop(api: Api, stack: AsyncExitStack) -> Scripted:
    """A service named `shop` that has not registered yet."""
    return await stack.enter_async_context(scripted("shop", api.server.url))
