"""What clients ask about apps and what they make of the answers, by a server that answers as it is told."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import stepwell
from stepwell.apps import App, File, batched
from stepwell.apps.declared import read_declared
from stepwell.model.errors import InvalidInput, NotFound, Unauthorized
from stepwell.sdk.client import follow, requests
from stepwell.sdk.client.errors import ServerError
from stepwell.sdk.errors import RecordedResultChanged
from stepwell.sdk.inference.errors import TaskRefused
from stepwell.sdk.inference.progress import Progress
from stepwell.sdk.inference.values import FileInfo, input_text, local_files, output_type, reference_of
from stepwell.sdk.types import UNTYPED
from tests.sdk_client.scripted import Asked, Reply, scripted

TASK = "01JZ0000000000000000000001"
STREAM = f"/tasks/{TASK}/stream"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(follow, "SHORTEST_PAUSE_S", 0.001)


def whole(status: int, **more: Any) -> dict[str, Any]:
    return {"id": TASK, "status": status, "output": None, "logs": [], "app": {"namespace": "a", "name": "b"}, **more}


def line(value: Any, at: str = "", event: str = "") -> bytes:
    name, place = f"event: {event}\n" if event else "", f"id: {at}\n" if at else ""
    return f"{name}{place}data: {json.dumps(value)}\n\n".encode()


def part(at: str, **fields: Any) -> bytes:
    return line({"data": {"id": TASK, "status": 7, **fields}, "fields": list(fields)}, at)


def delta(at: str, number: int, text: str) -> bytes:
    data = {"delta": {"response": text}, "seq": number, "resource_id": ""}
    return line({"event": "delta", "data": data}, at, "delta")


def logs(text: str, kind: int = 4) -> list[dict[str, Any]]:
    return [{"log_type": kind, "content": text}]


def of_streams(*streams: Any) -> Callable[[Asked], Reply]:
    """Each request for the stream gets the next of `streams`: pieces that are then cut off, or a reply."""
    left = iter(streams)

    def script(asked: Asked) -> Reply:
        if asked.path != STREAM:
            return Reply(404, {"detail": f"no {asked.path}"})
        given = next(left)
        return given if isinstance(given, Reply) else Reply(pieces=iter(given), cut=True)

    return script


def updates_of(kind: str, url: str) -> list[Any]:
    if kind == "sync":
        with stepwell.Client(url) as client:
            return list(client.tasks.attach(TASK).updates())

    async def gathered() -> list[Any]:
        async with stepwell.AsyncClient(url) as client:
            return [update async for update in client.tasks.attach(TASK).updates()]

    return asyncio.run(gathered())


# Streams

S, L, O, D, R = (  # noqa: E741
    stepwell.StatusUpdate, stepwell.LogUpdate, stepwell.OutputUpdate, stepwell.DeltaUpdate, stepwell.ResetUpdate,
)  # fmt: skip
RUNNING, DONE = stepwell.TaskStatus.RUNNING, stepwell.TaskStatus.COMPLETED


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_that_is_cut_goes_on_where_it_was(kind: str) -> None:
    script = of_streams(
        [line(whole(2)), part("x.1.7.0", status=7), part("x.2.7.1", logs=logs("a\n")), b'data: {"id": "half'],
        Reply(503, {"detail": "stopping"}),
        [part("x.3.7.2", logs=logs("a\nb\n")), part("x.4.7.2", output={"n": 1}), line({"type": "heartbeat"})],
        [line(whole(10, output={"n": 2}, logs=logs("a\nb\nc\n")), "end"), line({}, "end", "done")],
    )
    with scripted(script) as server:
        updates = updates_of(kind, server.url)
    assert updates == [
        S(stepwell.TaskStatus.QUEUED), S(RUNNING), L("a\n"), L("b\n"), O({"n": 1}), L("c\n"), O({"n": 2}), S(DONE),
    ]  # fmt: skip
    assert [one.headers.get("last-event-id") for one in server.asked] == [None, "x.2.7.1", "x.2.7.1", "x.4.7.2"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_pieces_are_merged_and_told_once(kind: str) -> None:
    script = of_streams(
        [line(whole(7), "x.1"), delta("x.2", 1, "Hel"), delta("x.3", 2, "lo")],
        [delta("x.3", 2, "lo"), delta("x.4", 3, "!"), line(whole(10, output={"response": "Hello!"}), "end")],
    )
    with scripted(script) as server:
        updates = updates_of(kind, server.url)
    assert [(one.delta["response"], one.merged["response"]) for one in updates if isinstance(one, D)] == [
        ("Hel", "Hel"), ("lo", "Hello"), ("!", "Hello!"),
    ]  # fmt: skip
    assert updates[-2:] == [O({"response": "Hello!"}), S(DONE)]


def test_who_cannot_go_on_is_told_that_what_came_is_void() -> None:
    script = of_streams(
        [line(whole(7), "x.1"), delta("x.2", 1, "Hel")],
        [line(whole(7, output={"response": "Help"}), "y.9"), delta("y.10", 7, " me"), line(whole(12), "end")],
    )
    with scripted(script) as server:
        updates = updates_of("sync", server.url)
    assert updates[2:5] == [R(), O({"response": "Help"}), D({"response": " me"}, {"response": "Help me"})]
    assert server.asked[1].headers["last-event-id"] == "x.2"


def test_a_call_that_begins_again_voids_its_outputs() -> None:
    void = line({"event": "reset", "data": {"id": TASK, "status": 7, "output": None}, "fields": ["output"]}, "x.3")
    again = [part("x.2", output={"n": 1}), void, part("x.4", output={"n": 1}), line(whole(10, output={"n": 1}))]
    with scripted(of_streams([line(whole(7)), *again])) as server:
        assert updates_of("sync", server.url) == [S(RUNNING), O({"n": 1}), R(), O({"n": 1}), S(DONE)]


def test_an_id_that_the_server_does_not_know_any_more_is_given_up() -> None:
    script = of_streams(
        [line(whole(7), "old")], Reply(400, {"detail": "Last-Event-ID must be"}), [line(whole(10, output=1))]
    )
    with scripted(script) as server:
        assert updates_of("sync", server.url) == [S(RUNNING), O(1), S(DONE)]
    assert [one.headers.get("last-event-id") for one in server.asked] == [None, "old", None]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(404, {"detail": "no task"}), NotFound),
        (Reply(401, {"detail": "who are you?"}), Unauthorized),
        (Reply(200, text="<html>", headers={"content-type": "text/html"}), ServerError),
    ],
)
def test_a_stream_that_is_none_is_an_error(reply: Reply, error: type[Exception]) -> None:
    with scripted(of_streams(reply)) as server, pytest.raises(error):
        updates_of("sync", server.url)


# Beginning


def begun(asked: Asked, **more: Any) -> Reply:
    return Reply(200, {"success": True, "data": {"id": TASK, "status": 1, "session_id": None, **more}})


def test_a_task_is_begun_once_however_often_it_was_tried() -> None:
    tries = iter([Reply(cut=True), Reply(503, {"detail": "later"}), None])

    with scripted(lambda asked: next(tries) or begun(asked)) as server, stepwell.Client(server.url) as client:
        task = client.tasks.start("a/b", {"n": 1}, setup={"m": 2}, variant="large", webhook="https://h/w", key="k")
        assert task.id == TASK
    assert len(server.asked) == 3
    assert {one.headers["idempotency-key"] for one in server.asked} == {"k"}
    assert server.asked[0].json() == {
        "app": "a/b", "input": {"n": 1}, "setup": {"m": 2}, "variant": "large", "webhook": "https://h/w",
    }  # fmt: skip


def test_tasks_without_a_key_get_one_each() -> None:
    with scripted(begun) as server, stepwell.Client(server.url, api_key="secret-key") as client:
        client.tasks.start("a/b", None)
        client.tasks.start("a/b", None)
    first, second = server.asked
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]
    assert first.headers["authorization"].startswith("Bearer ")
    assert first.json() == {"app": "a/b", "input": None}


REFUSALS: list[tuple[int, dict[str, Any], type[Exception], str]] = [
    (404, {"detail": "app 'a/b' does not exist"}, stepwell.AppNotFound, "does not exist"),
    (404, {"error": {"code": "SESSION_NOT_FOUND", "message": "no session s"}}, stepwell.SessionOver, "no session"),
    (410, {"detail": "ended", "error": {"code": "SESSION_ENDED"}}, stepwell.SessionOver, "ended"),
    (500, {"detail": "gone", "error": {"code": "WORKER_LOST"}}, stepwell.SessionLost, "gone"),
    (409, {"detail": "held", "error": {"code": "WORKER_LEASED"}}, TaskRefused, "409: held"),
    (410, {"detail": "app a/b is retired", "error": {"code": "app_retired"}}, TaskRefused, "is retired"),
    (401, {"detail": "no key"}, Unauthorized, "no key; set STEPWELL_API_KEY"),
    (400, {"detail": "variant", "error": {"meta": {"field": "variant"}}}, InvalidInput, "variant"),
    (412, {"detail": "KEY is not set", "errors": [{"key": "KEY"}]}, stepwell.RequirementsMissing, "KEY is not set"),
]


@pytest.mark.parametrize(("status", "body", "error", "told"), REFUSALS)
def test_a_refusal_says_what_it_means(status: int, body: dict[str, Any], error: type[Exception], told: str) -> None:
    with scripted(lambda _: Reply(status, body)) as server, stepwell.Client(server.url) as client:
        with pytest.raises(error, match=told) as caught:
            client.tasks.start("a/b", {}, session="s1")
    found: Any = caught.value
    if isinstance(found, stepwell.SessionOver):
        assert (found.session, found.reason) == ("s1", body["error"]["code"])
    if isinstance(found, stepwell.RequirementsMissing):
        assert found.keys == ("KEY",)
    if isinstance(found, TaskRefused):
        assert found.reason == body["error"]["code"]


def test_what_is_no_server_of_ours_is_said() -> None:
    with scripted(lambda _: Reply(200, text="<html>")) as server, stepwell.Client(server.url) as client:
        with pytest.raises(ServerError, match="is STEPWELL_URL"):
            client.apps.list()


def test_an_output_of_another_type_is_an_error() -> None:
    def script(asked: Asked) -> Reply:
        return begun(asked) if asked.method == "POST" else Reply(pieces=iter([line(whole(10, output={"n": "x"}))]))

    with scripted(script) as server, stepwell.Client(server.url) as client:
        assert client.tasks.run("a/b", {}) == {"n": "x"}
        with pytest.raises(RecordedResultChanged, match="does not read"):
            client.tasks.run("a/b", {}, output=dict[str, int])


def test_lists_are_read_page_by_page() -> None:
    def script(asked: Asked) -> Reply:
        wanted = asked.json()
        page = int(wanted.get("cursor", 0))
        items = [whole(10) for _ in range(wanted["limit"])]
        return Reply(200, {"data": {"items": items, "next_cursor": str(page + 1), "has_next": page < 1}})

    with scripted(script) as server, stepwell.Client(server.url) as client:
        assert len(client.tasks.list(app="a/b", status="failed", session="s", limit=150)) == 150
    first, second = (one.json() for one in server.asked)
    assert (first["limit"], second["limit"], second["cursor"]) == (100, 50, "1")
    assert {one["field"]: one["value"] for one in first["filters"]} == {"app": "a/b", "status": 11, "session_id": "s"}


# Files


def keeper(kept: dict[str, bytes]) -> Callable[[Asked], Reply]:
    def script(asked: Asked) -> Reply:
        if asked.path == "/files":
            (entry,) = asked.json()["files"]
            name = entry.get("filename", "")
            upload_url = f"http://{asked.headers['host']}/up/1"
            return Reply(200, {"data": [{"id": name, "uri": f"https://host/{name}", "upload_url": upload_url}]})
        if asked.method == "PUT":
            kept[asked.path] = asked.body
            return Reply(200, {"data": {}})
        return begun(asked)

    return script


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_files_of_an_input_are_uploaded_once_and_without_a_key(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a cat.png"
    path.write_bytes(b"x" * 600_000)
    kept: dict[str, bytes] = {}
    given = {"one": path, "same": [File(path)], "there": File("https://h/x.png"), "text": str(path)}
    with scripted(keeper(kept)) as server:
        if kind == "sync":
            with stepwell.Client(server.url, api_key="k") as client:
                client.tasks.start("a/b", given)
        else:

            async def asynchronous() -> None:
                async with stepwell.AsyncClient(server.url, api_key="k") as client:
                    await client.tasks.start("a/b", given)

            asyncio.run(asynchronous())
    assert list(kept.values()) == [path.read_bytes()]
    announced, put, run = server.asked
    assert announced.json() == {"files": [{"filename": "a cat.png", "content_type": "image/png", "size": 600_000}]}
    assert "authorization" not in put.headers
    assert (put.headers["content-type"], put.headers["content-length"]) == ("image/png", "600000")
    uri = "https://host/a cat.png"
    assert run.json()["input"] == {"one": uri, "same": [uri], "there": "https://h/x.png", "text": str(path)}


# Values


class Colour(BaseModel):
    name: str


@dataclasses.dataclass
class Point:
    x: int
    colour: Colour


def test_inputs_become_json() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    kept = FileInfo(id="f1", uri="http://stepwell/f/f1")
    given = {"p": Point(1, Colour(name="red")), "t": (1, 2), "at": moment, "id": uuid.UUID(int=1), "file": kept}
    assert json.loads(input_text(given, {})) == {
        "p": {"x": 1, "colour": {"name": "red"}},
        "t": [1, 2],
        "at": "2026-01-02T00:00:00Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "file": "http://stepwell/f/f1",
    }
    assert local_files(given) == []
    for wrong in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(InvalidInput, match="no form in JSON"):
            input_text(wrong, {})


class TextTools2(App):
    async def run(self, input: Colour) -> Colour: ...  # type: ignore[empty-body]

    async def stream(self, input: Colour) -> AsyncIterator[Point]:
        yield Point(1, input)

    def pulled(self, input: Colour) -> Iterator[Point]:
        yield Point(1, input)

    @batched()
    async def many(self, inputs: list[Colour]) -> list[Point]:
        return []

    def untyped(self, input):  # type: ignore[no-untyped-def]
        return input


def test_the_type_of_an_output_is_that_of_the_function() -> None:
    wanted: Mapping[str, Any] = {
        "": Colour, "run": Colour, "stream": Point, "pulled": Point, "many": Point, "untyped": UNTYPED, "none": UNTYPED,
    }  # fmt: skip
    assert {name: output_type(TextTools2, name, None) for name in wanted} == wanted
    assert output_type("a/b", "run", None) is UNTYPED
    assert output_type(TextTools2, "run", int) is int


def test_a_class_is_called_as_it_is_when_it_is_deployed(tmp_path: Path) -> None:
    for name in ("Embed", "TextTools2", "OCRPage", "My_App", "V2"):
        code = f"from stepwell.apps import App\nclass {name}(App): ..."
        (tmp_path / "app.py").write_text(code)
        made: dict[str, Any] = {}
        exec(code, made)
        assert reference_of(made[name]) == read_declared(tmp_path / "app.py").values["name"]
    assert reference_of("a/b@x") == "a/b@x"
    assert reference_of(type("Named", (App,), {"name": "acme/x"})) == "acme/x"
    with pytest.raises(InvalidInput, match="found int"):
        reference_of(5)  # type: ignore[arg-type]


# How far it is


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for shown, wanted, expected in ((Terminal(), True, "█"), (Terminal(), False, ""), (io.StringIO(), True, "")):
        monkeypatch.setattr(sys, "stderr", shown)
        with Progress(2, wanted) as progress:
            progress.advance()
            progress.advance()
        assert (expected in shown.getvalue()) if expected else shown.getvalue() == ""
        if expected:
            assert shown.getvalue().endswith("█ 2/2\n")
    with Progress(0, True) as progress:
        pass
