"""Which warm worker makes which call of an app, and when workers come and go.

A worker belongs to one key: version, setup, variant. A call goes to an idle worker of its key, in order of arrival;
where there is none, one is started if that is worth its time and there is room for it. Room is shared fairly: the app
with the fewest workers comes first, then the one that was served least; and an app whose workers have had their turn
gives one of them up to an app that has been served less. A session has a worker to itself.

    Start ─▶ STARTING ─ready─▶ IDLE ◀─done── BUSY          failed, gone: from everywhere
                                │ └──Assign──▶┘
                                └──Stop─▶ STOPPING ─gone─▶

Nothing here reads a clock or does anything: `apps/pool.py` tells what happened and carries out what `decide` says.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from stepwell.model.placement import (
    Action,
    Assign,
    Capacity,
    Ended,
    Gpu,
    Kind,
    Refuse,
    Start,
    Stop,
    Waiting,
    WorkerKey,
)

_FIRST_START_MS = 500.0
"""What a start is taken to cost before one was measured."""
_NEWEST = 0.3
"""How much the last measurement counts in an average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is not said by the apps themselves."""

    idle_ms: int = 300_000
    """A worker with nothing to do for so long goes."""
    old_idle_ms: int = 2_000
    """Likewise one of a version that is not current any more."""
    most: int = 4
    """Workers of one key."""
    turn_ms: int = 1_000
    """So much more than others an app may be served before it gives up a worker to them; at least twice what it costs
    to start one."""
    setup_tries: int = 3
    """Workers that may die one after the other while they are set up, until the calls that wait for one fail."""
    backoff_ms: int = 1_000
    """Pause after a setup that failed; twice as long after each further one."""
    longest_backoff_ms: int = 60_000
    wait_for_resources: bool = False
    """Keep calls that need more than this machine has, instead of refusing them."""
    catch_up_ms: int = 2_000
    """An app whose workers were ready later than those of others is let catch up for so long, while the machine is
    busy."""
    patience_ms: int = 10_000
    """A call that needs much and has waited for so long is not overtaken any more by workers that need less."""


_LEAD_MS = 50.0
"""So much further than others an app may be in any case."""
_MOST_LINES = 1_000
"""Keys that are remembered; beyond it, those without workers and calls are forgotten."""


class State(Enum):
    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    STOPPING = auto()


@dataclass(slots=True, eq=False)
class _Worker:
    id: str
    line: _Line
    gpus: tuple[int, ...]
    since: int  # when it came to its state
    memory_bytes: int
    state: State = State.STARTING
    session: str = ""
    spent: bool = False  # it held a session that is over, and goes after its call
    shared: bool = False  # set up, and for whoever comes: one with a session is not
    calls: int = 0


@dataclass(slots=True, eq=False)
class _Wait:
    waiting: Waiting
    at: int
    number: int


@dataclass(slots=True, eq=False)
class _App:
    """`served_ms`: how long workers were busy for it, brought up to that of the others when it comes back; `pace_ms`:
    the same for each worker that it has."""

    served_ms: float = 0.0
    pace_ms: float = 0.0
    workers: int = 0  # that are not stopping
    shared: int = 0  # of these, those set up that hold no session
    calls: int = 0  # waiting or being made
    busy: dict[str, _Worker] = field(default_factory=dict)  # of the shared ones

    def pace(self, now: int) -> float:
        """With the calls that are being made."""
        return self.pace_ms + sum(now - one.since for one in self.busy.values()) / max(self.shared, 1)


@dataclass(slots=True, eq=False)
class _Line:
    """The calls and the workers of one key. `idle` is ordered by when they became so."""

    key: WorkerKey
    kind: Kind
    app: _App
    waiting: deque[_Wait] = field(default_factory=deque)
    pinned: list[_Wait] = field(default_factory=list)
    workers: dict[str, _Worker] = field(default_factory=dict)
    idle: dict[str, _Worker] = field(default_factory=dict)
    starting: int = 0
    opening: int = 0  # of `waiting`, those that open a session
    served_ms: float = 0.0
    call_ms: float | None = None
    start_ms: float = _FIRST_START_MS
    failures: int = 0
    not_before: int = 0
    batch_at: int | None = None  # when a batch goes that is not full
    old: bool = False
    kept: bool = False

    @property
    def alive(self) -> int:
        """Workers that are not stopping."""
        return sum(1 for one in self.workers.values() if one.state is not State.STOPPING)


@dataclass(slots=True, eq=False)
class _Lease:
    worker: _Worker
    waiting: deque[_Wait] = field(default_factory=deque)


class Placement:
    """Implements `model.placement.Schedule`.

    Args:
        new_id: Makes the id of a worker.
    """

    def __init__(self, capacity: Capacity, rules: Rules, new_id: Callable[[], str]) -> None:
        self.capacity = capacity
        self.rules = rules
        self._new_id = new_id
        self._lines: dict[WorkerKey, _Line] = {}
        self._apps: dict[tuple[str, str], _App] = {}
        self._current: dict[tuple[str, str], str] = {}
        self._workers: dict[str, _Worker] = {}
        self._leases: dict[str, _Lease] = {}
        self._where: dict[str, tuple[_Line, _Wait]] = {}  # by call
        self._touched: dict[WorkerKey, _Line] = {}
        self._held: dict[WorkerKey, _Line] = {}  # whose idle workers let others catch up
        self._held_until = 0
        self._gathering: dict[WorkerKey, _Line] = {}  # that wait until a batch is full
        self._hungry: dict[WorkerKey, _Line] = {}  # with calls for which no worker is idle, or too few to be kept
        self._starved: dict[WorkerKey, _Line] = {}  # of these, the ones for which there was no room
        self._actions: list[Action] = []
        self._arrived = 0

    @property
    def queued(self) -> int:
        return len(self._where)

    def state(self, worker: str) -> State | None:
        """None: there is no such worker."""
        found = self._workers.get(worker)
        return found.state if found is not None else None

    # what happened

    def add(self, waiting: Waiting, kind: Kind, now: int) -> None:
        line = self._line(waiting.key, kind)
        self._arrived += 1
        wait = _Wait(waiting, now, self._arrived)
        if waiting.session and not waiting.opens:
            lease = self._leases.get(waiting.session)
            if lease is None:
                why = f"the worker of session {waiting.session} is not here any more; open a new session"
                self._actions.append(Refuse(waiting.call, "session", why))
                return
            line = lease.worker.line
            lease.waiting.append(wait)
        elif waiting.workers:
            wrong = self._wrong_workers(waiting)
            if wrong:
                self._actions.append(Refuse(waiting.call, "workers", wrong))
                return
            line.pinned.append(wait)
        else:
            line.waiting.append(wait)
            line.opening += waiting.opens
        if line.app.calls == 0:
            active = [app for app in self._apps.values() if app.calls]
            line.app.served_ms = max(line.app.served_ms, min((one.served_ms for one in active), default=0.0))
            line.app.pace_ms = max(line.app.pace_ms, min((one.pace(now) for one in active), default=0.0))
        line.app.calls += 1
        self._where[waiting.call] = (line, wait)
        self._touched[line.key] = line

    def remove(self, call: str) -> bool:
        found = self._where.pop(call, None)
        if found is None:
            return False
        line, wait = found
        waiting = wait.waiting
        if waiting.session and not waiting.opens:
            self._leases[waiting.session].waiting.remove(wait)
        elif waiting.workers:
            line.pinned.remove(wait)
        else:
            line.waiting.remove(wait)
            line.opening -= waiting.opens
        line.app.calls -= 1
        self._touched[line.key] = line
        return True

    def keep_warm(self, key: WorkerKey, kind: Kind) -> None:
        line = self._line(key, kind)
        line.kept = True
        self._touched[key] = line

    def set_current(self, app: tuple[str, str], reference: str) -> None:
        self._current[app] = reference
        for line in self._lines.values():
            if line.key.app == app:
                line.old = line.key.reference != reference
                self._touched[line.key] = line

    def ready(self, worker: str, now: int) -> None:
        one = self._workers.get(worker)
        if one is None or one.state is not State.STARTING:
            return
        line = one.line
        line.starting -= 1
        line.start_ms = (1 - _NEWEST) * line.start_ms + _NEWEST * (now - one.since)
        line.failures = line.not_before = 0
        if not line.app.shared:
            others = [app.pace(now) for app in self._apps.values() if app.busy]
            line.app.pace_ms = max(line.app.pace_ms, min(others, default=0.0) - self.rules.catch_up_ms)
        one.shared = True
        line.app.shared += 1
        self._rest(one, now)

    def done(self, worker: str, now: int) -> None:
        one = self._workers.get(worker)
        if one is None or one.state is not State.BUSY:
            return
        took = now - one.since
        line = one.line
        line.call_ms = took if line.call_ms is None else (1 - _NEWEST) * line.call_ms + _NEWEST * took
        self._count(one, took)
        self._rest(one, now)

    def failed(self, worker: str, now: int, why: str, *, told: bool) -> None:
        one = self._workers.get(worker)
        if one is None or one.state is not State.STARTING:
            return
        line, rules = one.line, self.rules
        line.failures += 1
        line.not_before = now + min(rules.backoff_ms << min(line.failures - 1, 20), rules.longest_backoff_ms)
        self._stopping(one, now)
        sound = any(other.state in {State.IDLE, State.BUSY} for other in line.workers.values())
        if not sound and (told or line.failures >= rules.setup_tries):
            for wait in [*line.waiting, *line.pinned]:
                self._refuse(wait, "setup", why)

    def gone(self, worker: str, now: int) -> None:
        one = self._workers.pop(worker, None)
        if one is None:
            return
        line = one.line
        if one.state is State.BUSY:
            self._count(one, now - one.since)
        if one.state is State.STARTING:
            line.starting -= 1
        if one.state is not State.STOPPING:
            line.app.workers -= 1
        self._unshare(one)
        line.idle.pop(worker, None)
        del line.workers[worker]
        if one.session:
            lease = self._leases.pop(one.session)
            self._actions.append(Ended(one.session, worker))
            why = f"the worker of session {one.session} is lost, and what it remembered with it; open a new session"
            for wait in list(lease.waiting):
                self._refuse(wait, "session", why, lease)
        for wait in list(line.pinned):
            wrong = self._wrong_workers(wait.waiting)
            if wrong:
                self._refuse(wait, "workers", wrong)
        self._touched[line.key] = line

    def measured(self, worker: str, memory_bytes: int) -> None:
        one = self._workers.get(worker)
        if one is not None:
            one.memory_bytes = max(one.line.kind.needs.ram_bytes, memory_bytes)

    def release(self, session: str, now: int) -> None:
        lease = self._leases.pop(session, None)
        if lease is None:
            return
        for wait in list(lease.waiting):
            self._refuse(wait, "session", f"session {session} has ended; open a new one", lease)
        worker = lease.worker
        worker.session = ""
        if worker.state is State.IDLE:
            self._stop(worker, now, "its session is over")
        elif worker.state is State.BUSY:
            worker.spent = True

    def relieve(self, memory_bytes: int, now: int) -> None:
        for worker in sorted(self._spare(), key=self._eviction_order):
            if memory_bytes <= 0:
                return
            memory_bytes -= worker.memory_bytes
            self._stop(worker, now, "memory is short")

    # what follows

    def decide(self, now: int) -> list[Action]:
        for line in self._gathering.values():
            if line.batch_at is not None and line.batch_at <= now:
                self._touched[line.key] = line
        self._touched |= self._held
        self._held.clear()
        while self._touched:
            _, line = self._touched.popitem()
            self._match(line, now)
        if self._hungry:
            self._grow(now)
        self._let_go(now)
        actions, self._actions = self._actions, []
        return actions

    def wake_at(self, now: int) -> int | None:
        moments: list[int] = []
        moments += [line.batch_at for line in self._gathering.values() if line.batch_at is not None]
        if self._held:
            moments.append(self._held_until)
        for line in self._manned():
            if line.idle and not line.waiting:
                oldest = next(iter(line.idle.values()))
                if (limit := self._idle_ms(line)) is not None:
                    moments.append(oldest.since + limit)
        for line in self._hungry.values():
            if line.not_before > now:
                moments.append(line.not_before)
            elif line.waiting and line.key not in self._starved:
                moments.append(line.waiting[0].at + int(line.start_ms) + 1)
        return min((max(one, now + 1) for one in moments), default=None)

    def _match(self, line: _Line, now: int) -> None:
        """Give what waits to workers that are idle."""
        line.batch_at = None
        self._gathering.pop(line.key, None)
        for lease in self._leases.values() if self._leases else ():
            worker = lease.worker
            if worker.line is line and worker.state is State.IDLE and lease.waiting:
                self._assign(worker, [lease.waiting.popleft()], now)
        for wait in list(line.pinned):
            found = next((line.idle[one] for one in wait.waiting.workers if one in line.idle), None)
            if found is not None:
                line.pinned.remove(wait)
                self._assign(found, [wait], now)
        while line.waiting and line.idle:
            worker = next(reversed(line.idle.values()))
            if self._gives_way(worker, now):
                self._stop(worker, now, "others have waited longer")
                continue
            if self._lets_catch_up(line, now):
                self._held[line.key] = line
                break
            taken = self._take(line, now)
            if not taken:
                break
            self._assign(worker, taken, now)
        short = line.kept and not line.old and len(line.workers) < line.kind.scaling.least
        if short or (line.waiting and not line.idle):
            self._hungry[line.key] = line
        else:
            self._hungry.pop(line.key, None)
            self._starved.pop(line.key, None)

    def _lets_catch_up(self, line: _Line, now: int) -> bool:
        """Whether an app waits a moment, on a busy machine, for those that came to work later.

        Only for what is being made right now: that comes further as time goes by, so nobody waits long.
        """
        if sum(len(app.busy) for app in self._apps.values()) < self.capacity.cpus:
            return False
        others = [
            app.pace(now)
            for app in self._apps.values()
            if app is not line.app and app.busy and app.calls > len(app.busy)
        ]
        slowest = min(others, default=None)
        if slowest is None:
            return False
        ahead = line.app.pace(now) - slowest - max(line.call_ms or 0.0, _LEAD_MS)
        if not 0 < ahead <= self.rules.catch_up_ms:
            return False
        self._held_until = now + max(1, int(ahead))
        return True

    def _take(self, line: _Line, now: int) -> list[_Wait]:
        """What is made next: one call, or a batch. Empty while a batch waits for more."""
        head = line.waiting[0]
        size = head.waiting.batch_size
        if size <= 1 or head.waiting.session:
            line.opening -= head.waiting.opens
            return [line.waiting.popleft()]
        same = [
            one for one in line.waiting if one.waiting.function == head.waiting.function and not one.waiting.session
        ]
        if len(same) < size and now < (at := head.at + int(head.waiting.batch_wait_ms)):
            line.batch_at = at
            self._gathering[line.key] = line
            return []
        taken = same[:size]
        for one in taken:
            line.waiting.remove(one)
        return taken

    def _grow(self, now: int) -> None:
        """Start workers for those who need them, the least served first.

        Nobody gets one more than others for whom calls wait as well, unless there is room for all of them to get it.
        """
        self._starved.clear()
        wanting = [one for one in self._hungry.values() if self._wants_more(one, now) and not self._never_fits(one)]
        turns = [(self._turn_order(line), line) for line in wanting]
        calling = {**self._hungry, **self._held}.values()
        growing = [one for one in calling if one.waiting and len(one.workers) < self._most(one)]
        heapq.heapify(turns)
        held_back = False
        while turns:
            _, line = heapq.heappop(turns)
            equals = {id(line.app), *(id(one.app) for one in growing if one.app.workers <= line.app.workers)}
            free = self.capacity.workers - len(self._workers)
            if not held_back and self._fits(line) and (line.app.workers == 0 or len(equals) <= free):
                self._start(line, now)
                if self._wants_more(line, now):
                    heapq.heappush(turns, (self._turn_order(line), line))
                continue
            self._starved[line.key] = line
            if not held_back:
                self._make_room(line, now)
                held_back = bool(line.waiting) and now - line.waiting[0].at > self.rules.patience_ms

    def _let_go(self, now: int) -> None:
        """Stop workers that have been idle for long enough, the oldest first."""
        for line in self._manned():
            if not line.idle or line.waiting:
                continue
            limit = self._idle_ms(line)
            while limit is not None and line.idle:
                oldest = next(iter(line.idle.values()))
                if now - oldest.since < limit:
                    break
                self._stop(oldest, now, "of an old version" if line.old else "nothing to do")
                limit = self._idle_ms(line)

    # one worker

    def _start(self, line: _Line, now: int) -> None:
        gpus = self._gpus_for(line)
        assert gpus is not None, "checked by _fits"
        worker = _Worker(self._new_id(), line, gpus, now, line.kind.needs.ram_bytes)
        self._workers[worker.id] = line.workers[worker.id] = worker
        following = next((one for number, one in enumerate(line.waiting) if number >= line.starting), None)
        line.starting += 1
        line.app.workers += 1
        self._actions.append(Start(worker.id, line.key, gpus, following.waiting.call if following else ""))

    def _assign(self, worker: _Worker, taken: list[_Wait], now: int) -> None:
        line = worker.line
        line.idle.pop(worker.id, None)
        worker.state, worker.since, worker.calls = State.BUSY, now, len(taken)
        for wait in taken:
            del self._where[wait.waiting.call]
        first = taken[0].waiting
        if first.opens:
            worker.session = first.session
            self._leases[first.session] = _Lease(worker)
            self._unshare(worker)
        if worker.shared:
            line.app.busy[worker.id] = worker
        self._actions.append(Assign(worker.id, tuple(one.waiting.call for one in taken)))

    def _rest(self, worker: _Worker, now: int) -> None:
        line = worker.line
        worker.state, worker.since = State.IDLE, now
        if worker.spent:
            self._stop(worker, now, "its session is over")
        elif not worker.session:
            line.idle[worker.id] = worker
        self._touched[line.key] = line

    def _stop(self, worker: _Worker, now: int, why: str) -> None:
        self._stopping(worker, now)
        self._actions.append(Stop(worker.id, why))

    def _stopping(self, worker: _Worker, now: int) -> None:
        worker.line.starting -= worker.state is State.STARTING
        worker.line.idle.pop(worker.id, None)
        self._unshare(worker)
        worker.state, worker.since = State.STOPPING, now
        worker.line.app.workers -= 1
        self._touched[worker.line.key] = worker.line

    def _unshare(self, worker: _Worker) -> None:
        worker.line.app.shared -= worker.shared
        worker.shared = False

    def _count(self, worker: _Worker, took: float) -> None:
        line = worker.line
        line.served_ms += took
        line.app.served_ms += took
        if line.app.busy.pop(worker.id, None) is not None:
            line.app.pace_ms += took / max(line.app.shared, 1)
        line.app.calls -= worker.calls
        worker.calls = 0

    def _refuse(self, wait: _Wait, code: str, why: str, lease: _Lease | None = None) -> None:
        if lease is None:
            self.remove(wait.waiting.call)
        else:
            lease.waiting.remove(wait)
            line, _ = self._where.pop(wait.waiting.call)
            line.app.calls -= 1
        self._actions.append(Refuse(wait.waiting.call, code, why))

    # room

    def _wants_more(self, line: _Line, now: int) -> bool:
        """Whether another worker of this key is worth its start."""
        if now < line.not_before:
            return False
        scaling = line.kind.scaling
        if line.kept and not line.old and len(line.workers) < scaling.least:
            return True
        calls = len(line.waiting)
        if line.starting >= calls or len(line.workers) >= self._most(line):
            return False
        there = sum(1 for one in line.workers.values() if not one.session and one.state is not State.STOPPING)
        if there == 0 or line.opening > line.starting:
            return True
        size = max(line.waiting[0].waiting.batch_size, 1)
        waited = now - line.waiting[0].at
        expected = 0.0 if line.call_ms is None else line.call_ms * calls / size / there
        return max(expected, waited) > line.start_ms

    def _most(self, line: _Line) -> int:
        scaling = line.kind.scaling
        return max(scaling.most if scaling.most is not None else self.rules.most, scaling.least, 1)

    def _fits(self, line: _Line, without: Iterable[_Worker] = ()) -> bool:
        gone = {one.id for one in without}
        workers = [one for one in self._workers.values() if one.id not in gone]
        if len(workers) >= self.capacity.workers:
            return False
        memory = self.capacity.memory_bytes
        if memory and sum(one.memory_bytes for one in workers) + line.kind.needs.ram_bytes > memory:
            return False
        return self._gpus_for(line, gone) is not None

    def _gpus_for(self, line: _Line, gone: Iterable[str] = ()) -> tuple[int, ...] | None:
        """The GPUs that a worker of this key would get now; None if there are not enough.

        A worker that says how much memory it needs shares a GPU with others that do; one that does not has it alone.
        """
        needs = line.kind.needs
        if not needs.gpus:
            return ()
        found = []
        for gpu in sorted(self._gpus_like(line), key=lambda one: one.vram_bytes):
            users = [one for one in self._workers.values() if gpu.number in one.gpus and one.id not in gone]
            taken = sum(one.line.kind.needs.vram_bytes or gpu.vram_bytes for one in users)
            if users and (not needs.vram_bytes or taken + needs.vram_bytes > gpu.vram_bytes):
                continue
            found.append(gpu.number)
            if len(found) == needs.gpus:
                return tuple(found)
        return None

    def _gpus_like(self, line: _Line) -> list[Gpu]:
        needs = line.kind.needs
        return [
            gpu
            for gpu in self.capacity.gpus
            if needs.gpu_type in {"", "any", gpu.type} and needs.vram_bytes <= gpu.vram_bytes
        ]

    def _never_fits(self, line: _Line) -> bool:
        """Whether even an empty machine has too little. Then what waits is refused, unless the rules say otherwise."""
        needs, capacity = line.kind.needs, self.capacity
        why = ""
        if needs.gpus > len(fitting := self._gpus_like(line)):
            like = f" of type {needs.gpu_type}" if needs.gpu_type not in {"", "any"} else ""
            large = f" with {_gigabytes(needs.vram_bytes)} of memory" if needs.vram_bytes else ""
            why = (
                f"{line.key.reference} needs {needs.gpus} GPU{'s' * (needs.gpus > 1)}{like}{large}, and this machine "
                f"has {len(fitting) or 'none'}. Run it on a machine that has, or say resources.gpu.count: 0 in inf.yml"
            )
        elif capacity.memory_bytes and needs.ram_bytes > capacity.memory_bytes:
            why = (
                f"{line.key.reference} needs {_gigabytes(needs.ram_bytes)} of memory, and the workers of this machine "
                f"may take {_gigabytes(capacity.memory_bytes)} together. Say less as resources.ram in inf.yml, or run "
                "it on a larger machine"
            )
        if not why:
            return False
        if not self.rules.wait_for_resources:
            for wait in [*line.waiting, *line.pinned]:
                self._refuse(wait, "resources", why)
        return True

    def _make_room(self, line: _Line, now: int) -> None:
        """Stop idle workers of others, if a worker of this key fits then."""
        going = [one for one in self._workers.values() if one.state is State.STOPPING]
        if self._fits(line, going):
            return
        for worker in sorted(self._spare(), key=self._eviction_order):
            if worker.line is line:
                continue
            if self._protected(worker.line) and line.alive:
                continue
            going.append(worker)
            if self._fits(line, going):
                break
        else:
            return
        for worker in going:
            if worker.state is not State.STOPPING:
                self._stop(worker, now, "others need the room")

    def _gives_way(self, worker: _Worker, now: int) -> bool:
        """Whether an idle worker is to go although calls wait for it, since others have fewer, or were served less."""
        line = worker.line
        for other in self._starved.values():
            if other is line or now < other.not_before:
                continue
            if other.app is line.app:
                more, ahead = line.alive - other.alive, line.served_ms - other.served_ms
            else:
                more, ahead = line.app.workers - other.app.workers, line.app.served_ms - other.app.served_ms
            if more < 1 or (more == 1 and ahead <= max(self.rules.turn_ms, 2 * other.start_ms)):
                continue
            going = [one for one in self._workers.values() if one.state is State.STOPPING]
            if not self._fits(other, going) and self._fits(other, [*going, worker]):
                return True
        return False

    def _spare(self) -> Iterator[_Worker]:
        """Workers that nobody would miss just now: idle ones, and those whose calls went away while they are set up."""
        for line in self._manned():
            if not line.waiting:
                yield from line.idle.values()
                if line.starting and not line.pinned:
                    yield from (one for one in line.workers.values() if one.state is State.STARTING)

    def _manned(self) -> list[_Line]:
        """The keys that have workers."""
        return list(dict.fromkeys(one.line for one in self._workers.values()))

    def _eviction_order(self, worker: _Worker) -> tuple[bool, bool, bool, int]:
        ready = worker.state is State.IDLE
        return not worker.line.old, self._protected(worker.line), ready, worker.since

    def _protected(self, line: _Line) -> bool:
        return line.kept and not line.old and len(line.workers) <= line.kind.scaling.least

    def _turn_order(self, line: _Line) -> tuple[int, float, int, float, int, int]:
        arrived = line.waiting[0].number if line.waiting else self._arrived + 1
        return line.app.workers, line.app.served_ms, len(line.workers), line.served_ms, arrived, id(line)

    def _idle_ms(self, line: _Line) -> int | None:
        """How long a worker of this key may be idle; None: as long as it likes."""
        scaling = line.kind.scaling
        limit = scaling.idle_ms if scaling.idle_ms is not None else self.rules.idle_ms
        if line.old:
            return min(limit, self.rules.old_idle_ms)
        return None if line.kept and line.alive <= scaling.least else limit

    # the rest

    def _line(self, key: WorkerKey, kind: Kind) -> _Line:
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= _MOST_LINES:
                self._forget_lines()
            app = self._apps.setdefault(key.app, _App())
            current = self._current.get(key.app, key.reference)
            line = self._lines[key] = _Line(key, kind, app, old=current != key.reference)
        line.kind = kind
        return line

    def _forget_lines(self) -> None:
        for key, line in list(self._lines.items()):
            if not (line.workers or line.waiting or line.pinned or line.kept):
                del self._lines[key]
                self._touched.pop(key, None)
        for name in self._apps.keys() - {key.app for key in self._lines}:
            del self._apps[name]

    def _wrong_workers(self, waiting: Waiting) -> str:
        """Why none of the workers that a call is to be made by can make it; empty if one can."""
        known = [self._workers[one] for one in waiting.workers if one in self._workers]
        if any(one.line.key == waiting.key and not one.session and one.state is not State.STOPPING for one in known):
            return ""
        names = ", ".join(waiting.workers[:5])
        if not known:
            return f"workers: there is no worker {names} any more; leave `workers` out, and any worker makes the call"
        return (
            f"workers: {names} cannot make this call: it is of another app, setup or variant, or holds a session; "
            "leave `workers` out, and any worker makes the call"
        )


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3g} GB"
