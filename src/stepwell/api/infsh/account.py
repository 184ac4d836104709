"""Who is asking, and the names of the secrets that apps get. Secrets are settings of the server: none is told, none is
taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.api.infsh import answers
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import NotFound
from stepwell.wire.infsh.listing import page_of, read_list

if TYPE_CHECKING:
    from starlette.responses import Response

_MASKED = "********"


def routes() -> list[Route]:
    return [
        Route("GET", "/me", me),
        Route("POST", "/secrets/list", secrets),
        Route("POST", "/secrets", refuse),
        *(Route(method, "/secrets/{rest:path}", refuse) for method in ("GET", "PUT", "POST", "DELETE")),
    ]


async def me(ask: Ask) -> Response:
    """There is one user, who may do everything."""
    name = ask.site.namespace
    user = {"id": "user", "name": name, "full_name": name, "email": "", "role": "admin"}
    team = {"id": "team", "username": name, "name": name, "type": "personal", "setup_completed": True}
    shown = {
        "user": user,
        "team": team,
        "org": None,
        "team_view": None,
        "personal_team_id": team["id"],
        "needs_username": False,
        "scopes": ["*"],
    }
    return answers.data(ask, shown)


async def secrets(ask: Ask) -> Response:
    wanted = read_list(await ask.body(), {"key"}, {"key"})
    names = sorted(ask.site.app_secrets, reverse=bool(wanted.sort) and wanted.descending("key"))
    shown = [
        (name, {"key": name, "masked_value": _MASKED, "description": "", "scope": "server"})
        for name in names
        if wanted.holds({"key": name}) and wanted.search.holds(name)
    ]
    return answers.data(ask, page_of(wanted, shown))


async def refuse(ask: Ask) -> Response:
    raise NotFound(
        "this server keeps no secrets that are sent to it; start it with --app-secret NAME, which gives apps its own "
        "variable NAME"
    )
