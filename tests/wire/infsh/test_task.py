"""Tasks and apps as clients see them."""

import json

import msgspec

from stepwell.model.app import App, AppFunction, AppVersion, Needed, Resources
from stepwell.model.task import TaskPhase, TaskRequest, TaskStatus
from stepwell.wire.infsh import task
from stepwell.wire.infsh.app import app_dto
from stepwell.wire.infsh.task import TaskView

VERSION = AppVersion(
    namespace="acme",
    name="stitch",
    version="k3f9",
    checksum="c",
    secrets=(Needed(key="KEY", optional=True),),
    resources=Resources(gpus=1, vram_bytes=8, gpu_type="nvidia"),
    functions={"run": AppFunction(name="run", input_schema={"type": "object"}), "more": AppFunction(name="more")},
)
VIEW = TaskView(
    id="01JABCDEFGH",
    request=TaskRequest(app=VERSION.reference, function="run", input={"x": 1}, session="sess"),
    status=TaskStatus.COMPLETED,
    created_at=1_000,
    updated_at=4_500,
    output=msgspec.Raw(b'{"y": 2}'),
    logs={1: "hello\n"},
    phases=[
        TaskPhase(TaskStatus.RECEIVED, 1_000),
        TaskPhase(TaskStatus.SETTING_UP, 1_500),
        TaskPhase(TaskStatus.RUNNING, 3_500),
        TaskPhase(TaskStatus.COMPLETED, 4_500),
    ],
    version=VERSION,
)


def test_a_whole_task_has_what_clients_read() -> None:
    shown = json.loads(msgspec.json.encode(task.whole(VIEW)))
    assert (
        shown
        | {
            "id": "01JABCDEFGH",
            "short_id": "abcdefgh",
            "status": 10,
            "created_at": "1970-01-01T00:00:01.000Z",
            "updated_at": "1970-01-01T00:00:04.500Z",
            "input": {"x": 1},
            "output": {"y": 2},
            "error": None,
            "session_id": "sess",
            "function": "run",
            "app_id": VERSION.app_id,
            "app_version_id": VERSION.id,
        }
        == shown
    )
    assert shown["logs"][0]["content"] == "hello\n"
    assert [one["status"] for one in shown["events"]] == [1, 6, 7, 10]


def test_a_session_id_is_null_where_there_is_none() -> None:
    alone = msgspec.structs.replace(VIEW, request=TaskRequest(app="a/b@c", function="run"), version=None)
    assert (task.whole(alone)["session_id"], task.slim(alone)["session_id"]) == (None, None)
    assert task.whole(alone)["app"] is None


def test_timings_add_up() -> None:
    shown = task.timings(VIEW, now=99_000)
    assert (shown["total_duration_ms"], shown["total_duration"]) == (3_500, "3.5s")
    assert [(one["label"], one["duration_ms"]) for one in shown["groups"]] == [
        ("queued", 500),
        ("preparing", 2_000),
        ("running", 1_000),
    ]
    assert [(one["status"], one["duration_ms"], one["next_status"]) for one in shown["events"]] == [
        ("received", 500, "setting_up"),
        ("setting_up", 2_000, "running"),
        ("running", 1_000, "completed"),
        ("completed", 0, ""),
    ]


def test_what_goes_on_lasts_until_now() -> None:
    running = msgspec.structs.replace(VIEW, status=TaskStatus.RUNNING, phases=VIEW.phases[:3])
    assert task.timings(running, now=10_000)["total_duration_ms"] == 9_000


def test_an_app_is_shown_with_its_version() -> None:
    app = App(namespace="acme", name="stitch", current="k3f9", versions=("k3f9",))
    shown = app_dto(app, VERSION, "more")
    assert (shown["id"], shown["version_id"], shown["resolved_function"]) == (VERSION.app_id, VERSION.id, "more")
    version = shown["version"]
    assert version["input_schema"] == {"type": "object"}
    assert version["required_secrets"] == [{"key": "KEY", "description": "", "optional": True}]
    assert version["resources"] == {"gpu": {"count": 1, "vram": 8, "type": "nvidia"}, "ram": 0}
    assert set(version["functions"]) == {"run", "more"}
