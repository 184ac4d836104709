"""Tasks as they are shown: one with all that is known of it, and the list.

A task is a run, so what is known is its journal; how far a call has come that is under way only its performer knows
(`Running`). The status of a task only ever becomes more: a call that is made again, since a worker or a server was
lost, comes through phases that its task is past, and those are left out here. How far a call was that a lost server
made nobody knows; somebody may have seen it run, so that is what its task does since then. The trace has them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from stepwell.model import journal
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import RunId, ulid_time
from stepwell.model.job import JobKind, RunStatus
from stepwell.model.task import LOG_TYPES, TaskPhase, TaskRequest, TaskResult, TaskStatus, is_task, read_request
from stepwell.node.reads.payloads import read_error, text_of
from stepwell.node.reads.runs import Running, nobody_knows
from stepwell.store.base import RunQuery, StoredRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell.model.ids import Instant
    from stepwell.model.journal import Entry
    from stepwell.model.payload import Payload
    from stepwell.node.registry import Registry
    from stepwell.store.base import Store

__all__ = ["Task", "TaskFilter", "TaskLog", "TaskPage", "task_of", "task_stored", "tasks_of"]

PAGE_LIMIT = 1000
SCAN_LIMIT = 5000
"""Tasks looked at for a filter that the store cannot apply."""
_SCAN_PAGE = 100

_ENDS = {
    RunStatus.COMPLETED: TaskStatus.COMPLETED,
    RunStatus.FAILED: TaskStatus.FAILED,
    RunStatus.CANCELLED: TaskStatus.CANCELLED,
}
_GOES_ON = (RunStatus.QUEUED, RunStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class TaskLog:
    """A line that the app wrote. `log_type`: see `LOG_TYPES`."""

    at: Instant
    log_type: int
    text: str


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that is known of a task.

    Attributes:
        run_at: When it was to begin, if not at once.
        output: JSON text of what the app returned; None unless it completed.
        meta: What the app said of its output, which callers are not shown.
        error: Why it failed, as people read it; empty unless it did.
        phases: Each status that it came to, in order, with its time; the last one is its status.
        worker: That did the last call, as its performer names it.
    """

    id: RunId
    env: str
    request: TaskRequest
    status: TaskStatus
    created_at: Instant
    updated_at: Instant
    run_at: Instant | None = None
    output: bytes | None = None
    meta: Any = None
    error: str = ""
    logs: tuple[TaskLog, ...] = ()
    phases: tuple[TaskPhase, ...] = ()
    worker: str = ""


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to show. Every field narrows.

    `apps` are references, of apps or of versions. `since` belongs to the range and `until` does not.
    """

    env: str = DEV_ENV
    apps: tuple[str, ...] | None = None
    statuses: tuple[TaskStatus, ...] | None = None
    session: str | None = None
    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks in order, and whether more follow after the last. Its id is the cursor."""

    tasks: tuple[Task, ...]
    more: bool

    @property
    def cursor(self) -> str | None:
        return self.tasks[-1].id if self.tasks else None


# one task


async def task_of(store: Store, env: str, task: str, now: Instant, running: Running = nobody_knows) -> Task | None:
    """A task; None when there is no such task in the environment. `now` is the time of the store."""
    stored = await store.load_run(RunId(task))
    if stored is None or stored.row.env != env or not is_task(stored.row.event_name, stored.row.function):
        return None
    lost = False
    if not stored.row.status.final and not running(stored.row.id):
        jobs = await store.jobs_of(stored.row.id)
        lost = any(job.kind is JobKind.CALL and job.fence > 0 and job.owner is None for job in jobs)
    return await task_stored(store, stored, now, running, lost=lost)


async def task_stored(
    store: Store, stored: StoredRun, now: Instant, running: Running = nobody_knows, *, lost: bool = False
) -> Task:
    """The task that a run is which was loaded. `lost`: its call was made by a server that is gone."""
    row, entries = stored.row, stored.entries
    first = entries[0]
    assert isinstance(first, journal.RunStarted), "a journal begins with the start of its run"
    event = await _text(store, first.events[0])
    output, meta, error = None, None, ""
    outcome = await text_of(store, row.output) if row.status.final else None
    if outcome is not None and row.status is RunStatus.FAILED:
        told = read_error(outcome)
        error = told.message or told.name
    elif outcome is not None:
        output, meta = _result(outcome)
    flights = running(row.id) if not row.status.final else ()
    under_way = [phase for flight in flights for phase in flight.phases]
    if lost:
        under_way.append(TaskPhase(TaskStatus.RUNNING, entries[-1].at))
    phases = _forward(entries, under_way, now)
    return Task(
        id=row.id,
        env=row.env,
        request=read_request(event, row.function),
        status=phases[-1].status,
        created_at=row.created_at,
        updated_at=max(phases[-1].at, entries[-1].at),
        run_at=first.start_at or None,
        output=output,
        meta=meta,
        error=error,
        logs=tuple(
            TaskLog(one.at, LOG_TYPES.get(one.level, LOG_TYPES["task"]), one.text)
            for one in entries
            if isinstance(one, journal.Noted) and one.kind != "late"
        ),
        phases=phases,
        worker=_worker(entries) if not flights else flights[-1].worker,
    )


