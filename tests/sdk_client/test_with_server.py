"""The clients and a served service with the real server between them, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import uvicorn

import stepwell
from stepwell.server import Server, ServerSettings

pytestmark = pytest.mark.slow

KEY = "signkey-test-0123456789abcdef0123456789abcdef"


@dataclass
class Order:
    id: str
    amount: int = 1


@dataclass
class Receipt:
    order: str
    total: int


service = stepwell.Service("shop")
order_placed = stepwell.event("shop/order.placed", Order)
ready = threading.Event()
told: list[dict[str, Any]] = []


async def price(amount: int) -> int:
    return amount * 10


@service.function(on=order_placed, retries=0)
async def buy(ctx: stepwell.Context[Order]) -> Receipt:
    order = ctx.event.data
    prices = await asyncio.gather(*(ctx.step.run(f"price-{n}", price, n) for n in range(3)))
    await ctx.step.sleep("pause", timedelta(milliseconds=20))
    total = await ctx.step.run("total", sum, [*prices, order.amount])
    return Receipt(order.id, total)


@service.function(on="shop/raced", retries=0)
async def race(ctx: stepwell.Context[Any]) -> str:
    async def slowly() -> str:
        await asyncio.sleep(4)
        return "slow"

    async def quickly() -> str:
        return "quick"

    tasks = [asyncio.ensure_future(ctx.step.run(f.__name__, f)) for f in (slowly, quickly)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return str(await ctx.step.run("winner", lambda: sorted(task.result() for task in done)[0]))


@service.function(on="shop/broken", retries=0)
def broken(ctx: stepwell.SyncContext[Any]) -> None:
    def charge() -> None:
        raise ValueError("no such card")

    ctx.step.run("charge", charge)


@service.function(on="shop/patient", retries=0)
async def patient(ctx: stepwell.Context[Any]) -> None:
    await ctx.step.sleep("for ever", "30d")


@service.function(on="inngest/function.cancelled", retries=0)
async def cleanup(ctx: stepwell.Context[Any]) -> None:
    async def tell() -> None:
        told.append(ctx.event.data)

    await ctx.step.run("tell", tell)


@service.function(on="shop/relayed", retries=0)
async def relay(ctx: stepwell.Context[Any]) -> list[str]:
    return await ctx.step.send_event("pass on", order_placed(Order("relayed")))


@contextmanager
def running_server(**settings: Any) -> Iterator[str]:
    """A server in memory, on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = Server(ServerSettings(port=0, data=None, discovery=False, poll=False, **settings))
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(20)
    try:
        yield server.url
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@contextmanager
def served(url: str, **options: Any) -> Iterator[str]:
    """The service under uvicorn, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = service.asgi(url=url, **options)
        web = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/inngest"
        finally:
            web.should_exit = True
            thread.join(5)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(retry_interval_ms=10) as url, served(url, dev=True) as endpoint:
        answer = httpx2.put(endpoint, trust_env=False)
        assert answer.status_code == 200, answer.text
        yield url


@pytest.fixture
def client(url: str) -> Iterator[stepwell.Client]:
    with stepwell.Client(url) as client:
        yield client


def test_a_function_is_started_and_its_result_comes_back_typed(client: stepwell.Client) -> None:
    run = client.start(buy, Order("o1", amount=5))
    assert run.result(timeout="20s") == Receipt("o1", 35)
    assert run.status() is stepwell.RunStatus.COMPLETED
    assert client.run(run.id, function=buy).result() == Receipt("o1", 35)


def test_a_run_is_made_again_with_other_data_and_with_its_type(client: stepwell.Client) -> None:
    old = client.start(buy, Order("o1", amount=5))
    assert old.result(timeout="20s") == Receipt("o1", 35)
    assert client.rerun(old, set={"amount": 6}).result(timeout="20s") == Receipt("o1", 36)
    assert client.rerun(old.id, from_step="total").result(timeout="20s") == {"order": "o1", "total": 35}


async def test_the_async_client_makes_a_run_again(url: str) -> None:
    async with stepwell.AsyncClient(url) as client:
        old = await client.start(buy, Order("o1", amount=5))
        await old.result(timeout="20s")
        new = await client.rerun(old, input=Order("o2", amount=7))
        assert await new.result(timeout="20s") == Receipt("o2", 37)


def test_a_stream_tells_of_every_step(client: stepwell.Client) -> None:
    run = client.start(buy, Order("o2"))
    updates = list(run.stream())
    done = [update.step or "?" for update in updates if update.kind == "step" and update.status == "COMPLETED"]
    assert sorted(done) == ["pause", "price-0", "price-1", "price-2", "total"]
    assert [update.status for update in updates if update.kind == "run"] == ["QUEUED", "COMPLETED"]
    again = [(update.kind, update.status, update.step) for update in client.run(run.id).stream()]
    assert again == [(update.kind, update.status, update.step) for update in updates]


async def test_the_async_client_does_the_same(url: str) -> None:
    async with stepwell.AsyncClient(url) as client:
        runs = await asyncio.gather(*(client.start(buy, Order(f"a{n}", amount=n)) for n in range(5)))
        results = await asyncio.gather(*(run.result(timeout="20s") for run in runs))
        assert results == [Receipt(f"a{n}", 30 + n) for n in range(5)]
        assert [update.status async for update in runs[0].stream() if update.kind == "run"] == ["QUEUED", "COMPLETED"]


def test_an_event_that_is_sent_has_runs_with_results(client: stepwell.Client) -> None:
    sent = client.send(order_placed(Order("o3", amount=7), id="order-o3"))
    (run,) = client.runs(event=sent.ids[0])
    assert run.result(timeout="20s") == {"order": "o3", "total": 37}
    (event,) = [one for one in client.events("shop/order.placed", limit=50) if one.id == sent.ids[0]]
    assert (event.sender_id, event.data) == ("order-o3", {"id": "o3", "amount": 7})
    assert run.id in [one.id for one in client.runs(function=buy, status="completed", limit=50)]


def test_the_first_of_two_steps_wins_without_waiting_for_the_other(client: stepwell.Client) -> None:
    began = time.monotonic()
    assert client.start(race, {}).result(timeout="20s") == "quick"
    assert time.monotonic() - began < 3.9


def test_a_failure_names_the_step(client: stepwell.Client) -> None:
    with pytest.raises(stepwell.RunFailed) as caught:
        client.start(broken, {}).result(timeout="20s")
    assert (caught.value.step, caught.value.name, caught.value.message) == ("charge", "ValueError", "no such card")
    assert caught.value.function == "shop-broken"


def test_a_cancelled_run_is_cleaned_up_after_with_its_event_in_hand(client: stepwell.Client) -> None:
    run = client.start(patient, {"n": 4})
    for update in run.stream():
        if update.status == "SLEEPING":
            run.cancel()
    with pytest.raises(stepwell.RunCancelled):
        run.result(timeout="5s")
    deadline = time.monotonic() + 10
    while not any(one["run_id"] == run.id for one in told) and time.monotonic() < deadline:
        time.sleep(0.02)
    (about,) = [one for one in told if one["run_id"] == run.id]
    assert about["function_id"] == "shop-patient"
    assert about["event"]["data"]["n"] == 4


def test_an_event_of_the_future_starts_its_run_then_and_can_be_cancelled_before(client: stepwell.Client) -> None:
    sent = client.send(order_placed(Order("later"), ts=datetime.now(UTC) + timedelta(days=3)))
    (run,) = client.runs(event=sent.ids[0])
    assert run.status() is stepwell.RunStatus.QUEUED
    with pytest.raises(stepwell.ResultTimeout):
        run.result(timeout="100ms")
    run.cancel()
    assert run.status() is stepwell.RunStatus.CANCELLED


def test_events_are_sent_from_a_step(client: stepwell.Client) -> None:
    (sent,) = client.start(relay, {}).result(timeout="20s")
    (run,) = client.runs(event=sent)
    assert run.result(timeout="20s") == {"order": "relayed", "total": 31}


def test_a_bad_event_among_good_ones_is_named_and_the_good_ones_run(client: stepwell.Client) -> None:
    good = order_placed(Order("good"))
    with pytest.raises(stepwell.EventsRefused, match="empty") as caught:
        client.send([good, {"name": ""}, good])
    (run,) = client.runs(event=caught.value.ids[0])
    assert run.result(timeout="20s") == {"order": "good", "total": 31}


def test_a_run_or_function_that_is_not_there_is_reported(client: stepwell.Client) -> None:
    from stepwell.model.errors import NotFound

    with pytest.raises(NotFound, match="shop-buy"):
        client.start("shop/nothing")
    with pytest.raises(NotFound):
        client.run("01JZ0000000000000000000001").result(timeout="5s")


def test_with_keys_everything_is_signed_and_strangers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.model.errors import Unauthorized

    keys = {"dev": False, "signing_key": KEY, "event_keys": ("sender-key",)}
    with running_server(**keys) as url, served(url, signing_key=KEY, dev=False) as endpoint:
        unsigned = httpx2.put(endpoint, trust_env=False)
        assert unsigned.status_code == 401
        with served(url, signing_key=KEY, dev=False, serve_origin=endpoint.removesuffix("/api/inngest")) as other:
            assert httpx2.put(other, trust_env=False).status_code == 200
        with stepwell.Client(url, api_key=KEY, event_key="sender-key") as client:
            assert client.start(buy, Order("signed")).result(timeout="20s") == Receipt("signed", 31)
            assert len(client.send(order_placed(Order("signed"))).ids) == 1
        with stepwell.Client(url, api_key=KEY, event_key="stranger-key") as client, pytest.raises(Unauthorized):
            client.send(order_placed(Order("x")))
        with stepwell.Client(url) as client, pytest.raises(Unauthorized, match="STEPWELL_API_KEY"):
            client.start(buy, Order("x"))
