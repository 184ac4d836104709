"""Clients that connect and say nothing, or only the beginning of something, hold no connection for long."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

import stepwell
from stepwell.api.body import Limits
from stepwell.server import Server
from tests.docs.running import running_server, working

LIMIT_S = 0.6
WHOLE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(limits=Limits(headers_s=LIMIT_S)) as server:
        yield server


@pytest.fixture
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        yield connection


def closed_after_s(connection: socket.socket) -> float:
    """Seconds until the server has closed it, having said nothing."""
    begun = time.monotonic()
    assert connection.recv(1) == b""
    return time.monotonic() - begun


def answered(connection: socket.socket) -> None:
    said = b""
    while not said.endswith(b"}"):
        piece = connection.recv(4096)
        assert piece, said
        said += piece
    assert said.startswith(b"HTTP/1.1 200"), said


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost: local", b"\r\n"])
def test_who_ends_no_headers_is_disconnected(connection: socket.socket, said: bytes) -> None:
    connection.sendall(said)
    assert LIMIT_S / 2 < closed_after_s(connection) < LIMIT_S + 5


def test_byte_by_byte_is_no_way_around_it(connection: socket.socket) -> None:
    def say_slowly() -> None:
        for letter in b"GET /health HTTP/1.1\r\nX: " + b"x" * 500:
            connection.sendall(bytes([letter]))
            time.sleep(0.02)

    with pytest.raises(OSError):
        say_slowly()


def test_so_is_who_begins_a_second_request_and_does_not_go_on(connection: socket.socket) -> None:
    connection.sendall(WHOLE)
    answered(connection)
    time.sleep(LIMIT_S * 1.5)  # a connection that is kept for a next request may wait longer
    connection.sendall(WHOLE)
    answered(connection)
    connection.sendall(WHOLE[:20])
    assert closed_after_s(connection) < LIMIT_S + 5


def test_answers_may_take_longer_and_so_may_websockets(server: Server) -> None:
    service = stepwell.Service("slow")

    @service.function(on="slow/run")
    async def slow(ctx: stepwell.Context[object]) -> str:
        await ctx.step.sleep("nap", timedelta(seconds=LIMIT_S * 2.5))
        return "well slept"

    with working([service], server), stepwell.Client(server.url) as client:
        time.sleep(LIMIT_S * 2)
        run = client.start("slow/slow", {})
        run.stream_url()  # waits until it is there
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as following:
            request = f"GET /api/runs/{run.id}/follow HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n"
            following.sendall(request.encode())
            said = b""
            while not said.endswith(b"0\r\n\r\n"):  # its end, and not that of the connection
                piece = following.recv(4096)
                assert piece, said
                said += piece
        assert b"well slept" in said or b"COMPLETED" in said
        assert run.result(timeout=10) == "well slept"
