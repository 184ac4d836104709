"""Following a run over HTTP while a model speaks: everything, in order, once, whoever comes and goes."""

from __future__ import annotations

import itertools
import time

import httpx2
import pytest

import stepwell
from stepwell.model.ids import RunId
from stepwell.server import Server
from stepwell.testing.provider import Provider, fail, held, say
from tests.streams.conftest import everything, followed, said

pytestmark = pytest.mark.slow

LONG = [f"word{number} " for number in range(60)]


@pytest.fixture(autouse=True)
def _quiet(quiet_provider: Provider) -> None:
    pass


def start(client: stepwell.Client, **data: object) -> str:
    """The id of a run of `talk/talk` that is there."""
    run = client.start("talk/talk", data)
    run.stream_url()  # which waits for it
    return run.id


def test_words_come_while_the_model_speaks_between_the_changes_of_their_step(
    server: Server, client: stepwell.Client, provider: Provider
) -> None:
    provider.answer(say(["It ", "burns"], pause_s=0.1))
    events = everything(server.url, start(client))
    kinds = [(kind, data.get("status") or data.get("kind")) for kind, _, data in events]
    begun, done = kinds.index(("step", "REQUESTING")), kinds.index(("step", "COMPLETED"))
    assert [one[0] for one in kinds[begun + 1 : done]] == ["delta"] * (done - begun - 1)
    assert said(events) == "It burns"
    assert kinds[done - 1] == ("delta", "usage")
    assert kinds[-1] == ("end", "COMPLETED")
    assert {data["name"] for kind, _, data in events if kind == "delta"} == {"say-0"}


def test_a_word_is_here_while_the_model_is_still_speaking(
    server: Server, client: stepwell.Client, provider: Provider
) -> None:
    provider.answer(say(["It ", "burns"], pause_s=0.5))
    with followed(server.url, start(client)) as events:
        events.until(lambda kind, data: kind == "delta")
        assert provider.calls[-1].json["stream"] is True
        assert client.runs(status="RUNNING")


def test_who_comes_late_gets_what_was_said_before(server: Server, client: stepwell.Client, provider: Provider) -> None:
    provider.answer(say("one two"), say("three four"))
    run = start(client, times=2)
    client.run(run).result(timeout=10)
    first, second = everything(server.url, run), everything(server.url, run)
    assert first == second
    assert said(first) == "one twothree four"
    order = [(kind, data["name"]) for kind, _, data in first if kind in {"step", "delta"}]
    assert order == sorted(order, key=lambda one: one[1])  # a step's pieces are all before what comes after it


def test_a_connection_that_breaks_again_and_again_misses_and_repeats_nothing(
    server: Server, client: stepwell.Client, provider: Provider
) -> None:
    provider.answer(say(LONG, pause_s=0.01), say(LONG, pause_s=0.01))
    run = start(client, times=2)
    seen: list[tuple[str, str, object]] = []
    connections = 0
    while not seen or seen[-1][0] != "end":
        connections += 1
        with followed(server.url, run, seen[-1][1] if seen else None) as events:
            seen += itertools.islice(events, 5)
    assert connections > 5
    whole = everything(server.url, run)
    assert [one[2] for one in seen] == [one[2] for one in whole]
    ids = [one[1] for one in seen]
    assert len(set(ids)) == len(ids)


def test_every_id_leads_to_exactly_what_comes_after_it(
    server: Server, client: stepwell.Client, provider: Provider
) -> None:
    provider.answer(say("one two three", pause_s=0.03))
    run = start(client)
    client.run(run).result(timeout=10)
    whole = everything(server.url, run)
    for number, (_, id, _) in enumerate(whole[:-1]):
        assert [one[2] for one in everything(server.url, run, id)] == [one[2] for one in whole[number + 1 :]]


def test_what_was_said_before_a_failure_is_void(server: Server, client: stepwell.Client, provider: Provider) -> None:
    provider.answer(say("half of it", pause_s=0.03, cut_after=3), fail(503), say("all of it"))
    events = everything(server.url, start(client))
    kinds = [kind for kind, _, _ in events]
    at = kinds.index("reset")
    assert kinds.count("reset") == 1
    assert said(events[:at])
    assert said(events[at:]) == "all of it"
    assert events[at][2]["name"] == "say-0"


