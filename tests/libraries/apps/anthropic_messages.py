"""Anthropic's library."""

from __future__ import annotations

import os

from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message, TextBlock

from stepwell import http

URL, KEY = os.environ["PROVIDER"], os.environ["KEY"]

client = AsyncAnthropic(base_url=URL, api_key=KEY, http_client=http.async_client(), max_retries=0)
blocking = Anthropic(base_url=URL, api_key=KEY, http_client=http.client(), max_retries=0)


def text(answer: Message) -> str:
    return "".join(block.text for block in answer.content if isinstance(block, TextBlock))


async def asked(prompt: str, client: AsyncAnthropic = client) -> str:
    return text(
        await client.messages.create(
            model="claude-sonnet-4-5", max_tokens=99, messages=[{"role": "user", "content": prompt}]
        )
    )


async def streamed(prompt: str) -> str:
    async with client.messages.stream(
        model="claude-sonnet-4-5", max_tokens=99, messages=[{"role": "user", "content": prompt}]
    ) as stream:
        return "".join([piece async for piece in stream.text_stream])


def asked_now(prompt: str) -> str:
    return text(
        blocking.messages.create(
            model="claude-sonnet-4-5", max_tokens=99, messages=[{"role": "user", "content": prompt}]
        )
    )


def streamed_now(prompt: str) -> str:
    with blocking.messages.stream(
        model="claude-sonnet-4-5", max_tokens=99, messages=[{"role": "user", "content": prompt}]
    ) as stream:
        return "".join(stream.text_stream)


async def repeated(prompt: str) -> str:
    return await asked(prompt, client.with_options(max_retries=1))
