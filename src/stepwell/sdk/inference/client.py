"""Calling apps, blocking: what `stepwell.Client` has as `tasks`, `sessions`, `files` and `apps`.

    client = stepwell.Client()
    output = client.tasks.run(Embed, Embed.Input(texts=["hello"]), setup={"model": "small"})

Elsewhere: the same on an event loop (`async_client.py`), what is asked (`requests.py`), a task as it changes
(`follow.py`).
"""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, overload

from stepwell.model.task import TaskStatus
from stepwell.sdk.client.errors import ResultTimeout, ServerUnreachable
from stepwell.sdk.client.exchange import QUIET_S, Ask, Exchange
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


class Task(Generic[O_co]):
    """One call of a function of an app, wherever it is in its life.

    Attributes:
        id: The task's id, which is also that of a run.
        app: Reference of the app, as it was asked for.
        session: Id of the session that it runs in; empty without one.
    """

    def __init__(self, exchange: Exchange, id: str, app: str, annotation: Any, session: str = "") -> None:
        self.id = id
        self.app = app
        self.session = session
        self._exchange = exchange
        self._annotation = annotation

    def result(self, timeout: timedelta | str | float | None = None) -> O_co:
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
        deadline = None if limit is None else time.monotonic() + limit.total_seconds()
        for _ in _updates(self._exchange, follower, deadline):
            pass
        if not follower.ended:
            assert limit is not None
            raise ResultTimeout(self.id, limit, follower.status.name)
        output = self._exchange.run(requests.ended(self._exchange.address, follower.last))
        read: O_co = read_output(output, self._annotation, self.id)
        return read

    def updates(self) -> Iterator[TaskUpdate[O_co]]:
        """What becomes of the task, from its beginning to its end: status, logs, outputs so far, pieces of them.

        A lost connection is made again, and nothing is missed or told twice; where that cannot be, as after the end of
        a server in the middle of a call, a `ResetUpdate` comes first.

        Raises:
            NotFound: There is no such task.
            ServerUnreachable: The server has been away for minutes.
        """
        follower = TaskFollower(self._exchange.address, self.id)
        return map(self._read, _updates(self._exchange, follower, None))

    def stream(self) -> Iterator[O_co]:
        """The outputs so far, each whole, and the last one at the end; each value is later than the one before.

        Raises:
            TaskFailed, TaskCancelled, SessionLost: As for `result`, after what came before.
        """
        follower = TaskFollower(self._exchange.address, self.id)
        for update in _updates(self._exchange, follower, None):
            if isinstance(update, OutputUpdate):
                yield read_output(update.output, self._annotation, self.id)
            elif isinstance(update, DeltaUpdate):
                yield read_output(update.merged, self._annotation, self.id)
        self._exchange.run(requests.ended(self._exchange.address, follower.last))

    def status(self) -> TaskStatus:
        """Where the task is now. Raises `NotFound`."""
        return self.info().status

    def info(self) -> TaskInfo:
        """Everything about it as it is now. Raises `NotFound`."""
        return requests.task_info(self._exchange.run(requests.task(self._exchange.address, self.id)))

    def logs(self) -> str:
        """What it has printed. Raises `NotFound`."""
        return self._exchange.run(requests.logs(self._exchange.address, self.id))

    def cancel(self, *, force: bool = False, timeout: timedelta | str | float | None = None) -> None:
        """Cancel the task; one that has ended stays as it is.

        Args:
            timeout: How long the app may take to end by itself; None: as long as the server allows.
            force: It may take no time at all.
        """
        limit = limit_of(timeout)
        seconds = None if limit is None else limit.total_seconds()
        address = self._exchange.address
        self._exchange.run(requests.cancel(address, self.id, force=force, timeout_s=seconds))

    def _read(self, update: TaskUpdate[Any]) -> TaskUpdate[O_co]:
        if isinstance(update, OutputUpdate):
            return OutputUpdate(read_output(update.output, self._annotation, self.id))
        return update

    def __repr__(self) -> str:
        return f"<task {self.id} of {self.app or '?'}>"


class Outcome(Generic[O_co]):
    """What became of one input of `map`.

    Attributes:
        input: As it was given.
        task: None if none could be begun.
        error: Why there is no output; None if there is one.
    """

    def __init__(self, input: Any, task: Task[O_co] | None, output: Any, error: Exception | None) -> None:
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


