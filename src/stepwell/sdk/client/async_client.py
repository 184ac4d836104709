"""The client for code on an event loop: `client.py` with `await`, the same names and the same errors.

    client = stepwell.AsyncClient()
    run = await client.start(summarize, Ticket(id="t1", text="..."))
    summary = await run.result(timeout="1m")

Elsewhere: the same without `await` (`client.py`), what is asked (`requests.py`), a run as it changes (`follow.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from stepwell.model.job import RunStatus
from stepwell.sdk.client import requests
from stepwell.sdk.client.address import address_of
from stepwell.sdk.client.errors import ResultTimeout, ServerUnreachable
from stepwell.sdk.client.exchange import AsyncExchange
from stepwell.sdk.client.follow import FRESH_S, Follower, Update, status_of
from stepwell.sdk.client.requests import MATCH_S, Sent
from stepwell.sdk.client.run import (
    ReceivedEvent,
    data_text,
    edit_text,
    events_given,
    limit_of,
    listed,
    output_of,
    page_of,
    page_query,
    received_events,
    result_type,
    slug_of,
)
from stepwell.sdk.event import Event
from stepwell.sdk.function import Function
from stepwell.sdk.version import SDK

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from stepwell.sdk.inference.async_client import AsyncApps, AsyncFiles, AsyncSessions, AsyncTasks

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class AsyncRun(Generic[R_co]):
    """One run of a function, wherever it is in its life. Made by an `AsyncClient`.

    Attributes:
        id: The run's id, also in the dashboard.
        function: Slug of its function, if it is known.
    """

    def __init__(
        self, exchange: AsyncExchange, id: str, function: str | None, annotation: Any, *, fresh: bool = False
    ) -> None:
        self.id = id
        self.function = function
        self._exchange = exchange
        self._annotation = annotation
        self._fresh = fresh

    async def result(self, timeout: timedelta | str | float | None = None) -> R_co:
        """Wait until the run has ended, and return what the function returned, as the type that it is annotated with.

        Args:
            timeout: A `timedelta`, text such as `"1m"`, or seconds; None waits for as long as it takes. It limits
                this call and nothing else: the run goes on.

        Raises:
            RunFailed: It failed; the error names the step that failed it.
            RunCancelled: It was cancelled.
            ResultTimeout: It has not ended in time. Also a `TimeoutError`.
            NotFound: There is no such run.
            ServerUnreachable: The server has been away for minutes.
        """
        limit = limit_of(timeout)
        follower = self._follower()
        scope = asyncio.timeout(None if limit is None else limit.total_seconds())
        try:
            async with scope:
                async with aclosing(self._updates(follower)) as updates:
                    async for _ in updates:
                        pass
        except TimeoutError as err:
            if limit is None or not scope.expired():
                raise
            raise ResultTimeout(self.id, limit, follower.status) from err
        found = await self._exchange.run(requests.detail(self._exchange.address, self.id))
        output: R_co = output_of(found, self.id, self._annotation)
        return output

    def stream(self) -> AsyncIterator[Update]:
        """The changes of the run from its beginning to its end, as they happen; those of the past come at once.

        Steps that were asked to stream (`step.ai.infer(..., stream=True)`) add their pieces: `print(update.text,
        end="")` prints what a model says. A lost connection is made again, and nothing is missed or told twice; where
        that cannot be, as after the end of a server in the middle of a step, `reset` and `gap` say so.

        Raises:
            NotFound: There is no such run.
            ServerUnreachable: The server has been away for minutes.
        """
        return self._updates(self._follower(pieces=True))

    async def stream_url(self, lifetime: timedelta | str | float = "10m") -> str:
        """Where a browser may follow this run: an address for `EventSource`, with a token for this run alone.

        Args:
            lifetime: How long a stream may be opened with it, up to a day; one that is open then goes on.

        Raises:
            NotFound: There is no such run.
            InvalidInput: The lifetime is too short or too long.
        """
        length = limit_of(lifetime)
        assert length is not None
        seconds, wait_s = round(length.total_seconds()), FRESH_S if self._fresh else 0.0
        address = self._exchange.address
        return await self._exchange.run(requests.stream_url(address, self.id, lifetime_s=seconds, wait_s=wait_s))

    async def status(self) -> RunStatus:
        """Where the run is now. Raises `NotFound`."""
        return status_of(await self._exchange.run(requests.detail(self._exchange.address, self.id)))

    async def cancel(self) -> None:
        """Cancel the run; a step that is running may still finish, and is not recorded. One that has ended stays so."""
        await self._exchange.run(requests.cancel(self._exchange.address, self.id))

    def __repr__(self) -> str:
        return f"<run {self.id} of {self.function or '?'}>"

    def _follower(self, *, pieces: bool = False) -> Follower:
        return Follower(self._exchange.address, self.id, fresh=self._fresh, pieces=pieces)

    async def _updates(self, follower: Follower) -> AsyncGenerator[Update, None]:
        """The changes until the run has ended."""
        while not follower.ended:
            if follower.polling:
                for update in follower.looked(await self._exchange.run(follower.look())):
                    yield update
            else:
                try:
                    async with aclosing(self._streamed(follower)) as updates:
                        async for update in updates:
                            yield update
                except ServerUnreachable as err:
                    follower.dropped(err)
            if not follower.ended:
                await asyncio.sleep(follower.pause())

    async def _streamed(self, follower: Follower) -> AsyncGenerator[Update, None]:
        async with self._exchange.stream(follower.ask()) as (answer, pieces):
            if not follower.opened(answer):
                return
            async for piece in pieces:
                for update in follower.fed(piece):
                    yield update
                if follower.ended:
                    return


class AsyncClient:
    """A server, to programs on an event loop that start runs, send events and want results. It belongs to one loop.

    Args:
        url: Of the server, or of several on one database with commas between; STEPWELL_URL, else http://localhost:8288.
        api_key: The server's signing key, if it has one; STEPWELL_API_KEY, STEPWELL_SIGNING_KEY.
        event_key: For `send`, if the server asks for one; STEPWELL_EVENT_KEY.
        env: Name of the environment; STEPWELL_ENV.

    Nothing is sent before the first call. Close it, or use it in `async with`, to give back its connections.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        event_key: str | None = None,
        env: str | None = None,
    ) -> None:
        address = address_of(url, api_key=api_key, event_key=event_key, env=env)
        self._exchange = AsyncExchange(address, SDK)

    @overload
    async def start(self, function: Function[None, R], /) -> AsyncRun[R]: ...
    @overload
    async def start(self, function: Function[T, R], /, data: T) -> AsyncRun[R]: ...
    @overload
    async def start(self, function: str, /, data: Any = None, *, output: TypeForm[R]) -> AsyncRun[R]: ...
    @overload
    async def start(self, function: str, /, data: Any = None) -> AsyncRun[Any]: ...
    async def start(
        self, function: Function[Any, Any] | str, /, data: Any = None, *, output: Any = None
    ) -> AsyncRun[Any]:
        """Start a function. When this returns, the start is durable; it is made once, however often it was tried.

        Args:
            function: A function, or its name as `service/function` or as its slug.
            data: What its event's `data` is to be.
            output: For a name, the type to read the result as.

        Raises:
            NotFound: The server knows no such function.
            StepResultNotPortable: The data has no JSON form.
            Unauthorized: A key is missing or wrong.
            ServerUnreachable: No server answers.
        """
        slug = slug_of(function)
        run_id = await self._exchange.run(requests.start(self._exchange.address, slug, data_text(function, data)))
        return AsyncRun(self._exchange, run_id, slug, result_type(function, output), fresh=True)

    async def send(self, events: Event[Any] | Mapping[str, Any] | Iterable[Event[Any] | Mapping[str, Any]], /) -> Sent:
        """Send one event or many: `await client.send(order_paid(Order(...)))`. When this returns, they are durable.

        A send that is tried again, because the answer was lost, starts nothing twice.

        Raises:
            EventsRefused: One of them is not acceptable; `ids` names those before it, which are accepted.
            Unauthorized: The event key is missing or wrong.
            ServerUnreachable: No server answers.
        """
        texts = requests.event_texts(events_given(events))
        return await self._exchange.run(requests.send(self._exchange.address, texts))

    @overload
    def run(self, id: str, /) -> AsyncRun[Any]: ...
    @overload
    def run(self, id: str, /, *, function: Function[Any, R]) -> AsyncRun[R]: ...
    @overload
    def run(self, id: str, /, *, output: TypeForm[R]) -> AsyncRun[R]: ...
    def run(self, id: str, /, *, function: Function[Any, Any] | None = None, output: Any = None) -> AsyncRun[Any]:
        """A run that is known by its id. Nothing is asked before one of its methods is called.

        Args:
            function, output: Either says how to read the result.
        """
        return AsyncRun(self._exchange, id, None if function is None else function.slug, result_type(function, output))

    @overload
    async def rerun(
        self,
        run: AsyncRun[R],
        /,
        *,
        from_step: str | None = None,
        set: Mapping[str, Any] | None = None,
        input: Any = None,
    ) -> AsyncRun[R]: ...
    @overload
    async def rerun(
        self, run: str, /, *, from_step: str | None = None, set: Mapping[str, Any] | None = None, input: Any = None
    ) -> AsyncRun[Any]: ...
    async def rerun(
        self,
        run: AsyncRun[Any] | str,
        /,
        *,
        from_step: str | None = None,
        set: Mapping[str, Any] | None = None,
        input: Any = None,
    ) -> AsyncRun[Any]:
        """Make an ended run again, from its beginning or from one of its steps, perhaps with another input.

        What was recorded before that step is kept and not done again. When this returns, the new run has begun,
        durably, and once, however often it was tried.

        Args:
            run: The old run, or its id; with a run the result of the new one has the same type.
            from_step: The name of a step, `draft:1` for the second use of that name, or its id; None: from the
                beginning.
            set: What changes of the recorded input, by its path: `{"messages.0.content": "Be brief."}`. Without a step
                the input is the data of the event.
            input: The whole new input instead.

        Raises:
            NotFound: There is no such run, or no such step in it.
            InvalidInput: The input does not fit the step.
            ServerError: With `status` 409: the run has not ended, or the step has no input that could be edited.
            StepResultNotPortable: A part of the input has no JSON form.
            Unauthorized: A key is missing or wrong.
            ServerUnreachable: No server answers.
        """
        old = self.run(run) if isinstance(run, str) else run
        body = edit_text(from_step, set, input)
        made = await self._exchange.run(requests.rerun(self._exchange.address, old.id, body))
        return AsyncRun(self._exchange, made, old.function, old._annotation)

    async def runs(
        self,
        *,
        event: str | None = None,
        function: Function[Any, Any] | str | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        limit: int = 20,
        wait: timedelta | str | float = MATCH_S,
    ) -> list[AsyncRun[Any]]:
        """The runs that an event started, or the newest runs.

        Args:
            event: An id out of `Sent.ids`. Waits for the first run to appear, since an event is matched right after
                it is accepted.
            function, status: Only such runs; not together with `event`.
            limit: So many at most; not together with `event`.
            wait: How long to wait with `event`; a `timedelta`, text, or seconds.
        """
        address = self._exchange.address
        if event is not None:
            limit_s = limit_of(wait) or timedelta()
            found = await self._exchange.run(requests.runs_of_event(address, event, wait_s=limit_s.total_seconds()))
            return [AsyncRun(self._exchange, one.id, one.function, result_type(None, None)) for one in listed(found)]
        runs: list[AsyncRun[Any]] = []
        cursor: str | None = None
        while len(runs) < limit:
            query = page_query(function, status, limit - len(runs), cursor)
            page, cursor = page_of(await self._exchange.run(requests.get(address, "/api/runs", query)))
            runs += [AsyncRun(self._exchange, one.id, one.function, result_type(function, None)) for one in page]
            if cursor is None or not page:
                break
        return runs

    async def events(self, name: str | None = None, *, limit: int = 20) -> list[ReceivedEvent]:
        """The newest events, of one name if it is given.

        Args:
            limit: 1 to 50.
        """
        query = {"name": name, "limit": str(limit)}
        return received_events(await self._exchange.run(requests.get(self._exchange.address, "/v1/events", query)))

    @property
    def tasks(self) -> AsyncTasks:
        """Calling apps: `client.tasks.run(Embed, Embed.Input(...))`."""
        from stepwell.sdk.inference.async_client import AsyncTasks

        return AsyncTasks(self._exchange)

    @property
    def sessions(self) -> AsyncSessions:
        """Calls of apps that share a state: `client.sessions.open("acme/notebook")`."""
        from stepwell.sdk.inference.async_client import AsyncSessions

        return AsyncSessions(self._exchange)

    @property
    def files(self) -> AsyncFiles:
        """Files that the server keeps, for apps and of them."""
        from stepwell.sdk.inference.async_client import AsyncFiles

        return AsyncFiles(self._exchange)

    @property
    def apps(self) -> AsyncApps:
        """The apps that the server can run."""
        from stepwell.sdk.inference.async_client import AsyncApps

        return AsyncApps(self._exchange)

    async def close(self) -> None:
        """Give back the connections."""
        await self._exchange.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<async client of {self._exchange.address.api}>"
