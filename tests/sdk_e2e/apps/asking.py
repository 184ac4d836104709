"""Functions whose requests the server makes. Run by `stepwell worker`, or as a program with an argument, over HTTP."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

import stepwell
from stepwell import ai
from tests.official.python.services.ledger import FUNCTION, note
from tests.sdk_e2e.apps import census

APP = os.environ["SERVICE"]
KEY = "sk-canary-of-our-own-service"
if "CENSUS" in os.environ:
    census.install()

service = stepwell.Service(APP)
Ctx = stepwell.Context[Any]
SyncCtx = stepwell.SyncContext[Any]


@dataclass
class Summary:
    title: str
    urgency: Literal["low", "high"]


def model(ctx: Ctx | SyncCtx) -> ai.Model:
    return ai.openai("gpt-4o-mini", base_url=f"{ctx.event.data['provider']}/v1", api_key=KEY)


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@service.function(on=f"{APP}/infer")
async def infer(ctx: Ctx) -> Any:
    """Asks for a typed answer."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    reply = await ctx.step.ai.infer(
        "ask", model=model(ctx), body=said(ctx.event.data.get("text", "sum it up")), output=Summary
    )
    await ctx.step.sleep("nap", ctx.event.data.get("nap", "0s"))
    usage = reply.usage
    assert usage is not None
    return {
        "title": reply.output.title,
        "usage": [usage.input_tokens, usage.output_tokens],
        "cost": str(reply.cost_usd),
        "model": reply.model,
        "tools": [[call.name, call.arguments] for call in reply.tool_calls],
    }


@service.function(on=f"{APP}/infer-plain")
def infer_plain(ctx: SyncCtx) -> Any:
    """The same in a plain `def`, without a type."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    reply = ctx.step.ai.infer("ask", model=model(ctx), body=said("hello"))
    response = ctx.step.fetch("status", f"{ctx.event.data['provider']}/http/status/418?body=tea")
    return [reply.output, response.status_code, response.text]


@service.function(on=f"{APP}/wrong")
async def wrong(ctx: Ctx) -> Any:
    """Is told something else than it asked for."""
    reply = await ctx.step.ai.infer("ask", model=model(ctx), body=said("hello"), output=Summary)
    try:
        return reply.output.title
    except ai.OutputNotValid as err:
        return str(err)


@service.function(on=f"{APP}/fetch")
async def fetch(ctx: Ctx) -> Any:
    """All that httpx2 can send, side by side; the bodies are read in later steps, after a sleep."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    base = f"{ctx.event.data['provider']}/http"
    step = ctx.step
    echo, binary, form, files, redirected = await asyncio.gather(
        step.fetch("json", f"{base}/echo", method="POST", params={"q": "a b"}, json={"ü": 1}),
        step.fetch("binary", f"{base}/bytes/1000"),
        step.fetch("form", f"{base}/echo", method="PUT", data={"a": "1"}),
        step.fetch("files", f"{base}/echo", method="POST", files={"f": ("f.bin", bytes(range(256)))}),
        step.fetch("redirected", f"{base}/redirect/2", follow_redirects=True),
    )
    secrets = {"X-Key": KEY, "Authorization": f"Bearer {KEY}"}
    await step.fetch("secret", f"{base}/status/204", params={"api_key": KEY}, headers=secrets, cookies={"c": KEY})
    await step.sleep("nap", ctx.event.data.get("nap", "0s"))

    async def read(response: httpx2.Response) -> Any:
        return [response.status_code, response.reason_phrase, len(response.content), response.headers["content-type"]]

    told = echo.json()
    return {
        "echo": [told["method"], told["text"], echo.url.query.decode(), type(echo).__module__.partition(".")[0]],
        "binary": await step.run("read", read, binary),
        "form": form.json()["text"],
        "files": "base64" in files.json(),
        "redirected": [redirected.status_code, redirected.url.path],
        "elapsed": echo.elapsed.total_seconds() >= 0,
    }


@service.function(on=f"{APP}/refused", retries=1)
async def refused(ctx: Ctx) -> Any:
    """A request that nobody answers."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    try:
        await ctx.step.fetch("nobody", ctx.event.data["url"])
    except stepwell.StepError as err:
        return [err.step_id, err.name, err.message]
    return None


@service.function(on=f"{APP}/flaky")
async def flaky(ctx: Ctx) -> Any:
    response = await ctx.step.fetch("flaky", ctx.event.data["url"])
    return response.status_code


class Client:
    """Somebody's client, as those of providers are: bound methods, sync and async."""

    def __init__(self, word: str) -> None:
        self.word = word

    async def create(self, *, model: str, question: str) -> dict[str, str]:
        return {"model": model, "answer": f"{question} {self.word}"}

    def create_now(self, question: str) -> str:
        return f"{question} {self.word}"


@service.function(on=f"{APP}/wrap")
async def wrap(ctx: Ctx) -> Any:
    """Calls of somebody's client as steps."""
    client = Client("indeed")
    one = await ctx.step.ai.wrap("one", client.create)(model="m", question="why")
    two = await ctx.step.ai.wrap("two", client.create_now)("how")
    await ctx.step.sleep("nap", "0s")
    return [one, two]


@service.function(on=f"{APP}/wrap-provider")
async def wrap_provider(ctx: Ctx) -> Any:
    """A call of a provider from this very process."""

    async def create(*, model: str, messages: list[dict[str, str]]) -> dict[str, Any]:
        async with httpx2.AsyncClient() as client:
            url = f"{ctx.event.data['provider']}/v1/chat/completions"
            answer = await client.post(url, json={"model": model, "messages": messages})
            return dict(answer.json())

    reply = await ctx.step.ai.wrap("draft", create)(model="gpt-4o", messages=said("why?")["messages"])
    return reply["choices"][0]["message"]["content"]


def main() -> None:
    import uvicorn

    uvicorn.run(census.counted(service.asgi()), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")


if __name__ == "__main__":
    main()
