"""Importing an app: from a directory or an archive to a version of it that can be kept and run.

    directory, archive ──▶ Packages.add ──▶ manifest ──▶ Environments.prepare ──▶ describe ──▶ AppVersion
                                                                 the harness loads the app and says which functions it
                                                                 has, with the schemas of what they take and give

Importing the same content again gives the same version: its short id comes from the checksum, unless one is given.

Elsewhere: where versions are kept (`node/apps.py`), how they are run (`performer.py`).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from stepwell.apps.declared import directory_of
from stepwell.apps.environment import Environment, Environments, Progress
from stepwell.apps.isolation import Isolation
from stepwell.apps.manifest import Manifest, read_manifest
from stepwell.apps.package import Package, Packages
from stepwell.apps.process import Exit, Plan, Process, places_of
from stepwell.model.app import DEFAULT_FUNCTION, AppFunction, AppVersion, read_reference
from stepwell.model.errors import Conflict, InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import Instant
from stepwell.wire.app import Failed, FromProcess, Load, Loaded

__all__ = ["Importer", "example_input", "short_id"]

EXAMPLES = ("input.json", "example.input.json")
_SHORT_ID = re.compile(r"[a-z0-9]{4,8}")
_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_ENTRIES = {"python": ("inference.py",), "node": ("inference.js", "src/inference.js", "inference.mjs")}
_DUMMY = "not-known-while-the-app-is-imported"
_OF_GOOGLE = ("GOOGLE_OAUTH_CREDENTIALS", "GOOGLE_SA_CREDENTIALS")
# Errors of the code itself: no machine with other hardware would help.
_NO_HARDWARE = ("SyntaxError", "IndentationError", "TabError", "NameError")
_TOLD_LINES = 30


class Importer:
    """Makes versions of apps.

    Args:
        folder: Of apps in the data folder; packages, environments and the process that describes an app lie there.
        isolation: What that process is kept from.
        describe_s: How long loading an app may take.
    """

    def __init__(
        self,
        folder: Path,
        *,
        packages: Packages,
        environments: Environments,
        isolation: Isolation | None = None,
        describe_s: float = 300.0,
    ) -> None:
        self._folder = folder.absolute()
        self._packages = packages
        self._environments = environments
        self._isolation = isolation or Isolation()
        self._describe_s = describe_s

    async def import_directory(
        self, directory: Path, *, as_: str = "", version: str = "", known: Mapping[str, str] | None = None,
        own_namespace: str = "", env: str = DEV_ENV, now: Instant = 0, progress: Progress | None = None,
    ) -> AppVersion:  # fmt: skip
        """Make a version of the app in a directory, or of the one file that it is.

        Args:
            as_: `namespace/name` or `name`, in place of what the manifest says.
            version: Its short id, 4 to 8 small letters and digits; without one it comes from the checksum.
            known: Checksums of the versions that there are of this app, by short id.
            own_namespace: Where neither `as_` nor the manifest names one.
            now: When this is, in milliseconds since 1970.
            progress: Gets a line whenever something happened, warnings included.

        Raises:
            InvalidInput: It is no app, or it cannot be loaded; the message says what is wrong where.
            BuildFailed: Its environment cannot be made.
            Conflict: There is a version with this short id, made of other files.
        """
        with directory_of(directory) as found:
            await asyncio.to_thread(read_manifest, found)  # before anything is copied
            package = await asyncio.to_thread(self._packages.add, found)
        return await self._import(package, as_, version, known or {}, own_namespace, env, now, progress)

    async def import_archive(
        self, archive: BinaryIO, *, as_: str = "", version: str = "", known: Mapping[str, str] | None = None,
        own_namespace: str = "", env: str = DEV_ENV, now: Instant = 0, progress: Progress | None = None,
    ) -> AppVersion:  # fmt: skip
        """The same of a tar.gz or zip that somebody sent. `archive` can be read at any place."""
        package = await asyncio.to_thread(self._packages.add_archive, archive)
        return await self._import(package, as_, version, known or {}, own_namespace, env, now, progress)

    async def _import(
        self, package: Package, as_: str, version: str, known: Mapping[str, str], own_namespace: str, env: str,
        now: Instant, progress: Progress | None,
    ) -> AppVersion:  # fmt: skip
        def tell(line: str) -> None:
            if progress is not None:
                progress(line)

        manifest = await asyncio.to_thread(read_manifest, package.directory)
        kernel = _kernel(manifest, package.directory)
        namespace, name = _named(manifest, as_, own_namespace)
        version = _version(f"{namespace}/{name}", version, package.checksum, known)
        tell(f"{namespace}/{name}@{version}: {package.files:,} files, {package.size_bytes:,} bytes")
        for warning in manifest.warnings:
            tell(f"warning: {warning}")
        environment = await self._environments.prepare(package.directory, kernel, progress=progress)
        tell("loading the app")
        cache = self._folder / "caches" / namespace / name  # that of its workers
        loaded = await self._described(package, manifest, environment, cache, tell)
        functions = {
            function: _function(function, said, manifest.functions.get(function, ""))
            for function, said in loaded.functions.items()
        }
        return AppVersion(
            namespace=namespace,
            name=name,
            version=version,
            checksum=package.checksum,
            env=env,
            created_at=now,
            kernel=kernel,
            description=manifest.description,
            category=manifest.category,
            images=manifest.images,
            metadata=manifest.metadata,
            variables=manifest.variables,
            resources=manifest.resources,
            variants=manifest.variants,
            scaling=manifest.scaling,
            secrets=manifest.secrets,
            integrations=manifest.integrations,
            functions=functions,
            default_function=_default_function(manifest, functions),
            setup_schema=loaded.setup_schema,
            session=loaded.session,
        )

    async def _described(
        self, package: Package, manifest: Manifest, environment: Environment, cache: Path, tell: Progress
    ) -> Loaded:
        """What the app says of itself; or, if this machine cannot load it, what its committed schemas say."""
        said = await self._describe(package, manifest, environment, cache)
        if isinstance(said, Loaded):
            return said
        committed = None if said.name in _NO_HARDWARE else _committed(package.directory, tell)
        if committed is None:
            trace = f"\n{said.trace.strip()}" if said.trace else ""
            raise InvalidInput(f"{said.message}{trace}", field="app")
        tell(f"warning: {said.message.splitlines()[0]}; its functions are taken from the schemas beside it")
        return committed

    async def _describe(
        self, package: Package, manifest: Manifest, environment: Environment, cache: Path
    ) -> Loaded | Failed:
        """Load the app in a process as its workers are, and end it."""
        workers = self._folder / "workers"
        workers.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="import-", dir=workers))
        answer: asyncio.Future[Loaded | Failed] = asyncio.get_running_loop().create_future()
        printed: deque[str] = deque(maxlen=_TOLD_LINES)

        def on_frame(frame: FromProcess) -> None:
            if isinstance(frame, Loaded | Failed) and not answer.done():
                answer.set_result(frame)

        def on_exit(exit: Exit) -> None:
            if not answer.done():
                told = "\n".join(printed)
                answer.set_result(Failed(message=f"the process that loads the app {exit}", code="import", trace=told))

        plan = Plan(
            worker=folder.name,
            folder=folder,
            places=places_of(folder, package.directory, cache, environment.read),
            command=environment.command,
            isolation=self._isolation,
            programs=environment.programs,
            variables=_dummies(manifest) | manifest.variables,
        )
        process = Process(plan, on_frame=on_frame, on_line=printed.append, on_exit=on_exit)
        try:
            process.start()
        except OSError as err:
            shutil.rmtree(folder, ignore_errors=True)
            return Failed(message=f"the app cannot be loaded: {err}", code="import")
        try:
            process.send(Load(directory=str(package.directory)))
            async with asyncio.timeout(self._describe_s):
                return await answer
        except TimeoutError:
            trace = "\n".join(printed)
            return Failed(
                message=f"the app was not loaded within {self._describe_s:g} s; do less when it is imported, more in"
                " setup()", code="import", trace=trace,
            )  # fmt: skip
        finally:
            process.kill()
            await process.wait()


def short_id(checksum: str) -> str:
    """The short id of a package without a stated one: eight letters and digits of its checksum."""
    number = int(checksum[:10], 16)
    return "".join(_LETTERS[number >> 5 * place & 31] for place in range(7, -1, -1))


def example_input(directory: Path) -> Any | None:
    """The sample input that an app has beside its code: `input.json` or `example.input.json`; None if there is none."""
    for name in EXAMPLES:
        if (found := _json(directory / name)) is not None:
            return found
    return None


def _kernel(manifest: Manifest, directory: Path) -> str:
    """The kernel, and that there is an entry for it."""
    kinds = [kind for kind, names in _ENTRIES.items() if any((directory / name).is_file() for name in names)]
    if manifest.kernel == "python" and kinds == ["node"]:
        return "node"
    kind = "node" if manifest.node else "python"
    if kind not in kinds:
        raise InvalidInput(
            f"the app has no {' or '.join(_ENTRIES[kind])}, which its kernel {manifest.kernel!r} begins with",
            field=_ENTRIES[kind][0],
        )
    return manifest.kernel


def _named(manifest: Manifest, as_: str, own_namespace: str) -> tuple[str, str]:
    namespace, name = manifest.namespace or own_namespace, manifest.name
    if as_:
        reference = read_reference(as_)
        if reference.version or reference.function:
            raise InvalidInput(f"{as_!r} is not written namespace/name; the version is given apart", field="as")
        namespace, name = reference.namespace or namespace, reference.name
    if not namespace:
        raise InvalidInput(
            f"the app {name!r} is in no namespace; write one into inf.yml, or import it `--as NAMESPACE/{name}`",
            field="namespace",
        )
    return namespace, name


def _version(app: str, wanted: str, checksum: str, known: Mapping[str, str]) -> str:
    if wanted and not _SHORT_ID.fullmatch(wanted):
        raise InvalidInput(f"version {wanted!r} is not written in 4 to 8 small letters and digits", field="version")
    version = wanted or short_id(checksum)
    if known.get(version, checksum) != checksum:
        raise Conflict(
            f"{app}@{version} is there already and has other files; a version never changes, so give this one another"
            " id (`--version`)"
        )
    return version


def _dummies(manifest: Manifest) -> dict[str, str]:
    """Values for variables that apps read when they are imported. The real ones are not needed to describe an app."""
    dummies = {
        needed.key: _DUMMY for needed in (*manifest.secrets, *manifest.integrations) if needed.key.isidentifier()
    }
    if any(needed.key.startswith(("google", "gcp")) for needed in manifest.integrations):
        dummies |= dict.fromkeys(_OF_GOOGLE, "{}")
    return dummies


def _function(name: str, said: Mapping[str, Any], description: str) -> AppFunction:
    fields = {field: value for field, value in said.items() if field in AppFunction.__struct_fields__}
    fields |= {"name": name, "description": fields.get("description") or description}
    try:
        return msgspec.convert(fields, AppFunction)
    except msgspec.ValidationError as err:
        raise InvalidInput(f"function {name!r} of the app is described wrongly: {err}", field="functions") from err


def _default_function(manifest: Manifest, functions: Mapping[str, AppFunction]) -> str:
    if manifest.default_function in functions:
        return manifest.default_function
    names = ", ".join(functions)
    if not functions:
        raise InvalidInput(
            "the app has no functions: its class App needs a method such as `run` whose first parameter and return"
            " value are pydantic models", field="functions",
        )  # fmt: skip
    if manifest.default_function != DEFAULT_FUNCTION:
        raise InvalidInput(
            f"inf.yml: default_function: there is no function {manifest.default_function!r}; the app has {names}",
            field="default_function",
        )
    return next(iter(functions))


def _committed(directory: Path, tell: Progress) -> Loaded | None:
    """The functions as the schemas say that an app has beside its code; None without any."""
    functions = _json(directory / "functions_schema.json", tell)
    if functions is None:
        taken, given = (_json(directory / f"{which}_schema.json", tell) for which in ("input", "output"))
        if taken is None or given is None:
            return None
        functions = {DEFAULT_FUNCTION: {"input_schema": taken, "output_schema": given}}
    if not isinstance(functions, dict) or not all(isinstance(function, dict) for function in functions.values()):
        tell("warning: functions_schema.json is no map of functions")
        return None
    setup = _json(directory / "setup_schema.json", tell)
    return Loaded(functions=functions, setup_schema=setup if isinstance(setup, dict) else {})


def _json(file: Path, tell: Progress | None = None) -> Any | None:
    try:
        return msgspec.json.decode(file.read_bytes())
    except OSError:
        return None
    except msgspec.DecodeError as err:
        if tell is not None:
            tell(f"warning: {file.name} cannot be read: {err}")
        return None
