"""Run a function once, at a moment in the future: send its event with a `ts` that has not come yet.

    stepwell dev examples/schedule_once.py
    python examples/schedule_once.py            # in another terminal

The run is there at once, queued, and can be looked at and cancelled before it begins.
"""

from datetime import UTC, datetime, timedelta
from typing import TypedDict

import stepwell

service = stepwell.Service("reminders")


class Reminder(TypedDict):
    text: str


due = stepwell.event("reminders/due", Reminder)


@service.function(on=due)
async def remind(ctx: stepwell.Context[Reminder]) -> str:
    return await ctx.step.run("remind", lambda: f"Remember: {ctx.event.data['text']}")


def main() -> None:
    with stepwell.Client() as client:
        soon = client.send(due({"text": "tea"}, ts=datetime.now(UTC) + timedelta(seconds=2)))
        later = client.send(due({"text": "taxes"}, ts=datetime.now(UTC) + timedelta(days=30)))

        (revoked,) = client.runs(event=later.ids[0])
        print(f"taxes: {revoked.status().value}")
        revoked.cancel()
        print(f"taxes: {revoked.status().value}")

        (run,) = client.runs(event=soon.ids[0])
        print(f"tea: {run.status().value}")
        print(run.result(timeout="1m"))


if __name__ == "__main__":
    main()
