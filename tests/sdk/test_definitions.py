"""What a service registers, and what is refused when it is written."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

import stepwell
from stepwell.model.op import Invoke
from stepwell.sdk.errors import DefinitionError
from stepwell.sdk.event import read_event
from stepwell.wire.inngest.register import read_functions
from tests.sdk.recorder import Server, an_event

Ctx = stepwell.Context[Any]


@dataclass
class Order:
    id: str


@dataclass
class Refund:
    amount: int


order_placed = stepwell.event("shop/order.placed", Order)


async def body(ctx: Ctx) -> None: ...


def config_of(**options: Any) -> dict[str, Any]:
    service = stepwell.Service("shop")
    service.function(**{"on": "a/b", **options})(body)
    return service.config("http://127.0.0.1:3000/api?x=1")[0]


def test_a_function_without_options_registers_little() -> None:
    assert config_of() == {
        "id": "shop-body",
        "name": "body",
        "triggers": [{"event": "a/b"}],
        "steps": {
            "step": {
                "id": "step",
                "name": "step",
                "runtime": {"type": "http", "url": "http://127.0.0.1:3000/api?x=1&fnId=shop-body&stepId=step"},
            }
        },
    }


def test_a_worker_registers_functions_on_its_own_connection() -> None:
    service = stepwell.Service("shop")
    service.function(on="a/b", id="größe & co")(body)
    runtime = service.config()[0]["steps"]["step"]["runtime"]
    assert runtime == {
        "type": "ws",
        "url": "ws://worker?fnId=shop-gr%C3%B6%C3%9Fe%20%26%20co&stepId=step",
    }


def test_every_option_has_its_form() -> None:
    config = config_of(
        id="import",
        name="Import a file",
        retries=0,
        concurrency=[stepwell.Concurrency(5), stepwell.Concurrency(1, key="event.data.user", scope="env")],
        throttle=stepwell.Throttle(1, "60s", key="event.data.user"),
        rate_limit=stepwell.RateLimit(10, timedelta(hours=1)),
        debounce=stepwell.Debounce("10s", timeout="1m"),
        batch=stepwell.Batch(10, "5s", condition="event.data.ok"),
        priority="event.data.priority",
        singleton=stepwell.Singleton("cancel", key="event.data.user"),
        idempotency="event.data.id",
        timeouts=stepwell.Timeouts(start="10s", finish="1h"),
        cancel_on=[
            order_placed.when("event.data.id == async.data.id"),
            stepwell.CancelOn("shop/gone", match="data.id", timeout="1d"),
            "shop/all",
        ],
    )
    assert config["id"] == "shop-import"
    assert config["name"] == "Import a file"
    assert config["steps"]["step"]["retries"] == {"attempts": 0}
    assert {key: value for key, value in config.items() if key not in ("id", "name", "steps", "triggers")} == {
        "concurrency": [{"limit": 5, "scope": "fn"}, {"limit": 1, "key": "event.data.user", "scope": "env"}],
        "throttle": {"limit": 1, "period": "1m", "burst": 1, "key": "event.data.user"},
        "rateLimit": {"limit": 10, "period": "1h"},
        "debounce": {"period": "10s", "timeout": "1m"},
        "batchEvents": {"maxSize": 10, "timeout": "5s", "if": "event.data.ok"},
        "priority": {"run": "event.data.priority"},
        "singleton": {"key": "event.data.user", "mode": "cancel"},
        "idempotency": "event.data.id",
        "timeouts": {"start": "10s", "finish": "1h"},
        "cancel": [
            {"event": "shop/order.placed", "if": "event.data.id == async.data.id"},
            {"event": "shop/gone", "timeout": "1d", "if": "event.data.id == async.data.id"},
            {"event": "shop/all"},
        ],
    }
    assert config_of(concurrency=3)["concurrency"] == 3
    assert config_of(concurrency=[stepwell.Concurrency(1, runs=True), stepwell.Concurrency(4)])["concurrency"] == {
        "fn": [{"limit": 1, "scope": "fn"}],
        "step": [{"limit": 4, "scope": "fn"}],
    }


def test_triggers_are_joined_and_keep_their_conditions() -> None:
    on = order_placed.when("event.data.amount > 10") | stepwell.cron("0 9 * * 1-5", tz="Europe/Berlin", jitter="30s")
    assert config_of(on=on)["triggers"] == [
        {"event": "shop/order.placed", "expression": "event.data.amount > 10"},
        {"cron": "TZ=Europe/Berlin 0 9 * * 1-5", "jitter": "30s"},
    ]
    assert config_of(on=["a/b", order_placed])["triggers"] == [{"event": "a/b"}, {"event": "shop/order.placed"}]


def test_on_failure_is_a_function_of_its_own() -> None:
    service = stepwell.Service("it's")

    async def told(ctx: stepwell.Context[stepwell.Failure]) -> None: ...

    service.function(on="a/b", id="import", on_failure=told)(body)
    parent, failure = service.config()
    assert failure["id"] == "it's-import-failure"
    assert failure["triggers"] == [
        {"event": "inngest/function.failed", "expression": "event.data.function_id == 'it\\'s-import'"}
    ]
    assert failure["steps"]["step"]["retries"] == {"attempts": 0}
    assert "retries" not in parent["steps"]["step"]
    made = service.find("it's-import-failure")
    assert made is not None
    event = read_event(
        an_event(
            "inngest/function.failed",
            function_id="it's-import",
            run_id="r",
            error={"error": "invalid status code: 500", "name": "ValueError", "message": "bad", "stack": None},
            event={"name": "a/b"},
            _inngest={"status": "Failed"},
        ),
        made.triggers,
    )
    assert (event.data.error.name, event.data.error.message, event.data.event) == ("ValueError", "bad", {"name": "a/b"})


def test_the_server_reads_what_we_register() -> None:
    service = stepwell.Service("shop")
    service.function(on=order_placed, retries=3, cancel_on=stepwell.CancelOn("a/c", match="data.id"))(body)
    from stepwell.model.function import Transport

    functions, _ = read_functions(service.config(), service="shop", env="test", transport=Transport.SOCKET)
    assert [(one.slug, one.retries, len(one.cancel_on)) for one in functions] == [("shop-body", 3, 1)]


def a_generator(ctx: Ctx) -> Any:
    yield 1


async def sync_context(ctx: stepwell.SyncContext[Any]) -> None: ...


def async_context(ctx: stepwell.Context[Any]) -> None: ...


async def two_arguments(ctx: Ctx, more: int) -> None: ...


async def no_argument() -> None: ...


def only_named(*, ctx: stepwell.SyncContext[Any]) -> None: ...


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (no_argument, r"no_argument takes no argument; .* `ctx: stepwell.Context\["),
        (only_named, r"only_named takes no argument; .* `ctx: stepwell.SyncContext\["),
        (a_generator, "yields"),
        (sync_context, r"write `ctx: stepwell.Context"),
        (async_context, r"write `async def`"),
        (two_arguments, "takes one, the context"),
        (lambda ctx: None, "needs `id=`"),
    ],
)
def test_a_callable_that_cannot_work_is_refused_where_it_is_written(handler: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        stepwell.Service("shop").function(on="a/b")(handler)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retries": 21}, "between 0 and 20"),
        ({"retrys": 2}, r"has no option retrys=; did you mean retries=\? There are on, id, name, retries, concurrency"),
        ({"zzz": 2}, "has no option zzz=; there are on, id, .*on_failure"),
        ({"id": ""}, "a function needs an id"),
        ({"id": 5}, "a function needs an id that is a text"),
        ({"id": "shop/body"}, "a function cannot have the id 'shop/body'.*slashes"),
        ({"id": " body"}, "a function cannot have the id ' body': spaces"),
        ({"id": "bo\ndy"}, "control characters"),
        ({"cancel_on": stepwell.CancelOn("a", match="data.id", condition="true")}, "not both"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        config_of(**options)


@pytest.mark.parametrize("options", [{}, {"on": []}])
async def test_a_function_that_nothing_starts_can_be_invoked(options: dict[str, Any]) -> None:
    service = stepwell.Service("shop")

    @service.function(id="helper", **options)
    async def helper(ctx: Ctx) -> Any:
        return ctx.event.data

    assert service.config()[0]["triggers"] == []
    recorded = await Server(
        helper, events=(an_event("inngest/function.invoked", n=1, _inngest={"fn_id": "x"}),)
    ).run_live()
    assert recorded.output == {"n": 1}

    async def calls(ctx: Ctx) -> Any:
        return await ctx.step.invoke("help", helper, data={"n": 1})

    recorded = await Server(service.function(on="test/started")(calls), answers={"help": {"n": 1}}).run_live()
    assert recorded.output == {"n": 1}
    assert [op.data for op in recorded.ops if isinstance(op, Invoke)] == [b'{"n":1}']


@pytest.mark.parametrize("id", ["", " shop", "shop/eu", "shop\t1"])
def test_a_service_has_an_id_that_can_be_told_from_others(id: str) -> None:
    with pytest.raises(DefinitionError, match="a service "):
        stepwell.Service(id)


def test_two_functions_cannot_share_an_id() -> None:
    service = stepwell.Service("shop")
    service.function(on="a/b")(body)
    with pytest.raises(DefinitionError, match="two functions with the id 'body'"):
        service.function(on="a/b")(body)


def test_a_schedule_and_its_event() -> None:
    with pytest.raises(DefinitionError, match="write five fields"):
        stepwell.cron("every day")
    with pytest.raises(DefinitionError, match='as an argument, such as tz="Europe/Berlin"'):
        stepwell.cron("TZ=Europe/Berlin 0 9 * * *")
    assert config_of(on=stepwell.cron("@every 10s"))["triggers"] == [{"cron": "@every 10s"}]
    trigger = order_placed | stepwell.cron("@daily")
    tick = read_event(an_event("inngest/scheduled.timer", cron="@daily"), trigger.members())
    order = read_event(an_event("shop/order.placed", id="o"), trigger.members())
    assert (tick.data, order.data) == (None, Order("o"))
    assert order_placed.is_(order)
    assert not order_placed.is_(tick)


def test_an_invocation_is_read_by_the_event_type_that_it_fits() -> None:
    refunded = stepwell.event("shop/refunded", Refund)
    kinds = (order_placed | refunded).members()
    order = read_event(an_event("inngest/function.invoked", id="o", _inngest={"fn_id": "x"}), kinds)
    refund = read_event(an_event("inngest/function.invoked", amount=5), kinds)
    assert (order.data, refund.data) == (Order("o"), Refund(5))
    assert [order_placed.is_(order), refunded.is_(order), refunded.is_(refund)] == [True, False, True]
    with pytest.raises(stepwell.EventNotValid):
        read_event(an_event("inngest/function.invoked", other=5), kinds)


def test_only_a_function_that_invocations_trigger_is_told_which_function_was_invoked() -> None:
    invoked = an_event("inngest/function.invoked", id="o", _inngest={"fn_id": "shop-fulfil"})
    any_data = (stepwell.event("shop/order.placed", Any),)
    watching = (stepwell.event("inngest/function.invoked", Any),)

    assert read_event(invoked, any_data).data == {"id": "o"}
    assert read_event(invoked, watching).data == {"id": "o", "_inngest": {"fn_id": "shop-fulfil"}}


async def test_a_function_of_two_kinds_of_events_is_invoked_with_either() -> None:
    service = stepwell.Service("shop")
    refunded = stepwell.event("shop/refunded", Refund)

    async def either(ctx: stepwell.Context[Order | Refund]) -> int:
        return 1

    made = service.function(on=order_placed | refunded)(either)

    async def calls(ctx: Ctx) -> None:
        await asyncio.gather(
            ctx.step.invoke("order", made, data=Order("o")), ctx.step.invoke("refund", made, data=Refund(5))
        )

    recorded = await Server(service.function(on="test/started")(calls), answers={"order": 1, "refund": 1}).run_live()
    assert [op.data for op in recorded.ops if isinstance(op, Invoke)] == [b'{"id":"o"}', b'{"amount":5}']


def test_events_are_sent_as_they_were_declared() -> None:
    event = order_placed(Order("o"), id="e", user={"id": "u"}, v="2")
    assert event.body() == {"name": "shop/order.placed", "data": {"id": "o"}, "id": "e", "user": {"id": "u"}, "v": "2"}
    with pytest.raises(stepwell.EventNotValid, match="must be an object"):
        stepwell.event("a/b", int)(1).body()


def test_a_step_declaration_that_cannot_work_is_refused() -> None:
    with pytest.raises(DefinitionError, match="yields"):
        stepwell.step(a_generator)
    with pytest.raises(DefinitionError, match="cannot be interrupted"):
        stepwell.step(timeout="1s")(lambda: None)


def test_importing_stepwell_loads_nothing_until_it_is_used() -> None:
    program = (
        "import sys, stepwell\n"
        "assert not [name for name in sys.modules if name.startswith('stepwell.')], 'not lazy'\n"
        "stepwell.Service, stepwell.Context, stepwell.step, stepwell.event\n"
        "import stepwell.sdk.live, stepwell.sdk.replay, stepwell.sdk.worker\n"
        "heavy = {'pydantic', 'httpx2', 'websockets', 'starlette', 'uvicorn', 'aiohttp', 'stepwell.engine',"
        " 'stepwell.store', 'stepwell.node', 'stepwell.api', 'stepwell.workers'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (found.stdout, found.returncode) == ("[]\n", 0), found.stderr


def test_every_public_name_is_there() -> None:
    from stepwell import _HOMES

    for name in _HOMES:
        assert name == "__version__" or getattr(stepwell, name).__name__ == name
    assert set(_HOMES) <= set(dir(stepwell))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        stepwell.nothing
