"""LangChain's chat model of OpenAI."""

from __future__ import annotations

import os
from typing import Any

from langchain_openai import ChatOpenAI

from stepwell import http

settings: dict[str, Any] = {
    "model": "gpt-4o",
    "base_url": f"{os.environ['PROVIDER']}/v1",
    "api_key": os.environ["KEY"],
    "http_client": http.client(),
    "http_async_client": http.async_client(),
}
model = ChatOpenAI(**settings, max_retries=0)
repeating = ChatOpenAI(**settings, max_retries=1)


async def asked(prompt: str) -> str:
    return str((await model.ainvoke(prompt)).content)


async def streamed(prompt: str) -> str:
    return "".join([str(piece.content) async for piece in model.astream(prompt)])


def asked_now(prompt: str) -> str:
    return str(model.invoke(prompt).content)


def streamed_now(prompt: str) -> str:
    return "".join(str(piece.content) for piece in model.stream(prompt))


async def repeated(prompt: str) -> str:
    return str((await repeating.ainvoke(prompt)).content)
