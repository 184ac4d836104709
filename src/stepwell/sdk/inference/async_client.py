"""Calling apps on an event loop: `client.py` with `await`, the same names and the same errors.

client = stepwell.AsyncClient()
output = await client.tasks.run(Embed, Embed.Input(texts=["hello"]), setup={"model": "small"})
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, overload

from stepwell.model.task import TaskStatus
from stepwell.sdk.client.errors import ResultTimeout, ServerUnreachable
from stepwell.sdk.client.exchange import Ask, AsyncExchange
from stepwell.sdk.client.run import limit_of
from stepwell.sdk.inference import requests
from stepwell.sdk.inference.errors import SessionOver
from stepwell.sdk.inference.follow import DeltaUpdate, OutputUpdate, TaskFollower, TaskUpdate
from stepwell.sdk.inference.progress import Progress
from stepwell.sdk.inference.requests import AppInfo, SessionInfo, TaskInfo
from stepwell.sdk.inference.types import Async, AsyncStream, Options, Plain, RunOptions, Stream
from stepwell.sdk.inference.values import FileInfo, output_type, read_output, reference_of
from stepwell.sdk.types import UNTYPED

if TYPE_CHECKING:
    from typing_extensions import TypeForm

I = TypeVar("I")  # noqa: E741 - the input, as O is the output
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")
O_co = TypeVar("O_co", covariant=True)
I_contra = TypeVar("I_contra", contravariant=True)

IDLE_S = 60
"""How long a session is kept if nobody calls it, unless something else was said."""


class AsyncTask(Generic[O_co]):
    """One call of a function of an app, wherever it is in its life.

    Attributes:
        id: The task's id, which is also that of a run.
        app: Reference of the app, as it was asked for.
        session: Id of the session that it runs in; empty without one.
    """

    def __init__(self, exchange: AsyncExchange, id: str, app: str, annotation: Any, session: str = "") -> None:
        self.id = id
        self.app = app
        self.session = session
        self._exchange = exchange
        self._annotation = annotation

    async def result(self, timeout: timedelta | str | float | None = None) -> O_co:
        """Wait until the task has ended, and return its output.

        Args:
            timeout: A `timedelta`, text such as `"1m"`, or seconds; None waits for as long as it takes. It limits
                this call and nothing else: the task goes on.

        Raises:
            TaskFailed: It failed; the error has the app's traceback.
            TaskCancelled: It was cancelled.
            SessionLost: The process with the state of its session was lost.
            ResultTimeout: It has not ended in time. Also a `TimeoutError`.
            NotFound: There is no such task.
            ServerUnreachable: The server has been away for minutes.
        """
        limit = limit_of(timeout)
        follower = TaskFollower(self._exchange.address, self.id)
        scope = asyncio.timeout(None if limit is None else limit.total_seconds())
        try:
            async with scope, aclosing(_updates(self._exchange, follower)) as updates:
                async for _ in updates:
                    pass
        except TimeoutError as err:
            if limit is None or not scope.expired():
                raise
            raise ResultTimeout(self.id, limit, follower.status.name) from err
        output = await self._exchange.run(requests.ended(self._exchange.address, follower.last))
        read: O_co = read_output(output, self._annotation, self.id)
        return read

    async def updates(self) -> AsyncIterator[TaskUpdate[O_co]]:
        """What becomes of the task, from its beginning to its end: status, logs, outputs so far, pieces of them.

        A lost connection is made again, and nothing is missed or told twice; where that cannot be, as after the end of
        a server in the middle of a call, a `ResetUpdate` comes first.

        Raises:
            NotFound: There is no such task.
            ServerUnreachable: The server has been away for minutes.
        """
        follower = TaskFollower(self._exchange.address, self.id)
        async with aclosing(_updates(self._exchange, follower)) as updates:
            async for update in updates:
                yield self._read(update)

    async def stream(self) -> AsyncIterator[O_co]:
        """The outputs so far, each whole, and the last one at the end; each value is later than the one before.

        Raises:
            TaskFailed, TaskCancelled, SessionLost: As for `result`, after what came before.
        """
        follower = TaskFollower(self._exchange.address, self.id)
        async with aclosing(_updates(self._exchange, follower)) as updates:
            async for update in updates:
                if isinstance(update, OutputUpdate):
                    yield read_output(update.output, self._annotation, self.id)
                elif isinstance(update, DeltaUpdate):
                    yield read_output(update.merged, self._annotation, self.id)
        await self._exchange.run(requests.ended(self._exchange.address, follower.last))

    async def status(self) -> TaskStatus:
        """Where the task is now. Raises `NotFound`."""
        return (await self.info()).status

    async def info(self) -> TaskInfo:
        """Everything about it as it is now. Raises `NotFound`."""
        return requests.task_info(await self._exchange.run(requests.task(self._exchange.address, self.id)))

    async def logs(self) -> str:
        """What it has printed. Raises `NotFound`."""
        return await self._exchange.run(requests.logs(self._exchange.address, self.id))

    async def cancel(self, *, force: bool = False, timeout: timedelta | str | float | None = None) -> None:
        """Cancel the task; one that has ended stays as it is.

        Args:
            timeout: How long the app may take to end by itself; None: as long as the server allows.
            force: It may take no time at all.
        """
        limit = limit_of(timeout)
        seconds = None if limit is None else limit.total_seconds()
        address = self._exchange.address
        await self._exchange.run(requests.cancel(address, self.id, force=force, timeout_s=seconds))

    def _read(self, update: TaskUpdate[Any]) -> TaskUpdate[O_co]:
        if isinstance(update, OutputUpdate):
            return OutputUpdate(read_output(update.output, self._annotation, self.id))
        return update

    def __repr__(self) -> str:
        return f"<task {self.id} of {self.app or '?'}>"


class AsyncOutcome(Generic[O_co]):
    """What became of one input of `map`.

    Attributes:
        input: As it was given.
        task: None if none could be begun.
        error: Why there is no output; None if there is one.
    """

    def __init__(self, input: Any, task: AsyncTask[O_co] | None, output: Any, error: Exception | None) -> None:
        self.input = input
        self.task = task
        self.error = error
        self._output = output

    @property
    def output(self) -> O_co:
        """The output. Raises `error` if there is none."""
        if self.error is not None:
            raise self.error
        output: O_co = self._output
        return output

    def __repr__(self) -> str:
        return f"<outcome of {self.task!r}: {self.error or 'completed'}>"


class AsyncTasks:
    """`client.tasks`: calling apps."""

    def __init__(self, exchange: AsyncExchange) -> None:
        self._exchange = exchange

    @overload
    async def run(self, app: type[Async[I, O]], input: I, /, **options: Unpack[RunOptions]) -> O: ...
    @overload
    async def run(self, app: type[AsyncStream[I, O]], input: I, /, **options: Unpack[RunOptions]) -> O: ...
    @overload
    async def run(self, app: type[Stream[I, O]], input: I, /, **options: Unpack[RunOptions]) -> O: ...
    @overload
    async def run(self, app: type[Plain[I, O]], input: I, /, **options: Unpack[RunOptions]) -> O: ...
    @overload
    async def run(
        self,
        app: str | type[Any],
        input: object = None,
        /,
        *,
        function: str = "",
        output: TypeForm[R],
        **options: Unpack[RunOptions],
    ) -> R: ...
    @overload
    async def run(
        self, app: str, input: object = None, /, *, function: str = "", **options: Unpack[RunOptions]
    ) -> Any: ...
    @overload
    async def run(
        self, app: type[Any], input: object = None, /, *, function: str, **options: Unpack[RunOptions]
    ) -> Any: ...
    async def run(
        self, app: str | type[Any], input: Any = None, /, *, function: str = "", output: Any = None,
        **options: Unpack[RunOptions],
    ) -> Any:  # fmt: skip
        """Call an app and wait for its output.

        Args:
            app: A class that is an app (the output has the type that its function is annotated with), or a reference
                `[namespace/]name[@version]`.
            input: A model, a dict or anything with a form in JSON. A `Path` or a `File` in it is uploaded.
            function: Another one than the default.
            output: For a name, the type to read the output as.
            options: `setup`, `session`, `variant`, `webhook`, `key`; and `timeout`, how long to wait.

        Raises:
            AppNotFound: The server has no such app, version or function.
            RequirementsMissing: The server lacks secrets that the app needs.
            TaskFailed: It failed; the error has the app's traceback.
            TaskCancelled: Somebody cancelled it.
            ResultTimeout: It has not ended in time; it goes on.
            InvalidInput: The input has no form in JSON.
            ServerUnreachable: No server answers.
        """
        timeout = options.pop("timeout", None)
        task = await self._start(app, input, function, output, options)
        return await task.result(timeout)

    @overload
    async def start(self, app: type[Async[I, O]], input: I, /, **options: Unpack[Options]) -> AsyncTask[O]: ...
    @overload
    async def start(self, app: type[AsyncStream[I, O]], input: I, /, **options: Unpack[Options]) -> AsyncTask[O]: ...
    @overload
    async def start(self, app: type[Stream[I, O]], input: I, /, **options: Unpack[Options]) -> AsyncTask[O]: ...
    @overload
    async def start(self, app: type[Plain[I, O]], input: I, /, **options: Unpack[Options]) -> AsyncTask[O]: ...
    @overload
    async def start(
        self,
        app: str | type[Any],
        input: object = None,
        /,
        *,
        function: str = "",
        output: TypeForm[R],
        **options: Unpack[Options],
    ) -> AsyncTask[R]: ...
    @overload
    async def start(
        self, app: str, input: object = None, /, *, function: str = "", **options: Unpack[Options]
    ) -> AsyncTask[Any]: ...
    @overload
    async def start(
        self, app: type[Any], input: object = None, /, *, function: str, **options: Unpack[Options]
    ) -> AsyncTask[Any]: ...
    async def start(
        self, app: str | type[Any], input: Any = None, /, *, function: str = "", output: Any = None,
        **options: Unpack[Options],
    ) -> AsyncTask[Any]:  # fmt: skip
        """Begin a task, which is durable when this returns and begun once. Arguments and errors as for `run`."""
        return await self._start(app, input, function, output, options)

    async def _start(
        self, app: str | type[Any], input: object, function: str, output: Any, options: Options
    ) -> AsyncTask[Any]:
        reference = reference_of(app)
        address = self._exchange.address
        begun = await self._exchange.run(requests.begin(address, reference, input, function, options))
        return AsyncTask(self._exchange, begun.id, reference, output_type(app, function, output), begun.session)

    @overload
    async def map(
        self,
        app: type[Async[I, O]],
        inputs: Iterable[I],
        /,
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[AsyncOutcome[O]]: ...
    @overload
    async def map(
        self,
        app: type[AsyncStream[I, O]],
        inputs: Iterable[I],
        /,
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[AsyncOutcome[O]]: ...
    @overload
    async def map(
        self,
        app: type[Stream[I, O]],
        inputs: Iterable[I],
        /,
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[AsyncOutcome[O]]: ...
    @overload
    async def map(
        self,
        app: type[Plain[I, O]],
        inputs: Iterable[I],
        /,
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[AsyncOutcome[O]]: ...
    @overload
    async def map(
        self,
        app: str | type[Any],
        inputs: Iterable[object],
        /,
        *,
        function: str = "",
        output: TypeForm[R],
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[AsyncOutcome[R]]: ...
    @overload
    async def map(
        self,
        app: str,
        inputs: Iterable[object],
        /,
        *,
        function: str = "",
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[AsyncOutcome[Any]]: ...
    @overload
    async def map(
        self,
        app: type[Any],
        inputs: Iterable[object],
        /,
        *,
        function: str,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[AsyncOutcome[Any]]: ...
    async def map(
        self, app: str | type[Any], inputs: Iterable[Any], /, *, function: str = "", output: Any = None,
        concurrency: int = 8, progress: bool = True, **options: Unpack[Options],
    ) -> builtins.list[AsyncOutcome[Any]]:  # fmt: skip
        """Call an app with each of many inputs. What failed is in its outcome and ends nothing else.

        Args:
            inputs: One after another; the outcomes are in their order.
            concurrency: How many tasks there are at a time.
            progress: Show how far it is, if standard error is a terminal.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency is 1 or more, not {concurrency}")
        if "key" in options:
            raise ValueError("map() begins many tasks, and a key is of one; leave it out")
        given = list(inputs)
        few = asyncio.Semaphore(concurrency)

        async def one(value: Any) -> AsyncOutcome[Any]:
            task: AsyncTask[Any] | None = None
            async with few:
                try:
                    task = await self.start(app, value, function=function, output=output, **options)
                    return AsyncOutcome(value, task, await task.result(), None)
                except Exception as err:
                    return AsyncOutcome(value, task, None, err)
                finally:
                    shown.advance()

        with Progress(len(given), progress) as shown:
            async with asyncio.TaskGroup() as group:
                making = [group.create_task(one(value)) for value in given]
            return [each.result() for each in making]

    @overload
    def attach(self, id: str, /) -> AsyncTask[Any]: ...
    @overload
    def attach(self, id: str, /, *, output: TypeForm[R]) -> AsyncTask[R]: ...
    def attach(self, id: str, /, *, output: Any = None) -> AsyncTask[Any]:
        """A task that is known by its id. Nothing is asked before one of its methods is called.

        Args:
            output: The type to read its output as.
        """
        return AsyncTask(self._exchange, id, "", UNTYPED if output is None else output)

    async def get(self, id: str, /) -> TaskInfo:
        """Everything about a task as it is now. Raises `NotFound`."""
        return requests.task_info(await self._exchange.run(requests.task(self._exchange.address, id)))

    async def list(
        self, *, app: str | type[Any] | None = None, status: TaskStatus | str | None = None, session: str | None = None,
        limit: int = 20,
    ) -> builtins.list[TaskInfo]:  # fmt: skip
        """The newest tasks.

        Args:
            app, status, session: Only such; `app` as namespace/name.
        """
        wanted = status if isinstance(status, TaskStatus | None) else TaskStatus[status.upper()]
        filters = {
            "app": None if app is None else reference_of(app),
            "status": None if wanted is None else int(wanted),
            "session_id": session,
        }
        return await self._exchange.run(requests.tasks(self._exchange.address, filters, limit))

    async def logs(self, id: str, /) -> str:
        """What a task has printed. Raises `NotFound`."""
        return await self._exchange.run(requests.logs(self._exchange.address, id))

    async def cancel(self, id: str, /) -> None:
        """Cancel a task; one that has ended stays as it is. Raises `NotFound`."""
        await self.attach(id).cancel()

    async def delete(self, id: str, /, *, files: bool = False) -> None:
        """Remove a task that has ended, with `files` also those that it made. Raises `NotFound`."""
        await self._exchange.run(requests.delete(self._exchange.address, id, files=files))


