"""Functions inside a FastAPI application, which starts them and tells of them over its own routes.

    stepwell dev
    STEPWELL_DEV=1 uvicorn examples.fastapi_app:app --port 8000
    curl -X POST 'http://localhost:8000/greetings?name=Ada'
    curl http://localhost:8000/greetings/RUN-ID

The server finds the application on port 8000 by itself. `STEPWELL_DEV=1` accepts its unsigned calls; in production set
`STEPWELL_SIGNING_KEY` instead.
"""

from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

import stepwell
import stepwell.serve

service = stepwell.Service("greetings")


@service.function(on=stepwell.event("greetings/asked", dict[str, str]))
async def greet(ctx: stepwell.Context[dict[str, str]]) -> str:
    words = await ctx.step.run("compose", lambda: f"Hello, {ctx.event.data['name']}.")
    await ctx.step.sleep("think", "500ms")
    return words


client = stepwell.AsyncClient()


@asynccontextmanager
async def lifespan(app: FastAPI) -> Any:
    yield
    await client.close()


app = FastAPI(lifespan=lifespan)
stepwell.serve.fastapi(app, service)


@app.post("/greetings")
async def start(name: str) -> dict[str, str]:
    run = await client.start(greet, {"name": name})
    return {"run": run.id}


@app.get("/greetings/{run_id}")
async def look(run_id: str) -> dict[str, Any]:
    run = client.run(run_id, function=greet)
    status = await run.status()
    return {"status": status.value, "greeting": await run.result() if status.final else None}
