"""One server, from start to stop.

    port bound ─▶ store opened ─▶ node takes part ─▶ surfaces answer                              start
    new work refused ─▶ node claims nothing ─▶ calls in flight may end, for a while
        ─▶ workers are told ─▶ connections close ─▶ store closes                                  stop

Nothing is lost by stopping sooner: what was acknowledged is in the store, and what was under way is done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stepwell.api.app import application
from stepwell.api.gate import Gate, is_loopback
from stepwell.api.infsh.files import content_type_of
from stepwell.api.infsh.webhook import webhook_of
from stepwell.api.inngest.register import keep
from stepwell.api.inngest.sync import ServiceSync, discovery_ports
from stepwell.api.keys import Keys
from stepwell.api.masking import Redaction
from stepwell.api.site import Line, Site
from stepwell.engine.decide import Policy
from stepwell.gateway.download import Downloads
from stepwell.gateway.gateway import HttpGateway
from stepwell.gateway.policy import Policy as AddressPolicy
from stepwell.gateway.webhook import Hook, Webhooks
from stepwell.model.errors import ConfigurationError
from stepwell.model.function import Transport
from stepwell.node.auditor import Auditor
from stepwell.node.clock import AsyncioWorld
from stepwell.node.credentials import Credentials
from stepwell.node.files import Files
from stepwell.node.node import Node, NodeSettings
from stepwell.node.notes import Notes
from stepwell.node.retention import Retention
from stepwell.node.sweep import Sweep
from stepwell.node.watch import Watch
from stepwell.server import logs
from stepwell.server.apps import AppRuntime, isolation_of
from stepwell.server.listening import listen
from stepwell.server.performers import Performers
from stepwell.server.settings import shown
from stepwell.store.base import StoreFull, StoreUnavailable
from stepwell.store.clock import WallClock
from stepwell.store.contents import DiskContents
from stepwell.store.memory import MemoryStore
from stepwell.store.sqlite import SqliteStore
from stepwell.store.sqlite.directory import DirectoryLock
from stepwell.streams.relay import Relay
from stepwell.streams.streams import Streams
from stepwell.wire.worker import MAX_FRAME_BYTES
from stepwell.workers.http import HttpPerformer
from stepwell.workers.socket import Registered, SocketPerformer
from stepwell.workers.sync import SyncClient
from stepwell.workers.transports import Transports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from stepwell.model.dispatch import Performer
    from stepwell.model.file import Contents
    from stepwell.model.function import Function, Service
    from stepwell.server.cipher import AesCipher
    from stepwell.server.settings import ServerSettings
    from stepwell.store.base import Store
    from stepwell.store.postgres import PostgresStore

log = logging.getLogger("stepwell.server")

_CLOSE_S = 3  # for requests that are being answered
_LEAVE_S = 5  # for a store that is away
_SETTLE_S = 0.05  # for tasks of the node; what matters of them was waited for before
_NODE = "local"  # the one node of an embedded store; its epoch tells its lives apart
_MOST_NAMED = 10
_SEARCH_MS = 1_000  # how often a node of a shared store looks for what no hint told it of


class Server:
    """A node, its store and its surfaces on one port.

    Args:
        settings: Checked at `start`.
        store: Instead of the one that the settings name; opened and closed here all the same.
    """

    def __init__(self, settings: ServerSettings, *, store: Store | None = None) -> None:
        self.settings = settings
        self._given_store = store
        self._stack = contextlib.AsyncExitStack()
        self._web: _Web | None = None
        self._site: Site | None = None
        self._http: HttpPerformer | None = None
        self._gateway: HttpGateway | None = None
        self._sockets: SocketPerformer | None = None
        self._apps: AppRuntime | None = None
        self._cipher: AesCipher | None = None
        self._performers = Performers()
        self.port = settings.port
        self.place = ""
        """Where the state is, without a password; there once the server has started."""

    @property
    def url(self) -> str:
        """Where this server answers; the port is known once it has started."""
        host = self.settings.host
        if is_loopback(host) or host in {"0.0.0.0", "::"}:
            host = "localhost"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def _own_places(self) -> dict[str, str]:
        """Where functions reach this server, for models that are its own apps: as URLs say it, and with the port."""
        host = self.settings.host
        everywhere = is_loopback(host) or host in {"0.0.0.0", "::"}
        hosts = ("localhost", "127.0.0.1", "[::1]") if everywhere else (f"[{host}]" if ":" in host else host,)
        found = {f"{one}:{self.port}": f"{one}:{self.port}" for one in hosts}
        if self.settings.public_url:
            parts = urlsplit(self.settings.public_url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            found[parts.netloc.lower()] = f"{name}:{port}"
        return found

    @property
    def site(self) -> Site:
        """What the surfaces are given; there once the server has started."""
        assert self._site is not None, "the server has not started"
        return self._site

    @property
    def apps(self) -> AppRuntime:
        """What runs apps; there once the server has started."""
        assert self._apps is not None, "the server has not started"
        return self._apps

    @property
    def node(self) -> Node:
        return self.site.node

    async def start(self) -> None:
        """Be ready to answer on return.

        Raises:
            ConfigurationError: The settings cannot work, the port or the data folder is in use.
        """
        settings = self.settings
        settings.check()
        self._cipher = settings.cipher()
        if settings.manage_logging:
            keys = (settings.signing_key, settings.signing_key_fallback, *settings.event_keys)
            hidden = (*keys, settings.secret_key, settings.secret_key_fallback)
            logs.set_up(as_json=settings.log_json, secrets=hidden)
        async with contextlib.AsyncExitStack() as stack:
            sockets = listen(settings.host, settings.port, beside_others=settings.beside_others)
            for one in sockets:
                stack.callback(one.close)
            self.port = sockets[0].getsockname()[1]
            store = self._given_store or _store(settings)
            self.place = str(getattr(store, "address", settings.data))
            await store.open()
            stack.push_async_callback(store.close)
            site = await self._assemble(store, stack)
            self._site = site
            await self._answer(application(site), sockets, stack)
            await self._ask_services(site, stack)
            self._stack = stack.pop_all()
        if settings.manage_logging:
            logs.name_node(site.node.name)
        self._tell("started", url=self.url, version=site.version)
        if settings.unsafe_no_auth and not is_loopback(settings.host) and settings.signing_key is None:
            log.warning("this server can be reached from other machines and asks for no key (--unsafe-no-auth)")

    async def stop(self) -> None:
        """Stop in order; on return everything is closed. May be called again."""
        site = self._site
        if site is not None and not site.closing:
            self._tell("stopping; what is in flight may still finish")
            began = time.monotonic()
            site.closing = True
            site.node.drain()
            self._performers.drain()
            if self._gateway is not None:
                self._gateway.drain()
            if self._sockets is not None:
                self._sockets.drain()
            if self._apps is not None:
                self._apps.performer.drain()
            site.watch.close()
            await self._drain()
            site.node.stop()
            await self._performers.close()
            if self._gateway is not None:
                await self._gateway.close()
            with contextlib.suppress(StoreFull, StoreUnavailable, TimeoutError):  # then others wait for the lease
                async with asyncio.timeout(_LEAVE_S):
                    await self._performers.give_back(site.node.store)
                    if self._gateway is not None and self._gateway.held_back:
                        await site.node.store.release(self._gateway.held_back)
                    if site.node.shared and not site.node.cut_off:
                        await site.node.leave()
            await self._stack.aclose()
            self._tell("stopped", duration_ms=round((time.monotonic() - began) * 1000))
        await self._stack.aclose()

    def _tell(self, what: str, **about: object) -> None:
        """A line of this server's life; people at a terminal are told otherwise."""
        log.log(logging.INFO if self.settings.log_json else logging.DEBUG, what, extra=about)

    async def serve(self) -> None:
        """Start, answer until SIGTERM or SIGINT, stop."""
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, asked.set)
        await self.start()
        spare_collector()
        try:
            await asked.wait()
        finally:
            await self.stop()

    async def _assemble(self, store: Store, stack: contextlib.AsyncExitStack) -> Site:
        settings = self.settings
        world = AsyncioWorld()
        performers = self._performers
        limits = settings.gateway
        limits = replace(limits, allow_loopback=limits.allow_loopback or settings.dev)
        streams = Streams(settings.streams)
        if settings.db is not None:
            await _join(streams, settings.db_listen or settings.db, stack)
        credentials = Credentials(store, self._cipher)
        own = self._own_places()
        gateway = self._gateway = HttpGateway(
            performers.deliver,
            replace(
                limits,
                allow_addresses=(*limits.allow_addresses, *own.values()),
                idempotency_headers={**limits.idempotency_headers, **dict.fromkeys(own, "Idempotency-Key")},
            ),
            publisher=streams,
            find=credentials.opened,
            cipher=self._cipher,
            seal=settings.seal_credentials,
        )
        node = Node(
            _node_name() if store.shared else _NODE,
            epoch=time.time_ns() // 1_000_000,
            store=store,
            world=world,
            performer=performers,
            gateway=gateway,
            settings=NodeSettings(
                policy=Policy(retry_interval_ms=settings.retry_interval_ms),
                lease_ms=settings.lease_ms,
                search_ms=_SEARCH_MS if store.shared else None,
                cached_runs=settings.cached_runs,
            ),
            reach=performers,
            credentials=credentials,
        )
        signing = [key for key in (settings.signing_key, settings.signing_key_fallback) if key is not None]
        watch = Watch()
        node.turns.watch = watch.moved
        node.watch = watch
        site = Site(
            node=node,
            keys=Keys(signing=signing, events=settings.event_keys, events_required=not settings.dev),
            gate=Gate(
                open=not signing,
                bound=settings.host,
                names=settings.allowed_hosts,
                origins=settings.allowed_origins,
            ),
            watch=watch,
            sweep=Sweep(node),
            streams=streams,
            redaction=Redaction(settings.redact),
            kind="dev" if settings.dev else "cloud",
            version=version(),
            limits=settings.limits,
            started_options={"sdkURLs": list(settings.service_urls), "pollInterval": settings.poll_interval_s},
        )
        self._http = HttpPerformer(
            performers.deliver,
            signing_key=settings.signing_key,
            server_kind=site.kind,
            addresses=settings.addresses(),
        )
        site.refusal = self._http.refusal
        sockets = self._sockets = SocketPerformer(
            performers.deliver,
            _registering(site),
            server=f"stepwell:v{site.version}",
            node=node.name,
            on_log=performers.on_log,
            on_taken=performers.on_taken,
            on_room=node.room,
            shared=node.shared,
        )

        def transport_of(function: Function) -> Transport:
            service = node.registry.service(function.env, function.service)
            return service.transport if service is not None else Transport.HTTP

        def taken_at_once(function: Function) -> bool:
            return transport_of(function) is not Transport.SOCKET

        async def hook_of(env: str, task: str) -> Hook | None:
            found = await webhook_of(site, env, task)
            return Hook(*found) if found is not None else None

        addresses = AddressPolicy(limits.allow_addresses, loopback=limits.allow_loopback)
        webhooks = Webhooks(performers.deliver, hook_of, addresses, settings.signing_key)
        by_transport: dict[Transport, Performer] = {
            Transport.HTTP: self._http,
            Transport.SOCKET: sockets,
            Transport.LOCAL: webhooks,
        }
        runtime = self._apps = AppRuntime(settings, site, performers, await isolation_of(settings.apps))
        by_transport[Transport.APP] = runtime.performer
        transports = Transports(by_transport, transport_of)
        performers.connect(
            transports,
            node.deliver,
            taken_at_once,
            Notes(node.turns, world),
            reach=sockets,
            shared=node.shared,
        )
        site.connect = sockets.connect
        site.settings = shown(settings)

        def lines() -> list[Line]:
            known = [one for one in node.registry.services() if one.transport is Transport.SOCKET]
            return [
                Line(one.name, len(sockets.workers(one.env, one.name)), sockets.waiting(one.env, one.name))
                for one in known
            ]

        site.lines = lines
        site.running = performers.running
        auditor = site.auditor = Auditor(store, world)
        retention = site.retention = Retention(store, node.world, node.name, settings.keep)
        await self._keep_files(site, stack)
        stack.push_async_callback(runtime.close)
        # Closed in reverse: performers first, so that what they had to say is committed before tasks are ended.
        stack.push_async_callback(world.settle, _SETTLE_S)
        stack.push_async_callback(performers.close)
        stack.push_async_callback(gateway.close)
        await node.start()
        stack.callback(node.stop)
        await runtime.open()
        await _tell_unusable(credentials, site.env)
        world.spawn(auditor.run())
        stack.callback(auditor.stop)
        world.spawn(retention.run())
        stack.callback(retention.stop)
        return site

    async def _keep_files(self, site: Site, stack: contextlib.AsyncExitStack) -> None:
        settings, node = self.settings, site.node
        contents = _contents(settings)
        stack.push_async_callback(contents.close)
        files = site.files = Files(
            store=node.store,
            world=node.world,
            contents=contents,
            new_id=node.new_key,
            limit_bytes=settings.limits.max_file_bytes,
            base=settings.public_url or self.url,
            type_of=content_type_of,
            keep_ms=settings.keep.files_ms,
        )
        await files.open()
        node.world.spawn(files.run())
        stack.callback(files.stop)
        limits = settings.gateway
        downloads = Downloads(AddressPolicy(limits.allow_addresses, loopback=limits.allow_loopback or settings.dev))
        stack.push_async_callback(downloads.close)
        site.fetch_file = downloads.open
        site.public_url = settings.public_url or ""

    async def _answer(
        self, app: Callable[..., Awaitable[None]], sockets: list[socket.socket], stack: contextlib.AsyncExitStack
    ) -> None:
        config = uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(_Protocol, headers_s=self.settings.limits.headers_s)),
            ws="websockets-sansio",
            ws_max_size=MAX_FRAME_BYTES,
            ws_per_message_deflate=False,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_CLOSE_S,
        )
        web = self._web = _Web(config)
        serving = asyncio.create_task(web.serve(sockets), name="http server")
        ready = asyncio.create_task(web.ready.wait())
        await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            ready.cancel()
            serving.result()
            raise ConfigurationError("the HTTP server could not start; its log says why")

        async def close() -> None:
            web.end()
            await serving

        stack.push_async_callback(close)

    async def _ask_services(self, site: Site, stack: contextlib.AsyncExitStack) -> None:
        """Begin to ask services to register; they answer to the port that is open by now."""
        settings = self.settings
        client = SyncClient(signing_key=settings.signing_key, server_kind=site.kind, addresses=settings.addresses())
        stack.push_async_callback(client.close)
        sync = site.sync = ServiceSync(
            site,
            client,
            named=settings.service_urls,
            poll=settings.poll,
            interval_s=settings.poll_interval_s,
            ports=discovery_ports() if settings.discovery else (),
            own_ports=(self.port,),
        )
        asking = asyncio.create_task(sync.run(), name="asking services")

        async def end() -> None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        stack.push_async_callback(end)

    async def _drain(self) -> None:
        """Let calls in flight end and commit, as long as the settings allow and there is a store to commit to."""
        deadline = time.monotonic() + self.settings.drain_limit_s
        while self._in_flight() and time.monotonic() < deadline and not self.node.cut_off:  # noqa: ASYNC110 - briefly
            await asyncio.sleep(0.02)

    def _in_flight(self) -> int:
        calls = self._http.in_flight if self._http is not None else 0
        live = self._sockets.in_flight if self._sockets is not None else 0
        requests = self._gateway.in_flight if self._gateway is not None else 0
        tasks = self._apps.performer.in_flight if self._apps is not None else 0
        return calls + live + requests + tasks + self.node.turns.busy


