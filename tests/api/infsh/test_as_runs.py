"""Tasks through our own API: they are runs."""

from __future__ import annotations

import asyncio

from stepwell.model.task import TaskStatus
from tests.api.api import Api
from tests.api.infsh.performing import Call, ScriptedApps
from tests.api.infsh.test_tasks import begun, ended


async def test_cancelling_a_run_of_an_app_says_that_its_call_was_told(api: Api, performer: ScriptedApps) -> None:
    asked, told = asyncio.Event(), asyncio.Event()

    async def script(call: Call) -> None:
        asked.set()
        await call.stopped.wait()
        await told.wait()
        call.returned("half")

    performer.script = script
    task = await begun(api)
    await asked.wait()
    response = await api.http.post(f"/api/runs/{task}/cancel")
    assert response.json() == {"id": task, "status": "RUNNING", "cancelling": True}
    assert (await api.get(f"/api/runs/{task}"))["status"] == "RUNNING"
    told.set()
    assert (await ended(api, task))["status"] == TaskStatus.CANCELLED
    shown = await api.get(f"/api/runs/{task}")
    assert (shown["status"], shown["cancelled_because"]) == ("CANCELLED", "cancelled by its operator")


async def test_the_trace_has_the_phases_of_the_call(api: Api, performer: ScriptedApps) -> None:
    async def script(call: Call) -> None:
        for status in (TaskStatus.SERVING, TaskStatus.SETTING_UP, TaskStatus.RUNNING):
            call.come_to(status)
        call.returned("done", {"outputs": [{"type": "text", "tokens": 7}]})

    performer.script = script
    task = await begun(api)
    await ended(api, task)
    (final,) = (await api.get(f"/api/runs/{task}"))["trace"]["children"]
    assert [one["name"] for one in final["children"]] == ["Serving", "Setting up", "Running"]
    lines = (await api.get(f"/api/runs/{task}/lines"))["lines"]
    text = "\n".join("".join(piece for _, piece in line) for line in lines)
    assert "cold start" in text
    assert "0 → 7 tokens" in text
