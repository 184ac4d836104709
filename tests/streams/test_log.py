"""What a log keeps, and what a reader is told who was away."""

from __future__ import annotations

from stepwell.model.ids import StepId
from stepwell.streams.log import Chunk, Log, Place, Reader, Source

STEP = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")


class Feed:
    """Pieces of one origin, with their numbers."""

    def __init__(self, origin: str, log: Log) -> None:
        self.source = Source(origin, STEP, "summarize")
        self.log = log
        self.number = 0

    def add(self, count: int, at: float = 0.0) -> None:
        for _ in range(count):
            self.number += 1
            text = b"%b%d" % (self.source.origin.encode(), self.number)
            self.log.append(Chunk(self.number, self.source, at, text))


def reader_of(log: Log) -> Reader:
    return Reader(log, lambda: None, lambda log, reader: log.readers.discard(reader))


def read(reader: Reader) -> tuple[list[str], Place | None]:
    """Everything that is there, and where the reader is then."""
    found, place = [], None
    while (chunk := reader.next()) is not None:
        found.append(chunk.text.decode())
        place = reader.pass_by()
    return found, place


def test_who_comes_back_gets_what_came_since() -> None:
    log = Log("a")
    feed = Feed("a", log)
    feed.add(3)
    seen, place = read(reader_of(log))
    feed.add(2)
    back = reader_of(log)
    assert place is not None
    assert back.go_to(place)
    assert seen == ["a1", "a2", "a3"]
    assert read(back) == (["a4", "a5"], Place("a", 5))
    assert back.missed() == 0


def test_who_is_slower_than_the_window_is_told_what_is_gone() -> None:
    log = Log("a")
    feed = Feed("a", log)
    feed.add(4)
    slow = reader_of(log)
    assert slow.next() is not None
    slow.pass_by()
    log.drop(3)
    assert read(slow) == (["a4"], Place("a", 4))
    assert slow.missed() == 2
    assert slow.missed() == 0


def test_a_place_before_the_window_is_known_and_told_as_a_gap() -> None:
    log = Log("a")
    Feed("a", log).add(10)
    log.drop(8)
    back = reader_of(log)
    assert back.go_to(Place("a", 5))
    assert read(back)[0] == ["a9", "a10"]
    assert back.missed() == 3


def test_who_comes_first_when_pieces_are_gone_already_is_told_so() -> None:
    log = Log("a")
    Feed("a", log).add(10)
    log.drop(10)
    late = reader_of(log)
    assert read(late) == ([], None)
    assert late.missed() == 10


def test_places_of_another_life_and_of_the_future_mean_nothing() -> None:
    log = Log("a")
    Feed("a", log).add(2)
    reader = reader_of(log)
    assert not reader.go_to(Place("b", 1))
    assert not reader.go_to(Place("a", 3))
    assert read(reader)[0] == ["a1", "a2"]
    assert not reader_of(Log("a")).go_to(Place("b", 1))


def test_pieces_older_than_a_moment_are_dropped() -> None:
    log = Log("a")
    feed = Feed("a", log)
    feed.add(2, at=1.0)
    feed.add(2, at=5.0)
    before = log.size_bytes
    log.drop_until(5.0)
    assert read(reader_of(log))[0] == ["a3", "a4"]
    assert 0 < log.size_bytes < before
    log.drop(2)
    assert log.size_bytes == 0


def test_what_another_node_publishes_has_the_places_that_it_has_there() -> None:
    log = Log("here")
    there = Feed("there", log)
    there.number = 6  # what came before was dropped there
    there.add(3)
    assert read(reader_of(log)) == (["there7", "there8", "there9"], Place("there", 9))
    back = reader_of(log)
    assert back.go_to(Place("there", 8))
    assert read(back)[0] == ["there9"]
    early = reader_of(log)
    assert early.go_to(Place("there", 4))
    read(early)
    assert early.missed() == 2


def test_pieces_of_two_nodes_have_an_order_of_their_own() -> None:
    log = Log("here")
    here, there = Feed("here", log), Feed("there", log)
    here.add(2)
    there.add(1)
    here.add(1)
    everything, place = read(reader_of(log))
    assert everything == ["here1", "here2", "there1", "here3"]
    assert place is not None
    assert reader_of(log).go_to(place)
    back = reader_of(log)
    assert back.go_to(Place("here", 1))  # before they were merged
    assert read(back)[0] == ["here2", "there1", "here3"]
    assert not reader_of(log).go_to(Place("here", 3))  # who knows whether they have what came from there
    assert not reader_of(log).go_to(Place("there", 1))


def test_the_place_after_each_piece_leads_to_the_next() -> None:
    log = Log("here")
    here, there = Feed("here", log), Feed("there", log)
    here.add(3)
    there.add(3)
    log.drop(1)
    reader, texts = reader_of(log), []
    while (chunk := reader.next()) is not None:
        texts.append(chunk.text.decode())
        back = reader_of(log)
        assert back.go_to(reader.pass_by())
        rest, _ = read(back)
        assert [*texts, *rest] == ["here2", "here3", "there1", "there2", "there3"]
