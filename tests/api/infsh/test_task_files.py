"""The files of a task over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from stepwell.model.event import DEV_ENV
from tests.api.api import Api
from tests.api.infsh.performing import Call, ScriptedApps
from tests.api.infsh.test_tasks import ask, begun, ended


async def uploaded(api: Api, content: bytes, name: str) -> dict[str, Any]:
    made = await api.http.post("/files", json={"files": [{"uri": "", "filename": name, "content_type": "text/plain"}]})
    (file,) = made.json()["data"]
    assert (await api.http.put(file["upload_url"], content=content)).status_code == 200
    return dict(file)


async def names(api: Api, task: str, **query: str) -> list[tuple[str, str]]:
    return [(one["role"], one["filename"]) for one in (await api.get(f"/tasks/{task}/files", **query))["data"]]


async def test_files_of_the_input_are_those_of_the_task(api: Api, performer: ScriptedApps) -> None:
    first, second = await uploaded(api, b"one", "one.txt"), await uploaded(api, b"two", "two.txt")
    await uploaded(api, b"three", "three.txt")
    task = await begun(api, input={"file": first["uri"], "deep": [{"more": second["uri"]}], "text": "/f/nobody/x"})
    await ended(api, task)
    files = api.server.site.files
    assert files is not None
    made = await files.find(DEV_ENV, (await uploaded(api, b"made", "made.txt"))["id"])
    await files.assign(made, task, "output")
    assert sorted(await names(api, task)) == [("input", "one.txt"), ("input", "two.txt"), ("output", "made.txt")]
    assert await names(api, task, role="output") == [("output", "made.txt")]
    assert (await api.http.get(f"/tasks/{task}/files", params={"role": "both"})).status_code == 400
    removed = await api.http.delete(f"/tasks/{task}/files", params={"role": "output"})
    assert removed.json()["data"] == {"deleted": [made.id], "skipped": []}
    assert sorted(await names(api, task)) == [("input", "one.txt"), ("input", "two.txt")]
    assert (await api.http.delete(f"/tasks/{task}", params={"files": "true"})).status_code == 200
    assert (await api.http.get(first["uri"])).status_code == 404


async def test_files_stay_when_only_the_task_goes(api: Api, performer: ScriptedApps) -> None:
    file = await uploaded(api, b"one", "one.txt")
    task = await begun(api, input={"file": file["uri"]})
    await ended(api, task)
    assert (await api.http.delete(f"/tasks/{task}")).status_code == 200
    assert (await api.http.get(file["uri"])).content == b"one"


async def test_files_of_a_task_that_goes_on_stay(api: Api, performer: ScriptedApps) -> None:
    async def for_ever(call: Call) -> None:
        await asyncio.Event().wait()

    performer.script = for_ever
    task = (await ask(api)).json()["data"]["id"]
    refused = await api.http.delete(f"/tasks/{task}/files")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert (await api.http.get("/tasks/nope/files")).status_code == 404
