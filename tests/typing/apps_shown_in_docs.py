"""What users write to make apps and to call them, and what checkers must know of it. Never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

from pydantic import BaseModel

import stepwell
from stepwell.apps import App, Embeddings, File, LanguageModel, batched
from stepwell.sdk.inference.async_client import AsyncOutcome
from stepwell.sdk.inference.client import Outcome
from stepwell.sdk.inference.follow import TaskUpdate
from stepwell.sdk.inference.requests import AppInfo, SessionInfo, TaskInfo
from stepwell.sdk.inference.values import FileInfo


class Embed(App):
    requirements = ["numpy"]
    resources = {"gpu": {"vram": "24GB"}, "ram": 8}
    scaling = {"min": 1}
    session = "rebuild"

    class Setup(BaseModel):
        model: str = "small"

    class Input(BaseModel):
        texts: list[str]

    class Output(BaseModel):
        vectors: list[list[float]]

    async def setup(self, setup: Setup) -> None:
        self.model = setup.model

    async def run(self, input: Input) -> Output:
        assert_type(self.context.cancel_requested, bool)
        return self.Output(vectors=[])


class Words(App):
    async def run(self, input: Embed.Input) -> AsyncIterator[Embed.Output]:
        yield Embed.Output(vectors=[])


class Pulled(App):
    def run(self, input: Embed.Input) -> Iterator[Embed.Output]:
        yield Embed.Output(vectors=[])


class Plain(App):
    def run(self, input: Embed.Input) -> Embed.Output:
        return Embed.Output(vectors=[])


class Together(App):
    @batched(max_size=8, max_wait=0.01)
    async def run(self, inputs: list[Embed.Input]) -> list[Embed.Output]:
        return []

    @batched()
    def blocking(self, inputs: list[Embed.Input]) -> list[Embed.Output]:
        return []


class Small(LanguageModel):
    async def run(self, input: LanguageModel.Input) -> AsyncIterator[LanguageModel.Output]:
        yield self.Output(response=input.text)


class Vectors(Embeddings):
    async def run(self, input: Embeddings.Input) -> Embeddings.Output:
        return self.Output(vectors=[])


def ran() -> None:
    given = Embed.Input(texts=["a"])
    assert_type(Embed.run_locally(given), Embed.Output)
    assert_type(Embed.run_locally(given, setup=Embed.Setup()), Embed.Output)
    assert_type(Words.run_locally(given), Embed.Output)
    assert_type(Pulled.run_locally(given), Embed.Output)
    assert_type(Plain.run_locally(given), Embed.Output)
    assert_type(Together.run_locally(given), Embed.Output)
    assert_type(Together().blocking(given), Embed.Output)
    assert_type(Small.run_locally(LanguageModel.Input(text="a")).response, str)
    assert_type(Vectors.run_locally(Embeddings.Input(texts=[])).vectors, list[list[float]])


async def files(file: File) -> None:
    assert_type(file.path, str)
    assert_type((await file.fetch()).name, str)
    assert_type(file.read_bytes(), bytes)
    assert_type(file.size, int | None)


given = Embed.Input(texts=["hello"])


def synchronous(client: stepwell.Client) -> None:
    assert_type(client.tasks.run(Embed, given), Embed.Output)
    assert_type(client.tasks.run(Embed, given, setup={"model": "small"}, variant="large"), Embed.Output)
    assert_type(client.tasks.run(Words, given, timeout="1m"), Embed.Output)
    assert_type(client.tasks.run(Pulled, given), Embed.Output)
    assert_type(client.tasks.run(Plain, given), Embed.Output)
    assert_type(client.tasks.run(Together, given), Embed.Output)
    assert_type(client.tasks.run("acme/embed", {"texts": []}), Any)
    assert_type(client.tasks.run("acme/embed", {"texts": []}, output=Embed.Output), Embed.Output)
    assert_type(client.tasks.run(Together, given, function="blocking"), Any)
    task = client.tasks.start(Embed, given)
    assert_type(task, stepwell.Task[Embed.Output])
    assert_type(task.result(timeout="1m").vectors, list[list[float]])
    assert_type(task.stream(), Iterator[Embed.Output])
    assert_type(task.updates(), Iterator[TaskUpdate[Embed.Output]])
    for update in task.updates():
        match update:
            case stepwell.StatusUpdate(status):
                assert_type(status, stepwell.TaskStatus)
            case stepwell.LogUpdate():
                assert_type(update.text, str)
            case stepwell.OutputUpdate():
                assert_type(update.output.vectors, list[list[float]])
            case stepwell.DeltaUpdate() | stepwell.ResetUpdate():
                pass
    assert_type(task.status(), stepwell.TaskStatus)
    assert_type(client.tasks.map(Embed, [given]), list[Outcome[Embed.Output]])
    assert_type(client.tasks.map(Embed, [given], concurrency=3, progress=False)[0].output, Embed.Output)
    assert_type(client.tasks.map("acme/embed", [{}]), list[Outcome[Any]])
    assert_type(client.tasks.get("01A"), TaskInfo)
    assert_type(client.tasks.list(app="acme/embed", status="failed"), list[TaskInfo])
    assert_type(client.tasks.attach("01A", output=Embed.Output).result(), Embed.Output)
    assert_type(client.tasks.attach("01A"), stepwell.Task[Any])
    with client.sessions.open(Embed, timeout=300) as session:
        assert_type(session.run(given), Embed.Output)
        assert_type(session.start(given), stepwell.Task[Embed.Output])
        assert_type(session.run({"a": 1}, function="other"), Any)
        assert_type(session.run({"a": 1}, function="other", output=int), int)
        assert_type(session.keepalive(), SessionInfo)
    with client.sessions.open("acme/notebook") as named:
        assert_type(named.run({"code": "x = 1"}), Any)
    assert_type(client.files.upload(Path("cat.png")), FileInfo)
    assert_type(client.files.download("01A"), bytes)
    assert_type(client.files.download("01A", to="cat.png"), Path)
    assert_type(client.apps.get("acme/embed"), AppInfo)
    assert_type(client.apps.list(), list[AppInfo])


async def asynchronous(client: stepwell.AsyncClient) -> None:
    assert_type(await client.tasks.run(Embed, given), Embed.Output)
    assert_type(await client.tasks.run("acme/embed", {"texts": []}, output=Embed.Output), Embed.Output)
    task = await client.tasks.start(Words, given)
    assert_type(task, stepwell.AsyncTask[Embed.Output])
    assert_type(await task.result(5), Embed.Output)
    assert_type(task.stream(), AsyncIterator[Embed.Output])
    async for output in task.stream():
        assert_type(output, Embed.Output)
    assert_type(await client.tasks.map(Embed, [given]), list[AsyncOutcome[Embed.Output]])
    async with client.sessions.open(Embed) as session:
        assert_type(await session.run(given), Embed.Output)
    assert_type(await client.files.download("01A"), bytes)
    assert_type(await client.apps.list(), list[AppInfo])
