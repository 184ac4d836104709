"""Apps: looking them up, and the little that is changed of them here. They come to be by `stepwell app deploy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell.api.infsh import answers
from stepwell.api.routes import Ask, Route
from stepwell.model.app import read_reference
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.wire.infsh.app import app_dto, version_dto
from stepwell.wire.infsh.listing import page_of, read_list
from stepwell.wire.infsh.request import read_body

if TYPE_CHECKING:
    from starlette.responses import Response

    from stepwell.model.app import App, AppVersion

_STATUSES = ("active", "maintenance", "deprecated", "retired")
_FIELDS = {"id", "namespace", "name", "category", "status", "version_id"}


class _Status(msgspec.Struct):
    status: str
    message: str | None = None


def routes() -> list[Route]:
    return [
        Route("POST", "/apps/list", list_apps),
        Route("POST", "/apps", refuse),
        Route("GET", "/apps/{id}", app),
        Route("DELETE", "/apps/{id}", remove),
        Route("POST", "/apps/{id}", refuse),
        Route("POST", "/apps/{id}/versions/list", versions),
        Route("GET", "/apps/{id}/versions/{version}", version),
        Route("PUT", "/apps/{id}/versions/{version}/current", set_current),
        Route("POST", "/apps/{id}/status", set_status),
        Route("GET", "/apps/{id}/license", refuse),
        *(Route("POST", f"/apps/{{id}}/{what}", refuse) for what in ("duplicate", "transfer", "visibility", "license")),
        Route("GET", "/apps/{namespace}/{name}", app_by_name),
    ]


async def list_apps(ask: Ask) -> Response:
    """By name. A search looks at names and descriptions."""
    wanted = read_list(await ask.body(), _FIELDS, {"name"})
    found = []
    for one in await ask.site.node.apps.list(ask.site.env):
        _, current = await ask.site.node.apps.find(ask.site.env, one.reference)
        fields = {
            "id": one.id,
            "namespace": one.namespace,
            "name": one.name,
            "category": current.category,
            "status": one.status,
            "version_id": current.id,
        }
        if wanted.holds(fields) and wanted.search.holds(one.reference, one.name, current.description):
            found.append((one.reference, app_dto(one, current)))
    if wanted.sort and wanted.descending("name"):
        found.reverse()
    return answers.data(ask, page_of(wanted, found))


async def app(ask: Ask) -> Response:
    """By its id; a bare name means an app of the server's own namespace."""
    found, current = await _found(ask, ask.part("id"))
    return answers.data(ask, app_dto(found, current))


async def app_by_name(ask: Ask) -> Response:
    reference = f"{ask.part('namespace')}/{ask.part('name')}"
    found, wanted = await ask.site.node.apps.find(ask.site.env, reference)
    return answers.data(ask, app_dto(found, wanted, read_reference(reference).function))


async def versions(ask: Ask) -> Response:
    """The newest first."""
    wanted = read_list(await ask.body(), {"id", "kernel"})
    found, _ = await _found(ask, ask.part("id"))
    all_versions = await ask.site.node.apps.versions(ask.site.env, found.reference)
    shown = [
        (one.version, version_dto(one))
        for one in all_versions
        if wanted.holds({"id": one.id, "kernel": one.kernel}) and wanted.search.holds(one.version)
    ]
    return answers.data(ask, page_of(wanted, shown))


async def version(ask: Ask) -> Response:
    return answers.data(ask, version_dto(await _version(ask)))


async def set_current(ask: Ask) -> Response:
    wanted = await _version(ask)
    changed = await ask.site.node.apps.set_current(ask.site.env, wanted.reference)
    return answers.data(ask, app_dto(changed, wanted))


async def set_status(ask: Ask) -> Response:
    asked = read_body(await ask.body(), _Status)
    if asked.status not in _STATUSES:
        raise InvalidInput(f"status is one of {', '.join(_STATUSES)}, not {asked.status[:40]!r}", field="status")
    found, current = await _found(ask, ask.part("id"))
    changed = await ask.site.node.apps.set_status(ask.site.env, found.reference, asked.status, asked.message or "")
    return answers.data(ask, app_dto(changed, current))


async def remove(ask: Ask) -> Response:
    """With all its versions. What was run of them stays."""
    found, _ = await _found(ask, ask.part("id"))
    await ask.site.node.apps.remove(ask.site.env, found.reference)
    return answers.data(ask, None)


async def refuse(ask: Ask) -> Response:
    raise NotFound(
        f"{ask.request.method} {ask.request.url.path[:200]}: this server does not offer that; "
        "`stepwell app deploy DIRECTORY` makes apps and their versions"
    )


async def _found(ask: Ask, wanted: str) -> tuple[App, AppVersion]:
    """By id, which is what clients have, or by name."""
    site = ask.site
    try:
        return await site.node.apps.find_id(site.env, wanted)
    except NotFound:
        return await site.node.apps.find(site.env, wanted, site.namespace)


async def _version(ask: Ask) -> AppVersion:
    site = ask.site
    found, _ = await _found(ask, ask.part("id"))
    _, wanted = await site.node.apps.find(site.env, f"{found.reference}@{ask.part('version')}")
    return wanted
