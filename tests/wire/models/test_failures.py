"""Why a provider did not answer, whether to ask again, and when."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from stepwell.testing.provider import fail
from stepwell.testing.provider.dialects import WRITERS
from stepwell.wire.models import dialect_for
from stepwell.wire.models.failure import Failure, FailureKind, RateLimit, rate_limits, retry_after_ms
from tests.wire.models.cases import FORMATS, URLS, dumps

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOW_MS = int(NOON.timestamp() * 1000)


def read(format: str, status: int, body: bytes, **headers: str) -> Failure:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return dialect_for(format, URLS.get(format, "")).failure(status, named, body, now_ms=NOW_MS)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, FailureKind.INVALID_REQUEST, False),
        (401, FailureKind.AUTHENTICATION, False),
        (403, FailureKind.PERMISSION, False),
        (404, FailureKind.NOT_FOUND, False),
        (408, FailureKind.TIMEOUT, True),
        (409, FailureKind.CONFLICT, True),
        (418, FailureKind.INVALID_REQUEST, False),
        (429, FailureKind.RATE_LIMITED, True),
        (500, FailureKind.SERVER_ERROR, True),
        (502, FailureKind.SERVER_ERROR, True),
        (503, FailureKind.OVERLOADED, True),
        (504, FailureKind.TIMEOUT, True),
        (529, FailureKind.OVERLOADED, True),
        (307, FailureKind.REDIRECTED, False),
    ],
)
def test_a_status_means_the_same_everywhere(format: str, status: int, kind: FailureKind, retryable: bool) -> None:
    for body in (b"", b"<html>oops</html>", b"[]", b'{"error": null}'):
        failure = read(format, status, body)
        assert (failure.status, failure.kind, failure.retryable) == (status, kind, retryable)
        assert failure.message


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_the_words_of_a_provider_are_read(format: str, status: int) -> None:
    writer = WRITERS[format]
    failure = read(format, status, dumps(writer.error(fail(status, "words of the provider"))))
    assert failure.message == "words of the provider"
    assert failure.provider_code != ""
    assert failure.retryable is (status >= 429)


@pytest.mark.parametrize("format", FORMATS)
def test_a_provider_is_waited_for_as_long_as_it_asks(format: str) -> None:
    writer, limited = WRITERS[format], fail(429, retry_after_s=7.5)
    headers = writer.headers(limited)
    failure = dialect_for(format, URLS[format]).failure(429, headers, dumps(writer.error(limited)), now_ms=NOW_MS)
    assert failure.retry_after_ms == 7500


@pytest.mark.parametrize(
    ("format", "status", "body", "kind"),
    [
        ("openai-chat", 429, {"error": {"code": "insufficient_quota", "type": "x"}}, FailureKind.QUOTA_EXHAUSTED),
        ("openai-chat", 400, {"error": {"code": "context_length_exceeded"}}, FailureKind.TOO_LARGE),
        ("openai-chat", 400, {"error": {"code": "rate_limit_exceeded"}}, FailureKind.INVALID_REQUEST),
        ("openai-chat", 500, {"error": {"type": "invalid_request_error"}}, FailureKind.SERVER_ERROR),
        ("azure-openai", 400, {"error": {"code": "content_filter"}}, FailureKind.CONTENT_REFUSED),
        ("gemini", 400, {"error": {"details": [{"reason": "API_KEY_INVALID"}]}}, FailureKind.AUTHENTICATION),
        ("anthropic", 403, {"error": {"type": "billing_error"}}, FailureKind.QUOTA_EXHAUSTED),
    ],
)
def test_a_code_says_more_than_a_status(format: str, status: int, body: object, kind: FailureKind) -> None:
    failure = read(format, status, dumps(body))
    assert failure.kind is kind
    assert failure.retryable is (kind is FailureKind.SERVER_ERROR)


def test_a_provider_may_advise_against_another_try_or_for_one() -> None:
    assert read("openai-chat", 500, b"", x_should_retry="false").retryable is False
    assert read("openai-chat", 400, b"", x_should_retry="true").retryable is True
    assert read("anthropic", 429, b"", x_should_retry="false", retry_after="3600").retry_after_ms == 3_600_000


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "3"}, 3000),
        ({"retry-after": " 0.5 "}, 500),
        ({"RETRY-AFTER-MS": "250", "retry-after": "9"}, 250),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9000),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": format_datetime(NOON.replace(minute=2), usegmt=True)}, 120_000),
        ({"retry-after": format_datetime(NOON.replace(hour=1), usegmt=True)}, 0),
        ({"retry-after": "315360000"}, 315_360_000_000),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e300"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Fri, 99 Nov 2026 12:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers, now_ms=NOW_MS) == expected


def test_rate_limits_are_read_from_headers() -> None:
    openai = {
        "X-RateLimit-Limit-Requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "6m0s",
        "x-ratelimit-remaining-tokens": "1500",
        "x-ratelimit-reset-tokens": "20ms",
        "x-ratelimit-limit-": "1",
    }
    assert rate_limits(openai, now_ms=NOW_MS) == (
        RateLimit("requests", 60, 0, 360_000),
        RateLimit("tokens", None, 1500, 20),
    )
    anthropic = {
        "anthropic-ratelimit-input-tokens-limit": "50000",
        "anthropic-ratelimit-input-tokens-remaining": "49000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-20T12:00:30Z",
        "anthropic-ratelimit-requests-reset": "garbage",
    }
    assert rate_limits(anthropic, now_ms=NOW_MS) == (
        RateLimit("input-tokens", 50000, 49000, 30_000),
        RateLimit("requests"),
    )


def test_a_used_up_limit_says_when_to_come_back_if_nothing_else_does() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "12s",
        "x-ratelimit-remaining-tokens": "5",
        "x-ratelimit-reset-tokens": "99s",
    }
    chat = dialect_for("openai-chat", "")
    assert chat.failure(429, headers, b"", now_ms=NOW_MS).retry_after_ms == 12_000
    assert chat.failure(500, headers, b"", now_ms=NOW_MS).retry_after_ms is None
    assert chat.failure(429, {**headers, "retry-after": "1"}, b"", now_ms=NOW_MS).retry_after_ms == 1000


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"message": "Your organization must be verified to stream this model.", "param": "stream"}, True),
        ({"message": "Unknown parameter", "param": "stream_options"}, True),
        ({"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}, True),
        ({"message": "Unsupported value: 'temperature'", "param": "temperature"}, False),
    ],
)
def test_a_stream_that_nobody_but_us_asked_for_may_be_refused(body: object, refused: bool) -> None:
    assert read("openai-chat", 400, dumps({"error": body})).stream_refused is refused
    assert read("openai-responses", 400, dumps({"error": body})).stream_refused is refused
    assert read("openai-chat", 500, dumps({"error": body})).stream_refused is False


def test_the_id_of_a_request_is_kept_for_the_provider_to_find() -> None:
    assert read("openai-chat", 500, b"", x_request_id="req_1").request_id == "req_1"
    assert read("anthropic", 500, b'{"request_id": "req_2"}').request_id == "req_2"
