"""What surfaces keep: put by revision, found by key, listed in order, removed. Every store alike."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.store.base import LONGEST_KEY, Record
from stepwell.store.postgres import PostgresStore

if TYPE_CHECKING:
    from stepwell.store.base import Store


def a_record(key: str = "one", **fields: Any) -> Record:
    return Record(**({"env": DEV_ENV, "kind": "thing", "key": key, "value": b"v"} | fields))


async def test_a_record_is_put_changed_and_removed(store: Store) -> None:
    first = a_record(value=b"\x00\xff", at=1_700_000_000_000)
    assert await store.record(DEV_ENV, "thing", "one") is None
    assert await store.put_record(first)
    assert await store.record(DEV_ENV, "thing", "one") == first
    assert not await store.put_record(first), "it is there"
    second = replace(first, value=b"", revision=2, at=-5)
    assert await store.put_record(second)
    assert not await store.put_record(replace(first, value=b"late", revision=2)), "somebody was quicker"
    assert not await store.put_record(replace(first, revision=4)), "nobody wrote the third"
    assert await store.record(DEV_ENV, "thing", "one") == second

    assert not await store.remove_record(DEV_ENV, "thing", "one", 1)
    assert await store.remove_record(DEV_ENV, "thing", "one", 2)
    assert not await store.remove_record(DEV_ENV, "thing", "one")
    assert not await store.put_record(replace(first, revision=3)), "it is gone"
    assert await store.put_record(first)
    assert await store.remove_record(DEV_ENV, "thing", "one")
    assert await store.records(DEV_ENV, "thing") == []


async def test_environments_and_kinds_do_not_mix(store: Store) -> None:
    places = [(env, kind) for env in (DEV_ENV, "other", "a\0b") for kind in ("thing", "app")]
    for env, kind in places:
        assert await store.put_record(a_record(env=env, kind=kind, value=f"{env} {kind}".encode()))
    assert await store.remove_record("other", "app", "one")
    for env, kind in places[:3] + places[4:]:
        expected = [a_record(env=env, kind=kind, value=f"{env} {kind}".encode())]
        assert await store.records(env, kind) == expected
        assert await store.record(env, kind, "one") == expected[0]


KEYS = ["Z", "a", "a/", "a/1", "a/10", "a/2", "a/é", "a/\uffff", "a/\U0001f600", "a0", "b/1", "ä"]


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/1", "ä", "none", "a/\uffff"])
@pytest.mark.parametrize("after", [None, "a/1", "a/11", "Z", "ä", "\U0001f600"])
async def test_records_are_listed_by_key_a_page_at_a_time(store: Store, prefix: str, after: str | None) -> None:
    for key in reversed(KEYS):
        assert await store.put_record(a_record(key, value=key.encode()))
    assert sorted(KEYS) == KEYS, "the order is that of code points"
    for descending, limit in itertools.product((False, True), (1, 3, 100)):
        expected = [key for key in KEYS if key.startswith(prefix)]
        if after is not None:
            expected = [key for key in expected if (key < after if descending else key > after)]
        if descending:
            expected.reverse()
        found = await store.records(DEV_ENV, "thing", prefix=prefix, after=after, limit=limit, descending=descending)
        assert [record.key for record in found] == expected[:limit]
        assert all(record.value == record.key.encode() for record in found)


@pytest.mark.parametrize("key", ["", "a\0", "a\n", "\ud800", "x" * (LONGEST_KEY + 1), "é" * (LONGEST_KEY // 2 + 1)])
async def test_keys_that_cannot_be_ordered_everywhere_are_refused(store: Store, key: str) -> None:
    with pytest.raises(InvalidInput, match="1 to 500 bytes"):
        await store.put_record(a_record(key))
    assert await store.record(DEV_ENV, "thing", key) is None
    assert not await store.remove_record(DEV_ENV, "thing", key)
    assert await store.records(DEV_ENV, "thing", prefix=key) == []
    with pytest.raises(InvalidInput, match="revision 0"):
        await store.put_record(a_record(revision=0))


async def test_the_longest_key_fits(store: Store) -> None:
    for key in ("é" * (LONGEST_KEY // 2), "x" * LONGEST_KEY):
        assert await store.put_record(a_record(key))
        assert [record.key for record in await store.records(DEV_ENV, "thing", prefix=key)] == [key]


async def test_of_many_writers_at_once_each_change_is_made_by_one(store: Store) -> None:
    """Everybody adds one, all with the same words, and none is lost."""

    async def add() -> None:
        while True:
            old = await store.record(DEV_ENV, "thing", "count")
            if old is None:
                new = a_record("count", value=b"1")
            else:
                new = replace(old, value=b"%d" % (int(old.value) + 1), revision=old.revision + 1)
            if await store.put_record(new):
                return

    await asyncio.gather(*[add() for _ in range(20)])
    found = await store.record(DEV_ENV, "thing", "count")
    assert found is not None
    assert (found.value, found.revision) == (b"20", 20)


async def test_two_servers_of_a_database_make_each_change_once(postgres_url: str) -> None:
    stores = [PostgresStore(postgres_url) for _ in range(2)]
    for store in stores:
        await store.open()
    try:
        for revision in range(1, 30):
            same = a_record(revision=revision)
            made = await asyncio.gather(*[store.put_record(same) for store in stores])
            assert sorted(made) == [False, True]
        removed = await asyncio.gather(*[store.remove_record(DEV_ENV, "thing", "one", 29) for store in stores])
        assert sorted(removed) == [False, True]
    finally:
        for store in stores:
            await store.close()
