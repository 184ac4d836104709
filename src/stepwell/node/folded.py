"""The runs that a node keeps folded: those that somebody is called for, and the latest of those that wait.

    a call is under way or queued ──▶ kept, for its answer comes soon        `most`
    nobody has answered yet       ──▶ kept while there are few such          `most // QUEUED_SHARE` of each service
    it sleeps, waits, is invoking ──▶ soon let go, in the order they came    `most // WAITING_SHARE`

A run that wakes is folded again from its few entries. One that is called would be loaded for its very next answer,
and when ten thousand wake at once none would find itself here. When ten thousand begin at once most of them stand in
line for a long time, each with its call; they are loaded when they are answered for the first time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from stepwell.model.job import RunStatus

if TYPE_CHECKING:
    from stepwell.engine.run import Run
    from stepwell.model.ids import RunId

WAITING_SHARE = 10
QUEUED_SHARE = 5

_Service: TypeAlias = "tuple[str, str]"  # environment, name


class Folded:
    """At most `most` runs with a call, and a part of that of others; those kept longest ago go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_queued = max(1, most // QUEUED_SHARE)
        self._most_waiting = max(1, most // WAITING_SHARE)
        self._called: OrderedDict[RunId, Run] = OrderedDict()
        self._waiting: OrderedDict[RunId, Run] = OrderedDict()
        self._queued: dict[RunId, _Service] = {}  # of `_called`: those that nobody has answered for
        self._queued_of: Counter[_Service] = Counter()

    def __len__(self) -> int:
        return len(self._called) + len(self._waiting)

    def get(self, run_id: RunId) -> Run | None:
        run = self._called.get(run_id)
        return run if run is not None else self._waiting.get(run_id)

    def keep(self, run: Run) -> None:
        """As it is now: it may have got a call since it was kept, or have none any more."""
        if run.calls and self._called.get(run.id) is run and run.id not in self._queued:
            self._called.move_to_end(run.id)  # as after most turns
            return
        self.forget(run.id)
        if not run.calls or _begins_later(run):
            self._waiting[run.id] = run
            if len(self._waiting) > self._most_waiting:
                self._waiting.popitem(last=False)
            return
        if run.status is RunStatus.QUEUED:
            service = (run.env, run.service)
            if self._queued_of[service] >= self._most_queued:
                return
            self._queued[run.id] = service
            self._queued_of[service] += 1
        self._called[run.id] = run
        if len(self._called) > self._most:
            self.forget(next(iter(self._called)))

    def forget(self, run_id: RunId) -> None:
        self._called.pop(run_id, None)
        self._waiting.pop(run_id, None)
        service = self._queued.pop(run_id, None)
        if service is not None:
            self._queued_of[service] -= 1
            if not self._queued_of[service]:
                del self._queued_of[service]


def _begins_later(run: Run) -> bool:
    """Whether it was asked for some later time, which may be days."""
    return run.status is RunStatus.QUEUED and all(call.due > call.scheduled_at for call in run.calls.values())