class Tasks:
    """`client.tasks`: calling apps."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @overload
    def run(self, app: type[Async[I, O]], input: I, /, **options: Unpack[RunOptions]) -> O: ...
    @overload
    def run(self, app: type[AsyncStream[I, O]], input: I, /, **options: Unpack[RunOptions]) -> O: ...
    @overload
    def run(self, app: type[Stream[I, O]], input: I, /, **options: Unpack[RunOptions]) -> O: ...
    @overload
    def run(self, app: type[Plain[I, O]], input: I, /, **options: Unpack[RunOptions]) -> O: ...
    @overload
    def run(
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
    def run(self, app: str, input: object = None, /, *, function: str = "", **options: Unpack[RunOptions]) -> Any: ...
    @overload
    def run(self, app: type[Any], input: object = None, /, *, function: str, **options: Unpack[RunOptions]) -> Any: ...
    def run(
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
        task = self._start(app, input, function, output, options)
        return task.result(timeout)

    @overload
    def start(self, app: type[Async[I, O]], input: I, /, **options: Unpack[Options]) -> Task[O]: ...
    @overload
    def start(self, app: type[AsyncStream[I, O]], input: I, /, **options: Unpack[Options]) -> Task[O]: ...
    @overload
    def start(self, app: type[Stream[I, O]], input: I, /, **options: Unpack[Options]) -> Task[O]: ...
    @overload
    def start(self, app: type[Plain[I, O]], input: I, /, **options: Unpack[Options]) -> Task[O]: ...
    @overload
    def start(
        self,
        app: str | type[Any],
        input: object = None,
        /,
        *,
        function: str = "",
        output: TypeForm[R],
        **options: Unpack[Options],
    ) -> Task[R]: ...
    @overload
    def start(
        self, app: str, input: object = None, /, *, function: str = "", **options: Unpack[Options]
    ) -> Task[Any]: ...
    @overload
    def start(
        self, app: type[Any], input: object = None, /, *, function: str, **options: Unpack[Options]
    ) -> Task[Any]: ...
    def start(
        self, app: str | type[Any], input: Any = None, /, *, function: str = "", output: Any = None,
        **options: Unpack[Options],
    ) -> Task[Any]:  # fmt: skip
        """Begin a task, which is durable when this returns and begun once. Arguments and errors as for `run`."""
        return self._start(app, input, function, output, options)

    def _start(self, app: str | type[Any], input: object, function: str, output: Any, options: Options) -> Task[Any]:
        reference = reference_of(app)
        address = self._exchange.address
        begun = self._exchange.run(requests.begin(address, reference, input, function, options))
        return Task(self._exchange, begun.id, reference, output_type(app, function, output), begun.session)

    @overload
    def map(
        self,
        app: type[Async[I, O]],
        inputs: Iterable[I],
        /,
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[Outcome[O]]: ...
    @overload
    def map(
        self,
        app: type[AsyncStream[I, O]],
        inputs: Iterable[I],
        /,
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[Outcome[O]]: ...
    @overload
    def map(
        self,
        app: type[Stream[I, O]],
        inputs: Iterable[I],
        /,
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[Outcome[O]]: ...
    @overload
    def map(
        self,
        app: type[Plain[I, O]],
        inputs: Iterable[I],
        /,
        *,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[Outcome[O]]: ...
    @overload
    def map(
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
    ) -> builtins.list[Outcome[R]]: ...
    @overload
    def map(
        self,
        app: str,
        inputs: Iterable[object],
        /,
        *,
        function: str = "",
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[Outcome[Any]]: ...
    @overload
    def map(
        self,
        app: type[Any],
        inputs: Iterable[object],
        /,
        *,
        function: str,
        concurrency: int = 8,
        progress: bool = True,
        **options: Unpack[Options],
    ) -> builtins.list[Outcome[Any]]: ...
    def map(
        self, app: str | type[Any], inputs: Iterable[Any], /, *, function: str = "", output: Any = None,
        concurrency: int = 8, progress: bool = True, **options: Unpack[Options],
    ) -> builtins.list[Outcome[Any]]:  # fmt: skip
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

        def one(value: Any) -> Outcome[Any]:
            task: Task[Any] | None = None
            try:
                task = self.start(app, value, function=function, output=output, **options)
                return Outcome(value, task, task.result(), None)
            except Exception as err:
                return Outcome(value, task, None, err)
            finally:
                shown.advance()

        with Progress(len(given), progress) as shown, ThreadPoolExecutor(concurrency, "stepwell-map") as pool:
            try:
                return list(pool.map(one, given))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    @overload
    def attach(self, id: str, /) -> Task[Any]: ...
    @overload
    def attach(self, id: str, /, *, output: TypeForm[R]) -> Task[R]: ...
    def attach(self, id: str, /, *, output: Any = None) -> Task[Any]:
        """A task that is known by its id. Nothing is asked before one of its methods is called.

        Args:
            output: The type to read its output as.
        """
        return Task(self._exchange, id, "", UNTYPED if output is None else output)

    def get(self, id: str, /) -> TaskInfo:
        """Everything about a task as it is now. Raises `NotFound`."""
        return requests.task_info(self._exchange.run(requests.task(self._exchange.address, id)))

    def list(
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
        return self._exchange.run(requests.tasks(self._exchange.address, filters, limit))

    def logs(self, id: str, /) -> str:
        """What a task has printed. Raises `NotFound`."""
        return self._exchange.run(requests.logs(self._exchange.address, id))

    def cancel(self, id: str, /) -> None:
        """Cancel a task; one that has ended stays as it is. Raises `NotFound`."""
        self.attach(id).cancel()

    def delete(self, id: str, /, *, files: bool = False) -> None:
        """Remove a task that has ended, with `files` also those that it made. Raises `NotFound`."""
        self._exchange.run(requests.delete(self._exchange.address, id, files=files))


class Session(Generic[I_contra, O_co]):
    """Calls that find the state that those before left, in one process. It begins with the first call.

    Attributes:
        id: Empty before the first call.
    """

    def __init__(self, exchange: Exchange, app: str | type[Any], setup: object, timeout_s: int, output: Any) -> None:
        self.id = ""
        self._exchange = exchange
        self._app = app
        self._setup = setup
        self._timeout_s = timeout_s
        self._output = output

    @overload
    def run(self, input: I_contra, /) -> O_co: ...
    @overload
    def run(self, input: object = None, /, *, function: str, output: TypeForm[R]) -> R: ...
    @overload
    def run(self, input: object = None, /, *, function: str) -> Any: ...
    def run(self, input: Any = None, /, *, function: str = "", output: Any = None) -> Any:
        """Call a function and wait for its output; calls of a session come one after another.

        Raises:
            SessionOver: It was ended, or nobody called it for too long.
            SessionLost: Its process was lost, and the app can rebuild none.
            AppNotFound, TaskFailed, TaskCancelled and others: As for `tasks.run`.
        """
        return self._start(input, function, output).result()

    @overload
    def start(self, input: I_contra, /) -> Task[O_co]: ...
    @overload
    def start(self, input: object = None, /, *, function: str) -> Task[Any]: ...
    def start(self, input: Any = None, /, *, function: str = "") -> Task[Any]:
        """Begin a call. Raises as `run` for what is known then."""
        return self._start(input, function, None)

    def info(self) -> SessionInfo:
        """What is known of it. Raises `SessionOver`."""
        return self._exchange.run(requests.session(self._exchange.address, self._id()))

    def keepalive(self) -> SessionInfo:
        """Have its idle time start again. Raises `SessionOver`."""
        return self._exchange.run(requests.session(self._exchange.address, self._id(), keepalive=True))

    def end(self) -> None:
        """End it, and its process with it. No error if it is over already, or never began."""
        if self.id:
            try:
                self._exchange.run(requests.end_session(self._exchange.address, self.id))
            except SessionOver:
                pass

    def _start(self, input: object, function: str, output: Any) -> Task[Any]:
        reference = reference_of(self._app)
        options: Options = {"session": self.id or "new", "setup": self._setup}
        timeout_s = 0 if self.id else self._timeout_s
        flow = requests.begin(self._exchange.address, reference, input, function, options, session_timeout_s=timeout_s)
        begun = self._exchange.run(flow)
        self.id = self.id or begun.session
        annotation = output_type(self._app, function, output or (None if function else self._output))
        return Task(self._exchange, begun.id, reference, annotation, begun.session)

    def _id(self) -> str:
        if not self.id:
            raise SessionOver("", "SESSION_NOT_FOUND", "the session begins with its first call, and there was none")
        return self.id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"<session {self.id or 'not begun'} of {reference_of(self._app)}>"


class Sessions:
    """`client.sessions`: calls that share a state."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @overload
    def open(self, app: type[Async[I, O]], /, *, setup: object = None, timeout: int = IDLE_S) -> Session[I, O]: ...
    @overload
    def open(
        self, app: type[AsyncStream[I, O]], /, *, setup: object = None, timeout: int = IDLE_S
    ) -> Session[I, O]: ...
    @overload
    def open(self, app: type[Stream[I, O]], /, *, setup: object = None, timeout: int = IDLE_S) -> Session[I, O]: ...
    @overload
    def open(self, app: type[Plain[I, O]], /, *, setup: object = None, timeout: int = IDLE_S) -> Session[I, O]: ...
    @overload
    def open(
        self, app: str, /, *, setup: object = None, timeout: int = IDLE_S, output: TypeForm[R]
    ) -> Session[Any, R]: ...
    @overload
    def open(self, app: str, /, *, setup: object = None, timeout: int = IDLE_S) -> Session[Any, Any]: ...
    def open(
        self, app: str | type[Any], /, *, setup: object = None, timeout: int = IDLE_S, output: Any = None
    ) -> Session[Any, Any]:
        """A session, to be used in `with`; nothing is asked before its first call.

        Args:
            timeout: Seconds after which it is over if nobody calls it, 1 to 3600.
            output: For a name, the type to read outputs as.
        """
        return Session(self._exchange, app, setup, timeout, output)

    def get(self, id: str, /) -> SessionInfo:
        """Raises `SessionOver`."""
        return self._exchange.run(requests.session(self._exchange.address, id))

    def list(self) -> builtins.list[SessionInfo]:
        """Those that can be called, the newest first."""
        return self._exchange.run(requests.sessions(self._exchange.address))

    def end(self, id: str, /) -> None:
        """Raises `SessionOver` if there is none."""
        self._exchange.run(requests.end_session(self._exchange.address, id))


