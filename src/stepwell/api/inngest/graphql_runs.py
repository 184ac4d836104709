"""Runs and traces in GraphQL.

A run that is asked for by its id is read together with its journal, so that `run.status` and `run.trace.status` are
of one moment and always agree (trap 50). A run in a list is a row until a field needs more.

Protocol: sections 5.7, 8.5 and 8.6 of the Inngest wire protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepwell.api import masking
from stepwell.api.inngest.graphql_context import Context, NotSupportedYet, Resolvers
from stepwell.model.event import TICK, schedule_in
from stepwell.model.function import function_id
from stepwell.model.ids import RunId, derived_uuid
from stepwell.model.job import RunRow, RunStatus
from stepwell.node.reads import functions, runs, services
from stepwell.node.reads.runs import InvokeInfo, SleepInfo, Span, SpanKind, StepOp, TimeField, Trace, WaitInfo, trace_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.model.ids import Instant

MOST = 1000
"""Items on a page, whatever was asked for."""

_TIME_FIELDS = {"QUEUED_AT": TimeField.CREATED, "STARTED_AT": TimeField.STARTED, "ENDED_AT": TimeField.ENDED}
_NOTHING = ("",)  # no function and no service has this name


@dataclass(frozen=True, slots=True)
class SpanView:
    """A span in its place."""

    trace: Trace
    span: Span
    parent: SpanView | None = None

    @property
    def step(self) -> Span:
        """The step that it belongs to; an attempt belongs to its parent's."""
        return self.parent.span if self.parent is not None and self.span.kind is SpanKind.ATTEMPT else self.span


class RunPages:
    """What `runs` answers: the page and the count, each read only if asked for."""

    def __init__(self, wanted: runs.RunFilter, after: str | None, first: int, *, ascending: bool) -> None:
        self.wanted = wanted
        self.after = after
        self.first = first
        self.ascending = ascending

    async def page(self, context: Context) -> runs.RunPage:
        return await context.once(
            self,
            lambda: runs.list_runs(
                context.store, self.wanted, after=self.after, limit=self.first, ascending=self.ascending
            ),
        )


def page_info(cursors: Sequence[str], *, more: bool, after: str | None) -> dict[str, Any]:
    return {
        "hasNextPage": more,
        "hasPreviousPage": after is not None,
        "startCursor": cursors[0] if cursors else None,
        "endCursor": cursors[-1] if cursors else None,
    }


# queries


async def _run(_: object, context: Context, runID: str) -> RunRow | None:
    stored = await context.stored(runID.upper())
    return stored.row if stored is not None else None


async def _run_trace(_: object, context: Context, runID: str) -> SpanView | None:
    trace = await context.trace(RunId(runID.upper()))
    return SpanView(trace, trace.root) if trace is not None else None


async def _run_trigger(_: object, context: Context, runID: str) -> dict[str, Any] | None:
    stored = await context.stored(runID.upper())
    if stored is None:
        return None
    row = stored.row
    events = await runs.run_events(context.store, stored)
    batch = len(events) > 1
    return {
        "eventName": row.event_name,
        "IDs": [event.internal_id for event in events],
        "payloads": [context.shown(event.body) for event in events],
        "timestamp": min((event.received_at for event in events), default=row.created_at),
        "isBatch": batch,
        "batchID": row.event if batch else None,
        "cron": schedule_in(events[0].body) if events and row.event_name == TICK else None,
    }


async def _output(_: object, context: Context, outputID: str) -> runs.SpanOutput | None:
    return await runs.span_output(context.store, context.env, outputID)


def _runs(
    _: object,
    context: Context,
    first: int | None = None,
    after: str | None = None,
    orderBy: list[dict[str, Any]] | None = None,
    filter: dict[str, Any] | None = None,
    preview: bool | None = None,
) -> RunPages:
    given = filter or {}
    order = orderBy[0] if orderBy else {"field": "QUEUED_AT", "direction": "DESC"}
    statuses = given.get("status")
    wanted = runs.RunFilter(
        env=context.env,
        functions=_slugs(context, given.get("functionIDs")),
        services=_service_names(context, given.get("appIDs")),
        statuses=None if not statuses else tuple(RunStatus(one) for one in statuses if one in RunStatus.__members__),
        since=given.get("from"),
        until=given.get("until"),
        time_field=_TIME_FIELDS[given.get("timeField") or "QUEUED_AT"],
        search=given.get("query") or None,
    )
    if given.get("isDeferred"):
        raise NotSupportedYet("this server does not support deferred functions yet")
    length = max(1, min(40 if first is None else first, MOST))
    return RunPages(wanted, after or None, length, ascending=order["direction"] == "ASC")


