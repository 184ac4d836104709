"""The worker against a scripted server on a real socket: what it says, and what it does when the line goes dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import stepwell
from stepwell.model.dispatch import Memo
from stepwell.model.ids import JobId, RunId, step_id
from stepwell.sdk import worker as worker_module
from stepwell.sdk.errors import WorkerRefused
from stepwell.sdk.worker import Worker, http_url, socket_url
from stepwell.wire import worker as wire
from tests.sdk.recorder import RUN, an_event

Ctx = stepwell.Context[Any]
F = TypeVar("F")
Script = Callable[["Line"], Awaitable[None]]

service = stepwell.Service("shop", app_version="v7")
go = asyncio.Event()
is_blocked = asyncio.Event()
ran: list[str] = []


async def body(name: str) -> str:
    ran.append(name)
    return name


async def blocked() -> str:
    is_blocked.set()
    await go.wait()
    return "went"


@service.function(on="test/started")
async def one_step(ctx: Ctx) -> str:
    return str(await ctx.step.run("a", body, "a"))


@service.function(on="test/started", retries=2)
async def slow(ctx: Ctx) -> str:
    await ctx.step.run("blocked", blocked)
    return str(await ctx.step.run("next", body, "next"))


async def blocking() -> None:
    time.sleep(2)  # noqa: ASYNC251 - it blocks the loop, as it should not


@service.function(on="test/started")
async def blocks(ctx: Ctx) -> None:
    await ctx.step.run("blocking", blocking)


@service.function(on="test/started")
async def waits(ctx: Ctx) -> None:
    ctx.logger.warning("going to %s", "wait")
    await ctx.step.sleep("nap", "1h")


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    global go, is_blocked
    go, is_blocked = asyncio.Event(), asyncio.Event()  # an event belongs to the loop that it was first awaited on
    ran.clear()
    monkeypatch.setattr(worker_module, "FIRST_PAUSE_S", 0.005)


class Line:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection, hello: wire.Hello) -> None:
        self.socket = socket
        self.hello = hello

    async def send(self, frame: wire.FromServer) -> None:
        await self.socket.send(wire.encode(frame))

    async def receive(self, kind: type[F]) -> F:
        async with asyncio.timeout(5):
            frame = wire.decode_from_worker(await self.socket.recv(decode=False))
        assert isinstance(frame, kind), frame
        return frame

    async def welcome(self, *, idle_ms: int = 5000, concurrency: int = 100, packs: bool = False) -> None:
        await self.send(
            wire.Welcome(
                version=1,
                server="test",
                node="n",
                idle_ms=idle_ms,
                concurrency=concurrency,
                modified=True,
                packs=packs,
            )
        )

    async def call(self, function: str, call: str = "c1", **members: Any) -> None:
        await self.send(a_call(function, call, **members))


def a_call(function: str, call: str, **members: Any) -> wire.Call:
    return wire.Call(
        call=JobId(call), run=RunId(RUN), function=f"shop-{function}", attempt=0, max_attempts=5, events=(an_event(),),
        **members,
    )  # fmt: skip


@asynccontextmanager
async def served(*scripts: Script, **options: Any) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """A worker connected to a server that plays one script for each connection."""
    left = list(scripts)
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def accept(socket: ServerConnection) -> None:
        try:
            hello = wire.decode_from_worker(await socket.recv(decode=False))
            assert isinstance(hello, wire.Hello)
            if not left:
                await socket.wait_closed()
                return
            await left.pop(0)(Line(socket, hello))
        except BaseException as err:
            if not ended.done():
                ended.set_exception(err)
            raise
        if not left and not ended.done():
            ended.set_result(None)

    async with serve(accept, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        worker = Worker(service, f"http://127.0.0.1:{port}", **options)
        task = asyncio.create_task(worker.run())
        try:
            yield worker, task
            if scripts:
                await asyncio.wait_for(ended, 10)
        finally:
            if not ended.done():
                ended.cancel()
            worker.drain()
            await asyncio.wait([task], timeout=5)
            task.cancel()


async def test_a_call_from_hello_to_ended() -> None:
    async def script(line: Line) -> None:
        assert line.socket.request is not None
        assert line.socket.request.path == "/worker"
        assert line.socket.request.headers["Authorization"] == "Bearer secret"
        hello = line.hello
        assert (hello.version, hello.service, hello.app_version, hello.concurrency) == (1, "shop", "v7", 3)
        functions = json.loads(hello.functions)
        assert [function["id"] for function in functions] == ["shop-one-step", "shop-slow", "shop-blocks", "shop-waits"]
        assert functions[1]["steps"]["step"]["retries"] == {"attempts": 2}
        assert functions[0]["steps"]["step"]["runtime"]["type"] == "ws"

        await line.welcome()
        await line.call("one-step")
        report = await line.receive(wire.Report)
        assert (report.call, report.number, report.ops[0].name) == ("c1", 1, "a")
        await line.send(wire.Ack(call=JobId("c1"), number=1, news=1))
        assert await line.receive(wire.Returned) == wire.Returned(call=JobId("c1"), output=b'"a"')
        await line.send(wire.Ended(call=JobId("c1")))

    async with served(script, api_key="secret", concurrency=3):
        pass


@pytest.mark.parametrize("packs", [True, False])
async def test_several_frames_come_and_go_in_one_message(packs: bool) -> None:
    jobs = [JobId(f"c{number:03}") for number in range(100)]

    async def script(line: Line) -> None:
        assert line.hello.packs
        await line.welcome(packs=packs)
        calls = [wire.encode(a_call("one-step", job)) for job in jobs]
        await line.socket.send(wire.packed(calls))
        assert {one.call for one in await all_of(line, wire.Report)} == set(jobs)
        acks = [wire.encode(wire.Ack(call=job, number=1, news=1)) for job in jobs]
        await line.socket.send(wire.packed(acks))
        assert {one.call for one in await all_of(line, wire.Returned)} == set(jobs)

    async def all_of(line: Line, kind: type[F]) -> list[F]:
        found: list[F] = []
        messages = 0
        async with asyncio.timeout(5):
            while len(found) < len(jobs):
                frames = wire.unpacked(await line.socket.recv(decode=False))
                messages += 1
                for frame in map(wire.decode_from_worker, frames):
                    assert isinstance(frame, kind), frame
                    found.append(frame)
        assert messages < 10 if packs else messages == len(jobs)
        return found

    async with served(script):
        pass


async def test_a_large_result_goes_in_a_message_of_its_own() -> None:
    async def script(line: Line) -> None:
        await line.welcome(packs=True)
        calls = []
        for number, size_bytes in enumerate((10, 10, wire.PACK_BYTES, 10, 10)):
            memo = Memo(step_id("a"), "data", json.dumps("x" * size_bytes).encode())
            calls.append(wire.encode(a_call("one-step", f"c{number}", memos=(memo,))))
        for call in calls:
            await line.socket.send(call)
        sizes: list[list[int]] = []
        async with asyncio.timeout(5):
            while sum(map(len, sizes)) < len(calls):
                message = await line.socket.recv(decode=False)
                ended = map(wire.decode_from_worker, wire.unpacked(message))
                sizes.append([len(one.output) for one in ended if isinstance(one, wire.Returned)])
        assert [one for one in sizes if max(one) > wire.PACK_BYTES] == [[wire.PACK_BYTES + 2]]

    async with served(script):
        pass


async def test_a_lost_connection_drops_calls_and_the_next_goes_on_from_the_record() -> None:
    async def first(line: Line) -> None:
        await line.welcome()
        await line.call("one-step")
        await line.receive(wire.Report)
        await line.socket.close()

    async def second(line: Line) -> None:
        await line.welcome()
        await line.call("one-step", memos=(Memo(step_id("a"), "data", b'"recorded"'),))
        assert (await line.receive(wire.Returned)).output == b'"recorded"'

    async with served(first, second):
        pass
    assert ran == ["a"]


async def test_a_server_that_is_not_there_yet_is_waited_for(unused_tcp_port: int) -> None:
    worker = Worker(service, f"http://127.0.0.1:{unused_tcp_port}")
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0.05)
    welcome = asyncio.Event()

    async def accept(socket: ServerConnection) -> None:
        line = Line(socket, wire.Hello(version=1, worker="", service="", sdk="", functions=b""))
        await line.receive(wire.Hello)
        await line.welcome()
        welcome.set()
        await socket.wait_closed()

    async with serve(accept, "127.0.0.1", unused_tcp_port):
        await asyncio.wait_for(welcome.wait(), 5)
        await asyncio.wait_for(worker.is_connected.wait(), 5)
        worker.drain()
        await asyncio.wait_for(task, 5)


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_a_refused_worker_ends_with_the_servers_words() -> None:
    async def script(line: Line) -> None:
        await line.send(wire.Refused(code="invalid_function", message="`debounce` is not supported"))
        await line.socket.close()

    async with served(script) as (_, task):
        with pytest.raises(WorkerRefused, match=r"shop: `debounce` is not supported \(invalid_function\)"):
            await asyncio.wait_for(task, 5)


async def test_draining_finishes_the_step_gives_the_call_back_and_closes() -> None:
    began = asyncio.Event()

    async def script(line: Line) -> None:
        await line.welcome()
        await line.call("slow")
        await is_blocked.wait()
        began.set()
        await line.receive(wire.Draining)
        await line.call("one-step", "c2")
        assert await line.receive(wire.Declined) == wire.Declined(call=JobId("c2"), reason="draining")
        await line.send(wire.Ended(call=JobId("c2")))
        go.set()
        report = await line.receive(wire.Report)
        assert [op.name for op in report.ops] == ["blocked"]
        await line.send(wire.Ack(call=JobId("c1"), number=1, news=1))
        assert await line.receive(wire.Declined) == wire.Declined(call=JobId("c1"), reason="draining")
        await line.send(wire.Ended(call=JobId("c1")))
        with pytest.raises(ConnectionClosed):
            await line.receive(wire.Hello)

    async with served(script) as (worker, task):
        await asyncio.wait_for(began.wait(), 5)
        worker.drain()
        await asyncio.wait_for(task, 5)
    assert ran == []


async def test_a_step_that_does_not_end_is_cut_off_when_draining_takes_too_long() -> None:
    began = asyncio.Event()

    async def script(line: Line) -> None:
        await line.welcome()
        await line.call("slow")
        await is_blocked.wait()
        began.set()
        await line.receive(wire.Draining)
        assert (await line.receive(wire.Declined)).call == "c1"
        await line.send(wire.Ended(call=JobId("c1")))

    async with served(script, drain_limit_s=0.05) as (worker, task):
        await asyncio.wait_for(began.wait(), 5)
        worker.drain()
        await asyncio.wait_for(task, 5)


async def test_a_waiting_function_is_suspended_and_its_lines_are_passed_on() -> None:
    async def script(line: Line) -> None:
        await line.welcome(idle_ms=10)
        await line.call("waits", news=2)
        log = await line.receive(wire.Log)
        assert (log.level, log.text, log.step) == ("warning", "going to wait", None)
        await line.receive(wire.Report)
        await line.send(wire.Ack(call=JobId("c1"), number=1, news=4))
        assert await line.receive(wire.Suspended) == wire.Suspended(call=JobId("c1"), news=4)

    async with served(script):
        pass


async def test_a_function_that_may_not_linger_is_suspended_as_soon_as_it_only_waits() -> None:
    async def script(line: Line) -> None:
        await line.welcome(idle_ms=600_000)
        await line.call("waits", lingers=False)
        await line.receive(wire.Log)
        await line.receive(wire.Report)
        await line.send(wire.Ack(call=JobId("c1"), number=1, news=0))
        assert (await line.receive(wire.Suspended)).call == "c1"

    async with served(script):
        pass


async def test_a_long_step_is_shown_as_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.sdk.execution.RUNNING_AFTER_S", 0.01)

    async def script(line: Line) -> None:
        await line.welcome()
        await line.call("slow")
        running = await line.receive(wire.Running)
        assert (running.step, running.name) == (step_id("blocked"), "blocked")
        await line.send(wire.Stop(call=JobId("c1"), reason="cancelled"))

    async with served(script):
        pass


async def test_what_it_cannot_take_is_given_back_with_a_reason() -> None:
    async def script(line: Line) -> None:
        await line.welcome(concurrency=1)
        await line.call("gone")
        assert (await line.receive(wire.Declined)).reason == "unknown function"
        await line.call("slow", "c1")
        await line.call("slow", "c2")
        declined = await line.receive(wire.Declined)
        assert (declined.call, declined.reason) == ("c2", "capacity")
        await line.send(wire.Stop(call=JobId("c1"), reason="cancelled"))
        await line.call("one-step", "c3")
        assert (await line.receive(wire.Report)).call == "c3"

    async with served(script):
        pass


async def test_a_call_that_was_stopped_may_come_again_under_its_name() -> None:
    async def script(line: Line) -> None:
        await line.welcome()
        await line.call("slow", "c1")
        await line.send(wire.Stop(call=JobId("c1"), reason="stale"))
        await line.call("one-step", "c1")
        report = await line.receive(wire.Report)
        assert (report.call, report.number, report.ops[0].name) == ("c1", 1, "a")

    async with served(script):
        pass


async def test_a_frame_of_another_version_closes_the_connection_with_1002() -> None:
    async def first(line: Line) -> None:
        await line.welcome()
        await line.socket.send(msgspec.msgpack.encode(["Unheard", "of"]))
        await line.socket.wait_closed()
        assert line.socket.close_code == 1002

    async def second(line: Line) -> None:
        await line.welcome()

    async with served(first, second):
        pass


async def test_a_closing_server_gets_its_calls_back_and_is_left() -> None:
    async def first(line: Line) -> None:
        await line.welcome()
        await line.call("waits")
        await line.receive(wire.Log)
        await line.receive(wire.Report)
        await line.send(wire.Ack(call=JobId("c1"), number=1, news=1))
        await line.send(wire.Closing(reason="update"))
        await line.receive(wire.Suspended)
        await line.socket.close()

    async def second(line: Line) -> None:
        await line.welcome()

    async with served(first, second):
        pass


async def test_a_server_that_goes_away_is_left_at_once_and_what_it_waits_for_is_finished() -> None:
    elsewhere = asyncio.Event()

    async def first(line: Line) -> None:
        await line.welcome()
        await line.call("slow")
        await asyncio.wait_for(is_blocked.wait(), 5)
        await line.send(wire.Closing(reason="update"))
        await asyncio.wait_for(elsewhere.wait(), 5)  # the next connection is there while a step runs over this one
        go.set()
        report = await line.receive(wire.Report)
        assert [op.name for op in report.ops] == ["blocked"]
        await line.send(wire.Ack(call=JobId("c1"), number=1, news=1))
        assert await line.receive(wire.Declined) == wire.Declined(call=JobId("c1"), reason="draining")
        await line.send(wire.Ended(call=JobId("c1")))
        with pytest.raises(ConnectionClosed):
            await line.receive(wire.Hello)

    async def second(line: Line) -> None:
        await line.welcome()
        elsewhere.set()
        await line.call("one-step", "c2")
        await line.receive(wire.Report)

    async with served(first, second):
        pass
    assert "next" not in ran


async def test_of_several_addresses_one_that_answers_is_used(unused_tcp_port: int) -> None:
    reached = asyncio.Event()

    async def accept(socket: ServerConnection) -> None:
        await socket.recv(decode=False)
        reached.set()
        await socket.wait_closed()

    async with serve(accept, "127.0.0.1", 0, compression=None) as server:
        there = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for addresses in (f"127.0.0.1:{unused_tcp_port}, {there}", [there, f"127.0.0.1:{unused_tcp_port}"]):
            reached.clear()
            worker = Worker(service, addresses)
            task = asyncio.create_task(worker.run())
            await asyncio.wait_for(reached.wait(), 5)
            assert worker.url == f"ws://{there}/worker"
            worker.drain()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_server_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PING_INTERVAL_S", 0.02)
    monkeypatch.setattr(worker_module, "PING_PATIENCE_S", 1)
    stopped = asyncio.Event()

    async def first(line: Line) -> None:
        await line.welcome()
        await line.call("waits")
        await line.receive(wire.Log)
        line.socket.transport.pause_reading()  # as a process that is stopped: the socket is open and nobody is there
        await asyncio.wait_for(stopped.wait(), 10)

    async def second(line: Line) -> None:
        await line.welcome()
        stopped.set()

    async with served(first, second):
        pass


async def test_a_step_that_blocks_the_loop_costs_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PING_INTERVAL_S", 0.01)
    monkeypatch.setattr(worker_module, "PING_PATIENCE_S", 1)

    async def script(line: Line) -> None:
        await line.welcome()
        await line.call("blocks")
        report = await line.receive(wire.Report)
        assert [op.name for op in report.ops] == ["blocking"]

    async with served(script):
        pass


def test_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="write http://host:8288"):
        Worker(service, " , ")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8288", "ws://localhost:8288/worker"),
        ("https://example.com/", "wss://example.com/worker"),
        ("ws://host:1/worker", "ws://host:1/worker"),
        ("host:1", "ws://host:1/worker"),
        ("https://example.com/prefix", "wss://example.com/prefix/worker"),
    ],
)
def test_any_address_of_the_server_will_do(url: str, expected: str) -> None:
    assert socket_url(url) == expected
    assert socket_url(http_url(url)) == expected


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="write http://host:8288"):
        socket_url("ftp://host")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
async def test_a_signal_drains_the_process(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        textwrap.dedent("""
        import sys
        import stepwell
        from stepwell.sdk.worker import run_worker

        service = stepwell.Service("shop")

        @service.function(on="test/started")
        async def waits(ctx: stepwell.Context) -> None:
            await ctx.step.sleep("nap", "1h")

        run_worker([service], sys.argv[1])
        print("drained")
        """)
    )
    done = asyncio.Event()
    processes: list[subprocess.Popen[str]] = []

    async def accept(socket: ServerConnection) -> None:
        line = Line(socket, wire.Hello(version=1, worker="", service="", sdk="", functions=b""))
        await line.receive(wire.Hello)
        await line.welcome()
        await line.call("waits")
        await line.receive(wire.Report)
        await line.send(wire.Ack(call=JobId("c1"), number=1, news=1))
        processes[0].send_signal(signal.SIGTERM)
        await line.receive(wire.Draining)
        await line.receive(wire.Suspended)
        await line.send(wire.Ended(call=JobId("c1")))
        done.set()

    async with serve(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        process = subprocess.Popen(  # noqa: ASYNC220 - the program is the worker
            [sys.executable, str(program), f"http://127.0.0.1:{port}"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        processes.append(process)
        try:
            await asyncio.wait_for(done.wait(), 20)
            output, _ = await asyncio.to_thread(process.communicate, timeout=10)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, "drained\n")
