"""What `POST /apps/run` is asked for, read and checked as far as that needs no app.

The clients send whatever members their caller gave, so unknown ones are ignored. Whether the input fits is for the app
to say: its own model may fill in, rename and convert what a schema cannot tell of.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from stepwell.model.duration import parse_time
from stepwell.model.errors import InvalidInput
from stepwell.model.ids import Instant
from stepwell.model.session import LONGEST_IDLE_S, SHORTEST_IDLE_S

NEW_SESSION = "new"
INFRA = ("cloud", "private", "private_first", "remote")
_T = TypeVar("_T")
_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")


class _Body(msgspec.Struct, kw_only=True):
    app: str | None = None
    app_id: str | None = None
    version_id: str | None = None
    input: Any = None
    setup: Any = None
    function: str | None = None
    infra: str | None = None
    variant: str | None = None
    workers: list[str] | None = None
    webhook: str | None = None
    session: str | None = None
    session_timeout: int | None = None
    run_at: str | None = None
    metadata: dict[str, Any] | None = None
    batch: str | None = None
    wait: bool | None = None


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to be run. Empty texts: they said nothing of it.

    Attributes:
        app: A reference.
        app_id: Instead of one; `version_id` narrows either.
        session: `new`, or the id of one.
        session_timeout_s: Of the new session; 0: as long as is usual.
        wait: They want the answer once the task has ended.
    """

    app: str = ""
    app_id: str = ""
    version_id: str = ""
    input: Any = None
    setup: Any = None
    function: str = ""
    infra: str = ""
    variant: str = ""
    workers: tuple[str, ...] = ()
    webhook: str = ""
    session: str = ""
    session_timeout_s: int = 0
    run_at: Instant | None = None
    metadata: dict[str, Any] = {}
    batch: str = ""
    wait: bool = False


def read_run(text: bytes) -> RunRequest:
    """Read a request. Raises `InvalidInput` that names the member."""
    body = read_body(text, _Body)
    if not (body.app or body.app_id or body.version_id):
        raise InvalidInput(
            "app is missing: name the app to be run, as namespace/name[@version][:function]", field="app"
        )
    if body.infra and body.infra not in INFRA:
        raise InvalidInput(f"infra is {', '.join(INFRA[:-1])} or {INFRA[-1]}, not {body.infra[:40]!r}", field="infra")
    if body.webhook and not body.webhook.startswith(("https://", "http://")):
        raise InvalidInput("webhook is the URL that is told once the task has ended: https://...", field="webhook")
    return RunRequest(
        app=body.app or "",
        app_id=body.app_id or "",
        version_id=body.version_id or "",
        input=body.input,
        setup=body.setup,
        function=body.function or "",
        infra=body.infra or "",
        variant=body.variant or _variant(body.metadata or {}),
        workers=tuple(body.workers or ()),
        webhook=body.webhook or "",
        session=body.session or "",
        session_timeout_s=_timeout(body),
        run_at=_time(body.run_at),
        metadata=body.metadata or {},
        batch=body.batch or "",
        wait=bool(body.wait),
    )


def read_body(text: bytes, kind: type[_T]) -> _T:
    """A body as a struct; empty stands for one without members. Raises `InvalidInput`."""
    try:
        return msgspec.json.decode(text if text.strip() else b"{}", type=kind)
    except msgspec.ValidationError as err:
        found = _PLACE.search(str(err))
        field = found[1] if found is not None else ""
        what = str(err)[: found.start()] if found is not None else str(err)
        raise InvalidInput(f"{field or 'the body'}: {what[:1].lower()}{what[1:]}", field=field or None) from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidInput(f"the body is not valid JSON: {err}") from err


def _variant(metadata: dict[str, Any]) -> str:
    variant = metadata.get("app_variant")
    return variant if isinstance(variant, str) else ""


def _timeout(body: _Body) -> int:
    if body.session_timeout is None:
        return 0
    if body.session != NEW_SESSION:
        raise InvalidInput(
            f'session_timeout is for a session that begins: send it with session: "{NEW_SESSION}"',
            field="session_timeout",
        )
    if not SHORTEST_IDLE_S <= body.session_timeout <= LONGEST_IDLE_S:
        raise InvalidInput(
            f"session_timeout is {SHORTEST_IDLE_S} to {LONGEST_IDLE_S} seconds, not {body.session_timeout}",
            field="session_timeout",
        )
    return body.session_timeout


def _time(text: str | None) -> Instant | None:
    if not text:
        return None
    moment = parse_time(text)
    if moment is None:
        raise InvalidInput(f"run_at is a time like 2026-11-20T10:00:00Z, not {text[:60]!r}", field="run_at")
    return round(moment.timestamp() * 1000)
