"""Plain HTTP, for tests of requests that are not to a model. All of it lies under `/http`.

/http/echo                        what was sent: method, url, headers, body (text, or base64 if it is not text)
/http/status/404?body=no          that status
/http/redirect/3?status=302       three redirects, then /http/echo
/http/redirect-to?url=...&status=307
/http/bytes/1000000               that many bytes; `length=no` for chunked, `pause_s`, `piece=4096`
/http/endless                     bytes without end
/http/slow?delay_s=1&pieces=5&pause_s=0.1
/http/cookies/set?name=value      sets cookies; /http/cookies tells those that came
/http/gzip/1000000                that many zero bytes, compressed
/http/headers?count=100&size=100  many or large headers
/http/flaky/2?key=a&status=503    fails twice for that key, then answers
/http/drop                        closes the connection
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from stepwell.testing.provider.asked import Asked
from stepwell.testing.provider.script import Pace
from stepwell.testing.provider.sending import PacedResponse

_JSON = {"content-type": "application/json"}
_BINARY = {"content-type": "application/octet-stream"}
_TEXT = {"content-type": "text/plain; charset=utf-8"}

Endpoint = Callable[[Request, Asked, str], Response]


class Endpoints:
    """The plain endpoints of one stand-in; they remember only how often `flaky` was asked."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._by_name: dict[str, Endpoint] = {
            "echo": self._echo,
            "status": self._status,
            "redirect": self._redirect,
            "redirect-to": self._redirect_to,
            "bytes": self._bytes,
            "endless": self._endless,
            "slow": self._slow,
            "cookies": self._cookies,
            "gzip": self._gzip,
            "headers": self._headers,
            "flaky": self._flaky,
            "drop": self._drop,
        }

    def answer(self, request: Request, asked: Asked) -> Response:
        """Answer a request for a path below `/http/`."""
        name, _, rest = asked.path.removeprefix("/http/").partition("/")
        endpoint = self._by_name.get(name)
        if endpoint is None:
            return _respond(asked, 404, _TEXT, [b"the stand-in has no such page"])
        try:
            return endpoint(request, asked, rest)
        except ValueError as err:
            return _respond(asked, 400, _TEXT, [str(err).encode()])

    def _echo(self, request: Request, asked: Asked, rest: str) -> Response:
        try:
            body: dict[str, Any] = {"text": asked.body.decode()}
        except UnicodeDecodeError:
            body = {"base64": base64.b64encode(asked.body).decode()}
        told = {
            "method": asked.method,
            "url": str(request.url),
            "headers": [[name, value] for name, value in request.headers.items()],
            **body,
        }
        return _respond(asked, 200, _JSON, [json.dumps(told).encode()])

    def _status(self, request: Request, asked: Asked, rest: str) -> Response:
        body = request.query_params.get("body", "").encode()
        status = int(rest or 200)
        return _respond(asked, status, _TEXT, [] if status in (204, 304) else [body])

    def _redirect(self, request: Request, asked: Asked, rest: str) -> Response:
        left = int(rest or 1)
        status = int(request.query_params.get("status", "302"))
        to = f"/http/redirect/{left - 1}?status={status}" if left > 1 else "/http/echo"
        return _respond(asked, status, {"location": to}, [])

    def _redirect_to(self, request: Request, asked: Asked, rest: str) -> Response:
        status = int(request.query_params.get("status", "302"))
        return _respond(asked, status, {"location": request.query_params["url"]}, [])

    def _bytes(self, request: Request, asked: Asked, rest: str) -> Response:
        size, piece = int(rest or 0), int(request.query_params.get("piece", "65536"))
        pattern = bytes(range(256)) * (piece // 256 + 2)
        pieces = [pattern[start % 256 : start % 256 + min(piece, size - start)] for start in range(0, size, piece)]
        known = request.query_params.get("length") != "no"
        return _respond(asked, 200, _BINARY, pieces, pace=_pace(request), with_length=known)

    def _endless(self, request: Request, asked: Asked, rest: str) -> Response:
        return _respond(asked, 200, _BINARY, _without_end(), pace=_pace(request), with_length=False)

    def _slow(self, request: Request, asked: Asked, rest: str) -> Response:
        pieces = [b"piece %d\n" % number for number in range(int(request.query_params.get("pieces", "1")))]
        return _respond(asked, 200, _TEXT, pieces, pace=_pace(request), with_length=False)

    def _cookies(self, request: Request, asked: Asked, rest: str) -> Response:
        if rest == "set":
            cookies = [("set-cookie", f"{name}={value}; Path=/") for name, value in request.query_params.items()]
            return _respond(asked, 200, [*_TEXT.items(), *cookies], [b"set"])
        return _respond(asked, 200, _JSON, [json.dumps(request.cookies).encode()])

    def _gzip(self, request: Request, asked: Asked, rest: str) -> Response:
        return _respond(asked, 200, {**_BINARY, "content-encoding": "gzip"}, [gzip.compress(bytes(int(rest or 0)))])

    def _headers(self, request: Request, asked: Asked, rest: str) -> Response:
        count, size = int(request.query_params.get("count", "1")), int(request.query_params.get("size", "10"))
        many = [(f"x-header-{number}", "v" * size) for number in range(count)]
        return _respond(asked, 200, [*_TEXT.items(), *many], [b"ok"])

    def _flaky(self, request: Request, asked: Asked, rest: str) -> Response:
        key = request.query_params.get("key", "")
        failures = self._failures.get(key, 0)
        if failures >= int(rest or 1):
            return _respond(asked, 200, _TEXT, [b"ok"])
        self._failures[key] = failures + 1
        return _respond(asked, int(request.query_params.get("status", "503")), _TEXT, [b"not yet"])

    def _drop(self, request: Request, asked: Asked, rest: str) -> Response:
        return _respond(asked, 0, {}, None, pace=_pace(request))


def _respond(
    asked: Asked,
    status: int,
    headers: dict[str, str] | list[tuple[str, str]],
    pieces: Iterable[bytes] | AsyncIterator[bytes] | None,
    *,
    pace: Pace | None = None,
    with_length: bool = True,
) -> Response:
    return PacedResponse(
        status, headers, pieces, pace=pace or Pace(), asked=asked, wait=_never, with_length=with_length
    )


def _pace(request: Request) -> Pace:
    return Pace(
        delay_s=float(request.query_params.get("delay_s", "0")), pause_s=float(request.query_params.get("pause_s", "0"))
    )


async def _never() -> None:
    raise AssertionError("a plain endpoint holds nothing back")


async def _without_end() -> AsyncIterator[bytes]:
    while True:
        yield bytes(65536)
        await asyncio.sleep(0)
