"""Your AI library, durable: each call of the openai library in a function is a step that the server makes.

    python -m stepwell.testing.provider --port 8090     # a stand-in that wants no key; leave it out to ask OpenAI
    OPENAI_BASE_URL=http://127.0.0.1:8090/v1 OPENAI_API_KEY=any stepwell dev examples/durable_library.py
    stepwell send essay/asked '{"topic": "tea", "parts": ["history", "taste"]}' --follow

The library is as you installed it; all it is told is which HTTP client to use. Stop the server while it works and
start it again: no call that was answered is made twice.
"""

import asyncio
from typing import TypedDict

from openai import AsyncOpenAI

import stepwell
from stepwell.http import async_client

service = stepwell.Service("essays")

# The server retries, so the library need not. The key is read from OPENAI_API_KEY; the server keeps it in memory only.
client = AsyncOpenAI(http_client=async_client(), max_retries=0)


class Essay(TypedDict):
    topic: str
    parts: list[str]


essay_asked = stepwell.event("essay/asked", Essay)


async def ask(prompt: str) -> str:
    answer = await client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content or ""


@service.function(on=essay_asked)
async def write(ctx: stepwell.Context[Essay]) -> str:
    essay = ctx.event.data
    parts = await asyncio.gather(*(ask(f"Write about the {part} of {essay['topic']}") for part in essay["parts"]))
    return await ask("Join these:\n" + "\n".join(parts))