class AsyncSession(Generic[I_contra, O_co]):
    """Calls that find the state that those before left, in one process. It begins with the first call.

    Attributes:
        id: Empty before the first call.
    """

    def __init__(
        self, exchange: AsyncExchange, app: str | type[Any], setup: object, timeout_s: int, output: Any
    ) -> None:
        self.id = ""
        self._exchange = exchange
        self._app = app
        self._setup = setup
        self._timeout_s = timeout_s
        self._output = output

    @overload
    async def run(self, input: I_contra, /) -> O_co: ...
    @overload
    async def run(self, input: object = None, /, *, function: str, output: TypeForm[R]) -> R: ...
    @overload
    async def run(self, input: object = None, /, *, function: str) -> Any: ...
    async def run(self, input: Any = None, /, *, function: str = "", output: Any = None) -> Any:
        """Call a function and wait for its output; calls of a session come one after another.

        Raises:
            SessionOver: It was ended, or nobody called it for too long.
            SessionLost: Its process was lost, and the app can rebuild none.
            AppNotFound, TaskFailed, TaskCancelled and others: As for `tasks.run`.
        """
        task = await self._start(input, function, output)
        return await task.result()

    @overload
    async def start(self, input: I_contra, /) -> AsyncTask[O_co]: ...
    @overload
    async def start(self, input: object = None, /, *, function: str) -> AsyncTask[Any]: ...
    async def start(self, input: Any = None, /, *, function: str = "") -> AsyncTask[Any]:
        """Begin a call. Raises as `run` for what is known then."""
        return await self._start(input, function, None)

    async def info(self) -> SessionInfo:
        """What is known of it. Raises `SessionOver`."""
        return await self._exchange.run(requests.session(self._exchange.address, self._id()))

    async def keepalive(self) -> SessionInfo:
        """Have its idle time start again. Raises `SessionOver`."""
        return await self._exchange.run(requests.session(self._exchange.address, self._id(), keepalive=True))

    async def end(self) -> None:
        """End it, and its process with it. No error if it is over already, or never began."""
        if self.id:
            try:
                await self._exchange.run(requests.end_session(self._exchange.address, self.id))
            except SessionOver:
                pass

    async def _start(self, input: object, function: str, output: Any) -> AsyncTask[Any]:
        reference = reference_of(self._app)
        options: Options = {"session": self.id or "new", "setup": self._setup}
        timeout_s = 0 if self.id else self._timeout_s
        flow = requests.begin(self._exchange.address, reference, input, function, options, session_timeout_s=timeout_s)
        begun = await self._exchange.run(flow)
        self.id = self.id or begun.session
        annotation = output_type(self._app, function, output or (None if function else self._output))
        return AsyncTask(self._exchange, begun.id, reference, annotation, begun.session)

    def _id(self) -> str:
        if not self.id:
            raise SessionOver("", "SESSION_NOT_FOUND", "the session begins with its first call, and there was none")
        return self.id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    def __repr__(self) -> str:
        return f"<session {self.id or 'not begun'} of {reference_of(self._app)}>"


