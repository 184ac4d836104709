"""Our own REST for services and functions: what is known, what is wrong with it, and running a function by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from stepwell.api import answers
from stepwell.api.answers import Raw, instant
from stepwell.api.inngest.dev import triggers_of
from stepwell.api.inngest.events import invoked
from stepwell.api.routes import Ask, Route
from stepwell.model.ids import derived_ulid
from stepwell.node.reads.functions import list_functions
from stepwell.node.reads.services import list_services

if TYPE_CHECKING:
    from stepwell.model.function import Function
    from stepwell.node.reads.services import ServiceView


def routes() -> list[Route]:
    return [
        Route("GET", "/api/services", services),
        Route("GET", "/api/functions", functions),
        Route("POST", "/api/functions/{slug:path}/invoke", invoke),
    ]


async def services(ask: Ask) -> Response:
    """The services that are known, and the URLs that are asked and have not registered."""
    site = ask.site
    known = [_service(one) for one in list_services(site.node.registry, site.env)]
    asked = list(site.sync.targets()) if site.sync is not None else []
    return answers.json({"services": known, "urls": asked})


def _service(view: ServiceView) -> dict[str, Any]:
    service = view.service
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
        "warnings": list(service.warnings),
        "functions": [one.slug for one in view.functions],
    }


async def functions(ask: Ask) -> Response:
    """The functions of all services, or of `service`."""
    site = ask.site
    found = list_functions(site.node.registry, site.env, ask.query("service"))
    return answers.json({"functions": [_function(one) for one in found]})


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
    """Run a function. The id of its run is known at once, since it is derived from the event."""
    slug = ask.part("slug")
    event = await invoked(ask, slug, with_id=False)
    run = derived_ulid(event.received_at, event.key, slug)
    return answers.json({"run_id": run, "event_id": event.internal_id}, 201)
