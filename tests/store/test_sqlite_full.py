"""A full disk: every caller is told, nothing is there by half, and work goes on by itself when there is room."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from stepwell.model.event import DEV_ENV
from stepwell.model.payload import blob_of
from stepwell.store.base import COMMITTED, RunQuery, StoreFull, Transition
from stepwell.store.sqlite import SqliteStore
from tests.store.cases import a_job, an_event, run_id, started, store_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def filling(number: int) -> Transition:
    return Transition(
        run=started(number), jobs=(a_job(f"j{number}", number),), events=(an_event(number, body=os.urandom(50_000)),)
    )


async def fill(store: SqliteStore) -> tuple[list[int], list[int]]:
    """Groups of ten until the store is full: the numbers stored, and those refused."""
    stored: list[int] = []
    refused: list[int] = []
    for first in range(1, 2000, 10):
        numbers = range(first, first + 10)
        results = await asyncio.gather(*[store.commit(filling(i)) for i in numbers], return_exceptions=True)
        for number, result in zip(numbers, results, strict=True):
            assert result == COMMITTED or isinstance(result, StoreFull)
            (stored if result == COMMITTED else refused).append(number)
        if refused:
            return stored, refused
    raise AssertionError("it never became full")


async def whole(store: SqliteStore, stored: list[int], refused: list[int]) -> None:
    listed = await store.runs(RunQuery(DEV_ENV, limit=10_000))
    assert sorted(row.id for row in listed) == [run_id(number) for number in sorted(stored)]
    assert len(await store.read_events([an_event(number).key for number in stored])) == len(stored)
    assert await store.read_events([an_event(number).key for number in refused]) == []
    for number in refused:
        assert await store.jobs_of(run_id(number)) == []


async def test_when_the_disk_is_full_all_are_told_and_work_goes_on_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(12 << 20))
    store = SqliteStore(small_disk / "data")
    await store.open()
    stored, refused = await fill(store)
    await whole(store, stored, refused)
    with pytest.raises(StoreFull):  # noqa: PT012 - one that fits into what the group left is fine
        for number in list(refused):
            await store.commit(filling(number))
            stored.append(refused.pop(0))
    with pytest.raises(StoreFull):
        await store.commit(Transition(blobs=((blob_of(bytes(14 << 20)), bytes(14 << 20)),)))
    assert not list((small_disk / "data" / "blobs").rglob("*.tmp"))

    ballast.unlink()
    await store_all(store, *map(filling, refused))
    await whole(store, stored + refused, [])
    await store.close()
    await store.open()
    await whole(store, stored + refused, [])
    await store.close()


async def test_a_database_at_its_size_limit_is_full(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data", max_pages=300)
    await store.open()
    stored, refused = await fill(store)
    await whole(store, stored, refused)
    await store.close()
    larger = SqliteStore(tmp_path / "data")
    await larger.open()
    await store_all(larger, *map(filling, refused))
    await whole(larger, stored + refused, [])
    await larger.close()


async def test_a_group_that_fails_for_want_of_room_has_no_survivors(tmp_path: Path) -> None:
    gate = threading.Event()
    store = SqliteStore(tmp_path / "data", max_pages=300, point=lambda name: (gate.wait(), None)[1])
    gate.set()
    await store.open()
    gate.clear()
    before = asyncio.ensure_future(store.commit(Transition()))
    await asyncio.sleep(0.05)  # the writer has that one and stands still; the others are the next transaction
    # The small ones would fit, the large one does not.
    group = [Transition(run=started(1)), Transition(events=(an_event(2, body=bytes(4 << 20)),)), filling(3)]
    waiting = [asyncio.ensure_future(store.commit(transition)) for transition in group]
    await asyncio.sleep(0)
    gate.set()
    assert await before == COMMITTED
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [StoreFull] * 3
    assert len({id(result) for result in results}) == 3
    await store_all(store, Transition(run=started(1)))
    await store.close()
