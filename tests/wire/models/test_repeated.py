"""What is read of an event that is like the one before it is what is read of it alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.wire.models import dialect_for
from stepwell.wire.models.dialect import Answered, Delta
from stepwell.wire.models.repeated import Repeated

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
TEXTS = st.text() | st.sampled_from(
    ['"', "\\", '","content":"', '"}', "\n", "\u2028", "\U0001f600", ',"obfuscation":"ab"}']
)


def event(text: str, *, padding: str | None = None, ascii_only: bool = True, loose: bool = False, **more: Any) -> bytes:
    choice = {"index": more.pop("index", 0), "delta": {"content": text, **more.pop("delta", {})}, "finish_reason": None}
    chunk = {**HEAD, **more, "choices": [choice], "usage": None}
    if padding is not None:
        chunk["obfuscation"] = padding
    separators = None if loose else (",", ":")
    return json.dumps(chunk, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "surrogatepass")


def read(events: list[bytes]) -> tuple[list[Delta], Answered]:
    end = json.dumps({**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).encode()
    reader = dialect_for("openai-chat", "").reader("text/event-stream", limit_bytes=100_000)
    deltas = [delta for each in [*events, end, b"[DONE]"] for delta in reader.feed(b"data: %b\n\n" % each)]
    return deltas, reader.finish()


def read_one_by_one(events: list[bytes]) -> tuple[list[Delta], Answered]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Repeated, "text", lambda *_: None)
        return read(events)


EVENTS = st.builds(
    event,
    TEXTS,
    padding=st.sampled_from([None, "", "a", "Zz09", "q-"]),
    ascii_only=st.booleans(),
    loose=st.booleans(),
    model=st.sampled_from(["m", "m", "n"]),
    index=st.sampled_from([0, 0, 0, 1]),
    delta=st.sampled_from(
        [{}, {}, {"role": "assistant"}, {"refusal": None}, {"reasoning": "Hm."}, {"annotations": [1]}]
    ),
)


@given(st.lists(EVENTS, max_size=12))
def test_a_stream_is_read_as_its_events_are_alone(events: list[bytes]) -> None:
    assert read(events) == read_one_by_one(events)


@given(st.lists(TEXTS, min_size=2, max_size=12), st.booleans(), st.sampled_from([None, "aaaa"]))
def test_texts_alone_are_read_alike(texts: list[str], loose: bool, padding: str | None) -> None:
    events = [event(text, loose=loose, padding=padding) for text in texts]
    deltas, answered = read(events)
    assert (deltas, answered) == read_one_by_one(events)
    assert answered.answer.text == "".join(texts)
    assert [delta.text for delta in deltas] == [text for text in texts if text]


@pytest.mark.parametrize("padding", [None, "k3"])
def test_nothing_but_the_text_is_read_of_an_event_like_the_last(padding: str | None) -> None:
    repeated = Repeated("content")
    assert repeated.text(event("a", padding=padding)) is None
    repeated.learn(event("a", padding=padding))
    assert repeated.text(event('b"\\\n', padding=padding)) == 'b"\\\n'
    assert repeated.text(event("", padding=padding and "z")) == ""
    for other in (
        event("a", padding="a-" if padding else "a"),
        event("a", model="n"),
        event("a") + b" ",
        b"",
        b"[DONE]",
    ):
        assert repeated.text(other) is None


def test_half_a_letter_and_an_end_within_are_left_to_others() -> None:
    repeated = Repeated("content")
    repeated.learn(event("a"))
    assert repeated.text(event("\ud83d")) is None
    assert repeated.text(event("@").replace(b"@", b'","x":"')) is None
    repeated.learn(event("a").replace(b'"usage":null', b'"usage":{"content":"b"}'))
    assert repeated.text(event("c").replace(b'"usage":null', b'"usage":{"content":"b"}')) is None
