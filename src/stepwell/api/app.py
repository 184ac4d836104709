"""The application that the HTTP server calls: gate, hot path, table of routes.

    request ──▶ gate ──▶ POST /e/…  ──▶ events, with nothing in between
                  │
                  └────▶ table of routes (`routes.py`)

Every answer says which kind of server this is, since SDKs in the other mode must refuse it, and is readable for the
pages that may read it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.routing import WebSocketRoute

from stepwell.api import apps, compare, credentials, health, metrics, rerun, runs, services, status, stream
from stepwell.api.answers import JSON, encode
from stepwell.api.infsh import surface as infsh
from stepwell.api.inngest import checkpoint, dev, gql, later, register, state
from stepwell.api.inngest import v1 as inngest_v1
from stepwell.api.inngest.events import EventIntake
from stepwell.api.inngest.events import routes as event_routes
from stepwell.api.openai import surface as openai
from stepwell.api.routes import Route, router
from stepwell.api.worker import worker_endpoint
from stepwell.wire.worker import PATH as WORKER_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from stepwell.api.gate import Refusal
    from stepwell.api.site import Site

_SLASHES = re.compile("//+")


def table(site: Site) -> list[Route]:
    """Every route of every surface."""
    return [
        *health.routes(),
        *status.routes(),
        *metrics.routes(site),
        *event_routes(),
        *register.routes(),
        *state.routes(),
        *checkpoint.routes(),
        *inngest_v1.routes(),
        *dev.routes(),
        *gql.routes(),
        *runs.routes(),
        *stream.routes(),
        *rerun.routes(),
        *compare.routes(),
        *services.routes(),
        *credentials.routes(),
        *apps.routes(),
        *openai.routes(site),
        *infsh.routes(),
        *later.routes(site),
    ]


def application(site: Site) -> ASGIApp:
    """All surfaces of one server as an ASGI application."""
    intake = EventIntake(site)
    sockets: list[BaseRoute] = [WebSocketRoute(WORKER_PATH, worker_endpoint(site))]
    routes = router(site, table(site), sockets)
    gate = site.gate
    kind = [(b"x-inngest-server-kind", site.kind.encode())]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        path: str = scope["path"]
        if "//" in path:  # of a base URL that ends with a slash
            path = _SLASHES.sub("/", path)
            scope = {**scope, "path": path}
        if scope["type"] == "websocket":
            refusal = gate.check("GET", path, headers)
            if refusal is None:
                await routes(scope, receive, send)
            else:
                site.counts[f"refused:{refusal.reason}"] += 1
                await send({"type": "websocket.close", "code": 1008, "reason": refusal.reason})
            return
        method: str = scope["method"]
        refusal = gate.check(method, path, headers)
        if refusal is not None:
            site.counts[f"refused:{refusal.reason}"] += 1
            await _refuse(send, refusal, kind)
            return
        extra = kind if b"origin" not in headers else kind + gate.cors(headers)
        if method == "POST" and path.startswith("/e/"):
            await intake(path[3:], headers, receive, send, extra, (scope.get("client") or ("",))[0])
            return
        if method == "OPTIONS":
            answer = [*kind, *gate.preflight(headers), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 204, "headers": answer})
            await send({"type": "http.response.body", "body": b""})
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await routes(scope, receive, sending)

    return app


async def _refuse(send: Send, refusal: Refusal, kind: list[tuple[bytes, bytes]]) -> None:
    body = encode({"error": refusal.message, "status": 403, "code": f"refused_{refusal.reason}"})
    headers = [*kind, (b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
