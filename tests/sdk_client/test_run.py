"""Following a run to its end: results, failures, lost connections, servers that cannot be followed. Both clients."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import stepwell
from stepwell.model.errors import NotFound
from stepwell.sdk.client import follow, requests
from stepwell.sdk.client.address import address_of
from stepwell.sdk.client.async_client import AsyncClient
from stepwell.sdk.client.client import Client
from stepwell.sdk.client.errors import ResultTimeout, RunCancelled, RunFailed, ServerUnreachable
from stepwell.sdk.client.exchange import Answer
from stepwell.sdk.client.follow import Update
from stepwell.sdk.client.sse import EventStream
from stepwell.sdk.errors import RecordedResultChanged
from tests.sdk_client.scripted import Asked, Reply, Scripted, change, scripted, the_end

RUN = "01JZ0000000000000000000001"
FOLLOW = f"/api/runs/{RUN}/follow"
STREAM = f"/api/runs/{RUN}/stream"
DETAIL = f"/api/runs/{RUN}"


@dataclass
class Summary:
    title: str


service = stepwell.Service("support")


@service.function(on="support/e")
async def summarize(ctx: stepwell.Context[Any]) -> Summary:
    return Summary("")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(follow, "SHORTEST_PAUSE_S", 0.001)


CHANGES = [
    change(1, "run", status="QUEUED"),
    change(3, "step", step="0a", name="charge", status="COMPLETED"),
    change(4, "step", step="0b", name="nap", status="SLEEPING", until="2026-08-21T10:00:01.000Z"),
    change(5, "step", step="0b", name="", status="COMPLETED"),
    change(6, "run", status="COMPLETED"),
]
COMPLETED = {"id": RUN, "function": "support-summarize", "status": "COMPLETED", "output": {"title": "Fire"}}
SEEN = [
    ("run", "QUEUED", None),
    ("step", "COMPLETED", "charge"),
    ("step", "SLEEPING", "nap"),
    ("step", "COMPLETED", "nap"),
    ("run", "COMPLETED", None),
]


def a_run(detail: Any, *streams: list[bytes] | Reply) -> Any:
    """Each request to follow gets the next of `streams`."""
    left = iter(streams)

    def script(asked: Asked) -> Reply:
        if asked.path in {FOLLOW, STREAM}:
            given = next(left)
            return given if isinstance(given, Reply) else Reply(pieces=iter(given))
        if asked.path == DETAIL:
            return Reply(value=detail() if callable(detail) else detail)
        if asked.path.endswith("/invoke"):
            return Reply(201, {"run_id": RUN})
        return Reply(404, {"error": f"nothing answers at {asked.path}", "status": 404})

    return scripted(script)


@pytest.fixture(params=["sync", "async"])
def client_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def result_of(kind: str, server: Scripted, timeout: Any = 5, output: Any = Summary, fresh: bool = False) -> Any:
    if kind == "sync":
        with Client(server.url) as client:
            run = client.start("a-b", output=output) if fresh else client.run(RUN, output=output)
            return run.result(timeout)

    async def main() -> Any:
        async with AsyncClient(server.url) as client:
            run = await client.start("a-b", output=output) if fresh else client.run(RUN, output=output)
            return await run.result(timeout)

    return asyncio.run(main())


def updates_of(kind: str, server: Scripted) -> list[Update]:
    if kind == "sync":
        with Client(server.url) as client:
            return list(client.run(RUN).stream())

    async def main() -> list[Update]:
        async with AsyncClient(server.url) as client:
            return [update async for update in client.run(RUN).stream()]

    return asyncio.run(main())


def shown(updates: list[Update]) -> list[tuple[str, str, str | None]]:
    return [(one.kind, one.status, one.step) for one in updates]


def test_a_result_comes_as_the_type_of_the_function(client_kind: str) -> None:
    with a_run(COMPLETED, [*CHANGES, the_end(6, "COMPLETED")]) as server:
        assert result_of(client_kind, server) == Summary("Fire")
    assert [asked.path for asked in server.asked] == [FOLLOW, DETAIL]


def test_a_started_function_gives_its_own_type() -> None:
    with a_run(COMPLETED, [*CHANGES, the_end(6, "COMPLETED")]) as server, Client(server.url) as client:
        assert client.start(summarize, {"n": 1}).result() == Summary("Fire")


def test_a_failed_run_raises_with_the_step_that_failed_it(client_kind: str) -> None:
    error = {"name": "ValueError", "message": "no such card", "step": "charge", "stack": "Traceback ..."}
    failed = {"id": RUN, "function": "support-summarize", "status": "FAILED", "error": error}
    with a_run(failed, [the_end(3, "FAILED")]) as server, pytest.raises(RunFailed) as caught:
        result_of(client_kind, server)
    failure = caught.value
    assert str(failure) == f"step 'charge' of support-summarize failed in run {RUN}: ValueError: no such card"
    assert (failure.step, failure.name, failure.message, failure.stack) == (
        "charge", "ValueError", "no such card", "Traceback ...",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "step"),
    [
        ({"name": "E", "message": "m"}, None),
        ({"name": "E", "message": "m", "step": "ship"}, "ship"),
        ({"name": "E", "message": "m", "cause": {"name": "F", "message": "n", "step": "ship"}}, None),
        ("only text", None),
        (None, None),
    ],
)
def test_a_step_is_named_only_if_the_error_is_its_own(error: Any, step: str | None) -> None:
    failed = {"id": RUN, "function": "f", "status": "FAILED", "error": error}
    with a_run(failed, [the_end(3, "FAILED")]) as server, pytest.raises(RunFailed) as caught:
        result_of("sync", server)
    assert caught.value.step == step


def test_a_cancelled_run_has_no_result(client_kind: str) -> None:
    cancelled = {"id": RUN, "function": "f", "status": "CANCELLED"}
    with a_run(cancelled, [the_end(2, "CANCELLED")]) as server, pytest.raises(RunCancelled, match=RUN):
        result_of(client_kind, server)


def test_a_result_of_another_shape_names_the_run() -> None:
    other = {**COMPLETED, "output": {"headline": "Fire"}}
    with a_run(other, [the_end(6, "COMPLETED")]) as server, pytest.raises(RecordedResultChanged, match=RUN):
        result_of("sync", server)


def test_a_stream_tells_every_change_once_and_then_ends(client_kind: str) -> None:
    with a_run(COMPLETED, [*CHANGES, the_end(6, "COMPLETED")]) as server:
        updates = updates_of(client_kind, server)
    assert shown(updates) == SEEN
    assert updates[2].details["until"] == "2026-08-21T10:00:01.000Z"
    assert updates[0].at is not None
    assert all(update.text == "" for update in updates)


def test_deltas_are_text_and_notes_are_not(client_kind: str) -> None:
    def piece(number: int, text: str, kind: str = "text") -> bytes:
        return change(number, "delta", step="0a", name="say", kind=kind, text=text)

    pieces = [piece(1, "Hel"), change(2, "note", text="slow"), piece(3, "Hm", "reasoning"), piece(4, "lo")]
    with a_run(COMPLETED, [*pieces, change(5, "news", text="?"), the_end(5, "COMPLETED")]) as server:
        updates = updates_of(client_kind, server)
        assert [asked.path for asked in server.asked] == [STREAM]
    assert "".join(update.text for update in updates) == "Hello"
    assert [(update.kind, update.step) for update in updates if update.details.get("text") == "Hm"] == [
        ("delta", "say")
    ]


def test_a_lost_connection_is_resumed_after_the_last_change(client_kind: str) -> None:
    half = CHANGES[1][:20]
    streams = [
        Reply(pieces=iter([CHANGES[0], half]), cut=True),
        Reply(cut=True),
        Reply(503, {"error": "starting"}),
        Reply(pieces=iter([CHANGES[1], b": still here\n\n", CHANGES[2]])),  # the server said goodbye
        Reply(pieces=iter([CHANGES[3], CHANGES[4], the_end(6, "COMPLETED")])),
    ]
    with a_run(COMPLETED, *streams) as server:
        assert shown(updates_of(client_kind, server)) == SEEN
    assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "1", "1", "1", "4"]


def test_a_run_that_was_just_started_may_not_be_there_yet(client_kind: str) -> None:
    there: list[bool] = []

    def script(asked: Asked) -> Reply:
        if asked.path.endswith("/invoke"):
            return Reply(201, {"run_id": RUN})
        there.append(True)
        if len(there) < 8:
            return Reply(404, {"error": "no run", "status": 404})
        return Reply(pieces=iter([the_end(6, "COMPLETED")])) if asked.path == FOLLOW else Reply(value=COMPLETED)

    with scripted(script) as server:
        assert result_of(client_kind, server, fresh=True) == Summary("Fire")


def test_a_run_that_nobody_started_is_not_waited_for(client_kind: str) -> None:
    with scripted(lambda asked: Reply(404, {"error": "no run", "status": 404})) as server:
        with pytest.raises(NotFound):
            result_of(client_kind, server)


def test_a_server_without_follow_is_asked_for_the_run_instead(client_kind: str) -> None:
    looks: list[float] = []

    def script(asked: Asked) -> Reply:
        if asked.path == f"/v1/runs/{RUN}":
            looks.append(time.monotonic())
            status = "Running" if len(looks) < 9 else "Completed"
            return Reply(value={"data": {"run_id": RUN, "status": status, "output": {"title": "Fire"}}})
        return Reply(404, text="404 page not found")

    with scripted(script) as server:
        assert result_of(client_kind, server) == Summary("Fire")
    assert len(server.to(FOLLOW)) == 2


def test_a_server_without_follow_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    follower = follow.Follower(address_of("http://s"), RUN)
    running = {"status": "Running"}
    for _ in range(2):
        assert follower.opened(Answer(404)) is False
        assert follower.polling
        list(follower.looked(running))
    assert follower.polling
    pauses = []
    for _ in range(12):
        pauses.append(follower.pause())
        assert list(follower.looked(running)) == []
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.2, 5.0)


def test_a_timeout_limits_the_wait_and_leaves_the_run_alone(client_kind: str) -> None:
    over = threading.Event()

    def silence() -> Iterator[bytes]:
        yield CHANGES[0]
        over.wait(5)

    with a_run(COMPLETED, Reply(pieces=silence())) as server:
        began = time.monotonic()
        with pytest.raises(ResultTimeout, match=rf"run {RUN} was queued after 0.3 s; it goes on") as caught:
            result_of(client_kind, server, timeout="300ms")
        took = time.monotonic() - began
        over.set()
    assert isinstance(caught.value, TimeoutError)
    assert 0.29 < took < 4.5
    assert [asked.path for asked in server.asked] == [FOLLOW]


def test_a_chatty_run_does_not_outlive_the_timeout(client_kind: str) -> None:
    def chatter() -> Iterator[bytes]:
        for number in range(1, 400):
            time.sleep(0.02)
            yield change(number, "note", text="...")

    with a_run(COMPLETED, Reply(pieces=chatter()), Reply(pieces=chatter())) as server:
        began = time.monotonic()
        with pytest.raises(ResultTimeout):
            result_of(client_kind, server, timeout=0.3)
    assert time.monotonic() - began < 6


def test_without_a_server_following_fails_at_once_and_says_what_to_do(client_kind: str) -> None:
    class Nowhere:
        url = "http://127.0.0.1:9"

    with pytest.raises(ServerUnreachable, match="stepwell dev"):
        result_of(client_kind, Nowhere())  # type: ignore[arg-type]


def test_a_stream_that_is_left_early_gives_its_connection_back() -> None:
    def endless() -> Iterator[bytes]:
        yield CHANGES[0]
        while True:
            yield b": still here\n\n"
            time.sleep(0.01)

    async def main(url: str) -> int:
        async with AsyncClient(url) as client:
            stream = client.run(RUN).stream()
            async for _ in stream:
                break
            await stream.aclose()  # type: ignore[attr-defined]
            return len(asyncio.all_tasks())

    with a_run(COMPLETED, Reply(pieces=endless()), Reply(pieces=endless())) as server:
        with Client(server.url) as client:
            for _ in client.run(RUN).stream():
                break
        assert asyncio.run(main(server.url)) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_server_sent_events_are_read_however_they_are_cut(size: int) -> None:
    text = (
        ': hello\r\n\r\nid: 1\r\nevent: step\r\ndata: {"a":\r\ndata: "ü"}\r\n\r\n'
        "data:x\n\nevent: empty\n\nid: 2\ndata: last\n\ndata: cut off"
    ).encode()
    stream = EventStream()
    found = [message for at in range(0, len(text), size) for message in stream.feed(text[at : at + size])]
    assert [(one.kind, one.data, one.id) for one in found] == [
        ("step", '{"a":\n"ü"}', "1"),
        ("message", "x", "1"),
        ("message", "last", "2"),
    ]


def test_an_address_for_a_browser_is_that_of_the_server_with_a_token(client_kind: str) -> None:
    there: list[bool] = []

    def script(asked: Asked) -> Reply:
        if asked.path.endswith("/invoke"):
            return Reply(201, {"run_id": RUN})
        if not there:
            there.append(True)
            return Reply(404, {"error": "no run", "status": 404})
        return Reply(201, {"token": "5.abc", "path": f"{STREAM}?token=5.abc", "expires_at": "2026-08-21T10:00:01.000Z"})

    with scripted(script) as server:
        if client_kind == "sync":
            with Client(server.url) as client:
                url = client.start("support/summarize").stream_url("2m")
        else:

            async def ask() -> str:
                async with AsyncClient(server.url) as client:
                    return await (await client.start("support/summarize")).stream_url("2m")

            url = asyncio.run(ask())
    assert url == f"{server.url}{STREAM}?token=5.abc"
    assert [asked.path for asked in server.asked[1:]] == 2 * [f"/api/runs/{RUN}/token"]
    assert server.asked[-1].json() == {"lifetime_s": 120}


def test_an_address_is_made_for_a_run_that_is_there() -> None:
    with scripted(lambda asked: Reply(404, {"error": "no run", "status": 404})) as server:
        with pytest.raises(NotFound):
            with Client(server.url) as client:
                client.run(RUN).stream_url()
    assert len(server.asked) == 1