class Files:
    """`client.files`: files that the server keeps."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def upload(
        self, source: str | os.PathLike[str] | bytes, /, *, filename: str = "", content_type: str = ""
    ) -> FileInfo:
        """Have the server keep a file. `uri` of what is returned can be given to apps.

        Args:
            source: A path, bytes, a `data:` URI, or an address that the server gets it from.

        Raises:
            InvalidInput: There is no such file, or the server does not take it.
        """
        flow = requests.upload(self._exchange.address, source, filename=filename, content_type=content_type)
        return self._exchange.run(flow)

    def get(self, id: str, /) -> FileInfo:
        """Raises `NotFound`."""
        return self._exchange.run(requests.file(self._exchange.address, id))

    def list(self, *, limit: int = 100) -> builtins.list[FileInfo]:
        """The newest first."""
        return self._exchange.run(requests.files(self._exchange.address, limit))

    @overload
    def download(self, file: str | FileInfo, /) -> bytes: ...
    @overload
    def download(self, file: str | FileInfo, /, to: str | os.PathLike[str]) -> Path: ...
    def download(self, file: str | FileInfo, /, to: str | os.PathLike[str] | None = None) -> bytes | Path:
        """The content of a file, or the path that it was written to.

        Args:
            file: Its id, its address, or what `upload` returned.
            to: Where to write it; piece by piece, so it may be larger than memory.

        Raises:
            NotFound: It is not there.
        """
        uri = self._exchange.run(requests.address_of_file(self._exchange.address, file))
        ask = Ask("GET", "", elsewhere=uri)
        with self._exchange.stream(ask) as (answer, pieces):
            requests.check(answer, ask)
            if to is None:
                return b"".join(pieces)
            with Path(to).open("wb") as file_to:
                for piece in pieces:
                    file_to.write(piece)
        return Path(to)

    def delete(self, id: str, /) -> None:
        """Raises `NotFound`."""
        self._exchange.run(requests.delete_file(self._exchange.address, id))


class Apps:
    """`client.apps`: what the server can run. Apps come to be by `stepwell app deploy`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def get(self, app: str | type[Any], /) -> AppInfo:
        """An app, or one version of it. Raises `AppNotFound`."""
        return self._exchange.run(requests.app(self._exchange.address, reference_of(app)))

    def list(self, *, limit: int = 100) -> builtins.list[AppInfo]:
        """By name."""
        return self._exchange.run(requests.apps(self._exchange.address, limit))

    def versions(self, app: str | type[Any], /) -> builtins.list[AppInfo]:
        """The newest first. Raises `AppNotFound`."""
        return self._exchange.run(requests.versions(self._exchange.address, reference_of(app)))

    def remove(self, app: str | type[Any], /) -> None:
        """With all its versions; what was run of them stays. Raises `AppNotFound`."""
        self._exchange.run(requests.remove_app(self._exchange.address, reference_of(app)))


def _updates(exchange: Exchange, follower: TaskFollower, deadline: float | None) -> Iterator[TaskUpdate[Any]]:
    """The changes until the task has ended or `deadline` (of the monotonic clock) is over."""
    while not follower.ended and _left(deadline) > 0:
        try:
            yield from _streamed(exchange, follower, deadline)
        except ServerUnreachable as err:
            if _left(deadline) > 0:
                follower.dropped(err)
        if not follower.ended:
            time.sleep(max(0.0, min(follower.pause(), _left(deadline))))


def _streamed(exchange: Exchange, follower: TaskFollower, deadline: float | None) -> Iterator[TaskUpdate[Any]]:
    quiet_s = max(0.001, min(QUIET_S, _left(deadline)))
    with exchange.stream(follower.ask(), quiet_s=quiet_s) as (answer, pieces):
        if not follower.opened(answer):
            return
        for piece in pieces:
            yield from follower.fed(piece)
            if follower.ended or _left(deadline) <= 0:
                return


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()
