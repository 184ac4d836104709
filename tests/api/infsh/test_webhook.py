"""Webhooks of tasks, from a real server to a real receiver."""

from __future__ import annotations

import time
from typing import Any

import pytest

from stepwell.gateway.gateway import GatewaySettings
from stepwell.model.event import DEV_ENV
from stepwell.model.job import RunStatus
from stepwell.model.task import TaskRequest
from stepwell.node.hooks import HOOK_FUNCTION
from stepwell.store.base import RunQuery
from stepwell.testing.provider import Provider
from stepwell.wire.signature import verify
from tests.api.api import Api, until
from tests.api.conftest import Start
from tests.api.infsh.conftest import version
from tests.api.infsh.performing import Call, ScriptedApps

KEY = "signkey-test-" + "cd" * 32


async def serving(start: Start, **settings: Any) -> Api:
    api = await start(gateway=GatewaySettings(allow_loopback=True), signing_key=KEY, **settings)
    await api.server.node.apps.add(version())
    return api


async def begin(api: Api, url: str) -> str:
    request = TaskRequest(app="acme/stitch@k3f9", function="run", input={"a": 1}, webhook=url)
    return await api.server.node.tasks.begin(DEV_ENV, request)


async def came(provider: Provider, number: int = 1) -> Any:
    async def asked() -> Any:
        return provider.requests[number - 1] if len(provider.requests) >= number else None

    return await until(asked)


async def delivered(api: Api) -> None:
    async def over() -> bool | None:
        rows = await api.server.node.store.runs(RunQuery(env=DEV_ENV, functions=(HOOK_FUNCTION,)))
        return bool(rows and all(row.status is RunStatus.COMPLETED for row in rows)) or None

    await until(over)


@pytest.mark.parametrize("how", ["completed", "failed"])
async def test_the_whole_task_is_sent_signed(how: str, start: Start, provider: Provider) -> None:
    api = await serving(start)

    async def script(call: Call) -> None:
        if how == "failed":
            call.raised("no such font")
        else:
            call.returned({"text": "ho"}, {"outputs": [{"tokens": 3}]})

    ScriptedApps(api.server).script = script
    task = await begin(api, f"{provider.url}/http/echo")
    asked = await came(provider)
    verify(asked.body, asked.headers["x-stepwell-signature"], [KEY], now_s=int(time.time()))
    sent = asked.json
    expected = {"status": 10, "output": {"text": "ho"}} if how == "completed" else {"status": 11, "output": None}
    assert sent | expected | {"id": task, "input": {"a": 1}} == sent
    assert sent["error"] == (None if how == "completed" else "no such font")
    assert "tokens" not in asked.body.decode()  # what the app said of its cost stays here
    await delivered(api)
    assert len(provider.requests) == 1


async def test_a_receiver_that_fails_gets_it_again(start: Start, provider: Provider) -> None:
    api = await serving(start)
    ScriptedApps(api.server)
    await begin(api, f"{provider.url}/http/flaky/2?key={time.monotonic_ns()}")
    await came(provider, 3)
    await delivered(api)
    deliveries = {one.headers["x-stepwell-delivery"] for one in provider.requests}
    assert (len(deliveries), len(provider.requests)) == (1, 3)


async def test_a_delivery_outlives_the_server(start: Start, provider: Provider, kept: Any) -> None:
    api = await serving(start, data=kept, retry_interval_ms=1_000)
    ScriptedApps(api.server)
    await begin(api, f"{provider.url}/http/flaky/1?key={time.monotonic_ns()}")
    await came(provider)
    await api.server.stop()
    again = await start(
        gateway=GatewaySettings(allow_loopback=True), signing_key=KEY, data=kept, retry_interval_ms=1_000
    )
    await came(provider, 2)
    await delivered(again)
    assert len(provider.requests) == 2
