"""Watching a task: what comes first, what comes while it goes on, what comes last, and what becomes of broken
connections (F71)."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from stepwell.api.infsh import stream
from stepwell.model.errors import InvalidInput
from stepwell.model.task import TaskStatus
from tests.api.infsh.watching import STEP, TASK, Source, watching

COMPLETED = TaskStatus.COMPLETED


def parts(lines: list[Any], field: str) -> list[Any]:
    """What was told of a field."""
    return [one["data"][field] for one in lines if field in one.get("fields", ())]


async def test_everything_comes_first_then_what_changes_then_everything_again() -> None:
    source = Source()
    source.come_to(2)
    async with watching(source) as watcher:
        source.come_to(7)
        source.output_so_far({"text": "Hel"})
        await watcher.until(3)
        source.output_so_far({"text": "Hello"})
        source.move(COMPLETED, {"text": "Hello!"})
        first, *changes, last = await watcher.end()
    assert (first["id"], first["status"], first["input"]) == (TASK, 2, {"x": 1})
    assert [one["fields"] for one in changes] == [["status", "updated_at"], ["output"], ["output"]]
    assert all(one["data"]["id"] == TASK and one["data"]["status"] == 7 for one in changes)
    assert parts(changes, "output") == [{"text": "Hel"}, {"text": "Hello"}]
    assert (last["status"], last["output"], last["input"]) == (10, {"text": "Hello!"}, {"x": 1})
    assert watcher.ended is True


async def test_the_connection_lingers_after_the_last_line() -> None:
    source = Source()
    async with watching(source) as watcher:
        source.move(COMPLETED, {})
        await watcher.end()
    assert watcher.ended_at - watcher.at[-1] >= stream.LINGER_S - 0.01


async def test_of_a_task_that_has_ended_there_is_one_line() -> None:
    source = Source()
    source.come_to(7)
    source.move(TaskStatus.FAILED, error="out of luck")
    async with watching(source) as watcher:
        (only,) = await watcher.end()
    assert (only["status"], only["error"]) == (11, "out of luck")


async def test_a_piece_is_there_within_10_ms() -> None:
    source = Source()
    waits = []
    async with watching(source) as watcher:
        for number in range(20):
            published = time.monotonic()
            source.output_so_far(number)
            await watcher.until(number + 2)
            waits.append(watcher.at[-1] - published)
        await watcher.drop()
    assert sorted(waits)[len(waits) // 2] < 0.010


async def test_the_record_is_not_read_for_every_piece() -> None:
    source = Source()
    async with watching(source) as watcher:
        for number in range(50):
            source.output_so_far(number)
        await watcher.until(51)
    assert source.loads == 1


async def test_cancelling_comes_from_the_record() -> None:
    source = Source()
    source.come_to(7)
    async with watching(source) as watcher:
        source.move(TaskStatus.CANCELLING)
        await watcher.until(2)
        source.move(TaskStatus.CANCELLED)
        lines = await watcher.end()
    assert [one["data"]["status"] if "data" in one else one["status"] for one in lines] == [7, 8, 12]


async def test_deltas_are_typed_and_numbered_and_who_comes_later_gets_them_in_one() -> None:
    source = Source()
    source.delta({"response": "Hel"})
    async with watching(source) as watcher:
        source.delta({"response": "lo"})
        _, *deltas = await watcher.until(3)
    assert deltas == [
        {"event": "delta", "data": {"delta": {"response": "Hel"}, "seq": 1, "resource_id": ""}},
        {"event": "delta", "data": {"delta": {"response": "lo"}, "seq": 2, "resource_id": ""}},
    ]
    async with watching(source) as late:
        _, merged = await late.until(2)
    assert merged["data"] == {"delta": {"response": "Hello"}, "seq": 2, "resource_id": ""}


async def test_who_puts_merged_deltas_in_place_of_the_result_has_the_result() -> None:
    source = Source()
    async with watching(source) as watcher:
        source.delta({"response": "Hel"})
        source.move(COMPLETED, {"response": "Hello", "usage": 1})
        *_, rest, last = await watcher.end()
    assert rest["data"]["delta"] == {"response": "lo"}
    assert last["output"] == {"response": "Hello", "usage": 1}


@pytest.mark.parametrize(
    ("client", "ended", "told"),
    [({}, False, False), ({"merges": False}, True, True), ({"returns": True}, True, False)],
)
async def test_deltas_that_are_void_end_the_stream_before_a_wrong_result(
    client: dict[str, Any], ended: bool, told: bool
) -> None:
    source = Source()
    async with watching(source, **client) as watcher:
        source.delta({"response": "wrong"})
        await watcher.until(2)
        source.streams.void(TASK, STEP, "task")
        source.delta({"response": "right"})
        source.move(COMPLETED, {"response": "right"})
        lines = await watcher.end()
        assert watcher.ended is ended
        assert (lines[-1].get("status") == 10) is told
    assert any(one.get("event") == "reset" and one["fields"] == ["output"] for one in lines)
    async with watching(source, **client) as again:
        (only,) = await again.end()
    assert only["output"] == {"response": "right"}


async def test_a_status_is_never_taken_back_when_the_work_is_done_again() -> None:
    source = Source()
    async with watching(source) as watcher:
        for status in (2, 7, 3, 7, 9):
            source.come_to(status)
        await watcher.until(4)
        source.move(COMPLETED, {})
        lines = await watcher.end()
    assert parts(lines, "status") == [2, 7, 9]


async def test_logs_are_told_as_a_whole_and_not_for_every_line() -> None:
    source = Source()
    async with watching(source) as watcher:
        source.log("one")
        await watcher.until(2)
        for number in range(200):
            source.log(f"line {number}")
            await asyncio.sleep(0)
        lines = await watcher.until(3)
        source.move(COMPLETED, {})
        *_, last = await watcher.end()
    assert len(watcher.lines) <= 6
    assert parts(lines, "logs")[0][0]["content"] == "one\n"
    assert last["logs"][0]["content"].endswith("line 199\n")
    assert lines[2]["data"]["logs"][0]["content"].startswith("one\nline 0\n")


async def test_a_stream_with_nothing_to_tell_is_touched_and_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(stream, "TOUCH_S", 0.25)
    source = Source()
    source.come_to(7)
    async with watching(source) as watcher:
        lines = await watcher.until(6)
    assert lines[1] == {"type": "heartbeat"}
    touches = [one for one in lines if one.get("fields") == ["updated_at"]]
    assert touches
    assert (touches[0]["data"]["id"], touches[0]["data"]["status"]) == (TASK, 7)


def test_it_works_on_uvloop_whose_timers_that_are_due_at_once_do_not_say_when(monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop = pytest.importorskip("uvloop")
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.0003)

    async def main() -> list[Any]:
        source = Source()
        async with watching(source) as watcher:
            for number in range(5):
                source.output_so_far(number)
                await watcher.until(number + 2)
            source.move(COMPLETED, {})
            return await watcher.end()

    lines = uvloop.run(main())
    assert parts(lines, "output")[-1] == 4
    assert lines[-1]["status"] == COMPLETED


async def test_a_server_that_stops_breaks_lines_off_and_ends_what_clients_come_back_from() -> None:
    for lines, returns, ended in ((True, False, False), (True, True, True), (False, False, True)):
        source = Source()
        async with watching(source, lines=lines, returns=returns) as watcher:
            source.watch.close()
            await watcher.end()
            assert watcher.ended is ended


async def test_events_end_with_one_that_says_so() -> None:
    source = Source()
    async with watching(source, lines=False) as watcher:
        source.move(COMPLETED, {})
        *_, last, done = await watcher.end()
    assert (last["status"], done, watcher.ids[-1]) == (10, {}, "end")


async def test_f71_with_the_last_id_nothing_is_missing_and_nothing_comes_twice() -> None:
    source, luck = Source(), random.Random(71)

    async def work() -> None:
        source.come_to(7)
        for number in range(300):
            source.output_so_far(number)
            if number % 3 == 0:
                source.delta({"response": f"{number} "})
            if number % 10 == 0:
                source.log(f"line {number}")
            if number % 7 == 0:
                await asyncio.sleep(0.002)
        source.move(COMPLETED, {"n": 299})

    seen: list[Any] = []
    after: str | None = None
    connections = 0
    working = asyncio.create_task(asyncio.sleep(0))
    while after != "end" and connections < 500:
        connections += 1
        async with watching(source, lines=False, after=after) as watcher:
            if connections == 1:
                working = asyncio.create_task(work())
            await asyncio.sleep(luck.uniform(0, 0.006))
        for line, at in zip(watcher.lines, watcher.ids, strict=True):
            seen.append(line)
            after = at or after
            if after == "end":
                break
    await working
    assert connections > 5
    assert (seen[0]["status"], seen[0]["output"]) == (1, None)
    assert parts(seen, "output") == list(range(300))
    assert parts(seen, "status") == [7]
    deltas = [one["data"] for one in seen if one.get("event") == "delta"]
    assert [one["seq"] for one in deltas] == list(range(deltas[0]["seq"], 101))
    assert "".join(one["delta"]["response"] for one in deltas) == "".join(f"{n} " for n in range(0, 300, 3))
    assert (seen[-1]["status"], seen[-1]["output"]) == (10, {"n": 299})
    assert seen[-1]["logs"][0]["content"] == "".join(f"line {number}\n" for number in range(0, 300, 10))


async def test_after_a_restart_everything_is_told_anew_and_the_status_holds() -> None:
    source = Source()
    async with watching(source, lines=False) as watcher:
        source.come_to(7)
        source.output_so_far(1)
        await watcher.until(3)
    restarted = Source()
    restarted.come_to(3)
    async with watching(restarted, lines=False, after=watcher.ids[-1]) as again:
        (first,) = await again.until(1)
        restarted.come_to(7)
        restarted.output_so_far(2)
        _, then = await again.until(2)
    assert first["status"] == 7
    assert (then["fields"], then["data"]["output"]) == (["output"], 2)


@pytest.mark.parametrize("text", ["", "x", "abcd.1", "-.0.1", "abcd.1.2.-3", "abcd.1.2.3.4"])
def test_an_id_of_no_event_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="Last-Event-ID"):
        stream.After(text)
