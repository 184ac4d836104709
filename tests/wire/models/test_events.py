"""Server-sent events out of bytes that were cut anywhere."""

from hypothesis import given
from hypothesis import strategies as st

from stepwell.wire.models.sse import EventStream, ServerSentEvent

LINES = [b"data: a\n", b"data:b\r\n", b"\r", b"\n", b"\r\n", b"event: e\r", b": c\n", b"id: 1\n", b"\xc3\xbc", b"data"]
PIECES = st.lists(st.sampled_from(LINES))


def all_events(chunks: list[bytes]) -> list[ServerSentEvent]:
    stream = EventStream(10_000)
    return [event for chunk in chunks for event in stream.feed(chunk)] + stream.close()


def test_names_comments_and_several_lines() -> None:
    text = b": hello\n\nevent: a\ndata: 1\ndata:  2\nid: 7\nretry: 5\n\ndata\n\nevent: nothing\n\ndata: \xc3\xbc\n\n"
    assert all_events([text]) == [("a", b"1\n 2"), ("", b""), ("", b"\xc3\xbc")]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert all_events([b"\xef\xbb", b"\xbfdata: 1\n\n"]) == [("", b"1")]


def test_the_three_ends_of_a_line_mean_the_same() -> None:
    for end in (b"\n", b"\r", b"\r\n"):
        assert all_events([b"data: 1" + end + b"data: 2" + end * 2 + b"data: 3" + end * 2]) == [
            ("", b"1\n2"),
            ("", b"3"),
        ]


def test_cr_and_lf_in_two_chunks_end_one_line() -> None:
    assert all_events([b"data: 1\r", b"\ndata: 2\r", b"\n\r", b"\n"]) == [("", b"1\n2")]


def test_what_is_not_a_line_of_an_event_stream_is_kept_apart() -> None:
    stream = EventStream(1000)
    assert stream.feed(b'data: 1\n\n{"error":\n 5}\n') == [("", b"1")]
    assert bytes(stream.stray) == b'{"error":\n 5}\n'


@given(PIECES, st.data())
def test_cutting_changes_nothing(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert all_events(chunks) == all_events([whole])
