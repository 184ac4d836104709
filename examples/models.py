"""Models and requests: the server asks while this function is gone from memory, and the answers are steps.

    python -m stepwell.testing.provider --port 8090     # a stand-in that wants no key; leave it out to ask OpenAI
    OPENAI_BASE_URL=http://127.0.0.1:8090/v1 OPENAI_API_KEY=any stepwell dev examples/models.py
    stepwell send support/ticket.created '{"text": "Fire!", "customer": "http://127.0.0.1:8090/http/echo"}' --follow

`stepwell run show` prints what was asked and answered, the tokens and what they cost.
"""

import asyncio
import os
from typing import Any, TypedDict

import stepwell
from stepwell import ai

service = stepwell.Service("support")


class Ticket(TypedDict):
    text: str
    customer: str  # where to ask about who wrote it


class Summary(TypedDict):
    title: str
    urgent: bool


class Result(TypedDict):
    summary: Summary
    customer_status: int
    draft: str
    tokens: int


ticket_created = stepwell.event("support/ticket.created", Ticket)


def prompt(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@service.function(on=ticket_created, retries=4)
async def triage(ctx: stepwell.Context[Ticket]) -> Result:
    ticket = ctx.event.data
    # The key is read from OPENAI_API_KEY of this process. It is in no database, log or trace of the server.
    model = ai.openai("gpt-4o-mini", base_url=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"))

    summary, customer = await asyncio.gather(  # both at once; nothing of this function runs meanwhile
        ctx.step.ai.infer("summarize", model=model, body=prompt(f"Sum up: {ticket['text']}"), output=Summary),
        ctx.step.fetch("customer", ticket["customer"], timeout="10s"),
    )
    draft = await ctx.step.ai.infer("draft", model=model, body=prompt(f"Answer kindly: {ticket['text']}"))
    used = [reply.usage.total_tokens for reply in (summary, draft) if reply.usage is not None]
    return {
        "summary": summary.output,
        "customer_status": customer.status_code,
        "draft": draft.output,
        "tokens": sum(used),
    }
