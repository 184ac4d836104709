"""Runs that wait for a limit are shown as waiting for it: in the list, in a trace, in the status and on its page."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx2
from click.testing import CliRunner

import stepwell
from stepwell.cli import cli
from tests.docs.running import running_server, working

LIMIT = "the concurrency of its function by event.data.user"


def test_a_run_that_waits_for_a_limit_is_shown_with_it() -> None:
    service = stepwell.Service("shop")
    go = threading.Event()

    def hold() -> None:
        assert go.wait(30)

    @service.function(on="shop/order", concurrency=stepwell.Concurrency(1, key="event.data.user"))
    async def order(ctx: stepwell.Context[Any]) -> None:
        await ctx.step.run("hold", hold)

    with running_server() as server, working([service], server), stepwell.Client(server.url) as client:

        def shown(*words: str) -> str:
            return CliRunner().invoke(cli, [*words, "--url", server.url], catch_exceptions=False).output

        first, second = (client.start("shop/order", {"user": "x"}) for _ in range(2))
        until = time.monotonic() + 20
        while server_says(server.url) != [[LIMIT], []]:
            assert time.monotonic() < until, server_says(server.url)
            time.sleep(0.02)
        lines = {line.split()[0]: line for line in shown("runs").splitlines()[1:]}
        assert f"queued, waits for {LIMIT}" in lines[second.id]
        assert "waits" not in lines[first.id]
        assert f"waits for a slot of {LIMIT}" in shown("run", "show", second.id)
        assert "1 calls for a slot of a limit" in shown("status")
        page = httpx2.get(f"{server.url}/status", headers={"accept": "text/html"}, trust_env=False).text
        assert '<b class="">1</b><span>calls that wait for a limit</span>' in page
        go.set()
        for run in (first, second):
            run.result(timeout=20)
        assert server_says(server.url) == [[], []]


def server_says(url: str) -> list[list[str]]:
    """For what each run waits, the newest first."""
    runs = httpx2.get(f"{url}/api/runs", trust_env=False).json()["runs"]
    return [run["waits_for"] for run in runs]
