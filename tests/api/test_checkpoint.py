"""Checkpoints over HTTP: recorded when answered, refused in words that tell an SDK what to do."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.api import Api, until
from tests.api.conftest import Start
from tests.api.scripted import Answer, Scripted, done, ops, returned, scripted, sleep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2


@asynccontextmanager
async def open_call(api: Api, shop: Scripted, answer: Answer) -> AsyncIterator[dict[str, Any]]:
    """The context of a call that is open inside the block, and answered after it."""
    shop.answers["f"] = lambda call: answer
    await shop.register()
    shop.hold = asyncio.Event()
    await api.send("shop/f")

    async def look() -> dict[str, Any] | None:
        return shop.calls[-1]["ctx"] if shop.calls else None

    try:
        yield await until(look)
    finally:
        shop.hold.set()


async def checkpoint(api: Api, context: dict[str, Any], *steps: dict[str, Any], **changed: Any) -> httpx2.Response:
    body = {name: context[name] for name in ("run_id", "fn_id", "qi_id", "generation_id")}
    prefix = changed.pop("prefix", "/v1/checkpoint")
    run = changed.get("run_id", context["run_id"])
    return await api.http.post(f"{prefix}/{run}/async", json={**body, "steps": steps, **changed})


async def steps_of(api: Api, run: str) -> list[tuple[str, str, int]]:
    trace = (await api.get(f"/api/runs/{run}"))["trace"]
    return [(one["name"], one["status"], one["attempts"]) for one in trace["children"] if one["name"] != "Finalization"]


async def test_steps_are_recorded_while_the_call_is_open(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, returned(3)) as context:
        for prefix, step in (("/v1/checkpoint", "a"), ("/v1/http/runs", "b")):
            response = await checkpoint(api, context, done(step, 1), prefix=prefix)
            assert (response.status_code, response.json()) == (200, {})
        run = context["run_id"]
        assert await steps_of(api, run) == [("a", "COMPLETED", 1), ("b", "COMPLETED", 1)]
        assert (await api.get(f"/v1/runs/{run}"))["data"]["status"] == "Running"
        response = await checkpoint(api, context, done("a", 2), done("c", 3))
        assert response.status_code == 200
    assert (await api.ended(run))["output"] == 3
    assert len(shop.calls) == 1
    assert [name for name, _, _ in await steps_of(api, run)] == ["a", "b", "c"]
    assert (await api.http.get(f"/v0/runs/{run}/actions")).status_code == 410


async def test_a_step_reported_and_answered_is_there_once_and_keeps_its_first_result(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, ops(done("a", "late"), sleep("nap", "1h"))) as context:
        assert (await checkpoint(api, context, done("a", "first"))).status_code == 200
    run = context["run_id"]
    await api.waiting(run, "nap")
    assert [name for name, _, _ in await steps_of(api, run)] == ["a", "nap"]
    state = await api.get(f"/v0/runs/{run}/actions")
    assert state["a"] == {"data": "first"}


async def test_a_call_that_was_made_again_may_report_and_the_one_before_it_may_not(api: Api, shop: Scripted) -> None:
    answers = iter([(504, {}, {"from": "a proxy"}), returned("done")])
    shop.answers["f"] = lambda call: next(answers)
    shop.hold = asyncio.Event()
    await shop.register()
    await api.send("shop/f")

    async def calls(count: int) -> bool | None:
        return len(shop.calls) == count or None

    await until(lambda: calls(1))
    zombie = shop.calls[0]["ctx"]
    assert (await checkpoint(api, zombie, done("a", 1))).status_code == 200
    hold, shop.hold = shop.hold, asyncio.Event()
    hold.set()
    await until(lambda: calls(2))
    again = shop.calls[1]
    response = await checkpoint(api, zombie, done("b", "of the zombie"))
    assert response.status_code == 409
    assert "stop running the function" in response.json()["error"]
    assert (again["ctx"]["attempt"], list(again["steps"])) == (1, ["a"])
    assert (await checkpoint(api, again["ctx"], done("b", "of the call"))).status_code == 200
    state = await api.get(f"/v0/runs/{zombie['run_id']}/actions")
    assert state["b"] == {"data": "of the call"}
    shop.hold.set()
    assert (await api.ended(zombie["run_id"]))["output"] == "done"


async def test_another_dispatch_of_the_same_call_is_stale_even_if_it_says_nothing_new(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, returned(1)) as context:
        assert (await checkpoint(api, context, done("a", 1))).status_code == 200
        for generation in (0, 2, 7):
            response = await checkpoint(api, context, done("a", 1), generation_id=generation)
            assert response.status_code == 409
        assert (await checkpoint(api, context, done("a", 1))).status_code == 200
    assert (await api.ended(context["run_id"]))["output"] == 1


async def test_a_report_in_the_name_of_another_run_s_call_harms_neither(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, returned(1)) as context:
        await api.send("shop/f")

        async def both() -> list[dict[str, Any]] | None:
            return [call["ctx"] for call in shop.calls] if len(shop.calls) == 2 else None

        first, second = await until(both)
        response = await checkpoint(api, first, done("a", 1), qi_id=second["qi_id"])
        assert response.status_code == 409
    for one in (first, second):
        assert (await api.ended(one["run_id"]))["output"] == 1
    assert context in (first, second)


async def test_a_cancelled_run_tells_the_sdk_to_stop(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, returned(1)) as context:
        run = context["run_id"]
        assert (await checkpoint(api, context, done("a", 1))).status_code == 200
        assert (await api.http.delete(f"/v1/runs/{run}")).status_code == 200
        response = await checkpoint(api, context, done("b", 1))
        assert response.status_code == 409
    assert (await api.ended(run))["status"] == "Cancelled"
    assert await steps_of(api, run) == [("a", "COMPLETED", 1)]


async def test_what_is_refused_leaves_nothing_behind(plain: Api, stack: Any) -> None:
    shop = await stack.enter_async_context(scripted("shop", plain.server.url))
    async with open_call(plain, shop, returned(1)) as context:
        refused = [
            (400, await checkpoint(plain, context, done("a", 1), sleep("nap", "1s"))),
            (400, await checkpoint(plain, context, done("a", 1), qi_id=None)),
            (404, await checkpoint(plain, context, done("a", 1), run_id="01JQDAE4RQF8MBCR55T5AK4KXS")),
            (413, await checkpoint(plain, context, done("b", 1), done("a", "x" * 4 * 1024 * 1024))),
            (413, await checkpoint(plain, context, done("a", "x" * 17 * 1024 * 1024))),
            (400, await plain.http.post("/v1/checkpoint/nonsense/async", json={})),
        ]
        assert [response.status_code for _, response in refused] == [status for status, _ in refused]
        assert "the op Sleep of step 'nap'" in refused[0][1].json()["error"]
        assert await steps_of(plain, context["run_id"]) == []
    assert (await plain.ended(context["run_id"]))["output"] == 1


async def test_too_many_steps_fail_the_run_and_say_413(plain: Api, stack: Any) -> None:
    shop = await stack.enter_async_context(scripted("shop", plain.server.url))
    async with open_call(plain, shop, returned(1)) as context:
        many = [done(f"s{n}", n) for n in range(1000)]
        assert (await checkpoint(plain, context, *many)).status_code == 200
        assert (await checkpoint(plain, context, done("one more", 1))).status_code == 413
        assert (await checkpoint(plain, context, done("one more", 1))).status_code == 409
    run = await plain.ended(context["run_id"])
    assert run["status"] == "Failed"
    assert run["output"]["name"] == "InngestErrFunctionOverflowed"


async def test_a_step_that_fails_after_a_checkpoint_is_retried_with_what_is_recorded(api: Api, shop: Scripted) -> None:
    error = {"op": "StepError", "id": "b", "displayName": "b", "error": {"name": "E", "message": "not yet"}}
    answers = iter([ops(error), returned("done")])
    shop.answers["f"] = lambda call: next(answers)
    shop.hold = asyncio.Event()
    await shop.register()
    event = await api.send("shop/f")
    run = (await api.started(event))["run_id"]

    async def called() -> dict[str, Any] | None:
        return shop.calls[0]["ctx"] if shop.calls else None

    assert (await checkpoint(api, await until(called), done("a", 1))).status_code == 200
    shop.hold.set()
    assert (await api.ended(run))["output"] == "done"
    again = shop.calls[1]
    assert (again["ctx"]["attempt"], list(again["steps"]), again["ctx"]["stack"]["stack"]) == (1, ["a"], ["a"])


async def test_reports_that_come_together_are_each_recorded_once(api: Api, shop: Scripted) -> None:
    async with open_call(api, shop, returned(1)) as context:
        sent = [checkpoint(api, context, done(f"s{n}", n)) for n in range(20)]
        responses = await asyncio.gather(*sent)
        assert {response.status_code for response in responses} == {200}
        names = [name for name, _, _ in await steps_of(api, context["run_id"])]
        assert sorted(names) == sorted(f"s{n}" for n in range(20))


@pytest.mark.parametrize("header", [None, "Bearer signkey-prod-00"])
async def test_without_the_key_nothing_is_recorded(start: Start, header: str | None) -> None:
    api = await start(signing_key="ab" * 32)
    headers = {"authorization": header} if header else {}
    response = await api.http.post("/v1/checkpoint/01JQDAE4RQF8MBCR55T5AK4KXS/async", json={}, headers=headers)
    assert response.status_code == 401
