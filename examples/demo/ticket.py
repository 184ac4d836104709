"""The other function of the demo: a support ticket is read from its file, sorted by a model, and stored.

The server asks the model while nothing of this function runs, and tells its words to whoever follows the run. Which
model: that of the first key there is, otherwise the stand-in that the demo starts (`DEMO_STAND_IN`, its address).
"""

import os
import sqlite3
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import BaseModel

import stepwell
from stepwell import ai

service = stepwell.Service("support")

TICKETS = Path(__file__).parent
PROMPT = (
    "Sort this ticket. Answer with JSON alone: title, urgency (low, normal or high), team (billing, delivery or "
    "technical), reply (three kind sentences)."
)


class Triage(BaseModel):
    title: str
    urgency: Literal["low", "normal", "high"]
    team: Literal["billing", "delivery", "technical"]
    reply: str


class Ticket(TypedDict):
    file: str


ticket_received = stepwell.event("support/ticket.received", Ticket)


def model() -> ai.Model:
    if os.environ.get("OPENAI_API_KEY"):
        return ai.openai("gpt-4o-mini")
    if os.environ.get("ANTHROPIC_API_KEY"):
        return ai.anthropic("claude-haiku-4-5")
    if os.environ.get("XAI_API_KEY"):
        return ai.grok("grok-3-mini")
    return ai.openai("stand-in", base_url=os.environ["DEMO_STAND_IN"], api_key="none")


@service.function(on=ticket_received, retries=4)
async def triage(ctx: stepwell.Context[Ticket]) -> Triage:
    text = await ctx.step.run("read", read, ctx.event.data["file"])
    messages = [{"role": "user", "content": PROMPT}, {"role": "user", "content": text}]
    reply = await ctx.step.ai.infer("sort", model=model(), body={"messages": messages}, output=Triage, stream=True)
    await ctx.step.run("store", store, ctx.run_id, reply.output)
    return reply.output


def read(file: str) -> str:
    return (TICKETS / file).read_text()


def store(run: str, triage: Triage) -> None:
    """Keyed by the run, so that it is stored once however often this is called."""
    with sqlite3.connect(os.environ["DEMO_TICKETS"]) as database:
        database.execute("CREATE TABLE IF NOT EXISTS triage (run TEXT PRIMARY KEY, title, urgency, team, reply)")
        row = (run, triage.title, triage.urgency, triage.team, triage.reply)
        database.execute("INSERT OR REPLACE INTO triage VALUES (?, ?, ?, ?, ?)", row)
