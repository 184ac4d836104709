"""Routes of the protocol that this server does not serve yet: a clear answer by name instead of a 404.

What is served moves out of this table into a file of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.api.routes import Ask, Route
from stepwell.model.errors import StepwellError

if TYPE_CHECKING:
    from starlette.responses import Response

    from stepwell.api.routes import Handler
    from stepwell.api.site import Site

_NOT_YET = (
    ("POST", "/v1/signals", "signals"),
    ("POST", "/v1/runs/{id}/metadata", "run metadata"),
    ("POST", "/v1/traces/userland", "traces sent by services"),
    ("POST", "/v1/checkpoint{rest:path}", "durable endpoints"),
    ("POST", "/v1/http/runs{rest:path}", "durable endpoints"),
    ("GET", "/v1/http/runs{rest:path}", "durable endpoints"),
    ("POST", "/v1/realtime{rest:path}", "realtime channels"),
    ("GET", "/v1/realtime{rest:path}", "realtime channels"),
    ("POST", "/v0/connect/flush", "Connect"),
    ("GET", "/v0/connect{rest:path}", "Connect"),
    ("POST", "/fn/step-limit", "a step limit of one function"),
    ("DELETE", "/fn/step-limit", "a step limit of one function"),
    ("POST", "/fn/state-size-limit", "a state limit of one function"),
    ("DELETE", "/fn/state-size-limit", "a state limit of one function"),
    ("GET", "/v2{rest:path}", "the REST API v2"),
    ("POST", "/v2{rest:path}", "the REST API v2"),
    ("GET", "/api/v2{rest:path}", "the REST API v2"),
    ("POST", "/api/v2{rest:path}", "the REST API v2"),
    ("POST", "/mcp", "MCP"),
)


class NotSupportedYet(StepwellError):
    """A part of the protocol that this server does not have."""

    code = "NOT_SUPPORTED"
    http_status = 501


def routes(site: Site) -> list[Route]:
    del site
    return [Route(method, path, _refusal(what)) for method, path, what in _NOT_YET]


def _refusal(what: str) -> Handler:
    async def refuse(ask: Ask) -> Response:
        del ask
        raise NotSupportedYet(f"this server does not support {what} yet")

    return refuse
