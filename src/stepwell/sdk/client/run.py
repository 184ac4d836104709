"""What a server says about runs and events, read into values; and how data goes out and results come in.

Both clients use it, so that a run means the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from stepwell.model.duration import parse_duration, parse_time
from stepwell.model.job import RunStatus
from stepwell.model.payload import canonical
from stepwell.sdk.client.errors import RunCancelled, RunFailed
from stepwell.sdk.client.follow import status_of
from stepwell.sdk.errors import DefinitionError, RecordedResultChanged, StepResultNotPortable
from stepwell.sdk.event import Event
from stepwell.sdk.types import (
    GIVEN,
    UNTYPED,
    decode_result,
    encode_result,
    no_json_form,
    plain,
    refuse_large_integers,
)

if TYPE_CHECKING:
    from stepwell.sdk.function import Function


def edit_text(from_step: str | None, changes: Mapping[str, Any] | None, given: Any) -> bytes:
    """What a rerun is asked for, as JSON text.

    Raises:
        StepResultNotPortable: A part of it has no JSON form.
    """
    asked: dict[str, bytes] = {}
    if from_step is not None:
        asked["from_step"] = canonical(from_step)
    if changes is not None:
        asked["set"] = _untyped_text(dict(changes), "what a rerun is to change")
    if given is not None:
        asked["input"] = _untyped_text(given, "the input of a rerun")
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), text) for name, text in asked.items())


def _untyped_text(data: Any, where: str) -> bytes:
    try:
        refuse_large_integers(plain(data), where, GIVEN)
        return canonical(plain(data))
    except StepResultNotPortable:
        raise
    except Exception as err:
        # Whatever a serializer of the user's type raises.
        raise no_json_form(data, data, UNTYPED, where, err, GIVEN) from err


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event as the server keeps it.

    Attributes:
        id: The server's own, as `Sent.ids` has it.
        name, data, user, v: As they were sent; `data` is plain JSON.
        sender_id: The id that its sender gave it, or `id`.
        ts: When it happened, as its sender says.
        received_at: When the server accepted it.
    """

    id: str
    name: str
    data: Any
    sender_id: str
    ts: datetime | None = None
    received_at: datetime | None = None
    user: Mapping[str, Any] | None = None
    v: str | None = None


def slug_of(function: Function[Any, Any] | str) -> str:
    """The name of a function on the server; `service/function` is another way to write it."""
    return function.replace("/", "-") if isinstance(function, str) else function.slug


def result_type(function: Function[Any, Any] | str | None, output: Any) -> Any:
    """How to read the result."""
    if output is not None:
        return output
    return UNTYPED if function is None or isinstance(function, str) else function.result_type


def data_text(function: Function[Any, Any] | str, data: Any) -> bytes:
    """The data of a start as JSON text.

    Raises:
        StepResultNotPortable: It has no JSON form, or not that of the function's event.
        DefinitionError: It is not an object.
    """
    if data is None:
        return b"{}"
    where = f"the data for {slug_of(function)}"
    if isinstance(function, str):
        text = _untyped_text(data, where)
    else:
        text = encode_result(data, function.data_type, where, GIVEN)[0]
    if not text.startswith(b"{"):
        raise DefinitionError(f"{where} must be an object in JSON, such as a dataclass or a dict")
    return text


def output_of(found: Mapping[str, Any], run_id: str, annotation: Any) -> Any:
    """The result of a run that has ended.

    Raises:
        RunFailed, RunCancelled: It has none.
        RecordedResultChanged: It does not read as `annotation`.
    """
    status, function = status_of(found), str(found.get("function") or found.get("function_id") or "?")
    if status is RunStatus.CANCELLED:
        raise RunCancelled(run_id, function)
    if status is RunStatus.FAILED:
        error = found.get("error", found.get("output"))
        described = (
            error if isinstance(error, dict) else {"name": "Error", "message": "" if error is None else str(error)}
        )
        raise RunFailed(run_id, function, described, step=failing_step(described))
    try:
        return decode_result(canonical(found.get("output")), annotation)
    except Exception as err:
        # The user's own validators may raise anything.
        raise RecordedResultChanged(
            f"the result of run {run_id} does not read as what the code expects now ({err})"
        ) from err


def failing_step(error: Any) -> str | None:
    """The step whose own error this is. What a function raised because a step had failed is the function's."""
    step = error.get("step") if isinstance(error, dict) else None
    return step if isinstance(step, str) else None


def limit_of(timeout: timedelta | str | float | None) -> timedelta | None:
    """A timeout that somebody wrote: a `timedelta`, text such as `"1m"`, or seconds. Raises `ValueError`."""
    if timeout is None or isinstance(timeout, timedelta):
        return timeout
    return parse_duration(timeout) if isinstance(timeout, str) else timedelta(seconds=timeout)


def events_given(events: Event[Any] | Mapping[str, Any] | Iterable[Event[Any] | Mapping[str, Any]]) -> Sequence[Any]:
    """One event or many, as a list."""
    return [events] if isinstance(events, Event | Mapping) else list(events)


def received_events(found: Any) -> list[ReceivedEvent]:
    """The events of `GET /v1/events`."""
    return [_received(one) for one in found or () if isinstance(one, dict)]


def _received(one: Mapping[str, Any]) -> ReceivedEvent:
    ts = one.get("ts")
    return ReceivedEvent(
        id=str(one.get("internal_id") or ""),
        name=str(one.get("name") or ""),
        data=one.get("data"),
        sender_id=str(one.get("id") or ""),
        ts=_EPOCH + timedelta(milliseconds=ts) if isinstance(ts, int) and ts else None,
        received_at=parse_time(str(one.get("received_at") or "")),
        user=one.get("user") or {},
        v=one.get("v"),
    )


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list of runs."""

    id: str
    function: str | None


def listed(found: Iterable[Any]) -> list[Listed]:
    """The runs of `GET /api/runs` or `GET /v1/events/{id}/runs`."""
    runs = []
    for one in found:
        if not isinstance(one, Mapping):
            continue
        run_id = one.get("id") or one.get("run_id")
        if run_id:
            runs.append(Listed(str(run_id), str(one["function"]) if one.get("function") else None))
    return runs


def statuses_text(status: RunStatus | str | Iterable[RunStatus | str] | None) -> str | None:
    """Statuses as a query has them. Raises `ValueError` for one that does not exist."""
    if status is None:
        return None
    given = [status] if isinstance(status, str) else list(status)
    return ",".join(RunStatus(str(one).upper()).value for one in given)


def page_query(
    function: Function[Any, Any] | str | None,
    status: RunStatus | str | Iterable[RunStatus | str] | None,
    limit: int,
    cursor: str | None,
) -> dict[str, str | None]:
    """The query of one page of `GET /api/runs`."""
    return {
        "function": None if function is None else slug_of(function),
        "status": statuses_text(status),
        "limit": str(min(limit, PAGE)),
        "cursor": cursor,
    }


PAGE = 100
"""Runs in one answer."""


def page_of(found: Any) -> tuple[list[Listed], str | None]:
    """The runs of one page, and where the next begins if there is one."""
    if not isinstance(found, dict):  # in an envelope
        return listed(found or ()), None
    return listed(found.get("runs") or ()), found.get("cursor")
