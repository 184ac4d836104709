"""An answer that breaks is an error with a name, and with a word on whether to ask again."""

import json

import pytest

from stepwell.testing.provider import Asked, fail, say
from stepwell.testing.provider.dialects import WRITERS
from stepwell.wire.models import dialect_for
from stepwell.wire.models.dialect import STREAM_OVERHEAD, AnswerReader
from stepwell.wire.models.errors import AnswerError, AnswerMalformed, AnswerTooLarge, StreamCut, StreamFailed
from stepwell.wire.models.failure import FailureKind
from tests.wire.models.cases import (
    ANSWERS,
    FORMATS,
    URLS,
    data_events,
    read_plain,
    read_stream,
    written,
)

ASKED = Asked(1, "", "POST", "", "", {}, b"{}")


@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_cut_anywhere_before_its_last_words_is_an_error(format: str) -> None:
    """Not one place where half an answer passes for a whole one, or where the error is not one of ours."""
    answer = written(format, ANSWERS["text and two tools"])
    whole = read_stream(answer.dialect, [answer.stream])[1].answer
    cut = 0
    for end in range(0, len(answer.stream), 7):
        try:
            read = read_stream(answer.dialect, [answer.stream[:end]])[1].answer
        except StreamCut:
            cut += 1
        else:
            assert (read.text, read.tool_calls) == (whole.text, whole.tool_calls), end
    assert cut > len(answer.stream) / 7 * 0.6


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_stream_is_cut(format: str) -> None:
    for stream in (b"", b"\n\n", b": keep-alive\n\n"):
        with pytest.raises(StreamCut, match="before its answer was complete"):
            read_stream(dialect_for(format, URLS[format]), [stream])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("broken", ['{"id": "bro', "[1, 2]", "nonsense", '"text"'])
def test_an_event_that_is_not_a_json_object_is_malformed(format: str, broken: str) -> None:
    answer = written(format, ANSWERS["text"])
    first, rest = answer.stream.split(b"\n\n", 1)
    stream = first + b"\n\ndata: " + broken.encode() + b"\n\n" + rest
    with pytest.raises(AnswerMalformed, match="an event of the provider's stream is not") as raised:
        read_stream(answer.dialect, [stream])
    assert raised.value.retryable


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b'{"id": ', b"[]", b"\xff\xfe"])
def test_a_plain_answer_that_is_not_a_json_object_is_malformed(format: str, body: bytes) -> None:
    with pytest.raises(AnswerMalformed, match="the provider's answer is not"):
        read_plain(dialect_for(format, URLS[format]), body)


@pytest.mark.parametrize("format", FORMATS)
def test_an_error_in_the_middle_of_a_stream_is_read_as_a_failure(format: str) -> None:
    writer = WRITERS[format]
    broke = fail(503 if format == "gemini" else 500, "no capacity left")
    stream = written(format, ANSWERS["text"]).stream.split(b"\n\n", 2)
    name, data = writer.error_event(broke)
    stream[1] = (f"event: {name}\n" if name else "").encode() + f"data: {data}".encode()
    with pytest.raises(StreamFailed, match="no capacity left") as raised:
        read_stream(dialect_for(format, URLS[format]), [b"\n\n".join(stream)])
    assert raised.value.retryable
    assert raised.value.failure.retryable
    assert raised.value.failure.status >= 500


@pytest.mark.parametrize(
    ("format", "event", "kind"),
    [
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, FailureKind.OVERLOADED),
        (
            "anthropic",
            {"type": "error", "error": {"type": "invalid_request_error", "message": "m"}},
            FailureKind.INVALID_REQUEST,
        ),
        (
            "openai-responses",
            {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "m"}}},
            FailureKind.RATE_LIMITED,
        ),
        (
            "openai-responses",
            {"type": "response.failed", "response": {"error": {"code": "invalid_prompt", "message": "m"}}},
            FailureKind.CONTENT_REFUSED,
        ),
        (
            "openai-responses",
            {"type": "error", "error": {"code": "server_error", "message": "m"}},
            FailureKind.SERVER_ERROR,
        ),
        (
            "gemini",
            {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}},
            FailureKind.RATE_LIMITED,
        ),
        (
            "openai-chat",
            {"error": {"message": "m", "type": "invalid_request_error", "code": "context_length_exceeded"}},
            FailureKind.TOO_LARGE,
        ),
        ("openai-chat", {"error": {"message": "m", "code": 502}}, FailureKind.SERVER_ERROR),
        ("openai-chat", {"error": "m"}, FailureKind.SERVER_ERROR),
    ],
)
def test_the_code_of_an_error_in_a_stream_says_whether_to_ask_again(
    format: str, event: object, kind: FailureKind
) -> None:
    with pytest.raises(StreamFailed) as raised:
        read_stream(dialect_for(format, URLS[format]), [data_events(event)])
    assert raised.value.failure.kind is kind
    assert raised.value.retryable is (kind.value in ("overloaded", "rate_limited", "server_error"))
    assert "m" in raised.value.failure.message


