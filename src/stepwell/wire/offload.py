"""What the server is asked to request for a function: JSON without credentials, and the credentials beside it.

    {"url", "method", "headers", "body" | "body_base64", ...}     step.fetch
    {"url", "format", "headers", "body", ...}                     step.ai.infer, `body` being the provider's JSON
    {..., "stream": true}                                         the latter, seen by followers while it comes
    {..., "credential": name}                                     either one, with a credential that the server keeps

and what a fetch answers: `{"url", "status_code", "headers", "body"}`, as the official SDKs expect it, or with `exact`
`{"url", "status_code", "reason", "headers": [[name, value], ...], "body" | "body_base64"}`, where nothing is lost: not
a repeated header, not a byte. `echo`, a text of the caller's own, stands in that answer as it stood in the request. An
inference answers the provider's JSON, or with `exact` `{"response": that JSON, "text", "model", "tool_calls",
"finish_reasons", "usage", "cost_usd", ...}`, read from it.

Of the headers only those are kept that are known to hold no secret; any other value may be one. Of the URL it is the
user, and the parameters whose names say so.

Protocol: section 5.5 of the Inngest wire protocol, `AIGateway` and `Gateway`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stepwell.model.offload import Sealed
from stepwell.model.payload import decode
from stepwell.wire.inngest.text import size, write
from stepwell.wire.models.credentials import HIDDEN, Credentials, take_out

MAX_REQUEST_BYTES = 8 * 1024 * 1024
"""Of a request as JSON."""
MAX_HEADER_BYTES = 64 * 1024
"""Of its address, headers and key together, all of which may be secret and are kept in memory."""

_PLAIN_HEADERS = frozenset(
    {
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "anthropic-beta",
        "anthropic-version",
        "cache-control",
        "content-encoding",
        "content-language",
        "content-length",
        "content-type",
        "date",
        "expect",
        "idempotency-key",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "origin",
        "pragma",
        "prefer",
        "range",
        "request-id",
        "traceparent",
        "tracestate",
        "user-agent",
        "x-correlation-id",
        "x-goog-api-client",
        "x-idempotency-key",
        "x-request-id",
        "x-requested-with",
    }
)

_PLAIN_PREFIX = "x-stainless-"  # what the libraries of AI providers tell about themselves
CREDENTIAL_HEADER = "stepwell-credential"
"""Names a credential that the server keeps, in requests of those who have no other way to say it. It is not sent."""

KEY_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})
"""Headers in which libraries bring keys of their own. A named credential takes their place."""


def is_plain_header(name: str) -> bool:
    """Whether the values of a header are known to hold no secret."""
    return name.lower() in _PLAIN_HEADERS or name.lower().startswith(_PLAIN_PREFIX)


class InvalidRequest(ValueError):
    """A request that cannot be read; the message names the member and what belongs there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it is recorded: without credentials, which are `***` where their places show.

    `max_redirects` None leaves it to the gateway, as does `timeout_ms`. With an answer of one of `retry_statuses` the
    request is made again while attempts are left.
    """

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None  # of a fetch as it is sent; of an inference the provider's JSON
    format: str = ""  # of an inference
    exact: bool = False
    timeout_ms: int | None = None
    max_redirects: int | None = None
    retry_statuses: tuple[int, ...] = ()
    echo: str = ""
    credential: str = ""  # that the server keeps and is to send along
    stream: bool = False  # of an inference: who follows the run sees the answer while it comes


def fetch_request(
    url: str,
    *,
    method: str,
    headers: Mapping[str, str],
    body: bytes | None,
    exact: bool = False,
    timeout_ms: int | None = None,
    max_redirects: int | None = None,
    retry_statuses: Sequence[int] = (),
    echo: str = "",
    credential: str = "",
) -> tuple[bytes, Sealed | None]:
    """The JSON of a request, and what must be kept out of it.

    Raises:
        InvalidRequest: It is too large.
    """
    members: dict[str, Any] = {"method": method}
    if body is not None:
        try:
            members["body"] = body.decode()
        except UnicodeDecodeError:
            members["body_base64"] = base64.b64encode(body).decode()
    if exact:
        members["exact"] = True
    if timeout_ms is not None:
        members["timeout_ms"] = timeout_ms
    if max_redirects is not None:
        members["max_redirects"] = max_redirects
    if retry_statuses:
        members["retry_statuses"] = list(retry_statuses)
    if echo:
        members["echo"] = echo
    return _written(members, url, headers, "", credential)


def infer_request(
    url: str,
    *,
    format: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    auth_key: str = "",
    exact: bool = False,
    timeout_ms: int | None = None,
    credential: str = "",
    stream: bool = False,
) -> tuple[bytes, Sealed | None]:
    """The same of a request to an AI provider. `auth_key` goes where the provider's dialect wants it.

    Raises:
        InvalidRequest: It is too large.
    """
    members: dict[str, Any] = {"format": format, "body": body}
    if exact:
        members["exact"] = True
    if timeout_ms is not None:
        members["timeout_ms"] = timeout_ms
    if stream:
        members["stream"] = True
    return _written(members, url, headers, auth_key, credential)


def _written(
    members: dict[str, Any], url: str, headers: Mapping[str, str], auth_key: str, credential: str
) -> tuple[bytes, Sealed | None]:
    named = next((value for name, value in headers.items() if name.lower() == CREDENTIAL_HEADER), "")
    if credential or named:
        members["credential"], auth_key = credential or named, ""
        gone = KEY_HEADERS | {CREDENTIAL_HEADER}
        headers = {name: value for name, value in headers.items() if name.lower() not in gone}
    shown_url, shown_headers, credentials = split(url, headers, auth_key)
    secret_bytes = len(url) + len(auth_key) + sum(len(name) + len(value) for name, value in headers.items())
    if secret_bytes > MAX_HEADER_BYTES:
        raise InvalidRequest(
            f"the address, the headers and the key of the request have {size(secret_bytes)} together and may have "
            f"{size(MAX_HEADER_BYTES)}; send data in the body"
        )
    text = write(members | {"url": shown_url, "headers": shown_headers})
    if len(text) > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"the request has {size(len(text))} and may have {size(MAX_REQUEST_BYTES)}; "
            "send a reference to the data instead of the data, or make the request in a step of your own"
        )
    return text, Sealed(url, tuple(headers.items()), auth_key) if credentials else None


def split(url: str, headers: Mapping[str, str], auth_key: str) -> tuple[str, dict[str, str], Credentials]:
    """A request without what may be secret, and that."""
    shown_url, _, found = take_out(url, {}, auth_key=auth_key)
    secret = {name: value for name, value in headers.items() if value and not is_plain_header(name)}
    shown = {name: HIDDEN if name in secret else value for name, value in headers.items()}
    return shown_url, shown, Credentials(auth_key, tuple(secret.items()), found.query, found.user)


class _Body(msgspec.Struct):
    body: msgspec.Raw


_body = msgspec.json.Decoder(_Body)


def read_request(text: bytes) -> Request:
    """What `fetch_request` and `infer_request` wrote, and what a worker of another version may have written.

    Raises:
        InvalidRequest: A member is missing or of a wrong type.
    """
    members = decode(text)
    if not isinstance(members, dict):
        raise InvalidRequest("the request is no JSON object")
    body = members.get("body")
    fetch = "format" not in members
    if fetch and isinstance(body, str):
        raw: bytes | None = body.encode()
    elif fetch and body is None:
        raw = _unpacked(members.get("body_base64"))
    elif not fetch and isinstance(body, dict):
        raw = bytes(_body.decode(text).body)  # as it was written
    else:
        raise InvalidRequest(f"`body` must be {'text' if fetch else 'an object'}")
    headers = members.get("headers") or {}
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise InvalidRequest("`headers` must be an object of texts")
    statuses = members.get("retry_statuses") or []
    if not isinstance(statuses, list) or not all(isinstance(one, int) for one in statuses):
        raise InvalidRequest("`retry_statuses` must be a list of numbers")
    return Request(
        url=_text(members, "url", ""),
        method=_text(members, "method", "POST"),
        headers=headers,
        body=raw,
        format=_text(members, "format", ""),
        exact=members.get("exact") is True,
        timeout_ms=_number(members, "timeout_ms"),
        max_redirects=_number(members, "max_redirects"),
        retry_statuses=tuple(statuses),
        echo=_text(members, "echo", ""),
        credential=_text(members, "credential", ""),
        stream=members.get("stream") is True or (not fetch and isinstance(body, dict) and body.get("stream") is True),
    )


def _text(members: dict[str, Any], name: str, default: str) -> str:
    value = members.get(name, default)
    if not isinstance(value, str):
        raise InvalidRequest(f"`{name}` must be text")
    return value


def _number(members: dict[str, Any], name: str) -> int | None:
    value = members.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise InvalidRequest(f"`{name}` must be a whole number, 0 or more")
    return value


def _unpacked(value: object) -> bytes | None:
    if value is None:
        return None
    try:
        return base64.b64decode(value if isinstance(value, str) else "*", validate=True)
    except (binascii.Error, ValueError) as err:
        raise InvalidRequest("`body_base64` must be base64") from err


# answers


@dataclass(frozen=True, slots=True)
class FetchAnswer:
    """What a server answered a fetch. The body is decompressed; headers that told of compression are gone."""

    url: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    elapsed_ms: int = 0
    echo: str = ""


def write_answer(answer: FetchAnswer, *, exact: bool) -> bytes:
    """The result of a fetch, in the form that was asked for."""
    if not exact:
        return write(
            {
                "url": answer.url,
                "status_code": answer.status,
                "headers": _joined(answer.headers),
                "body": answer.body.decode("utf-8", "replace"),
            }
        )
    members: dict[str, Any] = {
        "url": answer.url,
        "status_code": answer.status,
        "reason": answer.reason,
        "elapsed_ms": answer.elapsed_ms,
        "headers": [list(pair) for pair in answer.headers],
    }
    if answer.echo:
        members["echo"] = answer.echo
    try:
        members["body"] = answer.body.decode()
    except UnicodeDecodeError:
        members["body_base64"] = base64.b64encode(answer.body).decode()
    return write(members)


def read_answer(value: Any) -> FetchAnswer:
    """An answer in its exact form.

    Raises:
        InvalidRequest: It is not one.
    """
    try:
        headers = tuple((str(name), str(text)) for name, text in value["headers"])
        body = _unpacked(value["body_base64"]) or b"" if "body_base64" in value else str(value["body"]).encode()
        return FetchAnswer(
            str(value["url"]),
            int(value["status_code"]),
            str(value.get("reason", "")),
            headers,
            body,
            int(value.get("elapsed_ms", 0)),
            str(value.get("echo", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise InvalidRequest(f"the result is not the answer of a fetch: {err!r}") from err


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Repeated headers joined with `, `, under the spelling of the first."""
    names: dict[str, str] = {}
    joined: dict[str, str] = {}
    for name, value in headers:
        first = names.setdefault(name.lower(), name)
        joined[first] = f"{joined[first]}, {value}" if first in joined else value
    return joined
