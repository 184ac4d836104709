"""Sessions: looked at, kept alive, ended. They begin with a task; see `tasks.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.api.infsh import answers
from stepwell.api.routes import Ask, Route
from stepwell.wire.infsh.session import session_dto

if TYPE_CHECKING:
    from starlette.responses import Response


def routes() -> list[Route]:
    return [
        Route("GET", "/sessions", active),
        Route("GET", "/sessions/{id}", session),
        Route("POST", "/sessions/{id}/keepalive", keepalive),
        Route("DELETE", "/sessions/{id}", end),
    ]


async def active(ask: Ask) -> Response:
    """Those that can be called, the newest first."""
    return answers.data(ask, [session_dto(one) for one in await ask.site.node.sessions.active(ask.site.env)])


async def session(ask: Ask) -> Response:
    return answers.data(ask, session_dto(await ask.site.node.sessions.get(ask.site.env, ask.part("id"))))


async def keepalive(ask: Ask) -> Response:
    """Its idle time starts again."""
    return answers.data(ask, session_dto(await ask.site.node.sessions.keepalive(ask.site.env, ask.part("id"))))


async def end(ask: Ask) -> Response:
    """Its worker goes. Ending it twice is the same."""
    await ask.site.node.sessions.end(ask.site.env, ask.part("id"))
    return answers.data(ask, None)
