"""A reply: what an app answered to a call, told apart, and the replies of our own SDK's serve.

Only an answer that is certainly whole and certainly an SDK's counts as a success. Everything else is a
failure with a name: an app that failed, a proxy that answered in its place, an answer cut short.

    206  ops            200  result          201  one of the others, streamed after whitespace
    other, from an SDK: the function failed; `x-inngest-no-retry` and `retry-after` say what comes next
    other, without `x-inngest-sdk`: something else answered; tried again
    not JSON, not UTF-8, cut short, too large: never a success

The status alone never says that a retry is pointless: a 404 or 401 is tried again too (trap 29).

Protocol: sections 1.6, 5.1 and 5.6 of the Inngest wire protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeAlias

from stepwell.model.duration import parse_time
from stepwell.model.failure import as_object, status_text
from stepwell.model.ids import Instant, JobId
from stepwell.model.message import CallInfo, CallLost, LogLine, Raised, Replied, Returned
from stepwell.model.op import Op
from stepwell.model.payload import NULL, first_rounded, roundings
from stepwell.wire import signature
from stepwell.wire.inngest.errors import own_error
from stepwell.wire.inngest.ops import (
    InvalidOps,
    TooManyOps,
    odd_members,
    read_ops,
    rounded_numbers,
    rounding_text,
    write_ops,
)
from stepwell.wire.inngest.text import read, shortened, size, write

MAX_BODY_BYTES = 8 * 1024 * 1024
"""The largest answer that is read (section 5.1)."""

SDK_HEADER = "x-inngest-sdk"
VERSION_HEADER = "x-inngest-req-version"
NO_RETRY_HEADER = "x-inngest-no-retry"
RETRY_AFTER_HEADER = "retry-after"

SHORTEST_RETRY_MS = 1_000
LONGEST_RETRY_MS = 24 * 3_600_000
"""What `retry-after` is clamped to (section 5.6)."""

REQUEST_VERSION = 2
"""The request version that our own SDK answers with (section 4.4)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The op of a request that the server is to make, in JSON or in JSON that is a text of JSON. It stands before the
# headers of that request, so an answer that was cut off before it has none of them.
_MAY_HOLD_KEYS = re.compile(rb'"(?:ai)?gateway\\*"', re.IGNORECASE)
_SECONDS = re.compile(r"-?[0-9]{1,7}(\.[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Ops:
    """The app reported steps. An empty tuple: this branch has nothing more to do.

    `odd` says what of the report has no effect, since this server does not know it, and which numbers were rounded.
    """

    ops: tuple[Op, ...]
    version: int | None = None
    odd: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The function returned; `output` is canonical. `odd` says which number was rounded to make it so."""

    output: bytes
    version: int | None = None
    odd: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """The function failed, or what answered was no SDK. `error` is the object as sent, or one of our own.

    `retry_at` is set when the app said when, and then takes no jitter (trap 30). `lost` says that the answer
    did not arrive as it was sent, so that it tells nothing about the function.
    """

    error: bytes
    retry: bool = True
    retry_at: Instant | None = None
    version: int | None = None
    code: str = ""
    lost: bool = False


Reply: TypeAlias = Ops | Result | Failure


def to_message(call: JobId, reply: Reply, info: CallInfo) -> Replied | Returned | Raised | CallLost:
    """The message that a reply becomes."""
    match reply:
        case Ops(ops, version, _):
            return Replied(call, ops, version, info)
        case Result(output, version, _):
            return Returned(call, output, version, info)
        case Failure(lost=True):
            return CallLost(call, reply.error, info=info, code=reply.code)
        case Failure():
            return Raised(call, reply.error, reply.retry, reply.retry_at, reply.version, info, reply.code)


def read_reply(
    status: int, headers: Mapping[str, str], body: bytes, *, now: Instant, framed: bool = True, what: str = "the app"
) -> Reply:
    """Tell what an answer to a call means.

    Args:
        status: Of the HTTP response.
        headers: Of the response; the spelling of their names does not matter.
        body: The whole body, decompressed.
        now: Milliseconds since 1970.
        framed: Whether the response said where it ends (`Content-Length` or chunks). If it did not, a body
            that would be valid JSON at any length, a bare number or nothing, is not believed.
        what: What was called, for messages.
    """
    found: Mapping[str, str] = {name.lower(): value for name, value in headers.items()}
    if len(body) > MAX_BODY_BYTES:
        return too_large(len(body), what)
    if status == 201 and SDK_HEADER in found:
        streamed = _unwrapped(found, body, what)
        if isinstance(streamed, Failure):
            return replace(streamed, version=_version(found))
        status, found, body, failed = streamed
        framed = True  # the envelope is complete, so its content is
        if failed:
            return _failed(status if status >= 300 else 500, found, body, now, what)
    if SDK_HEADER not in found:
        return _not_an_sdk(status, found, body, now, what)
    if not framed and _open_ended(body):
        return Failure(
            own_error(
                "TruncatedResponse",
                f"{what} answered HTTP {status} with {len(body)} bytes and neither Content-Length nor chunks, "
                "so there is no telling whether that is all; make the app send one of them",
            ),
            code="truncated_response",
            lost=True,
        )
    if status == 206:
        return _ops(found, body, now, what)
    if status == 200:
        return _result(found, body, now, what)
    return _failed(status, found, body, now, what)


def too_large(size_bytes: int, what: str = "the app") -> Failure:
    """The failure of an answer above `MAX_BODY_BYTES`. Not tried again: it would be as large again."""
    return Failure(
        own_error(
            "OutputTooLarge",
            f"output_too_large: {what} answered with {size(size_bytes)} or more and an answer may have "
            f"{size(MAX_BODY_BYTES)}; return a reference to the data instead of the data",
        ),
        retry=False,
        code="output_too_large",
    )


def retry_after(text: str, now: Instant) -> Instant | None:
    """When a `retry-after` header says to come back, between 1 s and 24 h from `now`; None for garbage.

    Reads seconds in at most seven characters, and the dates of RFC 3339, RFC 1123 and their relatives.
    """
    written = text.strip()
    if len(written) <= 7 and _SECONDS.fullmatch(written):
        moment = now + int(float(written) * 1000)
    else:
        date = parse_time(written)
        if date is None:
            return None
        moment = (date - _EPOCH) // timedelta(milliseconds=1)
    return min(max(moment, now + SHORTEST_RETRY_MS), now + LONGEST_RETRY_MS)


def _ops(headers: Mapping[str, str], body: bytes, now: Instant, what: str) -> Reply:
    version, since = _version(headers), roundings()
    try:
        value = read(body)
    except ValueError as err:
        return _invalid(206, body, str(err), version, what)
    try:
        ops = read_ops(value, now=now, retry=not _no_retry(headers), retry_at=_retry_at(headers, now))
    except TooManyOps as err:
        return Failure(own_error(err.code, str(err)), retry=False, version=version, code=err.code)
    except InvalidOps as err:
        return _invalid(206, body, str(err), version, what)
    rounded = rounded_numbers(value, now=now, since=since)
    return Ops(ops, version, (*odd_members(value, now=now), *rounded))


def _result(headers: Mapping[str, str], body: bytes, now: Instant, what: str) -> Reply:
    version, since = _version(headers), roundings()
    if not body.strip():
        return Result(NULL, version)
    try:
        value = read(body)
        output = write(value)
    except ValueError as err:
        return _invalid(200, body, str(err), version, what)
    changed = first_rounded(value) if roundings() != since else None
    if changed is None:
        return Result(output, version)
    text = f"what the function returned has {rounding_text(*changed)}"
    return Result(output, version, (LogLine(now, "warning", text, about="rounded"),))


def _invalid(status: int, body: bytes, reason: str, version: int | None, what: str) -> Failure:
    return Failure(
        own_error(
            "InvalidResponse",
            f"{what} answered HTTP {status} with a body that cannot be read: {reason}; it begins: {_beginning(body)}",
        ),
        version=version,
        code="invalid_response",
        lost=True,
    )


def _failed(status: int, headers: Mapping[str, str], body: bytes, now: Instant, what: str) -> Failure:
    """The SDK says that the function failed. Its error is kept as it is, `code` and `"stack": null` included."""
    retry = not _no_retry(headers)
    try:
        error = write(as_object(read(body)))
    except ValueError:
        error = own_error("Error", f"{what} answered HTTP {status}: {_beginning(body)}", status=status)
    return Failure(
        error,
        retry=retry,
        retry_at=_retry_at(headers, now) if retry else None,
        version=_version(headers),
        code=f"http_{status}",
    )


def _not_an_sdk(status: int, headers: Mapping[str, str], body: bytes, now: Instant, what: str) -> Failure:
    """A proxy, a crashed host, a login page: tried again, and never parsed."""
    try:
        phrase = f" {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    kind = headers.get("content-type", "").partition(";")[0].strip()
    kind = f" ({kind})" if kind else ""
    if 200 <= status < 300:
        code, advice = "not_sdk", "does the URL of the service lead to its Inngest endpoint?"
    else:
        code, advice = f"http_{status}", "a proxy may have answered, or the app crashed"
    return Failure(
        own_error(
            "NotAnSdk" if code == "not_sdk" else "HttpError",
            f"{what} answered HTTP {status}{phrase}{kind} without the header {SDK_HEADER}; {advice}. "
            f"The body begins: {_beginning(body)}",
            status=status,
        ),
        retry_at=_retry_at(headers, now),
        code=code,
    )


def _unwrapped(
    headers: Mapping[str, str], body: bytes, what: str
) -> tuple[int, Mapping[str, str], bytes, bool] | Failure:
    """What a streamed 201 holds: status, headers, body, and whether it says that it failed.

    The body is whitespace and then one object; its `body` is JSON text inside a string, or JSON (trap 40).
    """
    try:
        envelope = read(body)
    except ValueError as err:
        return _invalid(201, body, str(err), None, what)
    status = envelope.get("status") if isinstance(envelope, dict) else None
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599 or status == 201:
        return _invalid(201, body, "a streamed answer is an object with `status`, `headers` and `body`", None, what)
    inner: Any = envelope.get("body")
    given = envelope.get("headers")
    merged = dict(headers)
    if isinstance(given, dict):
        merged.update({name.lower(): str(value) for name, value in given.items() if value is not None})
    if envelope.get("error"):
        return status, merged, write(envelope["error"]), True
    text = inner.encode("utf-8", "surrogatepass") if isinstance(inner, str) else json.dumps(inner).encode()
    return status, merged, text, False


def _open_ended(body: bytes) -> bool:
    """Whether a longer or a shorter text would be as valid: nothing at all, or a number."""
    stripped = body.strip()
    return not stripped or stripped[-1:].isdigit()


def _version(headers: Mapping[str, str]) -> int | None:
    written = headers.get(VERSION_HEADER, "").strip()
    return int(written) if re.fullmatch(r"[0-9]{1,4}", written) else None


def _no_retry(headers: Mapping[str, str]) -> bool:
    return headers.get(NO_RETRY_HEADER, "").strip().lower() in {"true", "1"}


def _retry_at(headers: Mapping[str, str], now: Instant) -> Instant | None:
    written = headers.get(RETRY_AFTER_HEADER)
    return retry_after(written, now) if written else None


def _beginning(body: bytes) -> str:
    if _MAY_HOLD_KEYS.search(body):
        return "(not shown: a request that the server is to make may hold credentials)"
    text = body[:1000].decode("utf-8", "replace")
    return repr(shortened(text)) if text.strip() else "(empty)"


# The other direction, for our own SDK's serve


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response to be sent as it is."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def respond_ops(ops: tuple[Op, ...], *, sdk: str, retry: bool = True, retry_at: Instant | None = None) -> Response:
    """A 206 with the steps that were found or done.

    Args:
        sdk: `<name>:v<version>`, such as `stepwell-py:v0.1.0`.
        retry: False if a failed step among `ops` must not be tried again.
        retry_at: When a failed step among `ops` may be tried again.
    """
    return Response(206, write_ops(ops), _headers(sdk, retry=retry, retry_at=retry_at))


def respond_result(output: bytes, *, sdk: str) -> Response:
    """A 200: the function returned `output`, JSON text."""
    return Response(200, output or NULL, _headers(sdk))


def respond_error(error: bytes, *, sdk: str, retry: bool = True, retry_at: Instant | None = None) -> Response:
    """The function failed with an error object: 500 if another attempt may help, 400 if not."""
    return Response(500 if retry else 400, error, _headers(sdk, retry=retry, retry_at=retry_at))


def signed(response: Response, *, key: str, now_s: int) -> Response:
    """The response with the signature of its body, made with the key that verified the request (section 1.4)."""
    mark = {signature.HEADER: signature.sign(response.body, key, now_s)}
    return replace(response, headers={**response.headers, **mark})


def _headers(sdk: str, *, retry: bool = True, retry_at: Instant | None = None) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "User-Agent": sdk,
        SDK_HEADER: sdk,
        VERSION_HEADER: str(REQUEST_VERSION),
        NO_RETRY_HEADER: "false" if retry else "true",
    }
    if retry and retry_at is not None:
        moment = (_EPOCH + timedelta(milliseconds=retry_at)).isoformat(timespec="milliseconds")
        headers["Retry-After"] = moment.replace("+00:00", "Z")
    return headers


__all__ = [
    "MAX_BODY_BYTES",
    "Failure",
    "Ops",
    "Reply",
    "Response",
    "Result",
    "read_reply",
    "respond_error",
    "respond_ops",
    "respond_result",
    "retry_after",
    "signed",
    "status_text",
    "to_message",
    "too_large",
]
