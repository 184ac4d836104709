"""Tasks over HTTP: asked for, looked at, cancelled, listed, removed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from stepwell.api.body import Limits
from stepwell.model.task import TaskStatus
from tests.api.api import Api, until
from tests.api.conftest import Start
from tests.api.infsh.performing import Call, ScriptedApps

LINES = {"accept": "application/x-ndjson"}
BARE = {"x-api-version": "2"}


async def ask(api: Api, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> httpx2.Response:
    return await api.http.post(
        "/apps/run", json={"app": "acme/stitch", "input": {"x": 1}, **(body or {})}, headers=headers
    )


async def begun(api: Api, **body: Any) -> str:
    response = await ask(api, body)
    assert response.status_code == 200, response.text
    return str(response.json()["data"]["id"])


async def ended(api: Api, task: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found: dict[str, Any] = (await api.get(f"/tasks/{task}"))["data"]
        return found if found["status"] >= 10 else None

    return await until(look)


async def stream(api: Api, task: str) -> list[Any]:
    async with api.http.stream("GET", f"/tasks/{task}/stream", headers=LINES) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) async for line in response.aiter_lines() if line]


async def test_a_task_is_asked_for_and_has_its_result(api: Api, performer: ScriptedApps) -> None:
    response = await ask(api)
    body = response.json()
    assert (body["success"], body["status"], body["messages"]) == (True, 200, [])
    assert (body["data"]["status"], body["data"]["output"], body["data"]["session_id"]) == (1, None, None)
    task = await ended(api, body["data"]["id"])
    assert (task["status"], task["input"]) == (10, {"x": 1})
    assert task["output"] == {"echo": {"x": 1}, "function": "run"}
    assert task["app"]["name"] == "stitch"
    assert task["events"][0]["status"] == 1
    assert (await api.get(f"/tasks/{task['id']}/status"))["data"] == {
        "id": task["id"],
        "status": 10,
        "updated_at": task["updated_at"],
    }


@pytest.mark.parametrize("path", ["/run", "/v1/apps/run", "/v1/run", "//apps//run"])
async def test_other_ways_to_write_the_path(api: Api, performer: ScriptedApps, path: str) -> None:
    response = await api.http.post(path, json={"app": "acme/stitch"})
    assert response.status_code == 200, response.text
    task = response.json()["data"]["id"]
    prefix = "/v1" if path.startswith("/v1") else ""
    assert (await api.get(f"{prefix}/tasks/{task}"))["data"]["id"] == task


async def test_clients_of_another_generation_get_the_bare_object(api: Api, performer: ScriptedApps) -> None:
    task = (await ask(api, headers=BARE)).json()
    assert task["status"] == 1
    refused = await ask(api, {"app": "acme/none"}, headers=BARE)
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("reference", "version", "function"),
    [
        ("acme/stitch", "k3f9", "run"),
        ("acme/stitch@latest", "k3f9", "run"),
        ("acme/stitch@old1", "old1", "run"),
        ("acme/stitch@old1:more", "old1", "more"),
        ("app/acme/stitch:more", "k3f9", "more"),
    ],
)
async def test_a_reference_says_which_version_and_function(
    api: Api, performer: ScriptedApps, reference: str, version: str, function: str
) -> None:
    await ended(api, await begun(api, app=reference))
    (call,) = performer.calls
    assert (call.request.app, call.request.function) == (f"acme/stitch@{version}", function)


async def test_a_function_that_is_named_beats_that_of_the_reference(api: Api, performer: ScriptedApps) -> None:
    await ended(api, await begun(api, app="acme/stitch:run", function="more"))
    assert performer.calls[0].request.function == "more"


async def test_an_app_by_its_ids(api: Api, performer: ScriptedApps) -> None:
    app = (await api.get("/apps/acme/stitch"))["data"]
    old = (await api.http.post(f"/apps/{app['id']}/versions/list")).json()["data"]["items"][1]
    for body in ({"app_id": app["id"]}, {"app_id": app["id"], "version_id": old["id"]}, {"version_id": old["id"]}):
        await ended(api, await begun(api, app=None, **body))
    assert [one.request.app for one in performer.calls] == ["acme/stitch@k3f9", *["acme/stitch@old1"] * 2]


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        ({"app": "acme/none"}, 404, "not_found", "stepwell app deploy"),
        ({"app": "acme/stitch@nope"}, 404, "not_found", "old1"),
        ({"app": "acme/stitch:nope"}, 404, "not_found", "run, more"),
        ({"app": "acme/stitch", "variant": "huge"}, 400, "invalid_request", "big, default"),
        ({"app": "a/b/c/d"}, 400, "invalid_request", "namespace/name"),
        ({"app": None}, 400, "invalid_request", "app is missing"),
        ({"app": "acme/stitch", "session_timeout": 5}, 400, "invalid_request", "session_timeout"),
    ],
)
async def test_what_cannot_be_run_is_refused_before_there_is_a_task(
    api: Api, performer: ScriptedApps, body: dict[str, Any], status: int, code: str, text: str
) -> None:
    response = await ask(api, body)
    told = response.json()
    assert (response.status_code, told["error"]["code"]) == (status, code)
    assert text in told["detail"]
    assert performer.calls == []


async def test_missing_secrets_are_named_with_nothing_around_them(api: Api, performer: ScriptedApps) -> None:
    response = await ask(api, {"app": "acme/secretive"})
    assert response.status_code == 412
    (missing,) = response.json()["errors"]
    assert (missing["type"], missing["key"], missing["action"]) == ("secret", "KEY", {"type": "add_secret"})
    assert "--app-secret KEY" in missing["message"]
    for server in api.servers:
        server.site.app_secrets = frozenset({"KEY"})
    assert (await ask(api, {"app": "acme/secretive"})).status_code == 200


async def test_an_app_that_is_retired_or_in_maintenance_takes_no_tasks(api: Api, performer: ScriptedApps) -> None:
    app = (await api.get("/apps/acme/stitch"))["data"]["id"]
    for state, status, code in (("maintenance", 503, "app_maintenance"), ("retired", 410, "app_retired")):
        changed = await api.http.post(f"/apps/{app}/status", json={"status": state, "message": "back on Monday"})
        assert changed.json()["data"]["status"] == state
        response = await ask(api)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert "back on Monday" in response.json()["detail"]
    assert (await api.http.post(f"/apps/{app}/status", json={"status": "lost"})).status_code == 400


async def test_a_request_that_comes_twice_with_the_same_key_makes_one_task(api: Api, performer: ScriptedApps) -> None:
    headers = {"idempotency-key": "abc"}
    first = (await ask(api, headers=headers)).json()["data"]["id"]
    await ended(api, first)
    again = (await ask(api, headers=headers)).json()["data"]
    assert (again["id"], again["status"]) == (first, 10)
    assert len(performer.calls) == 1
    assert (await ask(api, headers={"idempotency-key": "x" * 256})).status_code == 400


async def test_a_task_begins_when_it_is_said_to(api: Api, performer: ScriptedApps) -> None:
    task = await begun(api, run_at="2199-01-01T00:00:00Z")
    found = (await api.get(f"/tasks/{task}"))["data"]
    assert (found["status"], found["run_at"]) == (1, "2199-01-01T00:00:00.000Z")
    assert performer.calls == []
    assert (await api.http.post(f"/tasks/{task}/cancel")).json()["data"]["status"] == 12


async def test_somebody_may_wait_for_the_end(api: Api, performer: ScriptedApps) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.1)
        call.returned({"n": 1})

    performer.script = slow
    found = (await ask(api, {"wait": True})).json()["data"]
    assert (found["status"], found["output"]) == (10, {"n": 1})


async def test_a_stream_has_what_happens_in_order(api: Api, performer: ScriptedApps) -> None:
    watched = asyncio.Event()

    async def work(call: Call) -> None:
        call.come_to(TaskStatus.DISPATCHED)
        await watched.wait()
        call.come_to(TaskStatus.RUNNING)
        call.log("reading")
        call.output({"n": 1})
        call.delta({"response": "Hi"})
        await asyncio.sleep(0.05)
        call.returned({"n": 2, "response": "Hi"}, meta={"outputs": []})

    performer.script = work
    task = await begun(api)
    reading = asyncio.create_task(stream(api, task))
    await until(lambda: _followed(api))
    watched.set()
    first, *changes, last = await reading
    assert (first["id"], first["status"]) == (task, 3)
    assert [one.get("fields", [one.get("event")])[0] for one in changes] == ["status", "logs", "output", "delta"]
    assert (last["status"], last["output"]) == (10, {"n": 2, "response": "Hi"})
    assert [one["status"] for one in last["events"]][-2:] == [7, 10]
    telemetry = (await api.get(f"/tasks/{task}/telemetry"))["data"]
    assert telemetry["output_meta"] == {"outputs": []}


async def _followed(api: Api) -> bool | None:
    return any(server.site.watch.followers for server in api.servers) or None


async def test_a_failure_is_told_wherever_it_is_looked_for(api: Api, performer: ScriptedApps) -> None:
    async def fail(call: Call) -> None:
        call.raised("out of paper")

    performer.script = fail
    task = await begun(api)
    found = await ended(api, task)
    assert (found["status"], found["error"], found["output"]) == (11, "out of paper", None)
    (only,) = await stream(api, task)
    assert (only["status"], only["error"]) == (11, "out of paper")


async def test_cancelling_goes_through_its_own_status(api: Api, performer: ScriptedApps) -> None:
    async def until_stopped(call: Call) -> None:
        call.come_to(TaskStatus.RUNNING)
        await call.stopped.wait()
        await asyncio.sleep(0.05)
        call.raised("stopped")

    performer.script = until_stopped
    task = await begun(api)
    await until(lambda: _status(api, task, 7))
    reading = asyncio.create_task(stream(api, task))
    await until(lambda: _followed(api))
    assert (await api.http.post(f"/tasks/{task}/cancel")).json()["data"]["status"] == 8
    lines = await reading
    assert [one["status"] if "data" not in one else one["data"]["status"] for one in lines] == [7, 8, 12]
    assert (await api.http.post(f"/tasks/{task}/cancel")).json()["data"]["status"] == 12  # and nothing changes


async def _status(api: Api, task: str, status: int) -> bool | None:
    return (await api.get(f"/tasks/{task}/status"))["data"]["status"] == status or None


async def test_server_sent_events_go_on_after_the_last_id(api: Api, performer: ScriptedApps) -> None:
    go_on = asyncio.Event()

    async def work(call: Call) -> None:
        call.come_to(TaskStatus.RUNNING)
        call.output(1)
        await go_on.wait()
        call.output(2)
        call.returned(3)

    performer.script = work
    task = await begun(api)
    await until(lambda: _status(api, task, 7))
    async with api.http.stream("GET", f"/tasks/{task}/stream") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        last, first = await anext(_events(response))
    assert (first["status"], first["output"]) == (7, 1)
    go_on.set()
    await ended(api, task)
    async with api.http.stream("GET", f"/tasks/{task}/stream", params={"after": last}) as response:
        rest = [one async for one in _events(response)]
    assert [one for _, one in rest][-1] == {}
    assert rest[-2][1]["output"] == 3
    after_the_end = await api.http.get(f"/tasks/{task}/stream", headers={"last-event-id": rest[-1][0]})
    assert after_the_end.status_code == 204
    assert (await api.http.get(f"/tasks/{task}/stream", headers={"last-event-id": "x"})).status_code == 400


async def _events(response: httpx2.Response) -> Any:
    at = ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            at = line[4:]
        elif line.startswith("data: "):
            yield at, json.loads(line[6:])


async def test_a_server_that_stops_breaks_streams_off(api: Api, performer: ScriptedApps) -> None:
    async def for_ever(call: Call) -> None:
        await asyncio.Event().wait()

    performer.script = for_ever
    reading = asyncio.create_task(stream(api, await begun(api)))
    await until(lambda: _followed(api))
    await api.stop()
    with pytest.raises(httpx2.RemoteProtocolError):
        await reading


async def test_lists_are_filtered_sorted_and_paged(api: Api, performer: ScriptedApps) -> None:
    async def fail_for_2(call: Call) -> None:
        if call.request.input == 2:
            call.raised("two")
        else:
            call.returned(call.request.input)

    performer.script = fail_for_2
    tasks = [await begun(api, input=number, function="more" if number % 2 else None) for number in range(5)]
    for task in tasks:
        await ended(api, task)

    async def listed(**body: Any) -> Any:
        response = await api.http.post("/tasks/list", json=body)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def inputs(page: Any) -> list[int]:
        return [one["input"] for one in page["items"]]

    assert inputs((await api.http.post("/tasks/list")).json()["data"]) == [4, 3, 2, 1, 0]
    assert inputs(await listed(sort=[{"field": "created_at", "dir": "asc"}])) == [0, 1, 2, 3, 4]
    first = await listed(limit=2)
    second = await listed(limit=2, cursor=first["next_cursor"])
    third = await listed(limit=2, cursor=second["next_cursor"])
    assert [inputs(page) for page in (first, second, third)] == [[4, 3], [2, 1], [0]]
    assert [page["has_next"] for page in (first, second, third)] == [True, True, False]
    assert inputs(await listed(limit=2, cursor=third["prev_cursor"], direction="prev")) == [2, 1]
    for filters, expected in (
        ([("status", "eq", 11)], [2]),
        ([("status", "in", ["completed", 11])], [4, 3, 2, 1, 0]),
        ([("status", "neq", "completed")], [2]),
        ([("function", "eq", "more")], [3, 1]),
        ([("app", "eq", "acme/stitch"), ("status", "lt", 11)], [4, 3, 1, 0]),
        ([("app", "eq", "acme/other")], []),
        ([("created_at", "gt", "2199-01-01T00:00:00Z")], []),
        ([("id", "eq", tasks[3])], [3]),
    ):
        asked = [{"field": field, "operator": how, "value": value} for field, how, value in filters]
        assert inputs(await listed(filters=asked)) == expected, filters
    assert inputs(await listed(search={"term": "TWO"})) == [2]
    refused = await api.http.post("/tasks/list", json={"filters": [{"field": "input", "value": 1}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    assert (await api.http.get("/tasks/featured")).json()["data"]["items"] == []


async def test_a_task_that_has_ended_may_be_removed(api: Api, performer: ScriptedApps) -> None:
    go_on = asyncio.Event()

    async def wait(call: Call) -> None:
        await go_on.wait()
        call.returned(1)

    performer.script = wait
    task = await begun(api)
    refused = await api.http.delete(f"/tasks/{task}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    go_on.set()
    await ended(api, task)
    removed = await api.http.delete(f"/tasks/{task}")
    assert (removed.status_code, removed.json()["data"]) == (200, None)
    assert (await api.http.get(f"/tasks/{task}")).status_code == 404


async def test_logs_and_timings(api: Api, performer: ScriptedApps) -> None:
    seen = asyncio.Event()

    async def work(call: Call) -> None:
        call.come_to(TaskStatus.RUNNING)
        call.log("reading")
        call.log("done")
        await seen.wait()
        call.returned(1)

    performer.script = work
    task = await begun(api)
    await until(lambda: _status(api, task, 7))
    logs = (await api.get(f"/tasks/{task}/logs"))["data"]
    assert [one["content"] for one in logs["logs"]] == ["reading\ndone\n"]
    assert [one["status"] for one in logs["events"]][-1] == 7
    seen.set()
    await ended(api, task)
    timings = (await api.get(f"/tasks/{task}/timings"))["data"]
    assert timings["events"][-1]["status"] == "completed"
    assert timings["total_duration_ms"] >= 0


async def test_nobody_knows_a_task_that_is_not_there(api: Api, subtests: pytest.Subtests) -> None:
    nobody = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
    for method, path in (
        ("GET", ""),
        ("GET", "/status"),
        ("GET", "/stream"),
        ("GET", "/logs"),
        ("GET", "/timings"),
        ("GET", "/telemetry"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ):
        for task in (nobody, "nonsense", "..%2F..%2Fetc"):
            with subtests.test(method=method, path=path, task=task):
                response = await api.http.request(method, f"/tasks/{task}{path}")
                assert response.status_code == 404
                assert response.json()["success"] is False


@pytest.mark.parametrize(
    "text",
    [
        b'{"n": 12345678901234567890123456789}',
        b'{"n": 9007199254740993}',
        b'{"n": 1e400}',
        b'{"n": -0.0}',
        b'{"s": "\\u0000\\ud83d\\ude00"}',
        b'{"s": "\\ud83d"}',
        b"[" * 1500 + b"]" * 1500,
        b'"just a text"',
        b"null",
    ],
)
async def test_whatever_the_input_is_it_is_run_or_refused(api: Api, performer: ScriptedApps, text: bytes) -> None:
    body = b'{"app": "acme/stitch", "input": %b}' % text
    response = await api.http.post("/apps/run", content=body)
    assert response.status_code in (200, 400), response.text
    if response.status_code == 200:
        assert (await ended(api, response.json()["data"]["id"]))["status"] == 10
    else:
        assert response.json()["error"]["code"] == "invalid_request"


async def test_a_stream_that_is_only_asked_about_does_not_begin(api: Api, performer: ScriptedApps) -> None:
    async def for_ever(call: Call) -> None:
        await asyncio.Event().wait()

    performer.script = for_ever
    task = await begun(api)
    asked = await api.http.head(f"/tasks/{task}/stream", headers=LINES)
    assert (asked.status_code, asked.headers["content-type"]) == (200, "application/x-ndjson")
    assert (await api.http.head("/tasks/nope/stream")).status_code == 404


async def test_there_are_no_more_streams_than_may_be(start: Start) -> None:
    api = await start(limits=Limits(max_streams=0))
    refused = await api.http.get("/tasks/01JABC/stream", headers=LINES)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert "max_streams" in refused.json()["detail"]
    assert refused.headers["retry-after"] == "5"
