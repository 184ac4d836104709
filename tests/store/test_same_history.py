"""Two stores given the same history answer alike and hold the same, row by row.

Hypothesis makes up the history and shortens the one that tells them apart. Memory is the meaning of the interface, so
the other store is the one that is wrong.
"""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stepwell.model.credential import Credential
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Service, Transport
from stepwell.model.ids import JobId
from stepwell.model.job import Claim, RunStatus
from stepwell.model.payload import blob_of
from stepwell.store.base import EventQuery, Node, Record, RunQuery, Transition, Unique
from stepwell.store.memory import MemoryStore
from stepwell.store.postgres import PostgresStore
from stepwell.store.sqlite import SqliteStore
from tests.postgres import empty
from tests.store.cases import (
    Clock,
    a_job,
    a_wait,
    an_event,
    contents,
    event_key,
    moved,
    run_id,
    started,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from stepwell.model.ids import RunId, StepId
    from stepwell.model.job import Wait
    from stepwell.store.base import Store

RUNS = range(1, 5)
ENVS = (DEV_ENV, "other")
PATHS = (None, "data.a", "data.\0", "b" * 2000)

numbers = st.sampled_from(RUNS)
steps = st.integers(1, 30)
paths = st.sampled_from(PATHS)
VALUES = (None, "1", "a\0\1", "é" * 2000)  # some are not fit for every database's indexes
values = st.sampled_from(VALUES)
envs = st.sampled_from(ENVS)
names = st.sampled_from(["alpha", "beta"])
statuses = st.sampled_from([RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.FAILED])
moments = st.integers(0, 60)
routes = st.sampled_from([None, (), ("r",), ("s", "r")])


class SameHistory(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.memory = MemoryStore(self.clock)
        self.other = self.make()
        self.fresh = 0
        self.at = 0
        self.endings: dict[int, RunStatus] = {}
        self.jobs: list[str] = []
        self.claims: list[Claim] = []
        self.waits: list[tuple[int, int]] = []
        self.seqs: dict[int, int] = {}
        self.do(self.other.open())

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.do(self.other.close())
            self.directory.cleanup()
            self.loop.close()

    def make(self) -> Store:
        """The store that is compared, empty and closed."""
        raise NotImplementedError

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def both(self, ask: Callable[[Store], Awaitable[Any]]) -> Any:
        async def compared() -> Any:
            expected, got = await ask(self.memory), await ask(self.other)
            assert got == expected
            return expected

        return self.do(compared())

    def transition(self, data: st.DataObject) -> Transition:
        """Anything a correct caller may ask for. Ids are used once; a group need not notice more."""
        draw = data.draw
        number = draw(numbers)
        run = None
        if draw(st.booleans()):
            seq = self.seqs.get(number, 0)
            if draw(st.integers(0, 9)) == 0:
                seq = draw(st.integers(0, 4))
            status = self.endings.get(number) or draw(statuses)
            if status.final:
                self.endings[number] = status  # it never changes
            run = moved(number, seq, "x", status=status) if seq else started(number, status=status)
        jobs = []
        for _ in range(draw(st.integers(0, 2))):
            self.fresh += 1
            owner = draw(st.sampled_from([None, None, "alpha", "beta"]))
            route = draw(st.sampled_from([None, None, "r", "s"]))
            job = a_job(f"j{self.fresh}", draw(st.none() | numbers), due=draw(moments), owner=owner, route=route)
            jobs.append(job)
        self.jobs += [job.id for job in jobs]
        self.claims += [Claim(job.id, 1) for job in jobs]
        known = [*self.claims, Claim(JobId("none"), 1)]
        held = draw(st.lists(st.sampled_from(known), max_size=1))
        ended = draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
        dropped = draw(st.lists(st.sampled_from(["none", *self.jobs]), max_size=1))
        new = {job.id for job in jobs}
        dropped_waits = draw(st.lists(st.sampled_from([(1, 0), *self.waits]), max_size=2))
        all_of = draw(st.none() | st.none() | numbers)
        waits = []
        for run_number, path, value, env in draw(st.lists(st.tuples(numbers, paths, values, envs), max_size=2)):
            self.fresh += 1
            self.waits.append((run_number, self.fresh))
            waits.append(a_wait(run_number, self.fresh, path=path, value=value, env=env))
        self.fresh += 1
        events = [an_event(self.fresh, draw(st.sampled_from(["a", "b"])), internal_id=draw(st.sampled_from("xy")))]
        self.at += draw(st.integers(0, 1))  # a store may forget a key that has expired: its time never goes back
        until = self.at + draw(st.integers(0, 3))
        keys = [Unique("e", draw(st.sampled_from("pq")), f"by {self.fresh}", until)]
        return Transition(
            run=run,
            holds=tuple(claim for claim in held if claim.job not in new),
            ends=tuple(claim for claim in ended if claim.job not in new),
            jobs=tuple(jobs),
            drop_jobs=tuple(JobId(job) for job in dropped if job not in new),
            waits=tuple(waits),
            drop_waits=tuple((run_id(run), step(at)) for run, at in dropped_waits),
            drop_all_of=None if all_of is None else run_id(all_of),
            events=tuple(events) if draw(st.booleans()) else (),
            unique=tuple(keys) if draw(st.integers(0, 3)) == 0 else (),
            now=self.at,
            blobs=((blob_of(b"text"), b"text"),) if draw(st.booleans()) else (),
        )

    def commit_to_memory(self, transition: Transition) -> Any:
        try:
            outcome: object = self.memory.apply(transition)
        except AssertionError:
            return AssertionError
        return outcome

    @rule(data=st.data())
    def commit_together(self, data: st.DataObject) -> None:
        """Several at once, which is one group in the database."""
        group = [self.transition(data) for _ in range(data.draw(st.integers(1, 4)))]
        expected = [self.commit_to_memory(transition) for transition in group]

        async def commit() -> list[Any]:
            return await asyncio.gather(*map(self.other.commit, group), return_exceptions=True)

        got = [AssertionError if isinstance(found, AssertionError) else found for found in self.do(commit())]
        assert got == expected
        for number in RUNS:
            row = self.memory.run_rows.get(run_id(number))
            self.seqs[number] = 0 if row is None else row.seq

    @rule(name=names, epoch=st.integers(1, 2), now=moments, limit=st.integers(1, 4), routes=routes)
    def claim(self, name: str, epoch: int, now: int, limit: int, routes: tuple[str, ...] | None) -> None:
        self.both(lambda store: store.next_due(routes))
        claimed = self.both(lambda store: store.claim_due(Node(name, epoch, 0), now, limit, routes))
        self.claims += [Claim(job.id, job.fence) for job in claimed]

    @rule(name=names, epoch=st.integers(1, 2), until=moments)
    def heartbeat(self, name: str, epoch: int, until: int) -> None:
        self.both(lambda store: store.heartbeat(Node(name, epoch, until)))

    @rule(now=moments)
    def release_lost(self, now: int) -> None:
        self.both(lambda store: store.release_lost(now))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claims = data.draw(st.lists(st.sampled_from([*self.claims, Claim(JobId("none"), 1)]), max_size=3))
        self.both(lambda store: store.release(claims))

    @rule(env=envs, name=st.sampled_from("st"), put=st.booleans(), at=moments)
    def service(self, env: str, name: str, put: bool, at: int) -> None:
        service = Service(name=name, env=env, transport=Transport.HTTP, registered_at=at)
        if put:
            self.both(lambda store: store.put_service(service))
        else:
            self.both(lambda store: store.remove_service(env, name))

    @rule(env=envs, name=st.sampled_from("cd"), change=st.sampled_from(["put", "replace", "remove"]), at=moments)
    def credential(self, env: str, name: str, change: str, at: int) -> None:
        credential = Credential(name=name, env=env, sealed=b"v", changed_at=at % 2)
        if change == "remove":
            self.both(lambda store: store.remove_credential(env, name))
        else:
            over = Credential(name=name, env=env, sealed=b"v", changed_at=1) if change == "replace" else None
            self.both(lambda store: store.put_credential(credential, over=over))

    @rule(env=envs, key=st.sampled_from(["a", "a/1", "b"]), revision=st.integers(1, 3), at=moments)
    def put_record(self, env: str, key: str, revision: int, at: int) -> None:
        record = Record(env=env, kind="thing", key=key, value=b"%d" % at, revision=revision, at=at)
        self.both(lambda store: store.put_record(record))

    @rule(env=envs, key=st.sampled_from(["a", "a/1"]), revision=st.none() | st.integers(1, 3))
    def remove_record(self, env: str, key: str, revision: int | None) -> None:
        self.both(lambda store: store.remove_record(env, "thing", key, revision))

    @rule(data=st.data())
    def list_runs(self, data: st.DataObject) -> None:
        draw = data.draw
        some = st.none() | st.lists(statuses, max_size=2, unique=True).map(tuple)
        query = RunQuery(
            DEV_ENV,
            functions=draw(st.none() | st.just(("shop-order",)) | st.just(("none", "shop-order"))),
            statuses=draw(some),
            created_from=draw(st.none() | st.integers(100, 105)),
            before=draw(st.none() | numbers.map(run_id)),
            limit=draw(st.integers(1, 3)),
            ascending=draw(st.booleans()),
        )
        self.both(lambda store: store.runs(query))
        self.both(lambda store: store.count_runs(query))

    @rule(since=st.integers(0, 30), name=st.sampled_from("ab"), limit=st.integers(1, 5))
    def look_back(self, since: int, name: str, limit: int) -> None:
        self.both(lambda store: store.events_since(DEV_ENV, name, since, limit))
        self.both(lambda store: store.event_by_id(DEV_ENV, "x"))
        self.both(lambda store: store.events(EventQuery(DEV_ENV, names=(name,), limit=limit, before=event_key(since))))

    @rule(env=envs, after=st.none() | st.tuples(numbers, steps))
    def find_waits(self, env: str, after: tuple[int, int] | None) -> None:
        place = None if after is None else (run_id(after[0]), step(after[1]))
        self.both(lambda store: store.wait_paths(env, "order/paid"))
        for path, value in product(PATHS, VALUES):
            self.both(partial(_waits_for, env, path, value, place))

    @invariant()
    def the_same_rows(self) -> None:
        if hasattr(self, "other"):
            self.both(lambda store: contents(store, [run_id(number) for number in RUNS], ENVS))


async def _waits_for(
    env: str, path: str | None, value: str | None, after: tuple[RunId, StepId] | None, store: Store
) -> list[Wait]:
    return await store.waits_for(env, "order/paid", path, value, after, 2)


# Its own loop, and SQLite with real syncs: a few histories each time, many in the long run.
QUICK = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
LONG = settings(max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


class SqliteHistory(SameHistory):
    def make(self) -> Store:
        return SqliteStore(self.directory.name, self.clock)


class PostgresHistory(SameHistory):
    url: str

    def make(self) -> Store:
        empty(self.url)
        return cast("Store", PostgresStore(self.url, self.clock))


@pytest.fixture
def history(request: pytest.FixtureRequest) -> type[SameHistory]:
    if request.param == "sqlite":
        return SqliteHistory
    PostgresHistory.url = request.getfixturevalue("postgres_url")
    return PostgresHistory


@pytest.mark.parametrize("history", ["sqlite", "postgres"], indirect=True)
def test_it_agrees_with_memory(history: type[SameHistory]) -> None:
    history.TestCase.settings = QUICK
    history.TestCase("runTest").runTest()


@pytest.mark.long
@pytest.mark.parametrize("history", ["sqlite", "postgres"], indirect=True)
def test_it_agrees_with_memory_for_long(history: type[SameHistory]) -> None:
    history.TestCase.settings = LONG
    history.TestCase("runTest").runTest()
