"""Functions that use the libraries of AI providers as they are. Run by `stepwell worker`, or as a program with an
argument, over HTTP."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import anthropic
import httpx
import openai

import stepwell
from stepwell import http
from tests.official.python.services.ledger import FUNCTION, note

APP = os.environ["SERVICE"]
KEY = "sk-canary-of-a-library"

service = stepwell.Service(APP)
Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]

# As a service has them: made once, for all runs and for what is outside of runs.
asynchronous, synchronous = http.async_client(), http.client()


def gpt(ctx: Ctx, *, max_retries: int = 0) -> openai.AsyncOpenAI:
    url = f"{ctx.event.data['provider']}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key=KEY, http_client=asynchronous, max_retries=max_retries)


async def asked(client: openai.AsyncOpenAI, text: str) -> str:
    answer = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content or ""


@service.function(on=f"{APP}/three")
async def three(ctx: Ctx) -> list[str]:
    """Three calls at once, and one when they are done."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    client = gpt(ctx)
    words = await asyncio.gather(*(asked(client, word) for word in ("one", "two", "three")))
    await ctx.step.sleep("nap", ctx.event.data.get("nap", "0s"))
    return [*words, await asked(client, "four")]


@service.function(on=f"{APP}/streamed")
async def streamed(ctx: Ctx) -> list[str]:
    """Streams of two libraries."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    claude = anthropic.AsyncAnthropic(
        base_url=ctx.event.data["provider"], api_key=KEY, http_client=asynchronous, max_retries=0
    )
    said: list[str] = []
    chunks = await gpt(ctx).chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "why?"}], stream=True
    )
    said.append("".join([piece.choices[0].delta.content or "" async for piece in chunks if piece.choices]))
    async with claude.messages.stream(
        model="claude-any", max_tokens=99, messages=[{"role": "user", "content": "how?"}]
    ) as stream:
        said.append("".join([text async for text in stream.text_stream]))
    await ctx.step.sleep("nap", ctx.event.data.get("nap", "0s"))
    return said


@service.function(on=f"{APP}/plain")
def plain(ctx: SyncCtx) -> list[Any]:
    """Clients without async in a plain `def`."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    url = ctx.event.data["provider"]
    gpt = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, http_client=synchronous, max_retries=0)
    claude = anthropic.Anthropic(base_url=url, api_key=KEY, http_client=synchronous, max_retries=0)
    one = gpt.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "why?"}])
    two = claude.messages.create(model="claude-any", max_tokens=9, messages=[{"role": "user", "content": "how?"}])
    return [one.choices[0].message.content, getattr(two.content[0], "text", None)]


@service.function(on=f"{APP}/old")
async def old(ctx: Ctx) -> list[Any]:
    """A client of httpx."""
    anyway: Any = http.AsyncTransport()
    async with httpx.AsyncClient(transport=anyway) as client:
        response = await client.post(f"{ctx.event.data['provider']}/http/echo", json={"a": 1})
        return [type(response).__module__, response.json()["text"]]


@service.function(on=f"{APP}/refused", retries=1)
async def refused(ctx: Ctx) -> str:
    """A busy provider, and a library with retries of its own."""
    try:
        return await asked(gpt(ctx, max_retries=1), "why?")
    except openai.RateLimitError as err:
        await ctx.step.sleep("nap", "0s")
        return type(err).__name__


@service.function(on=f"{APP}/changing", retries=3)
async def changing(ctx: Ctx) -> str:
    """Asks something else in each execution."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    text = await asked(gpt(ctx), f"process {os.urandom(8).hex()}")
    await ctx.step.sleep("nap", ctx.event.data.get("nap", "1s"))
    return text


@service.function(on=f"{APP}/inside")
async def inside(ctx: Ctx) -> list[str]:
    """The same client in a step, where it calls directly."""
    client = gpt(ctx)
    return [await ctx.step.run("draft", asked, client, "one"), await asked(client, "two")]


def main() -> None:
    import uvicorn

    uvicorn.run(service.asgi(), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")


if __name__ == "__main__":
    main()