async def _join(streams: Streams, url: str, stack: contextlib.AsyncExitStack) -> None:
    """Let those who subscribe here read what other servers of the database publish, and the other way round."""
    from stepwell.store.postgres.mail import PostgresMail

    mail = PostgresMail(url)
    stack.push_async_callback(mail.close)
    stack.callback(Relay(streams, mail).close)


class _Protocol(HttpToolsProtocol):
    """No access log, whoever listens: addresses hold event keys. Who says nothing is disconnected after `headers_s`."""

    def __init__(self, *args: Any, headers_s: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self.access_log = False
        self.logger.addFilter(_meant)
        self._headers_s = headers_s
        self._too_late: asyncio.TimerHandle | None = None
        self._within_headers = False
        self._upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._expect_headers(expected=True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: Any = self.cycle  # None before the first request
        idle = cycle is None or cycle.response_complete
        self._expect_headers(expected=(idle or self._within_headers) and not self._upgraded)

    def on_message_begin(self) -> None:
        self._within_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._within_headers = False
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        self._upgraded = True
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_headers(expected=False)
        super().connection_lost(exc)

    def _expect_headers(self, *, expected: bool) -> None:
        if not expected and self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None
        elif expected and self._too_late is None and not self.transport.is_closing():
            self._too_late = self.loop.call_later(self._headers_s, self.transport.close)


def _meant(record: logging.LogRecord) -> bool:
    """Leaves out that an answer was broken off: who reads a stream to its end is told that way that it has none."""
    return "without completing response" not in str(record.msg)


class _Web(uvicorn.Server):
    """uvicorn without its signal handlers: who stops this server is decided elsewhere."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._asked = asyncio.Event()

    def end(self) -> None:
        """Stop soon."""
        self.should_exit = True
        self._asked.set()

    async def main_loop(self) -> None:
        """Once a second for the Date header, and not ten times to see whether it is over."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), 1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def serve(settings: ServerSettings) -> None:
    """Run a server in this process until it is told to stop."""
    import uvloop

    uvloop.run(Server(settings).serve())


def spare_collector() -> None:
    """Tell the garbage collector that what is loaded by now stays; for a process that does nothing but serve.

    A full collection goes through every module there is and takes 40 ms, in which no step is acknowledged. A small one
    for every 700 new objects finds next to nothing, since nearly all of ours are freed without it; together they take
    a tenth of a busy server's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def version() -> str:
    """The installed version of Stepwell."""
    try:
        return package_version("stepwell")
    except PackageNotFoundError:
        return "0.0.0"


async def _tell_unusable(credentials: Credentials, env: str) -> None:
    unusable = [one for one in await credentials.all(env) if not credentials.usable(one)]
    if unusable:
        names = ", ".join(one.name for one in unusable[:_MOST_NAMED])
        more = f" and {len(unusable) - _MOST_NAMED} more" if len(unusable) > _MOST_NAMED else ""
        why = "was not started with the key that seals them" if credentials.key else "was started without a secret key"
        log.warning("the credentials %s%s cannot be used: this server %s (STEPWELL_SECRET_KEY)", names, more, why)


def _registering(site: Site) -> Callable[[Service], Awaitable[Registered]]:
    async def register(service: Service) -> Registered:
        return Registered(modified=await keep(site, service, ()))

    return register


def _node_name() -> str:
    """A name that no other process has, on whatever machine."""
    return f"{socket.gethostname()[:100]}-{os.getpid()}-{secrets.token_hex(4)}"


def _store(settings: ServerSettings) -> Store:
    if settings.db is not None:
        return postgres_store(settings.db, settings.db_listen)
    if settings.data is None:
        return MemoryStore(WallClock())
    if settings.fresh:
        _forget(settings.data)
    return SqliteStore(settings.data)


def postgres_store(url: str, listen_url: str | None = None) -> PostgresStore:
    """Raises `ConfigurationError` when the driver is not installed or the URL cannot be read."""
    try:
        from stepwell.store.postgres import PostgresStore
    except ModuleNotFoundError as err:
        if err.name != "asyncpg":
            raise
        raise ConfigurationError('a PostgreSQL database needs its driver: pip install "stepwell[postgres]"') from None
    return PostgresStore(url, listen_url=listen_url)


def _contents(settings: ServerSettings) -> Contents:
    folder = Path(tempfile.gettempdir(), f"stepwell-{secrets.token_hex(8)}")
    if settings.data is not None:
        folder = settings.data / "files"
    if settings.files is None:
        return DiskContents(folder, temporary=settings.data is None)
    try:
        from stepwell.store.contents_s3 import ObjectContents
    except ModuleNotFoundError as err:
        if err.name != "obstore":
            raise
        raise ConfigurationError('files in an object store need its driver: pip install "stepwell[s3]"') from None
    return ObjectContents(settings.files, folder / "tmp")


def _forget(data: Path) -> None:
    """Remove the state in a data folder, and nothing else that may lie there."""
    if not data.is_dir():
        return
    lock = DirectoryLock(data)
    lock.take()  # not under the feet of a running server
    try:
        for name in ("stepwell.db", "stepwell.db-wal", "stepwell.db-shm"):
            (data / name).unlink(missing_ok=True)
        for name in ("blobs", "files"):
            shutil.rmtree(data / name, ignore_errors=True)
    finally:
        lock.drop()
