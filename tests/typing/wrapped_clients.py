"""`step.ai.wrap` around the libraries of providers: their overloads, as checkers must see them."""

from __future__ import annotations

from typing import Any, assert_type

from anthropic import AsyncAnthropic, AsyncStream
from anthropic.types import Message, MessageParam, RawMessageStreamEvent
from openai import AsyncOpenAI, OpenAI
from openai import AsyncStream as AsyncOpenAIStream
from openai import Stream as OpenAIStream
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam, ParsedChatCompletion
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

import stepwell

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "why?"}]
ASKED: list[MessageParam] = [{"role": "user", "content": "why?"}]


class Summary(BaseModel):
    title: str


async def asynchronous(ctx: stepwell.Context[Any], client: AsyncOpenAI, claude: AsyncAnthropic) -> None:
    create = ctx.step.ai.wrap("chat", client.chat.completions.create)
    assert_type(await create(model="gpt-4o", messages=QUESTION), ChatCompletion)
    chunks = await create(model="gpt-4o", messages=QUESTION, stream=True)
    assert_type(chunks, AsyncOpenAIStream[ChatCompletionChunk])
    parse = ctx.step.ai.wrap("parse", client.chat.completions.parse)
    parsed = await parse(model="gpt-4o", messages=QUESTION, response_format=Summary)
    assert_type(parsed, ParsedChatCompletion[Summary])
    respond = ctx.step.ai.wrap("respond", client.responses.create)
    assert_type(await respond(model="gpt-4o", input="why?"), Response)
    assert_type(await respond(input="why?", stream=True), AsyncOpenAIStream[ResponseStreamEvent])
    say = ctx.step.ai.wrap("say", claude.messages.create)
    assert_type(await say(model="claude-sonnet-4-5", max_tokens=9, messages=ASKED), Message)
    events = await say(model="claude-sonnet-4-5", max_tokens=9, messages=ASKED, stream=True)
    assert_type(events, AsyncStream[RawMessageStreamEvent])
    await create(modle="gpt-4o", messages=QUESTION)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def plain(ctx: stepwell.SyncContext[Any], client: OpenAI) -> None:
    create = ctx.step.ai.wrap("chat", client.chat.completions.create)
    assert_type(create(model="gpt-4o", messages=QUESTION), ChatCompletion)
    assert_type(create(model="gpt-4o", messages=QUESTION, stream=True), OpenAIStream[ChatCompletionChunk])
    respond = ctx.step.ai.wrap("respond", client.responses.create)
    assert_type(respond(model="gpt-4o", input="why?"), Response)
    create(model="gpt-4o")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
