"""OpenAI's library: chat completions."""

from __future__ import annotations

import os

from openai import AsyncOpenAI, OpenAI

from stepwell import http

URL, KEY = f"{os.environ['PROVIDER']}/v1", os.environ["KEY"]

client = AsyncOpenAI(base_url=URL, api_key=KEY, http_client=http.async_client(), max_retries=0)
blocking = OpenAI(base_url=URL, api_key=KEY, http_client=http.client(), max_retries=0)


async def asked(prompt: str, client: AsyncOpenAI = client) -> str:
    answer = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content or ""


async def streamed(prompt: str) -> str:
    pieces = await client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": prompt}], stream=True
    )
    return "".join([piece.choices[0].delta.content or "" async for piece in pieces if piece.choices])


def asked_now(prompt: str) -> str:
    answer = blocking.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content or ""


def streamed_now(prompt: str) -> str:
    pieces = blocking.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": prompt}], stream=True
    )
    return "".join([piece.choices[0].delta.content or "" for piece in pieces if piece.choices])


async def repeated(prompt: str) -> str:
    return await asked(prompt, client.with_options(max_retries=1))
