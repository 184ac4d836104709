"""Clean up after a run that was cancelled: a function on the system event gets the event that started it.

    stepwell dev examples/cleanup.py
    stepwell send rooms/booked '{"room": 7}'
    stepwell send rooms/revoked '{"room": 7}'
    stepwell runs

A `finally` in the function would be the wrong place: it runs whenever the function is dropped from memory to wait.
"""

from typing import Any, TypedDict

import stepwell

service = stepwell.Service("rooms")


class Room(TypedDict):
    room: int


booked = stepwell.event("rooms/booked", Room)
revoked = stepwell.event("rooms/revoked", Room)
cancelled = stepwell.event("inngest/function.cancelled", Any)


@service.function(on=booked, cancel_on=stepwell.CancelOn(revoked, match="data.room"))
async def book(ctx: stepwell.Context[Room]) -> str:
    await ctx.step.run("block", note, f"room {ctx.event.data['room']} is blocked")
    await ctx.step.sleep("until-checkout", "3d")
    return "checked out"


@service.function(on=cancelled.when("event.data.function_id == 'rooms-book'"))
async def give_back(ctx: stepwell.Context[Any]) -> str:
    room: Room = ctx.event.data["event"]["data"]
    return await ctx.step.run("free", note, f"room {room['room']} is free again")


async def note(text: str) -> str:
    print(text, flush=True)
    return text
