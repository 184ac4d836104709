"""Streams, line by line."""

import json

import pytest

from stepwell.wire.infsh.framing import Framing, wants_lines


@pytest.mark.parametrize(
    ("accept", "lines"),
    [
        ("application/x-ndjson", True),
        ("text/plain, application/jsonl;q=0.9", True),
        ("text/event-stream", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_who_does_not_ask_for_lines_gets_server_sent_events(accept: str, lines: bool) -> None:
    assert wants_lines(accept) is lines


def test_every_line_is_one_value() -> None:
    lines = Framing(lines=True)
    text = b"".join(
        [
            lines.opening(),
            lines.whole({"id": "t", "text": "a\nb"}, "o.1"),
            lines.part({"id": "t", "status": 7}, ["status"], "o.2"),
            lines.typed("delta", {"seq": 1}, "o.3"),
            lines.heartbeat(),
            lines.done("end"),
        ]
    )
    assert text.endswith(b"\n")
    assert [json.loads(one) for one in text.splitlines()] == [
        {"id": "t", "text": "a\nb"},
        {"data": {"id": "t", "status": 7}, "fields": ["status"]},
        {"event": "delta", "data": {"seq": 1}},
        {"type": "heartbeat"},
    ]


def test_events_have_an_id_and_only_typed_ones_a_name() -> None:
    events = Framing(lines=False)
    assert events.opening() == b"retry: 1000\n\n"
    assert events.whole({"id": "t"}, "o.1") == b'id: o.1\ndata: {"id":"t"}\n\n'
    assert events.typed("delta", {"seq": 1}, "o.2") == (
        b'event: delta\nid: o.2\ndata: {"event":"delta","data":{"seq":1}}\n\n'
    )
    assert events.heartbeat() == b'data: {"type":"heartbeat"}\n\n'
    assert events.done("end") == b"event: done\nid: end\ndata: {}\n\n"
