"""Running apps in a server: what `stepwell.apps` needs of the node, the files and the settings, put together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell.api.site import AppFigures, AppWorker
from stepwell.apps.environment import Environments
from stepwell.apps.gpus import gpus
from stepwell.apps.importing import Importer
from stepwell.apps.isolation import find_isolation
from stepwell.apps.performer import AppPerformer
from stepwell.apps.pool import Pool, machine_memory, new_worker_id
from stepwell.engine.session import Placement, Rules
from stepwell.model.errors import StepwellError
from stepwell.model.file import FileRecord
from stepwell.model.placement import Capacity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.api.site import Site
    from stepwell.apps.isolation import Isolation
    from stepwell.apps.settings import AppSettings
    from stepwell.model.app import App, AppVersion
    from stepwell.model.ids import RunId
    from stepwell.server.performers import Performers
    from stepwell.server.settings import ServerSettings

log = logging.getLogger("stepwell.apps")

_PIECE_BYTES = 1024 * 1024

_found = functools.cache(find_isolation)


class AppRuntime:
    """The apps of a server: `performer` makes their calls.

    Apps are imported with the same packages, environments and isolation.
    """

    def __init__(self, settings: ServerSettings, site: Site, performers: Performers, isolation: Isolation) -> None:
        self._site = site
        own = settings.apps
        self._temporary = settings.data is None
        if settings.data is None:
            self.folder = Path(tempfile.gettempdir(), f"stepwell-{secrets.token_hex(8)}", "apps")
        else:
            self.folder = settings.data.absolute() / "apps"
        self.isolation = isolation
        memory = own.memory_bytes if own.memory_bytes is not None else machine_memory()
        rules = Rules(
            idle_ms=round(own.idle_s * 1000), most=own.workers_per_app, wait_for_resources=own.wait_for_resources
        )
        capacity = Capacity(workers=own.workers, cpus=os.cpu_count() or 1, memory_bytes=memory, gpus=gpus())
        self.environments = Environments(self.folder / "environments", own.environments, isolation)
        self.pool = Pool(
            self.folder,
            own,
            Placement(capacity, rules, new_worker_id),
            environments=self.environments,
            isolation=isolation,
            secrets=settings.app_secrets,
            sessions=site.node.sessions,
        )
        self.packages = self.pool.packages
        site.node.call_apps(lambda checksum: self.packages.find(checksum) is not None)
        self.performer = AppPerformer(
            self.pool,
            performers.deliver,
            publisher=site.streams,
            find=self._find,
            watcher=performers,
            keep_output=self._keep_output,
        )
        site.node.sessions.on_over = self.performer.release_session
        site.app_secrets = frozenset(settings.app_secrets)
        site.node.apps.others = settings.map_apps
        site.gpu_second_usd = settings.gpu_second_usd
        site.app_figures = self._figures
        site.node.apps.on_changed = self._changed
        self.importer = Importer(
            self.folder, packages=self.packages, environments=self.environments, isolation=isolation
        )
        site.importer = self.importer

    async def open(self) -> None:
        """End what a killed server left, and start the workers that are to be kept warm."""
        await self.pool.open()
        found = ", ".join(gpu.name or gpu.type for gpu in self.pool.schedule.capacity.gpus)
        log.debug("apps are isolated by: %s; GPUs: %s", self.isolation.described(), found or "none")
        apps = self._site.node.apps
        for env in self._site.node.registry.envs_with_apps():
            for app in await apps.list(env):
                self.performer.know(*await apps.find(env, app.reference))

    async def close(self) -> None:
        await self.performer.close()
        if self._temporary:
            await asyncio.to_thread(_remove, self.folder.parent)

    def _changed(self, app: App) -> None:
        self._site.node.world.spawn(self._know(app))

    async def _know(self, app: App) -> None:
        with contextlib.suppress(StepwellError):  # it was removed meanwhile
            self.performer.know(*await self._site.node.apps.find(app.env, app.reference))

    async def _find(self, env: str, reference: str) -> tuple[App, AppVersion]:
        return await self._site.node.apps.find(env, reference)

    async def _keep_output(self, path: str, filename: str, content_type: str, task: RunId, env: str, /) -> str:
        files = self._site.files
        assert files is not None, "a server that runs apps keeps files"
        record = FileRecord(id="", env=env, filename=filename, content_type=content_type, task=task, role="output")
        return files.uri(await files.store_bytes(record, _pieces(path)))

    def _figures(self) -> AppFigures:
        return AppFigures(
            isolation=self.isolation.described(),
            workers=[
                AppWorker(
                    one.id, one.app, one.state, one.pid, one.session, one.memory_bytes, one.tasks, one.gpus, one.since
                )
                for one in self.pool.workers()
            ],
            waiting=self.performer.waiting,
            started=self.pool.started,
            ended=dict(self.performer.ended_calls),
        )


async def isolation_of(settings: AppSettings) -> Isolation:
    """What this machine allows; tried once in the life of this process. Raises `ConfigurationError`."""
    return await asyncio.to_thread(_found, settings.isolation, settings.read_paths)


async def _pieces(path: str) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(open, path, "rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield piece


def _remove(folder: Path) -> None:
    """Remove a folder with packages in it, which may not be changed."""
    for place in [folder, *folder.rglob("*")]:
        if place.is_dir() and not place.is_symlink():
            place.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
