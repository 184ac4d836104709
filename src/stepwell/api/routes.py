"""The table of routes, and what happens around every one of them.

A surface lists its routes; each says who may call it. Around the call: the key is checked, room for the body is taken
and given back, and every error becomes an answer. So a handler reads its request, asks the node and returns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.routing import Route as StarletteRoute

from stepwell.api import answers
from stepwell.api.gate import is_foreign
from stepwell.api.keys import Access
from stepwell.api.read_tokens import TokenRefused, check_read_token
from stepwell.model.errors import InvalidInput, NotFound, StepwellError
from stepwell.model.ids import RunId
from stepwell.model.payload import decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from stepwell.api.site import Site

log = logging.getLogger("stepwell.api")

Handler = Callable[["Ask"], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Errors:
    """What errors look like on one surface: those on purpose, and bugs of ours by their reference."""

    error: Callable[[StepwellError, Request], Response]
    bug: Callable[[str, Request], Response]


_PLAIN = Errors(lambda err, _: answers.error(err), lambda reference, _: answers.bug(reference))


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table. `method` is one method; GET answers HEAD too."""

    method: str
    path: str
    handler: Handler
    access: Access = Access.SIGNING_KEY
    errors: Errors = _PLAIN


@dataclass(slots=True)
class Ask:
    """A request on its way to a handler."""

    site: Site
    request: Request
    _body: Callable[[], Awaitable[bytes]]

    async def body(self) -> bytes:
        """The whole body. May be asked once."""
        return await self._body()

    async def json(self, what: str = "the body") -> dict[str, Any]:
        """The body as a JSON object; empty when there is none. Raises `InvalidInput`."""
        text = await self._body()
        if not text.strip():
            return {}
        try:
            value = decode(text)
        except (ValueError, RecursionError) as err:
            raise InvalidInput(f"{what} is {err}") from err
        if not isinstance(value, dict):
            raise InvalidInput(f"{what} must be a JSON object")
        return value

    def part(self, name: str) -> str:
        """A named part of the path."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str | None:
        """A query parameter; None if it is missing or empty."""
        return self.request.query_params.get(name) or None

    def limit(self, default: int, most: int, name: str = "limit") -> int:
        """The `limit` parameter, kept between 1 and `most`. Raises `InvalidInput` when it is no number."""
        text = self.query(name)
        if text is None:
            return default
        try:
            wanted = int(text)
        except ValueError as err:
            raise InvalidInput(f"{name} must be a whole number, not {text[:40]!r}", field=name) from err
        return max(1, min(wanted, most))


_TELLS = frozenset({Access.SIGNING_KEY, Access.DEVELOPMENT})
"""Routes whose answer is the same whichever node is asked, also about services that have just registered."""


class MethodNotAllowed(StepwellError):
    """Nothing answers to this method at a path that is there for others."""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405


class _Line(StarletteRoute):
    """A path of the table, which refuses other methods as everything is refused there: in JSON."""

    def __init__(self, site: Site, path: str, routes: dict[str, Route]) -> None:
        super().__init__(path, _endpoint(site, routes), methods=list(routes))
        self._errors = next(iter(routes.values())).errors

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = sorted(self.methods or ())
        if scope["method"] in methods:
            await super().handle(scope, receive, send)
            return
        err = MethodNotAllowed(f"{scope['path'][:200]} does not take {scope['method']}; it takes {', '.join(methods)}")
        answer = self._errors.error(err, Request(scope))
        answer.headers["allow"] = ", ".join(methods)
        await answer(scope, receive, send)


def router(site: Site, routes: Iterable[Route], more: Iterable[BaseRoute] = ()) -> ASGIApp:
    """The table as something that can be called."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        methods = by_path.setdefault(route.path, {})
        assert route.method not in methods, f"{route.method} {route.path} is there twice"
        methods[route.method] = route
    table: list[BaseRoute] = list(more)
    for path, methods in by_path.items():
        table.append(_Line(site, path, methods))
    return _by_first_part(table)


def _by_first_part(table: list[BaseRoute]) -> ASGIApp:
    """A router for each first part of a path, so that a request is compared with few lines of a long table."""
    parts = [_first_part(getattr(line, "path", "/{any}")) for line in table]
    routers = {
        part: Router(
            [line for line, its in zip(table, parts, strict=True) if its in (part, "{")],
            redirect_slashes=False,
            default=_not_found,
        )
        for part in {*parts, "{"}
    }

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        await routers.get(_first_part(scope["path"]), routers["{"])(scope, receive, send)

    return route


def _first_part(path: str) -> str:
    """`{` for one that is a parameter, or begins with one."""
    first = path[1:].partition("/")[0]
    return "{" if "{" in first else first


def _endpoint(site: Site, methods: dict[str, Route]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        route = methods.get(request.method) or methods["GET"]  # HEAD
        held = None
        try:
            _check_access(site, route, request)
            held = site.bodies.hold()
            body = held.read
            headers = dict(request.scope["headers"])
            ask = Ask(site, request, lambda: body(headers, request.receive))
            if site.node.shared and route.access in _TELLS:
                await site.node.know_services()
            return await route.handler(ask)
        except StepwellError as err:
            site.counts[f"refused:{err.code.lower()}"] += 1
            if err.http_status == 401:
                client = request.client.host if request.client is not None else ""
                site.refusals.note(client, f"{request.method} {route.path}", str(err))
                if route.method == "GET" and "text/html" in request.headers.get("accept", ""):
                    return answers.locked(err)
            return route.errors.error(err, request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            reference = site.node.new_key()
            log.exception("%s: %s %s", reference, request.method, route.path)
            return route.errors.bug(reference, request)
        finally:
            if held is not None:
                held.release()

    return endpoint


def _check_access(site: Site, route: Route, request: Request) -> None:
    if route.access is Access.SIGNING_KEY:
        site.keys.check_bearer(request.headers.get("authorization"))
    elif route.access is Access.READ_TOKEN:
        _check_read_token(site, request)
    elif route.access is Access.DEVELOPMENT and site.kind != "dev":
        raise NotFound(f"{route.path} is there in development only")


def _check_read_token(site: Site, request: Request) -> None:
    token = request.query_params.get("token")
    if token is not None:
        run = RunId(str(request.path_params["id"]).upper())
        check_read_token(token, run, time.time(), site.keys.signing)
    elif not site.keys.signing and is_foreign(request.headers.get("origin"), request.headers.get("host", "")):
        raise TokenRefused("pages of another port need a token: make one with POST /api/runs/{id}/token")
    else:
        site.keys.check_bearer(request.headers.get("authorization"))


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": "nothing answers at this path"})
        return
    path: str = scope["path"]
    if path == "/":
        # Where people look first: the address that the server prints.
        await RedirectResponse("/status")(scope, receive, send)
        return
    err = NotFound(f"nothing answers at {path[:200]}")
    await answers.error(err)(scope, receive, send)
