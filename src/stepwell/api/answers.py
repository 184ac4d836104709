"""What answers look like: JSON bodies, and errors as callers of this protocol expect them.

An error on purpose (`StepwellError`) carries its status and a message for the caller. Anything else is a bug: it is
logged with a reference, and the caller gets the reference and nothing of the inside.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from stepwell.model.errors import Overloaded, StepwellError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell.model.ids import Instant

JSON = "application/json"

encode = msgspec.json.Encoder().encode
Raw = msgspec.Raw


def json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer. `Raw` members go out as the text they are."""
    return Response(encode(value), status, dict(headers or {}), JSON)


def v1(data: object) -> Response:
    """The envelope of `/v1`: the data, and when it was fetched. Nothing is cached here."""
    fetched = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json({"data": data, "metadata": {"fetched_at": fetched, "cached_until": None}})


def error_members(err: StepwellError) -> dict[str, Any]:
    """The members that every JSON error has. `status` is always there (trap 2)."""
    members: dict[str, Any] = {"error": str(err), "status": err.http_status, "code": err.code.lower()}
    field = getattr(err, "field", None)
    if field:
        members["field"] = field
    return members


def refusal_headers(err: StepwellError) -> dict[str, str]:
    """When to come back, if that would help; and that nothing more is read from who stopped in the middle."""
    if err.http_status == 408:
        return {"connection": "close"}
    if not err.retryable:
        return {}
    seconds = err.retry_after_s if isinstance(err, Overloaded) else 1.0
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def error(err: StepwellError) -> Response:
    """The answer to a request that was refused on purpose. SDKs look at the status of a 401, and read its body as JSON
    where they read it at all."""
    return json(error_members(err), err.http_status, refusal_headers(err))


def locked(err: StepwellError) -> Response:
    """What a person sees who opens a page that wants a key, which browsers have no way to give."""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Stepwell: a key is needed</title></head>'
        f"<body><h1>Stepwell</h1><p>{escape(str(err))}</p><p>This server has a signing key, and a browser cannot send "
        "it. In a terminal:</p><pre>stepwell status --url URL --key KEY\n"
        'curl -H "Authorization: Bearer KEY" URL/api/status</pre></body></html>'
    )
    headers = {
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    return Response(text, err.http_status, headers, "text/html")


def bug(reference: str) -> Response:
    """The answer to a request that met a bug of ours."""
    text = f"this server made a mistake; its log has more under {reference}"
    return json({"error": text, "status": 500, "code": "internal"}, 500)


def instant(at: Instant | None) -> str | None:
    """RFC 3339 with milliseconds, in UTC."""
    if at is None:
        return None
    moment = datetime.fromtimestamp(at // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at % 1000:03d}Z"
