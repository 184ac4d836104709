"""What has ended long ago is forgotten: runs, events, keys, and the texts that only they referred to.

A tree of runs goes together: its root and every run that was invoked below it, once all have ended and the last of them
is older than what is kept. The lowest go first and the root last, so nobody ever finds a child whose parent is gone.
An event goes when it is older than what is kept for events, started no run that is still there, and no job has yet to
look at it.

    page of ended runs ──▶ roots that are old enough ──▶ removed, if they have no child
                                                     └──▶ else looked through, and removed from below

Each removal is one short transaction and is followed by a pause, so that a sweep takes its time beside whatever else
the store is asked. Nodes that share a store take turns: a key says that somebody has swept lately. Two sweeps at a time
would do no harm, only work twice; and one that is killed is gone on with by the next.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell.model.ids import RunId, ulid
from stepwell.store.base import COMMITTED, RunQuery, StoreFull, StoreUnavailable, Transition, Unique

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.model.ids import Instant
    from stepwell.model.job import RunRow
    from stepwell.node.clock import World
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.node")

EVERY_MS = 60_000
LOOSE_MS = 600_000
"""How long a text stays that nothing refers to: whoever has just read a reference to it can still read it."""
YOUNGEST_EVENT_MS = 24 * 3_600_000
"""Events stay for a day at least: their ids count once for so long, and a step may look back for them."""
PAGE = 200
PAUSE_MS = 10
_KEY = "stepwell: removal of what is old"


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept. None: for ever, and however much."""

    runs_ms: int | None = None
    """Ended runs, counted from the end of the last run of their tree."""
    events_ms: int | None = None
    """Events; None with `runs_ms` set means as long as runs. A day at least."""
    most_runs: int | None = None
    """Ended runs, the newest of which stay."""
    files_ms: int | None = None
    """Files, counted from when they were announced or made, whatever refers to them; see `stepwell.node.files`."""

    @property
    def oldest_event_ms(self) -> int | None:
        asked = self.events_ms if self.events_ms is not None else self.runs_ms
        return None if asked is None else max(asked, YOUNGEST_EVENT_MS)


@dataclass(slots=True)
class Swept:
    """What one sweep removed."""

    began_at: Instant
    ended_at: Instant = 0
    runs: int = 0
    events: int = 0
    keys: int = 0
    blobs: int = 0


