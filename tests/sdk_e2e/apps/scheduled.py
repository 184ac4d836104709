"""A service with a function that starts by the clock; `SCHEDULE` says when."""

from __future__ import annotations

import os

import stepwell
from tests.official.python.services.ledger import FUNCTION, note

service = stepwell.Service(os.environ["SERVICE"])


@service.function(on=stepwell.cron(os.environ["SCHEDULE"]))
async def clock(ctx: stepwell.Context[None]) -> list[str | None]:
    note(ctx.run_id, FUNCTION, ctx.attempt)
    assert ctx.event.data is None
    return [ctx.event.name, ctx.event.id]