def test_an_error_that_gemini_writes_between_its_events_is_found() -> None:
    """Without `data:` before it, over several lines."""
    bare = json.dumps({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}, indent=2)
    event = data_events({"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]})
    with pytest.raises(StreamFailed, match="overloaded"):
        read_stream(dialect_for("gemini", ""), [event + bare.encode()])


def test_nothing_after_the_end_mark_counts() -> None:
    for format in ("openai-chat", "anthropic", "openai-responses"):
        answer = written(format, ANSWERS["text"])
        reader = answer.dialect.reader("text/event-stream", limit_bytes=10_000)
        reader.feed(answer.stream)
        assert reader.done
        assert reader.feed(b"data: {broken\n\n" + answer.stream) == []
        assert reader.finish().body == answer.plain


def feed_often(reader: AnswerReader, chunk: bytes) -> None:
    for _ in range(1000):
        reader.feed(chunk)


class TestLimits:
    LIMIT = 4096

    def test_a_plain_answer(self) -> None:
        reader = dialect_for("openai-chat", "").reader("application/json", limit_bytes=self.LIMIT)
        with pytest.raises(AnswerTooLarge, match="the provider's answer is larger than 4096 bytes") as raised:
            reader.feed(b'{"a": "' + b"x" * self.LIMIT)
        assert not raised.value.retryable

    def test_blanks_before_an_answer(self) -> None:
        reader = dialect_for("openai-chat", "").reader("", limit_bytes=self.LIMIT)
        with pytest.raises(AnswerTooLarge):
            reader.feed(b" " * (self.LIMIT + 1))

    def test_an_unknown_format(self) -> None:
        reader = dialect_for("other", "").reader("text/event-stream", limit_bytes=self.LIMIT)
        with pytest.raises(AnswerTooLarge):
            reader.feed(b"x" * (self.LIMIT + 1))

    def test_one_event_without_end(self) -> None:
        reader = dialect_for("openai-chat", "").reader("text/event-stream", limit_bytes=self.LIMIT)
        with pytest.raises(AnswerTooLarge, match="one event of the provider's stream"):
            feed_often(reader, b"x" * 1000)

    def test_one_event_of_many_lines(self) -> None:
        reader = dialect_for("openai-chat", "").reader("text/event-stream", limit_bytes=self.LIMIT)
        with pytest.raises(AnswerTooLarge, match="one event of the provider's stream"):
            feed_often(reader, b"data: " + b"x" * 100 + b"\n")

    @pytest.mark.parametrize("format", FORMATS)
    def test_an_answer_that_never_ends(self, format: str) -> None:
        answer = written(format, say(["word "] * (2 * self.LIMIT // 5)))
        with pytest.raises(AnswerTooLarge, match="4096 bytes"):
            read_stream(answer.dialect, [answer.stream], limit_bytes=self.LIMIT)

    def test_a_stream_of_keep_alives(self) -> None:
        reader = dialect_for("anthropic", "").reader("text/event-stream", limit_bytes=self.LIMIT)
        most = self.LIMIT * STREAM_OVERHEAD
        with pytest.raises(AnswerTooLarge, match=f"the provider's stream is larger than {most} bytes"):
            feed_often(reader, b'event: ping\ndata: {"type": "ping"}\n\n' * 100)

    def test_tool_calls_without_number(self) -> None:
        chunks = [
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": n, "id": f"c{n}", "function": {}}]}}]}
            for n in range(500)
        ]
        with pytest.raises(AnswerTooLarge):
            read_stream(dialect_for("openai-chat", ""), [data_events(*chunks)], limit_bytes=self.LIMIT)

    @pytest.mark.parametrize("format", FORMATS)
    def test_a_long_answer_in_small_pieces_fits_if_its_plain_form_does(self, format: str) -> None:
        """What each event repeats does not count."""
        answer = written(format, say(["ab"] * 5000))
        limit_bytes = len(answer.plain) * 5 // 4
        assert len(answer.stream) > 10 * limit_bytes
        _, read = read_stream(answer.dialect, [answer.stream], limit_bytes=limit_bytes)
        assert read.answer.text == "ab" * 5000


def test_every_error_is_one_that_callers_can_catch() -> None:
    for error in (AnswerTooLarge("x", 1), AnswerMalformed("x"), StreamCut("x")):
        assert isinstance(error, AnswerError)
        assert error.code.startswith("PROVIDER_")