def _slugs(context: Context, ids: list[str] | None) -> tuple[str, ...] | None:
    if not ids:
        return None
    found = [functions.function_with_id(context.node.registry, one, context.env) for one in ids]
    return tuple(function.slug for function in found if function is not None) or _NOTHING


def _service_names(context: Context, ids: list[str] | None) -> tuple[str, ...] | None:
    if not ids:
        return None
    found = [services.service_with_id(context.node.registry, one, context.env) for one in ids]
    return tuple(view.service.name for view in found if view is not None) or _NOTHING


# the page


async def _edges(pages: RunPages, context: Context) -> list[dict[str, Any]]:
    page = await pages.page(context)
    return [{"node": row, "cursor": row.id} for row in page.rows]


async def _page_info(pages: RunPages, context: Context) -> dict[str, Any]:
    page = await pages.page(context)
    return page_info([row.id for row in page.rows], more=page.more, after=pages.after)


async def _total(pages: RunPages, context: Context, preview: bool | None = None) -> int:
    return await runs.count_runs(context.store, pages.wanted)


# a run


def status(row: RunRow, context: Context) -> str:
    return runs.status_now(row, context.running).value


async def run_output(row: RunRow, context: Context) -> str | None:
    """The unwrapped result, or the error as it was received."""
    return await context.text(row.output) if row.status.final else None


async def _trace(row: RunRow, context: Context, preview: bool | None = None) -> SpanView | None:
    return await _run_trace(None, context, row.id)


async def _has_ai(row: RunRow, context: Context) -> bool:
    """Whether a step was an AI call. In lists only the row is looked at, and it does not tell."""
    if not context.was_read(row.id):
        return False
    trace = await context.trace(row.id)
    return trace is not None and any(span.step_kind.startswith("step.ai.") for span in trace.root.children)


async def _trigger_ids(row: RunRow, context: Context) -> list[str]:
    trigger = await _run_trigger(None, context, row.id)
    return trigger["IDs"] if trigger is not None else []


async def _payloads(row: RunRow, context: Context) -> list[str]:
    trigger = await _run_trigger(None, context, row.id)
    return trigger["payloads"] if trigger is not None else []


async def _schedule(row: RunRow, context: Context) -> str | None:
    trigger = await _run_trigger(None, context, row.id) if row.event_name == TICK else None
    return trigger["cron"] if trigger is not None else None


def _batch_at(row: RunRow, context: Context) -> Instant | None:
    return row.created_at if row.event_count > 1 else None


# spans


async def _span_run(view: SpanView, context: Context) -> RunRow | None:
    return await _run(None, context, view.trace.run)


def _parent_id(view: SpanView, context: Context) -> str | None:
    return view.parent.span.ref.span_id if view.parent is not None else None


def _children(view: SpanView, context: Context) -> list[SpanView]:
    return [SpanView(view.trace, child, view) for child in view.span.children]


def _step_op(view: SpanView, context: Context) -> str | None:
    return view.step.op.value if view.step.op is not None else None


def _step_type(view: SpanView, context: Context) -> str:
    step = view.step
    if step.kind is SpanKind.STEP:
        return step.step_kind or (step.op or StepOp.RUN).value
    return step.kind.value.upper()


def _step_info(view: SpanView, context: Context) -> dict[str, Any] | None:
    step = view.span
    match step.info:
        case SleepInfo(until):
            return {"__typename": "SleepStepInfo", "sleepUntil": until}
        case WaitInfo() as info:
            return {
                "__typename": "WaitForEventStepInfo",
                "eventName": info.event,
                "expression": info.expression,
                "timeout": info.until,
                "foundEventID": info.found_event,
                "timedOut": info.timed_out,
            }
        case InvokeInfo() as info:
            return {
                "__typename": "InvokeStepInfo",
                "triggeringEventID": info.event_id,
                "functionID": info.function,
                "timeout": info.until,
                "returnEventID": None,
                "runID": info.child,
                "timedOut": info.timed_out,
            }
        case None:
            return {"__typename": "RunStepInfo", "type": step.step_kind} if step.kind is SpanKind.STEP else None


