"""A service that asks a real engine with `step.ai.infer`. Run by `stepwell worker`."""

from __future__ import annotations

import os
from typing import Any

import stepwell
from stepwell import ai

APP = os.environ["SERVICE"]

service = stepwell.Service(APP)
model = ai.openai("tiny", base_url=f"{os.environ['PROVIDER']}/v1", api_key=os.environ["KEY"])
QUESTION = [{"role": "user", "content": "tea"}]
WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"rain": {"type": "boolean"}, "wind": {"enum": ["none", "weak", "strong"]}},
        "required": ["rain", "wind"],
    },
}


@service.function(on=f"{APP}/inferred")
async def inferred(ctx: stepwell.Context[Any]) -> dict[str, Any]:
    """A text, and a call of a tool that must be called."""
    plain = await ctx.step.ai.infer(
        "plain", model=model, body={"messages": QUESTION, "max_tokens": 24, "temperature": 0}
    )
    forced = await ctx.step.ai.infer(
        "forced",
        model=model,
        body={
            "messages": QUESTION,
            "max_tokens": 200,
            "tools": [{"type": "function", "function": WEATHER}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
    )
    await ctx.step.sleep("nap", ctx.event.data["nap"])
    return {
        "text": plain.output,
        "calls": [[call.name, call.arguments] for call in forced.tool_calls],
    }
