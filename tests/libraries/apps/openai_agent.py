"""OpenAI Agents."""

from __future__ import annotations

import os

from agents import Agent, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

from stepwell import http

URL, KEY = f"{os.environ['PROVIDER']}/v1", os.environ["KEY"]

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=URL, api_key=KEY, http_client=http.async_client(), max_retries=0)
agent = Agent("assistant", model=OpenAIResponsesModel("gpt-4o", client))
repeating = Agent("assistant", model=OpenAIResponsesModel("gpt-4o", client.with_options(max_retries=1)))


async def asked(prompt: str) -> str:
    return str((await Runner.run(agent, prompt)).final_output)


async def streamed(prompt: str) -> str:
    result = Runner.run_streamed(agent, prompt)
    raw = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
    return "".join(event.delta for event in raw if event.type == "response.output_text.delta")


def asked_now(prompt: str) -> str:
    return str(Runner.run_sync(agent, prompt).final_output)


async def repeated(prompt: str) -> str:
    return str((await Runner.run(repeating, prompt)).final_output)
