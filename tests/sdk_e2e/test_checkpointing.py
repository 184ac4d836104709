"""Our SDK over HTTP, which goes on after each step: what it does when somebody gives up on it, or it on the server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.official.harness import Server
from tests.official.proxy import Proxy, proxy
from tests.sdk_e2e.harness import OwnService, a_server, a_service

pytestmark = pytest.mark.slow


@pytest.fixture(params=["uvicorn", "flask"])
def world(
    request: pytest.FixtureRequest, shared: Server, tmp_path: Path
) -> Iterator[tuple[Server, OwnService, Proxy, Proxy]]:
    """A server, a service, and a proxy on the way to each of them."""
    name = f"{request.param}-{tmp_path.name}"
    with (
        proxy(shared.url) as to_server,
        proxy("") as to_service,
        a_service(request.param, shared, tmp_path, start=False, name=name) as service,
    ):
        to_service.target = f"http://127.0.0.1:{service.port}"
        service.start(STEPWELL_SERVE_ORIGIN=to_service.url, STEPWELL_URL=to_server.url)
        service.register()
        yield shared, service, to_service, to_server


def checkpoints(to_server: Proxy) -> list[int | None]:
    return to_server.statuses("/v1/checkpoint/")


def test_a_sequence_is_one_call(world: tuple[Server, OwnService, Proxy, Proxy]) -> None:
    server, service, to_service, to_server = world
    run = server.completed(server.send(service.event("steps"), {"count": 20}))

    assert run.output == sum(range(20))
    assert service.ran(run.id) == [f"step-{n}" for n in range(20)]
    assert to_service.statuses("fnId=") == [200]
    assert checkpoints(to_server) == [200] * 20
    assert [(span.name, span.status, span.attempts) for span in server.trace(run.id).children][:20] == [
        (f"step-{n}", "COMPLETED", 1) for n in range(20)
    ]


def test_a_proxy_that_gives_up_leaves_a_zombie_that_records_nothing(
    world: tuple[Server, OwnService, Proxy, Proxy],
) -> None:
    server, service, to_service, to_server = world
    first = iter([1.0])
    to_service.patience_s = lambda method, path: next(first, None) if "fnId=" in path else None
    event_id = server.send(service.event("steps"), {"count": 4, "hold": 1})
    run = server.started(event_id)
    server.wait("the second call", 20, lambda: service.ran(run.id).count("step-1") == 2 or None, run.id)
    service.let_go()
    run = server.completed(event_id)
    server.wait("the refusal", 20, lambda: 409 in checkpoints(to_server) or None, run.id)

    assert run.output == 6
    assert Counter(service.ran(run.id)) == {"step-0": 1, "step-1": 2, "step-2": 1, "step-3": 1}
    assert checkpoints(to_server).count(409) == 1


def test_a_cancelled_run_stops_at_its_next_step(world: tuple[Server, OwnService, Proxy, Proxy]) -> None:
    server, service, _, to_server = world
    run = server.started(server.send(service.event("steps"), {"count": 4, "hold": 1}))
    server.wait("the second step", 20, lambda: "step-1" in service.ran(run.id) or None, run.id)
    assert server.http.delete(f"/v1/runs/{run.id}").status_code == 200
    service.let_go()
    server.wait("the refusal", 20, lambda: 409 in checkpoints(to_server) or None, run.id)
    time.sleep(0.5)

    assert service.ran(run.id) == ["step-0", "step-1"]
    assert server.run(run.id).status == "Cancelled"


def test_where_the_server_takes_no_reports_each_step_is_a_call(
    world: tuple[Server, OwnService, Proxy, Proxy],
) -> None:
    server, service, to_service, to_server = world
    to_server.refuse = lambda method, path: 501 if "/v1/checkpoint/" in path else None
    run = server.completed(server.send(service.event("steps"), {"count": 5}))

    assert run.output == 10
    assert service.ran(run.id) == [f"step-{n}" for n in range(5)]
    assert to_service.statuses("fnId=") == [206] * 5 + [200]
    assert len(to_server.refused) == 1


def test_a_run_goes_on_when_the_server_was_killed_while_a_step_ran(tmp_path: Path) -> None:
    with a_server(tmp_path) as server, a_service("uvicorn", server, tmp_path) as service:
        event_id = server.send(service.event("steps"), {"count": 6, "hold": 3})
        run = server.started(event_id)
        server.wait("the fourth step", 20, lambda: "step-3" in service.ran(run.id) or None, run.id)
        server.kill()
        server.start()
        server.wait("another call", 30, lambda: service.ran(run.id).count("step-3") == 2 or None, run.id)
        service.let_go()
        run = server.completed(event_id)

        assert run.output == 15
        assert Counter(service.ran(run.id)) == {f"step-{n}": 2 if n == 3 else 1 for n in range(6)}