class AsyncSessions:
    """`client.sessions`: calls that share a state."""

    def __init__(self, exchange: AsyncExchange) -> None:
        self._exchange = exchange

    @overload
    def open(self, app: type[Async[I, O]], /, *, setup: object = None, timeout: int = IDLE_S) -> AsyncSession[I, O]: ...
    @overload
    def open(
        self, app: type[AsyncStream[I, O]], /, *, setup: object = None, timeout: int = IDLE_S
    ) -> AsyncSession[I, O]: ...
    @overload
    def open(
        self, app: type[Stream[I, O]], /, *, setup: object = None, timeout: int = IDLE_S
    ) -> AsyncSession[I, O]: ...
    @overload
    def open(self, app: type[Plain[I, O]], /, *, setup: object = None, timeout: int = IDLE_S) -> AsyncSession[I, O]: ...
    @overload
    def open(
        self, app: str, /, *, setup: object = None, timeout: int = IDLE_S, output: TypeForm[R]
    ) -> AsyncSession[Any, R]: ...
    @overload
    def open(self, app: str, /, *, setup: object = None, timeout: int = IDLE_S) -> AsyncSession[Any, Any]: ...
    def open(
        self, app: str | type[Any], /, *, setup: object = None, timeout: int = IDLE_S, output: Any = None
    ) -> AsyncSession[Any, Any]:
        """A session, to be used in `async with`; nothing is asked before its first call.

        Args:
            timeout: Seconds after which it is over if nobody calls it, 1 to 3600.
            output: For a name, the type to read outputs as.
        """
        return AsyncSession(self._exchange, app, setup, timeout, output)

    async def get(self, id: str, /) -> SessionInfo:
        """Raises `SessionOver`."""
        return await self._exchange.run(requests.session(self._exchange.address, id))

    async def list(self) -> builtins.list[SessionInfo]:
        """Those that can be called, the newest first."""
        return await self._exchange.run(requests.sessions(self._exchange.address))

    async def end(self, id: str, /) -> None:
        """Raises `SessionOver` if there is none."""
        await self._exchange.run(requests.end_session(self._exchange.address, id))


