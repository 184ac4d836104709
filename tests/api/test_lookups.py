"""Asking one server for the progress of what another makes."""

from __future__ import annotations

import asyncio
import time

import pytest

from stepwell.api import lookups
from stepwell.api.lookups import Lookups
from stepwell.model.ids import RunId, StepId
from stepwell.model.stream import Piece
from stepwell.streams.log import Chunk, Source
from stepwell.streams.streams import Streams

RUN = RunId("01J")


class Elsewhere:
    """Streams that hear of pieces of another server a moment after somebody begins to read."""

    def __init__(self, *, has_some: bool = True) -> None:
        self.streams = Streams()
        self.wanted = 0
        self.has_some = has_some
        self.streams.on_subscribed = self._want

    def _want(self, run: RunId) -> None:
        self.wanted += 1
        if self.has_some:
            asyncio.get_running_loop().call_later(0.01, self._hear, run)

    def _hear(self, run: RunId) -> None:
        log = self.streams.log(run)
        chunk = Chunk(
            log.end + 1, Source("elsewhere", StepId("task"), "task"), self.streams.clock(), b"event: delta\n\n"
        )
        self.streams.add(log, chunk)
        self.streams.settle(run, log, self.streams.clock())


async def test_the_first_answer_waits_for_what_there_is_elsewhere() -> None:
    there = Elsewhere()
    known = Lookups(there.streams)
    await known.know(RUN)
    log = there.streams.known(RUN)
    assert log is not None
    assert log.end == 1
    await known.know(RUN)
    assert there.wanted == 1


async def test_only_the_first_answer_waits_for_what_is_nowhere() -> None:
    known = Lookups(Elsewhere(has_some=False).streams)
    began = time.monotonic()
    await known.know(RUN)
    first = time.monotonic() - began
    await known.know(RUN)
    assert first >= lookups.FIRST_S
    assert time.monotonic() - began < first + lookups.FIRST_S / 2


async def test_what_is_made_here_is_not_looked_for() -> None:
    there = Elsewhere()
    there.streams.publish(RUN, StepId("task"), "task", [Piece("status", "7")])
    await Lookups(there.streams).know(RUN)
    assert there.wanted == 0


async def test_nothing_is_read_for_those_who_ask_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "KEEP_S", 0.05)
    there = Elsewhere()
    await Lookups(there.streams).know(RUN)
    assert list(there.streams.read()) == [RUN]
    await asyncio.sleep(0.1)
    assert list(there.streams.read()) == []


async def test_so_many_are_read_at_a_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_MOST", 2)
    there = Elsewhere()
    known = Lookups(there.streams)
    for name in ("a", "b", "c"):
        await known.know(RunId(name))
    assert list(there.streams.read()) == ["b", "c"]
