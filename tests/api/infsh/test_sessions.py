"""Sessions over HTTP, with calls that a test answers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from stepwell.model.event import DEV_ENV
from tests.api.api import Api, until
from tests.api.infsh.performing import Call, ScriptedApps
from tests.api.infsh.test_tasks import ask, ended


async def opened(api: Api, **body: Any) -> tuple[str, dict[str, Any]]:
    response = await ask(api, {"session": "new", **body})
    assert response.status_code == 200, response.text
    task = await ended(api, response.json()["data"]["id"])
    assert task["session_id"] == response.json()["data"]["session_id"]
    return str(task["session_id"]), task


async def refused(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_a_session_is_opened_called_kept_alive_and_ended(api: Api, performer: ScriptedApps) -> None:
    session, task = await opened(api, session_timeout=120)
    assert session != "new"
    assert performer.calls[0].request.opens
    found = (await api.get(f"/sessions/{session}"))["data"]
    assert found | {"id": session, "status": "active", "idle_timeout": 120, "call_count": 1} == found
    assert (found["task_id"], found["app"]) == (task["id"], "acme/stitch@k3f9")
    assert found["app_version_id"] == task["app_version_id"]
    again = (await ask(api, {"session": session})).json()["data"]
    assert (await ended(api, again["id"]))["session_id"] == session
    assert [one["id"] for one in (await api.get("/sessions"))["data"]] == [session]
    kept = (await api.http.post(f"/sessions/{session}/keepalive")).json()["data"]
    assert kept["expires_at"] >= found["expires_at"]
    assert (await api.http.delete(f"/sessions/{session}")).json()["data"] is None
    assert (await api.get(f"/sessions/{session}"))["data"]["status"] == "ended"
    assert (await api.get("/sessions"))["data"] == []
    assert await refused(await ask(api, {"session": session})) == (410, "SESSION_ENDED")
    assert await refused(await api.http.post(f"/sessions/{session}/keepalive")) == (410, "SESSION_ENDED")


async def test_a_session_that_nobody_calls_expires(api: Api, performer: ScriptedApps) -> None:
    session, _ = await opened(api, session_timeout=1)

    async def expired() -> bool | None:
        return (await api.get(f"/sessions/{session}"))["data"]["status"] == "expired" or None

    await until(expired)
    assert await refused(await ask(api, {"session": session})) == (410, "SESSION_EXPIRED")


async def test_a_session_loses_its_worker(api: Api, performer: ScriptedApps) -> None:
    session, _ = await opened(api)
    api.server.node.sessions.worker_lost(DEV_ENV, session, "its process died")
    response = await ask(api, {"session": session})
    assert await refused(response) == (500, "WORKER_LOST")
    assert "its process died" in response.json()["detail"]
    found = (await api.get(f"/sessions/{session}"))["data"]
    assert (found["status"], found["reason"]) == ("ended", "its process died")


async def test_a_session_is_of_one_version_of_one_app(api: Api, performer: ScriptedApps) -> None:
    session, _ = await opened(api, app="acme/stitch@old1")
    followed = (await ask(api, {"session": session})).json()["data"]["id"]
    await ended(api, followed)
    assert performer.calls[-1].request.app == "acme/stitch@old1"
    assert await refused(await ask(api, {"app": "acme/stitch@k3f9", "session": session})) == (409, "VERSION_MISMATCH")
    for server in api.servers:
        server.site.app_secrets = frozenset({"KEY"})
    assert await refused(await ask(api, {"app": "acme/secretive", "session": session})) == (409, "APP_MISMATCH")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/keepalive"), ("DELETE", "")])
async def test_nobody_knows_a_session_that_is_not_there(api: Api, method: str, path: str) -> None:
    assert await refused(await api.http.request(method, f"/sessions/nope{path}")) == (404, "SESSION_NOT_FOUND")
    assert await refused(await ask(api, {"session": "nope"})) == (404, "SESSION_NOT_FOUND")


async def test_calls_count_once_they_are_completed(api: Api, performer: ScriptedApps) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.02)
        call.returned(call.request.input)

    performer.script = slow
    session, _ = await opened(api, input=0)
    tasks = [(await ask(api, {"session": session, "input": number})).json()["data"]["id"] for number in (1, 2, 3)]
    for task in tasks:
        await ended(api, task)
    assert (await api.get(f"/sessions/{session}"))["data"]["call_count"] == 4
    listed = await api.http.post("/tasks/list", json={"filters": [{"field": "session_id", "value": session}]})
    assert len(listed.json()["data"]["items"]) == 4