class AsyncFiles:
    """`client.files`: files that the server keeps."""

    def __init__(self, exchange: AsyncExchange) -> None:
        self._exchange = exchange

    async def upload(
        self, source: str | os.PathLike[str] | bytes, /, *, filename: str = "", content_type: str = ""
    ) -> FileInfo:
        """Have the server keep a file. `uri` of what is returned can be given to apps.

        Args:
            source: A path, bytes, a `data:` URI, or an address that the server gets it from.

        Raises:
            InvalidInput: There is no such file, or the server does not take it.
        """
        flow = requests.upload(self._exchange.address, source, filename=filename, content_type=content_type)
        return await self._exchange.run(flow)

    async def get(self, id: str, /) -> FileInfo:
        """Raises `NotFound`."""
        return await self._exchange.run(requests.file(self._exchange.address, id))

    async def list(self, *, limit: int = 100) -> builtins.list[FileInfo]:
        """The newest first."""
        return await self._exchange.run(requests.files(self._exchange.address, limit))

    @overload
    async def download(self, file: str | FileInfo, /) -> bytes: ...
    @overload
    async def download(self, file: str | FileInfo, /, to: str | os.PathLike[str]) -> Path: ...
    async def download(self, file: str | FileInfo, /, to: str | os.PathLike[str] | None = None) -> bytes | Path:
        """The content of a file, or the path that it was written to.

        Args:
            file: Its id, its address, or what `upload` returned.
            to: Where to write it; piece by piece, so it may be larger than memory.

        Raises:
            NotFound: It is not there.
        """
        uri = await self._exchange.run(requests.address_of_file(self._exchange.address, file))
        ask = Ask("GET", "", elsewhere=uri)
        async with self._exchange.stream(ask) as (answer, pieces):
            requests.check(answer, ask)
            if to is None:
                return b"".join([piece async for piece in pieces])
            with Path(to).open("wb") as file_to:  # noqa: ASYNC230 - it is quick
                async for piece in pieces:
                    await asyncio.to_thread(file_to.write, piece)
        return Path(to)

    async def delete(self, id: str, /) -> None:
        """Raises `NotFound`."""
        await self._exchange.run(requests.delete_file(self._exchange.address, id))


