"""A server and a service for each class of tests, or for one test that ends processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.official.harness import Server
from tests.sdk_e2e.harness import OwnService, a_server, a_service


@pytest.fixture(scope="class")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, OwnService]]:
    """A server and the service that all tests of a class share: of `apps/APP.py`, if their file names an `APP`."""
    assert request.cls is not None
    kind, app = request.cls.kind, getattr(request.module, "APP", None)
    more = {} if app is None else {"name": f"{app}-{kind}", "app": app}
    folder = tmp_path_factory.mktemp(kind)
    with a_server(folder) as server, a_service(kind, server, folder, **more) as service:
        yield server, service


@pytest.fixture
def server(pair: tuple[Server, OwnService]) -> Server:
    return pair[0]


@pytest.fixture
def service(pair: tuple[Server, OwnService]) -> OwnService:
    return pair[1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests of a file; each brings services of its own."""
    with a_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def alone(shared: Server, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, OwnService]]:
    """A worker service of the test's own, of which no process runs yet."""
    name = hashlib.sha1(request.node.name.encode(), usedforsecurity=False).hexdigest()[:8]
    with a_service("worker", shared, tmp_path, start=False, name=f"worker-{name}") as service:
        yield shared, service
