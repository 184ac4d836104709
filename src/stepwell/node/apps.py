"""The apps that this server keeps: what versions there are, which is current, and the functions that runs are of.

    record "app"           namespace/name            App: its versions, the current one
    record "app_version"   namespace/name@version    AppVersion, which never changes
    service                namespace/name            one function for each version: its slug is the reference

The record of the app is the truth; the service is made from it, so every node learns of an app as it learns of any
service. Who changes an app puts the next revision of its record, and begins anew if somebody was quicker.

Elsewhere: how a version comes to be (`stepwell.apps`), its runs (`tasks.py`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from stepwell.model.app import App, AppVersion, Reference, read_reference
from stepwell.model.errors import Conflict, NotFound
from stepwell.model.function import Function, Service, Transport
from stepwell.store.base import Record, RunQuery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from stepwell.node.clock import World
    from stepwell.node.registry import Registry
    from stepwell.store.base import Store

__all__ = ["APP", "CANCEL_GRACE_MS", "VERSION", "Apps"]

APP, VERSION = "app", "app_version"
"""Kinds of records."""

CANCEL_GRACE_MS = 10_000
"""How long a function of an app may take to end by itself when its task is cancelled."""

PAGE = 100


class Apps:
    """The part of a node that keeps apps.

    Args:
        register: Stores a service, and tells the other nodes of it.
        forget: Removes one.
    """

    def __init__(
        self,
        *,
        store: Store,
        world: World,
        registry: Registry,
        register: Callable[[Service], Awaitable[bool]],
        forget: Callable[[str, str], Awaitable[bool]],
        shared: bool,
    ) -> None:
        self._store = store
        self._world = world
        self._registry = registry
        self._register = register
        self._forget = forget
        self._shared = shared
        self._apps: dict[tuple[str, str], App] = {}  # not on a shared store: others change apps, too
        self._versions: dict[tuple[str, str], AppVersion] = {}
        self.others: Mapping[str, str] = {}
        """What is meant by references of apps that are not there: those of other apps."""
        self.on_changed: Callable[[App], None] = lambda app: None
        """Told of apps that were changed here."""

    # finding

    async def find(self, env: str, reference: str, own_namespace: str = "") -> tuple[App, AppVersion]:
        """The app and the version that a reference means, the current one if it names none.

        Args:
            reference: `[app/][namespace/]name[@version][:function]`; a version by its short id or its whole id.
            own_namespace: Of a reference without one.

        Raises:
            InvalidInput: That is no reference.
            NotFound: There is no such app, or no such version of it; the message says how one comes to be.
        """
        wanted = read_reference(reference)
        namespace = wanted.namespace or own_namespace
        app = await self._app(env, f"{namespace}/{wanted.name}")
        other = self.others.get(f"{namespace}/{wanted.name}")
        if app is None and other is not None:
            wanted = read_reference(other)
            app = await self._app(env, f"{wanted.namespace or own_namespace}/{wanted.name}")
        if app is None:
            raise NotFound(
                f"app {wanted.app!r} does not exist; `stepwell app deploy DIRECTORY` makes one of your own, "
                "`stepwell app import` gets one from elsewhere, and a server that is started with "
                f"--map-app {wanted.app}=NAMESPACE/NAME takes another one for it"
            )
        return app, await self._version_of(app, wanted)

    async def find_id(self, env: str, wanted: str) -> tuple[App, AppVersion]:
        """The app of that id and its current version, or the version of that id and its app. Raises `NotFound`."""
        for app in await self.list(env):
            if app.id == wanted:
                return app, await self._version_of(app, Reference(app.namespace, app.name))
            for version in app.versions:
                if _version_id(app, version) == wanted:
                    return app, await self._version_of(app, Reference(app.namespace, app.name, version))
        raise NotFound(f"no app or version of an app has the id {wanted!r}")

    async def list(self, env: str) -> tuple[App, ...]:
        """All apps of an environment, by name."""
        return tuple([msgspec.json.decode(one.value, type=App) for one in await self._records(env, APP)])

    async def versions(self, env: str, reference: str, own_namespace: str = "") -> tuple[AppVersion, ...]:
        """All versions of an app, the newest first. Raises `NotFound`."""
        app, _ = await self.find(env, reference, own_namespace)
        return tuple([await self._version_of(app, Reference(app.namespace, app.name, one)) for one in app.versions])

    # changing

    async def add(self, version: AppVersion, *, current: bool = True) -> App:
        """Keep a version, and make it the current one. Doing it again changes nothing.

        Raises:
            Conflict: There is a version of that id that was made of other files.
        """
        record = Record(
            env=version.env, kind=VERSION, key=version.reference, value=_encode(version), at=self._world.now()
        )
        if not await self._store.put_record(record):
            found = await self._store.record(version.env, VERSION, version.reference)
            known = msgspec.json.decode(found.value, type=AppVersion) if found is not None else None
            if known is None or known.checksum != version.checksum:
                raise Conflict(
                    f"{version.reference} is there already and has other files; a version never changes, "
                    "so give this one another id"
                )

        def change(app: App | None) -> App:
            now = self._world.now()
            if app is None:
                app = App(namespace=version.namespace, name=version.name, current="", env=version.env, created_at=now)
            if version.version not in app.versions:
                app = msgspec.structs.replace(app, versions=(version.version, *app.versions))
            if current or not app.current:
                app = msgspec.structs.replace(app, current=version.version)
            return msgspec.structs.replace(app, updated_at=now)

        app = await self._change(version.env, version.app, change)
        assert app is not None
        return app

    async def set_current(self, env: str, reference: str, own_namespace: str = "") -> App:
        """Make a version the one that is meant when none is named. Raises `NotFound`."""
        found, version = await self.find(env, reference, own_namespace)

        def change(app: App | None) -> App:
            if app is None or version.version not in app.versions:
                raise NotFound(f"{version.reference} was removed meanwhile")
            return msgspec.structs.replace(app, current=version.version, updated_at=self._world.now())

        app = await self._change(env, found.reference, change)
        assert app is not None
        return app

    async def set_status(self, env: str, reference: str, status: str, message: str = "") -> App:
        """Say of an app that it is `active`, in `maintenance`, `deprecated` or `retired`. Raises `NotFound`."""
        found, _ = await self.find(env, reference)

        def change(app: App | None) -> App:
            if app is None:
                raise NotFound(f"app {found.reference!r} was removed meanwhile")
            now = self._world.now()
            return msgspec.structs.replace(app, status=status, status_message=message, updated_at=now)

        app = await self._change(env, found.reference, change)
        assert app is not None
        return app

    async def remove(self, env: str, reference: str, own_namespace: str = "") -> tuple[AppVersion, ...]:
        """Remove one version if the reference names one, else the app with all its versions. Returns what went.

        Raises:
            Conflict: It is the current version, and there are others.
            NotFound: It is not there.
        """
        found, version = await self.find(env, reference, own_namespace)
        if not read_reference(reference).version:
            gone = await self.versions(env, found.reference)
            await self._change(env, found.reference, lambda _: None)
        else:
            gone = (version,)

            def change(app: App | None) -> App | None:
                left = tuple(one for one in app.versions if one != version.version) if app is not None else ()
                if app is None or not left:
                    return None
                if app.current == version.version:
                    raise Conflict(
                        f"{version.reference} is the current version; make another one current before this one goes"
                    )
                return msgspec.structs.replace(app, versions=left, updated_at=self._world.now())

            await self._change(env, found.reference, change)
        for one in gone:
            self._versions.pop((env, one.reference), None)
            await self._store.remove_record(env, VERSION, one.reference)
        return gone

    # records

    async def _app(self, env: str, name: str) -> App | None:
        app = None if self._shared else self._apps.get((env, name))
        if app is None:
            record = await self._store.record(env, APP, name) if not name.startswith("/") else None
            if record is not None:
                app = self._apps[env, name] = msgspec.json.decode(record.value, type=App)
        return app

    async def _version_of(self, app: App, wanted: Reference) -> AppVersion:
        short = wanted.version or app.current
        if short not in app.versions:
            short = next((one for one in app.versions if _version_id(app, one) == short), "")
        reference = f"{app.reference}@{short}"
        version = self._versions.get((app.env, reference))
        if version is None and short:
            record = await self._store.record(app.env, VERSION, reference)
            if record is not None:
                version = self._versions[app.env, reference] = msgspec.json.decode(record.value, type=AppVersion)
        if version is None:
            names = ", ".join(app.versions[:10])
            raise NotFound(
                f"app {app.reference!r} has no version {wanted.version or app.current!r}; it has {names}. "
                "`stepwell app deploy DIRECTORY` makes a new one"
            )
        return version

    async def _change(self, env: str, name: str, change: Callable[[App | None], App | None]) -> App | None:
        """Put what `change` makes of the app as it is, None to remove it, and register its service accordingly."""
        while True:
            record = await self._store.record(env, APP, name)
            app = change(msgspec.json.decode(record.value, type=App) if record is not None else None)
            if app is None:
                changed = record is None or await self._store.remove_record(env, APP, name, record.revision)
            else:
                revision = record.revision + 1 if record is not None else 1
                new = Record(env=env, kind=APP, key=name, value=_encode(app), revision=revision, at=self._world.now())
                changed = await self._store.put_record(new)
            if changed:
                break
        self._apps.pop((env, name), None)
        await self._serve(env, name)
        if app is not None:
            self.on_changed(app)
        return app

    async def _serve(self, env: str, name: str) -> None:
        """Have the service that an app needs. Whoever changes it meanwhile does so after us, or we do it again."""
        while True:
            record = await self._store.record(env, APP, name)
            if record is None:
                await self._retire(env, name)
            else:
                app = msgspec.json.decode(record.value, type=App)
                wanted = [Reference(app.namespace, app.name, one) for one in app.versions]
                await self._register(_service(app, [await self._version_of(app, one) for one in wanted]))
            after = await self._store.record(env, APP, name)
            if (after.revision if after is not None else 0) == (record.revision if record is not None else 0):
                return

    async def _retire(self, env: str, name: str) -> None:
        """No app needs the service any more; its functions stay, archived, while there are runs of them."""
        known = self._registry.service(env, name)
        if known is None:
            return
        if await self._store.runs(RunQuery(env=env, services=(name,), limit=1)):
            await self._register(msgspec.structs.replace(known, functions=()))
        else:
            await self._forget(env, name)

    async def _records(self, env: str, kind: str) -> tuple[Record, ...]:
        found: tuple[Record, ...] = ()
        while True:
            page = await self._store.records(env, kind, after=found[-1].key if found else None, limit=PAGE)
            found += tuple(page)
            if len(page) < PAGE:
                return found


@lru_cache(maxsize=10_000)
def package_of(config: bytes) -> str:
    """The checksum of the package of a version, by the configuration of its function."""
    found = msgspec.json.decode(config)
    return str(found.get("package", "")) if isinstance(found, dict) else ""


def _service(app: App, versions: Iterable[AppVersion]) -> Service:
    functions = tuple(
        Function(
            slug=version.reference,
            name=version.reference,
            service=app.reference,
            triggers=(),
            env=app.env,
            retries=0,
            cancel_grace_ms=CANCEL_GRACE_MS,
            config=msgspec.json.encode({"package": version.checksum}),
        )
        for version in versions
    )
    return Service(
        name=app.reference, transport=Transport.APP, env=app.env, functions=functions, app_version=app.current
    )


def _version_id(app: App, version: str) -> str:
    return AppVersion(namespace=app.namespace, name=app.name, version=version, checksum="", env=app.env).id


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)
