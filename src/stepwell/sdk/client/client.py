"""The client for ordinary code: every call blocks until the server has answered.

    client = stepwell.Client()
    summary = client.start(summarize, Ticket(id="t1", text="...")).result(timeout="1m")

Elsewhere: the same with `await` (`async_client.py`), what is asked (`requests.py`), a run as it changes (`follow.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from stepwell.model.job import RunStatus
from stepwell.sdk.client import requests
from stepwell.sdk.client.address import address_of
from stepwell.sdk.client.errors import ResultTimeout, ServerUnreachable
from stepwell.sdk.client.exchange import QUIET_S, Exchange
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

    from stepwell.sdk.inference.client import Apps, Files, Sessions, Tasks

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_LATE_S = 1.0
"""By how much a timeout may be missed while a stream says nothing."""


class Run(Generic[R_co]):
    """One run of a function, wherever it is in its life. Made by a `Client`.

    Attributes:
        id: The run's id, also in the dashboard.
        function: Slug of its function, if it is known.
    """

    def __init__(
        self, exchange: Exchange, id: str, function: str | None, annotation: Any, *, fresh: bool = False
    ) -> None:
        self.id = id
        self.function = function
        self._exchange = exchange
        self._annotation = annotation
        self._fresh = fresh

    def result(self, timeout: timedelta | str | float | None = None) -> R_co:
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
        deadline = None if limit is None else time.monotonic() + limit.total_seconds()
        follower = self._follower()
        for _ in self._updates(follower, deadline):
            pass
        if not follower.ended:
            assert limit is not None
            raise ResultTimeout(self.id, limit, follower.status)
        found = self._exchange.run(requests.detail(self._exchange.address, self.id))
        output: R_co = output_of(found, self.id, self._annotation)
        return output

    def stream(self) -> Iterator[Update]:
        """The changes of the run from its beginning to its end, as they happen; those of the past come at once.

        Steps that were asked to stream (`step.ai.infer(..., stream=True)`) add their pieces: `print(update.text,
        end="")` prints what a model says. A lost connection is made again, and nothing is missed or told twice; where
        that cannot be, as after the end of a server in the middle of a step, `reset` and `gap` say so.

        Raises:
            NotFound: There is no such run.
            ServerUnreachable: The server has been away for minutes.
        """
        return self._updates(self._follower(pieces=True), None)

    def stream_url(self, lifetime: timedelta | str | float = "10m") -> str:
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
        return self._exchange.run(requests.stream_url(address, self.id, lifetime_s=seconds, wait_s=wait_s))

    def status(self) -> RunStatus:
        """Where the run is now. Raises `NotFound`."""
        return status_of(self._exchange.run(requests.detail(self._exchange.address, self.id)))

    def cancel(self) -> None:
        """Cancel the run; a step that is running may still finish, and is not recorded. One that has ended stays so."""
        self._exchange.run(requests.cancel(self._exchange.address, self.id))

    def __repr__(self) -> str:
        return f"<run {self.id} of {self.function or '?'}>"

    def _follower(self, *, pieces: bool = False) -> Follower:
        return Follower(self._exchange.address, self.id, fresh=self._fresh, pieces=pieces)

    def _updates(self, follower: Follower, deadline: float | None) -> Iterator[Update]:
        """The changes until the run has ended or `deadline` (of the monotonic clock) is over."""
        while not follower.ended and _left(deadline) > 0:
            if follower.polling:
                yield from follower.looked(self._exchange.run(follower.look()))
            else:
                try:
                    yield from self._streamed(follower, deadline)
                except ServerUnreachable as err:
                    if _left(deadline) > 0:
                        follower.dropped(err)
            if not follower.ended:
                time.sleep(max(0.0, min(follower.pause(), _left(deadline))))

    def _streamed(self, follower: Follower, deadline: float | None) -> Iterator[Update]:
        quiet_s = max(0.001, min(QUIET_S, _left(deadline)))
        with self._exchange.stream(follower.ask(), quiet_s=quiet_s) as (answer, pieces):
            if not follower.opened(answer):
                return
            for piece in pieces:
                yield from follower.fed(piece)
                if follower.ended or quiet_s - _left(deadline) > _LATE_S:
                    return  # a new request waits only for as long as there is time


class Client:
    """A server, to programs that start runs, send events and want results. Safe to share between threads.

    Args:
        url: Of the server, or of several on one database with commas between; STEPWELL_URL, else http://localhost:8288.
        api_key: The server's signing key, if it has one; STEPWELL_API_KEY, STEPWELL_SIGNING_KEY.
        event_key: For `send`, if the server asks for one; STEPWELL_EVENT_KEY.
        env: Name of the environment; STEPWELL_ENV.

    Nothing is sent before the first call. Close it, or use it in `with`, to give back its connections.
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
        self._exchange = Exchange(address, SDK)

    @overload
    def start(self, function: Function[None, R], /) -> Run[R]: ...
    @overload
    def start(self, function: Function[T, R], /, data: T) -> Run[R]: ...
    @overload
    def start(self, function: str, /, data: Any = None, *, output: TypeForm[R]) -> Run[R]: ...
    @overload
    def start(self, function: str, /, data: Any = None) -> Run[Any]: ...
    def start(self, function: Function[Any, Any] | str, /, data: Any = None, *, output: Any = None) -> Run[Any]:
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
        run_id = self._exchange.run(requests.start(self._exchange.address, slug, data_text(function, data)))
        return Run(self._exchange, run_id, slug, result_type(function, output), fresh=True)

    def send(self, events: Event[Any] | Mapping[str, Any] | Iterable[Event[Any] | Mapping[str, Any]], /) -> Sent:
        """Send one event or many: `client.send(order_paid(Order(...)))`. When this returns, they are durable.

        A send that is tried again, because the answer was lost, starts nothing twice.

        Raises:
            EventsRefused: One of them is not acceptable; `ids` names those before it, which are accepted.
            Unauthorized: The event key is missing or wrong.
            ServerUnreachable: No server answers.
        """
        texts = requests.event_texts(events_given(events))
        return self._exchange.run(requests.send(self._exchange.address, texts))

    @overload
    def run(self, id: str, /) -> Run[Any]: ...
    @overload
    def run(self, id: str, /, *, function: Function[Any, R]) -> Run[R]: ...
    @overload
    def run(self, id: str, /, *, output: TypeForm[R]) -> Run[R]: ...
    def run(self, id: str, /, *, function: Function[Any, Any] | None = None, output: Any = None) -> Run[Any]:
        """A run that is known by its id. Nothing is asked before one of its methods is called.

        Args:
            function, output: Either says how to read the result.
        """
        return Run(self._exchange, id, None if function is None else function.slug, result_type(function, output))

    @overload
    def rerun(
        self,
        run: Run[R],
        /,
        *,
        from_step: str | None = None,
        set: Mapping[str, Any] | None = None,
        input: Any = None,
    ) -> Run[R]: ...
    @overload
    def rerun(
        self, run: str, /, *, from_step: str | None = None, set: Mapping[str, Any] | None = None, input: Any = None
    ) -> Run[Any]: ...
    def rerun(
        self,
        run: Run[Any] | str,
        /,
        *,
        from_step: str | None = None,
        set: Mapping[str, Any] | None = None,
        input: Any = None,
    ) -> Run[Any]:
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
        made = self._exchange.run(requests.rerun(self._exchange.address, old.id, body))
        return Run(self._exchange, made, old.function, old._annotation)

    def runs(
        self,
        *,
        event: str | None = None,
        function: Function[Any, Any] | str | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        limit: int = 20,
        wait: timedelta | str | float = MATCH_S,
    ) -> list[Run[Any]]:
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
            found = self._exchange.run(requests.runs_of_event(address, event, wait_s=limit_s.total_seconds()))
            return [Run(self._exchange, one.id, one.function, result_type(None, None)) for one in listed(found)]
        runs: list[Run[Any]] = []
        cursor: str | None = None
        while len(runs) < limit:
            query = page_query(function, status, limit - len(runs), cursor)
            page, cursor = page_of(self._exchange.run(requests.get(address, "/api/runs", query)))
            runs += [Run(self._exchange, one.id, one.function, result_type(function, None)) for one in page]
            if cursor is None or not page:
                break
        return runs

    def events(self, name: str | None = None, *, limit: int = 20) -> list[ReceivedEvent]:
        """The newest events, of one name if it is given.

        Args:
            limit: 1 to 50.
        """
        query = {"name": name, "limit": str(limit)}
        return received_events(self._exchange.run(requests.get(self._exchange.address, "/v1/events", query)))

    @property
    def tasks(self) -> Tasks:
        """Calling apps: `client.tasks.run(Embed, Embed.Input(...))`."""
        from stepwell.sdk.inference.client import Tasks

        return Tasks(self._exchange)

    @property
    def sessions(self) -> Sessions:
        """Calls of apps that share a state: `client.sessions.open("acme/notebook")`."""
        from stepwell.sdk.inference.client import Sessions

        return Sessions(self._exchange)

    @property
    def files(self) -> Files:
        """Files that the server keeps, for apps and of them."""
        from stepwell.sdk.inference.client import Files

        return Files(self._exchange)

    @property
    def apps(self) -> Apps:
        """The apps that the server can run."""
        from stepwell.sdk.inference.client import Apps

        return Apps(self._exchange)

    def close(self) -> None:
        """Give back the connections."""
        self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<client of {self._exchange.address.api}>"


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()
