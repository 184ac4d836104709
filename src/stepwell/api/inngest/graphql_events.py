"""Events in GraphQL, in the older form and in the newer one.

An event can be asked for from the moment it is accepted, before it has started anything (trap 15). Ids here are
internal ids, those that sending answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepwell.api.inngest.graphql_context import Context, NotSupportedYet, Resolvers
from stepwell.api.inngest.graphql_runs import MOST, page_info, run_output, status
from stepwell.model.event import TICK, Event, read_body
from stepwell.model.function import function_id
from stepwell.model.job import RunRow, RunStatus
from stepwell.model.payload import canonical
from stepwell.node.reads import events, runs

if TYPE_CHECKING:
    from stepwell.model.ids import EventKey

EVENTS_SHOWN = 100
"""Events that the `events` query lists; it has no pages."""


class EventPages:
    """What `eventsV2` answers: the page and the count, each read only if asked for."""

    def __init__(self, wanted: events.EventFilter, after: str | None, first: int) -> None:
        self.wanted = wanted
        self.after = after
        self.first = first

    async def page(self, context: Context) -> events.EventPage:
        return await context.once(
            self, lambda: events.list_events(context.store, self.wanted, after=self.after, limit=self.first)
        )


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run as the older form shows it, beside the event that it was asked for through."""

    row: RunRow
    event: Event


# queries


async def _event(_: object, context: Context, query: dict[str, Any]) -> Event | None:
    return await events.find_event(context.store, context.env, str(query["eventId"]).upper())


async def _events(_: object, context: Context, query: dict[str, Any]) -> list[Event]:
    page = await events.list_events(context.store, events.EventFilter(env=context.env), limit=EVENTS_SHOWN)
    return list(page.events)


async def _event_v2(_: object, context: Context, id: str) -> Event | None:
    return await events.find_event(context.store, context.env, id)


def _events_v2(
    _: object,
    context: Context,
    first: int | None = None,
    after: str | None = None,
    filter: dict[str, Any] | None = None,
) -> EventPages:
    given = filter or {}
    if given.get("query"):
        raise NotSupportedYet("this server does not support searching events by expression yet; filter by name")
    names = given.get("eventNames")
    wanted = events.EventFilter(
        env=context.env,
        names=tuple(names) if names else None,
        since=given.get("from"),
        until=given.get("until"),
        internal=bool(given.get("includeInternalEvents")),
    )
    return EventPages(wanted, after or None, max(1, min(50 if first is None else first, MOST)))


async def _stream(_: object, context: Context, query: dict[str, Any]) -> list[Event]:
    internal, limit = query.get("includeInternalEvents"), query.get("limit")
    wanted = events.EventFilter(
        env=context.env,
        since=query.get("after"),
        until=query.get("before"),
        internal=True if internal is None else internal,
    )
    page = await events.list_events(context.store, wanted, limit=max(1, min(40 if limit is None else limit, MOST)))
    return list(page.events)


# an event


async def _payload(event: Event, context: Context) -> str:
    # The body is canonical, so what is read and written again is the text that the event had.
    return canonical(read_body((await context.event_text(event)).encode()).get("data")).decode()


async def _raw(event: Event, context: Context) -> str:
    return await context.event_text(event)


async def _event_status(event: Event, context: Context) -> str:
    found = [row.status for row in await context.started_by(event)]
    if not found:
        return "NO_FUNCTIONS"
    if not all(one.final for one in found):
        return "RUNNING"
    kinds = set(found)
    if kinds == {RunStatus.FAILED}:
        return "FAILED"
    if kinds == {RunStatus.CANCELLED}:
        return "CANCELLED"
    return "COMPLETED" if RunStatus.FAILED not in kinds else "PARTIALLY_FAILED"


async def _pending(event: Event, context: Context) -> int:
    return sum(not row.status.final for row in await context.started_by(event))


async def _total_runs(event: Event, context: Context) -> int:
    return len(await context.started_by(event))


