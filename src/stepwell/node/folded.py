"""The runs that a node keeps folded: those that somebody is called for, and the latest of those that wait.

    a call is under way or queued ──▶ kept, for its answer comes soon        `most`
    it sleeps, waits, is invoking ──▶ soon let go, in the order they came    `most // WAITING_SHARE`

A run that wakes is folded again from its few entries. One that is called would be loaded for its very next answer,
and when ten thousand wake at once none would find itself here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.engine.run import Run
    from stepwell.model.ids import RunId

WAITING_SHARE = 10


class Folded:
    """At most `most` runs with a call, and a part of that of others; those kept longest ago go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_waiting = max(1, most // WAITING_SHARE)
        self._called: OrderedDict[RunId, Run] = OrderedDict()
        self._waiting: OrderedDict[RunId, Run] = OrderedDict()

    def __len__(self) -> int:
        return len(self._called) + len(self._waiting)

    def get(self, run_id: RunId) -> Run | None:
        run = self._called.get(run_id)
        return run if run is not None else self._waiting.get(run_id)

    def keep(self, run: Run) -> None:
        """As it is now: it may have got a call since it was kept, or have none any more."""
        self.forget(run.id)
        if run.calls:
            self._called[run.id] = run
            if len(self._called) > self._most:
                self._called.popitem(last=False)
        else:
            self._waiting[run.id] = run
            if len(self._waiting) > self._most_waiting:
                self._waiting.popitem(last=False)

    def forget(self, run_id: RunId) -> None:
        self._called.pop(run_id, None)
        self._waiting.pop(run_id, None)
