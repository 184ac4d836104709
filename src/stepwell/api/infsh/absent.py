"""What clients know how to ask for and this server does not offer: an empty list, or a 404 that says so.

A client that only looks finds nothing there; one that wants something is told at once, in the shape of any error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.api.infsh import answers
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import NotFound
from stepwell.wire.infsh.listing import page

if TYPE_CHECKING:
    from starlette.responses import Response

    from stepwell.api.routes import Handler

_THAT = "that"
_AREAS = {
    "agent-runs": "agents",
    "agents": "agents",
    "apps": _THAT,
    "apikeys": "API keys of its own (it has a signing key, which is a setting)",
    "artifacts": "artifacts",
    "chats": "agents",
    "credentials": "credentials of users (apps get the secrets that the server was given)",
    "engines": "engines (its own workers run apps)",
    "files": _THAT,
    "flowruns": "flows (functions with steps do what they do)",
    "flows": "flows (functions with steps do what they do)",
    "integrations": "credentials of users (apps get the secrets that the server was given)",
    "interrupts": "agents",
    "knowledge": "knowledge",
    "mcp-servers": "MCP servers",
    "mcps": "MCP servers",
    "projects": "projects",
    "search": "search",
    "sessions": _THAT,
    "skills": "skills",
    "sockets": "live sockets",
    "store": "an app store",
    "suggest": "search",
    "tasks": _THAT,
    "teams": "teams (it has one user)",
    "tools": "agents",
}
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def routes() -> list[Route]:
    """After all others, since these take whatever is below their areas."""
    found = [Route("GET", "/teams", _nothing)]
    for area, what in _AREAS.items():
        handler = _refusal(what)
        if what != _THAT:
            found += [Route("POST", f"/{area}/list", _empty), Route("POST", f"/{area}/{{id}}/versions/list", _empty)]
            found += [Route(method, f"/{area}", handler) for method in _METHODS if (method, area) != ("GET", "teams")]
        found += [Route(method, f"/{area}/{{rest:path}}", handler) for method in _METHODS]
    return found


async def _empty(ask: Ask) -> Response:
    return answers.data(ask, page([]))


async def _nothing(ask: Ask) -> Response:
    return answers.data(ask, [])


def _refusal(what: str) -> Handler:
    async def refuse(ask: Ask) -> Response:
        raise NotFound(f"{ask.request.method} {ask.request.url.path[:200]}: this server does not offer {what}")

    return refuse