async def _text(store: Store, payload: Payload) -> bytes:
    text = await text_of(store, payload)
    assert text is not None
    return text


def _result(text: bytes) -> tuple[bytes, Any]:
    try:
        result = msgspec.json.decode(text, type=TaskResult)
    except msgspec.DecodeError:
        return text, None  # of a performer that knows no better
    return bytes(result.output), result.meta


def _worker(entries: Iterable[Entry]) -> str:
    names = [one.worker for one in entries if isinstance(one, journal.CallEnded) and one.worker]
    return names[-1] if names else ""


def _forward(entries: Sequence[Entry], under_way: Iterable[TaskPhase], now: Instant) -> tuple[TaskPhase, ...]:
    """The statuses that a task came to, none of them less than one before."""
    came: list[TaskPhase] = [TaskPhase(TaskStatus.RECEIVED, entries[0].at), *under_way]
    end: TaskPhase | None = None
    for entry in entries:
        match entry:
            case journal.CallScheduled() if entry.due <= now:
                came.append(TaskPhase(TaskStatus.QUEUED, entry.due))
            case journal.CallEnded():
                came.extend(entry.phases)
                if entry.outcome == "lost" and not entry.phases:
                    came.append(TaskPhase(TaskStatus.RUNNING, entry.at))
            case journal.RunCancelling():
                came.append(TaskPhase(TaskStatus.CANCELLING, entry.at))
            case journal.RunCompleted():
                end = TaskPhase(TaskStatus.COMPLETED, entry.at)
            case journal.RunFailed():
                end = TaskPhase(TaskStatus.FAILED, entry.at)
            case journal.RunCancelled():
                end = TaskPhase(TaskStatus.CANCELLED, entry.at)
            case _:
                pass
    kept: list[TaskPhase] = []
    for phase in sorted(came, key=lambda one: (one.at, one.status)):
        if (not kept or phase.status > kept[-1].status) and not phase.status.final:
            kept.append(phase)
    if end is not None:
        kept.append(TaskPhase(end.status, max(end.at, kept[-1].at)))
    return tuple(kept)


# the list


async def tasks_of(
    store: Store,
    registry: Registry,
    wanted: TaskFilter,
    now: Instant,
    *,
    after: str | None = None,
    limit: int = 50,
    ascending: bool = False,
    running: Running = nobody_knows,
) -> TaskPage:
    """A page of tasks in the order in which they were created, the newest first unless `ascending`.

    Args:
        registry: Knows which apps there are.
        now: The time of the store.
        after: The cursor of the page before.
        limit: 1 to 1000.

    Raises:
        InvalidInput: The limit or the cursor is not acceptable.
    """
    if not 1 <= limit <= PAGE_LIMIT:
        raise InvalidInput(f"limit must be 1 to {PAGE_LIMIT}, not {limit}", field="limit")
    before = _cursor(after)
    services, functions = _places(registry, wanted)
    found: list[Task] = []
    looked_at = 0
    while services and looked_at < SCAN_LIMIT and len(found) <= limit:
        rows = await store.runs(
            RunQuery(
                env=wanted.env,
                services=services,
                functions=functions,
                statuses=_statuses(wanted.statuses),
                created_from=wanted.since,
                created_until=wanted.until,
                before=before,
                limit=min(_SCAN_PAGE, limit + 1),
                ascending=ascending,
            )
        )
        for row in rows:
            looked_at, before = looked_at + 1, row.id
            stored = await store.load_run(row.id) if is_task(row.event_name, row.function) else None
            task = await task_stored(store, stored, now, running) if stored is not None else None
            if task is not None and _fits(task, wanted):
                found.append(task)
                if len(found) > limit:
                    break
        if len(rows) < min(_SCAN_PAGE, limit + 1):
            break
    return TaskPage(tuple(found[:limit]), len(found) > limit)


def _cursor(text: str | None) -> RunId | None:
    if text is None:
        return None
    try:
        ulid_time(text)
    except ValueError as err:
        raise InvalidInput(f"the cursor is not one of ours: {err}", field="cursor") from err
    return RunId(text)


def _places(registry: Registry, wanted: TaskFilter) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The services whose runs to look at, and the functions if only some of them."""
    services = registry.apps(wanted.env)
    if wanted.apps is None:
        return services, None
    named = {one.partition("@")[0] for one in wanted.apps}
    functions = tuple(one for one in wanted.apps if "@" in one)
    whole = {one for one in wanted.apps if "@" not in one}
    if functions and whole:
        of_apps = [one.slug for service in whole for one in _functions(registry, wanted.env, service)]
        functions = (*functions, *of_apps)
    return tuple(one for one in services if one in named), functions or None


def _functions(registry: Registry, env: str, name: str) -> Sequence[Any]:
    service = registry.service(env, name)
    return service.functions if service is not None else ()


def _statuses(wanted: tuple[TaskStatus, ...] | None) -> tuple[RunStatus, ...] | None:
    if wanted is None:
        return None
    found = {status for status, ended in _ENDS.items() if ended in wanted}
    if any(not status.final for status in wanted):
        found.update(_GOES_ON)
    return tuple(sorted(found))


def _fits(task: Task, wanted: TaskFilter) -> bool:
    if wanted.statuses is not None and task.status not in wanted.statuses:
        return False
    return wanted.session is None or task.request.session == wanted.session
