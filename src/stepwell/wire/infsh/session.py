"""Sessions as clients see them."""

from __future__ import annotations

from typing import Any

from stepwell.model.app import AppVersion, read_reference
from stepwell.model.session import Session, SessionStatus
from stepwell.wire.infsh.text import instant, short_id


def session_dto(session: Session) -> dict[str, Any]:
    """One that is lost is shown as ended, with the reason: clients know no other word for it."""
    wanted = read_reference(session.app)
    version = AppVersion(
        namespace=wanted.namespace, name=wanted.name, version=wanted.version, checksum="", env=session.env
    )
    over = session.status is not SessionStatus.ACTIVE
    return {
        "id": session.id,
        "short_id": short_id(session.id),
        "created_at": instant(session.created_at),
        "updated_at": instant(session.updated_at),
        "app_id": version.app_id,
        "app_version_id": version.id,
        "app": session.app,
        "worker_id": session.worker,
        "status": SessionStatus.ENDED if session.status is SessionStatus.LOST else session.status,
        "reason": session.reason,
        "expires_at": instant(session.expires_at),
        "ended_at": instant(session.ended_at) if over else None,
        "task_id": session.task or None,
        "call_count": session.call_count,
        "last_call_at": instant(session.last_call_at),
        "idle_timeout": session.idle_timeout_s,
    }
