"""`stepwell start --processes N`: several servers behind one port, kept running by one parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from stepwell.store.postgres import PostgresStore
from tests.faults.harness import ROOT, Program, free_port, until
from tests.postgres import shared_cluster

pytestmark = pytest.mark.slow

KEYS = ["--signing-key", "a" * 32, "--event-key", "an-event-key"]


@pytest.fixture
def url() -> Iterator[str]:
    cluster = shared_cluster()
    url = cluster.database()
    yield url
    cluster.drop(url)


class Parent(Program):
    """The parent, on a port of its own."""

    def __init__(self, folder: Path, url: str, count: int) -> None:
        self.port = free_port()
        options = ["--processes", str(count), "--db", url, "--port", str(self.port), *KEYS]
        command = [sys.executable, "-m", "stepwell.cli", "start", *options]
        super().__init__("the parent", command, folder / "parent.log", {"STEPWELL_LEASE_MS": "3000"})

    def children(self) -> list[int]:
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(one) for one in found.split()]

    async def send(self) -> bool:
        """Whether an event is accepted, over a connection of its own, so by any of the processes."""
        async with httpx2.AsyncClient(timeout=5) as http:
            try:
                answer = await http.post(f"http://127.0.0.1:{self.port}/e/an-event-key", json={"name": "a/b"})
            except httpx2.TransportError:
                return False
            return answer.status_code == 200

    async def figures(self) -> dict[str, Metric]:
        """The families of a scrape, which reaches any of the processes."""
        async with httpx2.AsyncClient(timeout=5, headers={"authorization": f"Bearer {'a' * 32}"}) as http:
            answer = await http.get(f"http://127.0.0.1:{self.port}/metrics")
        assert answer.status_code == 200, answer.text
        return {family.name: family for family in text_string_to_metric_families(answer.text)}


@pytest.fixture
async def parent(tmp_path: Path, url: str) -> AsyncIterator[Parent]:
    made = Parent(tmp_path, url, 2)
    try:
        yield made
    finally:
        await made.stop()


async def _nodes(url: str) -> int:
    store = PostgresStore(url)
    await store.open()
    try:
        found = (await store.status())["nodes"]
        assert isinstance(found, int)
        return found
    finally:
        await store.close()


async def test_processes_share_a_port_and_are_kept_running(parent: Parent, url: str) -> None:
    async def two() -> bool:
        assert parent.running, parent.tail()
        return await _nodes(url) == 2

    await until("two nodes", two, 60, parent.tail)
    await until("an accepted event", parent.send, 30, parent.tail)
    assert "2 processes" in parent.tail(), "one line says it all"
    for sent in range(20):
        assert await parent.send(), sent
    for _ in range(6):  # whichever answers
        figures = await parent.figures()
        assert {sample.labels["process"] for sample in figures["stepwell_up"].samples} == {"0", "1"}
        assert sum(sample.value for sample in figures["stepwell_events_accepted"].samples) == 21
        assert [sample.labels for sample in figures["stepwell_live_runs"].samples] == [{}], "the store's are one"
        assert len({sample.value for sample in figures["process_start_time_seconds"].samples}) == 2
    killed, kept = parent.children()
    sockets = Path(Path(f"/proc/{kept}/cmdline").read_text().rstrip("\0").rpartition("\0")[2]).parent
    assert len(list(sockets.iterdir())) == 2
    os.kill(killed, signal.SIGKILL)
    await until("figures of who is left", lambda: _alone(parent), 10, parent.tail)
    await until("a new process", lambda: _replaced(parent, killed, kept), 60, parent.tail)
    for _ in range(20):
        await until("an accepted event", parent.send, 5, parent.tail)
    await asyncio.sleep(4)  # the lease of the killed one runs out
    await until("two nodes again", two, 60, parent.tail)
    parent.process.send_signal(signal.SIGTERM)
    await until("the end", lambda: not parent.running, 30, parent.tail)
    assert parent.process.returncode == 0, parent.tail()
    assert not sockets.exists()
    store = PostgresStore(url)
    await store.open()
    rows = await store.status()
    await store.close()
    assert rows["nodes"] == 0, "who leaves takes its lease along"


async def _alone(parent: Parent) -> bool:
    """Whether figures are told while a neighbour is gone."""
    try:
        return len((await parent.figures())["stepwell_up"].samples) == 1
    except httpx2.TransportError:
        return False  # it was on its way to the one that was killed


def _replaced(parent: Parent, killed: int, kept: int) -> bool:
    found = parent.children()
    return len(found) == 2 and kept in found and killed not in found


def test_a_data_folder_is_for_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stepwell.cli", "start", "--processes", "2", *KEYS, "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "--db postgresql://" in done.stderr


def test_a_parent_says_why_its_processes_cannot_start(tmp_path: Path) -> None:
    db = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    command = [sys.executable, "-m", "stepwell.cli", "start", "--processes", "2", *KEYS, "--db", db, "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode != 0
    assert "127.0.0.1" in done.stderr
