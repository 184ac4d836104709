"""A request and a response without a framework: what every adapter makes, and what it gets back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from stepwell.sdk.version import SDK
from stepwell.wire.inngest.call import INTERNAL_PARAMETERS, parameter_name
from stepwell.wire.inngest.reply import REQUEST_VERSION, SDK_HEADER, VERSION_HEADER, Response
from stepwell.wire.inngest.text import write

LARGEST_BODY_BYTES = 16 * 1024 * 1024
"""A larger request is not read. Servers send 4 MiB at most and let the rest be fetched."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `url` is absolute and as the caller wrote it; names of headers are in lower case."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def query(self) -> str:
        return urlsplit(self.url).query

    @property
    def own_url(self) -> str:
        """The URL of the endpoint itself: without what the protocol adds to the query, with what the app has there."""
        parts = urlsplit(self.url)
        kept = [pair for pair in parts.query.split("&") if pair and parameter_name(pair) not in INTERNAL_PARAMETERS]
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "&".join(kept), ""))


def lower_case(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers with their names in lower case; of a repeated one the first counts."""
    found: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(name.lower(), value)
    return found


def respond(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A response whose body is `value` as JSON, with what every answer of an SDK says about itself."""
    return Response(
        status,
        write(value),
        {
            "Content-Type": "application/json",
            "User-Agent": SDK,
            SDK_HEADER: SDK,
            VERSION_HEADER: str(REQUEST_VERSION),
            **(headers or {}),
        },
    )


class Refusal(Exception):
    """A request is answered with an error. `code` is a stable word; the message is for people."""

    def __init__(self, status: int, code: str, message: str, *, retry: bool = True) -> None:
        self.status = status
        self.code = code
        self.retry = retry
        super().__init__(message)

    def response(self) -> Response:
        body = {"code": self.code, "message": str(self), "name": "ServeError"}
        return respond(self.status, body, {} if self.retry else {"x-inngest-no-retry": "true"})


def too_large() -> Refusal:
    """The answer to a request above `LARGEST_BODY_BYTES`."""
    return Refusal(413, "request_too_large", f"a request may have {LARGEST_BODY_BYTES // 2**20} MiB", retry=False)
