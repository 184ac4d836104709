"""Services announce themselves: `POST /fn/register`, and are forgotten: `DELETE /fn/remove`.

Protocol: section 3.3 of the Inngest wire protocol. The server's own asking is in `sync.py`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.responses import Response

from stepwell.api import answers
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import InvalidInput, NotFound
from stepwell.model.ids import derived_uuid
from stepwell.wire.inngest.register import (
    RegisterRefused,
    accepted_answer,
    announced_url,
    check_server_kind,
    normal_url,
    read_register,
)

if TYPE_CHECKING:
    from stepwell.api.site import Site
    from stepwell.model.function import Service

log = logging.getLogger("stepwell.api")
audit = logging.getLogger("stepwell.audit")

_REMEMBERED = 1_000


def routes() -> list[Route]:
    return [
        Route("POST", "/fn/register", register),
        Route("DELETE", "/fn/remove", remove),
    ]


async def register(ask: Ask) -> Response:
    site = ask.site
    body = b""
    try:
        body = await ask.body()
        check_server_kind(ask.request.headers.get("x-inngest-expected-server-kind"), site.kind)
        service, warnings = read_register(body, env=site.env)
        refusal = await site.refusal({service.url, *(function.url for function in service.functions)})
        if refusal:
            raise RegisterRefused(f"`url` cannot be called: {refusal}", reason="address_refused")
        modified = await keep(site, service, warnings)
    except RegisterRefused as err:
        _refused(site, announced_url(body), err)
        return Response(err.answer(), err.http_status, media_type=answers.JSON)
    except InvalidInput as err:
        return answers.error(err)
    site.refused.pop(service.url, None)
    sync_id = derived_uuid("sync", service.id, service.checksum)
    return Response(accepted_answer(service, modified=modified, sync_id=sync_id), media_type=answers.JSON)


def _refused(site: Site, url: str, err: RegisterRefused) -> None:
    """Tell whoever asked for the registration; and the log, when it is another reason than before."""
    site.counts["refused:register"] += 1
    if site.sync is not None:
        site.sync.refused(url, err.reason or "invalid_function", str(err))
    if site.refused.get(url) != str(err):
        if len(site.refused) >= _REMEMBERED:
            site.refused.clear()
        site.refused[url] = str(err)
        log.warning("the registration of %s was refused: %s", url or "a service", err)


async def keep(site: Site, service: Service, warnings: tuple[str, ...]) -> bool:
    """Store a service that registered. Returns whether its functions differ from before.

    Raises:
        RegisterRefused: A schedule or a condition of a function cannot be used.
    """
    async with site.registering:
        before = site.node.registry.service(service.env, service.name)
        try:
            stored = await site.node.register(service)
        except InvalidInput as err:
            raise RegisterRefused(f"At least one function is invalid: {err}", reason="invalid_function") from err
    if site.sync is not None:
        site.sync.registered(service.url)
    if before is not None and before.url != service.url:
        audit.warning("service %r is now called %s, before %s", service.name, _where(service), _where(before))
    unchanged = before is not None and before.transport == service.transport and before.checksum == service.checksum
    if unchanged and service.checksum:
        return False  # an error that is over, at most
    if stored:
        count, where = len(service.functions), service.url or "connected"
        log.info("service %r registered with %d function%s (%s)", service.name, count, "s" * (count != 1), where)
        for text in warnings:
            log.warning("service %r: %s", service.name, text)
    return stored


def _where(service: Service) -> str:
    return f"at {service.url}" if service.url else "over its websocket"


async def remove(ask: Ask) -> Response:
    """`DELETE /fn/remove?url=`: forget the services at that URL."""
    site = ask.site
    try:
        url = normal_url(ask.query("url") or "")
    except ValueError as err:
        raise InvalidInput(f"the query parameter `url` is needed: {err}", field="url") from err
    names = [one.name for one in site.node.registry.services() if one.env == site.env and one.url == url]
    for name in names:
        await site.node.forget(site.env, name)
        audit.warning("service %r at %s was removed", name, url)
    asked = site.sync is not None and site.sync.forget(url)
    if not names and not asked:
        raise NotFound(f"no service at {url}")
    return answers.json({"ok": True, "removed": names, "status": 200})
