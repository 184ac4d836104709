"""Every store passes the same tests: what is not about one database asks for `store`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from stepwell.store.memory import MemoryStore
from stepwell.store.postgres import PostgresStore
from stepwell.store.sqlite import SqliteStore
from tests.store.cases import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from stepwell.store.base import Store

STORES = ("memory", "sqlite", "postgres")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    if request.param == "postgres":
        opened = cast("Store", PostgresStore(request.getfixturevalue("postgres_url"), clock))
    else:
        opened = make_store(request.param, tmp_path, clock)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


def make_store(kind: str, directory: Path, clock: Clock) -> Store:
    if kind == "memory":
        return MemoryStore(clock)
    return SqliteStore(directory / "data", clock)
