"""Servers to break. What each holds is audited when a test is over, whatever the test itself looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Server
from tests.faults.invariants import assert_sound, settled


@pytest.fixture
async def unstarted(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that its test starts, kills and starts again."""
    server = Server(tmp_path)
    try:
        yield server
    finally:
        await server.close()
    if (server.data / "stepwell.db").exists():
        assert_sound(server.data)


@pytest.fixture
async def own(unstarted: Server) -> Server:
    """A server that runs and that nobody else uses."""
    await unstarted.start()
    return unstarted


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The process behind `server`."""

    async def start() -> Server:
        server = Server(tmp_path_factory.mktemp("shared"))
        await server.start(within=60)
        await server.http.aclose()
        return server

    server = asyncio.run(start())
    yield server
    asyncio.run(server.program.stop())


@pytest.fixture
async def server(shared: Server) -> AsyncIterator[Server]:
    """A server that runs and is used by one test after the other: not to be killed."""
    again = shared.seen_again()
    try:
        yield again
    finally:
        await again.http.aclose()
    await settled(shared.data)
