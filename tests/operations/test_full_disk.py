"""The disk fills under a server: writes are refused, reads are answered, and all goes on when there is room (F4)."""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import stepwell
from stepwell.node.auditor import Auditor
from stepwell.node.clock import AsyncioWorld
from stepwell.server import Server, ServerSettings
from tests.docs.running import working
from tests.postgres import Cluster

MIB = 1 << 20
BACK_S = 10.0
service = stepwell.Service("full")


@service.function(on="full/order", retries=0)
async def order(ctx: stepwell.Context[Any]) -> int:
    first = await ctx.step.run("first", one)
    await ctx.step.sleep("nap", "300ms")
    return first + await ctx.step.run("second", one)


async def one() -> int:
    return 1


@contextmanager
def a_small_disk(size_mib: int) -> Iterator[Path]:
    """A file system of its own, which anybody may use."""
    with tempfile.TemporaryDirectory(prefix="stepwell-disk-") as place:
        Path(place).chmod(0o755)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=1777", "none", place], capture_output=True
        )
        if made.returncode:
            pytest.skip("mounting a small file system needs root")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
async def test_a_server_lives_through_a_full_disk() -> None:
    with a_small_disk(24) as disk:
        (disk / "ballast").write_bytes(bytes(14 * MIB))
        await fill(disk, data=disk / "data")


@pytest.mark.slow
async def test_a_server_lives_through_a_full_disk_of_its_postgresql() -> None:
    """The whole database is on it, its log too."""
    with a_small_disk(160) as disk:
        cluster = Cluster(synced=True, within=disk, max_wal_size="32MB", min_wal_size="32MB")
        try:
            url = cluster.database()
            used = sum(file.stat().st_blocks * 512 for file in disk.rglob("*") if file.is_file())
            (disk / "ballast").write_bytes(bytes(160 * MIB - used - 24 * MIB))
            await fill(disk, db=url)
        finally:
            cluster.remove()


async def fill(disk: Path, **store: Any) -> None:
    """Fill what is left of a disk with events, then give back the room that a file named `ballast` takes on it."""
    server = Server(ServerSettings(port=0, discovery=False, manage_logging=False, **store))
    await server.start()
    workers = working([service], server)
    await asyncio.to_thread(workers.__enter__)
    accepted = refused = 0
    try:
        async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:

            async def send(large: bool) -> httpx2.Response:
                data = {"text": random.randbytes(50_000).hex()} if large else {}
                return await client.post("/e/key", json={"name": "full/order", "data": data})

            for _ in range(2000):
                answer = await send(large=True)
                if answer.status_code == 200:
                    accepted += 1
                    continue
                refused += 1
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) >= 1
                assert "full" in answer.json()["error"]
                if refused == 20:
                    break
            assert refused == 20, "it never became full"
            for path in ("/api/runs", "/api/status", "/metrics", "/v1/events", "/health"):
                answer = await client.get(path)
                assert answer.status_code in (200, 503) if path == "/health" else answer.status_code == 200, path
            freed_at = time.monotonic()
            (disk / "ballast").unlink()
            answer = await send(large=False)
            while answer.status_code != 200:
                assert time.monotonic() - freed_at < BACK_S, answer.text
                await asyncio.sleep(0.1)
                answer = await send(large=False)
            back_s = time.monotonic() - freed_at
            accepted += 1
            while True:
                status = (await client.get("/api/status")).json()
                if not status["store"]["live_runs"] and not status["store"]["jobs"]:
                    break
                assert time.monotonic() - freed_at < BACK_S * 3, status["store"]
                await asyncio.sleep(0.1)
            assert (await client.get("/health")).status_code == 200
            figures = (await client.get("/metrics")).text
            assert f'stepwell_runs_ended_total{{status="completed"}} {accepted:.1f}' in figures
            assert 'stepwell_runs_ended_total{status="failed"} 0.0' in figures
        report, _ = await Auditor(server.node.store, AsyncioWorld()).audit_all()
        assert (report.findings, report.runs) == ((), accepted)
        print(f"{accepted} runs; the next event was accepted {back_s:.2f} s after there was room")
    finally:
        await asyncio.to_thread(workers.__exit__, None, None, None)
        await server.stop()
