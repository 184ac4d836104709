"""Functions that ask with keys: their own, or one that the server keeps. Run by `stepwell worker`."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import quote

import openai

import stepwell
from stepwell import ai, http
from tests.official.python.services.ledger import FUNCTION, note

APP = os.environ["SERVICE"]
OWN = "sk-canary/own+4711=="

service = stepwell.Service(APP)
Ctx = stepwell.Context[Any]
QUESTION = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


def models(base: str, **key: Any) -> dict[str, ai.Model]:
    """One of each dialect."""
    return {
        "openai": ai.openai("m", base_url=f"{base}/v1", **key),
        "responses": ai.openai_responses("m", base_url=f"{base}/v1", **key),
        "anthropic": ai.anthropic("m", base_url=base, **key),
        "gemini": ai.gemini("m", base_url=f"{base}/v1beta", **key),
        "grok": ai.grok("m", base_url=f"{base}/v1", **key),
        "azure": ai.azure_openai("m", endpoint=base, **key),
        "other": ai.other("m", url=f"{base}/answer", **key),
        "address": in_the_address(base, key.get("credential")),
    }


def in_the_address(base: str, name: str | None) -> ai.Model:
    url = f"{base}/v1beta/models/m:generateContent"
    if name is None:
        return ai.other("m", format="gemini", url=f"{url}?key={quote(OWN, safe='')}")
    return ai.other("m", format="gemini", url=url, credential=f"{name}-in-address")


@service.function(on=f"{APP}/ask", retries=1)
async def ask(ctx: Ctx) -> Any:
    """Asks all dialects, by plain requests too and with a library, and tells what it got."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    data, step = ctx.event.data, ctx.step
    base, name = data["base"], data.get("credential")
    key: dict[str, Any] = {"credential": name} if name else {"api_key": OWN}
    asked: list[Any] = [
        step.ai.infer(name, model=model, body=QUESTION, stream=True) for name, model in models(base, **key).items()
    ]
    if name:
        asked += [step.fetch("fetch", f"{base}/answer", method="POST", json={"a": 1}, credential=name)]
    else:
        secrets = {"X-Key": OWN, "Authorization": f"Bearer {OWN}", "X-Anything": OWN}
        asked += [
            step.fetch("fetch", f"{base}/answer", params={"key": OWN}, headers=secrets, cookies={"session": OWN}),
            step.fetch("user", f"{base}/answer", auth=("ann", OWN)),
        ]
    asked += [
        step.fetch("redirect", f"{base}/redirect", follow_redirects=True, credential=name)
        if name
        else step.fetch("redirect", f"{base}/redirect?token={OWN}", headers={"X-Key": OWN}, follow_redirects=True),
        by_library(base, name),
        by_library(base, name, stream=True),
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    return [str(getattr(one, "response", one)) + str(getattr(one, "text", "")) for one in answers]


async def by_library(base: str, name: str | None, *, stream: bool = False) -> str:
    client = openai.AsyncOpenAI(
        base_url=f"{base}/v1",
        api_key="none" if name else OWN,
        http_client=http.async_client(credential=name),
        max_retries=0,
    )
    messages: Any = QUESTION["messages"]
    if not stream:
        return str(await client.chat.completions.create(model="m", messages=messages))
    async with await client.chat.completions.create(model="m", messages=messages, stream=True) as chunks:
        return str([chunk async for chunk in chunks])


@service.function(on=f"{APP}/once")
async def once(ctx: Ctx) -> Any:
    """Asks one model."""
    note(ctx.run_id, FUNCTION, ctx.attempt)
    key: dict[str, Any] = {"credential": name} if (name := ctx.event.data.get("credential")) else {"api_key": OWN}
    reply = await ctx.step.ai.infer("ask", model=models(ctx.event.data["base"], **key)["openai"], body=QUESTION)
    return reply.text
