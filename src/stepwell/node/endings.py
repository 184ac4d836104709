"""The bodies of the events that the server itself sends: a run ended, a function was invoked.

Bodies are put together from canonical pieces wherever a piece may be large; names in sorted order, so the
whole is canonical too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.model.event import CANCELLED, FAILED, FINISHED
from stepwell.model.failure import standard_error
from stepwell.model.ids import derived_ulid
from stepwell.model.job import RunStatus
from stepwell.model.payload import NULL, canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stepwell.engine.run import Run
    from stepwell.model.ids import Instant

_STATUS = {RunStatus.COMPLETED: "Completed", RunStatus.FAILED: "Failed", RunStatus.CANCELLED: "Cancelled"}


def end_events(
    run: Run, events: Sequence[bytes], outcome: bytes | None, at: Instant
) -> Iterator[tuple[str, str, bytes]]:
    """Name, id and body of each event that tells how a run ended.

    A run that was itself started by such an event tells nobody, so that handlers of handlers do not go round.

    Args:
        run: As it is after its last entry.
        events: Texts of the events that started it.
        outcome: Text of its result, or of its error when it failed.
        at: Time of the events.
    """
    if run.event_name in (FINISHED, FAILED):
        return
    data = _end_data(run, events, outcome)
    if run.status is RunStatus.FAILED:
        yield FAILED, run.id, body(FAILED, run.id, at, data)
    elif run.status is RunStatus.CANCELLED:
        yield CANCELLED, run.id, body(CANCELLED, run.id, at, data)
    finished_id = derived_ulid(at, run.id, FINISHED)
    yield FINISHED, finished_id, body(FINISHED, finished_id, at, data)


def body(name: str, event_id: str, at: Instant, data: bytes) -> bytes:
    """A canonical event body around canonical data."""
    return b'{"data":%b,"id":%b,"name":%b,"ts":%d,"user":{}}' % (data, canonical(event_id), canonical(name), at)


def _end_data(run: Run, events: Sequence[bytes], outcome: bytes | None) -> bytes:
    members = [b'"_inngest":{"status":%b}' % canonical(_STATUS[run.status])]
    if run.parent is not None:
        members.append(b'"correlation_id":%b' % canonical(f"{run.parent}.{run.parent_step}"))
    if run.status is RunStatus.FAILED:
        members.append(b'"error":%b' % standard_error(outcome or NULL, status=run.error_status))
    elif run.status is RunStatus.CANCELLED:
        members.append(b'"error":{"message":"the run was cancelled","name":"RunCancelled"}')
    members.append(b'"event":%b' % (events[0] if events else NULL))
    members.append(b'"events":[%b]' % b",".join(events))
    members.append(b'"function_id":%b' % canonical(run.function))
    if run.status is RunStatus.COMPLETED:
        members.append(b'"result":%b' % (outcome or NULL))
    members.append(b'"run_id":%b' % canonical(run.id))
    return b"{%b}" % b",".join(members)
