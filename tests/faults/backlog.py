"""A store full of runs, made in seconds by a node in this process, as if a server had been at it for weeks.

Its performer is played here: it answers each call at once as the test says, or never. The store is then left as it is,
with claims and all; a kill would leave nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from stepwell.model.dispatch import Dispatch, Memo
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.ids import JobId, StepId
from stepwell.model.message import Replied
from stepwell.model.op import Op
from stepwell.node.clock import AsyncioWorld
from stepwell.node.node import Node, NodeSettings
from stepwell.store.postgres import PostgresStore
from stepwell.store.sqlite import SqliteStore
from stepwell.wire.inngest.event import read_event
from tests.faults.harness import LEASE_MS, Server, until

BATCH = 1_000
Play = Callable[[Dispatch], Op | None]
"""What the function reports when it is called first; None: it has not answered."""


class Backlog:
    """`async with Backlog(server, url, {"f": play})`, then `lay` runs of the functions of the service `raw`."""

    def __init__(self, server: Server, url: str, plays: Mapping[str, Play]) -> None:
        self.store = PostgresStore(server.db) if server.db else SqliteStore(server.data)
        self.plays = plays
        self._url = url
        self._node: Node | None = None
        self.dispatched = 0

    async def __aenter__(self) -> Self:
        await self.store.open()
        world = AsyncioWorld()
        # The name of the server that will find this, in an earlier life.
        self._node = Node(
            "local",
            epoch=1,
            store=self.store,
            world=world,
            performer=self,
            settings=NodeSettings(cached_runs=2_000, lease_ms=LEASE_MS),
        )
        await self._node.start()
        functions = tuple(
            Function(
                slug=f"raw-{one}",
                name=one,
                service="raw",
                triggers=(Trigger(f"raw/{one}"),),
                url=f"{self._url}?fnId=raw-{one}",
            )
            for one in self.plays
        )
        await self._node.register(Service(name="raw", transport=Transport.HTTP, url=self._url, functions=functions))
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._node is not None
        self._node.stop()
        await asyncio.sleep(0.1)
        await self.store.close()

    async def lay(self, function: str, data: Iterable[Mapping[str, Any]]) -> None:
        """One run for each; on return all of them are as far as their function's play takes them."""
        node = self._node
        assert node is not None
        wanted = list(data)
        reached = self.dispatched + len(wanted)
        for start in range(0, len(wanted), BATCH):
            now = time.time_ns() // 1_000_000
            events = [
                read_event({"name": f"raw/{function}", "data": dict(one)}, now=now, key=node.new_key())
                for one in wanted[start : start + BATCH]
            ]
            await node.accept(DEV_ENV, events)
            mark = min(reached, reached - len(wanted) + start + 2 * BATCH) - BATCH
            await until("calls", lambda mark=mark: self.dispatched >= mark, 120)  # type: ignore[misc]
        await until("all calls", lambda: self.dispatched >= reached and not node.turns.busy, 120)

    # the performer

    def perform(self, dispatch: Dispatch) -> None:
        assert self._node is not None
        self.dispatched += 1
        op = self.plays[dispatch.function.name](dispatch)
        if op is not None:
            self._node.deliver(dispatch.run, dispatch.job, dispatch.fence, Replied(dispatch.job, (op,), 2))

    def stop(self, call: JobId, reason: str) -> None: ...

    def deliver_result(self, call: JobId, memo: Memo, news: int) -> None: ...

    def deliver_retry(self, call: JobId, step: StepId, attempt: int, news: int) -> None: ...

    def acknowledge(self, call: JobId, number: int, news: int) -> None: ...

    def ended(self, call: JobId) -> None: ...

    async def close(self) -> None: ...
