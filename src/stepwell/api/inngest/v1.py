"""The REST API that official SDKs, their tests and people's scripts use to look at events and runs.

Protocol: sections 8.1 and 8.3 of the Inngest wire protocol.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from stepwell.api import answers
from stepwell.api.answers import Raw, instant, v1
from stepwell.api.inngest.dev import described
from stepwell.api.inngest.state import run_id
from stepwell.api.routes import Ask, Route
from stepwell.model.duration import parse_time
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.event import DEV_ACCOUNT
from stepwell.model.function import function_id
from stepwell.model.ids import ulid_time
from stepwell.model.job import RunStatus
from stepwell.model.payload import decode
from stepwell.node.reads.events import EventFilter, find_event, list_events, runs_of_event
from stepwell.node.reads.payloads import texts_of
from stepwell.node.reads.runs import find_run, started_now, status_now
from stepwell.wire.inngest.register import composite_slug

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stepwell.api.site import Site
    from stepwell.model.event import Event
    from stepwell.model.ids import EventKey, Instant
    from stepwell.model.job import Job, RunRow
    from stepwell.node.sweep import Cancellation

MAX_EVENTS = 51
DEFAULT_EVENTS = 20
_FUTURE_MS = 5_000

STATUS = {
    RunStatus.QUEUED: "Scheduled",
    RunStatus.RUNNING: "Running",
    RunStatus.COMPLETED: "Completed",
    RunStatus.FAILED: "Failed",
    RunStatus.CANCELLED: "Cancelled",
}


def routes() -> list[Route]:
    return [
        Route("GET", "/v1/events", events),
        Route("GET", "/v1/events/{id}", event),
        Route("GET", "/v1/events/{id}/runs", event_runs),
        Route("GET", "/v1/runs/{id}", run),
        Route("DELETE", "/v1/runs/{id}", cancel),
        Route("GET", "/v1/runs/{id}/jobs", jobs),
        Route("GET", "/v1/apps/{name}/functions", functions),
        Route("POST", "/v1/cancellations", cancel_many),
        Route("GET", "/v1/cancellations", cancellations),
        Route("DELETE", "/v1/cancellations/{id}", forget_cancellation),
    ]


# events


async def events(ask: Ask) -> Response:
    """Newest first. Events of the server itself are listed when they are asked for by name."""
    site = ask.site
    name = ask.query("name")
    wanted = EventFilter(
        env=site.env,
        names=None if name is None else (name,),
        since=time_of(ask, "received_after"),
        until=time_of(ask, "received_before"),
        internal=name is not None or ask.query("internal") == "true",
    )
    limit = ask.limit(DEFAULT_EVENTS, MAX_EVENTS)
    page = await list_events(site.node.store, wanted, after=await _cursor(ask), limit=limit)
    return v1(await _events(site, page.events))


async def event(ask: Ask) -> Response:
    (shown,) = await _events(ask.site, [await _found(ask)])
    return v1(shown)


async def event_runs(ask: Ask) -> Response:
    """Oldest first. There may be none yet: matching goes on after the sender has its answer."""
    site = ask.site
    rows = await runs_of_event(site.node.store, site.node.registry, await _found(ask))
    return v1(await runs_shown(site, rows))


async def _found(ask: Ask) -> Event:
    text = ask.part("id")
    try:
        ulid_time(text)
    except ValueError as err:
        raise InvalidInput(f"Invalid event ID: {err}", field="id") from err
    event = await find_event(ask.site.node.store, ask.site.env, text.upper())
    if event is None:
        raise NotFound(f"no event {text}")
    return event


async def _cursor(ask: Ask) -> str | None:
    """The last event of the page before, by the id that the API shows."""
    text = ask.query("cursor")
    if text is None:
        return None
    found = await find_event(ask.site.node.store, ask.site.env, text.upper())
    return text.upper() if found is None else found.key


async def _events(site: Site, found: Sequence[Event]) -> list[dict[str, Any]]:
    texts = await texts_of(site.node.store, [one.body for one in found])
    hides = site.redaction
    return [_event(one, decode(hides.shown(text) or text)) for one, text in zip(found, texts, strict=True)]


def _event(found: Event, body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "internal_id": found.internal_id,
        "account_id": DEV_ACCOUNT,
        "environment_id": found.env,
        "source": found.source,
        "source_id": None,
        "received_at": instant(found.received_at),
        "id": found.id,
        "name": found.name,
        "data": body.get("data", {}),
        "user": body.get("user", {}),
        "ts": found.ts,
        "v": body.get("v"),
        "meta": body.get("meta"),
    }


def time_of(ask: Ask, name: str) -> Instant | None:
    """A time in the query: RFC 3339 or milliseconds since 1970. Raises `InvalidInput`."""
    return _time(ask.query(name), name)


def _time(value: object, name: str) -> Instant | None:
    if value is None or value == "":
        return None
    text = str(value)
    if text.isdigit() and len(text) < 16:
        return int(text)
    moment = parse_time(text)
    if moment is None:
        raise InvalidInput(f"{name} must be a time such as 2026-08-21T10:00:00Z, not {text[:40]!r}", field=name)
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


# runs


async def run(ask: Ask) -> Response:
    (shown,) = await runs_shown(ask.site, [await run_row(ask)])
    return v1(shown)


async def cancel(ask: Ask) -> Response:
    """200 and an empty body, unlike v0 (trap 54)."""
    await ask.site.node.cancel(run_id(ask), "cancelled through the API", ask.site.env)
    return Response(status_code=200)


async def jobs(ask: Ask) -> Response:
    """What will be done for the run, and when."""
    row = await run_row(ask)
    return v1([_job(one) for one in await ask.site.node.store.jobs_of(row.id)])


def _job(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "run_id": job.run,
        "kind": job.kind.value,
        "step_id": job.step,
        "attempt": job.attempt,
        "run_at": instant(job.due),
        "status": "queued" if job.owner is None else "running",
    }


async def run_row(ask: Ask) -> RunRow:
    """The run named in the path. Raises `InvalidInput` and `NotFound`."""
    run = run_id(ask)
    row = await find_run(ask.site.node.store, ask.site.env, run)
    if row is None:
        raise NotFound(f"no run {run}")
    return row


async def internal_ids(site: Site, rows: Iterable[RunRow]) -> dict[EventKey, str]:
    """What the API calls the events that runs began with."""
    keys = dict.fromkeys(row.event for row in rows if row.event is not None)
    return {event.key: event.internal_id for event in await site.node.store.read_events(list(keys))}


async def runs_shown(site: Site, rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """Runs as `/v1` shows them."""
    ids = await internal_ids(site, rows)
    with_output = {row.id: row.output for row in rows if row.output is not None}
    texts = await texts_of(site.node.store, list(with_output.values()))
    outputs = dict(zip(with_output, texts, strict=True))
    return [_run(site, row, ids, outputs.get(row.id)) for row in rows]


def _run(site: Site, row: RunRow, ids: Mapping[EventKey, str], output: bytes | None) -> dict[str, Any]:
    function = site.node.registry.function(row.env, row.function)
    started_at = started_now(row, site.running)
    return {
        "run_id": row.id,
        "run_started_at": instant(started_at if started_at is not None else row.created_at),
        "function_id": function_id(row.env, row.function),
        "function_slug": row.function,
        "function_version": function.version if function is not None else 0,
        "environment_id": row.env,
        "event_id": ids.get(row.event, row.event) if row.event is not None else None,
        "status": STATUS[status_now(row, site.running)],
        "ended_at": instant(row.ended_at),
        "output": None if output is None else Raw(site.redaction.shown(output) or output),
    }


# functions


async def functions(ask: Ask) -> Response:
    """A bare array (trap 55)."""
    site = ask.site
    name = ask.part("name")
    if site.node.registry.service(site.env, name) is None:
        raise NotFound(f"no service {name!r}")
    found = [one for one in site.node.registry.functions(site.env) if one.service == name]
    return answers.json(
        [{**described(one), "id": one.id, "version": one.version, "config": Raw(one.config)} for one in found]
    )


# cancellations


async def cancel_many(ask: Ask) -> Response:
    """Cancel the runs of a function that began in a stretch of time; answered when all of them are."""
    site = ask.site
    body = await ask.json()
    now = site.node.world.now()
    before = _time(body.get("started_before"), "started_before")
    if before is None:
        raise InvalidInput(
            "started_before is missing; it says up to when a run must have begun", field="started_before"
        )
    if before > now + _FUTURE_MS:
        raise InvalidInput("started_before lies more than 5 s in the future", field="started_before")
    after = _time(body.get("started_after"), "started_after")
    if after is not None and after >= before:
        raise InvalidInput("started_after must lie before started_before", field="started_after")
    condition = body.get("if")
    if condition is not None and not isinstance(condition, str):
        raise InvalidInput("if must be an expression in text, such as event.data.id == 7", field="if")
    done = await site.sweep.cancel(site.env, _slug(site, body), after=after, before=before, condition=condition or None)
    return v1(_cancellation(done))


def _slug(site: Site, body: Mapping[str, Any]) -> str:
    """`function_id` is the function's own id beside `app_id`, or the composite slug alone."""
    function, app = body.get("function_id"), body.get("app_id")
    if not isinstance(function, str) or not function:
        raise InvalidInput("function_id is missing; it names the function whose runs to cancel", field="function_id")
    if app is None:
        return function
    if not isinstance(app, str):
        raise InvalidInput("app_id must be text", field="app_id")
    composite = composite_slug(app, function)
    known = site.node.registry.function(site.env, composite)
    return function if known is None and function.startswith(f"{app}-") else composite


async def cancellations(ask: Ask) -> Response:
    return v1([_cancellation(one) for one in ask.site.sweep.done(ask.site.env)])


async def forget_cancellation(ask: Ask) -> Response:
    ask.site.sweep.forget(ask.site.env, ask.part("id").upper())
    return Response(status_code=204)


def _cancellation(done: Cancellation) -> dict[str, Any]:
    return {
        "id": done.id,
        "environment_id": done.env,
        "function_id": done.function,
        "started_after": instant(done.started_after),
        "started_before": instant(done.started_before),
        "if": done.condition,
        "created_at": instant(done.at),
        "cancelled_count": len(done.cancelled),
    }
