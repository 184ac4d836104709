"""Servers to break. What each holds is audited when a test is over, whatever the test itself looked at.

With `STEPWELL_TEST_STORE=postgres` each is several processes on one database; see `tests.fleet`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Server
from tests.faults.invariants import assert_sound, settled
from tests.fleet import drop_database, new_database, nodes_wanted

# These bring nodes of their own, whatever is asked for.
collect_ignore = ["test_apps.py", "test_nodes.py", "test_processes.py"] if nodes_wanted() else []


@contextlib.contextmanager
def server_in(folder: Path) -> Iterator[Server]:
    """A server of the store that is asked for, not started."""
    nodes = nodes_wanted()
    db = new_database() if nodes else ""
    try:
        yield Server(folder, db=db, nodes=nodes)
    finally:
        if db:
            drop_database(db)


@pytest.fixture
async def unstarted(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that its test starts, kills and starts again."""
    with server_in(tmp_path) as server:
        try:
            yield server
            await server.stop()
            if server.db or (server.data / "stepwell.db").exists():
                await assert_sound(server)
        finally:
            await server.close()


@pytest.fixture
async def own(unstarted: Server) -> Server:
    """A server that runs and that nobody else uses."""
    await unstarted.start()
    return unstarted


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The processes behind `server`."""

    async def start(server: Server) -> None:
        await server.start(within=60)
        await server.look_away()

    with server_in(tmp_path_factory.mktemp("shared")) as server:
        asyncio.run(start(server))
        try:
            yield server
        finally:
            asyncio.run(server.close())


@pytest.fixture
async def server(shared: Server) -> AsyncIterator[Server]:
    """A server that runs and is used by one test after the other: not to be killed."""
    again = shared.seen_again()
    try:
        yield again
        await settled(again)
    finally:
        await again.look_away()
