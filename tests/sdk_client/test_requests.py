"""What a client asks and how it takes an answer: starts, sends, lists, and everything that can go wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stepwell
from stepwell.model.errors import ConfigurationError, InvalidInput, NotFound, Unauthorized
from stepwell.model.job import RunStatus
from stepwell.sdk.client import requests
from stepwell.sdk.client.address import address_of
from stepwell.sdk.client.client import Client
from stepwell.sdk.client.errors import EventsRefused, ServerError, ServerUnreachable
from stepwell.sdk.client.exchange import after_failure
from stepwell.sdk.errors import DefinitionError, StepResultNotPortable
from stepwell.wire.inngest.event import read_seed
from stepwell.wire.signature import bearer_hash
from tests.sdk_client.scripted import Asked, Reply, Script, scripted

RUN = "01JZ0000000000000000000001"


@dataclass
class Ticket:
    id: str
    urgent: bool = False


service = stepwell.Service("support")
ticket_created = stepwell.event("support/ticket.created", Ticket)


@service.function(on=ticket_created)
async def summarize(ctx: stepwell.Context[Ticket]) -> dict[str, int]:
    return {"length": len(ctx.event.data.id)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_PAUSE_S", 0.001)
    for name in ("STEPWELL_URL", "STEPWELL_API_KEY", "STEPWELL_EVENT_KEY", "STEPWELL_ENV"):
        monkeypatch.delenv(name, raising=False)


def always(status: int = 200, value: Any = None, text: str | None = None, **headers: str) -> Script:
    return lambda asked: Reply(status, value, text, {name.replace("_", "-"): text for name, text in headers.items()})


def in_turn(*replies: Reply) -> Script:
    left: Iterator[Reply] = iter(replies)
    return lambda asked: next(left)


SENT = Reply(value={"ids": ["01A"], "status": 200})
LOST = Reply(cut=True)


# Sending


def test_an_event_is_sent_as_its_type_says() -> None:
    with scripted(lambda asked: SENT) as server, Client(server.url, event_key="k/1") as client:
        at = datetime(2026, 9, 1, tzinfo=UTC)
        sent = client.send(ticket_created(Ticket("t1"), id="once", ts=at, user={"id": 7}, v="2"))
    assert sent.ids == ("01A",)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/e/k%2F1")
    assert asked.headers["user-agent"].startswith("stepwell-py:v")
    body = {"name": "support/ticket.created", "data": {"id": "t1", "urgent": False}, "id": "once", "user": {"id": 7}}
    assert asked.json() == [{**body, "ts": 1_788_220_800_000, "v": "2"}]


def test_an_event_in_the_future_keeps_its_time_so_that_its_run_starts_then() -> None:
    with scripted(lambda asked: SENT) as server, Client(server.url) as client:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        client.send(ticket_created(Ticket("t1"), ts=tomorrow))
    assert server.asked[0].json()[0]["ts"] == int(tomorrow.timestamp() * 1000)


def test_many_events_and_plain_objects_go_in_one_request_in_their_order() -> None:
    with scripted(always(value={"ids": ["1", "2"], "status": 200})) as server, Client(server.url) as client:
        sent = client.send([ticket_created(Ticket("t1")), {"name": "plain", "data": {"n": 1}}])
    assert sent.ids == ("1", "2")
    assert [one["name"] for one in server.asked[0].json()] == ["support/ticket.created", "plain"]
    assert server.asked[0].path == "/e/NO_EVENT_KEY_SET"


def test_nothing_to_send_asks_nothing() -> None:
    with Client("http://127.0.0.1:9") as client:
        assert client.send([]).ids == ()


@pytest.mark.parametrize("first", [LOST, Reply(503, {"error": "full"}), Reply(500, text="oops"), Reply(429, {})])
def test_a_send_that_is_tried_again_names_the_same_ids(first: Reply) -> None:
    with scripted(in_turn(first, first, SENT)) as server, Client(server.url) as client:
        client.send({"name": "e"})
    seeds = {asked.headers["x-inngest-event-id-seed"] for asked in server.asked}
    assert len(server.asked) == 3
    assert len(seeds) == 1
    assert read_seed(seeds.pop()) is not None


def test_two_sends_have_two_seeds() -> None:
    with scripted(lambda asked: SENT) as server, Client(server.url) as client:
        client.send({"name": "e"})
        client.send({"name": "e"})
    assert len({asked.headers["x-inngest-event-id-seed"] for asked in server.asked}) == 2


def test_events_before_a_bad_one_stay_accepted_and_are_named() -> None:
    answer = {"ids": ["01A"], "status": 400, "error": "event 1 of 3: event name is empty"}
    with scripted(always(400, answer)) as server, Client(server.url) as client:
        with pytest.raises(
            EventsRefused, match=re.escape("event name is empty (1 of 3 events were accepted")
        ) as caught:
            client.send([{"name": "a"}, {"name": ""}, {"name": "c"}])
    assert caught.value.ids == ("01A",)
    assert len(server.asked) == 1


def test_more_events_than_a_request_takes_go_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_EVENTS", 2)

    def accept(asked: Asked) -> Reply:
        if any(event["name"] == "bad" for event in asked.json()):
            return Reply(400, {"ids": [], "status": 400, "error": "no"})
        return Reply(value={"ids": [event["name"] for event in asked.json()]})

    with scripted(accept) as server, Client(server.url) as client:
        assert client.send([{"name": name} for name in "abcde"]).ids == tuple("abcde")
        assert [len(asked.json()) for asked in server.asked] == [2, 2, 1]
        with pytest.raises(EventsRefused) as caught:
            client.send([{"name": name} for name in ("a", "b", "bad")])
    assert caught.value.ids == ("a", "b")


def test_a_wrong_event_key_says_which_variable_to_set() -> None:
    with scripted(always(401, {"status": 401, "error": "Event key not found"})) as server, Client(server.url) as client:
        with pytest.raises(Unauthorized, match=r"Event key not found; set STEPWELL_EVENT_KEY"):
            client.send({"name": "e"})
    assert len(server.asked) == 1


def test_an_answer_that_is_not_the_servers_is_an_error() -> None:
    with scripted(always(200, text="<html>log in</html>")) as server, Client(server.url) as client:
        with pytest.raises(ServerError):
            client.send({"name": "e"})


@pytest.mark.parametrize("event", ["e", 1, None, [["e"]]])
def test_what_is_no_event_is_refused_before_anything_is_sent(event: Any) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(TypeError):
        client.send(event)


# Starting


def test_a_function_is_started_with_data_of_its_type() -> None:
    with scripted(always(201, {"run_id": RUN, "event_id": "01E"})) as server, Client(server.url) as client:
        run = client.start(summarize, Ticket("t1", urgent=True))
    assert (run.id, run.function) == (RUN, "support-summarize")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/api/functions/support-summarize/invoke")
    assert asked.json() == {"data": {"id": "t1", "urgent": True}}
    assert "authorization" not in asked.headers


def test_a_function_is_started_by_name_with_whatever_it_takes() -> None:
    with scripted(always(201, {"run_id": RUN})) as server, Client(server.url) as client:
        client.start("support/summarize", Ticket("t1"))
        client.start("support-summarize")
        client.start("päper/x y")
    assert [asked.path for asked in server.asked] == [
        "/api/functions/support-summarize/invoke",
        "/api/functions/support-summarize/invoke",
        "/api/functions/p%C3%A4per-x%20y/invoke",
    ]
    assert [asked.json()["data"] for asked in server.asked[:2]] == [{"id": "t1", "urgent": False}, {}]


def test_data_that_is_not_the_functions_is_refused_before_anything_is_sent() -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(StepResultNotPortable):
            client.start(summarize, {"id": 5})  # type: ignore[misc]
        with pytest.raises(DefinitionError, match="object"):
            client.start("a-b", 5)
        with pytest.raises(StepResultNotPortable, match="9007199254740993 is beyond 2"):
            client.start("a-b", {"ids": [9007199254740993]})


@pytest.mark.parametrize("members", [{"data": {"id": 9007199254740993}}, {"user": {"id": 9007199254740993}}])
def test_an_event_with_an_integer_that_would_be_rounded_is_refused_before_anything_is_sent(members: Any) -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(StepResultNotPortable, match="event 'a/b': the integer 9007199254740993 is beyond 2"):
            client.send({"name": "a/b", **members})
        with pytest.raises(StepResultNotPortable, match="9007199254740993"):
            client.send(stepwell.Event("a/b", {"id": 9007199254740993}))


def test_a_start_whose_answer_was_lost_finds_the_run_that_it_made() -> None:
    def script(asked: Asked) -> Reply:
        if asked.path == "/v1/events/01E/runs":
            return Reply(value={"data": [{"run_id": "THE-FIRST"}] if len(server.asked) > 4 else []})
        return LOST if len(server.asked) == 1 else Reply(201, {"run_id": "THE-SECOND", "event_id": "01E"})

    with scripted(script) as server, Client(server.url) as client:
        assert client.start("a-b").id == "THE-FIRST"
    starts = server.to("/api/functions/a-b/invoke")
    assert len({asked.headers["x-inngest-event-id-seed"] for asked in starts}) == 1


def test_an_unknown_function_is_reported_in_the_servers_words() -> None:
    with scripted(always(404, {"error": "no function 'a-b'; there are: c-d", "status": 404})) as server:
        with Client(server.url) as client, pytest.raises(NotFound, match=r"there are: c-d at http.*running and synced"):
            client.start("a-b")


# Keys


def test_a_signing_key_goes_out_as_its_hash_and_another_key_as_it_is() -> None:
    with scripted(always(201, {"run_id": RUN})) as server:
        with Client(server.url, api_key="signkey-prod-12345678") as client:
            client.start("a-b")
        with Client(server.url, api_key="not hex") as client:
            client.start("a-b")
    assert [asked.headers["authorization"] for asked in server.asked] == [
        f"Bearer {bearer_hash('signkey-prod-12345678')}",
        "Bearer not hex",
    ]


def test_the_fallback_key_is_tried_when_the_first_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_SIGNING_KEY_FALLBACK", "0123")
    script = in_turn(Reply(401, text="Authentication failed"), Reply(201, {"run_id": RUN}))
    with scripted(script) as server, Client(server.url, api_key="abcd") as client:
        assert client.start("a-b").id == RUN
    assert server.asked[1].headers["authorization"] == f"Bearer {bearer_hash('0123')}"


def test_a_refused_key_says_which_variable_to_set_and_never_the_key() -> None:
    with scripted(always(401, text="Authentication failed")) as server, Client(server.url, api_key="s3cr3t") as client:
        with pytest.raises(Unauthorized, match="set STEPWELL_API_KEY") as caught:
            client.start("a-b")
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in repr(client)


# No server


def test_without_a_server_the_error_says_how_to_start_one() -> None:
    with Client("http://127.0.0.1:9") as client:
        for ask in (lambda: client.start("a-b"), lambda: client.send({"name": "e"}), lambda: client.run(RUN).status()):
            with pytest.raises(ServerUnreachable, match=r"no server answers at http://127.0.0.1:9.*`stepwell dev`"):
                ask()


def test_a_server_that_keeps_failing_is_reported_with_its_own_words() -> None:
    with scripted(always(503, {"error": "the disk is full", "status": 503})) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match="the disk is full") as caught:
            client.start("a-b")
    assert caught.value.status == 503
    assert caught.value.retryable
    assert len(server.asked) == requests.ATTEMPTS


def test_retry_after_is_waited_for() -> None:
    flow = requests.get(address_of("http://s"), "/x")
    next(flow)
    from stepwell.sdk.client.exchange import Answer, Pause

    assert flow.send(Answer(503, b"{}", {"retry-after": "7"})) == Pause(7.0)


def test_an_input_error_carries_its_field() -> None:
    with scripted(always(400, {"error": "data is too deep", "status": 400, "field": "data"})) as server:
        with Client(server.url) as client, pytest.raises(InvalidInput, match="data is too deep") as caught:
            client.start("a-b")
    assert caught.value.field == "data"


@pytest.mark.parametrize("url", ["localhost:8288", "ftp://x", "http://", "http://x:99999", ""])
def test_an_address_that_is_none_is_refused_when_the_client_is_made(url: str) -> None:
    if url:
        with pytest.raises(ConfigurationError):
            Client(url)
    else:
        assert address_of(url, environment={}).api == "http://localhost:8288"


NOBODY = "http://127.0.0.1:1"


def test_of_several_servers_the_one_that_answers_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(always(value={"ids": ["01A"], "status": 200})) as server:
        monkeypatch.setenv("STEPWELL_URL", f"{NOBODY}, {server.url}")
        with Client() as client:
            assert client.send({"name": "a/b", "data": {}}).ids == ("01A",)
            monkeypatch.setattr(requests, "ATTEMPTS", 1)  # it is remembered: nobody is asked in vain
            client.send({"name": "a/b", "data": {}})
        assert len(server.asked) == 2
        with Client(f"{NOBODY},{NOBODY}/other") as client, pytest.raises(ServerUnreachable):
            client.send({"name": "a/b", "data": {}})


async def test_of_several_servers_one_that_stops_is_left() -> None:
    with scripted(always(503)) as stopping, scripted(always(value={"data": []})) as other:
        async with stepwell.AsyncClient(f"{stopping.url},{other.url}") as client:
            assert await client.events() == []
            assert await client.events() == []
        assert (len(stopping.asked), len(other.asked)) == (1, 2)


def test_who_failed_at_the_same_server_goes_on_once() -> None:
    first = address_of("http://a,http://b,http://c", environment={})
    second = after_failure(first, first)
    assert second.api == second.events == "http://b"
    assert after_failure(second, first) is second
    assert after_failure(after_failure(second, second), second).api == "http://c"
    assert second.others == ("http://c", "http://a")


# Looking


def test_runs_of_an_event_are_waited_for() -> None:
    empty, found = Reply(value={"data": []}), Reply(value={"data": [{"run_id": RUN, "function_id": "u"}]})
    with scripted(in_turn(empty, empty, found)) as server, Client(server.url) as client:
        (run,) = client.runs(event="01E")
    assert run.id == RUN
    assert {asked.path for asked in server.asked} == {"/v1/events/01E/runs"}


def test_an_event_that_starts_nothing_has_no_runs() -> None:
    with scripted(always(value={"data": []})) as server, Client(server.url) as client:
        assert client.runs(event="01E", wait="50ms") == []
    assert len(server.asked) < 10


def test_runs_are_listed_page_by_page() -> None:
    def page(asked: Asked) -> Reply:
        start = int(asked.query.get("cursor", "0"))
        rows = [{"id": f"r{n}", "function": "a-b"} for n in range(start, start + int(asked.query["limit"]))]
        return Reply(value={"runs": rows, "cursor": str(start + len(rows))})

    with scripted(page) as server, Client(server.url) as client:
        runs = client.runs(function="a/b", status=[RunStatus.FAILED, "cancelled"], limit=150)
    assert [run.id for run in runs] == [f"r{n}" for n in range(150)]
    assert [dict(asked.query) for asked in server.asked] == [
        {"function": "a-b", "status": "FAILED,CANCELLED", "limit": "100"},
        {"function": "a-b", "status": "FAILED,CANCELLED", "limit": "50", "cursor": "100"},
    ]
    with pytest.raises(ValueError):
        client.runs(status="lost")


def test_events_are_read_with_both_ids() -> None:
    event = {
        "internal_id": "01I",
        "id": "once",
        "name": "e",
        "data": {"n": 1},
        "user": {},
        "ts": 1_780_000_000_000,
        "v": None,
    }
    shown = {**event, "received_at": "2026-08-21T10:00:00.250Z"}
    with scripted(always(value={"data": [shown], "metadata": {}})) as server, Client(server.url) as client:
        (found,) = client.events("e", limit=5)
    assert (found.id, found.sender_id, found.data) == ("01I", "once", {"n": 1})
    assert found.ts == datetime(2026, 5, 28, 20, 26, 40, tzinfo=UTC)
    assert found.received_at == datetime(2026, 8, 21, 10, 0, 0, 250_000, tzinfo=UTC)
    assert server.asked[0].query == {"name": "e", "limit": "5"}


@pytest.mark.parametrize(
    ("status", "said"),
    [("QUEUED", "QUEUED"), ("Scheduled", "QUEUED"), ("Running", "RUNNING"), ("Completed", "COMPLETED")],
)
def test_a_status_reads_alike_in_both_spellings(status: str, said: str) -> None:
    with scripted(always(value={"id": RUN, "status": status})) as server, Client(server.url) as client:
        assert client.run(RUN).status() is RunStatus(said)


def test_a_run_is_cancelled_and_one_that_has_ended_stays_as_it_is() -> None:
    with (
        scripted(in_turn(Reply(value={}), Reply(409, {"error": "it has ended"}))) as server,
        Client(server.url) as client,
    ):
        client.run(RUN).cancel()
        client.run(RUN).cancel()
    assert [(asked.method, asked.path) for asked in server.asked] == [("POST", f"/api/runs/{RUN}/cancel")] * 2


def test_a_server_of_inngests_is_cancelled_at_its_own_route() -> None:
    missing, done = Reply(404, text="404 page not found"), Reply(200, text="")
    with scripted(in_turn(missing, done)) as server, Client(server.url) as client:
        client.run(RUN).cancel()
    assert [(asked.method, asked.path) for asked in server.asked][1] == ("DELETE", f"/v1/runs/{RUN}")


def test_a_run_that_does_not_exist_is_not_found() -> None:
    with scripted(always(404, {"error": "no run", "status": 404})) as server, Client(server.url) as client:
        for ask in (client.run(RUN).status, client.run(RUN).cancel, client.run(RUN).result):
            with pytest.raises(NotFound):
                ask()


# Reruns

MADE = Reply(201, {"data": {"run_id": "01JZ0000000000000000000002", "origin": RUN, "from_step": "draft", "kept": 1}})


def test_a_rerun_names_the_step_and_what_changes() -> None:
    with scripted(lambda asked: MADE) as server, Client(server.url, api_key="signkey-test-aa") as client:
        old = client.run(RUN, function=summarize)
        new = client.rerun(old, from_step="draft", set={"model": "small", "who": Ticket("t1")})
        client.rerun(RUN, input=Ticket("t2", urgent=True))
        client.rerun(RUN)
    assert (new.id, new.function) == ("01JZ0000000000000000000002", "support-summarize")
    assert {(asked.method, asked.path) for asked in server.asked} == {("POST", f"/v1/runs/{RUN}/rerun")}
    assert [asked.json() for asked in server.asked] == [
        {"from_step": "draft", "set": {"model": "small", "who": {"id": "t1", "urgent": False}}},
        {"input": {"id": "t2", "urgent": True}},
        {},
    ]
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 3
    assert server.asked[0].headers["authorization"].startswith("Bearer ")


@pytest.mark.parametrize("first", [LOST, Reply(503, {"error": "full"})])
def test_a_rerun_that_is_tried_again_is_the_same_rerun(first: Reply) -> None:
    with scripted(in_turn(first, MADE)) as server, Client(server.url) as client:
        assert client.rerun(RUN, from_step="draft").id == "01JZ0000000000000000000002"
    assert len(server.asked) == 2
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1


def test_a_rerun_that_is_refused_says_why() -> None:
    with scripted(always(409, {"error": f"run {RUN} has not ended"})) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match="has not ended") as refused:
            client.rerun(RUN)
    assert refused.value.status == 409
    with scripted(always(404, {"error": "no such step"})) as server, Client(server.url) as client:
        with pytest.raises(NotFound, match="no such step"):
            client.rerun(RUN, from_step="x")
    with scripted(lambda asked: MADE) as server, Client(server.url) as client:
        with pytest.raises(StepResultNotPortable, match="the input of a rerun"):
            client.rerun(RUN, input={"at": object()})
    assert server.asked == []