class AsyncApps:
    """`client.apps`: what the server can run. Apps come to be by `stepwell app deploy`."""

    def __init__(self, exchange: AsyncExchange) -> None:
        self._exchange = exchange

    async def get(self, app: str | type[Any], /) -> AppInfo:
        """An app, or one version of it. Raises `AppNotFound`."""
        return await self._exchange.run(requests.app(self._exchange.address, reference_of(app)))

    async def list(self, *, limit: int = 100) -> builtins.list[AppInfo]:
        """By name."""
        return await self._exchange.run(requests.apps(self._exchange.address, limit))

    async def versions(self, app: str | type[Any], /) -> builtins.list[AppInfo]:
        """The newest first. Raises `AppNotFound`."""
        return await self._exchange.run(requests.versions(self._exchange.address, reference_of(app)))

    async def remove(self, app: str | type[Any], /) -> None:
        """With all its versions; what was run of them stays. Raises `AppNotFound`."""
        await self._exchange.run(requests.remove_app(self._exchange.address, reference_of(app)))


async def _updates(exchange: AsyncExchange, follower: TaskFollower) -> AsyncGenerator[TaskUpdate[Any], None]:
    """The changes until the task has ended."""
    while not follower.ended:
        try:
            async with aclosing(_streamed(exchange, follower)) as updates:
                async for update in updates:
                    yield update
        except ServerUnreachable as err:
            follower.dropped(err)
        if not follower.ended:
            await asyncio.sleep(follower.pause())


async def _streamed(exchange: AsyncExchange, follower: TaskFollower) -> AsyncGenerator[TaskUpdate[Any], None]:
    async with exchange.stream(follower.ask()) as (answer, pieces):
        if not follower.opened(answer):
            return
        async for piece in pieces:
            for update in follower.fed(piece):
                yield update
            if follower.ended:
                return
