"""LiteLLM, which needs httpx and the openai of the generation before."""

from __future__ import annotations

import os
from typing import Any

import httpx
import litellm
from openai import AsyncOpenAI, OpenAI

from stepwell import http

URL, KEY = f"{os.environ['PROVIDER']}/v1", os.environ["KEY"]

transport: Any = http.AsyncTransport()
web: Any = httpx.AsyncClient(transport=transport)
client = AsyncOpenAI(base_url=URL, api_key=KEY, http_client=web, max_retries=0)
blocking_transport: Any = http.Transport()
blocking_web: Any = httpx.Client(transport=blocking_transport)
blocking = OpenAI(base_url=URL, api_key=KEY, http_client=blocking_web, max_retries=0)


async def asked(prompt: str, client: AsyncOpenAI = client, retries: int = 0) -> str:
    answer = await litellm.acompletion(
        model="openai/gpt-4o", messages=[{"role": "user", "content": prompt}], client=client, max_retries=retries
    )
    return str(answer.choices[0].message.content)


async def streamed(prompt: str) -> str:
    pieces = await litellm.acompletion(
        model="openai/gpt-4o",
        messages=[{"role": "user", "content": prompt}],
        client=client,
        max_retries=0,
        stream=True,
    )
    return "".join([piece.choices[0].delta.content or "" async for piece in pieces])


def asked_now(prompt: str) -> str:
    answer = litellm.completion(
        model="openai/gpt-4o", messages=[{"role": "user", "content": prompt}], client=blocking, max_retries=0
    )
    return str(answer.choices[0].message.content)


def streamed_now(prompt: str) -> str:
    pieces = litellm.completion(
        model="openai/gpt-4o",
        messages=[{"role": "user", "content": prompt}],
        client=blocking,
        max_retries=0,
        stream=True,
    )
    return "".join([piece.choices[0].delta.content or "" for piece in pieces])


async def repeated(prompt: str) -> str:
    return await asked(prompt, client.copy(), retries=1)
