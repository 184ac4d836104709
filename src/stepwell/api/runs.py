"""Our own REST for the command line and the SDK's client: runs.

Times are RFC 3339. The protocol's own routes stay as its SDKs expect them.

Elsewhere: following a run (`stream.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import to_builtins
from starlette.responses import Response

from stepwell.api import answers, masking
from stepwell.api.answers import Raw, instant
from stepwell.api.inngest.state import run_id
from stepwell.api.inngest.v1 import time_of
from stepwell.api.model_calls import model_lines
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.event import TICK, schedule_in
from stepwell.model.job import RunStatus
from stepwell.model.payload import decode
from stepwell.node.reads.runs import (
    InvokeInfo,
    RunFilter,
    SleepInfo,
    TimeField,
    WaitInfo,
    count_runs,
    list_runs,
    run_detail,
    run_trace,
    started_now,
    status_now,
    waiting_for,
)
from stepwell.node.reads.trace_text import lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.api.masking import Redaction
    from stepwell.api.site import Site
    from stepwell.model.job import RunRow
    from stepwell.model.offload import Exchange
    from stepwell.model.payload import Payload
    from stepwell.node.reads.runs import Span, Trace

DEFAULT_RUNS = 20
MAX_RUNS = 1000


def routes() -> list[Route]:
    return [
        Route("GET", "/api/runs", runs),
        Route("GET", "/api/runs/{id}", run),
        Route("GET", "/api/runs/{id}/lines", run_lines),
        Route("POST", "/api/runs/{id}/cancel", cancel),
    ]


async def runs(ask: Ask) -> Response:
    """Newest first. Filters: `function` and `status` (several with commas), `service`, `since`, `until`, `query`."""
    site = ask.site
    wanted = RunFilter(
        env=site.env,
        functions=_several(ask, "function"),
        services=_several(ask, "service"),
        statuses=_statuses(ask),
        since=time_of(ask, "since"),
        until=time_of(ask, "until"),
        time_field=_time_field(ask),
        search=ask.query("query"),
    )
    limit = ask.limit(DEFAULT_RUNS, MAX_RUNS)
    store = site.node.store
    page = await list_runs(store, wanted, after=ask.query("cursor"), limit=limit)
    lacks = await waiting_for(store, page.rows)
    listed = [one | {"waits_for": list(lacks.get(one["id"], ()))} for one in await runs_shown(site, page.rows)]
    shown: dict[str, Any] = {"runs": listed, "cursor": None}
    if page.more:
        shown["cursor"] = page.rows[-1].id
    if ask.query("count") == "true":
        shown["count"] = await count_runs(store, wanted)
    return answers.json(shown)


def _several(ask: Ask, name: str) -> tuple[str, ...] | None:
    text = ask.query(name)
    return None if text is None else tuple(one.strip() for one in text.split(",") if one.strip())


def _statuses(ask: Ask) -> tuple[RunStatus, ...] | None:
    words = _several(ask, "status")
    if words is None:
        return None
    try:
        return tuple(RunStatus(one.upper()) for one in words)
    except ValueError as err:
        known = ", ".join(one.value for one in RunStatus)
        raise InvalidInput(f"status must be one or more of {known}", field="status") from err


def _time_field(ask: Ask) -> TimeField:
    text = ask.query("time")
    try:
        return TimeField.CREATED if text is None else TimeField(text)
    except ValueError as err:
        raise InvalidInput("time must be created, started or ended", field="time") from err


async def runs_shown(site: Site, rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """Runs as our own lists show them."""
    keys = dict.fromkeys(row.event for row in rows if row.event is not None)
    events = {event.key: event for event in await site.node.store.read_events(list(keys))}
    return [
        {
            "id": row.id,
            "function": row.function,
            "service": row.service,
            "status": status_now(row, site.running).value,
            "created_at": instant(row.created_at),
            "started_at": instant(started_now(row, site.running)),
            "ended_at": instant(row.ended_at),
            "event_id": events[row.event].internal_id if row.event in events else row.event,
            "event_name": row.event_name,
            "schedule": schedule_in(events[row.event].body) if row.event_name == TICK and row.event in events else None,
            "event_count": row.event_count,
            "parent": row.parent,
        }
        for row in rows
    ]


async def run(ask: Ask) -> Response:
    """One run with its events, its output or error, and its trace. Texts inside the trace are given when small, and
    without what the server's rules hide; with `redacted=true` so are the run's own."""
    site = ask.site
    wanted = run_id(ask)
    found = await run_detail(site.node.store, site.env, wanted, site.running)
    if found is None:
        raise NotFound(f"no run {wanted}")
    (shown,) = await runs_shown(site, [found.row])
    hides = site.redaction if ask.query("redacted") == "true" else masking.NOTHING_HIDDEN
    output, error = hides.shown(found.output), hides.shown(found.error)
    shown["events"] = [Raw(hides.shown(one.body) or one.body) for one in found.events]
    shown["output"] = None if output is None else Raw(output)
    shown["error"] = None if error is None else _error(error)
    shown["cancelled_because"] = found.trace.reason or None
    shown["waits_for"] = list(found.trace.lacks)
    shown["origin"], shown["from_step"] = found.trace.origin, found.trace.from_step or None
    shown["trace"] = _span(found.trace.root, site.redaction)
    shown["requests"] = _requests(found.trace)
    shown["notes"] = [
        {
            "at": instant(one.at),
            "kind": one.kind,
            "level": one.level or None,
            "text": one.text,
            "step": one.step_name or None,
        }
        for one in found.trace.notes
    ]
    return answers.json(shown)


def _error(text: bytes) -> object:
    value = decode(text)
    return value if isinstance(value, dict) else {"name": "Error", "message": value}


def _span(span: Span, redaction: Redaction) -> dict[str, Any]:
    return {
        "id": span.ref.text,
        "name": span.name,
        "kind": span.kind.value,
        "status": span.status.value,
        "op": None if span.op is None else span.op.value,
        "step": span.step,
        "queued_at": instant(span.queued_at),
        "scheduled_at": instant(span.scheduled_at),
        "started_at": instant(span.started_at),
        "ended_at": instant(span.ended_at),
        "duration_ms": span.duration_ms,
        "queue_ms": span.queue_ms,
        "attempts": span.attempts,
        "waits_for": _info(span.info),
        "request": _exchange(span.exchange),
        "origin": span.origin,
        "edited": span.edited,
        "input": _inline(span.input, redaction),
        "output": _inline(masking.shown(span.output) if isinstance(span.output, bytes) else span.output, redaction),
        "error": _inline(span.error, redaction),
        "children": [_span(child, redaction) for child in span.children],
    }


def _exchange(exchange: Exchange | None) -> dict[str, Any] | None:
    """What a request that the server made came to; what is unknown is left out."""
    if exchange is None:
        return None
    told: dict[str, Any] = to_builtins(exchange)
    return {name: value for name, value in told.items() if name not in {"job", "started_at", "duration_ms"}}


def _inline(payload: Payload | None, redaction: Redaction) -> object:
    """A small text as it is shown; of a large one its size."""
    if payload is None or not isinstance(payload, bytes):
        return None if payload is None else {"size_bytes": payload.size_bytes}
    return Raw(redaction.shown(payload) or payload)


def _info(info: SleepInfo | WaitInfo | InvokeInfo | None) -> dict[str, Any] | None:
    match info:
        case SleepInfo():
            return {"until": instant(info.until)}
        case WaitInfo():
            return {"event": info.event, "expression": info.expression, "until": instant(info.until)}
        case InvokeInfo():
            return {"function": info.function, "until": instant(info.until), "run": info.child}
    return None


def _requests(trace: Trace) -> list[dict[str, Any]]:
    return [
        {
            "number": one.number,
            "target": one.target_name or None,
            "attempt": one.attempt,
            "reason": one.reason,
            "scheduled_at": instant(one.scheduled_at),
            "started_at": instant(one.started_at),
            "ended_at": instant(one.ended_at),
            "outcome": one.outcome or None,
            "live": one.live,
            "worker": one.worker or None,
            "steps": list(one.steps),
        }
        for one in trace.requests
    ]


async def run_lines(ask: Ask) -> Response:
    """The trace as lines for a terminal; a line is a list of pieces, a piece is its role and its text."""
    site = ask.site
    wanted = run_id(ask)
    trace = await run_trace(site.node.store, site.env, wanted, site.running)
    if trace is None:
        raise NotFound(f"no run {wanted}")
    found = [*lines(trace, site.node.world.now()), *await model_lines(site.node, trace, site.redaction)]
    return answers.json({"lines": [[[piece.role.value, piece.text] for piece in line] for line in found]})


async def cancel(ask: Ask) -> Response:
    """Answered when the run is cancelled, durably; or when its call was told to end, which is `cancelling`."""
    run = run_id(ask)
    over = await ask.site.node.cancel(run, "cancelled by its operator", ask.site.env)
    status = RunStatus.CANCELLED if over else RunStatus.RUNNING
    return answers.json({"id": run, "status": status.value} | ({} if over else {"cancelling": True}))
