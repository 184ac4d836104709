"""What nobody needs goes, in small pieces, and nothing that somebody needs."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest

from stepwell.model.event import DEV_ENV
from stepwell.model.ids import JobId
from stepwell.model.job import Claim, JobKind, RunStatus
from stepwell.model.journal import Noted, RunCompleted, StepCompleted
from stepwell.model.payload import Blob, blob_of
from stepwell.store.base import COMMITTED, EventQuery, RunQuery, RunWrite, Tidied, Transition, Unique
from stepwell.store.batch import blobs_of
from stepwell.store.memory import MemoryStore
from stepwell.store.postgres import PostgresStore
from stepwell.store.sqlite import SqliteStore
from stepwell.store.sqlite import store as sqlite_store
from tests.store.cases import (
    Clock,
    a_job,
    a_row,
    a_wait,
    an_event,
    event_key,
    moved,
    run_id,
    started,
    step,
    store_all,
)
from tests.store.conftest import STORES

if TYPE_CHECKING:
    from pathlib import Path

    from stepwell.store.base import Store

ENDED = {"status": RunStatus.COMPLETED}
NOW = 5000


async def tidied(store: Store, now: int = NOW, loose_before: int = 0) -> Tidied:
    """All pieces together."""
    entries = keys = blobs = 0
    while True:
        piece = await store.tidy(now, loose_before)
        entries, keys, blobs = entries + piece.entries, keys + piece.keys, blobs + piece.blobs
        if not piece.more:
            return Tidied(entries, keys, blobs)


async def removed(store: Store, *numbers: int) -> list[str]:
    """Those of the runs that could be removed, however little a busy machine gets done at a time."""
    runs, gone = [run_id(number) for number in numbers], list[str]()
    while runs:
        some, looked_at = await store.remove_runs(runs, NOW)
        assert looked_at > 0
        gone += some
        runs = runs[looked_at:]
    return gone


async def has(store: Store, text: bytes) -> bool:
    try:
        return await store.read_blobs([blob_of(text)]) == [text]
    except KeyError:
        return False


async def test_ended_runs_are_listed_by_id_between_two_bounds(store: Store) -> None:
    for number in range(1, 9):
        await store_all(store, Transition(run=started(number, **(ENDED if number % 2 else {}))))
    ended = [run_id(number) for number in (1, 3, 5, 7)]
    assert [row.id for row in await store.ended_runs(None, None, 10)] == ended
    assert [row.id for row in await store.ended_runs(None, None, 2)] == ended[:2]
    assert [row.id for row in await store.ended_runs(run_id(1), run_id(7), 10)] == ended[1:3]
    assert await store.ended_run_before(0) == run_id(7)
    assert await store.ended_run_before(3) == run_id(1)
    assert await store.ended_run_before(4) is None


async def test_a_removed_run_is_found_nowhere(store: Store) -> None:
    await store_all(
        store,
        Transition(run=started(1, event=event_key(1), parent=run_id(9), **ENDED), waits=(a_wait(1),)),
        Transition(run=started(2, **ENDED)),
    )
    assert await store.remove_runs([run_id(1)], NOW) == ([run_id(1)], 1)
    assert await store.run_row(run_id(1)) is None
    assert await store.load_run(run_id(1)) is None
    assert await store.waits_of(run_id(1)) == []
    for query in (RunQuery(DEV_ENV), RunQuery(DEV_ENV, event=event_key(1)), RunQuery(DEV_ENV, parent=run_id(9))):
        assert run_id(1) not in [row.id for row in await store.runs(query)]
    assert await store.count_runs(RunQuery(DEV_ENV)) == 1
    assert await store.remove_runs([run_id(1)], NOW) == ([], 1)


async def test_a_run_stays_while_it_lives_or_has_a_job_or_a_child(store: Store) -> None:
    await store_all(
        store,
        Transition(run=started(1)),
        Transition(run=started(2, **ENDED), jobs=(a_job("wake", 2),)),
        Transition(run=started(3, **ENDED)),
        Transition(run=started(4, parent=run_id(3), **ENDED)),
    )
    assert await removed(store, 1, 2, 3) == []
    await store_all(store, Transition(drop_jobs=(JobId("wake"),)))
    assert await removed(store, 4, 1, 2, 3) == [run_id(4), run_id(2), run_id(3)]
    assert await store.load_run(run_id(1)) is not None


async def test_a_run_of_many_entries_is_gone_at_once_and_its_entries_follow(store: Store) -> None:
    count = 3000
    entries = (*started(1).entries, *[Noted(kind="log", text="x" * 200)] * (count - 1))
    await store_all(store, Transition(run=RunWrite(a_row(1, count, **ENDED), 0, entries)))
    assert await store.remove_runs([run_id(1)], NOW) == ([run_id(1)], 1)
    assert await store.load_run(run_id(1)) is None
    done = await tidied(store)
    if not isinstance(store, MemoryStore):
        assert done.entries == count
    assert await store.tidy(NOW, 0) == Tidied()


async def test_old_events_go_but_not_those_that_are_kept_or_started_a_run_that_is_there(store: Store) -> None:
    for number in range(1, 11):
        await store_all(store, Transition(events=(an_event(number),)))
    await store_all(store, Transition(run=started(50, event=event_key(2), **ENDED)))
    removed, last = await store.remove_events(None, 9, {event_key(4)}, 5, NOW)
    assert (removed, last) == (3, event_key(5))
    assert await store.remove_events(last, 9, {event_key(4)}, 5, NOW) == (3, None)
    left = [event.key for event in await store.events(EventQuery(DEV_ENV, limit=100))]
    assert left == [event_key(number) for number in (10, 9, 4, 2)]
    assert await store.event_by_id(DEV_ENV, "internal-1") is None
    assert [event.key for event in await store.events_since(DEV_ENV, "order/placed", 0, 100)] == left[::-1]
    await store.remove_runs([run_id(50)], NOW)
    assert (await store.remove_events(None, 9, (), 5, NOW))[0] == 2


async def test_what_jobs_have_yet_to_look_at_is_told(store: Store) -> None:
    assert await store.awaited_events() == (set(), None)
    match = a_job("a.match", None, kind=JobKind.MATCH, keys=(event_key(1), event_key(2)))
    looks = [a_job(f"{n}.look", 1, kind=JobKind.LOOK, since=n) for n in (30, 20)]
    await store_all(store, Transition(run=started(1), jobs=(match, *looks, a_job("c", 1))))
    assert await store.awaited_events() == ({event_key(1), event_key(2)}, 20)


async def test_keys_go_when_they_have_expired(store: Store) -> None:
    keys = [Unique("e", f"k{n}", "v", until) for n, until in enumerate((10, 20, 30))]
    await store_all(store, Transition(unique=tuple(keys)))
    assert (await tidied(store, now=20)).keys == 2
    assert (await tidied(store, now=20)).keys == 0
    taken = [await store.commit(Transition(unique=(key,), now=15)) == COMMITTED for key in keys]
    assert taken == [True, True, False]


@pytest.mark.parametrize("size", [20_000, 300_000])
async def test_a_text_goes_a_while_after_the_last_that_referred_to_it(store: Store, clock: Clock, size: int) -> None:
    text, unused = os.urandom(size), os.urandom(size)
    blob = blob_of(text)
    step_done = StepCompleted(step=step(1), output=blob)
    wake = a_job("wake", 3, kind=JobKind.WAKE, output=blob)
    clock.at = 0
    await store_all(
        store,
        Transition(run=started(1, step_done, **ENDED), blobs=((blob, text), (blob_of(unused), unused))),
        Transition(events=(an_event(2, body=blob),)),
        Transition(run=started(3), jobs=(wake,)),
    )
    assert (await tidied(store, now=0, loose_before=-1)).blobs == 0
    assert (await tidied(store, now=1, loose_before=0)).blobs == 1
    assert not await has(store, unused)
    await store.remove_runs([run_id(1)], 100)
    await tidied(store, now=1000, loose_before=1000)
    assert await has(store, text)  # an event refers to it
    await store.remove_events(None, 100, (), 100, 1100)
    await tidied(store, now=2000, loose_before=2000)
    assert await has(store, text)  # a job of a live run does
    end = RunWrite(a_row(3, 2, **ENDED), 1, (RunCompleted(output=blob),))
    await store_all(store, Transition(run=end, drop_jobs=(JobId("wake"),)))
    await store.remove_runs([run_id(3)], 3000)
    await tidied(store, now=3000, loose_before=2999)
    assert await has(store, text)  # for a while
    await store_all(store, Transition(run=started(4, step_done)))  # named again, by hash alone
    await tidied(store, now=4000, loose_before=4000)
    assert await has(store, text)
    await store_all(store, Transition(run=moved(4, 2, "end", **ENDED)))
    await store.remove_runs([run_id(4)], 5000)
    await tidied(store, now=6000, loose_before=5999)
    assert (await tidied(store, now=7000, loose_before=6000)).blobs + (not await has(store, text)) > 0
    assert not await has(store, text)


class History:
    """Anything that may happen to a few texts, decided by a seed. Knows nothing of how a store keeps count."""

    def __init__(self, store: Store, clock: Clock, seed: int) -> None:
        self.store, self.clock, self.random = store, clock, random.Random(seed)
        self.texts = [b"%d %d " % (seed, n) + bytes(size) for n, size in enumerate((20_000, 30_000, 40_000, 300_000))]
        self.fresh = 0
        self.live: dict[int, int] = {}
        self.ended: list[int] = []
        self.events: list[int] = []
        self.jobs: list[str] = []
        self.carried: list[tuple[int, str]] = []
        """By a job of a run; such a text may stay until the run goes, where it went on to be as a rule."""

    def blob(self) -> tuple[Blob, tuple[tuple[Blob, bytes], ...]]:
        text = self.random.choice(self.texts)
        return blob_of(text), ((blob_of(text), text),)

    async def step(self) -> None:
        choose = self.random
        self.clock.at += choose.randint(0, 3)
        self.fresh += 1
        blob, blobs = self.blob()
        match choose.randint(0, 8):
            case 0:
                number = self.fresh
                run = started(number, StepCompleted(step=step(1), output=blob))
                await store_all(self.store, Transition(run=run, blobs=blobs))
                self.live[number] = 2
            case 1 if self.live:
                number = choose.choice(list(self.live))
                seq = self.live.pop(number)
                end = RunWrite(a_row(number, seq + 1, **ENDED), seq, (RunCompleted(output=blob),))
                await store_all(self.store, Transition(run=end, blobs=blobs, drop_all_of=run_id(number)))
                self.ended.append(number)
            case 2:
                self.events.append(self.fresh)
                await store_all(self.store, Transition(events=(an_event(self.fresh, body=blob),), blobs=blobs))
            case 3 if self.live:
                name = f"j{self.fresh}"
                self.jobs.append(name)
                number = choose.choice(list(self.live))
                self.carried.append((number, blob.hash))
                wake = a_job(name, number, kind=JobKind.WAKE, output=blob)
                await store_all(self.store, Transition(jobs=(wake,), blobs=blobs))
            case 4 if self.jobs:
                await store_all(self.store, Transition(drop_jobs=(JobId(choose.choice(self.jobs)),)))
            case 5 if self.ended:
                gone = choose.sample(self.ended, min(2, len(self.ended)))
                await self.store.remove_runs([run_id(number) for number in gone], self.clock.at)
            case 6:
                await self.store.remove_events(None, choose.randint(0, self.fresh + 1), (), 3, self.clock.at)
            case 7:
                refused = await self.store.commit(Transition(ends=(Claim(JobId("none"), 1),), blobs=blobs))
                assert refused != COMMITTED
            case _:
                await self.store.tidy(self.clock.at, self.clock.at)

    async def referred_to(self) -> dict[str, Blob]:
        """By everything that is there."""
        found: dict[str, Blob] = {}
        values: list[Any] = list(await self.store.events(EventQuery(DEV_ENV, limit=1000)))
        for number in range(self.fresh + 1):
            stored = await self.store.load_run(run_id(number))
            values += () if stored is None else stored.entries
            values += await self.store.jobs_of(run_id(number))
        for value in values:
            found |= {blob.hash: blob for blob in blobs_of(value)}
        return found


async def play(place: str, directory: Path, seed: int, steps: int) -> None:
    """`place` is `memory`, `sqlite` or the URL of a database."""
    clock = Clock()
    store: Store
    if place == "memory":
        store = MemoryStore(clock)
    elif place == "sqlite":
        store = SqliteStore(directory, clock, orphan_age_s=0)
    else:
        store = PostgresStore(place, clock)
    await store.open()
    try:
        history = History(store, clock, seed)
        for _ in range(steps):
            await asyncio.gather(*[history.step() for _ in range(3)])
            await store.read_blobs(list((await history.referred_to()).values()))  # none of these is missing
        clock.at += 100
        await tidied(store, clock.at, clock.at)
        for _ in range(257):  # all folders of files
            await tidied(store, clock.at, clock.at)
            if not isinstance(store, SqliteStore):
                break
        left = {blob_of(text).hash for text in history.texts if await has(store, text)}
        needed = set(await history.referred_to())
        assert needed <= left
        assert left <= needed | {hash for run, hash in history.carried if await store.run_row(run_id(run)) is not None}
        if isinstance(store, SqliteStore):
            files = {path.parent.name + path.name for path in (directory / "blobs").rglob("*") if path.is_file()}
            assert files <= left
            assert await store._read.ask(uses_without_holder) == []
    finally:
        await store.close()


def uses_without_holder(on: sqlite3.Connection) -> list[str]:
    return on.execute(
        "SELECT holder FROM blob_use WHERE holder NOT IN (SELECT id FROM run) AND holder NOT IN (SELECT key FROM event)"
    ).fetchall()


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_texts_in_use_stay_and_others_go(
    kind: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await play(place_of(kind, request), tmp_path, seed, 40)


def place_of(kind: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("postgres_url")) if kind == "postgres" else kind


@pytest.mark.long
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("seed", range(100, 115))
async def test_whatever_happens_for_long_texts_in_use_stay_and_others_go(
    kind: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await play(place_of(kind, request), tmp_path, seed, 100)


# of SQLite alone


async def test_a_file_without_a_row_goes_when_it_is_old(tmp_path: Path, clock: Clock) -> None:
    store = SqliteStore(tmp_path, clock)
    await store.open()
    text, orphan, young = bytes(300_000), os.urandom(300_000), os.urandom(300_001)
    done = StepCompleted(step=step(1), output=blob_of(text))
    await store_all(store, Transition(run=started(1, done), blobs=((blob_of(text), text),)))
    for one in (orphan, young):
        store._files.write(blob_of(one).hash, one)
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file() and path.stat().st_size == 300_000:
            os.utime(path, (time.time() - 7200,) * 2)
    for _ in range(256):
        await store.tidy(NOW, 0)
    left = sorted(path.parent.name + path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    assert left == sorted(blob_of(one).hash for one in (text, young))
    await store.close()


async def test_a_text_that_is_stored_again_while_it_is_swept_survives(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "BLOB_IN_TABLE_BYTES", 100)  # every text a file
    store = SqliteStore(tmp_path, clock)
    await store.open()
    for number in range(1, 20):
        text = bytes(20_000)
        done = StepCompleted(step=step(1), output=blob_of(text))
        naming = Transition(run=started(number, done, **ENDED), blobs=((blob_of(text), text),))
        results = await asyncio.gather(store.tidy(10_000, 10_000), store.commit(naming), store.tidy(10_000, 10_000))
        assert results[1] == COMMITTED
        assert await has(store, text)
        assert await store.remove_runs([run_id(number)], 0) == ([run_id(number)], 1)
    await store.close()


async def test_a_database_from_before_finds_out_who_refers_to_its_texts(tmp_path: Path, clock: Clock) -> None:
    store = SqliteStore(tmp_path, clock)
    await store.open()
    texts = [os.urandom(20_000) for _ in range(4)]
    in_run, in_event, in_job, _ = texts
    await store_all(
        store,
        Transition(
            run=started(1, StepCompleted(step=step(1), output=blob_of(in_run))),
            events=(an_event(1, body=blob_of(in_event)),),
            jobs=(a_job("wake", 1, kind=JobKind.WAKE, output=blob_of(in_job)),),
            blobs=tuple((blob_of(text), text) for text in texts),
        ),
        *[Transition(run=started(number)) for number in range(2, 300)],
        *[Transition(events=(an_event(number),)) for number in range(2, 300)],
    )
    await store.close()
    with sqlite3.connect(tmp_path / "stepwell.db") as database:
        database.executescript("DELETE FROM blob_use; DELETE FROM loose_blob")
        database.execute("INSERT INTO meta VALUES ('uses_to_find', 'run ')")
    database.close()
    pieces = 0
    while True:  # with a restart after each piece
        store = SqliteStore(tmp_path, clock)
        await store.open()
        piece = await store.tidy(NOW, 0)
        if not piece.more:
            break
        pieces += 1
        await store.close()
    assert pieces >= 3
    assert (await tidied(store, NOW, NOW)).blobs == 1
    assert [await has(store, text) for text in texts] == [True, True, True, False]
    await store.close()
