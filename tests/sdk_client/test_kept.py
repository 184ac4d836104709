"""Requests over kept connections: what an answer may look like, and what may happen to a connection."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stepwell.sdk.client.address import address_of
from stepwell.sdk.client.errors import ServerUnreachable
from stepwell.sdk.client.exchange import Answer, Ask, Flow
from stepwell.sdk.client.kept import MAX_ANSWER_BYTES, KeptExchange

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Some: thing\r\n\r\n{}"


def ask(body: bytes = b"{}") -> Flow[Answer]:
    answer = yield Ask("POST", "/v1/x", body, query={"a": "b c"}, headers={"Content-Type": "application/json"})
    assert answer is not None
    return answer


class Peer:
    """A server made of bytes. `answers` are given one for each request; None closes the connection instead."""

    def __init__(self, answers: list[bytes | None], pause_s: float = 0.0) -> None:
        self.answers = answers
        self.pause_s = pause_s
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if self.answers else OK
                if answer is None:
                    break
                for at in range(len(answer)) if self.pause_s else [0]:
                    writer.write(answer[at : at + 1] if self.pause_s else answer)
                    await asyncio.sleep(0)
                if b"content-length" not in answer.lower() and b"chunked" not in answer and b"204" not in answer:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def talking(*answers: bytes | None, slowly: bool = False) -> AsyncIterator[tuple[Peer, KeptExchange]]:
    peer = Peer(list(answers), 0.001 if slowly else 0.0)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    exchange = KeptExchange(address_of(f"http://127.0.0.1:{port}", environment={"STEPWELL_ENV": "test"}), "agent")
    try:
        yield peer, exchange
    finally:
        await exchange.close()
        server.close()
        await server.wait_closed()


async def test_a_request_is_written_whole_and_connections_are_used_again() -> None:
    async with talking() as (peer, exchange):
        for _ in range(5):
            answer = await exchange.run(ask(b'{"n":1}'))
            assert (answer.status, answer.body, answer.headers["x-some"]) == (200, b"{}", "thing")
        assert peer.connections == 1
        head, _, body = peer.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/x?a=b+c HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nUser-Agent: agent\r\n" in head
        assert head.endswith(b"\r\nx-inngest-env: test")
        assert body == b'{"n":1}'


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async with talking() as (peer, exchange):
        answers = await asyncio.gather(*[exchange.run(ask()) for _ in range(10)])
        assert [answer.status for answer in answers] == [200] * 10
        first = peer.connections
        await asyncio.gather(*[exchange.run(ask()) for _ in range(10)])
        assert peer.connections == first == 10


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize(
    ("written", "status", "body"),
    [
        (OK, 200, b"{}"),
        (b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", 409, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"{}"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", 200, b"{}"),
        (CHUNKED + b"1;x=y\r\n{\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", 200, b"{0123456789"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200, b"to the end"),
    ],
)
async def test_an_answer_is_read_whole_however_it_is_framed(
    written: bytes, status: int, body: bytes, slowly: bool
) -> None:
    async with talking(written, slowly=slowly) as (_, exchange):
        answer = await exchange.run(ask())
        assert (answer.status, answer.body) == (status, body)
        assert (await exchange.run(ask())).status == 200


async def test_a_kept_connection_that_the_server_closed_costs_nothing() -> None:
    async with talking(OK, None) as (peer, exchange):
        await exchange.run(ask())
        assert (await exchange.run(ask())).status == 200
        assert peer.connections == 2
        assert len(peer.requests) == 3


async def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    async with talking(b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 0\r\n\r\n") as (peer, exchange):
        await exchange.run(ask())
        await exchange.run(ask())
        assert peer.connections == 2


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n", "closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", "many"),
        (CHUNKED + b"zz\r\n", "zz"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "headers"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"y" * (MAX_ANSWER_BYTES + 1), "more than"),
    ],
)
async def test_what_is_no_answer_is_an_error_with_the_reason(written: bytes | None, said: str) -> None:
    async with talking(written, written) as (_, exchange):
        with pytest.raises(ServerUnreachable, match=said) as raised:
            await exchange.run(ask())
        assert raised.value.refused is False


async def test_nobody_there_is_a_refused_connection() -> None:
    exchange = KeptExchange(address_of("http://127.0.0.1:1", environment={}), "agent")
    with pytest.raises(ServerUnreachable) as raised:
        await exchange.run(ask())
    assert raised.value.refused is True


async def test_of_several_servers_the_next_is_asked_over_a_connection_of_its_own() -> None:
    async with talking() as (_, exchange):
        several = KeptExchange(address_of(f"http://127.0.0.1:1,{exchange.address.api}", environment={}), "agent")
        with pytest.raises(ServerUnreachable):
            await several.run(ask())
        assert (await several.run(ask())).ok
        await several.close()


@pytest.mark.parametrize(("url", "through"), [("http://127.0.0.1:1", False), ("http://elsewhere.example", True)])
async def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, url: str, through: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    exchange = KeptExchange(address_of(url, environment={}), "agent")
    assert (exchange._through_proxy is not None) is through
    await exchange.close()


def test_it_works_on_uvloop() -> None:
    """Its transports are none of asyncio's by inheritance."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> int:
        async with talking() as (peer, exchange):
            for _ in range(3):
                await exchange.run(ask())
            return peer.connections

    assert uvloop.run(main()) == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_connection_is_left_when_the_event_loop_ends(loop: str, recwarn: pytest.WarningsRecorder) -> None:
    kept: list[KeptExchange] = []

    async def main() -> None:
        peer = Peer([])
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        exchange = KeptExchange(
            address_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", environment={}), "agent"
        )
        kept.append(exchange)
        await exchange.run(ask())
        assert len(exchange._idle) == 1
        server.close()

    (asyncio if loop == "asyncio" else pytest.importorskip("uvloop")).run(main())
    assert kept[0]._idle == []
    kept.clear()
    gc.collect()
    assert [str(one.message) for one in recwarn if one.category is ResourceWarning] == []
