"""Whoever asked for a plain answer gets it, although it came as a stream; and both say the same to the accounts."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.testing.provider import call, say
from stepwell.wire.models import dialect_for
from stepwell.wire.models.dialect import DeltaKind, ToolCall, Usage
from stepwell.wire.models.errors import AnswerError
from tests.wire.models.cases import (
    ANSWERS,
    FORMATS,
    LIMIT_BYTES,
    MODELS,
    URLS,
    USED,
    WORDS,
    data_events,
    dumps,
    read_plain,
    read_stream,
    written,
)

CHAT = dialect_for("openai-chat", URLS["openai-chat"])
CASES = [(format, name) for format in FORMATS for name in ANSWERS]
DELTAS = {
    DeltaKind.TEXT: "text",
    DeltaKind.REASONING: "reasoning",
    DeltaKind.REFUSAL: "refusal",
}


@pytest.mark.parametrize(("format", "name"), CASES)
def test_a_stream_gives_the_plain_answer_byte_for_byte(format: str, name: str) -> None:
    answer = written(format, ANSWERS[name])
    _, streamed = read_stream(answer.dialect, [answer.stream])

    if format == "gemini" and name == "nothing":  # a stream of nothing has an empty part, a plain answer none
        assert json.loads(streamed.body)["candidates"][0].pop("content")["parts"] == [{"text": ""}]
    elif format == "azure-openai":  # the verdict on the prompt comes first, and is told last
        assert json.loads(streamed.body) == json.loads(answer.plain)
    else:
        assert streamed.body.decode() == answer.plain.decode()
    assert streamed.answer == read_plain(answer.dialect, answer.plain).answer


@pytest.mark.parametrize(("format", "name"), CASES)
def test_the_deltas_of_a_stream_add_up_to_its_answer(format: str, name: str) -> None:
    answer = written(format, ANSWERS[name])
    deltas, streamed = read_stream(answer.dialect, [answer.stream])

    for kind, part in DELTAS.items():
        assert "".join(delta.text for delta in deltas if delta.kind is kind) == getattr(streamed.answer, part)
    begun = [delta for delta in deltas if delta.kind is DeltaKind.TOOL_CALL]
    assert [delta.name for delta in begun] == [tool.name for tool in streamed.answer.tool_calls]
    for delta, tool in zip(begun, streamed.answer.tool_calls, strict=True):
        pieces = [each.text for each in deltas if each.kind is DeltaKind.TOOL_ARGUMENTS and each.index == delta.index]
        assert json.loads("".join(pieces)) == json.loads(tool.arguments)


@pytest.mark.parametrize("format", FORMATS)
def test_an_answer_is_read_alike_in_every_dialect(format: str) -> None:
    said = say(WORDS, reasoning="Hm, ja.", tool_calls=[call("weather", {"city": "Oslo"}, id="c1")], usage=USED)
    answer = written(format, said)
    read = read_plain(answer.dialect, answer.plain).answer

    assert read.model == MODELS[format]
    assert read.text == WORDS
    assert read.reasoning == "Hm, ja."
    assert read.tool_calls == (ToolCall("c1", "weather", '{"city":"Oslo"}'),)
    assert read.usage == USED
    assert read.response_id != ""
    assert len(read.finish_reasons) == 1


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_way_of_cutting_the_bytes_gives_the_same(format: str, data: st.DataObject) -> None:
    said = ANSWERS[data.draw(st.sampled_from(sorted(ANSWERS)))]
    answer = written(format, said)
    end_of_line = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    stream = answer.stream.replace(b"\n", end_of_line)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=40)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert read_stream(answer.dialect, chunks) == read_stream(answer.dialect, [answer.stream])


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_that_come_one_by_one_give_the_same(format: str) -> None:
    answer = written(format, ANSWERS["text after thoughts"])
    one_by_one = [answer.stream[at : at + 1] for at in range(len(answer.stream))]
    assert read_stream(answer.dialect, one_by_one) == read_stream(answer.dialect, [answer.stream])


def test_anthropic_counts_the_cache_beside_the_input() -> None:
    used = Usage(
        input_tokens=100, output_tokens=20, cached_read_tokens=50, cached_write_tokens=30, cached_write_long_tokens=10
    )
    answer = written("anthropic", say("Hi", usage=used))
    assert json.loads(answer.plain)["usage"]["input_tokens"] == 20  # what Anthropic itself says
    assert read_plain(answer.dialect, answer.plain).answer.usage == used


@pytest.mark.parametrize("format", ["grok", "openai-chat"])
def test_reasoning_that_a_provider_counts_beside_its_completion_is_output_all_the_same(format: str) -> None:
    """xAI does so, and SDKs call its format `openai-chat`."""
    counts = {"prompt_tokens": 663, "completion_tokens": 50, "total_tokens": 837}
    plain = dumps({"choices": [], "usage": {**counts, "completion_tokens_details": {"reasoning_tokens": 124}}})
    usage = read_plain(dialect_for(format, "http://localhost/v1/chat/completions"), plain).answer.usage
    assert usage == Usage(input_tokens=663, output_tokens=174, reasoning_tokens=124)


@pytest.mark.parametrize("format", FORMATS)
def test_a_provider_that_tells_no_usage_is_not_guessed_at(format: str) -> None:
    answer = written(format, ANSWERS["text"])
    plain = {name: value for name, value in json.loads(answer.plain).items() if not name.startswith("usage")}
    assert read_plain(answer.dialect, dumps(plain)).answer.usage is None


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_reading_an_answer_never_fails_whatever_it_holds(format: str, data: st.DataObject) -> None:
    """Imitators leave things out, send null, or something else."""
    document: Any = json.loads(written(format, ANSWERS["text and two tools"]).plain)
    for _ in range(data.draw(st.integers(1, 4))):
        _spoil(document, data)
    body = dumps(document)
    assert read_plain(dialect_for(format, URLS[format]), body).body == body


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_stream_of_odd_events_gives_an_answer_or_an_error_with_a_name(format: str, data: st.DataObject) -> None:
    answer = written(format, ANSWERS[data.draw(st.sampled_from(sorted(ANSWERS)))])
    events = answer.stream.split(b"\n\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(events) - 1))
        before, mark, text = events[at].partition(b"data: ")
        if text.startswith(b"{"):
            document = json.loads(text)
            _spoil(document, data)
            events[at] = before + mark + dumps(document)
    if data.draw(st.booleans()):
        del events[data.draw(st.integers(0, len(events) - 1))]
    reader = answer.dialect.reader("text/event-stream", limit_bytes=LIMIT_BYTES)
    try:
        reader.feed(b"\n\n".join(events))
        body = reader.finish().body
    except AnswerError:
        assert isinstance(reader.answer_so_far().text, str)
    else:
        assert isinstance(json.loads(body), dict)


def _spoil(document: Any, data: st.DataObject) -> None:
    """Put something else into a random place of a document."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(st.sampled_from([None, 0, -1, 1.5, True, "x", "", [], {}, [1], {"a": 1}]))
            return
        place = inner


