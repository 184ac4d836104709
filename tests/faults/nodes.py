"""Several server processes on one PostgreSQL, each with its own wall clock.

    nodes = Nodes(folder, url, clocks_s=(-300, 0, 300))
    await nodes.start()                 # three processes
    nodes[0].kill(); nodes[1].freeze(); await nodes[1].thaw()

What the store holds is read through the store's own interface, when the nodes have stopped or have nothing to do.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stepwell.model.event import DEV_ENV
from stepwell.store.base import RunQuery
from stepwell.store.postgres import PostgresStore
from tests.faults.harness import LEASE_MS, ROOT, Server, until
from tests.faults.invariants import Tally, tally

CLOCKS = ROOT / "tests" / "faults" / "clocks"


class Nodes:
    """Servers on one database.

    Args:
        clocks_s: How far the wall clock of each is ahead.
        urls: Where each reaches the database, if not all in the same way.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        count: int = 2,
        *,
        lease_ms: int = LEASE_MS,
        clocks_s: Sequence[float] = (),
        urls: Sequence[str] = (),
    ) -> None:
        self.url = url
        self.all: list[Server] = []
        for number in range(count):
            environment = {"STEPWELL_LEASE_MS": str(lease_ms)}
            if number < len(clocks_s):
                path = os.pathsep.join([str(CLOCKS), str(ROOT / "src"), str(ROOT)])
                environment |= {"PYTHONPATH": path, "STEPWELL_TEST_CLOCK_S": str(clocks_s[number])}
            db = urls[number] if number < len(urls) else url
            self.all.append(Server(folder, db=db, environment=environment, name=f"node-{number}"))

    def __getitem__(self, number: int) -> Server:
        return self.all[number]

    def __len__(self) -> int:
        return len(self.all)

    @property
    def addresses(self) -> str:
        """What workers are given."""
        return ",".join(node.url for node in self.all)

    async def start(self) -> None:
        await asyncio.gather(*(node.start(within=60) for node in self.all))

    async def close(self) -> None:
        for node in self.all:
            thaw(node)
        await asyncio.gather(*(node.close() for node in self.all))

    def explain(self) -> str:
        return "\n".join(node.explain() for node in self.all)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[PostgresStore]:
        store = PostgresStore(self.url)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    async def counts(self) -> dict[str, Any]:
        async with self.store() as store:
            return await store.status()

    async def all_ended(self, runs: int, seconds: float = 60) -> None:
        """Wait until there are so many runs and nothing is left to do."""
        left = ""
        async with self.store() as store:

            async def look() -> bool:
                nonlocal left
                counted = await store.status()
                there = await store.count_runs(RunQuery(env=DEV_ENV))
                done = counted["live_runs"] == 0 and counted["jobs"] == 0 and there == runs
                if not done:
                    left = f"{there} runs of {runs}; {counted}\n"
                    for row in await store.live_runs(None, 5):
                        left += f"{row}\n{await store.jobs_of(row.id)}\n"
                return done

            await until(f"the end of {runs} runs", look, seconds, lambda: f"{self.explain()}\n{left}")

    async def assert_sound(self) -> Tally:
        """Nothing is left to do, and nothing in the store breaks an invariant."""
        async with self.store() as store:
            found = await tally(store, quiet=True)
        assert not found.findings, "\n".join([f"{len(found.findings)} findings:", *found.findings[:10]])
        return found


def freeze(node: Server) -> None:
    """Stop the process of a node, as a machine that hangs; everybody thinks that it is there."""
    os.kill(node.program.pid, signal.SIGSTOP)


def thaw(node: Server) -> None:
    if node.running:
        os.kill(node.program.pid, signal.SIGCONT)
