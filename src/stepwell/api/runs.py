"""Our own REST for the command line and the SDK's client: runs, services, functions, and following a run live.

Everything here can be had by a person with curl; the protocol's own routes stay as its SDKs expect them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import Response, StreamingResponse

from stepwell.api import answers
from stepwell.api.answers import Raw, instant
from stepwell.api.inngest.dev import triggers_of
from stepwell.api.inngest.events import invoked
from stepwell.api.inngest.state import run_id
from stepwell.api.inngest.v1 import time_of
from stepwell.api.routes import Ask, Route
from stepwell.model import journal
from stepwell.model.errors import InvalidInput, NotFound, Overloaded
from stepwell.model.ids import RunId, derived_ulid, ulid_time
from stepwell.model.job import RunStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from stepwell.api.site import Site
    from stepwell.model.function import Function, Service
    from stepwell.model.job import RunRow
    from stepwell.model.journal import Entry

DEFAULT_RUNS = 20
MAX_RUNS = 100
_KEEP_ALIVE_S = 15.0


def routes() -> list[Route]:
    return [
        Route("GET", "/api/runs", runs),
        Route("GET", "/api/runs/{id}", run),
        Route("GET", "/api/runs/{id}/follow", follow),
        Route("POST", "/api/runs/{id}/cancel", cancel),
        Route("GET", "/api/services", services),
        Route("GET", "/api/functions", functions),
        Route("POST", "/api/functions/{slug:path}/invoke", invoke),
    ]


# runs


async def runs(ask: Ask) -> Response:
    """Newest first; `cursor` is the id of the last run seen."""
    site = ask.site
    limit = ask.limit(DEFAULT_RUNS, MAX_RUNS)
    cursor = ask.query("cursor")
    if cursor is not None:
        try:
            ulid_time(cursor)
        except ValueError as err:
            raise InvalidInput(f"cursor: {err}", field="cursor") from err
    function = ask.query("function")
    rows = await site.lookup.runs(
        site.env,
        functions=None if function is None else (function,),
        statuses=_statuses(ask.query("status")),
        created_from=time_of(ask, "since"),
        created_until=time_of(ask, "until"),
        before=None if cursor is None else RunId(cursor.upper()),
        limit=limit,
    )
    more = rows[-1].id if len(rows) == limit else None
    return answers.json({"runs": await _runs(site, rows), "cursor": more})


def _statuses(text: str | None) -> tuple[RunStatus, ...] | None:
    if text is None:
        return None
    try:
        return tuple(RunStatus(one.strip().upper()) for one in text.split(","))
    except ValueError as err:
        known = ", ".join(one.value for one in RunStatus)
        raise InvalidInput(f"status must be one or more of {known}, not {text[:60]!r}", field="status") from err


async def _runs(site: Site, rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    ids = await site.lookup.internal_ids(row.event for row in rows)
    return [
        {
            "id": row.id,
            "function": row.function,
            "service": row.service,
            "status": row.status.value,
            "created_at": instant(row.created_at),
            "started_at": instant(row.started_at),
            "ended_at": instant(row.ended_at),
            "event_id": ids.get(row.event, row.event) if row.event is not None else None,
            "event_name": row.event_name,
            "parent": row.parent,
            "entries": row.seq,
        }
        for row in rows
    ]


async def run(ask: Ask) -> Response:
    """One run with its events, its output or error, and its steps."""
    site = ask.site
    found = await site.lookup.journal(site.env, run_id(ask))
    (shown,) = await _runs(site, [found.row])
    output = None
    if found.row.output is not None:
        (text,) = await site.lookup.texts([found.row.output])
        output = Raw(text)
    first = found.entries[0]
    assert isinstance(first, journal.RunStarted)
    shown["events"] = [Raw(text) for text in await site.lookup.texts(first.events)]
    shown["error" if found.row.status is RunStatus.FAILED else "output"] = output
    shown["changes"] = [one for n, entry in enumerate(found.entries, 1) if (one := change(n, entry)) is not None]
    return answers.json(shown)


async def cancel(ask: Ask) -> Response:
    """Answered when the run is cancelled, durably."""
    run = run_id(ask)
    await ask.site.node.cancel(run, "cancelled by its operator", ask.site.env)
    return answers.json({"id": run, "status": RunStatus.CANCELLED.value})


# following


async def follow(ask: Ask) -> Response:
    """Changes of a run as server-sent events, from the first or from after `Last-Event-ID`, until it has ended.

    The id of an event is the number of its journal entry: who comes back with the last one misses nothing.
    """
    site = ask.site
    run = run_id(ask)
    after = _last_seen(ask)
    await site.lookup.run(site.env, run)
    if site.watch.followers >= site.limits.max_streams:
        raise Overloaded(
            f"{site.limits.max_streams} streams are open and no more may be (max_streams)", retry_after_s=5
        )
    return StreamingResponse(
        _changes(site, run, after),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


def _last_seen(ask: Ask) -> int:
    text = ask.request.headers.get("last-event-id") or ask.query("after") or "0"
    if not text.isdigit() or len(text) > 9:
        raise InvalidInput("Last-Event-ID must be the id of an event of this stream", field="after")
    return int(text)


async def _changes(site: Site, run: RunId, after: int) -> AsyncIterator[bytes]:
    with site.watch.follow(run) as follower:
        while True:
            found = await site.lookup.journal(site.env, run, after)
            for entry in found.entries:
                after += 1
                shown = change(after, entry)
                if shown is not None:
                    yield _sse(shown["type"], after, shown)
            if found.row.status.final and after >= found.row.seq:
                (row,) = await _runs(site, [found.row])
                yield _sse("end", after, row)
                return
            while not site.watch.closed:
                try:
                    await asyncio.wait_for(follower.moved(), _KEEP_ALIVE_S)
                    break
                except TimeoutError:
                    yield b": still here\n\n"
            if site.watch.closed:
                return  # the client comes back with the last id, to the next server


def _sse(kind: str, number: int, value: Mapping[str, Any]) -> bytes:
    return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), number, answers.encode(value))


def change(number: int, entry: Entry) -> dict[str, Any] | None:
    """An entry as followers see it; None for those that only matter inside."""
    match entry:
        case journal.RunStarted():
            members: dict[str, Any] = {"type": "run", "status": RunStatus.QUEUED.value}
        case journal.RunCompleted():
            members = {"type": "run", "status": RunStatus.COMPLETED.value}
        case journal.RunFailed():
            members = {"type": "run", "status": RunStatus.FAILED.value, "code": entry.code}
        case journal.RunCancelled():
            members = {"type": "run", "status": RunStatus.CANCELLED.value, "reason": entry.reason}
        case journal.StepScheduled():
            members = _step(entry.step, entry.name, "SCHEDULED")
        case journal.StepCompleted():
            members = _step(entry.step, entry.name, "COMPLETED")
        case journal.StepRetried():
            members = {**_step(entry.step, entry.name, "RETRYING"), "retry_at": instant(entry.retry_at)}
        case journal.StepFailed():
            members = _step(entry.step, entry.name, "FAILED")
        case journal.SleepStarted():
            members = {**_step(entry.step, entry.name, "SLEEPING"), "until": instant(entry.until)}
        case journal.WaitStarted():
            members = {**_step(entry.step, entry.name, "WAITING"), "event": entry.event, "until": instant(entry.until)}
        case journal.InvokeStarted():
            members = {**_step(entry.step, entry.name, "INVOKING"), "function": entry.function}
        case journal.CallEnded() if entry.outcome in {"failed", "lost"}:
            members = {"type": "call", "outcome": entry.outcome, "status": entry.status}
        case journal.Noted():
            members = {"type": "note", "kind": entry.kind, "text": entry.text}
        case _:
            return None
    return {"number": number, "at": instant(entry.at), **members}


def _step(step: str, name: str, status: str) -> dict[str, Any]:
    return {"type": "step", "step": step, "name": name, "status": status}


# services and functions


async def services(ask: Ask) -> Response:
    """The services that are known, and the URLs that were asked and have not registered."""
    site = ask.site
    known = [_service(one) for one in site.node.registry.services() if one.env == site.env]
    asked = list(site.sync.targets()) if site.sync is not None else []
    return answers.json({"services": known, "urls": asked})


def _service(service: Service) -> dict[str, Any]:
    return {
        "id": service.id,
        "name": service.name,
        "transport": service.transport.value,
        "url": service.url,
        "sdk": service.sdk,
        "framework": service.framework,
        "app_version": service.app_version,
        "registered_at": instant(service.registered_at),
        "error": service.error,
        "functions": [one.slug for one in service.functions if not one.archived],
    }


async def functions(ask: Ask) -> Response:
    site = ask.site
    return answers.json({"functions": [_function(one) for one in site.node.registry.functions(site.env)]})


def _function(function: Function) -> dict[str, Any]:
    return {
        "id": function.id,
        "slug": function.slug,
        "name": function.name,
        "service": function.service,
        "triggers": triggers_of(function),
        "retries": function.retries,
        "version": function.version,
        "warnings": list(function.warnings),
        "config": Raw(function.config),
    }


async def invoke(ask: Ask) -> Response:
    """Run a function; the id of its run is known at once, since it is derived from the event."""
    site = ask.site
    slug = ask.part("slug")
    function = site.node.registry.function(site.env, slug)
    if function is None or function.archived:
        known = ", ".join(one.slug for one in site.node.registry.functions(site.env)[:20]) or "none"
        raise NotFound(f"no function {slug!r}; there are: {known}")
    event = await invoked(ask, slug)
    run = derived_ulid(event.received_at, event.key, slug)
    return answers.json({"run_id": run, "event_id": event.internal_id}, 201)