class TestImitators:
    """Streams that differ from OpenAI's, as they were seen."""

    def test_no_end_mark(self) -> None:
        stream = data_events(
            {"id": "1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}]},
            {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        )
        assert read_stream(CHAT, [stream])[1].answer.text == "Hi"

    def test_no_newline_after_the_last_event(self) -> None:
        answer = written("openai-chat", ANSWERS["text"])
        assert read_stream(CHAT, [answer.stream.rstrip(b"\n")])[1].answer.text == WORDS

    def test_usage_in_a_chunk_whose_choices_are_null(self) -> None:
        stream = data_events(
            {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
            {"choices": None, "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}},
            "[DONE]",
        )
        assert read_stream(CHAT, [stream])[1].answer.usage == Usage(input_tokens=5, output_tokens=1)

    def test_usage_under_x_groq(self) -> None:
        stream = data_events(
            {"choices": [{"index": 0, "delta": {"content": "Hi"}}]},
            {
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "x_groq": {"usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}},
            },
            "[DONE]",
        )
        assert read_stream(CHAT, [stream])[1].answer.usage == Usage(input_tokens=5, output_tokens=1)

    def test_usage_so_far_in_every_chunk(self) -> None:
        chunks = [
            {
                "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None if n < 3 else "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": n, "total_tokens": 5 + n},
            }
            for n in (1, 2, 3)
        ]
        assert read_stream(CHAT, [data_events(*chunks)])[1].answer.usage == Usage(input_tokens=5, output_tokens=3)

    def test_tool_calls_that_all_have_index_0(self) -> None:
        calls = [{"index": 0, "id": f"c{n}", "function": {"name": f"f{n}", "arguments": "{}"}} for n in (1, 2)]
        self.check_two_calls([{"tool_calls": [calls[0]]}, {"tool_calls": [calls[1]]}])

    def test_tool_calls_without_an_index(self) -> None:
        calls = [{"id": f"c{n}", "function": {"name": f"f{n}", "arguments": "{}"}} for n in (1, 2)]
        self.check_two_calls([{"tool_calls": calls}])

    def test_a_tool_call_that_is_written_in_both_ways_is_one(self) -> None:
        called = {"name": "weather", "arguments": "{}"}
        delta = {"tool_calls": [{"index": 0, "id": "c1", "function": called}], "function_call": called}
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]}]
        answer = read_stream(CHAT, [data_events(*chunks)])[1].answer
        assert answer.tool_calls == (ToolCall("c1", "weather", "{}"),)

    def test_an_id_that_is_sent_again_with_each_piece(self) -> None:
        self.check_two_calls(
            [
                {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f1", "arguments": "{"}}]},
                {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "", "arguments": "}"}}]},
                {"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "f2", "arguments": ""}}]},
                {"tool_calls": [{"index": 1, "id": "", "function": {"arguments": "{}"}}]},
            ]
        )

    def test_a_thinking_part_in_the_content(self) -> None:
        thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
        said = [{"type": "text", "text": "Ja."}]
        stream = data_events(
            {"choices": [{"index": 0, "delta": {"content": thought}}]},
            {"choices": [{"index": 0, "delta": {"content": said}, "finish_reason": "stop"}]},
        )
        answer = read_stream(CHAT, [stream])[1].answer
        assert (answer.reasoning, answer.text) == ("Hm.", "Ja.")

    def test_chunks_of_nothing_while_grok_thinks_and_a_tool_call_in_one_piece(self) -> None:
        call = {"id": "c1", "function": {"name": "f", "arguments": "{}"}, "index": 0, "type": "function"}
        stream = data_events(
            {
                "id": "1",
                "created": 5,
                "choices": [{"index": 0, "delta": {"reasoning_content": "Hm", "role": "assistant"}}],
            },
            *[{"id": "1", "created": 5, "choices": [{"index": 0, "delta": {}}]}] * 500,
            {"id": "1", "created": 6, "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]},
            {"id": "1", "created": 6, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
            "[DONE]",
        )
        answer = read_stream(CHAT, [stream], limit_bytes=1000)[1].answer
        assert (answer.reasoning, answer.tool_calls) == ("Hm", (ToolCall("c1", "f", "{}"),))

    def test_azure_s_first_chunk_which_only_judges_the_prompt(self) -> None:
        verdict = [{"prompt_index": 0, "content_filter_results": {"jailbreak": {"filtered": False}}}]
        stream = data_events(
            {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": verdict},
            {"choices": [{"index": 0, "delta": {"content": "Hi"}}], "created": 9, "id": "c", "model": "m"},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "created": 9, "id": "c", "model": "m"},
            "[DONE]",
        )
        document = json.loads(read_stream(CHAT, [stream])[1].body)
        assert (document["id"], document["model"], document["created"]) == ("c", "m", 9)
        assert (document["object"], document["prompt_filter_results"]) == ("chat.completion", verdict)

    def test_a_plain_answer_to_a_request_for_a_stream(self) -> None:
        plain = written("openai-chat", ANSWERS["text"]).plain
        for content_type in ("application/json", "text/plain", ""):
            reader = CHAT.reader(content_type, limit_bytes=10_000)
            assert reader.feed(b" \n") + reader.feed(plain) == []
            assert reader.finish().answer.text == WORDS

    def test_a_stream_under_a_wrong_content_type(self) -> None:
        reader = CHAT.reader("text/plain", limit_bytes=10_000)
        stream = written("openai-chat", ANSWERS["text"]).stream
        assert [delta.text for delta in reader.feed(stream)] != []
        assert reader.finish().answer.text == WORDS

    @staticmethod
    def check_two_calls(deltas: list[dict[str, Any]]) -> None:
        chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
        answer = read_stream(CHAT, [data_events(*chunks, last, "[DONE]")])[1].answer
        assert answer.tool_calls == (ToolCall("c1", "f1", "{}"), ToolCall("c2", "f2", "{}"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_character_cut_between_its_utf_16_halves_is_whole_again(format: str) -> None:
    answer = written(format, say(["a ", "@", "#", " b"], usage=USED))
    stream = answer.stream.replace(b"@", b"\\ud83d").replace(b"#", b"\\ude00")
    if format == "openai-responses":  # tells the whole text too
        stream = stream.replace(b"a \\ud83d\\ude00 b", "a 😀 b".encode())
    deltas, streamed = read_stream(answer.dialect, [stream])
    assert streamed.answer.text == "a 😀 b"
    assert "a 😀 b".encode() in streamed.body
    assert [delta.text for delta in deltas] == ["a ", "\ufffd", "\ufffd", " b"]


def test_half_a_character_that_stays_alone_is_replaced() -> None:
    stream = data_events({"id": "1", "choices": [{"index": 0, "delta": {"content": "@"}, "finish_reason": "stop"}]})
    assert read_stream(CHAT, [stream.replace(b"@", b"\\uD83D")])[1].answer.text == "\ufffd"
    plain = dumps({"choices": [{"message": {"content": "@"}}]}).replace(b"@", b"\\uD83D")
    assert json.loads(read_plain(CHAT, plain).body)["choices"][0]["message"]["content"] == "\ufffd"


def test_choices_grow_side_by_side_and_logprobs_are_joined() -> None:
    def chunk(index: int, piece: str, finish: str | None = None) -> dict[str, Any]:
        logprobs = {"content": [{"token": piece, "logprob": -0.5}], "refusal": None}
        return {
            "choices": [{"index": index, "delta": {"content": piece}, "logprobs": logprobs, "finish_reason": finish}]
        }

    stream = data_events(chunk(1, "b"), chunk(0, "a"), chunk(1, "d", "stop"), chunk(0, "c", "length"), "[DONE]")
    deltas, answered = read_stream(CHAT, [stream])
    document = json.loads(answered.body)

    assert [(choice["index"], choice["message"]["content"]) for choice in document["choices"]] == [(0, "ac"), (1, "bd")]
    assert [each["token"] for each in document["choices"][0]["logprobs"]["content"]] == ["a", "c"]
    assert answered.answer.finish_reasons == ("length", "stop")
    assert [(delta.text, delta.index) for delta in deltas] == [("b", 1), ("a", 0), ("d", 1), ("c", 0)]


def test_anthropic_citations_and_unknown_events_and_deltas_are_kept() -> None:
    dialect = dialect_for("anthropic", "")
    citation = {"type": "char_location", "cited_text": "x", "document_index": 0}
    stream = data_events(
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "See"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": citation}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "newer_delta", "newer": {"a": 1}}},
        {"type": "newer_event", "index": 0},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 4, "input_tokens": None},
            "context_management": {"applied_edits": []},
        },
        {"type": "message_stop"},
    )
    document = json.loads(read_stream(dialect, [stream])[1].body)
    assert document["content"] == [{"type": "text", "text": "See", "citations": [citation], "newer": {"a": 1}}]
    assert document["usage"] == {"input_tokens": 3, "output_tokens": 4}
    assert document["context_management"] == {"applied_edits": []}


def test_a_tool_input_that_is_not_json_is_handed_on_as_text() -> None:
    stream = data_events(
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"a": '}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    )
    document = json.loads(read_stream(dialect_for("anthropic", ""), [stream])[1].body)
    assert document["content"][0]["input"] == {"INVALID_JSON": '{"a": '}


def test_gemini_joins_neighbouring_texts_and_keeps_other_parts_apart() -> None:
    dialect = dialect_for("gemini", "")

    def chunk(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": list(parts), "role": "model"}, **more}]}

    picture = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}
    stream = data_events(
        chunk({"text": "think", "thought": True}),
        chunk({"text": "ing", "thought": True}, {"text": "A"}),
        chunk({"text": "B"}, picture, {"text": "C"}),
        chunk({"text": "", "thoughtSignature": "c2ln"}),
        chunk({"text": "D"}, finishReason="STOP"),
    )
    deltas, answered = read_stream(dialect, [stream])
    assert json.loads(answered.body)["candidates"][0] == {
        "content": {
            "parts": [
                {"text": "thinking", "thought": True},
                {"text": "AB"},
                picture,
                {"text": "C", "thoughtSignature": "c2ln"},
                {"text": "D"},
            ],
            "role": "model",
        },
        "finishReason": "STOP",
    }
    assert [delta.text for delta in deltas] == ["think", "ing", "A", "B", "C", "D"]


def test_a_prompt_that_gemini_refuses_is_an_answer() -> None:
    stream = data_events({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}})
    answer = read_stream(dialect_for("gemini", ""), [stream])[1].answer
    assert answer.finish_reasons == ("SAFETY",)
    assert answer.usage == Usage(input_tokens=4)


def test_an_unknown_format_is_passed_on_as_it_is() -> None:
    dialect = dialect_for("somebody", "https://example.com/generate")
    body = b'data: \xff\x00 whatever {"usage": {"prompt_tokens": 1}}'
    for content_type in ("", "application/json", "text/plain"):
        reader = dialect.reader(content_type, limit_bytes=1000)
        assert reader.feed(body[:5]) + reader.feed(body[5:]) == []
        assert reader.finish().body == body


def test_what_is_known_of_a_cut_answer_can_be_read() -> None:
    for format in FORMATS:
        answer = written(format, say(["Hello", " there", " friend"], usage=USED))
        reader = answer.dialect.reader("text/event-stream", limit_bytes=10_000)
        for event in answer.stream.split(b"\n\n"):
            if b"friend" in event:
                break
            reader.feed(event + b"\n\n")
        assert reader.answer_so_far().text == "Hello there", format
