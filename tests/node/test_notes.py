"""Lines that functions log: in the run's journal before the run's end, without a commit of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.engine.decide import Policy, decide
from stepwell.model import journal, message
from stepwell.model.ids import JobId, RunId
from stepwell.model.message import Logged, LogLine
from stepwell.node.notes import LONGEST_LINE, Notes
from tests.engine.decide_cases import Story

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.node.turns import Envelope

RUN, CALL = RunId("run"), JobId("call")


class Turns:
    """Takes what is posted."""

    def __init__(self) -> None:
        self.posted: list[Any] = []

    def post(self, run: RunId, envelope: Envelope) -> None:
        self.posted.append(envelope.message)


class World:
    """Alarms that the test sets off."""

    def __init__(self) -> None:
        self.alarms: list[Callable[[], None]] = []

    def now(self) -> int:
        return 1000

    def call_at(self, at: int, callback: Callable[[], None]) -> None:
        self.alarms.append(callback)


def notes_with() -> tuple[Notes, Turns, World]:
    turns, world = Turns(), World()
    return Notes(turns, world), turns, world  # type: ignore[arg-type]


def test_lines_of_one_moment_are_posted_together() -> None:
    notes, turns, world = notes_with()
    notes.add(RUN, CALL, "info", "one", 1, None)
    notes.add(RUN, CALL, "info", "two", 2, None)
    assert turns.posted == []
    for alarm in world.alarms:
        alarm()
    assert turns.posted == [Logged(CALL, (LogLine(1, "info", "one"), LogLine(2, "info", "two")))]


def test_lines_are_posted_before_whatever_else_their_call_has_to_say() -> None:
    notes, turns, world = notes_with()
    notes.add(RUN, CALL, "info", "one", 1, None)
    notes.flush(RUN, CALL)
    assert [line.text for line in turns.posted[0].lines] == ["one"]
    for alarm in world.alarms:
        alarm()
    assert len(turns.posted) == 1, "once is enough"


def test_a_very_long_line_is_cut_and_says_so() -> None:
    notes, turns, _ = notes_with()
    notes.add(RUN, CALL, "info", "x" * 100_000, 1, None)
    notes.flush(RUN, CALL)
    (line,) = turns.posted[0].lines
    assert len(line.text) < LONGEST_LINE + 40
    assert line.text.endswith("(100000 characters)")


def test_a_run_keeps_its_lines_and_one_that_says_there_were_more() -> None:
    story = Story()
    call = story.call_of().id
    lines = tuple(LogLine(story.now, "info", f"line {number}") for number in range(5))
    decision = decide(story.run, Logged(call, lines), story.now, live=True, policy=Policy(max_notes=3))
    noted = [entry for entry in decision.entries if isinstance(entry, journal.Noted)]
    assert [entry.kind for entry in noted] == ["log", "log", "log", "warning"]
    assert "more than 3 lines" in noted[-1].text
    assert decide(story.run, Logged(call, lines), story.now, live=True, policy=Policy(max_notes=3)).entries == ()


def test_a_line_that_comes_after_the_end_changes_nothing() -> None:
    story = Story()
    call = story.call_of().id
    story.tell(message.CancelAsked("enough"))
    assert story.tell(Logged(call, (LogLine(0, "info", "late"),))).entries == ()


def test_a_warning_about_something_is_told_once_in_a_run() -> None:
    story = Story()
    call = story.call_of().id
    one = LogLine(story.now, "warning", "the field 'x' has no effect: 1", about="op.x")
    again = LogLine(story.now, "warning", "the field 'x' has no effect: 2", about="op.x")
    other = LogLine(story.now, "warning", "the field 'y' has no effect: 1", about="op.y")

    (noted,) = story.tell(Logged(call, (one,))).entries
    assert noted == journal.Noted(at=story.now, kind="warning", text=one.text, about="op.x", level="warning", call=call)
    assert story.tell(Logged(call, (again,))).entries == ()
    (noted,) = story.tell(Logged(call, (again, other))).entries
    assert isinstance(noted, journal.Noted)
    assert noted.text == other.text
    assert story.tell(Logged(call, (LogLine(0, "info", "a line"), LogLine(0, "info", "a line")))).entries[1:]
