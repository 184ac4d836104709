"""A service as an ASGI application: run it by itself, mount it anywhere.

app = service.asgi()                        # uvicorn app:app
app.mount("/jobs", service.asgi())          # any path below the mount is the endpoint
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from stepwell.sdk.serve.handler import Handler
from stepwell.sdk.serve.message import LARGEST_BODY_BYTES, Refusal, Request, lower_case, too_large
from stepwell.sdk.serve.settings import ServeSettings, serve_settings
from stepwell.wire.inngest.reply import Response

if TYPE_CHECKING:
    from stepwell.sdk.service import Service

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiApp:
    """What `asgi` returns. Whatever path it is called under is the endpoint."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        try:
            body = await _body(receive)
        except ConnectionResetError:
            return  # nobody is there to be answered
        except Refusal as err:
            response = err.response()
        else:
            response = await self.handler.handle(_request(scope, body))
        await _answer(response, send, without_body=scope["method"] == "HEAD")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.handler.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def asgi(service: Service, settings: ServeSettings | None = None, **options: Any) -> AsgiApp:
    """Serve `service` as an ASGI application.

    Args:
        settings: As made by `serve_settings`, or
        options: the arguments of that function.
    """
    return AsgiApp(Handler(service, settings or serve_settings(**options)))


def _request(scope: Scope, body: bytes) -> Request:
    headers = lower_case((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    host = headers.get("host")
    if not host:
        name, port = scope.get("server") or ("localhost", None)
        host = f"[{name}]" if ":" in name else name
        host += f":{port}" if port else ""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not path.startswith(root):  # servers differ in whether the path contains the mount
        path = root + path
    raw = scope.get("raw_path")
    if isinstance(raw, bytes) and path == scope["path"]:
        path = raw.decode("latin-1").partition("?")[0]
    query = scope.get("query_string", b"").decode("latin-1")
    url = f"{scope.get('scheme', 'http')}://{host}{path}{'?' + query if query else ''}"
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return Request(method, url, headers, body)


async def _body(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        piece = message.get("body", b"")
        size += len(piece)
        if size > LARGEST_BODY_BYTES:
            raise too_large()
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _answer(response: Response, send: Send, *, without_body: bool) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]
    headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if without_body else response.body})