async def _function_runs(event: Event, context: Context) -> list[StartedRun]:
    return [StartedRun(row, event) for row in await context.started_by(event)]


async def _runs(event: Event, context: Context) -> list[RunRow]:
    return list(await context.started_by(event))


async def _in_batch(event: Event, context: Context) -> bool:
    return any(row.event_count > 1 for row in await context.started_by(event))


async def _version(event: Event, context: Context) -> str | None:
    version = read_body((await context.event_text(event)).encode()).get("v")
    return version if isinstance(version, str) else None


# a run in the older form


def _run_status(run: StartedRun, context: Context) -> str:
    return status(run.row, context)


async def _run_output(run: StartedRun, context: Context) -> str | None:
    return await run_output(run.row, context)


async def _pending_steps(run: StartedRun, context: Context) -> int:
    if run.row.status.final:
        return 0
    waits, jobs = await asyncio.gather(context.store.waits_of(run.row.id), context.store.jobs_of(run.row.id))
    steps = {wait.step for wait in waits if not wait.cancels} | {job.step for job in jobs if job.step}
    return len(steps)


async def _waiting_for(run: StartedRun, context: Context) -> dict[str, Any] | None:
    for wait in await context.store.waits_of(run.row.id):
        if not wait.cancels:
            return {"expiryTime": wait.until, "eventName": wait.event, "expression": wait.expression}
    return None


# the page


async def _edges(pages: EventPages, context: Context) -> list[dict[str, Any]]:
    page = await pages.page(context)
    return [{"node": event, "cursor": event.key} for event in page.events]


async def _page_info(pages: EventPages, context: Context) -> dict[str, Any]:
    page = await pages.page(context)
    keys: list[EventKey] = [event.key for event in page.events]
    return page_info(keys, more=page.more, after=pages.after)


async def _total(pages: EventPages, context: Context) -> int:
    return await events.count_events(context.store, pages.wanted)


RESOLVERS: Resolvers = {
    "Query": {
        "event": _event,
        "events": _events,
        "eventV2": _event_v2,
        "eventsV2": _events_v2,
        "stream": _stream,
    },
    "Event": {
        "id": lambda event, context: event.internal_id,
        "createdAt": lambda event, context: event.received_at,
        "payload": _payload,
        "raw": _raw,
        "status": _event_status,
        "pendingRuns": _pending,
        "totalRuns": _total_runs,
        "functionRuns": _function_runs,
    },
    "FunctionRun": {
        "id": lambda run, context: run.row.id,
        "name": lambda run, context: context.function(run.row.function).name,
        "status": _run_status,
        "function": lambda run, context: context.function(run.row.function, run.row.service),
        "functionID": lambda run, context: function_id(run.row.env, run.row.function),
        "eventID": lambda run, context: run.event.internal_id,
        "startedAt": lambda run, context: runs.started_now(run.row, context.running),
        "finishedAt": lambda run, context: run.row.ended_at,
        "endedAt": lambda run, context: run.row.ended_at,
        "output": _run_output,
        "pendingSteps": _pending_steps,
        "waitingFor": _waiting_for,
    },
    "StreamItem": {
        "id": lambda event, context: event.internal_id,
        "trigger": lambda event, context: event.name,
        "type": lambda event, context: "CRON" if event.name == TICK else "EVENT",
        "createdAt": lambda event, context: event.received_at,
        "inBatch": _in_batch,
        "runs": _function_runs,
    },
    "EventsConnection": {"edges": _edges, "pageInfo": _page_info, "totalCount": _total},
    "EventV2": {
        "id": lambda event, context: event.internal_id,
        "envID": lambda event, context: event.env,
        "raw": _raw,
        "receivedAt": lambda event, context: event.received_at,
        "occurredAt": lambda event, context: event.ts,
        "idempotencyKey": lambda event, context: event.id if event.id != event.internal_id else None,
        "version": _version,
        "source": lambda event, context: {"id": None, "name": event.source},
        "runs": _runs,
    },
}
