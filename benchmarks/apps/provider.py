"""Providers of models, told by each prompt how to answer: `python -m benchmarks.apps.provider PORT TOKENS_PORT`.

    PORT          the stand-in of `stepwell.testing.provider`
    TOKENS_PORT   streams of tokens, each of which is the time at which it was sent, with the least code that can do it

The prompt is JSON with the arguments of `benchmarks.models.prompt`. Times are those of the monotonic clock, in
nanoseconds, which all processes of a Linux machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from benchmarks.live import LOOPBACKS
from stepwell.testing.provider import Asked, Provider, Say, say

KEPT_REQUESTS = 1000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(asked: Asked) -> Say:
    told = json.loads(asked.json["messages"][-1]["content"])
    if asked.number > KEPT_REQUESTS:
        provider.requests.clear()
    return say(["token "] * told["tokens"], delay_s=told["delay_s"], chunk_bytes=1 << 20)  # whole, to cost little


provider = Provider(answer, port=int(sys.argv[1]))


async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection, each with a stream of tokens."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length or 0))
            if not body:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            told = json.loads(json.loads(body)["messages"][-1]["content"])
            await asyncio.sleep(told["delay_s"])
            writer.write(HEAD)
            due = time.monotonic()
            for _ in range(told["tokens"]):
                due += told["pause_s"]
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                writer.write(_chunk(f'{{"content":"{time.monotonic_ns()} "}}', "null"))
                await writer.drain()
            writer.write(_chunk("{}", '"stop"') + _event("[DONE]") + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _chunk(delta: str, finish: str) -> bytes:
    choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}'
    return _event(
        f'{{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":[{choice}]}}'
    )


def _event(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


async def main() -> None:
    async with await asyncio.start_server(stream, LOOPBACKS, int(sys.argv[2]), backlog=4096) as server:
        await server.serve_forever()


if __name__ == "__main__":
    with provider:
        uvloop.run(main())
