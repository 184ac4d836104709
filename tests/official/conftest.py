"""A server and a service for each class of tests, or for one test that kills its server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.official.harness import Kind, Server, Service, node, running


@pytest.fixture(scope="class")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Service]]:
    """A server and the registered service that all tests of a class share."""
    kind = _kind(request)
    with running(kind, tmp_path_factory.mktemp(kind)) as (server, service):
        service.register()
        yield server, service


@pytest.fixture
def server(pair: tuple[Server, Service]) -> Server:
    return pair[0]


@pytest.fixture
def service(pair: tuple[Server, Service]) -> Service:
    return pair[1]


@pytest.fixture
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Service]]:
    """A server of the test's own, and a service that has not registered yet."""
    with running(_kind(request), tmp_path) as pair:
        yield pair


def _kind(request: pytest.FixtureRequest) -> Kind:
    assert request.cls is not None
    kind: Kind = request.cls.kind
    if kind == "typescript":
        need_node()
    return kind


def need_node() -> None:
    """Nobody needs Node to test Stepwell, except CI, where a missing Node is a failure."""
    try:
        node()
    except AssertionError as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))
