"""What is published reaches those who subscribe, once encoded, within bounds."""

from __future__ import annotations

import json
from typing import Any

from stepwell.model.ids import RunId, StepId
from stepwell.model.stream import USAGE, Piece
from stepwell.streams.log import Reader
from stepwell.streams.streams import Streams, StreamSettings, gap_event

RUN = RunId("01HZY000000000000000000000")
OTHER = RunId("01HZY000000000000000000001")
STEP = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")
NEXT = StepId("e9d71f5ee7c92d6dc9e92ffdad17b8bd49418f98")


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def streams_with(time: Time | None = None, **settings: Any) -> Streams:
    return Streams(StreamSettings(**settings), clock=time or Time())


def say(streams: Streams, *texts: str, run: RunId = RUN, step: StepId = STEP) -> None:
    for text in texts:
        streams.publish(run, step, "summarize", [Piece(text=text)])


def read(reader: Reader) -> list[dict[str, Any]]:
    """The data of every event that is there."""
    found: list[dict[str, Any]] = []
    while (chunk := reader.next()) is not None:
        reader.pass_by()
        for event in chunk.text.decode().strip().split("\n\n"):
            kind, data = event.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert kind == f"event: {found[-1]['type']}"
    return found


def subscribed(streams: Streams, run: RunId = RUN) -> Reader:
    reader = streams.subscribe(run, lambda: None)
    reader.__enter__()
    return reader


def test_a_piece_says_of_which_step_it_is_and_where_in_it() -> None:
    streams = streams_with()
    say(streams, "It ", 'b"urns\n\u2028ö😀')
    first, second = read(subscribed(streams))
    assert first == {
        "type": "delta",
        "step": STEP,
        "name": "summarize",
        "kind": "text",
        "index": 0,
        "offset": 0,
        "text": "It ",
    }
    assert (second["text"], second["offset"]) == ('b"urns\n\u2028ö😀', 1)


def test_what_was_used_comes_as_a_piece_of_its_own() -> None:
    streams = streams_with()
    streams.publish(RUN, STEP, "summarize", [Piece(USAGE, more={"output_tokens": 3})])
    (told,) = read(subscribed(streams))
    assert (told["kind"], told["output_tokens"], told["text"]) == ("usage", 3, "")


def test_everybody_reads_the_same_bytes() -> None:
    streams = streams_with()
    readers = [subscribed(streams) for _ in range(3)]
    say(streams, "Hello")
    texts = {id(chunk.text) for reader in readers if (chunk := reader.next()) is not None}
    assert len(texts) == 1


def test_a_subscriber_is_woken_by_pieces_of_its_run_alone() -> None:
    streams = streams_with()
    rung: list[str] = []
    with streams.subscribe(RUN, lambda: rung.append("run")), streams.subscribe(OTHER, lambda: rung.append("other")):
        say(streams, "a")
        assert rung == ["run"]
        say(streams, "a", run=OTHER)
        assert rung == ["run", "other"]
    say(streams, "b")
    assert rung == ["run", "other"]


def test_pieces_of_a_step_that_begins_again_are_void() -> None:
    streams = streams_with()
    say(streams, "half")
    streams.void(RUN, STEP, "summarize")
    streams.void(RUN, STEP, "summarize")  # of which nothing was shown since
    say(streams, "whole")
    told = read(subscribed(streams))
    assert [one["type"] for one in told] == ["delta", "reset", "delta"]
    assert (told[1]["step"], told[1]["name"]) == (STEP, "summarize")
    assert (told[2]["text"], told[2]["offset"]) == ("whole", 0)


def test_nothing_is_void_that_was_not_shown() -> None:
    streams = streams_with()
    streams.void(RUN, STEP, "summarize")
    say(streams, "a", step=NEXT)
    streams.void(RUN, STEP, "summarize")
    assert [one["type"] for one in read(subscribed(streams))] == ["delta"]


def test_a_run_has_so_many_pieces_and_no_more() -> None:
    streams = streams_with(pieces=16)
    say(streams, *map(str, range(100)))
    reader = subscribed(streams)
    told = read(reader)
    assert len(told) <= 16
    assert told[-1]["text"] == "99"
    assert reader.missed() == 100 - len(told)


def test_a_run_has_so_many_bytes_and_no_more() -> None:
    streams = streams_with(bytes=10_000)
    say(streams, *["x" * 1000] * 50)
    assert streams.size_bytes <= 10_000
    assert 1 <= len(read(subscribed(streams))) <= 10


def test_one_piece_that_is_larger_than_the_window_is_dropped_and_told() -> None:
    streams = streams_with(bytes=100)
    reader = subscribed(streams)
    say(streams, "x" * 1000)
    assert read(reader) == []
    assert reader.missed() == 1
    assert streams.size_bytes == 0


def test_all_runs_together_have_so_many_bytes_and_those_used_longest_ago_lose_theirs() -> None:
    streams = streams_with(all_bytes=20_000)
    say(streams, "x" * 1000)
    for number in range(30):
        say(streams, "y" * 1000, run=RunId(f"01HZY0000000000000000001{number:02}"))
        assert streams.size_bytes <= 20_000
    old = subscribed(streams)
    assert read(old) == []
    assert old.missed() == 1
    assert len(read(subscribed(streams, RunId("01HZY000000000000000000129")))) == 1


def test_one_run_cannot_have_more_than_all() -> None:
    streams = streams_with(all_bytes=5_000)
    say(streams, *["x" * 1000] * 50)
    assert 0 < streams.size_bytes <= 5_000
    assert read(subscribed(streams))[-1]["text"] == "x" * 1000


def test_pieces_are_kept_for_a_while() -> None:
    time = Time()
    streams = streams_with(time, age_s=60)
    say(streams, "old")
    time.now += 61
    say(streams, "new")
    reader = subscribed(streams)
    assert [one["text"] for one in read(reader)] == ["new"]
    assert reader.missed() == 1


def test_what_nobody_reads_any_more_is_forgotten() -> None:
    time = Time()
    streams = streams_with(time, age_s=60)
    say(streams, "a")
    with streams.subscribe(OTHER, lambda: None):
        time.now += 61
        say(streams, "b", run=RunId("01HZY000000000000000000002"))
        assert streams.runs == 2
    time.now += 61
    with streams.subscribe(RUN, lambda: None):
        pass
    assert streams.runs == 0
    assert streams.size_bytes == 0


def test_a_run_without_pieces_is_forgotten_when_its_last_reader_leaves() -> None:
    streams = streams_with()
    with streams.subscribe(RUN, lambda: None):
        with streams.subscribe(RUN, lambda: None):
            pass
        assert streams.runs == 1
    assert streams.runs == 0


def test_one_who_reads_for_longer_than_pieces_are_kept_misses_nothing() -> None:
    time = Time()
    streams = streams_with(time, age_s=60)
    reader = subscribed(streams)
    for _ in range(5):
        time.now += 61
        say(streams, "a")
        assert len(read(reader)) == 1
    assert reader.missed() == 0


def test_a_gap_says_how_much_is_missing() -> None:
    assert gap_event(7) == b'event: gap\ndata: {"type":"gap","missed":7}\n\n'
