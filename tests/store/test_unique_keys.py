"""Unique keys: `Transition.unique` (see `store/base.py`), for every store.

A key that is taken and not expired (judged by `Transition.now`) refuses the whole transition with `Duplicate`, which
says who has it. An expired key may be taken again. Keys belong to an environment.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest

from stepwell.model.ids import JobId
from stepwell.store.base import COMMITTED, ClaimLost, Duplicate, RunMoved, Transition, Unique
from stepwell.store.memory import MemoryStore
from stepwell.store.postgres import PostgresStore
from stepwell.store.sqlite import SqliteStore
from tests.postgres import asked
from tests.store.cases import a_claim, run_id, started

if TYPE_CHECKING:
    from stepwell.store.base import Store


def taking(key: str, value: str, *, now: int, until: int, env: str = "e") -> Transition:
    return Transition(unique=(Unique(env, key, value, until),), now=now)


@pytest.mark.parametrize("again_at", [1000, 1999])
async def test_a_key_is_taken_once_until_it_expires(store: Store, again_at: int) -> None:
    assert await store.commit(taking("k", "first", now=1000, until=2000)) == COMMITTED
    assert await store.commit(taking("k", "second", now=again_at, until=9000)) == Duplicate("k", "first")


async def test_an_expired_key_may_be_taken_again(store: Store) -> None:
    assert await store.commit(taking("k", "first", now=1000, until=2000)) == COMMITTED
    assert await store.commit(taking("k", "second", now=2000, until=9000)) == COMMITTED
    assert await store.commit(taking("k", "third", now=2001, until=9000)) == Duplicate("k", "second")


async def test_keys_belong_to_an_environment(store: Store) -> None:
    assert await store.commit(taking("k", "first", now=1, until=9)) == COMMITTED
    assert await store.commit(taking("k", "other", now=1, until=9, env="f")) == COMMITTED


async def test_a_refused_key_refuses_everything_beside_it(store: Store) -> None:
    await store.commit(taking("a", "x", now=1, until=9))
    both = Transition(unique=(Unique("e", "b", "y", 9), Unique("e", "a", "y", 9)), now=2)
    assert await store.commit(both) == Duplicate("a", "x")
    assert await store.commit(taking("b", "z", now=3, until=9)) == COMMITTED


async def test_of_many_who_want_a_key_one_gets_it(store: Store) -> None:
    outcomes = await asyncio.gather(*[store.commit(taking("k", f"by {i}", now=1, until=9)) for i in range(20)])
    assert outcomes.count(COMMITTED) == 1
    winner = outcomes.index(COMMITTED)
    assert {outcome for outcome in outcomes if outcome != COMMITTED} == {Duplicate("k", f"by {winner}")}


async def test_a_transition_refused_for_another_reason_takes_no_key(store: Store) -> None:
    refused = Transition(ends=(a_claim("none"),), unique=(Unique("e", "k", "x", 9),), now=1)
    assert await store.commit(refused) == ClaimLost(JobId("none"))
    assert await store.commit(taking("k", "y", now=1, until=9)) == COMMITTED


async def test_a_run_that_moved_is_told_before_a_key_that_is_taken(store: Store) -> None:
    first = Transition(run=started(1), unique=(Unique("e", "k", "x", 9),), now=1)
    assert await store.commit(first) == COMMITTED
    assert await store.commit(first) == RunMoved(run_id(1))


async def test_expired_keys_do_not_pile_up(store: Store) -> None:
    for i in range(300):
        assert await store.commit(taking(f"k{i}", "x", now=10 * i, until=10 * i + 50)) == COMMITTED
    if isinstance(store, MemoryStore):
        assert len(store.unique_keys) < 10
    elif isinstance(store, PostgresStore):
        (count,) = await asked(store.url, "SELECT count(*) FROM stepwell.dedup")
        assert count < 10
    else:
        assert isinstance(store, SqliteStore)
        with sqlite3.connect(store.file) as connection:
            assert connection.execute("SELECT count(*) FROM dedup").fetchone()[0] < 10
        connection.close()


async def test_a_key_is_taken_from_who_has_it_with_the_value_that_is_named(store: Store) -> None:
    def replacing(old: str, new: str, now: int) -> Transition:
        return Transition(unique=(Unique("e", "k", new, 9000, replaces=old),), now=now)

    assert await store.commit(replacing("nobody", "a", 1)) == Duplicate("k", "")
    assert await store.commit(taking("k", "a", now=1, until=9000)) == COMMITTED
    assert await store.commit(replacing("x", "b", 2)) == Duplicate("k", "a")
    assert await store.commit(replacing("a", "b", 2)) == COMMITTED
    assert await store.commit(replacing("a", "c", 3)) == Duplicate("k", "b")
    assert await store.commit(replacing("a", "c", 9500)) == Duplicate("k", "b")
    assert await store.read_keys("e", ["k", "other"]) == {"k": ("b", 9000)}
    assert await store.read_keys("f", ["k"]) == {}


async def test_of_many_who_replace_the_same_value_one_does(store: Store) -> None:
    await store.commit(taking("k", "0", now=1, until=9000))
    asked = [Transition(unique=(Unique("e", "k", f"{n}", 9000, replaces="0"),), now=2) for n in range(1, 20)]
    outcomes = await asyncio.gather(*map(store.commit, asked))
    assert outcomes.count(COMMITTED) == 1
    await store.commit(taking("l", "0", now=1, until=9000))
    chain = [Transition(unique=(Unique("e", "l", f"{n + 1}", 9000, replaces=f"{n}"),), now=2) for n in range(20)]
    assert set(await asyncio.gather(*map(store.commit, chain))) == {COMMITTED}
    assert (await store.read_keys("e", ["l"]))["l"] == ("20", 9000)
