"""The official clients, unmodified but for the URL and the key, do everything that they can with tasks, files, sessions
and apps against a real server with a real app."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.infsh_clients.conftest import Cutter, Serving, javascript_client, python_client

pytestmark = pytest.mark.slow


def statuses(updates: list[dict[str, Any]]) -> list[int]:
    return [one["status"] for one in updates]


def counts(updates: list[dict[str, Any]]) -> list[int]:
    """What was counted, once each."""
    seen = [one["output"]["count"] for one in updates if one.get("output")]
    return sorted(set(seen)) if seen == sorted(seen) else seen


def refused(outcome: dict[str, Any], status: int, code: str) -> None:
    assert (outcome["status"], outcome["code"]) == (status, code), outcome


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_python(serving: Serving, cutter: Cutter, tmp_path: Path, kind: str) -> None:
    done = python_client(kind, serving.url, cutter.url, tmp_path)

    for name in ("run", "wait_for_completion", "tasks.wait_for_completion", "get_task", "tasks.get"):
        assert done[name]["status"] == 10, name
        assert done[name]["output"] == {"count": done[name]["input"]["upto"]}, name
        assert done[name]["logs"][0]["content"].endswith(f"counted {done[name]['input']['upto']}\n"), name
    assert (done["tasks.run"]["status"], done["tasks.run"]["output"]["name"]) == (10, None)
    assert (done["run wait=False"]["status"], done["run wait=False"]["id"]) == (1, done["tasks.get"]["id"])
    for name, upto in (("run stream=True", 4), ("stream_task", 3), ("tasks.stream", 3)):
        assert statuses(done[name]) == sorted(statuses(done[name])), name
        assert counts(done[name]) == list(range(1, upto + 1)), name
        assert (done[name][-1]["status"], done[name][-1]["input"]["upto"]) == (10, upto), name
    spoken = [one["output"]["response"] for one in done["deltas"] if one.get("output")]
    assert spoken == sorted(spoken, key=len)
    assert {"one ", "one two ", "one two three "} >= set(spoken[:-1])
    for task in (done["deltas"][-1], done["deltas waited for"]):
        assert (task["status"], task["output"]["response"]) == (10, "one two three ")
    assert done["failed"] == {"type": "RuntimeError", "message": "out of luck"}
    for name in ("cancel", "tasks.cancel"):
        assert done[name].pop("seconds") < 2, name
        assert done[name] == {"type": "RuntimeError", "message": "task cancelled"}, name

    cut = done["cut stream"]["seen"]
    assert statuses(cut) == sorted(statuses(cut))
    seen = [one["output"]["count"] for one in cut if one.get("output")]
    assert seen == sorted(seen)
    if kind == "sync":
        assert cutter.cuts >= 2
        assert (done["cut stream"]["outcome"]["type"], cut[-1]["status"]) == (None, 10)
    else:  # the async client does not come back from a connection that breaks, whatever broke it
        assert done["cut stream"]["outcome"]["type"] == "ClientPayloadError"
    for task in (done["cut task"], cut[-1]) if kind == "sync" else (done["cut task"],):
        assert (task["status"], task["output"], task["input"]["upto"]) == (10, {"count": 20}, 20)
        assert task["logs"][0]["content"] == "".join(f"counted {number}\n" for number in range(1, 21))

    for name in ("upload_file bytes", "files.upload path", "upload_file data URI"):
        assert done[name]["uri"].startswith(serving.url), name
    shouted = done["files in the input"]
    assert shouted["output"]["text"] == "some words data words more words"
    assert shouted["output"]["capitals"].endswith("/capitals.txt")
    assert done["File in the input"]["output"]["text"] == "some words"
    assert sorted(one["role"] for one in done["tasks.files"]) == ["input", "input", "input", "output"]
    (made,) = done["tasks.files role"]
    assert urlsplit(made["uri"]).path == urlsplit(shouted["output"]["capitals"]).path
    assert made["filename"] == "capitals.txt"
    assert done["tasks.delete_files"] == {"deleted": [made["id"]], "skipped": []}
    refused(done["tasks.delete"], 404, "not_found")

    session = done["session"]["id"]
    assert [one["output"]["name"] for one in done["session"]["calls"]] == ["0", "1", "2"]
    calls = [one["output"]["calls"] for one in done["session"]["calls"]]
    assert calls == list(range(calls[0], calls[0] + 3))  # in the memory of one worker
    assert all(one["session_id"] == session for one in done["session"]["calls"])
    for name in ("handle.info", "sessions.get", "handle.keepalive", "sessions.keepalive"):
        assert (done[name]["id"], done[name]["status"], done[name]["call_count"]) == (session, "active", 4), name
    assert session in [one["id"] for one in done["sessions.list"]]
    assert done["handle.end"]["status"] == done["sessions.end"]["status"] == "ended"
    refused(done["ended session"], 410, "SESSION_ENDED")
    refused(done["expired session"], 410, "SESSION_EXPIRED")
    refused(done["unknown session"], 404, "SESSION_NOT_FOUND")

    refused(done["unknown app"], 404, "not_found")
    refused(done["unknown task"], 404, "not_found")
    refused(done["bad timeout"], 400, "invalid_request")
    assert done["missing secret"]["type"] == "RequirementsNotMetError"
    assert done["missing secret"]["keys"] == ["KEY"]
    assert "upto" in done["bad input"]["message"]


@pytest.mark.parametrize("kind", ["stream", "poll"])
def test_javascript(serving: Serving, cutter: Cutter, tmp_path: Path, kind: str) -> None:
    done = javascript_client(kind, serving.url, cutter.url, tmp_path)

    assert (done["run"]["status"], done["run"]["output"]) == (10, {"count": 4})
    assert done["run"]["logs"][0]["content"] == "counted 1\ncounted 2\ncounted 3\ncounted 4\n"
    updates = [*done["onUpdate"][:-1], *done["onPartialUpdate"], done["onUpdate"][-1]]
    assert statuses(updates) == sorted(statuses(updates))
    if kind == "stream":
        assert counts(updates) == [1, 2, 3, 4]
        assert [one["seq"] for one in done["onDelta"]["deltas"]] == [1, 2, 3]
        assert "".join(one["delta"]["response"] for one in done["onDelta"]["deltas"]) == "one two three "
    assert done["onDelta"]["task"]["output"]["response"] == "one two three "
    assert done["run wait: false"]["status"] == 1
    for name in ("tasks.watch", "tasks.get", "getTask"):
        assert (done[name]["id"], done[name]["output"]) == (done["run wait: false"]["id"], {"count": 2}), name
    assert done["tasks.create"]["status"] == 1
    assert done["tasks.run"]["output"]["name"] == "x"
    assert done["failed"]["message"] == "out of luck"
    for name in ("cancel", "tasks.cancel"):
        assert done[name]["message"] == "task cancelled", name
    first, following = done["tasks.list"], done["tasks.list next"]
    assert (len(first["items"]), first["has_next"]) == (3, True)
    assert all(one["status"] == 10 for one in first["items"])
    assert following["has_previous"]
    assert not {one["id"] for one in first["items"]} & {one["id"] for one in following["items"]}
    assert 12 in statuses(done["tasks.list all"]["items"])
    assert done["tasks.listFeatured"]["items"] == []
    assert done["tasks.getLogs"]["logs"][0]["content"].startswith("counted 1\n")
    assert done["tasks.getTimings"]["events"][-1]["status"] == "completed"
    assert {one["label"] for one in done["tasks.getTimings"]["groups"]} >= {"queued", "running"}
    assert done["tasks.getTelemetry"]["worker_id"]
    refused(done["tasks.updateVisibility"], 404, "not_found")
    refused(done["tasks.delete"], 404, "not_found")
    for name in ("tasks.stream", "streamTask"):
        assert (counts(done[name]), done[name][-1]["status"]) == ([1, 2, 3], 10), name
    assert [one["status"] for one in done["streamable"]] == [10]

    assert cutter.cuts >= 4
    if kind == "stream":
        assert done["cut run"]["type"] == "TypeError"  # and no promise that nobody ever keeps
    parts = done["cut EventSource"]
    told = [one["data"]["output"]["count"] for one in parts if one.get("fields") == ["output"]]
    first = (parts[0]["output"] or {"count": 0})["count"]
    assert told == list(range(first + 1, 21))  # nothing is missing, and nothing comes twice
    assert (parts[-1]["status"], parts[-1]["output"]) == (10, {"count": 20})
    told = [one["output"]["count"] for one in done["cut StreamManager"] if one.get("output")]
    assert told == sorted(told)
    assert (told[-1], done["cut StreamManager"][-1]["status"]) == (20, 10)
    for name in ("bare objects", "by a proxy"):
        assert (done[name]["status"], done[name]["output"]) == (10, {"count": 2}), name
    for name in ("bare errors", "errors by a proxy"):
        refused(done[name], 404, "not_found")

    for name in ("uploadFile", "files.upload", "upload data URI"):
        assert done[name]["uri"].startswith(serving.url), name
    assert done["processInput"]["deep"][0].startswith(serving.url)
    assert done["files in the input"]["output"]["text"] == "some words data words more words"
    assert done["download"] == "SOME WORDS DATA WORDS MORE WORDS"
    assert (len(done["files.list"]["items"]), done["files.list"]["has_next"]) == (2, True)
    assert done["files.get"]["filename"] == "words.txt"
    refused(done["files.delete"], 404, "not_found")

    session = done["session"]
    assert session["first"]["session_id"] == session["second"]["session_id"] == session["id"]
    assert session["second"]["output"]["calls"] == session["first"]["output"]["calls"] + 1
    assert (done["sessions.get"]["status"], done["sessions.get"]["call_count"]) == ("active", 2)
    assert session["id"] in [one["id"] for one in done["sessions.list"]]
    assert done["sessions.keepalive"]["expires_at"] >= done["sessions.get"]["expires_at"]
    assert done["sessions.end"]["status"] == "ended"
    refused(done["ended session"], 410, "SESSION_ENDED")
    refused(done["unknown session"], 404, "SESSION_NOT_FOUND")

    app = done["apps.get"]
    assert (app["namespace"], app["name"]) == ("acme", "everything")
    assert done["apps.getByName"] == app
    assert [one["name"] for one in done["apps.list"]["items"]] == ["everything"]
    assert [one["id"] for one in done["apps.listVersions"]["items"]] == [app["version_id"]]
    assert done["apps.getByVersionId"]["functions"]["speak"]["capabilities"] == ["llm"]

    refused(done["unknown app"], 404, "not_found")
    assert (done["missing secret"]["type"], done["missing secret"]["keys"]) == ("RequirementsNotMetException", ["KEY"])
    assert "upto" in done["bad input"]["message"]
    for name in ("flows.list", "engines.list", "secrets.list"):
        assert done[name]["items"] == [], name
    assert done["teams.list"] == []
    refused(done["flows.get"], 404, "not_found")
