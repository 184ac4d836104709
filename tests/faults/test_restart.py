"""A server that comes back: what it finds, how soon it is at work again, and what it does not let happen."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stepwell
from stepwell.model import journal
from stepwell.model.dispatch import Dispatch
from stepwell.model.errors import ConfigurationError
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import StepId
from stepwell.model.op import Op, Sleep, StepDone
from stepwell.store.base import EventQuery
from stepwell.store.sqlite import SqliteStore
from tests.faults.backlog import Backlog
from tests.faults.harness import CEILING_BYTES, MIB, Server, connected, reconnected, until
from tests.faults.scripted import Call, Scripted, result
from tests.fleet import nodes_wanted

pytestmark = pytest.mark.slow
of_a_folder = pytest.mark.skipif(nodes_wanted() > 0, reason="of a data folder")


# A large backlog.


@pytest.mark.parametrize(
    ("sleeping", "queued", "in_flight"),
    [
        pytest.param(2_000 if nodes_wanted() else 10_000, 1_000, 50, id="F5-tenth"),
        pytest.param(100_000, 10_000, 500, id="F5", marks=pytest.mark.long),
    ],
)
async def test_a_server_with_a_large_backlog_is_at_work_soon_after_its_start(
    unstarted: Server, sleeping: int, queued: int, in_flight: int
) -> None:
    """F5."""
    server = unstarted

    def sleeps(dispatch: Dispatch) -> Op:
        return Sleep(step=StepId("nap"), name="nap", for_ms=7 * 86_400_000)

    def in_steps(dispatch: Dispatch) -> Op | None:
        return None if dispatch.memos else StepDone(step=StepId("a"), name="a", output=b"1")

    def queues(dispatch: Dispatch) -> None:
        return None

    async def answer(call: Call) -> bytes:
        await asyncio.sleep(0.05)
        return result("done")

    service = Scripted(server, {"sleeps": answer, "steps": answer, "queued": answer})
    async with Backlog(server, service.url, {"sleeps": sleeps, "steps": in_steps, "queued": queues}) as backlog:
        await backlog.lay("sleeps", ({"n": n} for n in range(sleeping)))
        await backlog.lay("steps", ({"n": n} for n in range(in_flight)))
        await backlog.lay("queued", ({"n": n} for n in range(queued)))
    await service.listen()
    try:
        figures = []
        for _ in range(2):
            service.calls.clear()
            await server.start(within=60)
            ready = time.monotonic()
            await until("a first call", lambda: bool(service.calls), 20, server.explain)
            first_s = max(0.0, service.calls[0].at - ready)
            figures.append(f"ready after {server.ready_s:.2f} s, first call {first_s:.2f} s later")
            assert server.ready_s <= 10, figures
            assert first_s <= 2 + server.lease_s, figures
            server.kill()
        await server.start(within=60)
        sent = time.monotonic()
        await server.event("raw/queued")
        assert time.monotonic() - sent < 2, "it takes events while it works on the backlog"

        async def worked_off() -> bool:
            return bool((await server.status())["store"]["live_runs"] == sleeping)

        await until("the end of what was queued", worked_off, 30 + queued / 50, server.explain)
        peak = server.memory()
        assert peak < CEILING_BYTES, f"{peak / MIB:.0f} MiB"
        assert await server.count(statuses=["COMPLETED"]) == queued + in_flight + 1
        print(f"{figures}, {peak / MIB:.0f} MiB at most")
    finally:
        await service.close()


# Two servers, and what lies about.


@of_a_folder
async def test_a_second_server_on_the_same_folder_refuses_to_start_and_harms_nothing(own: Server) -> None:
    """F7."""
    second = Server(own.data.parent)
    program = second.begin()
    await until("the end of the second server", lambda: not program.running, 30, program.tail)
    await second.http.aclose()

    assert program.process.returncode != 0
    said = program.tail()
    assert "another server is using the data directory" in said
    assert "Traceback" not in said
    assert await own.event("nobody/listens")


@of_a_folder
async def test_a_server_starts_after_an_unclean_end_whatever_lies_about(own: Server) -> None:
    """F8: stale files, and the pid in the lock file belongs to another program by now."""
    await own.event("before/crash")
    own.kill()
    (own.data / "lock").write_text(f"{os.getpid()}\n")
    (own.data / "full-probe.tmp").write_bytes(b"x" * 10)
    stale = own.data / "blobs" / "ab" / "cdef.0123456789ab.tmp"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_bytes(b"half a text")
    (own.data / "stepwell.db-shm").write_bytes(b"\0" * 32_768)  # what a crash in the middle of a write may leave
    await own.start()

    async with own.stored() as on:
        assert len(await on.events(EventQuery(env=DEV_ENV, names=("before/crash",)))) == 1
    assert not stale.exists()
    assert await own.event("after/crash")


@of_a_folder
async def test_a_folder_that_cannot_hold_a_database_is_refused_with_an_explanation(tmp_path: Path) -> None:
    """F57, as far as it can be had without mounting anything: the data folder is a file, or cannot be written."""
    (tmp_path / "data").write_text("not a folder")
    server = Server(tmp_path)
    program = server.begin()
    await until("the end of the server", lambda: not program.running, 30, program.tail)
    await server.http.aclose()

    assert program.process.returncode != 0
    assert "Traceback" not in program.tail()
    assert "data" in program.tail()


@of_a_folder
async def test_the_durability_of_the_store_is_stated_and_cannot_be_weakened(own: Server, tmp_path: Path) -> None:
    """F58."""
    shown = (await own.status())["store"]
    with pytest.raises(ConfigurationError, match="can lose acknowledged events"):
        SqliteStore(tmp_path / "weak", synchronous="NORMAL")

    assert shown["durability"] == "write-ahead log, synchronous=FULL"
    assert shown["file_system"]


# Sleeps, delays and branches over a restart.


@pytest.mark.parametrize("due", ["while it is down", "afterwards"])
async def test_a_sleep_survives_a_kill_and_ends_on_time(own: Server, due: str) -> None:
    """S0-10, F27: within a second of its due time on an idle server, or of the start if it was due before."""
    service = stepwell.Service("nap")
    down_s, length = (2.5, timedelta(seconds=2)) if due == "while it is down" else (0.0, timedelta(seconds=6))

    @service.function(on="nap/f")
    async def f(ctx: stepwell.Context[Any]) -> str:
        await ctx.step.sleep("relative", length)
        await ctx.step.sleep_until("absolute", datetime.now(UTC) + timedelta(seconds=1))
        return "rested"

    async with connected(own, service) as worker:
        run = await own.run_of(await own.event("nap/f"))
        await _sleeping(own, run)
        own.kill()
        await asyncio.sleep(down_s)
        await own.start()
        ready = time.time_ns() // 1_000_000
        await reconnected(worker)
        assert (await own.completed(run))["output"] == "rested"

    (until_ms, *_), (ended_ms, *_) = await _sleeps(own, run), await _results_at(own, run)
    late_ms = ended_ms - max(until_ms, ready if due == "while it is down" else 0)
    print(f"{late_ms} ms late")
    assert ended_ms >= until_ms, "never early"
    assert late_ms <= 2_000 + 1000 * own.lease_s  # 1 s on an idle machine


async def _sleeping(server: Server, run: str) -> None:
    async def look() -> bool:
        return bool(await _sleeps(server, run))

    await until("the sleep", look, 10, server.explain)


async def _sleeps(server: Server, run: str) -> list[int]:
    return [entry.until for entry in await server.journal(run) if isinstance(entry, journal.SleepStarted)]


async def _results_at(server: Server, run: str) -> list[int]:
    return [entry.at for entry in await server.journal(run) if isinstance(entry, journal.StepCompleted)]


async def test_parallel_branches_take_as_long_as_the_longest_and_survive_a_kill_in_the_middle(own: Server) -> None:
    """S0-16."""
    service = stepwell.Service("branches")
    executions: list[tuple[str, str]] = []

    @service.function(on="branches/f")
    async def f(ctx: stepwell.Context[Any]) -> list[str]:
        async def branch(name: str, seconds: float) -> str:
            executions.append((ctx.run_id, name))
            await asyncio.sleep(seconds)
            return name

        found = await asyncio.gather(
            *(ctx.step.run(f"branch {n}", branch, f"branch {n}", 0.3 + 0.3 * (n % 2)) for n in range(10))
        )
        return [*found, await ctx.step.run("joined", branch, "joined", 0.0)]

    names = [f"branch {n}" for n in range(10)]
    async with connected(own, service) as worker:
        begun = time.monotonic()
        whole = await own.run_of(await own.event("branches/f"))
        assert (await own.completed(whole))["output"] == [*names, "joined"]
        took = time.monotonic() - begun
        cut = await own.run_of(await own.event("branches/f"))

        async def half() -> bool:
            return len(await _results_at(own, cut)) >= 5

        await until("half of the branches", half, 10, own.explain)
        await own.restart()
        await reconnected(worker)
        assert (await own.completed(cut))["output"] == [*names, "joined"]

    assert took < 2.5, f"{took:.2f} s, and one after the other they take 4.5 s"
    assert sum(run == whole for run, _ in executions) == 11
    again = [name for run, name in executions if run == cut]
    assert 11 <= len(again) <= 16, "only branches without a result run again"


async def test_an_event_of_the_future_delays_its_run_over_a_kill_and_may_be_cancelled_before(own: Server) -> None:
    """S1-03."""
    started: dict[str, float] = {}

    async def answer(call: Call) -> bytes:
        started[call.run] = call.wall
        return result("ran")

    async with Scripted(own, {"f": answer}):
        due = time.time() + 3 + 3 * own.ready_s  # after it has started again, however slow this machine is
        sent = await own.send(*({"name": "raw/f", "ts": round(due * 1000)} for _ in range(3)))
        runs = [await own.run_of(event) for event in sent]
        assert [(await own.run(run))["status"] for run in runs] == ["QUEUED"] * 3
        assert (await own.http.post(f"/api/runs/{runs[0]}/cancel")).status_code == 200
        await own.restart()
        assert (await own.http.post(f"/api/runs/{runs[1]}/cancel")).status_code == 200
        ended = [await own.ended(run) for run in runs]
        await asyncio.sleep(max(0.0, due + 1 - time.time()))

    assert [run["status"] for run in ended] == ["CANCELLED", "CANCELLED", "COMPLETED"]
    assert list(started) == [runs[2]]
    assert due - 0.001 <= started[runs[2]] <= due + 2


async def test_a_function_that_cleans_up_after_a_cancelled_run_gets_its_event(own: Server) -> None:
    """S1-06, also when the server is killed right after the cancellation."""
    service = stepwell.Service("tidy")
    cleaned: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    @service.function(on="tidy/long", id="long")
    async def long(ctx: stepwell.Context[Any]) -> None:
        await ctx.step.sleep("long", "1h")

    @service.function(
        on=stepwell.event("inngest/function.cancelled", Any).when('event.data.function_id == "tidy-long"')
    )
    async def clean_up(ctx: stepwell.Context[Any]) -> str:
        async def clean() -> str:
            await cleaned.put(ctx.event.data)
            return str(ctx.event.data["run_id"])

        return await ctx.step.run("clean", clean)

    async with connected(own, service) as worker:
        runs = [await own.run_of(await own.event("tidy/long", order=n)) for n in range(2)]
        for run in runs:
            await _sleeping(own, run)
            assert (await own.http.post(f"/api/runs/{run}/cancel")).status_code == 200
        await own.restart()
        await reconnected(worker)
        told: dict[str, Any] = {}
        while len(told) < len(runs):  # a step that the kill met before it was recorded runs once more
            one = await asyncio.wait_for(cleaned.get(), 20)
            told[one["run_id"]] = one["event"]["data"]
        await own.all_ended(20)

    assert told == {run: {"order": n} for n, run in enumerate(runs)}