@dataclass(slots=True)
class Retention:
    """Sweeps a store again and again. `latest` is what the status page shows."""

    store: Store
    world: World
    node: str
    keep: Keep = field(default_factory=Keep)
    every_ms: int = EVERY_MS
    loose_ms: int = LOOSE_MS
    latest: Swept | None = None
    removed: dict[str, int] = field(default_factory=lambda: {"runs": 0, "events": 0, "texts": 0})
    """By this node since it started."""
    stopped: bool = False

    async def run(self) -> None:
        """Sweep until `stop`."""
        while not self.stopped:
            await self.world.sleep(self.every_ms)
            try:
                if await self._my_turn():
                    await self.sweep()
            except (StoreFull, StoreUnavailable) as err:
                log.warning("what is old could not be removed: %s", err, extra={"node": self.node})

    def stop(self) -> None:
        self.stopped = True

    async def _my_turn(self) -> bool:
        """Whether no other node has begun to sweep lately."""
        now = self.world.now()
        key = Unique("", _KEY, self.node, now + self.every_ms * 9 // 10)
        return await self.store.commit(Transition(unique=(key,), now=now)) == COMMITTED

    async def sweep(self) -> Swept:
        """Remove all that may go now. Ends early when stopped."""
        now = self.world.now()
        swept = Swept(now)
        await self._runs(now, swept)
        await self._events(now, swept)
        await self._leftovers(swept)
        swept.ended_at = self.world.now()
        self.latest = swept
        for kind, count in (("runs", swept.runs), ("events", swept.events), ("texts", swept.blobs)):
            self.removed[kind] += count
        if swept.runs or swept.events or swept.blobs:
            log.info(
                "removed %d runs, %d events and %d texts that were old enough",
                swept.runs,
                swept.events,
                swept.blobs,
                extra={"node": self.node, "duration_ms": swept.ended_at - now},
            )
        return swept

    # runs

    async def _runs(self, now: Instant, swept: Swept) -> None:
        keep = self.keep
        ended_until = None if keep.runs_ms is None else now - keep.runs_ms
        newest = None if keep.most_runs is None else await self.store.ended_run_before(keep.most_runs)
        if ended_until is None and newest is None:
            return
        beyond = RunId("" if newest is None else f"{newest}~")  # that one goes as well
        # The time in an id is that of the event, so no run ended before it.
        until = beyond if ended_until is None else max(beyond, RunId(ulid(max(0, ended_until + 1), 0)))
        after: RunId | None = None
        while not self.stopped and (page := await self.store.ended_runs(after, until, PAGE)):
            after = page[-1].id
            roots = [row for row in page if _may_go(row, ended_until, beyond) and await self._is_root(row)]
            await self._remove_trees(roots, ended_until, beyond, now, swept)
            await self.world.sleep(PAUSE_MS)

    async def _is_root(self, row: RunRow) -> bool:
        return row.parent is None or await self.store.run_row(row.parent) is None

    async def _remove_trees(
        self, roots: list[RunRow], ended_until: Instant | None, beyond: RunId, now: Instant, swept: Swept
    ) -> None:
        removed = await self._remove([row.id for row in roots], now, swept)
        for root in roots:
            if root.id in removed or self.stopped:
                continue
            # It has children, or a job that is not done: nobody invokes anything for a run that has ended, so what
            # is seen of its tree now stays so.
            limit = None if root.id < beyond else ended_until
            if await self._is_over(root, limit):
                await self._remove_below(root, now, swept)
                await self._remove([root.id], now, swept)

    async def _is_over(self, row: RunRow, ended_until: Instant | None) -> bool:
        """Whether every run below has ended, and early enough."""
        async for child in self._children(row):
            if not child.status.final or (ended_until is not None and (child.ended_at or 0) > ended_until):
                return False
            if not await self._is_over(child, ended_until):
                return False
        return True

    async def _remove_below(self, row: RunRow, now: Instant, swept: Swept) -> None:
        page: list[RunRow] = []
        async for child in self._children(row):
            page.append(child)
            if len(page) == PAGE:
                await self._remove_children(page, now, swept)
                page = []
        await self._remove_children(page, now, swept)

    async def _remove_children(self, children: list[RunRow], now: Instant, swept: Swept) -> None:
        removed = await self._remove([row.id for row in children], now, swept)
        for child in children:
            if child.id not in removed:
                await self._remove_below(child, now, swept)
                await self._remove([child.id], now, swept)

    async def _children(self, row: RunRow) -> AsyncIterator[RunRow]:
        last: RunId | None = None
        while page := await self.store.runs(RunQuery(row.env, parent=row.id, before=last, limit=PAGE, ascending=True)):
            for child in page:
                yield child
            last = page[-1].id
            await self.world.sleep(0)

    async def _remove(self, runs: list[RunId], now: Instant, swept: Swept) -> set[RunId]:
        gone: set[RunId] = set()
        done = 0
        while done < len(runs) and not self.stopped:
            removed, looked_at = await self.store.remove_runs(runs[done:], now)
            gone.update(removed)
            done += looked_at
            if done < len(runs):
                await self.world.sleep(PAUSE_MS)
        swept.runs += len(gone)
        return gone

    # events, and what is left

    async def _events(self, now: Instant, swept: Swept) -> None:
        if self.keep.oldest_event_ms is None:
            return
        until = now - self.keep.oldest_event_ms
        kept, looked_through_since = await self.store.awaited_events()
        if looked_through_since is not None:
            until = min(until, looked_through_since)
        after = None
        while not self.stopped:
            removed, after = await self.store.remove_events(after, until, kept, PAGE, now)
            swept.events += removed
            if after is None:
                return
            await self.world.sleep(PAUSE_MS)

    async def _leftovers(self, swept: Swept) -> None:
        while not self.stopped:
            now = self.world.now()
            done = await self.store.tidy(now, now - self.loose_ms)
            swept.keys += done.keys
            swept.blobs += done.blobs
            if not done.more:
                return
            await self.world.sleep(PAUSE_MS)


def _may_go(row: RunRow, ended_until: Instant | None, beyond: RunId) -> bool:
    old = ended_until is not None and row.ended_at is not None and row.ended_at <= ended_until
    return old or row.id < beyond
