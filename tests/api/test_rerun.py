"""Reruns over HTTP: what is made again, what is refused and why, and two runs side by side."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stepwell.model.payload import INLINE_LIMIT_BYTES
from tests.api.api import Api
from tests.api.conftest import Start
from tests.api.scripted import SDK, Answer, Scripted, ops, returned, scripted, sleep

NOWHERE = "01JQDAE4RQF8MBCR55T5AK4KXS"
LARGE = "x" * (INLINE_LIMIT_BYTES + 1)


class OnTypeScript(Scripted):
    """A service on an SDK whose steps take other arguments."""

    def payload(self) -> dict[str, Any]:
        return super().payload() | {"sdk": "js:v4.24.0"}


def hashed(step: str) -> str:
    return hashlib.sha1(step.encode()).hexdigest()


def step(name: str, value: object, *given: object, index: int = 0, kind: str = "step.run") -> dict[str, Any]:
    """What a worker reports of a step; `given` are its arguments."""
    return {
        "op": "StepRun",
        "id": hashed(f"{name}:{index}" if index else name),
        "name": name,
        "displayName": name,
        "userland": {"id": name, "index": index},
        "data": value,
        "opts": {"type": kind, **({"input": list(given)} if given else {})},
    }


def sequence(*names: str, then: Callable[[dict[str, Any]], Answer] | None = None) -> Callable[[dict[str, Any]], Answer]:
    """A function with these steps, each called with its own name, and with what somebody gives it instead."""

    def answer(call: dict[str, Any]) -> Answer:
        results = []
        for name in names:
            memo = call["steps"].get(hashed(name))
            if memo is None or "input" in memo:
                given = memo["input"] if memo is not None else [name]
                return ops(step(name, {"of": given}, *given))
            results.append(memo["data"])
        return then(call) if then is not None else returned([*results, call["event"]["data"]])

    return answer


@pytest.fixture
async def shop(api: Api) -> AsyncIterator[Scripted]:
    async with on_typescript(api) as service:
        yield service


@asynccontextmanager
async def on_typescript(api: Api) -> AsyncIterator[Scripted]:
    async with scripted("shop", api.server.url) as service:
        service.__class__ = OnTypeScript
        yield service


async def asked(api: Api, run: str, body: object = None, *, status: int = 200, key: str = "") -> Any:
    headers = {"idempotency-key": key} if key else {}
    response = await api.http.post(f"/v1/runs/{run}/rerun", json=body or {}, headers=headers)
    assert response.status_code == status, response.text
    return response.json()["data"] if status == 200 else response.json()


async def again(api: Api, run: str, body: object = None) -> dict[str, Any]:
    made = await asked(api, run, body)
    return await api.ended(made["run_id"])


async def a_run(api: Api, shop: Scripted, *names: str, **data: Any) -> str:
    """An ended run of a function with steps."""
    shop.answers["steps"] = sequence(*(names or ("a", "b", "c")))
    assert (await shop.register()).status_code == 200
    run = await api.finished(await api.send("shop/steps", data))
    assert run["status"] == "Completed"
    return str(run["run_id"])


async def test_a_run_is_made_again_from_a_step_with_other_arguments(api: Api, shop: Scripted) -> None:
    old = await a_run(api, shop, n=1)
    calls = len(shop.calls)
    made = await asked(api, old, {"from_step": "b", "input": ["new"]})
    assert made == {"run_id": made["run_id"], "origin": old, "from_step": "b", "kept": 1, "doubled": False}
    run = await api.ended(made["run_id"])
    assert run["output"] == [{"of": ["a"]}, {"of": ["new"]}, {"of": ["c"]}, {"n": 1}]
    first = shop.calls[calls]
    assert first["steps"] == {hashed("a"): {"data": {"of": ["a"]}}, hashed("b"): {"input": ["new"]}}
    assert first["ctx"]["stack"] == {"stack": [hashed("a")], "current": 1}
    assert first["ctx"]["run_id"] == made["run_id"]
    shown = await api.get(f"/api/runs/{made['run_id']}")
    assert (shown["origin"], shown["from_step"]) == (old, "b")
    a, b, c, _ = shown["trace"]["children"]
    assert [one["origin"] for one in (a, b, c)] == [old, None, None]
    assert [one["edited"] for one in (a, b, c)] == [False, True, False]
    assert (a["output"], a["input"]) == ({"of": ["a"]}, ["a"])
    lines = json.dumps((await api.get(f"/api/runs/{made['run_id']}/lines"))["lines"])
    assert f"makes run {old} again from step 'b' on" in lines
    assert f"kept from run {old}" in lines
    assert "edited input" in lines


async def test_large_results_and_large_inputs_are_kept_and_given(api: Api, shop: Scripted) -> None:
    shop.answers["steps"] = sequence("a", "b")
    await shop.register()
    shop.answers["steps"] = lambda call: (
        ops(step("a", LARGE)) if hashed("a") not in call["steps"] else sequence("a", "b")(call)
    )
    old = (await api.finished(await api.send("shop/steps")))["run_id"]
    run = await again(api, old, {"from_step": "b", "input": [LARGE]})
    assert run["output"] == [LARGE, {"of": [LARGE]}, {}]


async def test_a_whole_run_is_made_again_with_other_data(api: Api, shop: Scripted) -> None:
    old = await a_run(api, shop, n=1, deep={"list": [1, 2]})
    run = await again(api, old, {"set": {"deep.list.1": 5, "new.part": "x"}})
    assert run["output"][-1] == {"n": 1, "deep": {"list": [1, 5]}, "new": {"part": "x"}}
    run = await again(api, old, {"input": {"all": "new"}})
    assert run["output"][-1] == {"all": "new"}
    assert run["event_id"] == (await api.get(f"/v1/runs/{old}"))["data"]["event_id"]


async def test_parts_of_arguments_are_changed_by_place_and_by_name(api: Api, shop: Scripted) -> None:
    shop.answers["steps"] = sequence("a")
    await shop.register()
    plain = sequence("a")
    shop.answers["steps"] = lambda call: (
        ops(step("a", 1, "first", {"model": "m", "messages": [{"content": "old"}]}))
        if hashed("a") not in call["steps"]
        else plain(call)
    )
    old = (await api.finished(await api.send("shop/steps")))["run_id"]
    run = await again(api, old, {"from_step": "a", "set": {"0": "second", "messages.0.content": "new"}})
    assert run["output"][0] == {"of": ["second", {"model": "m", "messages": [{"content": "new"}]}]}


async def test_requests_with_one_key_make_one_run(api: Api, shop: Scripted) -> None:
    old = await a_run(api, shop)
    together = await asyncio.gather(*(asked(api, old, {"from_step": "c"}, key="once") for _ in range(4)))
    assert len({one["run_id"] for one in together}) == 1
    assert sorted(one["doubled"] for one in together) == [False, True, True, True]
    assert (await asked(api, old, {"from_step": "c"}))["run_id"] != together[0]["run_id"]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({"from_step": "z"}, 404, "not_found", "has no step 'z'; it has a, b, c"),
        ({"from_step": ""}, 400, "invalid_input", "from_step must be the name of a step"),
        ({"form_step": "a"}, 400, "invalid_input", "'form_step' means nothing here"),
        ({"from_step": "a", "set": []}, 400, "invalid_input", "set must be an object"),
        ({"from_step": "a", "input": "text"}, 400, "invalid_input", "must be the list of its arguments"),
        ({"from_step": "a", "set": {"3": 1}}, 400, "invalid_input", "'3' leads nowhere: '3' in a list of 1"),
        ({"from_step": "a", "set": {"0.deep": 1}}, 400, "invalid_input", "'0.deep' leads nowhere"),
        ({"input": [1]}, 400, "invalid_input", "input must be the data of the event"),
        ({"input": {"n": 2**60}}, 400, "invalid_input", "would be rounded"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    plain: Api, body: dict[str, Any], status: int, code: str, says: str
) -> None:
    async with on_typescript(plain) as shop:
        old = await a_run(plain, shop)
        answer = await asked(plain, old, body, status=status)
        assert answer["code"] == code
        assert says in answer["error"]


async def test_what_cannot_be_made_again_says_why(plain: Api) -> None:
    async with on_typescript(plain) as shop:
        shop.answers["nap"] = lambda call: ops(sleep(hashed("nap"), "1h"))
        await shop.register()
        run = (await plain.started(await plain.send("shop/nap")))["run_id"]
        await plain.waiting(run, hashed("nap"))
        assert "has not ended" in (await asked(plain, run, status=409))["error"]
        assert "no run" in (await asked(plain, NOWHERE, status=404))["error"]
        assert "Invalid run ID" in (await asked(plain, "x", status=400))["error"]
        await plain.http.delete(f"/v1/runs/{run}")
        answer = await asked(plain, run, {"from_step": hashed("nap"), "input": [1]}, status=409)
        assert (answer["code"], "is a sleep" in answer["error"]) == ("not_editable", True)
        await plain.server.node.forget(plain.server.site.env, "shop")
        assert "no service has the function" in (await asked(plain, run, status=409))["error"]


async def test_steps_without_recorded_arguments_cannot_be_edited(plain: Api) -> None:
    async with on_typescript(plain) as shop:
        shop.answers["steps"] = sequence("a")
        await shop.register()
        shop.answers["steps"] = lambda call: returned(1) if call["steps"] else ops(step("a", 1))
        run = (await plain.finished(await plain.send("shop/steps")))["run_id"]
        answer = await asked(plain, run, {"from_step": "a", "input": [1]}, status=409)
        assert "has no recorded arguments" in answer["error"]
        assert (await again(plain, run, {"from_step": "a"}))["output"] == 1


async def test_a_failed_step_is_given_other_arguments(api: Api, shop: Scripted) -> None:
    def answer(call: dict[str, Any]) -> Answer:
        memo = call["steps"].get(hashed("a"))
        if memo is None:
            failed = step("a", None, "bad") | {"op": "StepFailed", "error": {"name": "Error", "message": "bad"}}
            return ops(failed)
        if "error" in memo:
            return 500, {**SDK, "x-inngest-no-retry": "true"}, memo["error"]
        return ops(step("a", "good")) if "input" in memo else returned(memo["data"])

    shop.answers["steps"] = answer
    await shop.register()
    old = await api.finished(await api.send("shop/steps"))
    assert old["status"] == "Failed"
    run = await again(api, old["run_id"], {"from_step": "a", "set": {"0": "better"}})
    assert (run["status"], run["output"]) == ("Completed", "good")


async def test_followers_are_told_which_results_are_kept(plain: Api) -> None:
    async with on_typescript(plain) as shop:
        old = await a_run(plain, shop)
        new = (await asked(plain, old, {"from_step": "c"}))["run_id"]
        told = [change for _, change in await plain.follow(new) if change["type"] == "step"]
        assert [(change["name"], change["origin"]) for change in told] == [("a", old), ("b", old), ("c", None)]


# side by side


async def test_two_runs_are_compared_step_by_step(api: Api, shop: Scripted) -> None:
    old = await a_run(api, shop)
    new = (await again(api, old, {"from_step": "b", "input": ["new"]}))["run_id"]
    found = await api.get(f"/api/runs/{old}/compare/{new}")
    assert (found["old"]["id"], found["new"]["id"], found["new"]["origin"]) == (old, new, old)
    assert [(one["name"], one["same"]) for one in found["steps"]] == [("a", True), ("b", False), ("c", True)]
    b = found["steps"][1]
    assert (b["old"]["input"], b["new"]["input"], b["new"]["edited"]) == (["b"], ["new"], True)
    assert (b["old"]["output"], b["new"]["output"]) == ({"of": ["b"]}, {"of": ["new"]})
    assert found["new"]["output"][1] == {"of": ["new"]}


async def test_only_runs_of_one_function_are_compared(plain: Api) -> None:
    async with on_typescript(plain) as shop:
        shop.answers["other"] = lambda call: returned(1)
        old = await a_run(plain, shop)
        other = (await plain.finished(await plain.send("shop/other")))["run_id"]
        response = await plain.http.get(f"/api/runs/{old}/compare/{other}")
        assert (response.status_code, response.json()["field"]) == (400, "other")
        assert (await plain.http.get(f"/api/runs/{old}/compare/{NOWHERE}")).status_code == 404


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


async def test_members_hidden_by_rule_are_in_no_trace(start: Start) -> None:
    api = await start(redact=("email", "messages.*.content"))
    prompt = {"model": "gpt", "messages": [{"role": "user", "content": "hidden words"}]}
    async with on_typescript(api) as shop:
        shop.answers["ask"] = lambda call: (
            returned({"email": "a@b.example", "n": 1})
            if call["steps"]
            else ops(step("draft", said("an answer"), prompt, kind="step.ai.wrap"))
        )
        await shop.register()
        run = (await api.finished(await api.send("shop/ask", {"email": "a@b.example"})))["run_id"]
        shown = await api.get(f"/api/runs/{run}", redacted="true")
        assert (shown["output"], shown["events"][0]["data"]) == ({"email": "***", "n": 1}, {"email": "***"})
        (draft, _) = shown["trace"]["children"]
        assert draft["input"][0]["messages"][0] == {"role": "user", "content": "***"}
        lines = json.dumps((await api.get(f"/api/runs/{run}/lines"))["lines"])
        compared = json.dumps(await api.get(f"/api/runs/{run}/compare/{run}"))
        query = "query ($id: String!) { runTraceSpanOutputByID(outputID: $id) { input data } }"
        response = await api.http.post("/v0/gql", json={"query": query, "variables": {"id": draft["id"]}})
        spoken = json.dumps(response.json())
        for text in (json.dumps(shown), lines, compared, spoken):
            assert "hidden words" not in text
            assert "a@b.example" not in text
            assert "an answer" in text
        assert (await api.get(f"/api/runs/{run}"))["output"]["email"] == "a@b.example"  # what the client reads


async def test_members_hidden_by_rule_are_in_no_answer_of_v1_or_graphql(start: Start) -> None:
    api = await start(redact=("email",))
    async with on_typescript(api) as shop:
        shop.answers["ask"] = lambda call: returned({"email": "a@b.example", "n": 1})
        await shop.register()
        run = (await api.finished(await api.send("shop/ask", {"email": "a@b.example"})))["run_id"]
        event = (await api.get(f"/api/runs/{run}"))["event_id"]
        query = """query ($run: String!, $event: ULID!, $id: ID!) {
            run(runID: $run) { output }
            runTrigger(runID: $run) { payloads }
            eventV2(id: $event) { raw }
            event(query: {eventId: $id}) { payload raw functionRuns { output } }
        }"""
        variables = {"run": run, "event": event, "id": event}
        answer = (await api.http.post("/v0/gql", json={"query": query, "variables": variables})).json()
        found = answer["data"]
        seen = [
            found["run"]["output"],
            *found["runTrigger"]["payloads"],
            found["eventV2"]["raw"],
            found["event"]["payload"],
            found["event"]["raw"],
            found["event"]["functionRuns"][0]["output"],
            (await api.http.get(f"/v1/runs/{run}")).text,
            (await api.http.get(f"/v1/events/{event}")).text,
            (await api.http.get(f"/v1/events/{event}/runs")).text,
            (await api.http.get("/v1/events", params={"name": "shop/ask"})).text,
            (await api.http.get("/v1/events", params={"name": "inngest/function.finished"})).text,
        ]
        for text in seen:
            assert '"email":"***"' in text
            assert "a@b.example" not in text
