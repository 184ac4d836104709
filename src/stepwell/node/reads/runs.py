"""Runs: the list with its filters, one run in detail, its trace, and the texts behind the trace.

Lists come from the rows that the store keeps beside every journal; the journal itself is read for one run at a
time. What is not in a row, such as a condition on the event, is looked at row by row, newest first, and no
further than `SCAN_LIMIT`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from stepwell.engine import expr
from stepwell.engine.flow import limit_text
from stepwell.engine.span import (
    InFlight,
    InvokeInfo,
    Note,
    Request,
    RunningStep,
    SleepInfo,
    Span,
    SpanKind,
    SpanStatus,
    StepOp,
    Trace,
    WaitInfo,
    read_ref,
    trace_id,
)
from stepwell.engine.trace import trace_of
from stepwell.model import journal
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV, Event, read_body
from stepwell.model.ids import RunId, ulid_time
from stepwell.model.job import RunStatus
from stepwell.model.payload import decode
from stepwell.node.reads.payloads import ErrorText, read_error, text_of, texts_of
from stepwell.store.base import RunQuery, Store, StoredRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.model.ids import EventKey, Instant
    from stepwell.model.job import RunRow

__all__ = [  # the surfaces may import neither engine nor store; what they need of them comes from here
    "ErrorText", "InFlight", "InvokeInfo", "Note", "Request", "RunDetail", "RunEvent", "RunFilter", "RunPage",
    "RunStatus", "Running", "RunningStep", "SleepInfo", "Span", "SpanKind", "SpanOutput", "SpanStatus", "StepOp",
    "Store", "StoredRun", "TimeField", "Trace", "WaitInfo", "count_runs", "find_run", "list_runs", "load_run",
    "nobody_knows", "run_detail", "run_events", "run_trace", "span_output", "started_now", "status_now", "trace_id",
    "trace_stored",
]  # fmt: skip

PAGE_LIMIT = 1000
SCAN_LIMIT = 5000
"""Runs looked at for a filter that the store cannot apply."""
_SCAN_PAGE = 200

Running: TypeAlias = Callable[[RunId], Sequence[InFlight]]
"""Who knows what is going on right now: the calls of a run that are being answered."""


def nobody_knows(run: RunId) -> Sequence[InFlight]:
    """For where nobody knows what is going on right now."""
    return ()


class TimeField(StrEnum):
    """Which time of a run `since` and `until` mean."""

    CREATED = "created"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to show. Every field narrows.

    `since` belongs to the range and `until` does not. `search` is an expression over `event`, `output` and `error`.
    """

    env: str = DEV_ENV
    functions: tuple[str, ...] | None = None
    services: tuple[str, ...] | None = None
    statuses: tuple[RunStatus, ...] | None = None
    since: Instant | None = None
    until: Instant | None = None
    time_field: TimeField = TimeField.CREATED
    search: str | None = None
    parent: RunId | None = None

    @property
    def scans(self) -> bool:
        """Whether the store alone cannot answer it."""
        bounded = self.since is not None or self.until is not None
        return self.search is not None or (bounded and self.time_field is not TimeField.CREATED)

    def query(self, *, before: RunId | None, limit: int, ascending: bool) -> RunQuery:
        # Whatever started or ended in the range was created before the end of it, and how long before is unknown.
        created = self.time_field is TimeField.CREATED
        return RunQuery(
            env=self.env,
            functions=self.functions,
            services=self.services,
            statuses=self.statuses,
            parent=self.parent,
            created_from=self.since if created else None,
            created_until=self.until,
            before=before,
            limit=limit,
            ascending=ascending,
        )


@dataclass(frozen=True, slots=True)
class RunPage:
    """Runs in order, and whether more follow after the last. Its id is the cursor."""

    rows: tuple[RunRow, ...]
    more: bool

    @property
    def cursor(self) -> str | None:
        return self.rows[-1].id if self.rows else None


@dataclass(frozen=True, slots=True)
class RunEvent:
    """An event that a run began with. `body` is the whole event as functions see it."""

    key: EventKey
    internal_id: str
    body: bytes
    received_at: Instant


@dataclass(frozen=True, slots=True)
class RunDetail:
    """Everything about one run but the texts inside its trace. `output` and `error` are JSON texts."""

    row: RunRow
    status: RunStatus  # as `status_now` says
    events: tuple[RunEvent, ...]
    output: bytes | None
    error: bytes | None
    trace: Trace


