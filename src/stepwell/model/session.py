"""A session: a lease on one worker of an app, which keeps what its calls leave in its memory."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stepwell.model.event import DEV_ENV
from stepwell.model.ids import Instant

IDLE_TIMEOUT_S = 60
SHORTEST_IDLE_S, LONGEST_IDLE_S = 1, 3600


class SessionStatus(StrEnum):
    ACTIVE = "active"
    ENDED = "ended"  # by its caller
    EXPIRED = "expired"  # nobody called it for its idle timeout
    LOST = "lost"  # with its worker


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of a session.

    `node` and `epoch` are the life of the node that has its worker. `rebuild` is what the app says becomes of it when
    that worker is lost: `rebuild` (its calls are made again, which is what `calls` are for), `snapshot` (the last
    state that the app told is given to a new worker), or empty: it is lost, too.
    """

    id: str
    app: str  # reference of the version
    env: str = DEV_ENV
    status: SessionStatus = SessionStatus.ACTIVE
    reason: str = ""  # why it is lost
    created_at: Instant = 0
    updated_at: Instant = 0
    expires_at: Instant = 0  # unless a call is under way
    ended_at: Instant | None = None
    idle_timeout_s: int = IDLE_TIMEOUT_S
    task: str = ""  # that opened it
    worker: str = ""
    node: str = ""
    epoch: int = 0
    call_count: int = 0  # that completed
    last_call_at: Instant | None = None
    rebuild: str = ""
    calls: tuple[str, ...] = ()  # ids of the tasks that completed, in order; kept for `rebuild`
