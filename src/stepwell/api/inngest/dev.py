"""What SDKs and their tests ask a development server about itself, and probes that only want an answer.

Protocol: sections 8.2 and 9.1 of the Inngest wire protocol.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from stepwell.api import answers
from stepwell.api.inngest.later import NotSupportedYet
from stepwell.api.keys import Access
from stepwell.api.routes import Ask, Route
from stepwell.model.duration import format_duration
from stepwell.wire.inngest.call import call_url

if TYPE_CHECKING:
    from stepwell.model.function import Function, Service, Trigger


def routes() -> list[Route]:
    return [
        Route("GET", "/dev", info, Access.DEVELOPMENT),
        Route("POST", "/v0/connect/start", connect_start),
        Route("POST", "/v0/telemetry", telemetry),
        Route("POST", "/dev/traces", telemetry, Access.DEVELOPMENT),
    ]


async def info(ask: Ask) -> Response:
    site = ask.site
    services = [one for one in site.node.registry.services() if one.env == site.env]
    return answers.json(
        {
            "version": site.version,
            "authed": False,
            "startOpts": dict(site.started_options),
            "functions": [described(one) for one in site.node.registry.functions(site.env)],
            "handlers": [_handler(one) for one in services],
            "isSingleNodeService": True,
            "isMissingSigningKey": False,
            "isMissingEventKeys": False,
            "features": {},
        }
    )


def triggers_of(function: Function) -> list[dict[str, Any]]:
    """Triggers as they were registered: without members that say nothing."""
    return [_trigger(one) for one in function.triggers]


def _trigger(trigger: Trigger) -> dict[str, Any]:
    if trigger.cron is not None:
        jitter = {"jitter": format_duration(timedelta(milliseconds=trigger.jitter_ms))} if trigger.jitter_ms else {}
        return {"cron": trigger.cron, **jitter}
    return {"event": trigger.event} | ({"expression": trigger.expression} if trigger.expression is not None else {})


def described(function: Function) -> dict[str, Any]:
    """A function as `/dev` shows it. `steps` is an array here, unlike in a registration (trap 52)."""
    uri = call_url(function.url, function.slug, None) if function.url else ""
    return {
        "name": function.name,
        "id": function.slug,
        "slug": function.slug,
        "url": function.url,
        "triggers": triggers_of(function),
        "steps": [{"id": "step", "name": "step", "uri": uri}],
    }


def _handler(service: Service) -> dict[str, Any]:
    language, _, version = service.sdk.partition(":v")
    return {
        "sdk": {
            "url": service.url,
            "language": language,
            "version": version,
            "framework": service.framework,
            "app": service.name,
        }
    }


async def connect_start(ask: Ask) -> Response:
    """An empty body without a type is how tests ask whether the server is up (trap 53). A worker that wants to
    connect says that it sends protobuf; it would be led nowhere, so it is told."""
    await ask.body()
    if "protobuf" in ask.request.headers.get("content-type", ""):
        raise NotSupportedYet("this server does not support Connect yet; serve the functions over HTTP instead")
    return Response(b"", media_type="application/octet-stream")


async def telemetry(ask: Ask) -> Response:
    """Accepted and not kept."""
    await ask.body()
    return Response(status_code=202)
