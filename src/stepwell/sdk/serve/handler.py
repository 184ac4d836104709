"""One endpoint that serves a service, whatever framework the request came through.

    GET                      what is here (more, if the request is signed)
    PUT                      register with the server, or answer a signed in-band sync with everything it needs
    POST ?fnId=..&stepId=..  run a function as far as it gets
    POST ?probe=trust        prove that both sides hold the same key

In production every POST must be signed with the server's key, is at most five minutes old and is served once
(`replayed.py`); the response is signed with the same key. Without a key nothing is served, unless development
was asked for. A request handler keeps no other state, so any number of processes may serve one service.

Protocol: sections 1.4, 1.5, 3 and 4 of the Inngest wire protocol. Elsewhere: running the function (`calling.py`),
registering (`syncing.py`), frameworks (a file for each).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stepwell.sdk.serve.calling import serve_call
from stepwell.sdk.serve.message import Refusal, Request, respond
from stepwell.sdk.serve.replayed import ReplayMemory
from stepwell.sdk.serve.reporting import Reporting
from stepwell.sdk.serve.settings import ServeSettings, serve_settings
from stepwell.sdk.serve.syncing import answer_in_band, register
from stepwell.sdk.version import SDK
from stepwell.wire import signature
from stepwell.wire.inngest.call import InvalidCall, target_of
from stepwell.wire.inngest.reply import Response, signed
from stepwell.wire.inngest.sync import IN_BAND, SYNC_KIND_HEADER, introspection

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.sdk.service import Service

_log = logging.getLogger("stepwell.serve")

SERVER_KIND_HEADER = "x-inngest-server-kind"


class Handler:
    """Answers requests for one service.

    Args:
        service: What is served. Functions added to it later are served too.
        settings: From arguments and the environment if not given.
        now_s: The time in seconds since 1970, for tests.
    """

    def __init__(
        self, service: Service, settings: ServeSettings | None = None, *, now_s: Callable[[], float] = time.time
    ) -> None:
        self.service = service
        self.settings = serve_settings() if settings is None else settings
        self._now_s = now_s
        self._served = ReplayMemory()
        self._reporting = Reporting(self.settings)
        if not self.settings.dev and not self.settings.keys:
            _log.warning("%s: %s", service.id, _NO_KEY)

    async def handle(self, request: Request) -> Response:
        """Answer one request. Never raises on purpose: what goes wrong is in the response."""
        key: str | None = None
        try:
            if request.method == "GET":
                key = self._verified(request)
                response = self._inspect(request, key)
            elif request.method == "PUT":
                key = self._verified(request)
                response = await self._sync(request, key)
            elif request.method == "POST":
                key = self._admitted(request)
                response = await self._call(request)
            else:
                raise Refusal(405, "method_not_allowed", f"{request.method} means nothing here; use GET, PUT or POST")
        except Refusal as err:
            response = err.response()
        except Exception as err:
            # The last line of defence: an answer that names the fault lets the server try again.
            _log.exception("%s: %s %s", self.service.id, request.method, request.own_url)
            response = Refusal(500, "internal_error", f"serving failed: {type(err).__name__}: {err}").response()
        return signed(response, key=key, now_s=int(self._now_s())) if key else response

    async def close(self) -> None:
        """Close the connections to the server that this event loop has."""
        await self._reporting.close()

    # Who asks

    def _verified(self, request: Request) -> str | None:
        """The key that signed the request; None if it is unsigned, or if signatures do not matter (dev).

        Raises:
            Refusal: Signed, and wrongly.
        """
        mark = request.headers.get(signature.HEADER.lower())
        if not mark or self.settings.dev or not self.settings.keys:
            return None
        try:
            return signature.verify(request.body, mark, self.settings.keys, now_s=int(self._now_s()))
        except signature.SignatureRefused as err:
            raise Refusal(401, "sig_verification_failed", str(err)) from err

    def _admitted(self, request: Request) -> str | None:
        """As `_verified`, for what has effects: it must be signed, and not served before."""
        self._check_kind(request)
        if self.settings.dev:
            return None
        if not self.settings.keys:
            raise Refusal(500, "signing_key_missing", _NO_KEY)
        key = self._verified(request)
        if key is None:
            raise Refusal(
                401,
                "sig_verification_failed",
                f"the {signature.HEADER} header is missing; is the server started with a signing key?",
            )
        at, _, mark = request.headers[signature.HEADER.lower()].partition("&s=")
        now_s = int(self._now_s())
        until_s = int(at.removeprefix("t=")) + signature.MAX_SKEW_S
        if "probe=" not in request.query and not self._served.first_time(mark, until_s=until_s, now_s=now_s):
            raise Refusal(
                401,
                "request_replayed",
                "this very request was served before; a server signs each one anew, so somebody may have recorded it",
            )
        return key

    def _check_kind(self, request: Request) -> None:
        """A development server belongs to a program in development mode, and the other way round."""
        kind = request.headers.get(SERVER_KIND_HEADER, "")
        mode = self.settings.mode
        unsigned = not request.headers.get(signature.HEADER.lower())
        if kind == "cloud" and mode == "dev":
            message = (
                "a production server calls a program in development mode; unset STEPWELL_DEV and set a signing key"
            )
        elif kind == "dev" and mode == "cloud" and unsigned:
            message = "a development server calls a program in production mode; set STEPWELL_DEV=1 on your own machine"
        else:
            return
        raise Refusal(400, "server_kind_mismatch", message)

    # What is asked

    def _inspect(self, request: Request, key: str | None) -> Response:
        settings = self.settings
        address = settings.address
        mine = urlsplit(self._url(request))
        known = {
            "app_id": self.service.id,
            "api_origin": address.api,
            "event_api_origin": address.events,
            "env": address.env,
            "framework": settings.framework,
            "sdk_language": SDK.partition(":v")[0],
            "sdk_version": SDK.partition(":v")[2],
            "serve_origin": f"{mine.scheme}://{mine.netloc}",
            "serve_path": mine.path,
        }
        keys = dict(zip(("signing_key", "signing_key_fallback"), settings.keys, strict=False))
        body = introspection(
            function_count=len(self.service.functions),
            mode=settings.mode,
            event_key=address.own_event_key,
            authenticated=known if key else None,
            **keys,
        )
        return respond(200, body, self._about())

    async def _sync(self, request: Request, key: str | None) -> Response:
        self._check_kind(request)
        if not self.settings.dev and not self.settings.keys:
            raise Refusal(500, "signing_key_missing", _NO_KEY)
        url = self._url(request, signed_by=key)
        if request.headers.get(SYNC_KIND_HEADER) == IN_BAND and self.settings.in_band and not self.settings.dev:
            if key is None:
                raise Refusal(401, "sig_verification_failed", "an in-band sync must be signed")
            inspection = self._inspect(request, key)
            return answer_in_band(self.service, self.settings, url, inspection.body, self._about())
        if key is None and not self.settings.dev and self.settings.origin is None:
            # Whoever reaches this endpoint could otherwise have the server send its calls to a host of theirs.
            raise Refusal(
                401,
                "sig_verification_failed",
                "an unsigned sync is accepted only if this program knows its own address; set STEPWELL_SERVE_ORIGIN",
            )
        return await register(self.service, self.settings, url, request.query, self._about())

    async def _call(self, request: Request) -> Response:
        try:
            target = target_of(request.query)
        except InvalidCall as err:
            raise Refusal(400, "invalid_call", str(err)) from err
        if target.probe:
            if target.probe != "trust":
                raise Refusal(400, "unknown_probe", f"there is no probe {target.probe!r}; `trust` is one")
            return respond(200, {}, self._about())
        function = self.service.find(target.function)
        if function is None:
            known = ", ".join(one.slug for one in self.service.functions) or "none"
            raise Refusal(500, "function_not_found", f"function {target.function} not found; there is: {known}")
        response = await serve_call(function, request.body, target.step, self.settings, self._reporting)
        return Response(response.status, response.body, {**response.headers, **self._about()})

    # What every answer says

    def _url(self, request: Request, *, signed_by: str | None = None) -> str:
        """Where the server reaches this endpoint: as configured, else as it did."""
        url = request.own_url
        if signed_by is not None:
            url = _url_in(request.body) or url
        parts = urlsplit(url)
        origin = self.settings.origin or f"{parts.scheme}://{parts.netloc}"
        path = self.settings.path or parts.path or "/"
        return f"{origin}{path if path.startswith('/') else '/' + path}{'?' + parts.query if parts.query else ''}"

    def _about(self) -> dict[str, str]:
        about = {"x-inngest-expected-server-kind": self.settings.mode}
        if self.settings.framework:
            about["x-inngest-framework"] = self.settings.framework
        if self.settings.address.env:
            about["x-inngest-env"] = self.settings.address.env
        return about


_NO_KEY = (
    "no signing key: set STEPWELL_SIGNING_KEY to the server's key, or STEPWELL_DEV=1 on your own machine, "
    "where requests need no signature"
)


def _url_in(body: bytes) -> str | None:
    """The URL that a server wrote into a sync request, without what the protocol adds to its query."""
    from stepwell.wire.inngest.text import read

    try:
        found = read(body)
    except ValueError:
        return None
    url = found.get("url") if isinstance(found, dict) else None
    if not isinstance(url, str) or urlsplit(url).scheme not in {"http", "https"}:
        return None
    return Request("PUT", url).own_url
