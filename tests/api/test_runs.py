"""Runs over HTTP: the protocol's routes, our own, and following one live."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.api.api import Api, until
from tests.api.conftest import Start
from tests.api.scripted import SDK, Answer, Scripted, done, ops, returned, scripted, sleep

NOWHERE = "01JQDAE4RQF8MBCR55T5AK4KXS"


def hashed(step: str) -> str:
    return hashlib.sha1(step.encode()).hexdigest()


def two_steps(call: dict[str, Any]) -> Answer:
    """A step `a`, a short sleep `s`, and the result of `a`."""
    a, s = hashed("a"), hashed("s")
    if a not in call["steps"]:
        return ops({**done(a, 41), "name": "a", "displayName": "a"})
    if s not in call["steps"]:
        return ops({**sleep(s, "30ms"), "displayName": "s"})
    return returned(call["steps"][a]["data"] + 1)


def nap(call: dict[str, Any]) -> Answer:
    s = hashed("nap")
    return returned("rested") if s in call["steps"] else ops({**sleep(s, "1h"), "displayName": "nap"})


async def test_a_run_is_shown_as_the_protocol_has_it(api: Api, shop: Scripted) -> None:
    shop.answers["two"] = two_steps
    await shop.register()
    event = await api.send("shop/two")
    run = await api.finished(event)
    assert (run["status"], run["output"], run["event_id"]) == ("Completed", 42, event)
    assert run["function_version"] == 1
    assert run["ended_at"].endswith("Z")
    assert (await api.get(f"/v1/runs/{run['run_id']}/jobs"))["data"] == []


async def test_a_failed_run_shows_its_error_as_it_was_sent(api: Api, shop: Scripted) -> None:
    error = {"name": "ValueError", "message": "bad row", "stack": None, "code": "x"}
    shop.answers["bad"] = lambda call: (500, {**SDK, "x-inngest-no-retry": "true"}, error)
    await shop.register()
    run = await api.finished(await api.send("shop/bad"))
    assert (run["status"], run["output"]) == ("Failed", error)
    ours = await api.get(f"/api/runs/{run['run_id']}")
    assert (ours["status"], ours["error"], ours["output"]) == ("FAILED", error, None)


async def test_trap_54_cancelling_answers_200_on_v1_and_204_on_v0(api: Api, shop: Scripted) -> None:
    shop.answers["nap"] = nap
    await shop.register()
    first, second, third = [
        (await api.started(await api.send("shop/nap")))["run_id"],
        (await api.started(await api.send("shop/nap")))["run_id"],
        (await api.started(await api.send("shop/nap")))["run_id"],
    ]
    response = await api.http.delete(f"/v1/runs/{first}")
    assert (response.status_code, response.content) == (200, b"")
    response = await api.http.delete(f"/v0/runs/{second}")
    assert (response.status_code, response.content) == (204, b"")
    response = await api.http.post(f"/api/runs/{third}/cancel")
    assert response.json() == {"id": third, "status": "CANCELLED"}
    for run in (first, second, third):
        assert (await api.get(f"/v1/runs/{run}"))["data"]["status"] == "Cancelled"
        assert (await api.get(f"/v1/runs/{run}/jobs"))["data"] == []
    assert (await api.http.delete(f"/v0/runs/{second}")).status_code == 409
    assert (await api.http.delete(f"/v1/runs/{first}")).status_code == 409


ABOUT_ONE_RUN = [
    ("GET", "/v1/runs/{}"),
    ("DELETE", "/v1/runs/{}"),
    ("GET", "/v1/runs/{}/jobs"),
    ("DELETE", "/v0/runs/{}"),
    ("GET", "/v0/runs/{}/actions"),
    ("GET", "/v0/runs/{}/batch"),
    ("GET", "/api/runs/{}"),
    ("GET", "/api/runs/{}/lines"),
    ("GET", "/api/runs/{}/follow"),
    ("POST", "/api/runs/{}/cancel"),
]


async def test_an_unknown_run_is_404_and_a_malformed_id_400(plain: Api, subtests: pytest.Subtests) -> None:
    for method, path in ABOUT_ONE_RUN:
        with subtests.test(method=method):
            response = await plain.http.request(method, path.format(NOWHERE))
            assert (response.status_code, response.json()["status"]) == (404, 404)
            for malformed in ("nonsense", "8" * 26, "'; drop table run --"):
                response = await plain.http.request(method, path.format(malformed))
                assert response.status_code == 400
                assert "Invalid run ID" in response.json()["error"]


async def test_trap_14_a_run_too_large_to_send_is_fetched(api: Api, shop: Scripted) -> None:
    fetched: dict[str, Any] = {}

    def large(call: dict[str, Any]) -> Answer:
        a, b = hashed("a"), hashed("b")
        if call["use_api"]:
            assert call["ctx"]["use_api"] is True
            fetched["run"] = call["ctx"]["run_id"]
            return ops({**sleep(hashed("wait"), "1h"), "displayName": "wait"})
        return ops(done(b, "x" * 3_000_000)) if a in call["steps"] else ops(done(a, "x" * 3_000_000))

    shop.answers["large"] = large
    await shop.register()
    event = await api.send("shop/large", {"n": 1})

    async def look() -> str | None:
        return fetched.get("run")

    run = await until(look, 20)
    actions = await api.get(f"/v0/runs/{run}/actions")
    assert set(actions) == {hashed("a"), hashed("b")}
    assert len(actions[hashed("b")]["data"]) == 3_000_000
    [first] = await api.get(f"/v0/runs/{run}/batch")
    assert (first["id"], first["data"]) == (event, {"n": 1})
    await api.http.delete(f"/v1/runs/{run}")
    for path in ("actions", "batch"):
        gone = await api.http.get(f"/v0/runs/{run}/{path}")
        assert gone.status_code == 410
        assert gone.json()["error"] == "runtime state is no longer available for runID"
        assert gone.json()["status"] == 410


async def test_runs_are_listed_by_function_and_status_in_pages(api: Api, shop: Scripted) -> None:
    shop.answers = {"two": two_steps, "nap": nap}
    await shop.register()
    ended = [(await api.finished(await api.send("shop/two")))["run_id"] for _ in range(3)]
    napping = (await api.started(await api.send("shop/nap")))["run_id"]
    await api.waiting(napping, "nap")
    assert [one["id"] for one in (await api.get("/api/runs"))["runs"]] == [napping, *reversed(ended)]
    assert [one["id"] for one in (await api.get("/api/runs", status="running"))["runs"]] == [napping]
    page = await api.get("/api/runs", function="shop-two,shop-none", status="COMPLETED,FAILED", limit=2, count="true")
    assert [one["id"] for one in page["runs"]] == ended[:0:-1]
    assert page["count"] == 3
    rest = await api.get("/api/runs", function="shop-two", limit=2, cursor=page["cursor"])
    assert [one["id"] for one in rest["runs"]] == ended[:1]
    assert rest["cursor"] is None
    searched = await api.get("/api/runs", query="output == 42")
    assert len(searched["runs"]) == 3
    for query in ("status=DONE", "limit=x", "cursor=x", "since=x", "query=(", "time=never"):
        assert (await api.http.get(f"/api/runs?{query}")).status_code == 400, query


async def test_one_run_is_shown_with_its_trace(api: Api, shop: Scripted) -> None:
    shop.answers["two"] = two_steps
    await shop.register()
    run = (await api.finished(await api.send("shop/two", {"n": 7})))["run_id"]
    shown = await api.get(f"/api/runs/{run}")
    assert (shown["function"], shown["status"], shown["output"]) == ("shop-two", "COMPLETED", 42)
    assert shown["events"][0]["data"] == {"n": 7}
    assert [one["name"] for one in shown["trace"]["children"]][:2] == ["a", "s"]
    assert shown["trace"]["children"][0]["output"] == 41
    assert [one["outcome"] for one in shown["requests"]] == ["answered"] * 3
    lines = (await api.get(f"/api/runs/{run}/lines"))["lines"]
    text = "\n".join("".join(piece for _, piece in line) for line in lines)
    assert "COMPLETED" in text
    assert "shop-two" in text


async def test_a_follower_sees_every_change_and_the_end(api: Api, shop: Scripted) -> None:
    shop.answers["two"] = two_steps
    shop.hold = asyncio.Event()
    await shop.register()
    run = (await api.started(await api.send("shop/two")))["run_id"]
    following = asyncio.create_task(api.follow(run))
    await asyncio.sleep(0.05)
    shop.hold.set()
    seen = [change for _, change in await following]
    steps = [(one["name"], one["status"]) for one in seen if one["type"] == "step"]
    assert steps == [("a", "COMPLETED"), ("s", "SLEEPING"), ("s", "COMPLETED")]
    assert [one["status"] for one in seen if one["type"] == "run"] == ["QUEUED", "COMPLETED"]
    assert (seen[-1]["type"], seen[-1]["status"], seen[-1]["id"]) == ("end", "COMPLETED", run)


async def test_a_follower_that_comes_back_misses_nothing_and_sees_nothing_twice(api: Api, shop: Scripted) -> None:
    shop.answers["two"] = two_steps
    await shop.register()
    run = (await api.finished(await api.send("shop/two")))["run_id"]
    whole = await api.follow(run)
    for position, (number, _) in enumerate(whole[:-2]):
        assert await api.follow(run, after=number) == whole[position + 1 :]
    assert (await api.http.get(f"/api/runs/{run}/follow", params={"after": "x"})).status_code == 400


async def test_a_follower_is_let_go_when_the_server_stops(start: Start, stack: AsyncExitStack) -> None:
    api = await start()
    shop = await stack.enter_async_context(scripted("shop", api.server.url))
    shop.answers["nap"] = nap
    await shop.register()
    run = (await api.started(await api.send("shop/nap")))["run_id"]
    await api.waiting(run, "nap")
    following = asyncio.create_task(api.follow(run))

    async def look() -> bool | None:
        return api.server.site.watch.followers == 1 or None

    await until(look)
    await api.server.stop()
    assert [one["type"] for _, one in await following][-1] == "step"
    assert api.server.site.watch.followers == 0


async def test_a_function_is_run_by_hand_and_its_run_is_known_at_once(api: Api, shop: Scripted) -> None:
    shop.answers["echo"] = lambda call: returned(call["event"]["data"]["n"])
    await shop.register()
    response = await api.http.post("/api/functions/shop-echo/invoke", json={"data": {"n": 5}})
    assert response.status_code == 201

    async def look() -> dict[str, Any] | None:
        found = await api.http.get(f"/v1/runs/{response.json()['run_id']}")
        return found.json()["data"] if found.status_code == 200 else None

    await until(look)
    assert (await api.ended(response.json()["run_id"]))["output"] == 5
    assert (await api.http.post("/api/functions/shop-none/invoke")).status_code == 404
    assert (await api.http.post("/api/functions/shop-echo/invoke", content=b"[")).status_code == 400
    assert (await api.http.post("/api/functions/shop-echo/invoke", json={"id": "x"})).status_code == 400


async def test_a_start_that_is_repeated_with_its_seed_is_the_same_run(api: Api, shop: Scripted) -> None:
    shop.answers["echo"] = lambda call: returned(call["event"]["data"]["n"])
    await shop.register()
    seed = {"x-inngest-event-id-seed": "1790000000000,AAAAAAAAAAAAAA=="}
    asked = [
        await api.http.post("/api/functions/shop-echo/invoke", json={"data": {"n": 5}}, headers=seed) for _ in range(3)
    ]
    assert {response.status_code for response in asked} == {201}
    (run,) = {response.json()["run_id"] for response in asked}
    (event,) = {response.json()["event_id"] for response in asked}
    assert (await api.finished(event))["run_id"] == run
    assert len((await api.get("/api/runs"))["runs"]) == 1


async def test_the_invoke_route_of_the_protocol_names_the_event(api: Api, shop: Scripted) -> None:
    shop.answers["echo"] = lambda call: returned([call["event"]["name"], call["event"]["data"]["n"]])
    await shop.register()
    response = await api.http.post("/invoke/shop-echo", json={"name": "ignored", "data": {"n": 1}})
    assert response.json()["status"] == 200
    assert (await api.finished(response.json()["id"]))["output"] == ["inngest/function.invoked", 1]
    unknown = await api.http.post("/invoke/shop-none", json={})
    assert unknown.status_code == 404
    assert "there are: shop-echo" in unknown.json()["error"]


async def test_many_runs_are_cancelled_at_once(api: Api, shop: Scripted) -> None:
    shop.answers = {"nap": nap}
    await shop.register()
    runs = [(await api.started(await api.send("shop/nap", {"n": n})))["run_id"] for n in range(4)]
    before = (await api.get(f"/v1/runs/{runs[-1]}"))["data"]["run_started_at"]
    response = await api.first.http.post(
        "/v1/cancellations",
        json={"app_id": "shop", "function_id": "nap", "started_before": "2999-01-01T00:00:00Z"},
    )
    assert response.status_code == 400
    assert "future" in response.json()["error"]
    now = api.server.node.world.now() + 1000
    sent = {"app_id": "shop", "function_id": "nap", "started_before": now, "if": "event.data.n < 2"}
    response = await api.first.http.post("/v1/cancellations", json=sent)
    assert response.json()["data"]["cancelled_count"] == 2, before
    statuses = [(await api.get(f"/v1/runs/{run}"))["data"]["status"] for run in runs]
    assert statuses[:2] == ["Cancelled", "Cancelled"]
    assert "Cancelled" not in statuses[2:]
    [done] = (await api.first.get("/v1/cancellations"))["data"]
    assert (await api.first.http.delete(f"/v1/cancellations/{done['id']}")).status_code == 204
    assert (await api.first.http.delete(f"/v1/cancellations/{done['id']}")).status_code == 404


WRONG_CANCELLATIONS = [
    ({}, 400, "started_before"),
    ({"started_before": 1}, 400, "function_id"),
    ({"started_before": "x"}, 400, "started_before"),
    ({"started_before": 5, "started_after": 9}, 400, "started_after"),
    ({"started_before": 5, "function_id": "f", "app_id": 7}, 400, "app_id"),
    ({"started_before": 5, "function_id": "f", "if": 7}, 400, "if"),
    ({"started_before": 5, "function_id": "f"}, 404, "no function"),
]


async def test_a_wrong_cancellation_is_a_clear_error(plain: Api, subtests: pytest.Subtests) -> None:
    for sent, status, error in WRONG_CANCELLATIONS:
        with subtests.test(sent=sent):
            response = await plain.http.post("/v1/cancellations", content=json.dumps(sent))
            assert response.status_code == status
            assert error in response.json()["error"]


async def test_a_bug_is_told_without_its_inside(plain: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(run: str) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(plain.server.node.store, "run_row", broken)
    response = await plain.http.get(f"/v1/runs/{NOWHERE}")
    assert response.status_code == 500
    assert response.json()["status"] == 500
    assert "secret" not in response.text
