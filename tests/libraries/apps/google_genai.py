"""Google's library."""

from __future__ import annotations

import os

from google.genai import Client
from google.genai.types import HttpOptions, HttpRetryOptions

from stepwell import http

URL, KEY = os.environ["PROVIDER"], os.environ["KEY"]

client = Client(
    api_key=KEY,
    http_options=HttpOptions(base_url=URL, httpx_client=http.client(), httpx_async_client=http.async_client()),
)
repeating = Client(
    api_key=KEY,
    http_options=HttpOptions(
        base_url=URL,
        httpx_async_client=http.async_client(),
        retry_options=HttpRetryOptions(attempts=2, initial_delay=0.01),
    ),
)


async def asked(prompt: str, client: Client = client) -> str:
    answer = await client.aio.models.generate_content(model="gemini-2.5-flash", contents=prompt)
    return answer.text or ""


async def streamed(prompt: str) -> str:
    pieces = await client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents=prompt)
    return "".join([piece.text or "" async for piece in pieces])


def asked_now(prompt: str) -> str:
    return client.models.generate_content(model="gemini-2.5-flash", contents=prompt).text or ""


def streamed_now(prompt: str) -> str:
    pieces = client.models.generate_content_stream(model="gemini-2.5-flash", contents=prompt)
    return "".join(piece.text or "" for piece in pieces)


async def repeated(prompt: str) -> str:
    return await asked(prompt, repeating)
