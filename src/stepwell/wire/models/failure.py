"""An answer whose status says that it failed: why, whether to ask again, and when.

Statuses mean the same with every provider, so the table is one. What a dialect adds is where its error bodies keep
their words. A code of the provider's own wins over the status where the status alone would mislead: a used-up
budget is a 429, like a rate limit, but waiting does not help.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

from stepwell.model.ids import Instant


class FailureKind(StrEnum):
    """Why, in words that are the same for every provider."""

    INVALID_REQUEST = "invalid_request"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    CONTENT_REFUSED = "content_refused"
    QUOTA_EXHAUSTED = "quota_exhausted"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    SERVER_ERROR = "server_error"
    REDIRECTED = "redirected"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit that a provider tells of: `name` is `requests`, `tokens`, `input-tokens` and the like."""

    name: str
    limit: int | None = None
    remaining: int | None = None
    reset_ms: int | None = None  # from now


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a provider answered instead of an answer.

    Attributes:
        status: The HTTP status; for an error in the middle of a stream the one that it would have had.
        provider_code: The provider's own word, such as `rate_limit_error`; empty if it told none.
        retry_after_ms: What the provider asks for, from now; None if it asks for nothing. Not capped.
        stream_refused: The request was refused because it asked for a stream: ask again without one.
    """

    status: int
    kind: FailureKind
    message: str
    provider_code: str = ""
    retryable: bool
    retry_after_ms: int | None = None
    rate_limits: tuple[RateLimit, ...] = ()
    request_id: str = ""
    stream_refused: bool = False


_OF_STATUS = {
    400: FailureKind.INVALID_REQUEST,
    401: FailureKind.AUTHENTICATION,
    402: FailureKind.QUOTA_EXHAUSTED,
    403: FailureKind.PERMISSION,
    404: FailureKind.NOT_FOUND,
    408: FailureKind.TIMEOUT,
    409: FailureKind.CONFLICT,
    413: FailureKind.TOO_LARGE,
    421: FailureKind.CONFLICT,
    425: FailureKind.CONFLICT,
    429: FailureKind.RATE_LIMITED,
    498: FailureKind.OVERLOADED,  # Groq: flex capacity exceeded
    501: FailureKind.INVALID_REQUEST,
    503: FailureKind.OVERLOADED,
    504: FailureKind.TIMEOUT,
    505: FailureKind.INVALID_REQUEST,
    529: FailureKind.OVERLOADED,  # Anthropic
}

# A provider's own word -> the kind. Lower case; Gemini's are its canonical gRPC codes.
_OF_CODE = {
    "insufficient_quota": FailureKind.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": FailureKind.QUOTA_EXHAUSTED,
    "billing_not_active": FailureKind.QUOTA_EXHAUSTED,
    "billing_error": FailureKind.QUOTA_EXHAUSTED,
    "rate_limit_exceeded": FailureKind.RATE_LIMITED,
    "rate_limit_error": FailureKind.RATE_LIMITED,
    "too_many_requests": FailureKind.RATE_LIMITED,
    "resource_exhausted": FailureKind.RATE_LIMITED,
    "overloaded_error": FailureKind.OVERLOADED,
    "overloaded": FailureKind.OVERLOADED,
    "server_overloaded": FailureKind.OVERLOADED,
    "unavailable": FailureKind.OVERLOADED,
    "timeout_error": FailureKind.TIMEOUT,
    "deadline_exceeded": FailureKind.TIMEOUT,
    "server_error": FailureKind.SERVER_ERROR,
    "api_error": FailureKind.SERVER_ERROR,
    "internal": FailureKind.SERVER_ERROR,
    "internal_error": FailureKind.SERVER_ERROR,
    "vector_store_timeout": FailureKind.TIMEOUT,
    "authentication_error": FailureKind.AUTHENTICATION,
    "invalid_api_key": FailureKind.AUTHENTICATION,
    "unauthenticated": FailureKind.AUTHENTICATION,
    "permission_error": FailureKind.PERMISSION,
    "permission_denied": FailureKind.PERMISSION,
    "not_found_error": FailureKind.NOT_FOUND,
    "model_not_found": FailureKind.NOT_FOUND,
    "not_found": FailureKind.NOT_FOUND,
    "request_too_large": FailureKind.TOO_LARGE,
    "context_length_exceeded": FailureKind.TOO_LARGE,
    "content_filter": FailureKind.CONTENT_REFUSED,
    "content_policy_violation": FailureKind.CONTENT_REFUSED,
    "invalid_prompt": FailureKind.CONTENT_REFUSED,
    "invalid_request_error": FailureKind.INVALID_REQUEST,
    "invalid_argument": FailureKind.INVALID_REQUEST,
    "failed_precondition": FailureKind.INVALID_REQUEST,
}

# The status an error in the middle of a stream would have had.
_STATUS_OF_KIND = {
    FailureKind.INVALID_REQUEST: 400,
    FailureKind.CONTENT_REFUSED: 400,
    FailureKind.AUTHENTICATION: 401,
    FailureKind.PERMISSION: 403,
    FailureKind.NOT_FOUND: 404,
    FailureKind.TOO_LARGE: 413,
    FailureKind.QUOTA_EXHAUSTED: 429,
    FailureKind.RATE_LIMITED: 429,
    FailureKind.OVERLOADED: 503,
    FailureKind.TIMEOUT: 504,
}

_RETRYABLE = frozenset(
    {
        FailureKind.RATE_LIMITED,
        FailureKind.OVERLOADED,
        FailureKind.TIMEOUT,
        FailureKind.CONFLICT,
        FailureKind.SERVER_ERROR,
    }
)


def kind_of(status: int, codes: tuple[str, ...]) -> FailureKind:
    """The kind of a failure.

    Args:
        status: 0 for an error in a stream, which has none.
        codes: The provider's own words, the most exact first.
    """
    by_code = next((kind for code in codes if (kind := _OF_CODE.get(code.lower())) is not None), None)
    if 300 <= status < 400:
        return FailureKind.REDIRECTED
    by_status = _OF_STATUS.get(status)
    if by_status is None and 400 <= status < 500:
        by_status = FailureKind.INVALID_REQUEST
    if by_code is None:
        return by_status or FailureKind.SERVER_ERROR
    # A word makes a 4xx more exact; it never makes a 5xx final, nor a plain 4xx worth another try.
    if status >= 500 and by_code not in _RETRYABLE:
        return by_status or FailureKind.SERVER_ERROR
    if 400 <= status < 500 and by_code in _RETRYABLE and by_status not in _RETRYABLE:
        return by_status or FailureKind.INVALID_REQUEST
    return by_code


def failed(
    status: int,
    headers: Mapping[str, str],
    *,
    message: str,
    codes: tuple[str, ...],
    now_ms: Instant,
    delay_ms: int | None = None,
    stream_refused: bool = False,
) -> Failure:
    """Put together what a status, headers and the words of an error body say.

    Args:
        status: 0 for an error in a stream.
        headers: Of the answer.
        codes: The provider's own words, the most exact first; empty ones count as not there.
        delay_ms: A delay that the body asks for, used if no header asks for one.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    codes = tuple(code for code in codes if code)
    kind = kind_of(status, codes)
    limits = rate_limits(lowered, now_ms=now_ms)
    after = retry_after_ms(lowered, now_ms=now_ms)
    if after is None:
        after = delay_ms
    if after is None and kind is FailureKind.RATE_LIMITED:
        after = max(
            (each.reset_ms for each in limits if each.remaining == 0 and each.reset_ms is not None), default=None
        )
    advice = lowered.get("x-should-retry", "")
    # "false" on a rate limit means "not soon", and a durable run has time.
    final = advice == "false" and kind is not FailureKind.RATE_LIMITED
    retryable = (kind in _RETRYABLE or advice == "true") and not final
    return Failure(
        status=status or _STATUS_OF_KIND.get(kind, 500),
        kind=kind,
        message=message,
        provider_code=codes[0] if codes else "",
        retryable=retryable,
        retry_after_ms=after if retryable else None,
        rate_limits=limits,
        request_id=next((lowered[name] for name in _REQUEST_ID if lowered.get(name)), ""),
        stream_refused=stream_refused,
    )


