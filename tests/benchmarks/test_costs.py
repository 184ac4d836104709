"""What a step and a parked run cost, as far as a noisy neighbour cannot move it.

Commits and rows are exact. CPU and memory have room for a slow machine and for another build of Python, and still catch
what would make every step twice as expensive. Rates and delays are for `make bench`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.client import Client
from benchmarks.lifetimes import settled
from benchmarks.targets import Setup, Stepwell, targets
from benchmarks.workloads import Meter, closed_loop, reached, submit

pytestmark = pytest.mark.slow

COMMITS_PER_STEP = 1
COMMITS_AROUND = 5
"""Event, its matching, the run's beginning, its end, and what tells of the end."""
ENTRIES_PER_STEP = 1
SERVER_CPU_MS = 0.6
"""A step with 50 runs in flight; an idle machine needs 0.15 to 0.2."""
RUN_BYTES = 14_000
"""A parked run among the 10,000 that are kept folded; 8,000 are usual."""


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Stepwell]:
    one = next(one for one in targets(Setup()) if one.name == "websocket")
    try:
        await one.start(tmp_path / "bench")
        yield one
    finally:
        one.stop()


async def test_a_sequential_step_is_one_commit_and_one_entry(target: Stepwell) -> None:
    few, many = 10, 40
    short, long = await _written(target, few), await _written(target, many)

    assert long.commits - short.commits == (many - few) * COMMITS_PER_STEP
    assert long.entries - short.entries == (many - few) * ENTRIES_PER_STEP
    assert short.commits - few * COMMITS_PER_STEP <= COMMITS_AROUND
    assert long.others == short.others, "rows outside the journal grow with the steps"


async def test_a_step_costs_the_server_little_cpu(target: Stepwell) -> None:
    await closed_loop(target, 1.0, in_flight=50)
    target.marks.forget()
    meter = Meter(target)

    await closed_loop(target, 4.0, in_flight=50)

    steps = sum(len(run) - 1 for run in target.marks.of.values())
    assert meter.per(steps)["server_cpu_ms"] < SERVER_CPU_MS


async def test_a_parked_run_costs_the_server_little_memory(target: Stepwell) -> None:
    runs, until = 3000, time.time() + 3600
    await submit(target, "seq", [{"key": target.key(), "steps": 1} for _ in range(1000)])
    await reached(target, "done", 1000)
    await settled(target)
    before = target.server_rss_bytes()
    target.marks.forget()

    await submit(target, "nap", [{"key": target.key(), "until": until} for _ in range(runs)])
    await reached(target, "s0", runs)
    await settled(target)

    assert (target.server_rss_bytes() - before) / runs < RUN_BYTES


class _Written:
    """What the database holds by now."""

    def __init__(self, database: Path) -> None:
        self.commits, self.log = _commits(database.with_name(database.name + "-wal"))
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as on:
            names = [name for (name,) in on.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = {name: int(on.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in names}
        on.close()
        self.entries = rows.pop("entry")
        self.others = sum(rows.values())

    def since(self, before: _Written) -> _Written:
        assert self.log == before.log, "the log was started again meanwhile: its commits cannot be counted"
        self.commits -= before.commits
        self.entries -= before.entries
        self.others -= before.others
        return self


async def _written(target: Stepwell, steps: int) -> _Written:
    """What one run of so many steps adds."""
    database = target.folder / "data0" / "stepwell.db"
    await _quiet(target)
    before = _Written(database)
    key = target.key()
    await target.trigger("seq", [{"key": key, "steps": steps}])
    await target.marks.wait(key, "done")
    await _quiet(target)
    return _Written(database).since(before)


async def _quiet(target: Stepwell) -> None:
    """Wait until every run has ended and told of it, which it does after its last mark."""
    client, until = Client(target.port), time.monotonic() + 30
    try:
        while True:
            store = json.loads((await client.request("GET", "/api/status"))[1])["store"]
            if store["live_runs"] == 0 and store["jobs"] == 0:
                return
            assert time.monotonic() < until, store
            await asyncio.sleep(0.02)
    finally:
        client.close()


def _commits(log: Path) -> tuple[int, bytes]:
    """How many transactions are in SQLite's write-ahead log, and which log it is.

    Source: "WAL File Format" of SQLite's documentation: 32 bytes of header, then frames of 24 bytes and a page. A frame
    that ends a transaction names the size of the database, others zero; frames of an older log have other salts.
    """
    data = log.read_bytes()
    page, salts = struct.unpack_from(">I", data, 8)[0], data[16:24]
    frames = range(32, len(data) - 24 - page + 1, 24 + page)
    own = (at for at in frames if data[at + 8 : at + 16] == salts)
    return sum(data[at + 4 : at + 8] != bytes(4) for at in own), salts
