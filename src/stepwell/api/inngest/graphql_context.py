"""What resolvers share during one request: the node, and what was read already.

Sources of fields are small views over rows, so that a list is cheap and a journal is read only for a field that
needs it, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from stepwell.api.masking import NOTHING_HIDDEN
from stepwell.model.errors import StepwellError
from stepwell.model.function import Function, Service, Transport
from stepwell.node.reads import events, functions, payloads, runs, services

if TYPE_CHECKING:
    from graphql import GraphQLResolveInfo

    from stepwell.api.masking import Redaction
    from stepwell.model.event import Event
    from stepwell.model.ids import Instant, RunId
    from stepwell.model.job import RunRow
    from stepwell.model.payload import Payload
    from stepwell.node.node import Node

T = TypeVar("T")

SyncApp: TypeAlias = Callable[[str], Awaitable[object]]
"""Asks the service at a URL for its functions, and returns once they are registered. Raises `StepwellError`."""
Resolver: TypeAlias = "Callable[..., Any]"
"""Called as `resolver(source, context, **arguments)`; may be a coroutine."""
Resolvers: TypeAlias = Mapping[str, Mapping[str, Resolver]]
"""Type, field, resolver. A field without one is the attribute or the member of that name."""


class NotSupportedYet(StepwellError):
    """A part of the protocol that this server does not have."""

    code = "NOT_SUPPORTED"
    http_status = 501


class Context:
    def __init__(
        self,
        node: Node,
        env: str,
        sync: SyncApp | None,
        running: runs.Running,
        redaction: Redaction = NOTHING_HIDDEN,
    ) -> None:
        self.node = node
        self.env = env
        self.sync = sync
        self.running = running
        self.redaction = redaction
        self._read: dict[object, asyncio.Task[Any]] = {}

    @property
    def store(self) -> runs.Store:
        return self.node.store

    @property
    def now(self) -> Instant:
        return self.node.world.now()

    async def once(self, key: object, read: Callable[[], Awaitable[T]]) -> T:
        """Read something at most once in a request, also when fields ask for it side by side."""
        task = self._read.get(key)
        if task is None:
            task = self._read[key] = asyncio.ensure_future(_coroutine(read))
        found: T = await asyncio.shield(task)
        return found

    def was_read(self, run: str) -> bool:
        """Whether the journal of a run was asked for in this request."""
        return ("run", run) in self._read

    async def text(self, payload: Payload | None) -> str | None:
        """The JSON text of a payload, as it is shown."""
        text = self.redaction.shown(await payloads.text_of(self.store, payload))
        return text.decode() if text is not None else None

    async def stored(self, run: str) -> runs.StoredRun | None:
        """The row and journal of a run, of one moment for the whole request."""
        return await self.once(("run", run), lambda: runs.load_run(self.store, self.env, run))

    async def trace(self, run: RunId) -> runs.Trace | None:
        stored = await self.stored(run)
        if stored is None:
            return None
        return await self.once(("trace", run), lambda: runs.trace_stored(self.store, stored, self.running))

    async def started_by(self, event: Event) -> tuple[RunRow, ...]:
        return await self.once(("runs", event.key), lambda: events.runs_of_event(self.store, self.node.registry, event))

    async def event_text(self, event: Event) -> str:
        """The JSON text of an event, as it is shown."""
        return self.shown(await events.event_text(self.store, event))

    def shown(self, text: bytes) -> str:
        """A JSON text without what the server's rules hide."""
        return (self.redaction.shown(text) or text).decode()

    def function(self, slug: str, service: str = "") -> Function:
        """A function; one that nobody serves any more has only its name."""
        found = functions.find_function(self.node.registry, slug, self.env)
        return found or Function(slug=slug, name=slug, service=service, triggers=(), env=self.env, archived=True)

    def service(self, name: str) -> services.ServiceView:
        """A service; one that is gone has only its name."""
        found = services.find_service(self.node.registry, name, self.env)
        return found or services.ServiceView(Service(name=name, transport=Transport.HTTP, env=self.env), ())


async def _coroutine(read: Callable[[], Awaitable[T]]) -> T:
    return await read()


def adapted(resolver: Resolver) -> Callable[..., Any]:
    """A resolver as the library calls it."""

    def resolve(source: Any, info: GraphQLResolveInfo[Context], **arguments: Any) -> Any:
        return resolver(source, info.context, **arguments)

    return resolve