@dataclass(frozen=True, slots=True)
class SpanOutput:
    """The texts behind a span. `data` is None while there is no result, and when there is an error instead."""

    input: bytes | None
    data: bytes | None
    error: ErrorText | None
    error_text: bytes | None


# lists


async def list_runs(
    store: Store, wanted: RunFilter, *, after: str | None = None, limit: int = 50, ascending: bool = False
) -> RunPage:
    """A page of runs in the order in which they were created, the newest first unless `ascending`.

    Args:
        after: The cursor of the page before.
        limit: 1 to 1000.

    Raises:
        InvalidInput: The limit, the cursor or the search expression is not acceptable.
    """
    if not 1 <= limit <= PAGE_LIMIT:
        raise InvalidInput(f"limit must be 1 to {PAGE_LIMIT}, not {limit}", field="limit")
    before = _cursor(after)
    if not wanted.scans:
        rows = await store.runs(wanted.query(before=before, limit=limit + 1, ascending=ascending))
    else:
        rows = []
        async for row in _scan(store, wanted, before, ascending):
            rows.append(row)
            if len(rows) > limit:
                break
    return RunPage(tuple(rows[:limit]), len(rows) > limit)


async def count_runs(store: Store, wanted: RunFilter) -> int:
    """How many runs there are; with a filter that needs a look at each, among the newest `SCAN_LIMIT`."""
    if not wanted.scans:
        return await store.count_runs(wanted.query(before=None, limit=1, ascending=False))
    return len([row async for row in _scan(store, wanted, None, ascending=False)])


def _cursor(text: str | None) -> RunId | None:
    if text is None:
        return None
    try:
        ulid_time(text)
    except ValueError as err:
        raise InvalidInput(f"the cursor is not one of ours: {err}", field="cursor") from err
    return RunId(text)


async def _scan(store: Store, wanted: RunFilter, before: RunId | None, ascending: bool) -> AsyncIterator[RunRow]:
    fits = _search(wanted.search) if wanted.search is not None else None
    seen = 0
    while seen < SCAN_LIMIT:
        page = await store.runs(wanted.query(before=before, limit=_SCAN_PAGE, ascending=ascending))
        rows = [row for row in page if _in_time(wanted, row)]
        variables = await _variables(store, rows, wanted.search) if wanted.search is not None else [{}] * len(rows)
        now = await store.now() if fits is not None else 0
        for row, known in zip(rows, variables, strict=True):
            if fits is None or _holds(fits, known, now):
                yield row
        seen += len(page)
        if len(page) < _SCAN_PAGE:
            return
        before = page[-1].id


def _in_time(wanted: RunFilter, row: RunRow) -> bool:
    if wanted.since is None and wanted.until is None:
        return True
    moments = {TimeField.CREATED: row.created_at, TimeField.STARTED: row.started_at, TimeField.ENDED: row.ended_at}
    moment = moments[wanted.time_field]
    if moment is None:
        return False
    return (wanted.since is None or moment >= wanted.since) and (wanted.until is None or moment < wanted.until)


def _search(text: str) -> expr.Program:
    try:
        return expr.compile(text)
    except expr.ExpressionError as err:
        raise InvalidInput(f"the search is not an expression: {err}", field="query") from err


def _holds(fits: expr.Program, variables: dict[str, Any], now: Instant) -> bool:
    try:
        return fits.matches(variables, now)
    except expr.EvaluationError:
        return False  # a run without the thing that is searched for


async def _variables(store: Store, rows: list[RunRow], search: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{} for _ in rows]
    if "event" in search:
        events = await store.read_events([row.event for row in rows if row.event is not None])
        bodies = await texts_of(store, [event.body for event in events])
        by_key = {event.key: read_body(body) for event, body in zip(events, bodies, strict=True)}
        for row, known in zip(rows, found, strict=True):
            if row.event in by_key:
                known["event"] = by_key[row.event]
    if "output" in search or "error" in search:
        for row, known in zip(rows, found, strict=True):
            text = await text_of(store, row.output)
            if text is not None:
                known["error" if row.status is RunStatus.FAILED else "output"] = decode(text)
    return found


# one run


async def find_run(store: Store, env: str, run_id: str) -> RunRow | None:
    """The row of a run; None when there is no such run in the environment."""
    row = await store.run_row(RunId(run_id))
    return row if row is not None and row.env == env else None


async def load_run(store: Store, env: str, run_id: str) -> StoredRun | None:
    """The row and the whole journal, of one moment."""
    stored = await store.load_run(RunId(run_id))
    return stored if stored is not None and stored.row.env == env else None


