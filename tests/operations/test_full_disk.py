"""The disk fills under a server: writes are refused, reads are answered, and all goes on when there is room."""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

import stepwell
from stepwell.node.auditor import Auditor
from stepwell.node.clock import AsyncioWorld
from stepwell.server import Server, ServerSettings
from tests.docs.running import working

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACK_S = 10.0
service = stepwell.Service("full")


@service.function(on="full/order", retries=0)
async def order(ctx: stepwell.Context[Any]) -> int:
    first = await ctx.step.run("first", one)
    await ctx.step.sleep("nap", "300ms")
    return first + await ctx.step.run("second", one)


async def one() -> int:
    return 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
async def test_a_server_lives_through_a_full_disk(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(14 << 20))
    server = Server(ServerSettings(port=0, data=small_disk / "data", discovery=False, manage_logging=False))
    await server.start()
    workers = working([service], server)
    await asyncio.to_thread(workers.__enter__)
    accepted = refused = 0
    try:
        async with httpx2.AsyncClient(base_url=server.url, timeout=30) as client:

            async def send(large: bool) -> httpx2.Response:
                data = {"text": "x" * 100_000} if large else {}
                return await client.post("/e/key", json={"name": "full/order", "data": data})

            for _ in range(1000):
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
            ballast.unlink()
            answer = await send(large=False)
            while answer.status_code != 200:
                assert time.monotonic() - freed_at < BACK_S, answer.text
                await asyncio.sleep(0.1)
                answer = await send(large=False)
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
    finally:
        await asyncio.to_thread(workers.__exit__, None, None, None)
        await server.stop()
