"""A task, put together from its record and from what this node was told of its progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from stepwell.model.errors import NotFound
from stepwell.model.ids import RunId
from stepwell.model.task import TaskPhase, TaskStatus
from stepwell.node.reads.tasks import task_of
from stepwell.wire.infsh.progress import Progress, log_texts
from stepwell.wire.infsh.task import TaskView

if TYPE_CHECKING:
    from stepwell.api.routes import Ask
    from stepwell.api.site import Site
    from stepwell.model.app import AppVersion
    from stepwell.node.reads.tasks import Task


def task_id(ask: Ask) -> RunId:
    """The id of the task in the path."""
    return RunId(ask.part("id").upper())


async def view_of(site: Site, task: RunId, progress: Progress | None = None) -> TaskView:
    """A task as it is. Raises `NotFound`.

    Args:
        progress: What is known of it; None: what was published here so far.
    """
    node = site.node
    found = await task_of(node.store, site.env, task, node.world.now(), site.running)
    if found is None:
        raise NotFound(f"no task {task}")
    if progress is None:
        if not found.status.final:
            await know_progress(site, task)
        progress = progress_of(site, task)
    return await shown(site, found, progress)


async def know_progress(site: Site, task: RunId) -> None:
    """Have here what another server published of a task that goes on."""
    if site.node.shared and not site.running(task):
        await site.lookups.know(task)


async def shown(site: Site, found: Task, progress: Progress) -> TaskView:
    """The record says how it ended; until then the progress knows more."""
    return _view(found, progress, await _version(site, found))


def progress_of(site: Site, task: RunId) -> Progress:
    """The fold of what was published of a task here."""
    progress = Progress()
    log = site.streams.known(task)
    if log is not None:
        if log.first > 0:
            progress.missed()
        for index in range(log.first, log.end):
            progress.take(log.chunk(index).text)
    return progress


def _view(found: Task, progress: Progress, version: AppVersion | None) -> TaskView:
    final = found.status.final
    status = found.status if final else max(found.status, progress.status)
    output = msgspec.Raw(found.output) if found.output is not None else None
    if output is None and not final:
        output = progress.output
        if output is None and progress.merged is not None:
            output = msgspec.Raw(msgspec.json.encode(progress.merged))
    return TaskView(
        id=found.id,
        request=found.request,
        status=status,
        created_at=found.created_at,
        updated_at=found.updated_at if final else max(found.updated_at, progress.at),
        run_at=found.run_at,
        output=output,
        error=found.error,
        logs=_logs(found, progress),
        phases=_phases(found, progress),
        version=version,
    )


def _logs(found: Task, progress: Progress) -> Mapping[int, str]:
    if progress.lines > len(found.logs):
        return log_texts(progress.logs)
    lines: dict[int, list[str]] = {}
    for line in found.logs:
        lines.setdefault(line.log_type, []).append(line.text)
    return log_texts(lines)


def _phases(found: Task, progress: Progress) -> list[TaskPhase]:
    """Each status once, with the time at which it was reached first."""
    reached: dict[TaskStatus, int] = {}
    for phase in found.phases:
        reached.setdefault(phase.status, phase.at)
    if not found.status.final:
        for event in progress.events:
            reached.setdefault(event.status, event.at)
    return [TaskPhase(status, at) for status, at in sorted(reached.items())]


async def _version(site: Site, found: Task) -> AppVersion | None:
    try:
        _, version = await site.node.apps.find(site.env, found.request.app)
    except NotFound:
        return None  # it was removed; what was run of it stays
    return version
