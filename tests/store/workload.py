"""A small workload that a child process runs until it is killed, and what must hold in the directory afterwards.

Run as a program it reads lines `DIRECTORY <tab> POINT <tab> NTH` and forks for each: that child dies at the NTH pass of
the point with that name (`list` dies nowhere and writes the names it passed, `-` is no point). Each child writes a line
to `DIRECTORY.out` for every transition that the store acknowledged. When it is dead its line comes back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell.model.credential import Credential
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Service, Transport
from stepwell.model.ids import JobId
from stepwell.model.job import Claim, RunStatus, Slot
from stepwell.model.journal import Noted, RunCompleted
from stepwell.model.payload import Blob, blob_of
from stepwell.store.base import COMMITTED, Committed, Node, Record, RunWrite, Transition, Unique
from stepwell.store.sqlite import SqliteStore
from tests.store.cases import a_job, a_row, a_wait, an_event, event_key, moved, run_id, started, step

if TYPE_CHECKING:
    import sqlite3

    from stepwell.model.ids import RunId
    from stepwell.model.job import Job

RUNS = 6
STEPS = 3
LARGE = bytes(300_000)
LONG = 1200


async def work(store: SqliteStore) -> None:
    """Uses every kind of statement. Each transition has a name, told when it is acknowledged."""
    node = Node("alpha", 1, 10**15)
    await store.heartbeat(node)
    await store.put_service(Service(name="shop", transport=Transport.HTTP))
    told("service")
    await _credentials(store)
    await _records(store)
    await asyncio.gather(*[_run(store, number) for number in range(1, RUNS + 1)])
    await _slots(store, node)
    for job in await store.claim_due(node, 10_000, 100):
        told(f"claimed {job.id} {job.fence}")
        await store.release([Claim(job.id, job.fence)])
    await store.heartbeat(Node("alpha", 2, 10**15))
    await store.release_lost(0)
    await store.remove_service(DEV_ENV, "shop")
    told("no service")
    await _remove(store)


async def _credentials(store: SqliteStore) -> None:
    first, second = Credential(name="mail", query="key"), Credential(name="mail")
    assert await store.put_credential(first)
    told("first credential")
    assert await store.put_credential(second, over=first)
    told("second credential")
    assert await store.put_credential(Credential(name="gone"))
    assert await store.remove_credential(DEV_ENV, "gone")
    told("no credential")


async def _records(store: SqliteStore) -> None:
    first = Record(env=DEV_ENV, kind="thing", key="one", value=b"1")
    assert await store.put_record(first)
    told("first record")
    assert await store.put_record(replace(first, value=b"2", revision=2))
    told("second record")
    assert await store.put_record(replace(first, key="gone"))
    assert await store.remove_record(DEV_ENV, "thing", "gone")
    told("no record")


async def _slots(store: SqliteStore, node: Node) -> None:
    """Jobs that wait for one another in every way; none is left in the end."""
    await commit(store, "limited run", Transition(run=started(30)))
    slots = (Slot("k", 1), Slot("l", 2))
    names = ("30:a", "30:b", "30:c")
    jobs = [a_job(name, 30, slots=slots, rank=1, owner="alpha") for name in names]
    later = a_job("30:later", 30, due=0, slots=slots, later=True)
    assert await store.commit(Transition(jobs=(*jobs, later))) == Committed((JobId("30:b"), JobId("30:c")))
    (asks,) = await store.claim_due(node, 0, 1)
    asked = Transition(holds=(Claim(asks.id, asks.fence),), enter=(asks,))
    assert await store.commit(asked) == Committed((asks.id,))
    await commit(store, "let in", Transition(ends=(Claim(JobId("30:a"), 1),)))
    await commit(store, "all gone", Transition(drop_all_of=run_id(30)))
    asks = await _claimed_later(store, node, slots)
    await commit(store, "through", Transition(holds=(Claim(asks.id, asks.fence),), enter=(asks,)))
    await commit(store, "nobody waits", Transition(drop_all_of=run_id(30)))


async def _claimed_later(store: SqliteStore, node: Node, slots: tuple[Slot, ...]) -> Job:
    await commit(store, "once more", Transition(jobs=(a_job("30:again", 30, due=0, slots=slots, later=True),)))
    (job,) = await store.claim_due(node, 0, 1)
    return job


async def _remove(store: SqliteStore) -> None:
    """Two runs, one of them long, and an event come and go with the texts they refer to."""
    blob, text = blob_of(LARGE), LARGE
    output = RunCompleted(output=blob)
    ended = {"status": RunStatus.COMPLETED}
    long = RunWrite(a_row(21, LONG, **ended), 0, (*started(21).entries, *[Noted(kind="log", text="")] * (LONG - 1)))
    for run in (started(20, output, **ended), long):
        await commit(store, "to go", Transition(run=run, blobs=((blob, text),)))
    await commit(store, "to go", Transition(events=(an_event(20, body=blob),)))
    await store._write.run(lambda on: on.connection.execute("INSERT INTO meta VALUES ('uses_to_find', 'run ')"))
    while (await store.tidy(10**14, 0)).more:
        pass
    await store.remove_runs([run_id(20), run_id(21)], 5)
    told("removed")
    await store.remove_events(event_key(19), 100, (), 10, 5)
    while (await store.tidy(100, 100)).more:
        pass
    told("tidied")


async def _run(store: SqliteStore, number: int) -> None:
    text = LARGE + str(number).encode()
    await commit(
        store,
        f"start {number}",
        Transition(
            run=started(number),
            jobs=(a_job(f"{number}:0", number, owner="alpha"), a_job(f"{number}:timer", number)),
            waits=(a_wait(number, 1), a_wait(number, 2)),
            events=(an_event(number),),
            blobs=((blob_of(text), text), (blob_of(b"small"), b"small")),
            unique=(Unique(DEV_ENV, f"k{number}", "v", 10), Unique(DEV_ENV, f"l{number}", "v", 0)),
            now=1,
        ),
    )
    for i in range(STEPS):
        await commit(
            store,
            f"step {number} {i}",
            Transition(
                run=moved(number, 1 + i, f"step {i}"),
                ends=(Claim(JobId(f"{number}:{i}"), 1),),
                jobs=(a_job(f"{number}:{i + 1}", number, owner="alpha"),),
                drop_waits=((run_id(number), step(1)),),
            ),
        )
    if number % 2:
        end = moved(number, 1 + STEPS, "end", status=RunStatus.COMPLETED)
        ends = (Claim(JobId(f"{number}:{STEPS}"), 1),)
        await commit(store, f"end {number}", Transition(run=end, ends=ends, drop_all_of=run_id(number)))


async def commit(store: SqliteStore, name: str, transition: Transition) -> None:
    assert await store.commit(transition) == COMMITTED
    told(name)


def told(what: str) -> None:
    os.write(1, f"{what}\n".encode())  # one write, so that a kill cannot leave half a line


async def check(store: SqliteStore, acknowledged: set[str]) -> None:
    """What was acknowledged is there; what was not is there whole or not at all."""
    assert await store.stray_rows(100) == []
    for number in range(1, RUNS + 1):
        await _check_run(store, number, acknowledged)
    assert bool(await store.services()) <= ("no service" not in acknowledged)
    credentials = {one.name: one for one in await store.credentials()}
    if "first credential" in acknowledged:
        assert credentials["mail"] in (Credential(name="mail", query="key"), Credential(name="mail"))
    if "second credential" in acknowledged:
        assert credentials["mail"] == Credential(name="mail")
    assert "gone" not in credentials or "no credential" not in acknowledged
    records = {one.key: (one.value, one.revision) for one in await store.records(DEV_ENV, "thing")}
    if "first record" in acknowledged:
        assert records["one"] in ((b"1", 1), (b"2", 2))
    if "second record" in acknowledged:
        assert records["one"] == (b"2", 2)
    assert "gone" not in records or "no record" not in acknowledged
    assert (await store.run_row(run_id(21)) is None) or "removed" not in acknowledged
    for number in (20, 21):
        stored = await store.load_run(run_id(number))
        if stored is not None:
            assert len(stored.entries) == stored.row.seq
            outputs = [entry.output for entry in stored.entries if isinstance(entry, RunCompleted)]
            assert await store.read_blobs([one for one in outputs if isinstance(one, Blob)]) == [LARGE] * len(outputs)
    while (await store.tidy(10**14, 500)).more:
        pass
    left = 0 if "removed" not in acknowledged else await store._read.ask(_entries_of_removed)
    assert left == 0
    if "service" in acknowledged and not any(line.startswith("claimed") for line in acknowledged):
        assert await store.services()


def _entries_of_removed(on: sqlite3.Connection) -> int:
    (count,) = on.execute("SELECT count(*) FROM entry WHERE run IN (?, ?)", (run_id(20), run_id(21))).fetchone()
    assert isinstance(count, int)
    return count


async def _check_run(store: SqliteStore, number: int, acknowledged: set[str]) -> None:
    run: RunId = run_id(number)
    stored = await store.load_run(run)
    jobs = {job.id for job in await store.jobs_of(run)}
    waits = {wait.step for wait in await store.waits_of(run)}
    if stored is None:
        assert not {name for name in acknowledged if name.split()[:2] == ["start", str(number)]}
        assert (jobs, waits) == (set(), set())
        assert await store.read_events([event_key(number)]) == []
        return
    seq = stored.row.seq
    assert len(stored.entries) == seq
    known = sum(name.split()[0] in ("start", "step", "end") and name.split()[1] == str(number) for name in acknowledged)
    assert known <= seq
    text = LARGE + str(number).encode()
    assert await store.read_blobs([blob_of(text), blob_of(b"small")]) == [text, b"small"]
    assert await store.read_events([event_key(number)]) == [an_event(number)]
    if stored.row.status is RunStatus.COMPLETED:
        assert (seq, jobs, waits) == (2 + STEPS, set(), set())
    else:
        assert jobs == {f"{number}:{seq - 1}", f"{number}:timer"}
        assert waits == ({step(2)} if seq > 1 else {step(1), step(2)})


class Point:
    """Dies at a named point, as by SIGKILL: no handler, no flush, no goodbye."""

    def __init__(self, name: str, nth: int) -> None:
        self._name = name
        self._left = nth
        self.names: dict[str, int] = {}

    def __call__(self, name: str) -> None:
        self.names[name] = self.names.get(name, 0) + 1
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


async def main(directory: str, name: str, nth: int) -> None:
    point = Point(name, nth)
    store = SqliteStore(directory, point=point)
    await store.open()
    await work(store)
    await store.close()
    if name == "list":
        for passed, count in point.names.items():
            told(f"{passed}\t{count}")


def fork(directory: str, name: str, nth: int) -> int:
    """Run the workload in a child until it dies; its exit code, negative when it was killed."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"{directory}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        asyncio.run(main(directory, name, nth))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        asked_directory, asked_name, asked_nth = line.rstrip("\n").split("\t")
        print(fork(asked_directory, asked_name, int(asked_nth)), flush=True)
