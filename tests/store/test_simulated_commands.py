"""What simulated nodes ask of their store is asked of the real ones: they answer alike and hold the same in the end.

The simulator plays whole universes with crashes on a `MemoryStore`. Its commands are kept in order and given to another
store, commits that came one after the other as one group. A universe is one history; the next begins with nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import warnings
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pytest

from stepwell.store.base import Committed, EventQuery, RunQuery
from stepwell.store.postgres import PostgresStore
from stepwell.store.sqlite import SqliteStore
from stepwell.testing.simulation import Simulation
from tests.postgres import forget_rows
from tests.store.cases import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from stepwell.model.ids import RunId
    from stepwell.store.base import Node, Store
    from stepwell.store.memory import MemoryStore

TRANSITIONS = 100_000
"""In all parts together, for each database."""
PARTS = 4
GROUP = 64

Command: TypeAlias = "tuple[str, tuple[Any, ...], Any]"
"""Name of a method of the memory store, arguments, answer."""


class Recorded(Simulation):
    """A universe that remembers what its store was asked and answered."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.commands: list[Command] = []
        for name in ("apply", "claim", "renew", "free_lost", "give_back"):
            setattr(self.store, name, self._remembering(name, getattr(self.store, name)))

    def _remembering(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def remembering(*values: Any, **named: Any) -> Any:
            if name == "give_back":
                values = (tuple(values[0]),)
            answer = method(*values, **named)
            self.commands.append((name, (*values, *named.values()), answer))
            return answer

        return remembering


async def replay(commands: Sequence[Command], store: Store) -> int:
    """Ask `store` the same. Searches that found nothing are left out. Returns how many transitions were made."""
    group: list[Command] = []
    leases: dict[str, Node] = {}
    epochs: dict[str, int] = {}
    made = 0

    async def write() -> None:
        nonlocal made
        outcomes = await asyncio.gather(*[store.commit(values[0]) for _, values, _ in group])
        assert outcomes == [answer for _, _, answer in group]
        made += sum(isinstance(outcome, Committed) for outcome in outcomes)
        group.clear()

    async def renew() -> None:
        for node in leases.values():
            assert await store.heartbeat(node)
        leases.clear()

    for command in commands:
        name, values, answer = command
        if name == "apply":
            (transition,) = values
            # Slots are passed on once for a whole group, so who asks for some is told the same only if alone in it.
            asks = bool(transition.enter) or any(job.slots for job in transition.jobs)
            if asks:
                await write()
            group.append(command)
            if asks or len(group) == GROUP:
                await write()
            continue
        if name == "renew":
            (node,) = values
            if answer and epochs.get(node.name) == node.epoch:
                leases[node.name] = node  # only somebody who looks for lost jobs would see it
                continue
        elif not answer and name != "give_back":
            continue
        await write()
        if name == "renew":
            leases.pop(values[0].name, None)
            if answer:
                epochs[values[0].name] = values[0].epoch
            assert await store.heartbeat(values[0]) == answer
        elif name == "claim":
            assert await store.claim_due(*values) == answer
        elif name == "free_lost":
            await renew()
            assert await store.release_lost(*values) == answer
        else:
            await store.release(*values)
    await write()
    return made


async def held(store: Store, runs: Sequence[RunId], env: str) -> dict[str, Any]:
    async def of_run(run: RunId) -> tuple[Any, ...]:
        return await store.load_run(run), await store.jobs_of(run), await store.waits_of(run)

    return {
        "runs": dict(zip(runs, await asyncio.gather(*map(of_run, runs)), strict=True)),
        "rows": await store.runs(RunQuery(env, limit=100_000)),
        "events": await store.events(EventQuery(env, limit=100_000)),
        "live": await store.live_runs(None, 100_000),
        "due": await store.next_due(),
    }


async def play_and_compare(part: int, fresh: Callable[[int], AbstractAsyncContextManager[Store]]) -> None:
    """`fresh` gives an open store without rows."""
    made, seed = 0, part
    while made < TRANSITIONS // PARTS:
        universe = Recorded(seed)
        universe.play()
        memory: MemoryStore = universe.store
        async with fresh(seed) as store:
            made += await replay(universe.commands, store)
            runs = sorted(memory.run_rows)
            for env in sorted({row.env for row in memory.run_rows.values()}):
                assert await held(store, runs, env) == await held(memory, runs, env), f"seed {seed}"
        universe.untie()
        seed += PARTS


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("stepwell.node").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of nodes that died before their first step
        yield
    logging.getLogger("stepwell.node").setLevel(logging.NOTSET)


CLOCK = Clock(0)  # what is due is judged by the simulated times that come with the commands


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_what_simulated_nodes_commit_is_the_same_in_sqlite(part: int) -> None:
    # In memory if possible: what a sync costs is not the question here.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:

        @asynccontextmanager
        async def fresh(seed: int) -> AsyncIterator[Store]:
            store = SqliteStore(Path(folder) / str(seed), CLOCK)
            await store.open()
            yield store
            await store.close()
            shutil.rmtree(store.directory)

        asyncio.run(play_and_compare(part, fresh))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
async def test_what_simulated_nodes_commit_is_the_same_in_postgresql(part: int, postgres_url: str) -> None:
    store = cast("Store", PostgresStore(postgres_url, CLOCK))
    await store.open()

    @asynccontextmanager
    async def fresh(seed: int) -> AsyncIterator[Store]:
        await forget_rows(postgres_url)
        yield store

    await play_and_compare(part, fresh)
    await store.close()
