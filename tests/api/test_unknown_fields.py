"""Fields that no reference knows, and numbers that had to be rounded: accepted, and told where people look."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.api import Api, until
from tests.api.scripted import Answer, Scripted, done, ops, returned
from tests.api.test_checkpoint import checkpoint, open_call


async def test_an_unknown_field_of_an_op_is_told_in_the_trace_once_in_a_run(api: Api, shop: Scripted) -> None:
    def answer(call: dict[str, Any]) -> Answer:
        count = len(call["steps"])
        return returned(count) if count == 3 else ops({**done(f"s{count}", count), "colour": count})

    shop.answers["odd"] = answer
    await shop.register()
    run = await api.finished(await api.send("shop/odd"))
    assert (run["status"], run["output"]) == ("Completed", 3)

    shown = await api.get(f"/api/runs/{run['run_id']}")
    (note,) = shown["notes"]
    assert note["kind"] == "warning"
    assert note["text"] == "the field 'colour' of the op StepRun is unknown to this server and has no effect: 0"
    lines = (await api.get(f"/api/runs/{run['run_id']}/lines"))["lines"]
    assert "colour" in json.dumps(lines)


async def test_an_unknown_field_of_a_checkpoint_is_told_too(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, returned(3)) as context:
        for n in range(2):
            assert (await checkpoint(api, context, {**done(f"s{n}", n), "colour": n})).status_code == 200
    run = context["run_id"]
    await api.ended(run)
    (note,) = (await api.get(f"/api/runs/{run}"))["notes"]
    text = "the field 'colour' of the op StepRun is unknown to this server and has no effect: "
    assert note["text"] in (f"{text}0", f"{text}1"), "of two servers, either may be the first to tell"


async def test_a_run_without_unknown_fields_has_no_notes(api: Api, shop: Scripted) -> None:
    shop.answers["plain"] = lambda call: returned(1) if call["steps"] else ops(done("s", 1))
    await shop.register()
    run = await api.finished(await api.send("shop/plain"))
    assert (await api.get(f"/api/runs/{run['run_id']}"))["notes"] == []


async def test_the_sessions_of_an_event_reach_the_function_and_are_shown(api: Api, shop: Scripted) -> None:
    shop.answers["kept"] = lambda call: returned(None)
    await shop.register()
    event = await api.send("shop/kept", meta={"sessions": {"chat": "c1"}, "propagated_sessions": {"user": "u1"}})
    await api.finished(event)
    sessions = {"sessions": {"chat": "c1", "user": "u1"}}
    assert shop.calls[0]["event"]["meta"] == sessions
    assert (await api.get(f"/v1/events/{event}"))["data"]["meta"] == sessions


async def test_unknown_fields_of_an_invocation_reach_the_function_and_are_logged_once(
    api: Api, shop: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    shop.answers["kept"] = lambda call: returned(None)
    await shop.register()
    for path in ("/invoke/shop-kept", "/api/functions/shop-kept/invoke"):
        sent = {"data": {"n": 1}, "zzz": {"n": 2}, "meta": {"sessions": {"chat": "c1"}}}
        response = await api.first.http.post(path, json=sent)
        assert response.status_code in {200, 201}, response.text
    await until(lambda: _calls(shop, 2))
    for call in shop.calls:
        event = call["event"]
        assert (event["zzz"], event["meta"]) == ({"n": 2}, {"sessions": {"chat": "c1"}})
        assert event["data"]["n"] == 1
    (told,) = [line for line in caplog.messages if "unknown field" in line]
    assert told.startswith("event 'inngest/function.invoked of shop-kept' has an unknown field 'zzz'; functions see it")


LARGE = 9007199254740993
ROUNDED = (
    "has the integer 9007199254740993, which became 9007199254740992: JSON that is signed has numbers of 64-bit "
    "floating point, exact up to 2**53; give it as text"
)


async def test_a_rounded_integer_is_told_once_for_each_step_and_for_the_result(api: Api, shop: Scripted) -> None:
    def answer(call: dict[str, Any]) -> Answer:
        count = len(call["steps"])
        if count == 3:
            return returned({"id": LARGE})
        return ops(done(f"s{count}", {"ids": [LARGE if count < 2 else LARGE - 1]}))

    shop.answers["big"] = answer
    await shop.register()
    run = await api.finished(await api.send("shop/big"))
    assert run["output"] == {"id": LARGE - 1}
    assert [note["text"] for note in (await api.get(f"/api/runs/{run['run_id']}"))["notes"]] == [
        f"the op StepRun of step 's0' {ROUNDED}",
        f"the op StepRun of step 's1' {ROUNDED}",
        f"what the function returned {ROUNDED}",
    ]


async def test_a_rounded_integer_in_a_checkpoint_is_told_however_often_it_is_sent(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, returned(3)) as context:
        for _ in range(2):
            assert (await checkpoint(api, context, done("s", LARGE))).status_code == 200
    run = context["run_id"]
    await api.ended(run)
    assert [note["text"] for note in (await api.get(f"/api/runs/{run}"))["notes"]] == [
        f"the op StepRun of step 's' {ROUNDED}"
    ]


async def test_a_rounded_integer_of_events_and_of_invocations_is_logged_once_for_each_name(
    api: Api, shop: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    shop.answers["big"] = lambda call: returned(None)
    await shop.register()
    for _ in range(2):
        await api.first.send("shop/big", {"id": LARGE})
        await api.first.send("shop/small", {"id": LARGE - 1})
        response = await api.first.http.post("/invoke/shop-big", json={"data": {"id": -LARGE}})
        assert response.status_code == 200
    invoked = ROUNDED.replace("9007", "-9007")
    assert [line for line in caplog.messages if "integer" in line] == [
        f"event 'shop/big' {ROUNDED}",
        f"event 'inngest/function.invoked of shop-big' {invoked}",
    ]


async def _calls(shop: Scripted, count: int) -> bool | None:
    return len(shop.calls) == count or None
