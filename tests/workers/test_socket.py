"""Workers that dialled in, driven with frames in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from stepwell.model import message
from stepwell.model.dispatch import Memo, Opening
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.function import Service, Transport
from stepwell.model.ids import Instant, JobId, RunId, StepId
from stepwell.model.job import route_of
from stepwell.model.op import Completed, Invoke, Op, Sleep, StepDone, StepErrored, Unknown, WaitForEvent
from stepwell.model.payload import Blob
from stepwell.wire import worker as frames
from stepwell.workers import socket
from stepwell.workers.connection import Connection, Limits
from stepwell.workers.socket import Registered, SocketPerformer
from tests.workers.apps import EVENT, RUN, Mailbox, a_dispatch

A, B = StepId("a" * 40), StepId("b" * 40)
J, K = JobId("J"), JobId("K")


@dataclass
class Worker:
    """The other end of a connection."""

    connection: Connection
    told: list[frames.FromServer]
    closed: list[tuple[int, str]]
    messages: list[int]
    """How many frames each message had."""
    writer: asyncio.Task[None] | None = None
    reading: asyncio.Event = field(default_factory=asyncio.Event)

    async def says(self, *said: frames.FromWorker) -> None:
        for frame in said:
            await self.connection.receive(frames.encode(frame))
        await settle()

    async def says_at_once(self, *said: frames.FromWorker) -> None:
        """In one message."""
        await self.connection.receive(frames.packed([frames.encode(frame) for frame in said]))
        await settle()

    def heard(self, kind: type[Any]) -> list[Any]:
        return [frame for frame in self.told if isinstance(frame, kind)]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class World:
    """A performer, its workers, and what it delivered."""

    def __init__(self, **options: Any) -> None:
        self.mailbox = Mailbox()
        self.registered: list[Service] = []
        self.refuse: str | None = None
        self.logs: list[tuple[Any, ...]] = []
        options.setdefault("limits", Limits(hello_s=5))
        self.performer = SocketPerformer(self.mailbox, self.register, on_log=self.log, node="n1", **options)
        self.workers: list[Worker] = []

    async def register(self, service: Service) -> Registered:
        if self.refuse:
            raise InvalidInput(self.refuse)
        self.registered.append(service)
        return Registered(modified=True, warnings=("from the registry",))

    def log(self, run: RunId, call: JobId, level: str, text: str, at: Instant, step: StepId | None, /) -> None:
        self.logs.append((run, call, level, text, at, step))

    def dials(self, **options: Any) -> Worker:
        sent: list[frames.FromServer] = []
        closed: list[tuple[int, str]] = []
        messages: list[int] = []

        async def send(data: bytes) -> None:
            await worker.reading.wait()
            told = [frames.decode_from_server(frame) for frame in frames.unpacked(data)]
            sent.extend(told)
            messages.append(len(told))

        async def close(code: int, reason: str) -> None:
            closed.append((code, reason))

        worker = Worker(self.performer.connect(send, close, **options), sent, closed, messages)
        worker.reading.set()
        worker.writer = asyncio.get_running_loop().create_task(worker.connection.run())
        self.workers.append(worker)
        return worker

    async def worker(self, *slugs: str, **fields: Any) -> Worker:
        worker = self.dials()
        await worker.says(hello(*slugs, **fields))
        return worker

    @property
    def messages(self) -> list[message.Message]:
        return [one for _, _, _, one in self.mailbox.messages]


def hello(*slugs: str, **fields: Any) -> frames.Hello:
    configs = [{"id": slug, "name": slug, "triggers": [{"event": "a/b"}]} for slug in slugs or ("shop-a",)]
    base: dict[str, Any] = {
        "version": frames.VERSION,
        "worker": "w1",
        "service": "shop",
        "sdk": "stepwell-py:v0.1.0",
        "functions": json.dumps(configs).encode(),
        "concurrency": 2,
    }
    return frames.Hello(**{**base, **fields})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


class a_world:
    def __init__(self, **options: Any) -> None:
        self.options = options

    async def __aenter__(self) -> World:
        self.world = World(**self.options)
        return self.world

    async def __aexit__(self, *exc: object) -> None:
        await self.world.performer.close()
        for worker in self.world.workers:
            worker.connection.lost()
            assert worker.writer is not None
            worker.writer.cancel()
            await asyncio.gather(worker.writer, return_exceptions=True)


def error_of(one: message.Message) -> str:
    assert isinstance(one, (message.CallLost, message.Raised))
    assert isinstance(one.error, bytes)
    return str(json.loads(one.error)["message"])


# Hello


async def test_a_worker_is_registered_and_welcomed(world: World) -> None:
    worker = await world.worker("shop-a", "shop-b")
    (welcome,) = worker.told
    assert welcome == frames.Welcome(
        version=1,
        server="stepwell",
        node="n1",
        idle_ms=5000,
        concurrency=2,
        modified=True,
        warnings=("from the registry",),
        packs=True,
    )
    (service,) = world.registered
    assert (service.name, service.transport, service.sdk) == ("shop", Transport.SOCKET, "stepwell-py:v0.1.0")
    assert [function.slug for function in service.functions] == ["shop-a", "shop-b"]
    assert len(world.performer.workers(service.env, "shop")) == 1


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"version": 2}, "version", "version 2 of the protocol and this server 1; update the server"),
        ({"version": 0}, "version", "update the worker"),
        ({"service": ""}, "invalid_name", "`service` must have 1 to 255 letters"),
        ({"worker": "w" * 256}, "invalid_name", "`worker`"),
        ({"functions": b"{"}, "invalid_function", "`functions` is not valid JSON"),
        ({"functions": b"{}"}, "invalid_function", "must be an array"),
        ({"functions": b'[{"id":"shop-a","name":""}]'}, "invalid_function", "At least one function is invalid"),
    ],
)
async def test_a_hello_that_cannot_be_taken_is_refused(
    fields: dict[str, Any], code: str, says: str, world: World
) -> None:
    worker = await world.worker(**fields)
    (refused,) = worker.told
    assert isinstance(refused, frames.Refused)
    assert refused.code == code
    assert says in refused.message
    assert worker.closed[0][0] == 1008
    assert world.registered == []


async def test_the_registry_may_refuse(world: World) -> None:
    world.refuse = "that slug belongs to another service"
    worker = await world.worker()
    assert worker.told == [frames.Refused(code="INVALID_INPUT", message=world.refuse)]


async def test_s9_a_key_serves_its_own_service_only(world: World) -> None:
    worker = world.dials(may_serve=lambda service: service == "shop")
    await worker.says(hello(service="bank"))
    assert worker.told[0] == frames.Refused(
        code="forbidden", message="this key may not serve 'bank'; use the key of that service"
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"[]", frames.encode(frames.Draining()), frames.encode(frames.Ended(call=J))],
    ids=["empty", "not msgpack", "not a frame", "before Hello", "a server's frame"],
)
async def test_anything_but_a_hello_closes_the_connection(data: bytes, world: World) -> None:
    worker = world.dials()
    await worker.connection.receive(data)
    await settle()
    assert worker.closed[0][0] == 1002


async def test_a_worker_that_is_refused_again_and_again_is_in_the_log_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.refuse = "the functions will not do"
    for _ in range(3):
        await world.worker()
    world.refuse = "something else"
    await world.worker()
    told = [one.getMessage() for one in caplog.records if "is refused" in one.getMessage()]
    assert told == [
        f"worker 'w1' of service 'shop' is refused: {why}" for why in ("the functions will not do", world.refuse)
    ]


async def test_hello_comes_once(world: World) -> None:
    worker = await world.worker()
    await worker.says(hello())
    assert worker.closed == [(1002, "Hello comes once")]


async def test_a_worker_that_says_nothing_is_closed() -> None:
    async with a_world(limits=Limits(hello_s=0.01)) as world:
        worker = world.dials()
        assert worker.writer is not None
        await worker.writer
        assert worker.closed == [(1008, "no Hello within 0.01 s")]


# Calls


async def test_a_worker_is_told_that_a_function_may_not_linger(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch(lingers=False))
    await settle()
    (call,) = worker.heard(frames.Call)
    assert not call.lingers


async def test_a_call_goes_to_the_worker_and_its_end_comes_back(world: World) -> None:
    worker = await world.worker()
    memo = Memo(A, "data", b"1", "a")
    world.performer.perform(
        a_dispatch(memos=(memo,), waiting=(B,), attempts={B: 2}, news=7, attempt=1, max_attempts=3, started_at=9)
    )
    await settle()
    assert worker.told[1] == frames.Call(
        call=J,
        run=RUN,
        function="shop-a",
        attempt=1,
        max_attempts=3,
        events=(EVENT,),
        memos=(memo,),
        waiting=(B,),
        attempts={B: 2},
        news=7,
        started_at=9,
    )
    await worker.says(frames.Returned(call=J, output=b' {"b": 1.0, "a": null} '))
    (returned,) = world.messages
    assert isinstance(returned, message.Returned)
    assert (returned.call, returned.output, returned.info.worker) == (J, b'{"a":null,"b":1}', "w1")
    assert world.mailbox.messages[0][:3] == (RUN, J, 3)
    assert worker.heard(frames.Ended) == []
    world.performer.ended(J)
    await settle()
    assert worker.heard(frames.Ended) == [frames.Ended(call=J)]


async def test_reports_are_delivered_in_order_and_acknowledged_when_committed(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(
        frames.Report(call=J, number=1, ops=(StepDone(step=A, output=b"1.0"),)),
        frames.Report(call=J, number=2, ops=(Sleep(step=B, for_ms=5),)),
    )
    assert world.messages == [
        message.Reported(J, (StepDone(step=A, output=b"1"),), 1),
        message.Reported(J, (Sleep(step=B, for_ms=5),), 2),
    ]
    assert worker.heard(frames.Ack) == []
    world.performer.acknowledge(J, 1, 1)
    world.performer.deliver_result(J, Memo(B, "bare", b"null"), 2)
    world.performer.deliver_retry(J, A, 1, 2)
    await settle()
    assert worker.told[2:] == [
        frames.Ack(call=J, number=1, news=1),
        frames.Resolve(call=J, memo=Memo(B, "bare", b"null"), news=2),
        frames.Retry(call=J, step=A, attempt=1, news=2),
    ]


async def test_who_takes_a_call_is_told_when_it_is_taken() -> None:
    taken: list[tuple[Any, ...]] = []
    async with a_world(on_taken=lambda *told: taken.append(told[:3])) as world:
        world.performer.perform(a_dispatch())
        assert taken == []
        first = await world.worker(concurrency=1)
        world.performer.perform(a_dispatch(job=K))
        assert taken == [(RUN, J, "w1")]
        await first.says(frames.Returned(call=J, output=b"1"))
        assert taken == [(RUN, J, "w1"), (RUN, K, "w1")]


async def test_a_report_that_comes_twice_is_acknowledged_again_and_delivered_once(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    report = frames.Report(call=J, number=1, ops=(StepDone(step=A),))
    await worker.says(report, report)
    assert worker.heard(frames.Ack) == []
    world.performer.acknowledge(J, 1, 4)
    await worker.says(report)
    assert len(world.messages) == 1
    assert worker.heard(frames.Ack) == [frames.Ack(call=J, number=1, news=4)] * 2


async def test_a_missing_report_costs_a_repeated_call_and_nothing_else(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(frames.Report(call=J, number=2, ops=()))
    (lost,) = world.messages
    assert isinstance(lost, message.CallLost)
    assert "report 2 came where report 1 belongs" in error_of(lost)
    assert worker.heard(frames.Stop) == [frames.Stop(call=J, reason="stale")]
    assert worker.closed == []


async def test_suspended_and_raised_end_a_call(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.perform(a_dispatch(job=K))
    await worker.says(
        frames.Suspended(call=J, news=3),
        frames.Raised(call=K, error=b'{"name":"E", "message":"m"}', retry=False, retry_at=1 << 60),
    )
    suspended, raised = world.messages
    assert isinstance(suspended, message.Suspended)
    assert suspended.news == 3
    assert isinstance(raised, message.Raised)
    assert (raised.error, raised.retry) == (b'{"message":"m","name":"E"}', False)
    assert raised.retry_at is not None
    assert raised.retry_at < 1 << 43  # no further away than anything may be waited for


async def test_what_comes_after_the_end_of_a_call_is_stopped(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(frames.Suspended(call=J, news=0), frames.Returned(call=J, output=b"1"))
    assert len(world.messages) == 1
    assert worker.heard(frames.Stop) == [frames.Stop(call=J, reason="stale")]


async def test_a_stopped_call_is_told_and_says_no_more(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.stop(J, "cancelled")
    await worker.says(frames.Returned(call=J, output=b"1"))
    assert worker.heard(frames.Stop) == [
        frames.Stop(call=J, reason="cancelled"),
        frames.Stop(call=J, reason="stale"),
    ]
    assert world.messages == []


async def test_hints_about_a_call_that_is_not_there_do_nothing(world: World) -> None:
    worker = await world.worker()
    world.performer.acknowledge(J, 1, 1)
    world.performer.deliver_result(J, Memo(A, "data", b"1"), 1)
    world.performer.deliver_retry(J, A, 0, 1)
    world.performer.stop(J, "cancelled")
    world.performer.ended(J)
    await settle()
    assert len(worker.told) == 1


async def test_logs_and_running_steps_reach_the_callback(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(
        frames.Log(call=J, level="info", text="hello", at=5, step=A),
        frames.Running(call=J, step=A, name="slow"),
        frames.Log(call=K, level="info", text="of nobody", at=5),
    )
    assert world.logs[0] == (RUN, J, "info", "hello", 5, A)
    assert world.logs[1][2:4] == ("running", "slow")
    assert len(world.logs) == 2
    assert world.messages == []


# Choosing a worker


async def test_the_least_loaded_worker_that_has_the_function_is_chosen(world: World) -> None:
    big = await world.worker("shop-a", worker="big", concurrency=10)
    small = await world.worker("shop-a", "shop-b", worker="small", concurrency=2)
    for number in range(6):
        world.performer.perform(a_dispatch(job=JobId(f"a{number}")))
    world.performer.perform(a_dispatch(job=JobId("b"), slug="shop-b"))
    await settle()
    assert len(big.heard(frames.Call)) == 5
    assert [call.call for call in small.heard(frames.Call)] == ["a1", "b"]


async def test_calls_wait_for_a_worker_and_go_out_in_order(world: World) -> None:
    for number in range(3):
        world.performer.perform(a_dispatch(job=JobId(str(number))))
    assert world.performer.waiting(a_dispatch().function.env, "shop") == 3
    worker = await world.worker(concurrency=2)
    assert [call.call for call in worker.heard(frames.Call)] == ["0", "1"]
    await worker.says(frames.Returned(call=JobId("0"), output=b"1"))
    assert [call.call for call in worker.heard(frames.Call)] == ["0", "1", "2"]


async def test_news_for_a_call_in_line_follow_it_to_the_worker(world: World) -> None:
    world.performer.perform(a_dispatch())
    memo = Memo(StepId("nap"), "bare", b"null")
    world.performer.deliver_result(J, memo, 1)
    world.performer.deliver_retry(J, StepId("charge"), 1, 2)
    worker = await world.worker()
    assert worker.heard(frames.Resolve) == [frames.Resolve(call=J, memo=memo, news=1)]
    assert worker.heard(frames.Retry) == [frames.Retry(call=J, step=StepId("charge"), attempt=1, news=2)]
    kinds = [type(frame).__name__ for frame in worker.told]
    assert kinds.index("Call") < kinds.index("Resolve") < kinds.index("Retry")


async def test_news_for_a_call_whose_large_results_are_being_read_follow_it(world: World) -> None:
    read = asyncio.Event()

    async def load_memos() -> tuple[Memo, ...]:
        await read.wait()
        return ()

    worker = await world.worker()
    world.performer.perform(a_dispatch(load_memos=load_memos, memo_bytes=10))
    world.performer.deliver_result(J, Memo(StepId("nap"), "bare", b"null"), 1)
    await settle()
    assert worker.heard(frames.Resolve) == []
    read.set()
    await settle()
    kinds = [type(frame).__name__ for frame in worker.told]
    assert kinds.index("Call") < kinds.index("Resolve")


async def test_a_call_of_one_function_does_not_hold_up_another(world: World) -> None:
    world.performer.perform(a_dispatch(slug="shop-b"))
    worker = await world.worker("shop-a")
    world.performer.perform(a_dispatch(job=K))
    await settle()
    assert [call.call for call in worker.heard(frames.Call)] == [K]


async def test_a_waiting_call_can_be_stopped(world: World) -> None:
    world.performer.perform(a_dispatch())
    world.performer.stop(J, "cancelled")
    worker = await world.worker()
    assert worker.heard(frames.Call) == []


async def test_a_call_that_no_worker_takes_in_time_is_lost(world: World) -> None:
    world.performer.perform(a_dispatch(deadline=1))
    (lost,) = await world.mailbox.wait()
    assert isinstance(lost, message.CallLost)
    assert (lost.code, lost.free) == ("no_worker", False)
    assert "is one running?" in error_of(lost)


async def test_a_call_that_is_not_finished_in_time_is_lost_and_stopped(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch(deadline=1))
    (lost,) = await world.mailbox.wait()
    await settle()
    assert isinstance(lost, message.CallLost)
    assert lost.code == "deadline_passed"
    assert worker.heard(frames.Stop) == [frames.Stop(call=J, reason="stale")]


async def test_the_same_job_with_a_newer_fence_replaces_the_older_call(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.perform(a_dispatch(fence=4))
    await worker.says(frames.Returned(call=J, output=b"1"))
    assert [type(frame).__name__ for frame in worker.told] == ["Welcome", "Call", "Stop", "Call"]
    assert [fence for _, _, fence, _ in world.mailbox.messages] == [4]


# Leaving


async def test_a_lost_connection_loses_each_of_its_calls_and_they_are_tried_at_once(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.perform(a_dispatch(job=K))
    await worker.says(frames.Returned(call=K, output=b"1"))
    worker.connection.lost()
    worker.connection.lost()
    _, lost = world.messages
    assert isinstance(lost, message.CallLost)
    assert (lost.call, lost.at_once, lost.free, lost.code) == (J, True, False, "worker_lost")
    world.performer.perform(a_dispatch(job=JobId("L")))
    other = await world.worker(worker="w2")
    assert [call.call for call in other.heard(frames.Call)] == ["L"]


async def test_a_declined_call_costs_nothing_and_goes_elsewhere(world: World) -> None:
    first = await world.worker(worker="w1")
    world.performer.perform(a_dispatch())
    await first.says(frames.Declined(call=J, reason="draining"))
    (lost,) = world.messages
    assert isinstance(lost, message.CallLost)
    assert (lost.free, lost.code) == (True, "declined")
    second = await world.worker(worker="w2")
    world.performer.perform(a_dispatch(job=K))
    await settle()
    assert len(first.heard(frames.Call)) == 1
    assert len(second.heard(frames.Call)) == 1


async def test_a_worker_without_the_function_is_not_asked_for_it_again(world: World) -> None:
    worker = await world.worker("shop-a", "shop-b")
    world.performer.perform(a_dispatch())
    await worker.says(frames.Declined(call=J, reason="unknown function"))
    world.performer.perform(a_dispatch(job=K))
    world.performer.perform(a_dispatch(job=JobId("L"), slug="shop-b"))
    await settle()
    assert [call.call for call in worker.heard(frames.Call)] == [J, "L"]


async def test_a_worker_without_room_is_left_alone_for_a_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "DECLINED_PAUSE_S", 0.02)
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(frames.Declined(call=J, reason="capacity"))
    world.performer.perform(a_dispatch(job=K))
    await settle()
    assert len(worker.heard(frames.Call)) == 1
    await asyncio.sleep(0.06)
    assert [call.call for call in worker.heard(frames.Call)] == [J, K]


async def test_a_draining_worker_finishes_what_it_has(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(frames.Draining())
    world.performer.perform(a_dispatch(job=K))
    await worker.says(frames.Returned(call=J, output=b"1"))
    assert len(worker.heard(frames.Call)) == 1
    assert isinstance(world.messages[0], message.Returned)


async def test_a_process_that_connects_again_replaces_its_older_connection(world: World) -> None:
    first = await world.worker(instance="i")
    world.performer.perform(a_dispatch())
    second = await world.worker(instance="i", calls=(J,))
    assert first.closed == [(4000, "this process has connected again")]
    assert isinstance(world.messages[0], message.CallLost)
    assert second.told[1] == frames.Stop(call=J, reason="stale")
    assert len(world.performer.workers(a_dispatch().function.env, "shop")) == 1
    world.performer.perform(a_dispatch(job=K))
    await settle()
    assert [call.call for call in second.heard(frames.Call)] == [K]


async def test_when_the_server_goes_away_workers_are_told(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await world.performer.close()
    await settle()
    assert worker.heard(frames.Closing) == [frames.Closing(reason="the server goes away")]
    assert worker.closed == [(1001, "the server goes away")]
    worker.connection.lost()
    world.performer.perform(a_dispatch(job=K))
    assert world.messages == []


# Several frames in one message


async def test_what_is_posted_at_once_goes_out_in_one_message_in_order(world: World) -> None:
    worker = await world.worker(packs=True, concurrency=200)
    jobs = [JobId(f"j{number:03}") for number in range(frames.MAX_PACKED + 2)]
    for job in jobs:
        world.performer.perform(a_dispatch(job=job))
    await settle()
    assert worker.messages == [1, frames.MAX_PACKED, 2]  # Welcome comes alone
    assert [call.call for call in worker.heard(frames.Call)] == jobs


async def test_a_worker_that_takes_one_frame_at_a_time_gets_one(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.perform(a_dispatch(job=K))
    await settle()
    assert worker.messages == [1, 1, 1]


async def test_a_message_grows_no_further_than_its_limit(world: World) -> None:
    worker = await world.worker(packs=True)
    world.performer.perform(a_dispatch())
    await settle()
    for size_bytes in (10, frames.PACK_BYTES, 10, 10):
        world.performer.deliver_result(J, Memo(A, "data", b"1" * size_bytes), 1)
    await settle()
    assert worker.messages == [1, 1, 1, 1, 2]
    assert [len(one.memo.value) for one in worker.heard(frames.Resolve)] == [10, frames.PACK_BYTES, 10, 10]


async def test_a_worker_is_told_at_once_when_its_frames_are_written(world: World) -> None:
    worker = await world.worker(packs=True)
    worker.reading.clear()
    written: list[int] = []
    for number in range(3):
        frame = frames.Ended(call=JobId(f"j{number}"))
        worker.connection.post(frame, lambda number=number: written.append(number))  # type: ignore[misc]
    await settle()
    assert written == []
    worker.reading.set()
    await settle()
    assert (written, worker.messages) == ([0, 1, 2], [1, 3])


async def test_frames_of_one_message_are_taken_in_order(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says_at_once(
        frames.Report(call=J, number=1, ops=(StepDone(step=A, output=b"1"),)),
        frames.Report(call=J, number=2, ops=(StepDone(step=B, output=b"2"),)),
        frames.Returned(call=J, output=b"3"),
    )
    first, second, last = world.messages
    assert isinstance(first, message.Reported)
    assert isinstance(second, message.Reported)
    assert (first.number, second.number) == (1, 2)
    assert isinstance(last, message.Returned)


async def test_what_is_wrong_with_one_call_costs_no_other_in_the_same_message(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.perform(a_dispatch(job=K))
    await worker.says_at_once(frames.Returned(call=J, output=b"{"), frames.Returned(call=K, output=b"1"))
    assert [type(one) for one in world.messages] == [message.Raised, message.Returned]
    assert worker.closed == []


async def test_a_worker_that_is_closed_for_a_frame_is_not_heard_any_further(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    data = [b"nonsense", frames.encode(frames.Returned(call=J, output=b"1"))]
    await worker.connection.receive(frames.packed(data))
    await settle()
    assert [code for code, _ in worker.closed] == [1002]
    assert world.messages == []


_FRAME = frames.encode(frames.Draining())


@pytest.mark.parametrize(
    "data",
    [
        frames.packed([_FRAME] * (frames.MAX_PACKED + 1)),
        msgspec.msgpack.encode(["Pack", []]),
        msgspec.msgpack.encode(["Pack", 5]),
        frames.packed([_FRAME, _FRAME])[:-1],
        frames.packed([frames.packed([_FRAME, _FRAME]), _FRAME]),
    ],
    ids=["too many", "none", "a number", "cut off", "a pack in a pack"],
)
async def test_s9_a_message_that_is_no_message_closes_the_connection(data: bytes, world: World) -> None:
    worker = await world.worker()
    await worker.connection.receive(data)
    await settle()
    assert [code for code, _ in worker.closed] == [1002]


async def test_s9_each_frame_of_a_message_counts() -> None:
    async with a_world(limits=Limits(frames_per_second=100, burst_s=0.1)) as world:
        worker = await world.worker()
        world.performer.perform(a_dispatch())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await worker.says_at_once(*[frames.Running(call=J, step=A, name="x")] * 15)
        assert 0.04 < loop.time() - begun < 1


# S9: what a worker may not do


async def test_s9_a_call_of_another_worker_is_refused(world: World) -> None:
    await world.worker(worker="w1")
    world.performer.perform(a_dispatch())
    thief = await world.worker(worker="w2")
    await thief.says(frames.Returned(call=J, output=b'"stolen"'), frames.Report(call=J, number=1, ops=()))
    assert world.messages == []
    assert thief.heard(frames.Stop) == [frames.Stop(call=J, reason="stale")] * 2


async def test_s9_whoever_keeps_at_it_is_closed() -> None:
    async with a_world(limits=Limits(strays=3)) as world:
        worker = await world.worker()
        for _ in range(4):
            await worker.says(frames.Suspended(call=J, news=0))
        assert worker.closed == [(1008, "more than 3 frames in a minute about calls that are not this worker's")]


async def test_a_stray_now_and_then_closes_nothing() -> None:
    async with a_world(limits=Limits(strays=3)) as world:
        worker = await world.worker()
        for minute in range(1, 20):
            await worker.says(frames.Suspended(call=J, news=0))
            worker.connection._strays._at -= 60 * minute
        assert worker.closed == []


async def test_s9_a_frame_that_is_too_large_closes_the_connection() -> None:
    async with a_world(limits=Limits(frame_bytes=1000)) as world:
        worker = await world.worker()
        await worker.connection.receive(b"x" * 1001)
        await settle()
        assert worker.closed == [(1009, "a frame has 1001 bytes and may have 1000")]


async def test_s9_a_worker_that_sends_too_fast_is_slowed_down() -> None:
    async with a_world(limits=Limits(frames_per_second=100, burst_s=0.1)) as world:
        worker = await world.worker()
        world.performer.perform(a_dispatch())
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for _ in range(15):
            await worker.connection.receive(frames.encode(frames.Running(call=J, step=A, name="x")))
        assert 0.04 < loop.time() - begun < 1
        assert worker.closed == []


async def test_s9_a_worker_that_does_not_read_is_closed() -> None:
    async with a_world(limits=Limits(unwritten_bytes=10_000)) as world:
        worker = await world.worker()
        worker.reading.clear()
        world.performer.perform(a_dispatch())
        for _ in range(20):
            world.performer.deliver_result(J, Memo(A, "data", b"1" * 1000), 1)
        worker.reading.set()
        await settle()
        assert worker.closed == [(1008, "more than 10000 bytes wait to be read by the worker")]


@pytest.mark.parametrize(
    "op",
    [
        StepDone(step=A, output=b"{"),
        StepDone(step=A, output=b"\xff"),
        StepDone(step=A, output=b"[" * 50_000),
        StepDone(step=A, output=Blob("0" * 64, 5)),
        StepDone(step=A, input=Blob("0" * 64, 5)),
        StepErrored(step=A, error=Blob("0" * 64, 5)),
        Invoke(step=A, function="f", data=b"[]"),
        Invoke(step=A, function="f", user=Blob("0" * 64, 5)),
        Sleep(step=A, for_ms=-1),
        WaitForEvent(step=A, event="", for_ms=1),
        WaitForEvent(step=A, event="e" * 1000, for_ms=1),
        StepDone(step=StepId("x" * 256)),
        StepDone(step=A, index=-1),
        Completed(step=A, output=Blob("0" * 64, 5)),
    ],
)
async def test_s9_an_op_that_no_worker_may_send_reaches_the_engine_as_unknown(op: Op, world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(frames.Report(call=J, number=1, ops=(op,)))
    (reported,) = world.messages
    assert isinstance(reported, message.Reported)
    (unknown,) = reported.ops
    assert isinstance(unknown, Unknown)
    assert unknown.reason
    assert worker.closed == []


@pytest.mark.parametrize(
    "op",
    [
        Sleep(step=A, for_ms=400 * 86_400_000),
        Sleep(step=A, until=10**15),
        WaitForEvent(step=A, event="e", until=10**18),
    ],
)
async def test_a_wait_that_is_too_long_is_left_to_the_engine(op: Op, world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(frames.Report(call=J, number=1, ops=(op,)))
    assert world.messages == [message.Reported(J, (op,), 1)]
    assert worker.closed == []


@pytest.mark.parametrize(
    "op",
    [
        StepDone(step=A, started_at=1 << 60),
        StepDone(step=A, started_at=-1),
        StepDone(step=A, duration_ms=float("nan")),
        StepDone(step=A, duration_ms=float("inf")),
    ],
)
async def test_times_that_cannot_be_are_as_good_as_not_measured(op: Op, world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(frames.Report(call=J, number=1, ops=(op,)))
    assert world.messages == [message.Reported(J, (StepDone(step=A),), 1)]


async def test_a_long_name_is_cut(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.says(frames.Report(call=J, number=1, ops=(StepDone(step=A, name="x" * 1001),)))
    assert world.messages == [message.Reported(J, (StepDone(step=A, name="x" * 1000),), 1)]


BAD_FRAMES: list[tuple[bytes, str]] = [
    (frames.encode(frames.Returned(call=J, output=b"{")), "the function's result is"),
    (frames.encode(frames.Raised(call=J, error=b"\xff")), "the function's error is"),
    (frames.encode(frames.Report(call=J, number=1, ops=(StepDone(step=A),) * 1001)), "a report has 1001 ops"),
    (msgspec.msgpack.encode(["Report", J, 1, [["Teleport", A]]]), "the worker's Report cannot be read"),
    (msgspec.msgpack.encode(["Report", J, 1, [["Sleep", A, "x", 0, "400d"]]]), "the worker's Report cannot be read"),
    (msgspec.msgpack.encode(["Returned", J, 5]), "the worker's Returned cannot be read"),
    (msgspec.msgpack.encode(["Suspended", J]), "the worker's Suspended cannot be read"),
]


@pytest.mark.parametrize(("data", "text"), BAD_FRAMES, ids=[text for _, text in BAD_FRAMES])
async def test_a_frame_that_is_wrong_about_one_call_fails_its_run_and_no_other(
    data: bytes, text: str, world: World
) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.perform(a_dispatch(job=K))
    await worker.connection.receive(data)
    await worker.says(frames.Returned(call=K, output=b"1"))
    bad, good = world.messages
    assert isinstance(bad, message.Raised)
    assert (bad.call, bad.retry) == (J, False)
    assert text in error_of(bad)
    assert isinstance(good, message.Returned)
    assert worker.heard(frames.Stop) == [frames.Stop(call=J, reason="finished")]
    assert worker.closed == []


async def test_a_log_line_that_cannot_be_read_is_dropped(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    await worker.connection.receive(msgspec.msgpack.encode(["Log", J, "info", 5, 0]))
    await worker.says(frames.Log(call=J, level="info", text="later", at=1 << 60))
    ((*_, level, text, at, _step),) = world.logs
    assert (level, text) == ("info", "later")
    assert at < 1 << 50
    assert worker.closed == []


@pytest.mark.parametrize("data", [msgspec.msgpack.encode(one) for one in (["Dance", J], {"a": 1}, 5, ["Report", 5])])
async def test_a_frame_that_is_none_closes_the_connection(data: bytes, world: World) -> None:
    worker = await world.worker()
    await worker.connection.receive(data)
    await settle()
    assert worker.closed[0][0] == 1002


async def test_s9_a_wrong_frame_about_a_call_of_another_worker_is_a_stray(world: World) -> None:
    await world.worker(worker="w1")
    world.performer.perform(a_dispatch())
    thief = await world.worker(worker="w2")
    await thief.says(frames.Returned(call=J, output=b"{"))
    assert world.messages == []
    assert thief.heard(frames.Stop) == [frames.Stop(call=J, reason="stale")]


async def test_f76_a_result_above_its_limit_fails_the_run_and_names_it(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.perform(a_dispatch(job=K))
    await worker.says(
        frames.Report(call=J, number=1, ops=(StepDone(step=A, name="a", output=b'"' + b"x" * (4 << 20) + b'"'),)),
        frames.Returned(call=K, output=b'"' + b"x" * (8 << 20) + b'"'),
    )
    for one, limit in zip(world.messages, ("4 MiB", "8 MiB"), strict=True):
        assert isinstance(one, message.Raised)
        assert (one.retry, one.code) == (False, "output_too_large")
        assert f"may have {limit}" in error_of(one)
    assert worker.heard(frames.Stop) == [frames.Stop(call=job, reason="finished") for job in (J, K)]
    assert worker.closed == []


# F75: large results


async def test_f75_large_results_are_loaded_when_there_is_room() -> None:
    async with a_world(bytes_in_flight=1000) as world:
        worker = await world.worker(concurrency=10)
        worker.reading.clear()
        loading = 0

        async def load() -> tuple[Memo, ...]:
            nonlocal loading
            loading += 1
            return (Memo(A, "data", b"1"),)

        for number in range(4):
            world.performer.perform(a_dispatch(job=JobId(str(number)), memo_bytes=400, load_memos=load))
        await settle()
        assert loading == 2
        worker.reading.set()
        await settle()
        await settle()
        assert loading == 4
        assert [call.memos for call in worker.heard(frames.Call)] == [(Memo(A, "data", b"1"),)] * 4
        assert world.performer._budget.taken_bytes == 0


async def test_a_call_that_is_stopped_while_loading_gives_its_room_back(world: World) -> None:
    worker = await world.worker()
    started = asyncio.Event()

    async def load() -> tuple[Memo, ...]:
        started.set()
        await asyncio.sleep(10)
        return ()

    world.performer.perform(a_dispatch(memo_bytes=400, load_memos=load))
    await started.wait()
    world.performer.stop(J, "cancelled")
    await settle()
    assert world.performer._budget.taken_bytes == 0
    assert worker.heard(frames.Call) == []
    assert worker.connection.running == 0


async def test_results_that_cannot_be_loaded_lose_the_call(world: World, caplog: pytest.LogCaptureFixture) -> None:
    worker = await world.worker()

    async def load() -> tuple[Memo, ...]:
        raise OSError("disk")

    world.performer.perform(a_dispatch(memo_bytes=400, load_memos=load))
    (lost,) = await world.mailbox.wait()
    assert isinstance(lost, message.CallLost)
    assert "cannot be read: disk" in error_of(lost)
    assert (worker.connection.running, worker.connection.calls) == (0, {})


async def test_f76_a_state_that_no_frame_can_hold_fails_the_run(world: World) -> None:
    await world.worker()
    big = Memo(A, "data", b"x" * (1 << 20))
    world.performer.perform(a_dispatch(memos=(big,) * 65))
    (raised,) = await world.mailbox.wait()
    assert isinstance(raised, message.Raised)
    assert (raised.retry, raised.code) == (False, "state_too_large")


# many nodes


def routes(*slugs: str) -> tuple[str, ...]:
    return tuple(route_of(DEV_ENV, slug) for slug in slugs)


async def test_where_others_have_workers_too_no_call_waits_here() -> None:
    async with a_world(shared=True) as world:
        world.performer.perform(a_dispatch())
        (lost,) = world.messages
        assert isinstance(lost, message.CallLost)
        assert (lost.code, lost.free) == ("declined", True)
        assert "no worker of 'shop' has room at node n1" in error_of(lost)
        assert world.performer.in_flight == 0
        worker = await world.worker(concurrency=1)
        world.performer.perform(a_dispatch(job=K))
        world.performer.perform(a_dispatch(job=JobId("L")))
        await settle()
        assert [call.call for call in worker.heard(frames.Call)] == [K]
        assert len(world.messages) == 2


async def test_room_is_counted_by_function_and_told() -> None:
    told: list[tuple[str, str]] = []
    async with a_world(shared=True, on_room=lambda *service: told.append(service)) as world:
        assert list(world.performer.openings()) == []
        await world.worker("shop-a", "shop-b", concurrency=3)
        assert told == [(DEV_ENV, "shop")]
        second = await world.worker("shop-b", concurrency=1, worker="w2")
        assert world.performer.places(DEV_ENV, "shop", "shop-a") == 3
        assert world.performer.places(DEV_ENV, "shop", "shop-b") == 4
        assert world.performer.places(DEV_ENV, "shop", "shop-c") == 0
        for number in range(3):
            world.performer.perform(a_dispatch(job=JobId(f"a{number}"), slug="shop-a"))
        assert list(world.performer.openings()) == [Opening(DEV_ENV, "shop", 1, routes("shop-b"), routes("shop-a"))]
        world.performer.perform(a_dispatch(job=K, slug="shop-b"))
        await settle()
        assert list(world.performer.openings()) == [Opening(DEV_ENV, "shop", 0, (), routes("shop-a", "shop-b"))]
        told.clear()
        await second.says(frames.Returned(call=K, output=b"1"))
        assert told == [(DEV_ENV, "shop")]
        assert world.performer.places(DEV_ENV, "shop", "shop-b") == 1


async def test_a_server_that_drains_sends_workers_elsewhere_and_takes_what_they_finish(world: World) -> None:
    worker = await world.worker()
    world.performer.perform(a_dispatch())
    world.performer.drain()
    await settle()
    assert worker.heard(frames.Closing) == [frames.Closing(reason="the server goes away")]
    assert worker.closed == []
    late = await world.worker(worker="w2")
    assert (late.told, late.closed) == (
        [frames.Closing(reason="the server goes away")],
        [(1001, "the server goes away")],
    )
    assert world.performer.places(DEV_ENV, "shop", "shop-a") == 0
    await worker.says(frames.Returned(call=J, output=b"1"))
    assert isinstance(world.messages[0], message.Returned)
    assert world.performer.in_flight == 1, "not committed yet"
    world.performer.ended(J)
    assert world.performer.in_flight == 0
