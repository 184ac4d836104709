"""Servers to break. Each is audited when its test is over, whatever the test itself looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.harness import Server
from tests.faults.invariants import assert_sound


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
async def server(unstarted: Server) -> Server:
    """A server that runs."""
    await unstarted.start()
    return unstarted
