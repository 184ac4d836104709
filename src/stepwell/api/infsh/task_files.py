"""The files that a task took and made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.api.infsh import answers
from stepwell.api.infsh.files import base_of, files_of
from stepwell.api.infsh.views import task_id
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import Conflict, InvalidInput, NotFound
from stepwell.wire.infsh.file import task_file_dto

if TYPE_CHECKING:
    from starlette.responses import Response

    from stepwell.model.file import FileRecord
    from stepwell.model.ids import RunId

INPUT = "input"
_ROLES = (INPUT, "output")
_MOST_INPUTS = 100
"""Files of one input that are noted; a list of more is no input for people to look at."""


def routes() -> list[Route]:
    return [
        Route("GET", "/tasks/{id}/files", files),
        Route("DELETE", "/tasks/{id}/files", remove),
    ]


async def files(ask: Ask) -> Response:
    """Inputs first; with `role` only those of one side."""
    kept, base = files_of(ask), base_of(ask)
    return answers.data(ask, [task_file_dto(one, kept.uri(one, base)) for one in await _found(ask)])


async def remove(ask: Ask) -> Response:
    """Of a task that has ended; the task stays."""
    row = await ask.site.node.tasks.row(ask.site.env, task_id(ask))
    if not row.status.final:
        raise Conflict(f"task {row.id} has not ended; its files may be removed once it has")
    return answers.data(ask, {"deleted": await removed(ask, await _found(ask)), "skipped": []})


async def removed(ask: Ask, found: list[FileRecord]) -> list[str]:
    """Remove files; those that went meanwhile are left out."""
    gone = []
    for one in found:
        try:
            await files_of(ask).remove(ask.site.env, one.id)
        except NotFound:
            continue
        gone.append(one.id)
    return gone


async def _found(ask: Ask) -> list[FileRecord]:
    role = ask.query("role") or ""
    if role and role not in _ROLES:
        raise InvalidInput(f"role is input or output, not {role[:40]!r}", field="role")
    row = await ask.site.node.tasks.row(ask.site.env, task_id(ask))
    return await files_of(ask).of_task(ask.site.env, row.id, role)


async def note_inputs(ask: Ask, task: RunId, value: object) -> None:
    """Note which of the files of this server are in an input."""
    kept = ask.site.files
    if kept is None:
        return
    for key in _keys(value):
        try:
            file = await kept.shown(ask.site.env, key)
        except NotFound:
            continue  # it looks like an address of ours and is none
        await kept.assign(file, task, INPUT)


def _keys(value: Any) -> list[str]:
    """What tells a file, of every text in a value that looks like the address of one."""
    found: dict[str, None] = {}
    values = [value]
    while values and len(found) < _MOST_INPUTS:
        match values.pop():
            case str() as text if "/f/" in text:
                found[text.rpartition("/f/")[2].partition("/")[0]] = None
            case dict() as members:
                values += members.values()
            case list() as items:
                values += items
            case _:
                pass
    return list(found)
