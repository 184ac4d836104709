"""`/worker`: our own frames over a real websocket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import websockets

from stepwell.model.ids import StepId
from stepwell.model.op import StepDone
from stepwell.wire import worker as frames
from tests.api.api import Api, until

CONFIG = [{"id": "shop-f", "name": "f", "triggers": [{"event": "shop/f"}]}]


class Dialled:
    """A worker by hand."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def say(self, frame: frames.FromWorker) -> None:
        await self._socket.send(frames.encode(frame))

    async def hear(self) -> frames.FromServer:
        frame: frames.FromServer = frames.decode_from_server(await self._socket.recv())
        return frame

    async def hello(self, **more: Any) -> frames.FromServer:
        fields: dict[str, Any] = {"version": frames.VERSION, "worker": "w1", "service": "shop", "sdk": "stepwell-py:v0"}
        await self.say(frames.Hello(**{**fields, "functions": json.dumps(CONFIG).encode(), **more}))
        return await self.hear()


@contextlib.asynccontextmanager
async def dialled(api: Api) -> AsyncIterator[Dialled]:
    async with websockets.connect(f"ws://127.0.0.1:{api.server.port}/worker", proxy=None, max_size=None) as socket:
        yield Dialled(socket)


async def test_a_worker_runs_a_function_step_by_step(api: Api) -> None:
    async with dialled(api) as worker:
        welcome = await worker.hello()
        assert isinstance(welcome, frames.Welcome)
        assert welcome.modified is True
        event = await api.send("shop/f", {"n": 1})
        call = await worker.hear()
        assert isinstance(call, frames.Call)
        assert json.loads(call.events[0])["data"] == {"n": 1}
        run = await api.started(event)
        await worker.say(
            frames.Report(call=call.call, number=1, ops=(StepDone(step=StepId("a"), name="a", output=b"41"),))
        )
        assert await worker.hear() == frames.Ack(call=call.call, number=1, news=1)
        assert (await api.get(f"/v1/runs/{run['run_id']}"))["data"]["status"] == "Running"
        await worker.say(frames.Returned(call=call.call, output=b"42"))
        assert await worker.hear() == frames.Ended(call=call.call)
        assert (await api.ended(run["run_id"]))["output"] == 42
        (request,) = (await api.get(f"/api/runs/{run['run_id']}"))["requests"]
        assert (request["live"], request["worker"], request["steps"]) == (True, "w1", ["a"])


async def test_a_call_waits_for_its_worker_and_is_not_shown_as_running(api: Api) -> None:
    async with dialled(api) as worker:
        await worker.hello()
    event = await api.send("shop/f")
    run = await api.started(event)
    assert run["status"] == "Scheduled"
    async with dialled(api) as worker:
        welcome = await worker.hello()
        assert isinstance(welcome, frames.Welcome)
        assert welcome.modified is False
        call = await worker.hear()
        assert isinstance(call, frames.Call)
        assert (await api.first.get(f"/v1/runs/{run['run_id']}"))["data"]["status"] == "Running"
        (listed,) = (await api.first.get("/api/runs"))["runs"]
        assert listed["status"] == "RUNNING"
        assert listed["started_at"] > listed["created_at"]
        await worker.say(frames.Running(call=call.call, step=StepId("a"), name="a"))

        async def step() -> dict[str, Any] | None:
            shown = await api.first.get(f"/api/runs/{run['run_id']}")
            assert (shown["status"], shown["trace"]["status"]) == ("RUNNING", "RUNNING")
            return next(iter(shown["trace"]["children"]), None)

        assert (await until(step))["status"] == "RUNNING"
        await worker.say(frames.Returned(call=call.call, output=b"null"))
        assert (await api.ended(run["run_id"]))["status"] == "Completed"


async def test_a_call_that_waits_for_room_is_not_running_and_one_taken_over_is(api: Api) -> None:
    async with dialled(api) as worker:
        await worker.hello(concurrency=1)
        runs = [await api.started(await api.send("shop/f")) for _ in range(2)]
        assert isinstance(await worker.hear(), frames.Call)
        shown = {one["id"]: one for one in (await api.first.get("/api/runs"))["runs"]}
        assert sorted(shown[run["run_id"]]["status"] for run in runs) == ["QUEUED", "RUNNING"]

    async with dialled(api) as worker:
        await worker.hello()
        calls = [await worker.hear() for _ in range(2)]
        assert {one["status"] for one in (await api.first.get("/api/runs"))["runs"]} == {"RUNNING"}
        for run in runs:
            held = (await api.first.get(f"/api/runs/{run['run_id']}"))["requests"][-1]
            assert held["started_at"] is not None
            assert held["outcome"] is None
        for call in calls:
            assert isinstance(call, frames.Call)
            await worker.say(frames.Returned(call=call.call, output=b"null"))
        for run in runs:
            await api.ended(run["run_id"])


async def test_a_worker_with_a_bad_function_is_told_and_closed(plain: Api) -> None:
    async with dialled(plain) as worker:
        refused = await worker.hello(functions=b'[{"id": "shop-f"}]')
        assert isinstance(refused, frames.Refused)
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            await worker.hear()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_text_and_nonsense_close_the_connection(plain: Api) -> None:
    url = f"ws://127.0.0.1:{plain.server.port}/worker"
    for sent, code in (("text", 1003), (b"nonsense", 1002), (msgspec.msgpack.encode(["Hello"]), 1002)):
        async with websockets.connect(url, proxy=None) as socket:
            await socket.send(sent)
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == code


async def test_a_server_that_stops_says_so_before_it_closes(plain: Api) -> None:
    async with dialled(plain) as worker:
        await worker.hello()
        await plain.server.stop()
        assert isinstance(await worker.hear(), frames.Closing)
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            await worker.hear()
