"""Several servers on one database: the stream of a run is the same whichever is asked."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

import stepwell
from stepwell.server import Server
from stepwell.testing.provider import Provider, held, say
from tests.docs.running import running_server, working
from tests.streams.conftest import everything, followed, said, service_of

pytestmark = pytest.mark.slow

LONG = [f"word{number} " for number in range(100)]


@pytest.fixture
def servers(postgres_url: str, quiet_provider: Provider) -> Iterator[tuple[Server, Server]]:
    """The second is the one that the service is not connected to."""
    with running_server(db=postgres_url, data=None, lease_ms=2_000) as first:
        with running_server(db=postgres_url, data=None, lease_ms=2_000) as second:
            with working([service_of(quiet_provider)], first):
                yield first, second


def start(server: Server, **data: object) -> str:
    with stepwell.Client(server.url) as client:
        run = client.start("talk/talk", data)
        run.stream_url()
        return run.id


def test_words_come_at_another_server_while_the_model_speaks(
    servers: tuple[Server, Server], provider: Provider
) -> None:
    first, second = servers
    provider.answer(say(["It ", "burns"], pause_s=1.0))
    run = start(first)
    began = time.monotonic()
    with followed(second.url, run) as events:
        heard = events.until(lambda kind, data: kind == "delta")
        assert said(heard) == "It "
        assert time.monotonic() - began < 2.5
        rest = list(events)
    assert said(rest) == "burns"
    here, there = everything(first.url, run), everything(second.url, run)
    assert [one[2] for one in here] == [one[2] for one in there] == [one[2] for one in [*heard, *rest]]


def test_a_connection_that_goes_to_another_server_each_time_misses_and_repeats_nothing(
    servers: tuple[Server, Server], provider: Provider
) -> None:
    provider.answer(say(LONG, pause_s=0.02), say(LONG, pause_s=0.005))
    run = start(servers[0], times=2)
    seen: list[tuple[str, str, object]] = []
    for server in itertools.cycle(servers):
        with followed(server.url, run, seen[-1][1] if seen else None) as events:
            seen += itertools.islice(events, 7)
        if seen[-1][0] == "end":
            break
    whole = everything(servers[0].url, run)
    assert [one[2] for one in seen] == [one[2] for one in whole]
    assert said(whole) == 2 * "".join(LONG)


def test_all_of_a_short_answer_is_there_before_the_end(servers: tuple[Server, Server], provider: Provider) -> None:
    for number in range(10):
        provider.answer(held(say(f"answer {number}")))
        run = start(servers[0])
        with followed(servers[1].url, run) as events:
            events.until(lambda kind, data: data.get("status") == "REQUESTING")
            provider.release()
            rest = list(events)
        assert said(rest) == f"answer {number}"
        assert rest[-1][0] == "end"
        kinds = [kind if kind != "step" else data["status"] for kind, _, data in rest]
        assert kinds.index("COMPLETED") > max(at for at, kind in enumerate(kinds) if kind == "delta")


def test_a_long_piece_comes_whole(servers: tuple[Server, Server], provider: Provider) -> None:
    long = "ä" * 100_000
    provider.answer(held(say([long])))
    run = start(servers[0])
    with followed(servers[1].url, run) as events:
        events.until(lambda kind, data: data.get("status") == "REQUESTING")
        provider.release()
        assert said(list(events)) == long
