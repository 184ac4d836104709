"""OpenAI's library: responses."""

from __future__ import annotations

import os

from openai import AsyncOpenAI, OpenAI

from stepwell import http

URL, KEY = f"{os.environ['PROVIDER']}/v1", os.environ["KEY"]

client = AsyncOpenAI(base_url=URL, api_key=KEY, http_client=http.async_client(), max_retries=0)
blocking = OpenAI(base_url=URL, api_key=KEY, http_client=http.client(), max_retries=0)


async def asked(prompt: str, client: AsyncOpenAI = client) -> str:
    answer = await client.responses.create(model="gpt-4o", input=prompt)
    return answer.output_text


async def streamed(prompt: str) -> str:
    events = await client.responses.create(model="gpt-4o", input=prompt, stream=True)
    return "".join([event.delta async for event in events if event.type == "response.output_text.delta"])


def asked_now(prompt: str) -> str:
    return blocking.responses.create(model="gpt-4o", input=prompt).output_text


def streamed_now(prompt: str) -> str:
    events = blocking.responses.create(model="gpt-4o", input=prompt, stream=True)
    return "".join([event.delta for event in events if event.type == "response.output_text.delta"])


async def repeated(prompt: str) -> str:
    return await asked(prompt, client.with_options(max_retries=1))
