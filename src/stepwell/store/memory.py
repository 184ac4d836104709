"""A store in plain dicts, for tests and the simulator: the meaning of every method, without a disk.

Nothing here suspends, so a method is atomic by itself and several nodes may share one instance. The work is done by
synchronous methods (`apply`, `claim`, `free_lost` ...); the coroutines of the interface only call them. A simulator
calls them directly and may read the public dicts; it sets `touched` to look at what each transition changed.

Frozen structs are kept as they are given. An index exists wherever the hot path would otherwise search.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from msgspec.structs import replace

from stepwell.model.ids import ulid
from stepwell.model.job import JobKind
from stepwell.store.base import (
    COMMITTED,
    MOST_COUNTED,
    Backlog,
    ClaimLost,
    Committed,
    Duplicate,
    Hint,
    Outcome,
    RunMoved,
    StoredRun,
    Tidied,
)
from stepwell.store.batch import blobs_of
from stepwell.store.slots import Gate, Place, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from stepwell.model.credential import Credential
    from stepwell.model.event import Event
    from stepwell.model.function import Service
    from stepwell.model.ids import EventKey, Instant, JobId, RunId, StepId
    from stepwell.model.job import Claim, Job, RunRow, Wait
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Blob
    from stepwell.store.base import EventQuery, Node, Record, RunQuery, RunWrite, Transition, Unique
    from stepwell.store.clock import Clock
    from stepwell.store.meters import Histogram

Touched: TypeAlias = "Callable[[Transition, list[Job]], None]"
"""Called after a transition was applied, with the jobs that it removed."""

T = TypeVar("T")
K = TypeVar("K")

_WaitKey: TypeAlias = "tuple[str, str]"  # environment, event
_IndexKey: TypeAlias = "tuple[str, str, str | None, str | None]"  # environment, event, path, value


class MemoryStore:
    shared = False

    def __init__(self, clock: Clock, touched: Touched | None = None) -> None:
        self.clock = clock
        self.touched = touched
        self.listeners: list[Callable[[Hint], None]] = []
        """Told at once of everything, also by whoever did it."""
        # For everybody to read and nobody else to change.
        self.run_rows: dict[RunId, RunRow] = {}
        self.journals: dict[RunId, list[Entry]] = {}
        self.job_rows: dict[JobId, Job] = {}
        self.jobs_by_run: dict[RunId, dict[JobId, Job]] = {}
        self.waits_by_run: dict[RunId, dict[StepId, Wait]] = {}
        self.event_rows: dict[EventKey, Event] = {}
        self.blobs: dict[str, bytes] = {}
        self.nodes: dict[str, Node] = {}
        self.unique_keys: dict[tuple[str, str], Unique] = {}
        # Indexes. A job's place in `_due` is valid while the job is unowned and due then; others are skipped.
        self._due: dict[str | None, list[tuple[Instant, JobId]]] = {}  # by route
        self._due_size, self._due_limit = 0, 4096
        self._owned: dict[str, dict[JobId, int]] = {}  # owner -> job -> epoch of the owner
        self._runs_in: dict[str, list[RunId]] = {}
        self._live: dict[RunId, None] = {}
        self._children: dict[RunId, set[RunId]] = {}
        self._started_by: dict[EventKey, set[RunId]] = {}
        self._loose: dict[str, Instant] = {}  # texts that nothing was seen to refer to, and since when
        self._wait_index: dict[_IndexKey, list[tuple[RunId, StepId]]] = {}
        self._wait_paths: dict[_WaitKey, dict[str | None, int]] = {}
        self._events_in: dict[str, list[EventKey]] = {}
        self._events_named: dict[_WaitKey, list[tuple[Instant, EventKey]]] = {}
        self._events_with_id: dict[tuple[str, str], list[EventKey]] = {}
        self._expiring: list[tuple[Instant, str, str]] = []
        self._services: dict[tuple[str, str], Service] = {}
        self.book = MemoryBook()
        self._credentials: dict[tuple[str, str], Credential] = {}
        self._records: dict[tuple[str, str], dict[str, Record]] = {}
        self._record_keys: dict[tuple[str, str], list[str]] = {}  # sorted

    # transitions

    def apply(self, transition: Transition) -> Outcome:
        """`commit`, at once."""
        jobs = self.job_rows
        for claims in (transition.ends, transition.holds):
            for claim in claims:
                held = jobs.get(claim.job)
                if held is None or held.fence != claim.fence or held.owner is None:
                    return ClaimLost(claim.job)
        write = transition.run
        if write is not None:
            journal = self.journals.get(write.row.id)
            if (journal is None) if write.expected_seq else (journal is not None):
                return RunMoved(write.row.id)
            if journal is not None and len(journal) != write.expected_seq:
                return RunMoved(write.row.id)
        for key in transition.unique:
            taken = self.unique_keys.get((key.env, key.key))
            if key.replaces is not None:
                if taken is None or taken.value != key.replaces:
                    return Duplicate(key.key, "" if taken is None else taken.value)
            elif taken is not None and taken.until > transition.now:
                return Duplicate(key.key, taken.value)
        self._check_new(transition)

        touched, book = self.touched, self.book
        removed: list[Job] | None = None if touched is None and not book.places else []
        for claim in transition.ends:
            self._remove_job(claim.job, removed)
        for job_id in transition.drop_jobs:
            self._remove_job(job_id, removed)
        for run, step in transition.drop_waits:
            self._remove_wait(run, step)
        if transition.drop_all_of is not None:
            self._remove_all_of(transition.drop_all_of, removed)
        if write is not None:
            self._write_run(write)
        entering: list[Job] = []
        for job in transition.jobs:
            self._add_job(job)
            if job.slots and not job.later:
                entering.append(job)
        entering += transition.enter
        parked: tuple[JobId, ...] = ()
        if entering or (removed and book.places):
            parked = self._settle(removed or (), entering)
        for wait in transition.waits:
            self._add_wait(wait)
        for event in transition.events:
            self._add_event(event)
        for key in transition.unique:
            self._take_key(key, transition.now)
        for blob, text in transition.blobs:
            self.blobs[blob.hash] = text
        if touched is not None and removed is not None:
            touched(transition, removed)
        if self.listeners:
            now = self.clock.now()
            left = [job.route for job in transition.jobs if job.owner is None and job.due <= now]
            routes = tuple(set(left)) if left else ()
            if write is not None or routes:
                self._tell(Hint(runs=() if write is None else (write.row.id,), routes=routes))
        return Committed(parked) if parked else COMMITTED

    def _settle(self, removed: Iterable[Job], entering: list[Job]) -> tuple[JobId, ...]:
        """Pass on the slots of jobs that are gone, and let others in. Returns those of `entering` that are parked."""
        gone = [place for job in removed if (place := self.book.places.pop(job.id, None)) is not None]
        for place in gone:
            self.book.leave_line(place)
        if not gone and not entering:
            return ()
        settled = settle(self.book, gone, entering)
        for job in entering:
            parked = job.id in settled.parked
            job = self.job_rows[job.id]
            # Nobody was told of a claim that it was born with; one that was made by a search stays on record.
            asked = job.asked(parked=parked) if job.later else replace(job, fence=0) if parked else job
            if parked and job.owner is not None:
                del self._owned[job.owner][job.id]
                asked = replace(asked, owner=None)
            self._replace_job(asked)
            if not parked and job.owner is None:
                self._push_due(asked)
        for place in settled.admitted:
            self._push_due(self.job_rows[place.job])
        if settled.admitted and self.listeners:
            self._tell(Hint(routes=tuple({place.route for place in settled.admitted}), admitted=True))
        return tuple(job.id for job in entering if job.id in settled.parked)

    def is_parked(self, job: JobId) -> bool:
        """Whether a job waits for a slot."""
        place = self.book.places.get(job)
        return place is not None and place.line is not None

    def _tell(self, hint: Hint) -> None:
        for listener in tuple(self.listeners):
            listener(hint)

    def _check_new(self, transition: Transition) -> None:
        """Ids are never used twice; who does so has a bug, and nothing may be stored."""
        if (write := transition.run) is not None:
            seq = write.expected_seq + len(write.entries)
            assert write.row.seq == seq > 0, f"run {write.row.id}: seq does not count its entries"
        for job in transition.jobs:
            assert job.id not in self.job_rows, f"job {job.id} exists already"
        for wait in transition.waits:
            steps = self.waits_by_run.get(wait.run)
            assert (
                steps is None
                or wait.step not in steps
                or (wait.run, wait.step) in transition.drop_waits
                or wait.run == transition.drop_all_of
            ), f"run {wait.run} has a wait for step {wait.step} already"
        for event in transition.events:
            assert event.key not in self.event_rows, f"event {event.key} exists already"

    def _write_run(self, write: RunWrite) -> None:
        row = write.row
        run = row.id
        journal = self.journals.get(run)
        if journal is None:
            self.journals[run] = list(write.entries)
            insort(self._runs_in.setdefault(row.env, []), run)
            if row.parent is not None:
                self._children.setdefault(row.parent, set()).add(run)
            if row.event is not None:
                self._started_by.setdefault(row.event, set()).add(run)
            if not row.status.final:
                self._live[run] = None
        else:
            journal.extend(write.entries)
            if row.status.final:
                self._live.pop(run, None)
        self.run_rows[run] = row

    def _add_job(self, job: Job) -> None:
        owner = job.owner
        fence = 0 if owner is None else 1
        if job.fence != fence:
            job = replace(job, fence=fence)
        self.job_rows[job.id] = job
        if job.run is not None:
            siblings = self.jobs_by_run.get(job.run)
            if siblings is None:
                self.jobs_by_run[job.run] = {job.id: job}
            else:
                siblings[job.id] = job
        if owner is None:
            if not job.slots or job.later:
                self._push_due(job)
            return
        node = self.nodes.get(owner)
        epoch = 0 if node is None else node.epoch
        owned = self._owned.get(owner)
        if owned is None:
            self._owned[owner] = {job.id: epoch}
        else:
            owned[job.id] = epoch

    def _remove_job(self, job_id: JobId, removed: list[Job] | None) -> None:
        job = self.job_rows.pop(job_id, None)
        if job is None:
            return
        if job.owner is not None:
            del self._owned[job.owner][job_id]
        if job.run is not None:
            siblings = self.jobs_by_run[job.run]
            if len(siblings) == 1:
                del self.jobs_by_run[job.run]
            else:
                del siblings[job_id]
        if removed is not None:
            removed.append(job)

    def _remove_all_of(self, run: RunId, removed: list[Job] | None) -> None:
        for job_id in tuple(self.jobs_by_run.get(run, ())):
            self._remove_job(job_id, removed)
        for step in tuple(self.waits_by_run.get(run, ())):
            self._remove_wait(run, step)

    def _add_wait(self, wait: Wait) -> None:
        self.waits_by_run.setdefault(wait.run, {})[wait.step] = wait
        insort(self._wait_index.setdefault(_index_key(wait), []), (wait.run, wait.step))
        paths = self._wait_paths.setdefault((wait.env, wait.event), {})
        paths[wait.path] = paths.get(wait.path, 0) + 1

    def _remove_wait(self, run: RunId, step: StepId) -> None:
        steps = self.waits_by_run.get(run)
        wait = None if steps is None else steps.pop(step, None)
        if steps is None or wait is None:
            return
        if not steps:
            del self.waits_by_run[run]
        key = _index_key(wait)
        places = self._wait_index[key]
        del places[bisect_left(places, (run, step))]
        if not places:
            del self._wait_index[key]
        paths = self._wait_paths[wait.env, wait.event]
        if paths[wait.path] > 1:
            paths[wait.path] -= 1
        else:
            del paths[wait.path]
            if not paths:
                del self._wait_paths[wait.env, wait.event]

    def _add_event(self, event: Event) -> None:
        key = event.key
        self.event_rows[key] = event
        insort(self._events_in.setdefault(event.env, []), key)
        insort(self._events_named.setdefault((event.env, event.name), []), (event.received_at, key))
        insort(self._events_with_id.setdefault((event.env, event.internal_id), []), key)

    def _take_key(self, key: Unique, now: Instant) -> None:
        self.unique_keys[key.env, key.key] = key
        heappush(self._expiring, (key.until, key.env, key.key))
        for _ in range(2):  # what one key brings in, another takes out: there are never more than have not expired
            if self._expiring[0][0] <= now:
                until, env, name = heappop(self._expiring)
                known = self.unique_keys.get((env, name))
                if known is not None and known.until == until:
                    del self.unique_keys[env, name]
            if not self._expiring:
                break

    # jobs and nodes

    def claim(self, node: Node, now: Instant, limit: int, routes: Collection[str] | None = None) -> list[Job]:
        """`claim_due`, at once."""
        known = self.nodes.get(node.name)
        if known is not None and known.epoch > node.epoch:
            return []
        claimed: list[Job] = []
        while len(claimed) < limit and (job := self._next_due(routes)) is not None and job.due <= now:
            heappop(self._due[job.route])
            self._due_size -= 1
            job_id = job.id
            job = replace(job, owner=node.name, fence=job.fence + 1)
            self._replace_job(job)
            self._owned.setdefault(node.name, {})[job_id] = node.epoch
            claimed.append(job)
        return claimed

    def first_due(self, routes: Collection[str] | None = None) -> Instant | None:
        """`next_due`, at once."""
        job = self._next_due(routes)
        return None if job is None else job.due

    def _next_due(self, routes: Collection[str] | None) -> Job | None:
        """The first unowned job that a node with these routes may claim."""
        first: Job | None = None
        for route in tuple(self._due) if routes is None else (None, *routes):
            due = self._due.get(route)
            while due:
                moment, job_id = due[0]
                job = self.job_rows.get(job_id)
                if job is not None and job.owner is None and job.due == moment:
                    if first is None or (moment, job_id) < (first.due, first.id):
                        first = job
                    break
                heappop(due)
                self._due_size -= 1
            if due is not None and not due:
                del self._due[route]
        return first

    def renew(self, node: Node) -> bool:
        """`heartbeat`, at once."""
        known = self.nodes.get(node.name)
        if known is not None and known.epoch > node.epoch:
            return False
        self.nodes[node.name] = node
        return True

    def free_lost(self, now: Instant) -> int:
        """`release_lost`, at once."""
        freed = 0
        for owner, owned in tuple(self._owned.items()):
            node = self.nodes.get(owner)
            alive = -1 if node is None or node.lease_until <= now else node.epoch
            lost = [job_id for job_id, epoch in owned.items() if epoch != alive] if owned else []
            for job_id in lost:
                self._free(self.job_rows[job_id])
            freed += len(lost)
            if not owned:
                del self._owned[owner]
        return freed

    def give_back(self, claims: Iterable[Claim]) -> None:
        """`release`, at once."""
        for claim in claims:
            job = self.job_rows.get(claim.job)
            if job is not None and job.owner is not None and job.fence == claim.fence:
                self._free(job)

    def _free(self, job: Job) -> None:
        assert job.owner is not None
        del self._owned[job.owner][job.id]
        job = replace(job, owner=None)
        self._replace_job(job)
        self._push_due(job)
        if self.listeners and job.due <= self.clock.now():
            self._tell(Hint(routes=(job.route,)))

    def _replace_job(self, job: Job) -> None:
        self.job_rows[job.id] = job
        if job.run is not None:
            self.jobs_by_run[job.run][job.id] = job

    def _push_due(self, job: Job) -> None:
        self._due_size += 1
        if self._due_size > self._due_limit:
            # Timers of a year that were dropped after a second would stay for a year.
            self._due = {}
            unowned = [one for one in self.job_rows.values() if one.owner is None and not self.is_parked(one.id)]
            for known in unowned:
                self._due.setdefault(known.route, []).append((known.due, known.id))
            for due in self._due.values():
                heapify(due)
            self._due_size, self._due_limit = len(unowned), 4096 + 2 * len(unowned)
        else:
            heappush(self._due.setdefault(job.route, []), (job.due, job.id))

    # the interface

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def now(self) -> Instant:
        return self.clock.now()

    async def commit(self, transition: Transition) -> Outcome:
        return self.apply(transition)

    async def load_run(self, run: RunId, after_seq: int = 0) -> StoredRun | None:
        row = self.run_rows.get(run)
        return None if row is None else StoredRun(row, tuple(self.journals[run][after_seq:]))

    async def read_blobs(self, blobs: Sequence[Blob]) -> list[bytes]:
        return [self.blobs[blob.hash] for blob in blobs]

    async def claim_due(self, node: Node, now: Instant, limit: int, routes: Collection[str] | None = None) -> list[Job]:
        return self.claim(node, now, limit, routes)

    async def next_due(self, routes: Collection[str] | None = None) -> Instant | None:
        return self.first_due(routes)

    def listen(self, heard: Callable[[Hint], None]) -> None:
        self.listeners.append(heard)

    async def heartbeat(self, node: Node) -> bool:
        return self.renew(node)

    async def release_lost(self, now: Instant) -> int:
        return self.free_lost(now)

    async def release(self, claims: Sequence[Claim]) -> None:
        self.give_back(claims)

    async def read_keys(self, env: str, keys: Sequence[str]) -> dict[str, tuple[str, Instant]]:
        found = [(key, self.unique_keys.get((env, key))) for key in keys]
        return {key: (taken.value, taken.until) for key, taken in found if taken is not None}

    async def read_events(self, keys: Sequence[EventKey]) -> list[Event]:
        return [event for key in keys if (event := self.event_rows.get(key)) is not None]

    async def events_since(self, env: str, name: str, since: Instant, limit: int) -> list[Event]:
        places = self._events_named.get((env, name), [])
        first = bisect_left(places, since, key=lambda place: place[0])
        return [self.event_rows[key] for _, key in places[first : first + limit]]

    async def wait_paths(self, env: str, event: str) -> list[str | None]:
        paths = self._wait_paths.get((env, event), {})
        return sorted(paths, key=lambda path: (path is not None, path or ""))

    async def waits_for(
        self, env: str, event: str, path: str | None, value: str | None, after: tuple[RunId, StepId] | None, limit: int
    ) -> list[Wait]:
        places = self._wait_index.get((env, event, path, value), [])
        first = 0 if after is None else bisect_right(places, after)
        return [self.waits_by_run[run][step] for run, step in places[first : first + limit]]

    async def put_service(self, service: Service) -> None:
        self._services[service.env, service.name] = service
        self._tell(Hint(services=True))

    async def remove_service(self, env: str, name: str) -> bool:
        removed = self._services.pop((env, name), None) is not None
        self._tell(Hint(services=True))
        return removed

    async def services(self) -> list[Service]:
        return [self._services[key] for key in sorted(self._services)]

    async def put_credential(self, credential: Credential, *, over: Credential | None = None) -> bool:
        place = credential.env, credential.name
        if over is not None and self._credentials.get(place) not in (over, credential):
            return False
        self._credentials[place] = credential
        self._tell(Hint(services=True))
        return True

    async def remove_credential(self, env: str, name: str) -> bool:
        removed = self._credentials.pop((env, name), None) is not None
        self._tell(Hint(services=True))
        return removed

    async def credentials(self) -> list[Credential]:
        return [self._credentials[key] for key in sorted(self._credentials)]

    async def put_record(self, record: Record) -> bool:
        record.check()
        of_kind = self._records.setdefault((record.env, record.kind), {})
        old = of_kind.get(record.key)
        if record.revision != (1 if old is None else old.revision + 1):
            return False
        if old is None:
            insort(self._record_keys.setdefault((record.env, record.kind), []), record.key)
        of_kind[record.key] = record
        return True

    async def record(self, env: str, kind: str, key: str) -> Record | None:
        return self._records.get((env, kind), {}).get(key)

    async def records(
        self,
        env: str,
        kind: str,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
        descending: bool = False,
    ) -> list[Record]:
        of_kind, keys = self._records.get((env, kind), {}), self._record_keys.get((env, kind), [])
        first, end = bisect_left(keys, prefix), bisect_left(keys, prefix + "\U0010ffff")
        if after is not None and descending:
            end = min(end, bisect_left(keys, after))
        elif after is not None:
            first = max(first, bisect_right(keys, after))
        found = keys[max(first, end - limit) : end][::-1] if descending else keys[first : min(end, first + limit)]
        return [of_kind[key] for key in found]

    async def remove_record(self, env: str, kind: str, key: str, revision: int | None = None) -> bool:
        of_kind = self._records.get((env, kind), {})
        if key not in of_kind or revision not in (None, of_kind[key].revision):
            return False
        del of_kind[key]
        keys = self._record_keys[env, kind]
        del keys[bisect_left(keys, key)]
        return True

    async def run_row(self, run: RunId) -> RunRow | None:
        return self.run_rows.get(run)

    async def runs(self, query: RunQuery) -> list[RunRow]:
        ids = self._runs_in.get(query.env, [])
        if query.before is not None:
            ids = ids[bisect_right(ids, query.before) :] if query.ascending else ids[: bisect_left(ids, query.before)]
        return _first(query.limit, self._matching(query, ids if query.ascending else reversed(ids)))

    async def count_runs(self, query: RunQuery) -> int:
        return sum(1 for _ in self._matching(query, self._runs_in.get(query.env, [])))

    def _matching(self, query: RunQuery, ids: Iterable[RunId]) -> Iterator[RunRow]:
        for run in ids:
            row = self.run_rows[run]
            if (
                (query.functions is None or row.function in query.functions)
                and (query.services is None or row.service in query.services)
                and (query.statuses is None or row.status in query.statuses)
                and (query.event is None or row.event == query.event)
                and (query.parent is None or row.parent == query.parent)
                and (query.created_from is None or row.created_at >= query.created_from)
                and (query.created_until is None or row.created_at < query.created_until)
            ):
                yield row

    async def events(self, query: EventQuery) -> list[Event]:
        keys = self._events_in.get(query.env, [])
        if query.before is not None:
            keys = keys[: bisect_left(keys, query.before)]
        return _first(
            query.limit,
            (
                event
                for key in reversed(keys)
                for event in (self.event_rows[key],)
                if (query.names is None or event.name in query.names)
                and (query.received_from is None or event.received_at >= query.received_from)
                and (query.received_until is None or event.received_at < query.received_until)
                and (query.internal or not event.name.startswith("inngest/"))
            ),
        )

    async def event_by_id(self, env: str, internal_id: str) -> Event | None:
        keys = self._events_with_id.get((env, internal_id))
        return self.event_rows[keys[-1]] if keys else None

    async def jobs_of(self, run: RunId) -> list[Job]:
        jobs = sorted(self.jobs_by_run.get(run, {}).values(), key=lambda job: (job.due, job.id))
        return [replace(job, parked=self.book.places[job.id].line) if self.is_parked(job.id) else job for job in jobs]

    async def waits_of(self, run: RunId) -> list[Wait]:
        return sorted(self.waits_by_run.get(run, {}).values(), key=lambda wait: wait.step)

    async def ended_runs(self, after: RunId | None, until: RunId | None, limit: int) -> list[RunRow]:
        ids = sorted(run for run, row in self.run_rows.items() if row.status.final)
        first = 0 if after is None else bisect_right(ids, after)
        last = len(ids) if until is None else bisect_left(ids, until)
        return [self.run_rows[run] for run in ids[first : min(last, first + limit)]]

    async def ended_run_before(self, newer: int) -> RunId | None:
        ids = sorted(run for run, row in self.run_rows.items() if row.status.final)
        return ids[-1 - newer] if newer < len(ids) else None

    async def remove_runs(self, runs: Sequence[RunId], now: Instant) -> tuple[list[RunId], int]:
        return [run for run in runs if self._remove_run(run)], len(runs)

    def _remove_run(self, run: RunId) -> bool:
        row = self.run_rows.get(run)
        if row is None or not row.status.final or run in self.jobs_by_run or run in self._children:
            return False
        self._remove_all_of(run, None)
        del self.run_rows[run], self.journals[run]
        ids = self._runs_in[row.env]
        del ids[bisect_left(ids, run)]
        if row.parent is not None:
            _drop(self._children, row.parent, run)
        if row.event is not None:
            _drop(self._started_by, row.event, run)
        return True

    async def awaited_events(self) -> tuple[set[EventKey], Instant | None]:
        jobs = self.job_rows.values()
        keys = {key for job in jobs for key in job.keys}
        return keys, min((job.since for job in jobs if job.kind is JobKind.LOOK), default=None)

    async def remove_events(
        self, after: EventKey | None, until: Instant, kept: Collection[EventKey], limit: int, now: Instant
    ) -> tuple[int, EventKey | None]:
        bound = ulid(max(0, until), 0)
        keys = sorted(
            key
            for key, event in self.event_rows.items()
            if key < bound and (after is None or key > after) and event.received_at < until
        )[:limit]
        gone = [key for key in keys if key not in kept and key not in self._started_by]
        for key in gone:
            event = self.event_rows.pop(key)
            in_env = self._events_in[event.env]
            del in_env[bisect_left(in_env, key)]
            named = self._events_named[event.env, event.name]
            del named[bisect_left(named, (event.received_at, key))]
            same = self._events_with_id[event.env, event.internal_id]
            same.remove(key)
            if not same:
                del self._events_with_id[event.env, event.internal_id]
        return len(gone), keys[-1] if len(keys) == limit else None

    async def tidy(self, now: Instant, loose_before: Instant) -> Tidied:
        expired = [place for place, key in self.unique_keys.items() if key.until <= now]
        for place in expired:
            del self.unique_keys[place]
        self._expiring = [one for one in self._expiring if one[0] > now]
        heapify(self._expiring)
        everything = chain(*self.journals.values(), self.job_rows.values(), self.event_rows.values())
        used = {blob.hash for value in everything for blob in blobs_of(value)}
        self._loose = {hash: self._loose.get(hash, now) for hash in self.blobs if hash not in used}
        loose = [hash for hash, since in self._loose.items() if since <= loose_before]
        for hash in loose:
            del self.blobs[hash], self._loose[hash]
        return Tidied(keys=len(expired), blobs=len(loose))

    async def live_runs(self, after: RunId | None, limit: int) -> list[RunRow]:
        ids = sorted(self._live)
        first = 0 if after is None else bisect_right(ids, after)
        return [self.run_rows[run] for run in ids[first : first + limit]]

    async def stray_rows(self, limit: int) -> list[str]:
        return _first(limit, self._strays())

    def _strays(self) -> Iterator[str]:
        jobs = sorted(self.job_rows.values(), key=lambda job: job.id)
        for job in jobs:
            if job.run is not None and (state := self._ended(job.run)):
                yield f"job {job.id} of {state} run {job.run}"
        for run in sorted(self.waits_by_run):
            if state := self._ended(run):
                yield from (f"wait for step {step} of {state} run {run}" for step in sorted(self.waits_by_run[run]))
        for job in jobs:
            if job.owner is not None and job.owner not in self.nodes:
                yield f"job {job.id} is owned by the unknown node {job.owner}"
        yield from self.wrong_slots()

    def wrong_slots(self) -> Iterator[str]:
        """What is wrong with places and gates, in words."""
        held: Counter[str] = Counter()
        for place in self.book.places.values():
            held.update(place.keys[: place.passed])
            if place.job not in self.job_rows:
                yield f"the missing job {place.job} has a place among those with limits"
        for key in sorted(held.keys() | self.book.gates.keys()):
            gate = self.book.gates.get(key, Gate())
            if gate.held != held[key]:
                yield f"{held[key]} jobs hold a slot of {key}, and {gate.held} are counted"
            elif gate.held < gate.limit and self.book.first(key, 1):
                yield f"jobs wait for a slot of {key}, of which {gate.held} of {gate.limit} are taken"

    def _ended(self, run: RunId) -> str | None:
        row = self.run_rows.get(run)
        if row is None:
            return "unknown"
        return "ended" if row.status.final else None

    async def known_nodes(self) -> list[Node]:
        return [self.nodes[name] for name in sorted(self.nodes)]

    async def backlog(self, now: Instant) -> Backlog:
        due = [
            job.due
            for job in self.job_rows.values()
            if job.owner is None and job.due <= now and not self.is_parked(job.id)
        ]
        parked = sum(map(self.is_parked, self.job_rows))
        return Backlog(min(len(due), MOST_COUNTED), min(due, default=None), min(parked, MOST_COUNTED))

    def meters(self) -> dict[str, Histogram]:
        return {}

    async def status(self) -> dict[str, object]:
        return {
            "store": "memory",
            "durability": "none",
            "runs": len(self.run_rows),
            "live_runs": len(self._live),
            "jobs": len(self.job_rows),
            "waits": sum(map(len, self.waits_by_run.values())),
            "events": len(self.event_rows),
        }


class MemoryBook:
    """Gates and places; see `stepwell.store.slots`."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {}
        self.places: dict[JobId, Place] = {}
        self._lines: dict[str, list[tuple[Instant, JobId]]] = {}

    def gate(self, key: str) -> Gate:
        return self.gates.get(key) or Gate()

    def keep(self, key: str, gate: Gate) -> None:
        if gate.held:
            self.gates[key] = gate
        else:
            self.gates.pop(key, None)

    def put(self, place: Place) -> None:
        known = self.places.get(place.job)
        if known is not None:
            self.leave_line(known)
        self.places[place.job] = place
        if place.line is not None:
            insort(self._lines.setdefault(place.line, []), (place.rank, place.job))

    def leave_line(self, place: Place) -> None:
        if place.line is None:
            return
        line = self._lines[place.line]
        del line[bisect_left(line, (place.rank, place.job))]
        if not line:
            del self._lines[place.line]

    def first(self, key: str, count: int) -> list[Place]:
        return [self.places[job] for _, job in self._lines.get(key, [])[:count]]


def _index_key(wait: Wait) -> _IndexKey:
    return (wait.env, wait.event, wait.path, wait.value)


def _drop(index: dict[K, set[RunId]], key: K, run: RunId) -> None:
    index[key].remove(run)
    if not index[key]:
        del index[key]


def _first(limit: int, values: Iterable[T]) -> list[T]:
    return list(islice(values, limit))
