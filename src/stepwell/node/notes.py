"""Lines that functions log, on their way into the journal without a commit of their own.

Lines wait for a moment and then go together; and they go before anything else that their call has to say, into the
same turn, so that a run's lines are there when its end is. A crash may lose the lines of the last moment, as it may
with any log that is not synced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.model.ids import StepId
from stepwell.model.message import Logged, LogLine
from stepwell.node.turns import Envelope

if TYPE_CHECKING:
    from stepwell.model.ids import Instant, JobId, RunId
    from stepwell.node.clock import World
    from stepwell.node.turns import Turns

WAIT_MS = 250
LONGEST_LINE = 4096
MOST_WAITING = 10_000
"""Lines kept for all runs together; beyond it a line is only in the server's log."""


class Notes:
    """Collects lines and posts them."""

    def __init__(self, turns: Turns, world: World) -> None:
        self._turns = turns
        self._world = world
        self._lines: dict[tuple[RunId, JobId], list[LogLine]] = {}
        self._waiting = 0
        self.dropped = 0

    def add(self, run: RunId, call: JobId, level: str, text: str, at: Instant, step: StepId | None) -> None:
        """Take one line; a long one is cut."""
        if self._waiting >= MOST_WAITING:
            self.dropped += 1
            return
        if len(text) > LONGEST_LINE:
            text = f"{text[:LONGEST_LINE]}… ({len(text)} characters)"
        lines = self._lines.get((run, call))
        if lines is None:
            lines = self._lines[run, call] = []
            self._world.call_at(self._world.now() + WAIT_MS, lambda: self.flush(run, call))
        lines.append(LogLine(at, level, text, step))
        self._waiting += 1

    def flush(self, run: RunId, call: JobId) -> None:
        """Post what a call has logged; to be called before anything else of that call is posted."""
        lines = self._lines.pop((run, call), None)
        if lines:
            self._waiting -= len(lines)
            self._turns.post(run, Envelope(Logged(call, tuple(lines))))
