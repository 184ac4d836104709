"""What checkers must refuse of who writes an app or calls one. Each comment is itself checked. Nothing here is run."""

from __future__ import annotations

from pydantic import BaseModel

import stepwell
from stepwell.apps import App, batched


class Given(BaseModel):
    text: str


class Taken(BaseModel):
    length: int


class Measure(App):
    async def run(self, input: Given) -> Taken:
        return Taken(length=1)


class Wrong(App):
    session = "keep"  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    requirements = [1]  # type: ignore[list-item]  # pyright: ignore[reportAssignmentType]
    scaling = {"most": 1}  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportAssignmentType]

    @batched()  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    async def one(self, input: Given) -> Taken:
        return Taken(length=1)


def ran() -> None:
    Measure.run_locally(Taken(length=1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Measure.run_locally(Given(text="")).text  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    App.run_locally(Given(text=""))  # type: ignore[call-overload, misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    batched(size=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def synchronous(client: stepwell.Client) -> str:
    client.tasks.run(Measure, Taken(length=1))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.tasks.run(Measure)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.tasks.run(Measure, Given(text=""), setting=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.tasks.run(Measure, Given(text="")).text  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    client.tasks.map(Measure, Given(text=""))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.tasks.start(5, Given(text=""))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    with client.sessions.open(Measure) as session:
        session.run(Taken(length=1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    return client.tasks.start(Measure, Given(text="")).result()  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


async def asynchronous(client: stepwell.AsyncClient) -> None:
    await client.tasks.run(Measure, Taken(length=1))  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.tasks.run(Measure, Given(text=""))  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
