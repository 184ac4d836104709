"""Which calls of connected workers are this node's to make, when several nodes share a store.

A worker is connected to one node, and a call of its service may come to be on any. So such a call has a *route*. It is
born claimed only where a worker has a place for it, and that place is kept for it until it is handed over; otherwise
it is born unowned, and claimed by whichever node has a place, never more of them than there are places. So no call
waits in the memory of a node for a worker that is elsewhere.

    born ── a place here, nothing older in line ──▶ ours, the place is kept ──▶ handed to a worker
      └───── otherwise ──▶ in the store ── a place becomes free somewhere ──▶ claimed there ──┘

The line of a service is in the store. A node looks there when it has a place and reason to believe that somebody
waits: `waiting` says so, by what the node itself left there, by hints, and once in a while because nobody knows.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from stepwell.model.dispatch import Opening, Reach
    from stepwell.model.ids import JobId
    from stepwell.model.job import Job

_Service: TypeAlias = "tuple[str, str]"  # environment, name


class Routes:
    """The places of this node's workers, and who is going to have them."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._kept: dict[JobId, _Service] = {}
        self._kept_of: Counter[_Service] = Counter()
        self._waiting: set[_Service] = set()

    def keep(self, job: JobId, env: str, service: str, function: str) -> bool:
        """Whether a call that is about to be made is for this node; if so, a place is kept for it until `let_go`."""
        key = (env, service)
        if key in self._waiting or self._reach.places(env, service, function) <= self._kept_of[key]:
            return False  # nobody overtakes those who wait already
        self._keep(job, key)
        return True

    def let_go(self, job: JobId) -> None:
        """The call has been handed over, or never will be. Harmless when said twice."""
        key = self._kept.pop(job, None)
        if key is not None:
            self._kept_of[key] -= 1
            if not self._kept_of[key]:
                del self._kept_of[key]

    def claimed(self, opening: Opening, jobs: list[Job], limit: int) -> None:
        """Places for calls that were just claimed for an opening; fewer than `limit` means that nobody else waits."""
        key = (opening.env, opening.service)
        for job in jobs:
            if job.route is not None:
                self._keep(job.id, key)
        if len(jobs) < limit and not opening.full:
            self._waiting.discard(key)

    def openings(self) -> list[tuple[Opening, int]]:
        """Where calls can be claimed for, and how many. Of services without room it is noted to look later."""
        found = []
        for opening in self._reach.openings():
            key = (opening.env, opening.service)
            free = opening.places - self._kept_of[key]
            if free > 0 and opening.routes:
                found.append((opening, free))
            else:
                self._waiting.add(key)
        return found

    def left(self, job: Job, service: str) -> None:
        """A call was stored for whoever has a place first."""
        self._waiting.add((job.env, service))

    def heard(self, routes: set[str]) -> bool:
        """Somebody says that calls of these routes wait. Whether this node serves any of them."""
        ours = False
        for opening in self._reach.openings():
            if not routes.isdisjoint(opening.routes) or not routes.isdisjoint(opening.full):
                self._waiting.add((opening.env, opening.service))
                ours = True
        return ours

    def anything(self) -> None:
        """Nobody knows who waits."""
        self._waiting.update((opening.env, opening.service) for opening in self._reach.openings())

    def is_waited_for(self, env: str, service: str) -> bool:
        """Whether a place of that service is reason to look into the store."""
        return (env, service) in self._waiting

    def _keep(self, job: JobId, key: _Service) -> None:
        self.let_go(job)
        self._kept[job] = key
        self._kept_of[key] += 1
