"""The part of the kill storm that runs on an official SDK over HTTP. `python -m`, with PORT, LEDGER and INNGEST_DEV."""

import os

import fastapi
import inngest
import inngest.fast_api
import uvicorn

from tests.faults.apps.note import note

client = inngest.Inngest(app_id="storm-http", is_production=False)
app = fastapi.FastAPI()


async def work(run: str, step: str) -> str:
    note(run, step)
    return step


@client.create_function(fn_id="pair", retries=0, trigger=inngest.TriggerEvent(event="storm/wide"))
async def pair(ctx: inngest.Context) -> str:
    one = await ctx.step.run("one", work, ctx.run_id, "one")
    return f"{one} {await ctx.step.run('two', work, ctx.run_id, 'two')}"


inngest.fast_api.serve(app, client, [pair])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
