"""Sessions of apps: who has a worker to himself, and until when.

    open ──▶ active ──▶ ended | expired | lost
               ▲ │
               └─┘ every call that completes, and every keepalive, starts the idle time again

The node that has the worker keeps the session in memory and writes its record; it expires only while no call is under
way. Calls are made in the order in which they were accepted, since one node hands them on. Where several nodes share a
store, a call that was accepted elsewhere goes to that node by its route (`session_route`).

Whoever has the workers (`stepwell.apps`; it may not import this) is connected by the server:

    sessions.got_worker(env, session, worker)      the first call of a session has a worker
    sessions.worker_lost(env, session, why)        that worker is gone: its process died, or was killed
    sessions.on_over = release                     called with (env, session) when a session ended or expired, or is
                                                   lost: its worker is of no use for anybody else
    await sessions.history(env, session)           requests of the calls that completed, in order, to be made again on
                                                   a new worker of an app that declares `rebuild`
    await sessions.keep_state(env, session, state) what an app that declares `snapshot` told after a call
    await sessions.state(env, session)             the last of these, for a new worker

With `rebuild` or `snapshot` a session outlives its worker and the server; otherwise it is lost with its worker, and so
are all sessions of a server that was started again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from stepwell.model import journal
from stepwell.model.app import Reference, read_reference
from stepwell.model.errors import Conflict, InvalidInput, NotFound, StepwellError
from stepwell.model.ids import RunId, ulid_time
from stepwell.model.job import RunStatus
from stepwell.model.session import IDLE_TIMEOUT_S, LONGEST_IDLE_S, SHORTEST_IDLE_S, Session, SessionStatus
from stepwell.model.task import TaskRequest, read_request
from stepwell.node.patience import patiently
from stepwell.node.reads.payloads import text_of
from stepwell.store.base import Record, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stepwell.engine.run import Run
    from stepwell.model.app import AppVersion
    from stepwell.node.clock import Alarm, World
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.node")

SESSION, STATE = "session", "session_state"
"""Kinds of records."""

SESSION_ROUTES = "session/"
"""What the routes of calls of sessions begin with."""

KEEP_MS = 86_400_000
"""How long it can be asked what became of a session that is over."""

MOST_CALLS = 1_000
"""Calls that are made again for a session; one with more of them is lost with its worker."""

_PAGE = 100


class SessionNotFound(NotFound):
    """There is no session of that id."""

    code = "SESSION_NOT_FOUND"


class SessionExpired(StepwellError):
    """Its idle time was over before this call came."""

    code = "SESSION_EXPIRED"
    http_status = 410


class SessionEnded(StepwellError):
    """Its caller ended it."""

    code = "SESSION_ENDED"
    http_status = 410


class SessionLost(StepwellError):
    """Its worker is gone, and what it remembered with it."""

    code = "WORKER_LOST"
    http_status = 500


class WorkerLeased(Conflict):
    """The worker that was asked for holds another session."""

    code = "WORKER_LEASED"


class AppMismatch(Conflict):
    """The session is one of another app."""

    code = "APP_MISMATCH"


class VersionMismatch(Conflict):
    """The session is one of another version of the app."""

    code = "VERSION_MISMATCH"


def session_route(node: str) -> str:
    """The route of calls that only the node can make which has the worker of their session."""
    return f"{SESSION_ROUTES}{node}"


class _Held:
    """A session whose worker is here."""

    __slots__ = ("alarm", "busy", "changed", "revision", "saving", "session")

    def __init__(self, session: Session, revision: int) -> None:
        self.session = session
        self.revision = revision  # of the record; 0: there is none yet
        self.busy: set[RunId] = set()
        self.alarm: Alarm | None = None
        self.changed = False  # the record does not say it yet
        self.saving = False


class Sessions:
    """The part of a node that keeps sessions."""

    def __init__(
        self,
        *,
        node: str,
        epoch: Callable[[], int],
        store: Store,
        world: World,
        new_key: Callable[[], str],
        shared: bool,
    ) -> None:
        self._node = node
        self._epoch = epoch
        self._store = store
        self._world = world
        self._new_key = new_key
        self._shared = shared
        self._held: dict[tuple[str, str], _Held] = {}
        self._of_run: dict[RunId, tuple[str, str]] = {}
        self._dead: dict[str, set[str]] = {}  # nodes, by environment, whose sessions are lost, and are said to be
        self.on_over: Callable[[str, str], None] = lambda env, session: None

    @property
    def any(self) -> bool:
        """Whether this node has a worker that is somebody's alone."""
        return bool(self._held)

    # life

    async def start(self, envs: Iterable[str]) -> None:
        """Say of the sessions that this node had in an earlier life what became of them."""
        for env in envs:
            for record in await self._records(env):
                session = msgspec.json.decode(record.value, type=Session)
                if session.status is not SessionStatus.ACTIVE:
                    continue
                if session.node == self._node or not self._shared:
                    await self._take_up(session, record.revision)

    async def _take_up(self, session: Session, revision: int) -> None:
        opening = await self._store.run_row(RunId(session.task)) if not session.call_count else None
        held = _Held(session, revision)
        if session.rebuild or (opening is not None and not opening.status.final):
            # Its next call, or the one that opens it and is made again, finds it a new worker.
            held.session = self._at(session, worker="", node=self._node, epoch=self._epoch())
            self._held[session.env, session.id] = held
            if opening is not None and not opening.status.final:
                self._enter(held, opening.id)
            self._arm(held)
        else:
            held.session = self._over(session, SessionStatus.LOST, "the server was started again")
        await self._save(held)

    async def tidy(self, env: str, dead: set[str]) -> None:
        """Forget sessions that were over long ago; those of nodes that died since the last time are lost."""
        before = self._world.now() - KEEP_MS
        old: list[Record] = []
        while True:
            page = await self._store.records(env, SESSION, after=old[-1].key if old else None, limit=_PAGE)
            old = [one for one in page if ulid_time(one.key) < before]  # a key is as old as its session
            for record in old:
                session = msgspec.json.decode(record.value, type=Session)
                if session.status is not SessionStatus.ACTIVE and record.at < before:
                    await self._store.remove_record(env, STATE, session.id)
                    await self._store.remove_record(env, SESSION, session.id, record.revision)
            if len(old) < _PAGE:
                break
        died, self._dead[env] = dead - self._dead.get(env, set()) - {self._node}, dead
        for record in await self._records(env) if died else ():
            session = msgspec.json.decode(record.value, type=Session)
            if session.status is SessionStatus.ACTIVE and session.node in died:
                over = self._over(session, SessionStatus.LOST, f"the server {session.node} is gone")
                await self._store.put_record(self._record(over, record.revision + 1))

    # what surfaces ask for

    def open(
        self, version: AppVersion, idle_timeout_s: int = IDLE_TIMEOUT_S, *, workers: tuple[str, ...] = ()
    ) -> Session:
        """A new session, to be named in the request of the task that opens it. It is stored with that task.

        Args:
            idle_timeout_s: 1 to 3600.
            workers: Ids, if one of these is to do it.

        Raises:
            InvalidInput: The idle timeout is out of range.
            WorkerLeased: Every one of `workers` holds a session.
        """
        if not SHORTEST_IDLE_S <= idle_timeout_s <= LONGEST_IDLE_S:
            raise InvalidInput(
                f"session_timeout is {SHORTEST_IDLE_S} to {LONGEST_IDLE_S} seconds, not {idle_timeout_s}",
                field="session_timeout",
            )
        leased = {one.session.worker for one in self._held.values()}
        if workers and all(one in leased for one in workers):
            raise WorkerLeased(f"every worker of {', '.join(workers)} holds another session; name others, or none")
        now = self._world.now()
        session = Session(
            id=self._new_key(),
            app=version.reference,
            env=version.env,
            created_at=now,
            updated_at=now,
            expires_at=now + idle_timeout_s * 1000,
            idle_timeout_s=idle_timeout_s,
            node=self._node,
            epoch=self._epoch(),
            rebuild=version.session,
        )
        held = self._held[session.env, session.id] = _Held(session, 0)
        self._arm(held)
        return session

    async def resolve(self, env: str, session: str, app: Reference, own_namespace: str = "") -> Session:
        """The session that a call names which means this app. It can be called, and its `app` is what to call.

        Raises:
            SessionNotFound, SessionExpired, SessionEnded, SessionLost: It cannot be called.
            AppMismatch, VersionMismatch: The call means something else.
        """
        found = await self.get(env, session)
        known = read_reference(found.app)
        if (app.namespace or own_namespace, app.name) != (known.namespace, known.name):
            raise AppMismatch(f"session {session} is one of {known.app}, not of {app.app}")
        if app.version not in ("", known.version):
            raise VersionMismatch(f"session {session} is one of {found.app}, not of version {app.version!r}")
        _check_active(found)
        return found

    async def get(self, env: str, session: str) -> Session:
        """A session, also one that is over. Raises `SessionNotFound`."""
        held = self._held.get((env, session))
        if held is not None and (held.revision == 0 or not self._shared):
            return held.session
        record = await self._store.record(env, SESSION, session)
        if record is None:
            raise SessionNotFound(f"no session {session}; it may have been over for more than a day")
        stored = msgspec.json.decode(record.value, type=Session)
        return held.session if held is not None and stored.status is SessionStatus.ACTIVE else stored

    async def active(self, env: str) -> tuple[Session, ...]:
        """The sessions that can be called, the newest first."""
        if not self._shared:
            known = (held.session for (its_env, _), held in self._held.items() if its_env == env and held.revision)
            sessions = [one for one in known if one.status is SessionStatus.ACTIVE]
            return tuple(sorted(sessions, key=lambda one: one.id, reverse=True))
        found: list[Session] = []
        for record in await self._records(env):
            held = self._held.get((env, record.key))
            session = held.session if held is not None else msgspec.json.decode(record.value, type=Session)
            if session.status is SessionStatus.ACTIVE:
                found.append(session)
        return tuple(reversed(found))

    async def keepalive(self, env: str, session: str) -> Session:
        """Start the idle time again. Raises what `resolve` does for a session that cannot be called."""
        found = await self.get(env, session)
        _check_active(found)
        held = self._held.get((env, session))
        slid = self._at(found, expires_at=self._world.now() + found.idle_timeout_s * 1000)
        if held is not None:
            held.session = slid
            await self._save(held)
            return held.session
        return await self._put_elsewhere(slid, lambda one: self._at(one, expires_at=slid.expires_at))

    async def end(self, env: str, session: str) -> Session:
        """End a session: no call of it is accepted any more, and its worker goes. Ending it twice is the same.

        Raises:
            SessionNotFound: There is none.
        """
        found = await self.get(env, session)
        if found.status is not SessionStatus.ACTIVE:
            return found
        held = self._held.get((env, session))
        if held is None:
            return await self._put_elsewhere(found, lambda one: self._over(one, SessionStatus.ENDED))
        self._finish(held, SessionStatus.ENDED)
        await self._save(held)
        return held.session

    # calls

    async def enter(self, env: str, session: str, task: RunId, *, opens: bool) -> str | None:
        """A call of the session is about to be stored, and counts as under way from now on until `left` or `ended`.

        Returns:
            The route of the node that has to make it; None if it is this one.

        Raises:
            SessionNotFound, SessionExpired, SessionEnded, SessionLost: It cannot be called.
        """
        held = self._held.get((env, session))
        if held is None or (self._shared and held.revision):
            found = await self.get(env, session)
            _check_active(found)
            held = self._held.get((env, session))
            if held is None:
                return session_route(found.node)
        _check_active(held.session)
        self._enter(held, task)
        if opens:
            held.session = self._at(held.session, task=task)
            try:
                await self._save(held, patient=False)
            except (StoreFull, StoreUnavailable):
                self.left(task)
                raise
        return None

    def _enter(self, held: _Held, task: RunId) -> None:
        held.busy.add(task)
        self._of_run[task] = (held.session.env, held.session.id)

    def came(self, env: str, task: RunId, event: bytes) -> None:
        """This node is about to make a call that another one accepted. `event` holds its request."""
        held = self._held.get((env, read_request(event, "").session))
        if held is not None:
            self._enter(held, task)

    def left(self, task: RunId) -> None:
        """The call was not stored."""
        self._leave(task)

    def ended(self, run: Run) -> None:
        """The run of a task ended, durably. Harmless for one that is of no session."""
        held = self._leave(run.id)
        if held is None or run.status is not RunStatus.COMPLETED:
            return
        session, now = held.session, self._world.now()
        kept = session.rebuild == "rebuild" and held.session.status is SessionStatus.ACTIVE
        held.session = self._at(
            session,
            call_count=session.call_count + 1,
            last_call_at=now,
            expires_at=now + session.idle_timeout_s * 1000,
            calls=(*session.calls, run.id) if kept else session.calls,
        )
        self._save_soon(held)

    def _leave(self, task: RunId) -> _Held | None:
        which = self._of_run.pop(task, None)
        held = self._held.get(which) if which is not None else None
        if held is not None:
            held.busy.discard(task)
            if not held.busy:
                self._arm(held)
                self._drop(held)
        return held

    # workers

    def got_worker(self, env: str, session: str, worker: str) -> None:
        """The session has a worker to itself."""
        held = self._held.get((env, session))
        if held is not None:
            held.session = self._at(held.session, worker=worker)
            self._save_soon(held)

    def worker_lost(self, env: str, session: str, why: str) -> None:
        """The worker of a session is gone."""
        held = self._held.get((env, session))
        if held is None:
            return
        opening = held.session.task in held.busy  # it remembers nothing yet, and the call is made again
        if opening or (held.session.rebuild and len(held.session.calls) <= MOST_CALLS):
            held.session = self._at(held.session, worker="")
        else:
            self._finish(held, SessionStatus.LOST, why)
        self._save_soon(held)

    async def history(self, env: str, session: str) -> list[TaskRequest]:
        """What the completed calls of a session asked for, in order. Raises `SessionNotFound`.

        Raises:
            SessionLost: A task of it was deleted, so it cannot be made again.
        """
        found = await self.get(env, session)
        requests: list[TaskRequest] = []
        for task in found.calls:
            stored = await self._store.load_run(RunId(task))
            first = stored.entries[0] if stored is not None else None
            if stored is None or not isinstance(first, journal.RunStarted):
                raise SessionLost(f"session {session} cannot be made again: its task {task} was deleted")
            event = await text_of(self._store, first.events[0])
            assert event is not None
            requests.append(read_request(event, stored.row.function))
        return requests

    async def keep_state(self, env: str, session: str, state: bytes) -> None:
        """Keep what the app told of its state, in the place of what it told before."""
        while True:
            known = await self._store.record(env, STATE, session)
            revision = known.revision + 1 if known is not None else 1
            new = Record(env=env, kind=STATE, key=session, value=state, revision=revision, at=self._world.now())
            if await self._store.put_record(new):
                return

    async def state(self, env: str, session: str) -> bytes | None:
        """The state that the app told last; None if it told none."""
        known = await self._store.record(env, STATE, session)
        return known.value if known is not None else None

    # time

    def _arm(self, held: _Held) -> None:
        if held.alarm is None and held.session.status is SessionStatus.ACTIVE:
            held.alarm = self._world.call_at(held.session.expires_at, lambda: self._look(held))

    def _look(self, held: _Held) -> None:
        """The idle time may be over; it is not looked at while a call is under way."""
        held.alarm = None
        if held.busy or held.session.status is not SessionStatus.ACTIVE:
            return
        if self._world.now() < held.session.expires_at:
            self._arm(held)
        elif self._shared and held.revision:
            self._world.spawn(patiently(self._world, lambda: self._expire(held)))
        else:
            self._finish(held, SessionStatus.EXPIRED)
            self._save_soon(held)

    async def _expire(self, held: _Held) -> None:
        """Expire, unless another node was asked to keep it alive."""
        record = await self._store.record(held.session.env, SESSION, held.session.id)
        if record is not None and record.revision != held.revision:
            self._merge(held, record)
        if held.busy or held.session.status is not SessionStatus.ACTIVE:
            return
        if self._world.now() < held.session.expires_at:
            self._arm(held)
            return
        self._finish(held, SessionStatus.EXPIRED)
        await self._save(held)

    def _finish(self, held: _Held, status: SessionStatus, reason: str = "") -> None:
        session = held.session
        if session.status is not SessionStatus.ACTIVE:
            return
        held.session = self._over(session, status, reason)
        if held.alarm is not None:
            held.alarm.cancel()
            held.alarm = None
        log.debug("session %s of %s is over: %s %s", session.id, session.app, status.value, reason)
        self.on_over(session.env, session.id)

    # records

    def _at(self, session: Session, **changes: object) -> Session:
        return msgspec.structs.replace(session, updated_at=self._world.now(), **changes)

    def _over(self, session: Session, status: SessionStatus, reason: str = "") -> Session:
        return self._at(session, status=status, ended_at=self._world.now(), reason=reason, worker="")

    def _record(self, session: Session, revision: int) -> Record:
        value = msgspec.json.encode(session)
        return Record(
            env=session.env, kind=SESSION, key=session.id, value=value, revision=revision, at=session.updated_at
        )

    def _save_soon(self, held: _Held) -> None:
        held.changed = True
        if not held.saving:
            self._world.spawn(self._save(held))

    async def _save(self, held: _Held, *, patient: bool = True) -> None:
        """Write the record until it says what is known here; one at a time."""
        held.changed = True
        if held.saving:
            return
        held.saving = True
        try:
            while held.changed:
                held.changed = False
                if patient:
                    await patiently(self._world, lambda: self._put(held))
                else:
                    await self._put(held)
        finally:
            held.saving = False
        self._drop(held)

    def _drop(self, held: _Held) -> None:
        """What is over, and written, and has no call under way is not kept in memory."""
        over = held.session.status is not SessionStatus.ACTIVE
        if over and not (held.busy or held.saving or held.changed):
            self._held.pop((held.session.env, held.session.id), None)

    async def _put(self, held: _Held) -> None:
        session = held.session
        if not held.revision and session.status is not SessionStatus.ACTIVE:
            return  # no task ever opened it
        while not await self._store.put_record(self._record(session, held.revision + 1)):
            record = await self._store.record(session.env, SESSION, session.id)
            if record is None:
                return  # it was over for so long that it was forgotten
            self._merge(held, record)
            session = held.session
        held.revision += 1

    def _merge(self, held: _Held, record: Record) -> None:
        """Take over what another node was asked for: that it ends, or that it goes on."""
        held.revision = record.revision
        theirs = msgspec.json.decode(record.value, type=Session)
        if theirs.status is not SessionStatus.ACTIVE:
            self._finish(held, theirs.status, theirs.reason)
        elif theirs.expires_at > held.session.expires_at:
            held.session = self._at(held.session, expires_at=theirs.expires_at)

    async def _put_elsewhere(self, session: Session, change: Callable[[Session], Session]) -> Session:
        """Change the record of a session whose worker another node has."""
        while True:
            record = await self._store.record(session.env, SESSION, session.id)
            if record is None:
                raise SessionNotFound(f"no session {session.id}")
            known = msgspec.json.decode(record.value, type=Session)
            if known.status is not SessionStatus.ACTIVE:
                return known
            changed = change(known)
            if await self._store.put_record(self._record(changed, record.revision + 1)):
                return changed

    async def _records(self, env: str) -> list[Record]:
        found: list[Record] = []
        while True:
            page = await self._store.records(env, SESSION, after=found[-1].key if found else None, limit=_PAGE)
            found += page
            if len(page) < _PAGE:
                return found


def _check_active(session: Session) -> None:
    match session.status:
        case SessionStatus.EXPIRED:
            raise SessionExpired(
                f"session {session.id} expired: nobody called it for {session.idle_timeout_s} s; open a new one, with "
                "a longer session_timeout if need be"
            )
        case SessionStatus.ENDED:
            raise SessionEnded(f"session {session.id} was ended by its caller; open a new one")
        case SessionStatus.LOST:
            raise SessionLost(
                f"session {session.id} lost its worker, and what it remembered with it; open a new one. "
                f"Why it was lost: {session.reason or 'nobody knows'}"
            )
        case SessionStatus.ACTIVE:
            pass
