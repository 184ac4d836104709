"""Which worker of an app does which call: what a schedule is told, and what it says is to be done.

    calls that wait ─┐
    workers ─────────┼─▶ schedule (`engine.session`) ─▶ Assign, Start, Stop, Refuse, Ended ─▶ whoever has the processes
    what there is ───┘

Moments are milliseconds of one clock that never goes back, durations milliseconds, sizes bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from stepwell.model.app import DEFAULT_VARIANT, Resources, Scaling
from stepwell.model.payload import canonical


class WorkerKey(msgspec.Struct, frozen=True):
    """What a worker is for. Calls with equal keys may share one."""

    reference: str  # of the version: namespace/name@version
    setup: str = ""  # digest of the setup value; see `setup_digest`
    variant: str = DEFAULT_VARIANT
    env: str = ""

    @property
    def app(self) -> tuple[str, str]:
        """The app, whatever the version, in its environment."""
        return self.env, self.reference.partition("@")[0]


def setup_digest(setup: Any) -> str:
    """Equal for equal setup values, in whatever order their keys come; empty for none."""
    return "" if setup is None else hashlib.sha256(canonical(setup)).hexdigest()[:32]


class Kind(msgspec.Struct, frozen=True):
    """What is known of the workers of a key."""

    needs: Resources = Resources()
    scaling: Scaling = Scaling()


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A call that waits for a worker. With `workers`, one of these ids is to make it."""

    call: str
    key: WorkerKey
    function: str = ""
    session: str = ""
    opens: bool = False  # the first call of its session
    workers: tuple[str, ...] = ()
    batch_size: int = 0  # above 1 it may be made together with others of the same function
    batch_wait_ms: float = 0.0


class Gpu(msgspec.Struct, frozen=True):
    """A GPU of this machine by its number."""

    number: int
    type: str = "nvidia"
    vram_bytes: int = 0
    name: str = ""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers of this machine together may take."""

    workers: int = 32
    cpus: int = 1
    memory_bytes: int = 0  # 0: not known, and not counted
    gpus: tuple[Gpu, ...] = ()


class Assign(msgspec.Struct, frozen=True):
    """The worker makes these calls: one, or several of a function that takes them together."""

    worker: str
    calls: tuple[str, ...]


class Start(msgspec.Struct, frozen=True):
    """Start a worker under this id. `call` is one that waits for it; empty if it is to be kept warm."""

    worker: str
    key: WorkerKey
    gpus: tuple[int, ...] = ()
    call: str = ""


class Stop(msgspec.Struct, frozen=True):
    """Stop a worker that is idle, or is set up for nobody; `gone` is to be told when it is."""

    worker: str
    why: str


class Refuse(msgspec.Struct, frozen=True):
    """The call cannot be made. `code` is `setup` (`why` is what the failed worker said), `resources`, `workers` or
    `session`."""

    call: str
    code: str
    why: str


class Ended(msgspec.Struct, frozen=True):
    """The session has lost its worker."""

    session: str
    worker: str


Action: TypeAlias = Assign | Start | Stop | Refuse | Ended


class Schedule(Protocol):
    """Implemented by `stepwell.engine.session`. After anything was told, `decide` says what follows from it."""

    capacity: Capacity

    @property
    def queued(self) -> int:
        """Calls that wait."""

    def add(self, waiting: Waiting, kind: Kind, now: int) -> None:
        """A call has come."""

    def remove(self, call: str) -> bool:
        """A call need not be made any more. False: it does not wait."""

    def keep_warm(self, key: WorkerKey, kind: Kind) -> None:
        """Have the least number of workers of this key from now on, whether calls come or not."""

    def set_current(self, app: tuple[str, str], reference: str) -> None:
        """Workers of other versions of the app go as soon as they have nothing to do."""

    def ready(self, worker: str, now: int) -> None:
        """A worker that was started is set up."""

    def done(self, worker: str, now: int) -> None:
        """A worker has made its calls and can be used again."""

    def failed(self, worker: str, now: int, why: str, *, told: bool) -> None:
        """A worker that was being set up is of no use. `told`: the app said why; otherwise it just died."""

    def gone(self, worker: str, now: int) -> None:
        """The process of a worker has ended, whatever it was doing."""

    def measured(self, worker: str, memory_bytes: int) -> None:
        """So much memory a worker takes."""

    def release(self, session: str, now: int) -> None:
        """A session is over; its worker, with what it remembers of it, goes."""

    def relieve(self, memory_bytes: int, now: int) -> None:
        """Memory is short: stop workers that have nothing to do, until so much is free."""

    def decide(self, now: int) -> Sequence[Action]:
        """What is to be done now."""

    def wake_at(self, now: int) -> int | None:
        """When to ask `decide` again if nothing is told before; None: never."""