def status_now(row: RunRow, running: Running = nobody_knows) -> RunStatus:
    """The status of a run; one that is being worked on for the first time is no longer queued."""
    if row.status is RunStatus.QUEUED and running(row.id):
        return RunStatus.RUNNING
    return row.status


def started_now(row: RunRow, running: Running = nobody_knows) -> Instant | None:
    """When a run began; for one that is worked on for the first time, when a worker took it."""
    if row.started_at is not None or row.status is not RunStatus.QUEUED:
        return row.started_at
    return min((flight.started_at for flight in running(row.id)), default=None)


async def trace_stored(store: Store, stored: StoredRun, running: Running = nobody_knows) -> Trace:
    """The trace of a run that was loaded, with the runs that it invoked."""
    row = stored.row
    children: dict[EventKey, RunId] = {}
    if any(isinstance(entry, journal.InvokeStarted) for entry in stored.entries):
        found = await store.runs(RunQuery(env=row.env, parent=row.id, limit=PAGE_LIMIT))
        children = {child.event: child.id for child in found if child.event is not None}
    trace = trace_of(row.id, stored.entries, in_flight=running(row.id), children=children)
    lacks = await _lacks(store, stored)
    return replace(trace, lacks=lacks) if lacks else trace


async def _lacks(store: Store, stored: StoredRun) -> tuple[str, ...]:
    """The limits of which calls of a run wait for a slot, in words."""
    start = stored.entries[0]
    if stored.row.status.final or not isinstance(start, journal.RunStarted) or not (start.limits or start.holds):
        return ()
    parked = {job.parked for job in await store.jobs_of(stored.row.id)}
    return tuple(limit_text(limit) for limit in (*start.holds, *start.limits) if limit.key in parked)


async def waiting_for(store: Store, rows: Sequence[RunRow]) -> dict[RunId, tuple[str, ...]]:
    """The limits of which runs wait for a slot, in words; of those runs that do."""
    found: dict[RunId, tuple[str, ...]] = {}
    for row in rows:
        if row.status.final or not any(job.parked for job in await store.jobs_of(row.id)):
            continue
        stored = await store.load_run(row.id)
        if stored is not None and (lacks := await _lacks(store, stored)):
            found[row.id] = lacks
    return found


async def run_trace(store: Store, env: str, run_id: str, running: Running = nobody_knows) -> Trace | None:
    stored = await load_run(store, env, run_id)
    return await trace_stored(store, stored, running) if stored is not None else None


async def run_events(store: Store, stored: StoredRun) -> tuple[RunEvent, ...]:
    """The events that a run began with, in its order; also those that the store no longer lists."""
    first = stored.entries[0]
    assert isinstance(first, journal.RunStarted), "a journal begins with the start of its run"
    known: dict[EventKey, Event] = {event.key: event for event in await store.read_events(first.event_keys)}
    bodies = await texts_of(store, first.events)
    return tuple(
        RunEvent(
            key=key,
            internal_id=known[key].internal_id if key in known else key,
            body=body,
            received_at=known[key].received_at if key in known else first.at,
        )
        for key, body in zip(first.event_keys, bodies, strict=True)
    )


async def run_detail(store: Store, env: str, run_id: str, running: Running = nobody_knows) -> RunDetail | None:
    """A run with its events, its result and its trace; None when there is no such run."""
    stored = await load_run(store, env, run_id)
    if stored is None:
        return None
    row = stored.row
    outcome = await text_of(store, row.output)
    failed = row.status is RunStatus.FAILED
    return RunDetail(
        row=row,
        status=status_now(row, running),
        events=await run_events(store, stored),
        output=None if failed else outcome,
        error=outcome if failed else None,
        trace=await trace_stored(store, stored, running),
    )


async def span_output(store: Store, env: str, output_id: str) -> SpanOutput | None:
    """The texts behind an output id of a trace; None when the run or the span is not there.

    Raises:
        InvalidInput: That is no output id.
    """
    try:
        ref = read_ref(output_id)
    except ValueError as err:
        raise InvalidInput(str(err), field="outputID") from err
    stored = await load_run(store, env, ref.run)
    span = trace_of(stored.row.id, stored.entries).find(ref) if stored is not None else None
    if span is None:
        return None
    texts = [await text_of(store, payload) for payload in (span.input, span.output, span.error)]
    error = texts[2]
    return SpanOutput(
        input=texts[0],
        data=texts[1] if error is None else None,
        error=read_error(error) if error is not None else None,
        error_text=error,
    )
