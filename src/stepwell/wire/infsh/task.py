"""A task as clients see it: whole, slim, its status alone, its logs, its timings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from stepwell.model.app import AppVersion
from stepwell.model.duration import format_duration
from stepwell.model.ids import Instant
from stepwell.model.task import TaskPhase, TaskRequest, TaskStatus
from stepwell.wire.infsh.text import instant, short_id

_GROUPS = (
    ("queued", TaskStatus.RECEIVED, TaskStatus.DISPATCHED),
    ("preparing", TaskStatus.PREPARING, TaskStatus.SETTING_UP),
    ("running", TaskStatus.RUNNING, TaskStatus.UPLOADING),
)


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of a task: the record, and how far it has come since.

    Attributes:
        output: JSON.
        logs: Texts by their type, as far as they are kept.
        phases: Each status that it came to, in order, with its time.
        version: Of the app; None if it is gone.
    """

    id: str
    request: TaskRequest
    status: TaskStatus
    created_at: Instant
    updated_at: Instant
    run_at: Instant | None = None
    output: msgspec.Raw | None = None
    error: str = ""
    logs: Mapping[int, str] = {}
    phases: Sequence[TaskPhase] = ()
    version: AppVersion | None = None


def whole(view: TaskView) -> dict[str, Any]:
    """The whole object: what a client must get at the end, since it merges nothing into it."""
    asked, version = view.request, view.version
    return {
        **_who(view),
        "deleted_at": None,
        "status": view.status,
        "status_text": view.status.name.lower(),
        "visibility": "private",
        "user_id": "",
        "team_id": "",
        "error": view.error or None,
        "input": asked.input,
        "output": view.output,
        "logs": logs(view),
        "events": _events(view),
        "session_id": asked.session or None,
        "session_timeout": asked.session_timeout_s or None,
        "app_id": version.app_id if version is not None else "",
        "app": _app(version),
        "app_version_id": version.id if version is not None else "",
        "function": asked.function,
        "variant": asked.variant,
        "setup": asked.setup,
        "infra": asked.infra or "private",
        "workers": asked.workers,
        "run_at": instant(view.run_at),
        "webhook": asked.webhook or None,
        "metadata": asked.metadata,
        "rating": "unrated",
        "usage_events": [],
        "is_featured": False,
    }


def slim(view: TaskView) -> dict[str, Any]:
    """What somebody gets who has just asked for a task."""
    return {
        **_who(view),
        "status": view.status,
        "status_text": view.status.name.lower(),
        "output": view.output,
        "error": view.error or None,
        "session_id": view.request.session or None,
        "run_at": instant(view.run_at),
    }


def status(view: TaskView) -> dict[str, Any]:
    return {"id": view.id, "status": view.status, "updated_at": instant(view.updated_at)}


def logs(view: TaskView) -> list[dict[str, Any]]:
    """One entry for each type, with the whole text."""
    return [log_entry(view.id, kind, text, view.created_at) for kind, text in sorted(view.logs.items())]


def log_entry(task: str, log_type: int, text: str, created_at: Instant) -> dict[str, Any]:
    return {
        "id": f"{task}-{log_type}",
        "task_id": task,
        "log_type": log_type,
        "content": text,
        "created_at": instant(created_at),
    }


def task_logs(view: TaskView) -> dict[str, Any]:
    return {"task_id": view.id, "status": view.status, "events": _events(view), "logs": logs(view)}


def timings(view: TaskView, now: Instant) -> dict[str, Any]:
    """How long it was in which status; that of a task that goes on lasts until now."""
    phases = list(view.phases) or [TaskPhase(view.status, view.created_at)]
    ended = phases[-1].at if phases[-1].status.final else max(now, phases[-1].at)
    ends = [following.at for following in phases[1:]] + [ended]
    events: list[dict[str, Any]] = []
    for number, (phase, end) in enumerate(zip(phases, ends, strict=True)):
        after = phases[number + 1].status.name.lower() if number + 1 < len(phases) else ""
        events.append(
            {
                "status": phase.status.name.lower(),
                "timestamp": instant(phase.at),
                **_lasted(phase.at, end),
                "next_status": after,
            }
        )
    groups = []
    for label, first, last in _GROUPS:
        spans = [(phase.at, end) for phase, end in zip(phases, ends, strict=True) if first <= phase.status <= last]
        if spans:
            start, end = spans[0][0], spans[-1][1]
            groups.append({"label": label, "start_at": instant(start), "end_at": instant(end), **_lasted(start, end)})
    total = _lasted(phases[0].at, ended)
    return {
        "task_id": view.id,
        "status": view.status,
        "total_duration": total["duration"],
        "total_duration_ms": total["duration_ms"],
        "groups": groups,
        "events": events,
    }


def _who(view: TaskView) -> dict[str, Any]:
    return {
        "id": view.id,
        "short_id": short_id(view.id),
        "created_at": instant(view.created_at),
        "updated_at": instant(view.updated_at),
    }


def _events(view: TaskView) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{view.id}-{phase.status:d}",
            "task_id": view.id,
            "status": phase.status,
            "event_time": instant(phase.at),
            "created_at": instant(phase.at),
        }
        for phase in view.phases
    ]


def _app(version: AppVersion | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {
        "id": version.app_id,
        "namespace": version.namespace,
        "name": version.name,
        "version_id": version.id,
    }


def _lasted(start: Instant, end: Instant) -> dict[str, Any]:
    milliseconds = max(0, end - start)
    return {"duration": format_duration(timedelta(milliseconds=milliseconds)), "duration_ms": milliseconds}