def step_info_type(value: Any, _info: Any, _union: Any) -> str:
    """Which member of the union a step info is."""
    name: str = value["__typename"]
    return name


def _response(view: SpanView, context: Context) -> dict[str, Any] | None:
    for request in view.trace.requests:
        if request.call == view.span.call and request.status:
            return {"statusCode": request.status, "headers": {}}
    return None


def _text(text: bytes | None) -> str | None:
    return text.decode() if text is not None else None


RESOLVERS: Resolvers = {
    "Query": {
        "run": _run,
        "runTrace": _run_trace,
        "runTrigger": _run_trigger,
        "runTraceSpanOutputByID": _output,
        "runs": _runs,
        # Debugging sessions do not exist here yet.
        "debugRun": lambda _, context, query: None,
        "debugSession": lambda _, context, query: None,
    },
    "RunsV2Connection": {"edges": _edges, "pageInfo": _page_info, "totalCount": _total},
    "FunctionRunV2": {
        "traceID": lambda row, context: trace_id(row.id),
        "status": status,
        "function": lambda row, context: context.function(row.function, row.service),
        "functionID": lambda row, context: function_id(row.env, row.function),
        "app": lambda row, context: context.service(row.service),
        "appID": lambda row, context: derived_uuid("service", row.env, row.service),
        "eventName": lambda row, context: row.event_name or None,
        "triggerIDs": _trigger_ids,
        "triggers": _payloads,
        "isBatch": lambda row, context: row.event_count > 1,
        "batchCreatedAt": _batch_at,
        "cronSchedule": _schedule,
        "sourceID": lambda row, context: row.parent,
        "queuedAt": lambda row, context: row.created_at,
        "startedAt": lambda row, context: runs.started_now(row, context.running),
        "endedAt": lambda row, context: row.ended_at,
        "output": run_output,
        "trace": _trace,
        "hasAI": _has_ai,
    },
    "RunTraceSpan": {
        "appID": lambda view, context: derived_uuid("service", context.env, view.trace.service),
        "functionID": lambda view, context: function_id(context.env, view.trace.function),
        "runID": lambda view, context: view.trace.run,
        "run": _span_run,
        "traceID": lambda view, context: trace_id(view.trace.run),
        "spanID": lambda view, context: view.span.ref.span_id,
        "parentSpanID": _parent_id,
        "parentSpan": lambda view, context: view.parent,
        "isRoot": lambda view, context: view.parent is None,
        "name": lambda view, context: view.span.name,
        "status": lambda view, context: view.span.status.value,
        "attempts": lambda view, context: view.span.attempts,
        "duration": lambda view, context: view.span.duration_ms,
        "outputID": lambda view, context: view.span.output_id,
        "queuedAt": lambda view, context: view.span.queued_at,
        "scheduledAt": lambda view, context: view.span.scheduled_at or view.span.queued_at,
        "startedAt": lambda view, context: view.span.started_at,
        "endedAt": lambda view, context: view.span.ended_at,
        "childrenSpans": _children,
        "stepID": lambda view, context: view.step.step,
        "stepOp": _step_op,
        "stepType": _step_type,
        "stepInfo": _step_info,
        "userlandStepID": lambda view, context: view.step.name if view.step.step is not None else None,
        "userlandStepIndex": lambda view, context: view.step.index if view.step.step is not None else None,
        "groupID": lambda view, context: None,
        "metadata": lambda view, context: [],
        "response": _response,
        "isUserland": lambda view, context: False,
        "userlandSpan": lambda view, context: None,
        "skipReason": lambda view, context: None,
        "skipExistingRunID": lambda view, context: None,
        "debugRunID": lambda view, context: None,
        "debugSessionID": lambda view, context: None,
    },
    "RunTraceSpanOutput": {
        "input": lambda output, context: _text(context.redaction.shown(output.input)),
        "data": lambda output, context: _text(context.redaction.shown(masking.shown(output.data))),
    },
}
