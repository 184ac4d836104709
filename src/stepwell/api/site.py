"""What every surface is given: the node it asks, the keys it checks, the limits it keeps to.

One `Site` serves all surfaces of a process. It holds no state of a run; what is counted here (bodies in progress,
refusals by reason) is about this process alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Protocol

from stepwell.api.body import Bodies, Limits
from stepwell.api.keys import Refusals
from stepwell.api.lookups import Lookups
from stepwell.api.masking import NOTHING_HIDDEN
from stepwell.model.event import DEV_ENV
from stepwell.node.reads.runs import nobody_knows
from stepwell.streams.streams import Streams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from stepwell.api.gate import Gate
    from stepwell.api.keys import Keys
    from stepwell.api.masking import Redaction
    from stepwell.model.app import AppVersion
    from stepwell.model.ids import Instant
    from stepwell.node.auditor import Auditor
    from stepwell.node.files import Files
    from stepwell.node.node import Node
    from stepwell.node.reads.runs import Running
    from stepwell.node.retention import Retention
    from stepwell.node.sweep import Sweep
    from stepwell.node.watch import Watch


DEFAULT_NAMESPACE = "local"
"""Of apps that say of none."""


class Connection(Protocol):
    """One worker's connection, without its socket. See `stepwell.workers.connection`."""

    async def run(self) -> None:
        """Write what there is to write until the connection is over."""

    async def receive(self, data: bytes) -> None: ...

    def lost(self) -> None: ...


class Connect(Protocol):
    """Makes a connection of a socket that was accepted: `send` writes a frame, `close` closes with code and reason."""

    def __call__(
        self, send: Callable[[bytes], Awaitable[None]], close: Callable[[int, str], Awaitable[None]], /
    ) -> Connection: ...


class SyncControl(Protocol):
    """What is known about services that have not registered, or cannot be reached."""

    def targets(self) -> Sequence[Mapping[str, object]]: ...

    def registered(self, url: str) -> None:
        """A service just registered with that URL."""

    def refused(self, url: str, reason: str, text: str) -> None:
        """A registration was refused; its URL is empty when it could not be read."""

    async def ask(self, url: str) -> None:
        """Ask the service at a URL to register now. Raises `StepwellError`."""

    def forget(self, url: str) -> bool:
        """Stop asking at that URL. False: it was not asked."""


class AppImporter(Protocol):
    """Makes a version of an app of an archive. See `stepwell.apps.importing`."""

    async def import_archive(
        self,
        archive: BinaryIO,
        *,
        as_: str,
        version: str,
        own_namespace: str,
        env: str,
        now: Instant,
        progress: Callable[[str], None],
    ) -> AppVersion:
        """Raises `StepwellError` that says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class AppWorker:
    """A worker of an app: a process, or one that is to become one. `tasks`: calls that it made."""

    id: str
    app: str  # reference of the version
    state: str  # `starting`, `idle`, `busy` or `stopping`
    pid: int
    session: str
    memory_bytes: int
    tasks: int
    gpus: tuple[int, ...]
    since: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFigures:
    """What the apps of this server are doing. `ended`: calls since the start, by app and how they ended."""

    isolation: str
    workers: Sequence[AppWorker] = ()
    waiting: int = 0
    started: int = 0
    ended: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """The line before the workers of a service: how many are connected here, and calls that wait for one."""

    service: str
    workers: int
    waiting: int


class Neighbours(Protocol):
    """`stepwell.server.neighbours.Neighbours`."""

    @property
    def name(self) -> str: ...

    async def ask(self) -> Mapping[str, bytes]: ...


class Fetched(Protocol):
    """A file that comes from elsewhere."""

    @property
    def content_type(self) -> str: ...

    @property
    def pieces(self) -> AsyncIterator[bytes]: ...


async def nothing_refused(urls: Iterable[str]) -> str:
    return ""


def nobody_in_line() -> Sequence[Line]:
    return ()


@dataclass(slots=True, kw_only=True)
class Site:
    """The surroundings of every surface.

    `kind` is what SDKs are told: `dev` or `cloud`. `connect`, `sync`, `auditor`, `retention` and `files` are None in a
    server that is put together without that part, and so is `neighbours` where no other process shares the port.
    So is `importer` in one that runs no apps. `running` knows the calls that are being answered right now. Apps that
    are named without a namespace are in `namespace`, and may have the secrets that `app_secrets` names; a
    GPU that they use costs `gpu_second_usd` a second, if that is known. `refusal` says
    why one of the URLs may not be called. Addresses of files begin with `public_url`, or as the client asked.
    """

    node: Node
    keys: Keys
    gate: Gate
    watch: Watch
    sweep: Sweep
    streams: Streams = field(default_factory=Streams)
    kind: str = "dev"
    version: str = ""
    env: str = DEV_ENV
    namespace: str = DEFAULT_NAMESPACE
    app_secrets: frozenset[str] = frozenset()
    gpu_second_usd: float | None = None
    limits: Limits = field(default_factory=Limits)
    started_options: Mapping[str, object] = field(default_factory=dict)
    importer: AppImporter | None = None
    connect: Connect | None = None
    running: Running = nobody_knows
    refusal: Callable[[Iterable[str]], Awaitable[str]] = nothing_refused
    sync: SyncControl | None = None
    auditor: Auditor | None = None
    retention: Retention | None = None
    files: Files | None = None
    fetch_file: Callable[[str], AbstractAsyncContextManager[Fetched]] | None = None
    public_url: str = ""
    neighbours: Neighbours | None = None
    lines: Callable[[], Sequence[Line]] = nobody_in_line
    app_figures: Callable[[], AppFigures] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    redaction: Redaction = NOTHING_HIDDEN
    began: float = field(default_factory=time.monotonic)
    registering: asyncio.Lock = field(default_factory=asyncio.Lock)  # one change of a service after the other
    sending_states: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(16))  # of runs, to SDKs
    closing: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)  # why registrations are, by their URL
    told: set[tuple[str, str]] = field(default_factory=set)  # of events: name and unknown field; "" for rounded numbers
    refusals: Refusals = field(default_factory=Refusals)
    bodies: Bodies = field(init=False)
    lookups: Lookups = field(init=False)

    def __post_init__(self) -> None:
        self.bodies = Bodies(self.limits)
        self.lookups = Lookups(self.streams)

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self.began

    @property
    def state(self) -> str:
        """`ready`, `stopping`, `cut off` from the store, or `lost`: others have taken this node's place."""
        if self.closing:
            return "stopping"
        if self.node.stopped:
            return "lost"
        return "cut off" if self.node.cut_off else "ready"