_REQUEST_ID = ("x-request-id", "request-id", "apim-request-id", "x-goog-request-id")


def retry_after_ms(headers: Mapping[str, str], *, now_ms: Instant) -> int | None:
    """How long the sender of these headers asks to wait: `Retry-After-Ms`, or `Retry-After` in seconds or as a date.

    Returns:
        Milliseconds from now, 0 or more; None where nothing, or nothing sensible, is asked for. Not capped.
    """
    lowered = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit_ms in (("retry-after-ms", 1), ("retry-after", 1000)):
        if (value := lowered.get(name)) is not None and (number := _finite(value)) is not None:
            return max(0, round(number * unit_ms))
    try:
        date = parsedate_to_datetime(lowered.get("retry-after", ""))
    except (ValueError, TypeError, IndexError):
        return None
    return _until(date, now_ms)


def rate_limits(headers: Mapping[str, str], *, now_ms: Instant) -> tuple[RateLimit, ...]:
    """The limits that a provider tells of in its headers, sorted by name.

    Read are `x-ratelimit-<limit|remaining|reset>-<name>` (OpenAI, Azure, xAI and their like) and
    `anthropic-ratelimit-<name>-<limit|remaining|reset>`.
    """
    found: dict[str, dict[str, str]] = {}
    for header, value in headers.items():
        if (match := _LIMIT_HEADER.match(header)) is not None:
            found.setdefault((match["a"] or match["b"]).lower(), {})[(match["x"] or match["y"]).lower()] = value.strip()
    return tuple(
        RateLimit(
            name,
            limit=_count(values.get("limit")),
            remaining=_count(values.get("remaining")),
            reset_ms=_reset_ms(values.get("reset", ""), now_ms),
        )
        for name, values in sorted(found.items())
    )


_LIMIT_HEADER = re.compile(
    r"^(?:x-ratelimit-(?P<x>limit|remaining|reset)-(?P<a>[a-z-]+)"
    r"|anthropic-(?:fast-|priority-)?ratelimit-(?P<b>[a-z-]+)-(?P<y>limit|remaining|reset))$",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int | None:
    """`6m0s`, `20ms`, `1.5s` or a plain number of seconds, as milliseconds; None if it is none of them."""
    if (number := _finite(text)) is not None:
        return max(0, round(number * 1000))
    parts = _PART.findall(text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        return None
    total = sum(float(amount) * _UNIT_MS[unit] for amount, unit in parts)
    return round(total) if math.isfinite(total) else None


def _reset_ms(text: str, now_ms: Instant) -> int | None:
    if (found := duration_ms(text)) is not None:
        return found
    try:
        return _until(datetime.fromisoformat(text), now_ms)
    except ValueError:
        return None


def _until(date: datetime, now_ms: Instant) -> int | None:
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    try:
        return max(0, round(date.timestamp() * 1000) - now_ms)
    except (OverflowError, ValueError):
        return None


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and abs(number) < 1e15 else None


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None
