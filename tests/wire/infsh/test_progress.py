"""How far a task has come, folded out of what is published of it."""

import json
from typing import Any

import msgspec

from stepwell.model.ids import RunId, StepId
from stepwell.model.stream import Piece
from stepwell.model.task import PIECE_DELTA, PIECE_LOG, PIECE_OUTPUT, PIECE_STATUS, TASK_STEP, TaskStatus
from stepwell.streams.streams import Streams, gap_event
from stepwell.wire.infsh.delta import merge_delta
from stepwell.wire.infsh.progress import NewDelta, NewLog, NewOutput, NewStatus, Progress, Void

RUN, STEP = RunId("01J"), StepId(TASK_STEP)


class Published:
    """Pieces as they really come, through the streams of a node."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.reader = self.streams.subscribe(RUN, lambda: None)
        self.progress = Progress()

    def __call__(self, *pieces: Piece) -> list[Any]:
        self.streams.publish(RUN, STEP, TASK_STEP, pieces)
        return self.take()

    def take(self) -> list[Any]:
        found = []
        while (chunk := self.reader.next()) is not None:
            self.reader.pass_by()
            found += self.progress.take(chunk.text)
        return found


def status(number: int, at: int = 5) -> Piece:
    return Piece(PIECE_STATUS, str(number), more={"at": at})


def output(value: object) -> Piece:
    return Piece(PIECE_OUTPUT, json.dumps(value))


def delta(value: object) -> Piece:
    return Piece(PIECE_DELTA, json.dumps(value))


def test_each_piece_says_what_is_new() -> None:
    published = Published()
    assert published(status(2, at=7), status(7, at=9)) == [
        NewStatus(TaskStatus.QUEUED, 7),
        NewStatus(TaskStatus.RUNNING, 9),
    ]
    assert published(output({"text": 'a "b"\n\ndata: c'})) == [
        NewOutput(msgspec.Raw(b'{"text": "a \\"b\\"\\n\\ndata: c"}'))
    ]
    assert published(Piece(PIECE_LOG, "hello", more={"at": 11, "log_type": 3})) == [NewLog("hello", 3, 11)]
    progress = published.progress
    assert (progress.status, progress.at, progress.logs) == (TaskStatus.RUNNING, 11, {3: ["hello"]})


def test_a_status_only_ever_becomes_more() -> None:
    published = Published()
    published(status(7))
    assert published(status(3), status(7)) == []
    assert published.progress.status is TaskStatus.RUNNING
    assert published(status(8)) == [NewStatus(TaskStatus.CANCELLING, 5)]


def test_deltas_are_numbered_and_merged_for_those_who_come_later() -> None:
    published = Published()
    found = published(delta({"response": "Hel"}), delta({"response": "lo", "usage": {"total": 3}}))
    assert found == [
        NewDelta(msgspec.Raw(b'{"response": "Hel"}'), 1),
        NewDelta(msgspec.Raw(b'{"response": "lo", "usage": {"total": 3}}'), 2),
    ]
    assert published.progress.merged == {"response": "Hello", "usage": {"total": 3}}


def test_what_is_begun_again_voids_what_came_before_and_numbers_go_on() -> None:
    published = Published()
    published(status(7), delta({"response": "no"}), output({"n": 1}))
    published.streams.void(RUN, STEP, TASK_STEP)
    assert published.take() == [Void()]
    assert (published.progress.output, published.progress.merged) == (None, None)
    assert published.progress.status is TaskStatus.RUNNING
    assert published(delta({"response": "yes"})) == [NewDelta(msgspec.Raw(b'{"response": "yes"}'), 2)]
    assert published.progress.merged == {"response": "yes"}


def test_without_their_beginning_deltas_are_told_to_nobody() -> None:
    published = Published()
    published.progress.take(gap_event(3))
    assert published(delta({"response": "lo"})) == []
    assert published.progress.merged is None
    published.streams.void(RUN, STEP, TASK_STEP)
    published.take()
    assert published(delta({"response": "Hello"})) != []


def test_deltas_are_merged_as_clients_merge_them() -> None:
    state: dict[str, Any] = {}
    merge_delta(state, {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "add", "arguments": '{"a"'}}]})
    merge_delta(state, {"tool_calls": [{"index": 0, "id": "a"}, {"index": 1, "function": {"arguments": ":1}"}}]})
    merge_delta(state, {"reasoning": "so", "finish_reason": None})
    merge_delta(state, {"reasoning": " it is", "finish_reason": "stop"})
    assert state == {
        "tool_calls": [
            {"index": 0, "id": "a"},
            {"index": 1, "id": "b", "function": {"name": "add", "arguments": '{"a":1}'}},
        ],
        "reasoning": "so it is",
        "finish_reason": "stop",
    }
