"""What users write to talk to a server and to be served, and what checkers must know of it. Never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, assert_type

import stepwell
from stepwell.sdk.client.run import ReceivedEvent

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask
    from starlette.applications import Starlette

service = stepwell.Service("support")


@dataclass
class Ticket:
    id: str
    text: str


@dataclass
class Summary:
    title: str


ticket_created = stepwell.event("support/ticket.created", Ticket)


@service.function(on=ticket_created)
async def summarize(ctx: stepwell.Context[Ticket]) -> Summary:
    return Summary(ctx.event.data.text)


@service.function(on=stepwell.cron("@daily"))
def tidy(ctx: stepwell.SyncContext[None]) -> int:
    return 0


@service.function(on="support/anything")
async def anything(ctx: stepwell.Context[Any]) -> None: ...


def synchronous() -> None:
    with stepwell.Client(api_key="abcd") as client:
        assert_type(client, stepwell.Client)
        run = client.start(summarize, Ticket(id="t1", text="..."))
        assert_type(run, stepwell.Run[Summary])
        assert_type(run.result(timeout="1m"), Summary)
        assert_type(run.result(timeout=timedelta(minutes=1)).title, str)
        assert_type(run.result(5), Summary)
        assert_type(client.rerun(run, from_step="draft", set={"model": "small"}), stepwell.Run[Summary])
        assert_type(client.rerun(run.id, input={"id": "t1"}), stepwell.Run[Any])
        assert_type(run.stream(), Iterator[stepwell.Update])
        for update in run.stream():
            assert_type(update.text, str)
            assert_type(update.step, str | None)
        assert_type(run.status(), stepwell.RunStatus)
        assert_type(run.cancel(), None)

        assert_type(client.start(tidy), stepwell.Run[int])
        assert_type(client.start(anything, {"n": 1}), stepwell.Run[None])
        assert_type(client.start("support/summarize", Ticket("t", "x")), stepwell.Run[Any])
        assert_type(client.start("support/summarize", {"id": "t"}, output=Summary), stepwell.Run[Summary])
        assert_type(client.start("support/summarize", output=list[int]), stepwell.Run[list[int]])
        assert_type(client.start("support/summarize", output=Summary | None), stepwell.Run[Summary | None])

        sent = client.send(ticket_created(Ticket(id="t3", text="...")))
        assert_type(sent, stepwell.Sent)
        assert_type(sent.ids[0], str)
        client.send([ticket_created(Ticket(id="t3", text="...")), {"name": "plain", "data": {}}])
        assert_type(client.runs(event=sent.ids[0]), list[stepwell.Run[Any]])
        client.runs(function=summarize, status=["FAILED", stepwell.RunStatus.CANCELLED], limit=100)
        assert_type(client.run("01A"), stepwell.Run[Any])
        assert_type(client.run("01A", function=summarize), stepwell.Run[Summary])
        assert_type(client.run("01A", output=Summary), stepwell.Run[Summary])
        assert_type(client.events("support/ticket.created"), list[ReceivedEvent])


async def asynchronous() -> None:
    async with stepwell.AsyncClient("http://localhost:8288") as client:
        assert_type(client, stepwell.AsyncClient)
        run = await client.start(summarize, Ticket(id="t1", text="..."))
        assert_type(run, stepwell.AsyncRun[Summary])
        assert_type(await run.result(timeout="1m"), Summary)
        assert_type(await client.rerun(run, from_step="draft"), stepwell.AsyncRun[Summary])
        assert_type(await client.rerun(run.id), stepwell.AsyncRun[Any])
        assert_type(run.stream(), AsyncIterator[stepwell.Update])
        async for update in run.stream():
            assert_type(update.text, str)
        assert_type(await run.status(), stepwell.RunStatus)
        assert_type(await client.start(tidy), stepwell.AsyncRun[int])
        assert_type(await client.start("a/b"), stepwell.AsyncRun[Any])
        assert_type(await client.start("a/b", output=Summary), stepwell.AsyncRun[Summary])
        assert_type(await client.send(ticket_created(Ticket("t", "x"))), stepwell.Sent)
        assert_type(client.run("01A", function=summarize), stepwell.AsyncRun[Summary])
        assert_type(await client.runs(), list[stepwell.AsyncRun[Any]])


def failures(run: stepwell.Run[Summary]) -> None:
    try:
        run.result()
    except stepwell.RunFailed as err:
        assert_type(err.step, str | None)
        assert_type(err.name, str)
    except stepwell.ResultTimeout as err:
        assert_type(err.timeout, timedelta)
    except stepwell.EventsRefused as err:
        assert_type(err.ids, tuple[str, ...])


def served(fastapi: FastAPI, starlette: Starlette, flask: Flask, request: object) -> None:
    stepwell.serve.fastapi(fastapi, service)
    stepwell.serve.starlette(starlette, service, path="/jobs")
    stepwell.serve.flask(flask, service, signing_key="abcd")
    stepwell.serve.django(service)(request)
    starlette.mount("/jobs", service.asgi())
    fastapi.mount("/jobs", stepwell.serve.asgi(service, dev=True))
