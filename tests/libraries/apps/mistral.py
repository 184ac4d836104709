"""Mistral's library."""

from __future__ import annotations

import os

from mistralai.client import Mistral
from mistralai.client.utils import BackoffStrategy, RetryConfig

from stepwell import http

URL, KEY = os.environ["PROVIDER"], os.environ["KEY"]

client = Mistral(api_key=KEY, server_url=URL, client=http.client(), async_client=http.async_client())
repeating = Mistral(
    api_key=KEY,
    server_url=URL,
    async_client=http.async_client(),
    retry_config=RetryConfig("backoff", BackoffStrategy(10, 20, 1.5, 2500), retry_connection_errors=False),
)


async def asked(prompt: str, client: Mistral = client) -> str:
    answer = await client.chat.complete_async(
        model="mistral-small-latest", messages=[{"role": "user", "content": prompt}]
    )
    return str(answer.choices[0].message.content)


async def streamed(prompt: str) -> str:
    events = await client.chat.stream_async(
        model="mistral-small-latest", messages=[{"role": "user", "content": prompt}]
    )
    return "".join([str(event.data.choices[0].delta.content or "") async for event in events])


def asked_now(prompt: str) -> str:
    answer = client.chat.complete(model="mistral-small-latest", messages=[{"role": "user", "content": prompt}])
    return str(answer.choices[0].message.content)


def streamed_now(prompt: str) -> str:
    events = client.chat.stream(model="mistral-small-latest", messages=[{"role": "user", "content": prompt}])
    return "".join(str(event.data.choices[0].delta.content or "") for event in events)


async def repeated(prompt: str) -> str:
    return await asked(prompt, repeating)
