"""`step.fetch` and `step.ai`, as checkers must know them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any, Literal, assert_type, overload

import httpx2
from pydantic import BaseModel

import stepwell
from stepwell import ai

service = stepwell.Service("support")
MODEL = ai.openai("gpt-4o-mini", api_key="sk-...")


class Summary(BaseModel):
    title: str


class Stream: ...


class Client:
    """As the clients of providers are: what comes back depends on `stream`."""

    @overload
    async def create(self, *, model: str, stream: Literal[False] = False) -> Summary: ...
    @overload
    async def create(self, *, model: str, stream: Literal[True]) -> Stream: ...
    async def create(self, *, model: str, stream: bool = False) -> Summary | Stream:
        return Stream() if stream else Summary(title=model)

    def create_now(self, question: str, *, loud: bool = False) -> int:
        return len(question) + loud


@service.function(on="support/ticket.created")
async def asks(ctx: stepwell.Context[Any]) -> str:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    typed = await ctx.step.ai.infer("typed", model=MODEL, body=body, output=Summary)
    assert_type(typed, ai.Reply[Summary])
    assert_type(typed.output, Summary)
    assert_type(typed.usage, ai.Usage | None)
    assert_type(typed.cost_usd, Decimal | None)
    plain = await ctx.step.ai.infer("plain", model=MODEL, body=body, stream=True, timeout="30s")
    assert_type(plain.output, str)
    listed = await ctx.step.ai.infer("list", model=MODEL, body=body, output=list[Summary])
    assert_type(listed.output, list[Summary])

    first, second = await asyncio.gather(
        ctx.step.fetch("rates", "https://api.example.com/rates", params={"page": 2}),
        ctx.step.fetch("post", "https://api.example.com/", method="POST", json={"a": 1}, timeout=5.0),
    )
    assert_type(first, httpx2.Response)
    assert_type(second, httpx2.Response)

    client = Client()
    assert_type(await ctx.step.ai.wrap("one", client.create)(model="m"), Summary)
    assert_type(await ctx.step.ai.wrap("two", client.create)(model="m", stream=True), Stream)
    assert_type(await ctx.step.ai.wrap("three", client.create_now)("why", loud=True), int)
    return typed.output.title


@service.function(on="support/ticket.closed")
def asks_blocking(ctx: stepwell.SyncContext[Any]) -> int:
    typed = ctx.step.ai.infer("typed", model=MODEL, body={}, output=Summary)
    assert_type(typed.output, Summary)
    assert_type(ctx.step.fetch("rates", "https://api.example.com/rates"), httpx2.Response)
    assert_type(ctx.step.ai.wrap("three", Client().create_now)("why"), int)
    return 1


@service.function(on="support/ticket.moved")
async def mistaken(ctx: stepwell.Context[Any]) -> None:
    await ctx.step.ai.infer("no model", body={})  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.step.ai.infer("a name", model="gpt-4o", body={})  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await ctx.step.fetch("verify", "https://example.com/", verify=False)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await ctx.step.ai.wrap("typo", Client().create)(modle="m")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.step.ai.wrap("kind", Client().create_now)(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    reply = await ctx.step.ai.infer("typed", model=MODEL, body={}, output=Summary)
    number: int = reply.output  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(number)
