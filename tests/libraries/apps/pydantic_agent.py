"""Pydantic AI."""

from __future__ import annotations

import os

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from stepwell import http

URL, KEY = f"{os.environ['PROVIDER']}/v1", os.environ["KEY"]

client = AsyncOpenAI(base_url=URL, api_key=KEY, http_client=http.async_client(), max_retries=0)
agent = Agent(OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client)))
repeating = Agent(OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client.with_options(max_retries=1))))


async def asked(prompt: str) -> str:
    return str((await agent.run(prompt)).output)


async def streamed(prompt: str) -> str:
    async with agent.run_stream(prompt) as result:
        return "".join([piece async for piece in result.stream_text(delta=True)])


def asked_now(prompt: str) -> str:
    return str(agent.run_sync(prompt).output)


async def repeated(prompt: str) -> str:
    return str((await repeating.run(prompt)).output)
