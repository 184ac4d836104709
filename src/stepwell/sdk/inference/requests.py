"""What a client asks about apps, and what the answers mean: generators that know neither sockets nor `await`.

    yield Ask  ──▶  somebody asks  ──▶  Answer  ──▶  the next Ask, or the result

A task is begun with a key, so that it is begun once however often the request was tried.
"""

from __future__ import annotations

import dataclasses
import mimetypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stepwell.model.duration import parse_time
from stepwell.model.errors import InvalidInput, NotFound, Unauthorized
from stepwell.model.payload import canonical
from stepwell.model.task import TaskStatus
from stepwell.sdk.client import requests
from stepwell.sdk.client.address import Address
from stepwell.sdk.client.errors import ServerError
from stepwell.sdk.client.exchange import Answer, Ask, Flow
from stepwell.sdk.inference.errors import (
    AppNotFound,
    RequirementsMissing,
    SessionLost,
    SessionOver,
    TaskCancelled,
    TaskFailed,
    TaskRefused,
)
from stepwell.sdk.inference.values import FileInfo, input_text, local_files, log_text

if TYPE_CHECKING:
    from stepwell.sdk.inference.types import Options

PAGE = 100
"""Entries of one page of a list."""
_OVER = frozenset({"SESSION_NOT_FOUND", "SESSION_EXPIRED", "SESSION_ENDED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """A task as it was when the server was asked. `output` and `input` are JSON.

    Attributes:
        app: Its reference, without the version; empty if the app is gone.
        logs: What it printed.
        session: Id of the session that it ran in; empty without one.
    """

    id: str
    app: str
    function: str
    status: TaskStatus
    input: Any = None
    output: Any = None
    error: str = ""
    logs: str = ""
    session: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as it was when the server was asked.

    Attributes:
        status: `active`, `ended` or `expired`.
        expires_at: When it ends if nobody calls it.
    """

    id: str
    app: str
    status: str
    calls: int = 0
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AppInfo:
    """An app, or one version of it. Schemas are JSON schemas.

    Attributes:
        version: Short id of the version.
        functions: By name, each with `description`, `input_schema`, `output_schema`, `capabilities`.
        status: `active`, `maintenance`, `deprecated` or `retired`.
    """

    id: str
    name: str
    version: str
    description: str = ""
    status: str = "active"
    functions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    default_function: str = "run"
    setup_schema: Mapping[str, Any] | None = None

    @property
    def reference(self) -> str:
        """`namespace/name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Begun:
    """A task that was begun, and the session that it runs in (empty: none)."""

    id: str
    session: str


# tasks


def begin(
    address: Address, app: str, input: object, function: str, options: Options, *, session_timeout_s: int = 0
) -> Flow[Begun]:
    """Upload the files of the input and begin a task.

    Raises:
        AppNotFound, RequirementsMissing, SessionOver, SessionLost: As their names say.
        InvalidInput: The input has no form in JSON, or the server does not take an option.
    """
    addresses = {}
    for path in local_files(input):
        addresses[path] = (yield from upload(address, path)).uri
    wanted: dict[str, Any] = {
        "app": app, "function": function or None, "variant": options.get("variant"), "webhook": options.get("webhook"),
        "session": options.get("session"), "session_timeout": session_timeout_s or None,
    }  # fmt: skip
    body = canonical({name: value for name, value in wanted.items() if value is not None})
    members = [body[1:-1], b'"input":%b' % input_text(input, addresses)]
    if options.get("setup") is not None:
        members.append(b'"setup":%b' % input_text(options["setup"], {}))
    found = yield from call(
        address, "POST", "/apps/run", b"{%b}" % b",".join(members),
        {"Idempotency-Key": options.get("key") or requests.seed()}, app=app, session=options.get("session", ""),
    )  # fmt: skip
    return Begun(str(found["id"]), str(found.get("session_id") or ""))


def task(address: Address, id: str) -> Flow[dict[str, Any]]:
    """Everything about a task. Raises `NotFound`."""
    found: dict[str, Any] = yield from call(address, "GET", f"/tasks/{quote(id, safe='')}")
    return found


def ended(address: Address, found: Mapping[str, Any]) -> Flow[Any]:
    """The output of a task that has ended.

    Raises:
        TaskFailed, TaskCancelled, SessionLost: It has none, or none that counts.
    """
    id, app = str(found["id"]), _app_of(found)
    if found["status"] == TaskStatus.CANCELLED:
        raise TaskCancelled(id, app, found.get("output"))
    if found["status"] != TaskStatus.COMPLETED:
        error: Any = None
        try:
            error = (yield from requests.detail(address, id)).get("error")  # which has the traceback
        except NotFound:
            pass  # removed meanwhile
        error = error if isinstance(error, dict) else {"message": found.get("error")}
        if error.get("name") == "SessionLost":
            raise SessionLost(str(found.get("session_id") or ""), SessionLost.code, str(error.get("message") or ""))
        raise TaskFailed(id, app, error)
    return found.get("output")


def cancel(address: Address, id: str, *, force: bool, timeout_s: float | None) -> Flow[None]:
    body = canonical({"force": force} if timeout_s is None else {"force": force, "timeout": timeout_s})
    yield from call(address, "POST", f"/tasks/{quote(id, safe='')}/cancel", body)


def delete(address: Address, id: str, *, files: bool) -> Flow[None]:
    query = {"files": "true"} if files else {}
    yield from call(address, "DELETE", f"/tasks/{quote(id, safe='')}", query=query)


def logs(address: Address, id: str) -> Flow[str]:
    found = yield from call(address, "GET", f"/tasks/{quote(id, safe='')}/logs")
    return log_text(found.get("logs") or ())


def tasks(address: Address, filters: Mapping[str, Any], limit: int) -> Flow[list[TaskInfo]]:
    wanted = [{"field": name, "operator": "eq", "value": value} for name, value in filters.items() if value is not None]
    found = yield from listed(address, "/tasks/list", limit, wanted)
    return [task_info(one) for one in found]


def task_info(found: Mapping[str, Any]) -> TaskInfo:
    return TaskInfo(
        id=str(found["id"]),
        app=_app_of(found),
        function=str(found.get("function") or ""),
        status=TaskStatus(found["status"]),
        input=found.get("input"),
        output=found.get("output"),
        error=str(found.get("error") or ""),
        logs=log_text(found.get("logs") or ()),
        session=str(found.get("session_id") or ""),
        created_at=parse_time(str(found.get("created_at") or "")),
        updated_at=parse_time(str(found.get("updated_at") or "")),
    )


def _app_of(found: Mapping[str, Any]) -> str:
    app = found.get("app")
    return f"{app.get('namespace')}/{app.get('name')}" if isinstance(app, dict) else ""


def streamed(address: Address, id: str, *, key: str | None, last_id: str) -> Ask:
    """The request that follows a task; its answer is a stream of server-sent events."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    return requests.with_key(Ask("GET", f"/tasks/{quote(id, safe='')}/stream", headers=headers), key)


# sessions


def session(address: Address, id: str, *, keepalive: bool = False) -> Flow[SessionInfo]:
    """What is known of a session; with `keepalive` its idle time starts again. Raises `SessionOver`."""
    path = f"/sessions/{quote(id, safe='')}"
    found = yield from call(
        address, "POST" if keepalive else "GET", f"{path}/keepalive" if keepalive else path, session=id
    )
    return _session_info(found)


def end_session(address: Address, id: str) -> Flow[None]:
    yield from call(address, "DELETE", f"/sessions/{quote(id, safe='')}", session=id)


def sessions(address: Address) -> Flow[list[SessionInfo]]:
    found = yield from call(address, "GET", "/sessions")
    return [_session_info(one) for one in found]


def _session_info(found: Mapping[str, Any]) -> SessionInfo:
    return SessionInfo(
        id=str(found["id"]),
        app=str(found.get("app") or ""),
        status=str(found.get("status") or ""),
        calls=int(found.get("call_count") or 0),
        expires_at=parse_time(str(found.get("expires_at") or "")),
    )


# files


def upload(
    address: Address, source: str | os.PathLike[str] | bytes, *, filename: str = "", content_type: str = ""
) -> Flow[FileInfo]:
    """Have the server keep a file: a path, bytes, a `data:` URI or an address that it is to get it from.

    Raises:
        InvalidInput: There is no such file, or the server does not take it.
    """
    entry: dict[str, Any] = {"filename": filename, "content_type": content_type, "uri": ""}
    content: bytes | None = None
    path: Path | None = None
    if isinstance(source, bytes):
        content, entry["size"] = source, len(source)
    elif isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        entry["uri"] = source
    else:
        path = Path(source)
        if not path.is_file():
            raise InvalidInput(f"{str(source)[:200]!r} is no file of this machine", field="source")
        entry["filename"] = filename or path.name
        entry["size"] = path.stat().st_size
    if not content_type and not entry["uri"]:
        entry["content_type"] = mimetypes.guess_type(entry["filename"])[0] or ""
    entry = {name: value for name, value in entry.items() if value != ""}
    (found,) = yield from call(address, "POST", "/files", canonical({"files": [entry]}))
    if found.get("upload_url"):
        kind = entry.get("content_type") or "application/octet-stream"
        ask = Ask(
            "PUT", "", content, headers={"Content-Type": kind, "Content-Length": str(entry["size"])}, file=path,
            elsewhere=str(found["upload_url"]),
        )  # fmt: skip
        answer = yield from requests.persistently(ask)
        check(answer, dataclasses.replace(ask, path="upload"))
    return _file_info(found)


def file(address: Address, id: str) -> Flow[FileInfo]:
    return _file_info((yield from call(address, "GET", f"/files/{quote(id, safe='')}")))


def files(address: Address, limit: int) -> Flow[list[FileInfo]]:
    return [_file_info(one) for one in (yield from listed(address, "/files/list", limit))]


def delete_file(address: Address, id: str) -> Flow[None]:
    yield from call(address, "DELETE", f"/files/{quote(id, safe='')}")


def address_of_file(address: Address, wanted: str | FileInfo) -> Flow[str]:
    """Where to read a file that is known by its address, its id, or as it was uploaded."""
    if isinstance(wanted, FileInfo):
        return wanted.uri
    if wanted.startswith(("http://", "https://")):
        return wanted
    return (yield from file(address, wanted)).uri


def _file_info(found: Mapping[str, Any]) -> FileInfo:
    return FileInfo(
        id=str(found["id"]),
        uri=str(found["uri"]),
        filename=str(found.get("filename") or ""),
        content_type=str(found.get("content_type") or ""),
        size=int(found.get("size") or 0),
    )


# apps


def app(address: Address, reference: str) -> Flow[AppInfo]:
    """Raises `AppNotFound`."""
    parts = "/".join(quote(one, safe="@:") for one in reference.split("/"))
    return _app_info((yield from call(address, "GET", f"/apps/{parts}", app=reference)))


def apps(address: Address, limit: int) -> Flow[list[AppInfo]]:
    return [_app_info(one) for one in (yield from listed(address, "/apps/list", limit))]


def versions(address: Address, reference: str) -> Flow[list[AppInfo]]:
    """The newest first. Raises `AppNotFound`."""
    whole = yield from app(address, reference)
    found = yield from listed(address, f"/apps/{quote(whole.id, safe='')}/versions/list", None)
    return [_version_info(whole.id, whole.name, whole.status, whole.description, one) for one in found]


def remove_app(address: Address, reference: str) -> Flow[None]:
    """Raises `AppNotFound`."""
    whole = yield from app(address, reference)
    yield from call(address, "DELETE", f"/apps/{quote(whole.id, safe='')}", app=reference)


def _app_info(found: Mapping[str, Any]) -> AppInfo:
    name = f"{found['namespace']}/{found['name']}"
    status, description = str(found.get("status") or "active"), str(found.get("description") or "")
    return _version_info(str(found["id"]), name, status, description, found["version"])


def _version_info(id: str, name: str, status: str, description: str, found: Mapping[str, Any]) -> AppInfo:
    return AppInfo(
        id=id,
        name=name,
        version=str(found["short_id"]),
        description=description,
        status=status,
        functions=found.get("functions") or {},
        default_function=str(found.get("default_function") or "run"),
        setup_schema=found.get("setup_schema"),
    )


# asking


def call(
    address: Address, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, *,
    query: Mapping[str, str] | None = None, app: str = "", session: str = "",
) -> Flow[Any]:  # fmt: skip
    """The data of an answer, out of its envelope.

    Args:
        app, session: What the request is about, for the error if that is not there.
    """
    sent = {"Content-Type": "application/json", **(headers or {})} if body is not None else dict(headers or {})
    ask = Ask(method, path, body, query=query or {}, headers=sent)
    answer = yield from requests.authorized(address, ask)
    check(answer, ask, app, session)
    found = answer.json()
    if not isinstance(found, dict) or "data" not in found:
        raise ServerError(
            f"{address.api} answers, but not as a Stepwell server does; is STEPWELL_URL (or url=) right?",
            status=answer.status,
            body=answer.body.decode("utf-8", "replace"),
        )
    return found["data"]


def listed(
    address: Address, path: str, limit: int | None, filters: Sequence[Mapping[str, Any]] = ()
) -> Flow[list[Any]]:
    """The first `limit` entries of a list; None: all."""
    items: list[Any] = []
    cursor = ""
    while limit is None or len(items) < limit:
        size = PAGE if limit is None else min(PAGE, limit - len(items))
        wanted: dict[str, Any] = {"limit": size, "filters": list(filters)}
        if cursor:
            wanted["cursor"] = cursor
        page = yield from call(address, "POST", path, canonical(wanted))
        items += page.get("items") or ()
        cursor = str(page.get("next_cursor") or "")
        if not page.get("has_next") or not cursor:
            break
    return items


def check(answer: Answer, ask: Ask, app: str = "", session: str = "") -> None:
    """Raise what a refusal means."""
    if answer.ok:
        return
    body = answer.json()
    found = body if isinstance(body, dict) else {}
    error = found.get("error")
    error = error if isinstance(error, dict) else {}
    reason = str(error.get("code") or str(found.get("type") or "").rpartition("/")[2])
    text = found.get("detail") or error.get("message") or found.get("message") or found.get("error")
    told = str(text or answer.body[:1000].decode("utf-8", "replace").strip() or f"HTTP {answer.status}")
    if answer.status == 412:
        missing = found.get("errors") or ()
        raise RequirementsMissing(told, tuple(str(one.get("key")) for one in missing if isinstance(one, dict)))
    if reason in _OVER:
        raise SessionOver(session, reason, told)
    if reason == SessionLost.code:
        raise SessionLost(session, reason, told)
    if answer.status == 404 and app:
        raise AppNotFound(app, told)
    if answer.status in (401, 403):
        advice = "; set STEPWELL_API_KEY (or api_key=) to a key of the server" if answer.status == 401 else ""
        raise Unauthorized(f"{ask.method} {ask.path}: {told}{advice}")
    if answer.status == 404:
        raise NotFound(told)
    if answer.status in (400, 413, 422):
        meta = error.get("meta")
        named = meta.get("field") if isinstance(meta, dict) else None
        raise InvalidInput(told, field=named if isinstance(named, str) else None)
    raise TaskRefused(
        f"{ask.method} {ask.path}: the server answered {answer.status}: {told}",
        status=answer.status,
        body=body,
        reason=reason,
    )
