"""A server that ends in the middle of an answer: whoever follows is told, and gets the answer that is made anew."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import stepwell
from stepwell.sdk.client.follow import Update
from stepwell.testing.provider import Provider, held, say
from tests.docs.running import running_server, working
from tests.sdk_e2e.harness import a_server
from tests.streams.conftest import everything, followed, said, service_of

pytestmark = pytest.mark.slow


def test_an_answer_that_was_cut_off_by_a_restart_is_void_and_made_again(
    tmp_path: Path, quiet_provider: Provider
) -> None:
    provider = quiet_provider
    provider.answer(say(["half ", "of", " it"], pause_s=1.0), say("all of it"))
    updates: list[Update] = []
    spoken = threading.Event()

    def listen(url: str, run: str) -> None:
        with stepwell.Client(url) as client:
            for update in client.run(run).stream():
                updates.append(update)
                if update.text:
                    spoken.set()

    settings = {"data": tmp_path, "drain_s": 0.1, "retry_interval_ms": 20}
    with running_server(**settings) as first:
        with working([service_of(provider)], first):
            with stepwell.Client(first.url) as client:
                run = client.start("talk/talk", {})
                run.stream_url()
            listening = threading.Thread(target=listen, args=(first.url, run.id))
            listening.start()
            assert spoken.wait(10)
            with followed(first.url, run.id) as events:
                _, place, _ = events.until(lambda kind, data: kind == "delta")[-1]
    with running_server(**settings, port=first.port) as second, working([service_of(provider)], second):
        listening.join(20)
        assert not listening.is_alive()
        whole = everything(second.url, run.id)
        after = everything(second.url, run.id, place)
    kinds = [update.kind for update in updates]
    at = kinds.index("reset")
    assert "".join(update.text for update in updates[:at]).startswith("half ")
    assert "".join(update.text for update in updates[at:]) == "all of it"
    assert updates[-1].status == "COMPLETED"
    assert after[0][0] == "reset"
    assert said(after) == said(whole) == "all of it"
    assert len(provider.calls) == 2


def test_steps_that_were_finished_before_are_not_made_again(tmp_path: Path, quiet_provider: Provider) -> None:
    provider = quiet_provider
    provider.answer(say("first"), held(say("never")), say("second"))
    settings = {"data": tmp_path, "drain_s": 0.1, "retry_interval_ms": 20}
    with running_server(**settings) as first, working([service_of(provider)], first):
        with stepwell.Client(first.url) as client:
            run = client.start("talk/talk", {"times": 2})
        provider.wait(2)
    with running_server(**settings, port=first.port) as second, working([service_of(provider)], second):
        with stepwell.Client(second.url) as client:
            assert client.run(run.id).result(timeout=20) == ["first", "second"]
        assert said(everything(second.url, run.id)) == "second"
    assert len(provider.calls) == 3


def test_a_server_that_is_killed_in_the_middle_makes_the_unfinished_answer_again_and_no_other(
    tmp_path: Path, quiet_provider: Provider
) -> None:
    provider = quiet_provider
    provider.answer(say("first"), say(["half ", *["of it "] * 60], pause_s=1.0), say(["all ", "of it"]))
    updates: list[Update] = []
    spoken = threading.Event()

    def listen(url: str, run: str) -> None:
        with stepwell.Client(url) as client:
            for update in client.run(run).stream():
                updates.append(update)
                if update.text == "half ":
                    spoken.set()

    with a_server(tmp_path) as server, working([service_of(provider)], server):
        with stepwell.Client(server.url) as client:
            run = client.start("talk/talk", {"times": 2})
        listening = threading.Thread(target=listen, args=(server.url, run.id))
        listening.start()
        assert spoken.wait(30)
        server.kill()
        server.start()
        listening.join(60)
        assert not listening.is_alive()
        with stepwell.Client(server.url) as client:
            result = client.run(run.id).result(timeout=10)
        whole = everything(server.url, run.id)

    assert result == ["first", "all of it"]
    assert [call.json["messages"] for call in provider.calls] == [[{"role": "user", "content": "Hello"}]] * 3
    kinds = [update.kind for update in updates]
    at = kinds.index("reset")
    assert "".join(update.text for update in updates[:at]).startswith("firsthalf ")
    assert "".join(update.text for update in updates[at:]) == "all of it"
    assert updates[-1].status == "COMPLETED"
    finished = [update.step for update in updates if update.kind == "step" and update.status == "COMPLETED"]
    assert finished == ["say-0", "say-1"]  # each is told once
    assert said(whole) == "all of it"