def test_words_of_another_life_are_void_for_whoever_had_them(
    server: Server, client: stepwell.Client, provider: Provider
) -> None:
    provider.answer(say("Hello"))
    run = start(client)
    client.run(run).result(timeout=10)
    events = everything(server.url, run, "3.0123456789abcdef.7")
    assert events[0][0] == "reset"
    assert events[0][2]["step"] is None
    assert said(events) == "Hello"


def test_a_browser_that_comes_back_after_the_end_is_told_to_stay_away(
    server: Server, client: stepwell.Client, provider: Provider
) -> None:
    run = start(client)
    client.run(run).result(timeout=10)
    *_, (kind, id, _) = everything(server.url, run)
    assert (kind, id.endswith(".end")) == ("end", True)
    again = httpx2.get(f"{server.url}/api/runs/{run}/stream", headers={"Last-Event-ID": id}, trust_env=False)
    assert (again.status_code, again.content) == (204, b"")


@pytest.mark.parametrize("id", ["x", "1.2", "1..2", "-1", "1.a.b", "1.end.2", "9999999999"])
def test_an_id_that_is_none_of_this_stream_is_refused(server: Server, client: stepwell.Client, id: str) -> None:
    run = start(client)
    answer = httpx2.get(f"{server.url}/api/runs/{run}/stream", params={"after": id}, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["field"] == "after"


def test_changes_alone_have_no_pieces(server: Server, client: stepwell.Client, provider: Provider) -> None:
    run = start(client)
    client.run(run).result(timeout=10)
    text = httpx2.get(f"{server.url}/api/runs/{run}/follow", trust_env=False).text
    assert "event: step" in text
    assert "delta" not in text


def test_a_subscriber_who_never_reads_holds_up_nobody(
    server: Server, client: stepwell.Client, provider: Provider
) -> None:
    provider.answer(held(say(["x" * 4000] * 500)))
    run = start(client)
    with followed(server.url, run) as idle:
        next(iter(idle))
        provider.release()
        began = time.monotonic()
        result = client.run(run).result(timeout=20)
        assert len(result[0]) == 2_000_000
        assert time.monotonic() - began < 10
    assert len(said(everything(server.url, run))) == 2_000_000


def test_who_goes_away_is_forgotten_at_once(server: Server, client: stepwell.Client, provider: Provider) -> None:
    provider.answer(held(say("Hello")))
    run = start(client)
    for _ in range(3):
        with followed(server.url, run) as events:
            next(iter(events))
            assert server.site.watch.followers == 1
        deadline = time.monotonic() + 5
        while server.site.watch.followers:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert not server.site.streams.log(RunId(run)).readers
    provider.release()
    client.run(run).result(timeout=10)


# the client


def test_the_client_gives_words_to_be_printed(client: stepwell.Client, provider: Provider) -> None:
    provider.answer(say("It burns", reasoning="Hm"), say(" a lot"))
    updates = list(client.start("talk/talk", {"times": 2}).stream())
    assert "".join(update.text for update in updates) == "It burns a lot"
    steps = {update.step for update in updates if update.kind == "delta"}
    assert steps == {"say-0", "say-1"}
    used = [update.details for update in updates if update.details.get("kind") == "usage"]
    assert len(used) == 2
    assert used[0]["output_tokens"] > 0
    assert updates[-1].status == "COMPLETED"


async def test_the_client_with_async_gives_the_same(server: Server, provider: Provider) -> None:
    provider.answer(say("one two", pause_s=0.03, cut_after=2), say("one two three"))
    async with stepwell.AsyncClient(server.url) as client:
        updates = [update async for update in (await client.start("talk/talk", {})).stream()]
    kinds = [update.kind for update in updates]
    at = kinds.index("reset")
    assert updates[at].step == "say-0"
    assert "".join(update.text for update in updates[at:]) == "one two three"


def test_the_result_is_waited_for_without_pieces(client: stepwell.Client, provider: Provider) -> None:
    provider.answer(say("Hello"))
    assert client.start("talk/talk", {}).result(timeout=10) == ["Hello"]
