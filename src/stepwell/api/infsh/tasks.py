"""Tasks: asking for one, looking at it, cancelling it, removing it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from stepwell.api.infsh import answers
from stepwell.api.infsh.answers import RequirementsNotMet
from stepwell.api.infsh.stream import END, After, TaskStream
from stepwell.api.infsh.task_files import note_inputs, removed
from stepwell.api.infsh.views import know_progress, progress_of, shown, task_id, view_of
from stepwell.api.routes import Ask, Route
from stepwell.api.stream import Bell
from stepwell.model.app import DEFAULT_VARIANT, read_reference
from stepwell.model.duration import parse_time
from stepwell.model.errors import InvalidInput, NotFound, Overloaded, StepwellError
from stepwell.model.ids import ulid_time
from stepwell.model.session import IDLE_TIMEOUT_S
from stepwell.model.task import TaskRequest, TaskStatus, usage_of
from stepwell.node.reads.tasks import TaskFilter, task_of, tasks_of
from stepwell.wire.infsh import task as dto
from stepwell.wire.infsh.envelope import Requirement
from stepwell.wire.infsh.framing import Framing, wants_lines
from stepwell.wire.infsh.listing import page, read_list
from stepwell.wire.infsh.request import NEW_SESSION, read_body, read_run
from stepwell.wire.infsh.task import TaskView

if TYPE_CHECKING:
    from stepwell.model.app import App, AppVersion
    from stepwell.model.ids import RunId
    from stepwell.wire.infsh.listing import Filter, ListRequest
    from stepwell.wire.infsh.request import RunRequest

_FIELDS = frozenset(
    {
        "id", "status", "app", "app_id", "app_version_id", "function", "variant", "session_id", "created_at",
        "updated_at",
    }
)  # fmt: skip
_MOST_PAGES = 20
"""Looked at for one that filters leave something of."""
_LONGEST_KEY = 255
_MISSED_S = 0.05
_WAIT_S = 300.0
"""How long an answer is held back for somebody who wants the end of a task."""


class AppRetired(StepwellError):
    code = "APP_RETIRED"
    http_status = 410


class AppMaintenance(Overloaded):
    code = "APP_MAINTENANCE"


class _Cancel(msgspec.Struct):
    force: bool | None = None
    timeout: float | None = None


def routes() -> list[Route]:
    return [
        Route("POST", "/apps/run", run),
        Route("POST", "/run", run),
        Route("POST", "/tasks/list", list_tasks),
        Route("GET", "/tasks/featured", featured),
        Route("GET", "/tasks/{id}", task),
        Route("DELETE", "/tasks/{id}", remove),
        Route("GET", "/tasks/{id}/status", status),
        Route("GET", "/tasks/{id}/stream", stream),
        Route("POST", "/tasks/{id}/cancel", cancel),
        Route("GET", "/tasks/{id}/logs", logs),
        Route("GET", "/tasks/{id}/timings", timings),
        Route("GET", "/tasks/{id}/telemetry", telemetry),
        Route("POST", "/tasks/{id}/visibility", refuse),
        Route("POST", "/tasks/{id}/featured", refuse),
    ]


async def run(ask: Ask) -> Response:
    """Begin a task; it is durable once this is answered."""
    site = ask.site
    asked = read_run(await ask.body())
    key = ask.request.headers.get("idempotency-key", "")
    if len(key) > _LONGEST_KEY:
        raise InvalidInput(
            f"Idempotency-Key has {len(key)} letters and may have {_LONGEST_KEY}", field="Idempotency-Key"
        )
    app, version, function = await _wanted(ask, asked)
    check_runnable(ask, app, version, asked.variant)
    opens = asked.session == NEW_SESSION
    session = asked.session
    if opens:
        timeout_s = asked.session_timeout_s or IDLE_TIMEOUT_S
        session = site.node.sessions.open(version, timeout_s, workers=asked.workers).id
    request = TaskRequest(
        app=version.reference,
        function=function,
        input=asked.input,
        setup=asked.setup,
        variant=asked.variant or DEFAULT_VARIANT,
        session=session,
        opens=opens,
        session_timeout_s=asked.session_timeout_s,
        workers=asked.workers,
        webhook=asked.webhook,
        infra=asked.infra,
        metadata=asked.metadata,
        batch=asked.batch,
    )
    made = await site.node.tasks.begin(site.env, request, run_at=asked.run_at, key=key)
    await note_inputs(ask, made, asked.input)
    if asked.wait:
        return answers.data(ask, dto.whole(await _ended(ask, made)))
    if key:
        return answers.data(ask, dto.slim(await view_of(site, made)))
    now = ulid_time(made)
    begun = TaskView(
        id=made,
        request=request,
        status=TaskStatus.RECEIVED,
        created_at=now,
        updated_at=now,
        run_at=asked.run_at,
        version=version,
    )
    return answers.data(ask, dto.slim(begun))


async def _wanted(ask: Ask, asked: RunRequest) -> tuple[App, AppVersion, str]:
    """The app, its version, and which function."""
    site, apps = ask.site, ask.site.node.apps
    if asked.app:
        app, version = await apps.find(site.env, asked.app, site.namespace)
        named = read_reference(asked.app).function
    else:
        app, version = await apps.find_id(site.env, asked.app_id or asked.version_id)
        named = ""
    if asked.version_id:
        app, version = await apps.find(site.env, f"{app.reference}@{asked.version_id}")
    if asked.session and asked.session != NEW_SESSION:
        meant = read_reference(version.reference if "@" in asked.app or asked.version_id else app.reference)
        session = await site.node.sessions.resolve(site.env, asked.session, meant)
        app, version = await apps.find(site.env, session.app)
    function = asked.function or named or version.default_function
    if version.functions and function not in version.functions:
        raise NotFound(f"app {version.reference} has no function {function!r}; it has {', '.join(version.functions)}")
    return app, version, function


def check_runnable(ask: Ask, app: App, version: AppVersion, variant: str = "") -> None:
    """That the app may be run, and that there is what it needs. Raises `StepwellError`."""
    if app.status == "retired":
        raise AppRetired(f"app {app.reference} is retired{_why(app)}")
    if app.status == "maintenance":
        raise AppMaintenance(f"app {app.reference} is in maintenance{_why(app)}", retry_after_s=60)
    variants = {DEFAULT_VARIANT, *version.variants}
    if variant and variant not in variants:
        raise InvalidInput(
            f"app {version.reference} has no variant {variant!r}; it has {', '.join(sorted(variants))}",
            field="variant",
        )
    missing = [
        Requirement(
            key=one.key,
            message=f"{one.key} is not set; start the server with --app-secret {one.key}",
            type=kind,
            action=action,
        )
        for kind, action, needed in (
            ("secret", "add_secret", version.secrets),
            ("credential", "connect", version.integrations),
        )
        for one in needed
        if not one.optional and one.key not in ask.site.app_secrets
    ]
    if missing:
        raise RequirementsNotMet(missing)


def _why(app: App) -> str:
    return f": {app.status_message}" if app.status_message else ""


async def _ended(ask: Ask, made: RunId) -> TaskView:
    """The task once it has ended, or as it is after a while."""
    bell, site = Bell(), ask.site
    until = time.monotonic() + _WAIT_S
    with site.watch.follow(made, bell.ring):
        # It may have ended before this; most have not, and are not read for nothing.
        await bell.wait_until(time.monotonic() + _MISSED_S)
        found = await view_of(site, made)
        while not found.status.final and not site.watch.closed and await bell.wait_until(until):
            found = await view_of(site, made)
    return found


async def task(ask: Ask) -> Response:
    return answers.data(ask, dto.whole(await view_of(ask.site, task_id(ask))))


async def status(ask: Ask) -> Response:
    return answers.data(ask, dto.status(await view_of(ask.site, task_id(ask))))


async def stream(ask: Ask) -> Response:
    """What becomes of it, as NDJSON for those who accept that, else as server-sent events.

    `after` in the query is for those who cannot send `Last-Event-ID`. Who comes back after the end gets a 204, which
    tells a browser to stay away.
    """
    site, request = ask.site, ask.request
    most = site.limits.max_streams
    if site.watch.followers >= most:
        raise Overloaded(f"{most} streams are open and no more may be (max_streams)", retry_after_s=5)
    task, framing = task_id(ask), Framing(wants_lines(request.headers.get("accept", "")))
    last = request.headers.get("last-event-id") or ask.query("after") or ""
    if request.method == "HEAD" or last == END:
        found = await view_of(site, task)
        if request.method == "HEAD":
            return Response(media_type=framing.content_type)
        if found.status.final:
            return Response(status_code=204)
    elif site.node.shared:
        await know_progress(site, task)
    return await TaskStream(
        site,
        task,
        partial(view_of, site, task),
        framing,
        after=After(last) if last and last != END else None,
        merges=not request.headers.get("x-client-source", "").startswith("inference-sdk-js"),
        returns=request.headers.get("user-agent", "").startswith("inference-sdk-py"),
    ).opened()


async def cancel(ask: Ask) -> Response:
    """Of a task that has ended nothing changes, and that is no error."""
    asked = read_body(await ask.body(), _Cancel)
    grace_ms = 0 if asked.force else round(asked.timeout * 1000) if asked.timeout is not None else None
    task = task_id(ask)
    await ask.site.node.tasks.cancel(ask.site.env, task, grace_ms=grace_ms)
    return answers.data(ask, dto.slim(await view_of(ask.site, task)))


async def remove(ask: Ask) -> Response:
    """One that has ended; with `files=true` its files go, too."""
    site, task = ask.site, task_id(ask)
    with_files = ask.query("files") == "true" and site.files is not None
    found = await site.files.of_task(site.env, task) if with_files and site.files is not None else []
    await site.node.tasks.delete(site.env, task)
    await removed(ask, found)
    return answers.data(ask, None)


async def logs(ask: Ask) -> Response:
    return answers.data(ask, dto.task_logs(await view_of(ask.site, task_id(ask))))


async def timings(ask: Ask) -> Response:
    return answers.data(ask, dto.timings(await view_of(ask.site, task_id(ask)), ask.site.node.world.now()))


async def telemetry(ask: Ask) -> Response:
    """What the app said of its output, and what that makes."""
    node = ask.site.node
    found = await task_of(node.store, ask.site.env, task_id(ask), node.world.now(), ask.site.running)
    if found is None:
        raise NotFound(f"no task {task_id(ask)}")
    usage = usage_of(found.meta)
    told = {"task_id": found.id, "status": found.status, "worker_id": found.worker, "output_meta": found.meta}
    return answers.data(ask, {**told, "usage": usage})


async def list_tasks(ask: Ask) -> Response:
    """The newest first, or the oldest. Filters and a search look at no more than the newest few thousand."""
    site = ask.site
    wanted = read_list(await ask.body(), _FIELDS, {"created_at"})
    wanted = msgspec.structs.replace(wanted, filters=tuple(map(_in_our_terms, wanted.filters)))
    ascending = wanted.backward == wanted.descending("created_at")
    cursor, found, pages, more = wanted.cursor or None, list[TaskView](), 0, True
    while more and len(found) <= wanted.limit and pages < _MOST_PAGES:
        listed = await tasks_of(
            site.node.store,
            site.node.registry,
            _narrowed(site.env, wanted),
            site.node.world.now(),
            after=cursor,
            limit=wanted.limit + 1,
            ascending=ascending,
            running=site.running,
        )
        for one in listed.tasks:
            seen = await shown(site, one, progress_of(site, one.id))
            if wanted.holds(_fields(seen)) and wanted.search.holds(seen.id, one.request.app, seen.error):
                found.append(seen)
        cursor, more, pages = listed.cursor, listed.more, pages + 1
    there_is_more, found = len(found) > wanted.limit, found[: wanted.limit]
    if wanted.backward:
        found.reverse()
    before, after = (there_is_more, bool(wanted.cursor)) if wanted.backward else (bool(wanted.cursor), there_is_more)
    return answers.data(
        ask,
        page(
            [dto.whole(one) for one in found],
            limit=wanted.limit,
            following=found[-1].id if found and after else "",
            preceding=found[0].id if found and before else "",
        ),
    )


def _in_our_terms(one: Filter) -> Filter:
    """Statuses as numbers and times in ms, however they were written."""

    def number(value: object) -> object:
        if not isinstance(value, str):
            return value
        if one.field == "status":
            return TaskStatus.__members__.get(value.upper(), value)
        moment = parse_time(value)
        return value if moment is None else round(moment.timestamp() * 1000)

    if one.field not in ("status", "created_at", "updated_at"):
        return one
    value = [number(each) for each in one.value] if isinstance(one.value, list) else number(one.value)
    return msgspec.structs.replace(one, value=value)


def _narrowed(env: str, wanted: ListRequest) -> TaskFilter:
    """What the store can tell by itself; every filter is looked at once more."""
    narrowed = TaskFilter(env)
    for one in wanted.filters:
        values = one.value if one.operator == "in" and isinstance(one.value, list) else [one.value]
        if one.operator not in ("eq", "in"):
            continue
        if one.field == "status" and all(isinstance(each, int) for each in values):
            known = {status.value for status in TaskStatus}
            narrowed = replace(narrowed, statuses=tuple(TaskStatus(each) for each in values if each in known))
        elif one.field == "app" and all(isinstance(each, str) for each in values):
            narrowed = replace(narrowed, apps=tuple(values))
        elif one.field == "session_id" and one.operator == "eq" and isinstance(one.value, str):
            narrowed = replace(narrowed, session=one.value)
    return narrowed


def _fields(seen: TaskView) -> dict[str, Any]:
    version = seen.version
    return {
        "id": seen.id,
        "status": int(seen.status),
        "app": seen.request.app.partition("@")[0],
        "app_id": version.app_id if version is not None else "",
        "app_version_id": version.id if version is not None else "",
        "function": seen.request.function,
        "variant": seen.request.variant,
        "session_id": seen.request.session or None,
        "created_at": seen.created_at,
        "updated_at": seen.updated_at,
    }


async def featured(ask: Ask) -> Response:
    return answers.data(ask, page([]))


async def refuse(ask: Ask) -> Response:
    raise NotFound(
        f"{ask.request.method} {ask.request.url.path[:200]}: this server does not offer that; its tasks are private"
    )
