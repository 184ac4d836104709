"""`step.ai.infer` of an app of the same server, in production, where nothing else of this machine may be called."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

import stepwell
from stepwell import ai
from stepwell.model.app import Resources
from stepwell.model.errors import ConfigurationError
from stepwell.model.task import TaskStatus
from stepwell.sdk.client.address import bearer
from stepwell.sdk.worker import serve
from tests.api.api import until
from tests.api.conftest import Start
from tests.api.infsh.performing import Call, ScriptedApps
from tests.api.openai_endpoint.conftest import chat, version

KEY = "signkey-test-" + "ab" * 32


@dataclass
class Summary:
    title: str


async def test_a_function_asks_an_app(start: Start) -> None:
    api = await start(dev=False, signing_key=KEY, event_keys=("event-key-1",), gpu_second_usd=1000)
    await api.server.node.apps.add(version("speaker", functions={"run": chat()}, resources=Resources(gpus=2)))
    performer, failures = ScriptedApps(api.server), ["out of memory"]

    async def script(call: Call) -> None:
        if failures:
            call.raised(failures.pop())
            return
        call.come_to(TaskStatus.RUNNING)
        await asyncio.sleep(0.02)
        call.delta({"response": '{"title": '})
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        call.returned({"response": '{"title": "Fire"}', "usage": usage})

    performer.script = script
    url = f"http://127.0.0.1:{api.port}"
    service = stepwell.Service("asks")

    @service.function(on="asks/one", retries=1)
    async def asks(ctx: stepwell.Context[Any]) -> Any:
        reply = await ctx.step.ai.infer(
            "ask",
            model=ai.app("acme/speaker", url=url, api_key=KEY),
            body={"messages": [{"role": "user", "content": "Hello"}]},
            output=Summary,
        )
        assert reply.usage is not None
        return [
            reply.output.title,
            reply.usage.input_tokens,
            reply.usage.output_tokens,
            *reply.finish_reasons,
            str(reply.cost_usd),
        ]

    stop = asyncio.Event()
    serving = asyncio.create_task(serve([service], url, stop=stop, api_key=KEY))
    api.http.headers["authorization"] = bearer(KEY)
    try:

        async def known() -> bool | None:
            return any(one.name == "asks" for one in api.server.node.registry.services()) or None

        await until(known)
        response = await api.http.post("/e/event-key-1", json={"name": "asks/one", "data": {}})
        run = await api.finished(response.json()["ids"][0])
        *told, cost = run["output"]
        assert told == ["Fire", 7, 3, "stop"]
        assert 40 <= float(cost) < 4000  # 20 ms and more on two GPUs
        assert str(cost) in str(await api.get(f"/api/runs/{run['run_id']}"))
    finally:
        stop.set()
        await serving
    tasks: Any = (await api.http.post("/tasks/list", json={})).json()["data"]["items"]
    assert sorted(one["status"] for one in tasks) == [10, 11]  # each attempt asked once more, by a key of its own
    assert "urgency" not in str(performer.calls[0].request.input)
    assert performer.calls[0].request.input["response_format"]["name"] == "Summary"


async def test_one_app_is_taken_for_another_that_is_not_there(start: Start) -> None:
    api = await start(map_apps={"infsh/claude": "acme/speaker", "acme/other": "acme/none"})
    for name in ("speaker", "vectors"):
        await api.server.node.apps.add(version(name, functions={"run": chat()}))
    performer = ScriptedApps(api.server)

    async def greets(call: Call) -> None:
        call.returned({"response": "Hi"})

    performer.script = greets
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    for model in ("infsh/claude", "infsh/claude@53bk0yzk:run"):
        answer = await api.http.post("/v1/chat/completions", json={"model": model, **body})
        assert answer.status_code == 200, answer.text
    assert [call.request.app for call in performer.calls] == ["acme/speaker@v1"] * 2
    missing = await api.http.post("/v1/chat/completions", json={"model": "acme/other", **body})
    assert "'acme/none' does not exist" in missing.json()["error"]["message"]


@pytest.mark.parametrize("given", [{"claude": "a/b"}, {"a/b@c": "a/b"}, {"a/b": ""}])
async def test_what_is_no_name_of_an_app(start: Start, given: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="--map-app"):
        await start(map_apps=given)


async def test_curl_needs_nothing_else(start: Start) -> None:
    api = await start()
    await api.server.node.apps.add(version("speaker", functions={"run": chat()}))

    async def greets(call: Call) -> None:
        call.returned({"response": "Hi"})

    ScriptedApps(api.server).script = greets
    body = {"model": "acme/speaker", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await api.http.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "Hi"
    assert answer.headers["x-request-id"] == answer.json()["stepwell"]["task"]
