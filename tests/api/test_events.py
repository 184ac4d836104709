"""`POST /e/{key}`: what is accepted, what is refused, and what the answer says."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from stepwell.api.body import Bodies, Limits
from stepwell.api.inngest import events
from stepwell.model.errors import Overloaded
from stepwell.store.base import StoreFull
from tests.api.api import Api
from tests.api.conftest import Start
from tests.api.scripted import Scripted, returned
from tests.fleet import nodes_wanted

SEED = "1743130137367,eii2YKXRVTJPuA=="


async def test_an_accepted_event_is_there_under_the_id_of_the_answer(api: Api) -> None:
    response = await api.http.post("/e/any", json={"name": "files/import", "data": {"n": 1}, "id": "e-7", "v": "2"})
    assert response.status_code == 200
    assert response.headers["x-inngest-server-kind"] == "dev"
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer["status"] == 200
    found = (await api.get(f"/v1/events/{answer['ids'][0]}"))["data"]
    assert found["internal_id"] == answer["ids"][0]
    assert (found["id"], found["name"], found["data"], found["user"], found["v"]) == (
        "e-7",
        "files/import",
        {"n": 1},
        {},
        "2",
    )
    assert found["received_at"].endswith("Z")


async def test_trap_10_what_came_before_a_bad_event_stays_accepted(api: Api) -> None:
    response = await api.http.post("/e/any", json=[{"name": "a/good"}, {"data": {}}, {"name": ""}])
    assert response.status_code == 400
    answer = response.json()
    assert len(answer["ids"]) == 1
    assert "name is empty" in answer["error"]
    assert [one["internal_id"] for one in (await api.get("/v1/events", name="a/good"))["data"]] == answer["ids"]


async def test_trap_12_seeded_ids_may_be_listed_twice(api: Api) -> None:
    for _ in range(2):
        response = await api.http.post(
            "/e/any", json=[{"name": "a/b"}, {"name": "a/b"}], headers={"x-inngest-event-id-seed": SEED}
        )
        assert response.json()["ids"] == ["01JQDAE4RQF8MBCR55T5AK4KXS", "01JQDAE4RQF8MBCR55T5AK4KXT"]
    listed = [one["internal_id"] for one in (await api.get("/v1/events", name="a/b"))["data"]]
    assert sorted(listed) == sorted(["01JQDAE4RQF8MBCR55T5AK4KXS", "01JQDAE4RQF8MBCR55T5AK4KXT"] * 2)


async def test_trap_13_a_ts_of_zero_means_now(plain: Api) -> None:
    event = await plain.send("a/b", ts=0)
    assert (await plain.get(f"/v1/events/{event}"))["data"]["ts"] > 1_700_000_000_000


async def test_trap_14_a_batch_of_large_events_is_accepted(api: Api) -> None:
    large = [{"name": "a/large", "data": {"text": "x" * 1_000_000, "n": n}} for n in range(8)]
    response = await api.http.post("/e/any", json=large)
    assert response.status_code == 200, response.text
    found = (await api.get("/v1/events", name="a/large"))["data"]
    assert [one["data"]["n"] for one in found] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert len(found[0]["data"]["text"]) == 1_000_000


async def test_trap_17_events_of_the_server_are_refused_from_outside(plain: Api) -> None:
    response = await plain.http.post("/e/any", json={"name": "Inngest/function.failed"})
    assert response.status_code == 400
    assert "keeps for itself" in response.json()["error"]


async def test_unknown_fields_reach_the_function_and_are_logged_once(
    api: Api, shop: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    shop.answers["kept"] = lambda call: returned(None)
    await shop.register()
    for n in range(2):
        assert (await api.finished(await api.send("shop/kept", zzz={"n": n}, meta={})))["status"] == "Completed"
    assert [call["event"]["zzz"] for call in shop.calls] == [{"n": 0}, {"n": 1}]
    assert "meta" not in shop.calls[0]["event"]
    lines = [line for line in caplog.messages if "unknown field" in line]
    assert set(lines) == {"event 'shop/kept' has an unknown field 'zzz'; functions see it, the server does not read it"}
    assert len(lines) <= max(1, nodes_wanted())  # once per node


async def test_unknown_fields_are_logged_until_there_are_too_many(
    plain: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_REMEMBERED", 3)
    for n in range(5):
        assert (await plain.http.post("/e/any", json={"name": "a/b", f"x{n}": 1})).status_code == 200
    lines = [line for line in caplog.messages if "unknown field" in line]
    assert len(lines) == 4
    assert lines[-1] == "3 unknown fields of events were logged; further ones are not"


async def test_an_event_packed_with_gzip_is_unpacked(plain: Api) -> None:
    body = gzip.compress(json.dumps({"name": "a/packed"}).encode())
    response = await plain.http.post("/e/any", content=body, headers={"content-encoding": "gzip"})
    assert response.status_code == 200


async def test_a_body_in_pieces_is_put_together(plain: Api) -> None:
    async def pieces() -> Any:
        for piece in (b'{"name": ', b'"a/b"', b"}"):
            yield piece

    response = await plain.http.post("/e/any", content=pieces())
    assert response.status_code == 200


BAD_INPUT = [
    (b"", {}, 400, "JSON"),
    (b"{", {}, 400, "JSON"),
    (b"\xff\xfe", {}, 400, "JSON"),
    (b'"text"', {}, 400, "an event is a JSON object"),
    (b"name=a%2Fb", {"content-type": "application/x-www-form-urlencoded"}, 400, "JSON"),
    (b'{"name": 7}', {}, 400, "name must be text"),
    (b'{"name": "a", "data": []}', {}, 400, "data must be a JSON object"),
    (b'{"name": "a", "ts": "now"}', {}, 400, "ts must be an integer"),
    (b'{"name": "a", "ts": 1700000000}', {}, 400, "milliseconds"),
    (b'{"name": "a", "id": 7}', {}, 400, "id must be text"),
    (json.dumps({"name": "x" * 513}).encode(), {}, 400, "513 bytes and may have 512"),
    (json.dumps([{"name": "a"}] * 5001).encode(), {}, 400, "may have 5000"),
    (b"[" * 200_000, {}, 400, "JSON"),
    (b"{}", {"content-encoding": "br"}, 415, "not supported"),
    (b"{}", {"content-encoding": "gzip"}, 400, "not the gzip"),
    (gzip.compress(b"{}" * 10)[:-4], {"content-encoding": "gzip"}, 400, "ends before its end"),
    (gzip.compress(b" " * 50_000_000), {"content-encoding": "gzip"}, 413, "max_body_bytes"),
    (b" " * (16 * 1024 * 1024 + 1), {}, 413, "max_body_bytes"),
]


async def test_bad_input_is_a_clear_error(plain: Api, subtests: pytest.Subtests) -> None:
    for body, headers, status, error in BAD_INPUT:
        with subtests.test(body=body):
            response = await plain.http.post("/e/any", content=body, headers=headers)
            assert response.status_code == status
            answer = response.json()
            assert answer["status"] == status
            assert answer["ids"] == []
            assert error in answer["error"]
            assert "Traceback" not in response.text


async def test_an_event_above_its_limit_is_refused_by_name(plain: Api) -> None:
    response = await plain.http.post("/e/any", json={"name": "a", "data": {"text": "x" * (3 * 1024 * 1024)}})
    assert response.status_code == 413
    assert "may have 3 MiB" in response.json()["error"]


async def test_an_event_without_a_key_is_refused(plain: Api) -> None:
    for path in ("/e", "/e/"):
        response = await plain.http.post(path, json={"name": "a/b"})
        assert response.status_code == 401
        assert "Event key is required" in response.text


async def test_too_much_at_a_time_is_told_to_come_back(start: Start) -> None:
    api = await start(limits=Limits(max_requests=2, body_idle_s=0.3))

    async def slow() -> Any:
        yield b'{"name": "a/b"'
        await asyncio.sleep(0.15)
        yield b"}"

    async def post() -> Any:
        return await api.http.post("/e/any", content=slow())

    answers = await asyncio.gather(*(post() for _ in range(6)))
    refused = [one for one in answers if one.status_code == 503]
    assert len(refused) == 4
    assert all(int(one.headers["retry-after"]) >= 1 and "max_requests" in one.json()["error"] for one in refused)
    assert (await api.http.post("/e/any", json={"name": "a/b"})).status_code == 200
    assert (await api.get("/api/status"))["requests"]["refused"]["refused:overloaded"] == 4


async def test_a_sender_that_stops_in_the_middle_gives_its_place_back(start: Start) -> None:
    api = await start(limits=Limits(max_requests=1, body_idle_s=0.05))

    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(b"POST /e/any HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
    answer = await asyncio.wait_for(reader.read(), 5)  # to the end of the connection
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_idle_s" in answer
    writer.close()
    assert (await api.http.post("/e/any", json={"name": "a/b"})).status_code == 200


async def test_a_full_disk_is_told_to_come_back(plain: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(transition: object) -> None:
        raise StoreFull("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(plain.server.node.store, "commit", full)
        response = await plain.http.post("/e/any", json={"name": "a/b"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json() == {"ids": [], "status": 503, "error": "the disk is full"}
    assert (await plain.http.post("/e/any", json={"name": "a/b"})).status_code == 200
    assert len((await plain.get("/v1/events"))["data"]) == 1


async def test_bodies_in_progress_are_bounded_together() -> None:
    bodies = Bodies(Limits(max_bodies_bytes=10))

    def sends(text: bytes) -> Any:
        async def receive() -> Any:
            return {"type": "http.request", "body": text, "more_body": False}

        return receive

    first, second = bodies.hold(), bodies.hold()
    assert await first.read({}, sends(b"x" * 8)) == b"x" * 8
    with pytest.raises(Overloaded, match="max_bodies_bytes"):
        await second.read({}, sends(b"x" * 8))
    second.release()
    first.release()
    assert (bodies.bytes, bodies.requests) == (0, 0)
    third = bodies.hold()
    assert await third.read({}, sends(b"x" * 20)) == b"x" * 20, "one request alone is always let in"


async def test_events_are_listed_in_pages(api: Api) -> None:
    sent = [await api.send("a/page", {"n": n}) for n in range(5)]
    first = (await api.get("/v1/events", name="a/page", limit=2))["data"]
    second = (await api.get("/v1/events", name="a/page", limit=2, cursor=first[-1]["internal_id"]))["data"]
    assert [one["internal_id"] for one in first + second] == sent[:0:-1]
    assert len((await api.get("/v1/events", limit=999))["data"]) == 5
    since = first[-1]["received_at"]
    assert {one["data"]["n"] for one in (await api.get("/v1/events", received_after=since))["data"]} >= {3, 4}


WRONG_QUESTIONS = [
    ("/v1/events/nonsense", 400, "Invalid event ID"),
    ("/v1/events/01JQDAE4RQF8MBCR55T5AK4KXS", 404, "no event"),
    ("/v1/events/01JQDAE4RQF8MBCR55T5AK4KXS/runs", 404, "no event"),
    ("/v1/events?limit=many", 400, "limit"),
    ("/v1/events?cursor=%27", 400, "cursor"),
    ("/v1/events?received_after=yesterday", 400, "received_after"),
]


async def test_a_wrong_question_about_events_is_a_clear_error(plain: Api, subtests: pytest.Subtests) -> None:
    for path, status, error in WRONG_QUESTIONS:
        with subtests.test(path=path):
            response = await plain.http.get(path)
            assert response.status_code == status
            assert response.json()["status"] == status
            assert error in response.json()["error"]
