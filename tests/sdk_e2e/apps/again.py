"""A function with a step of every kind, to be made again. Run by `stepwell worker`, or as a program over HTTP."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import stepwell
import stepwell.http
from stepwell import ai
from tests.official.python.services.ledger import FUNCTION, note

APP = os.environ["SERVICE"]
KEY = "sk-canary-of-our-own-service"

service = stepwell.Service(APP, checkpointing="CHECKPOINTS_OFF" not in os.environ)
Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]


class Client:
    """Somebody's client."""

    def __init__(self, ctx: Ctx | SyncCtx) -> None:
        self.ctx = ctx

    async def create(self, *, model: str, question: str) -> dict[str, str]:
        note(self.ctx.run_id, "polish", self.ctx.attempt)
        return {"model": model, "answer": f"{question}!"}

    def create_now(self, question: str) -> str:
        note(self.ctx.run_id, "polish", self.ctx.attempt)
        return f"{question}!"


@service.function(on=f"{APP}/child")
async def child(ctx: Ctx) -> Any:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    return ctx.event.data["n"] * 2


@service.function(on=f"{APP}/story")
async def story(ctx: Ctx) -> Any:
    """All that may stand before a step, then a question to a model, a wrapped call and a fetch."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    step, provider = ctx.step, ctx.event.data["provider"]

    async def noted(name: str, value: Any) -> Any:
        note(ctx.run_id, name, ctx.attempt)
        return value

    paid, _ = await asyncio.gather(
        step.wait_for_event("paid", f"{APP}/paid", timeout="20s"),
        step.send_event("tell", stepwell.Event(f"{APP}/paid", {"run": ctx.run_id})),
    )
    await step.sleep("nap", "20ms")
    doubled = await step.invoke("call", child, data={"n": 21})
    left, right = await asyncio.gather(step.run("left", noted, "left", 1), step.run("right", noted, "right", 2))
    model = ai.openai("gpt-4o-mini", base_url=f"{provider}/v1", api_key=KEY)
    reply = await step.ai.infer("draft", model=model, body={"messages": [{"role": "user", "content": "Hello"}]})
    polished = await step.ai.wrap("polish", Client(ctx).create)(model="m", question=reply.text)
    response = await step.fetch(
        "post", f"{provider}/http/echo", method="POST", json={"text": reply.text}, headers={"X-Key": KEY}
    )
    end = await step.run("end", noted, "end", "over")
    return {
        "paid": paid is not None,
        "doubled": doubled,
        "sum": left + right,
        "reply": reply.text,
        "polished": polished,
        "post": response.json()["text"],
        "end": end,
    }


@service.function(on=f"{APP}/plain")
def plain(ctx: SyncCtx) -> Any:
    """The same kinds in a plain `def`, as far as they can be edited."""
    note(ctx.run_id, FUNCTION, ctx.attempt)

    def noted(name: str, value: Any) -> Any:
        note(ctx.run_id, name, ctx.attempt)
        return value

    first = ctx.step.run("first", noted, "first", 1)
    polished = ctx.step.ai.wrap("polish", Client(ctx).create_now)("why")
    return [first, polished]


@service.function(on=f"{APP}/library")
async def library(ctx: Ctx) -> Any:
    """A library on httpx2, whose requests are steps."""
    async with stepwell.http.async_client() as client:
        url, body = f"{ctx.event.data['provider']}/v1/chat/completions", {"model": "gpt-4o-mini"}
        asked = body | {"messages": [{"role": "user", "content": "Hello"}]}
        answer = await client.post(url, json=asked, headers={"Authorization": f"Bearer {KEY}"})
        return answer.json()["choices"][0]["message"]["content"]


class Opaque:
    """What JSON does not have."""


@service.function(on=f"{APP}/blocked", retries=0)
async def blocked(ctx: Ctx) -> Any:
    """Arguments that JSON does not have, and a call that fails until it is given something else."""

    async def ask(client: Opaque, *, question: str) -> str:
        return question

    async def strict(*, model: str) -> str:
        if model == "bad":
            raise stepwell.NonRetriableError("no such model")
        return model

    await ctx.step.ai.wrap("opaque", ask)(Opaque(), question="why")
    return await ctx.step.ai.wrap("strict", strict)(model="bad")


def main() -> None:
    import uvicorn

    uvicorn.run(service.asgi(), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")


if __name__ == "__main__":
    main()
