"""The environment that an app runs in: a virtual environment made by `uv`, or the packages of `npm`.

There is one per interpreter and requirements, shared by every app that asks for the same, and made when it is first
needed. It is made at its place, where the last thing written is the file that says that it is finished: one without it
is the remains of a build that was killed, and is made again.

    <folder>/<key>/             the environment
    <folder>/<key>/ready.json   when it was made and of what; touched whenever it is used
    <folder>/<key>.lock         held alone by who builds or removes it, together by those who use it

Requirements are taken as they are written but for one: `inferencesh`, which apps name by any version and often by a
place in git, is replaced by what the index has, or by what `EnvironmentSettings.substitutes` says.

Packages may run code while they are built or installed. It is confined as the processes of apps are: it reads its own
files and what the tools need, and changes nothing but the environment and their caches.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import IO, TypeAlias

import msgspec

from stepwell.apps.declared import ENTRY, read_declared
from stepwell.apps.isolation import LAUNCH, Isolation, Places
from stepwell.model.errors import BuildFailed, ConfigurationError, InvalidInput

__all__ = ["Environment", "EnvironmentSettings", "Environments", "KeptEnvironment", "Progress"]

Progress: TypeAlias = Callable[[str], None]
"""Gets a line of text whenever something happened."""

READY = "ready.json"
_HARNESS = Path(__file__).with_name("harness")
_BASE = Path(__file__).with_name("base.py")  # `stepwell.apps` where stepwell is not installed
HARNESS_NEEDS = ("msgpack",)
BASE_NEEDS = ("pydantic>=2",)
OLDEST_PYTHON = (3, 10)
_FORMAT = 1
_TOLD_LINES = 25
_PASSED_ON = frozenset(
    "PATH HOME USER LANG LANGUAGE TMPDIR SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE"
    " NODE_EXTRA_CA_CERTS SSH_AUTH_SOCK CC CXX CFLAGS CXXFLAGS LDFLAGS CUDA_HOME LD_LIBRARY_PATH".split()
)
_PASSED_ON_STARTS = ("UV_", "PIP_", "NPM_CONFIG_", "LC_", "XDG_", "GIT_")
_PASSED_ON_ENDS = ("_PROXY",)
_CONFIGURATION = (".config/uv", ".config/git", ".gitconfig", ".git-credentials", ".netrc", ".npmrc", ".local/share/uv")
_SCRATCH = ".build"
_FILE_URL = re.compile(r'"file:([^"]+)"')
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*(.*)")
_SDK = re.compile(r"egg=inferencesh\b|/inferencesh-\d|inference[-_]?sh/(sdk-py|inferencesh|python-sdk)", re.IGNORECASE)
_FILE_OPTION = re.compile(r"(-r|-c|-e|-f|--requirement|--constraint|--editable|--find-links)(?:\s+|=|(?=[^\s=-]))(.+)")


@dataclass(frozen=True, slots=True)
class EnvironmentSettings:
    """How environments are made. Where packages come from is uv's own setting: `UV_DEFAULT_INDEX`, `uv.toml`."""

    find_links: tuple[str, ...] = ()
    """Further folders or pages with packages."""
    offline: bool = False
    """Only what is in `find_links`, or in uv's cache; nothing is fetched."""
    substitutes: Mapping[str, str] = field(default_factory=dict)
    """Requirements by name of package, in place of what an app says of it: `{"inferencesh": "inferencesh==0.36.0"}`."""
    python_downloads: bool = False
    """Let uv fetch a version of Python that is not installed."""
    build_timeout_s: float = 3600.0
    """How long one run of `uv` or `npm` may take."""
    node: str = "node"
    """The program that runs apps in JavaScript; `npm` is looked for beside it and in the path."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment that is there."""

    key: str
    directory: Path
    executable: Path
    """What runs the app: `python` of the virtual environment, or `node`."""
    programs: Path
    """Goes first in the path of its processes."""
    version: str
    """Of Python or Node: `3.11.7`."""
    warnings: tuple[str, ...] = ()
    """What the app asks for and this machine has not: sentences for people."""
    read: tuple[Path, ...] = ()
    """Folders that its processes read: this one, those of the interpreter and of the harness."""

    @property
    def command(self) -> tuple[str, ...]:
        """What runs the app: the harness, which wants the number of its socket."""
        program = "harness.mjs" if self.executable.name.startswith("node") else "harness.py"
        return str(self.executable), str(_HARNESS / program)

    def hold(self) -> IO[bytes]:
        """Keep it from being removed, until the file that is returned is closed. Never waits long: what is being
        built is nobody's yet."""
        lock = self.directory.with_name(f"{self.key}.lock").open("ab")
        fcntl.flock(lock, fcntl.LOCK_SH)
        return lock


@dataclass(frozen=True, slots=True)
class KeptEnvironment:
    """An environment on disk, for lists."""

    key: str
    kernel: str
    requirements: tuple[str, ...]
    size_bytes: int
    made_at_s: float
    used_at_s: float
    """Seconds since 1970 of the last start of a process in it."""


class _Ready(msgspec.Struct, frozen=True, kw_only=True):
    kernel: str
    version: str
    requirements: tuple[str, ...]
    made_at_s: float


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an environment consists of; its hash is its key."""

    kernel: str
    interpreter: Path
    version: str
    stages: tuple[tuple[str, ...], ...]  # lines of requirements, or the texts of the files that npm reads
    files: tuple[str, ...] = ()  # names of these

    def sources(self, package: Path) -> list[Path]:
        """Files and folders on this machine that requirements name, but those of the app itself."""
        words = [word for stage in self.stages for line in stage for word in re.split(r"\s+@\s+|\s+", line)]
        found = _local(words) if self.kernel == "python" else []
        return [path for path in found if not path.is_relative_to(package)]

    @property
    def key(self) -> str:
        parts = [_FORMAT, self.kernel, str(self.interpreter), self.version, sys.platform, platform.machine()]
        text = msgspec.json.encode([*parts, self.stages, self.files])
        return hashlib.sha256(text).hexdigest()[:32]


class Environments:
    """The environments in a folder. Several processes may share it."""

    def __init__(
        self, folder: Path, settings: EnvironmentSettings | None = None, isolation: Isolation | None = None
    ) -> None:
        self._folder = folder.absolute()
        self._settings = settings or EnvironmentSettings()
        self._isolation = isolation or Isolation()
        self._building: dict[str, asyncio.Lock] = {}
        self._pythons: dict[str, tuple[Path, str]] = {}

    async def prepare(self, package: Path, kernel: str, *, progress: Progress | None = None) -> Environment:
        """The environment of an app: as it is there, or made now.

        Args:
            package: The folder with the files of the app.
            kernel: `python-3.11`, `node-22`; without a number: the newest that is installed.
            progress: Gets what the tools say while they work.

        Raises:
            BuildFailed: It cannot be made; the message ends with the last lines of what the resolver said.
        """
        tell = progress or _nobody
        package = package.absolute()
        node = kernel.startswith("node")
        plan, warnings = await (self._node_plan(package, kernel) if node else self._python_plan(package, kernel, tell))
        missing = await missing_packages(package)
        if missing:
            names = " ".join(missing)
            warnings += (
                f"the app asks for system packages that are not installed: {names} (`apt-get install {names}`)",
            )
        for warning in warnings:
            tell(f"warning: {warning}")
        directory = self._folder / plan.key
        while True:
            if not _is_ready(directory, node):
                await self._build(plan, directory, package, tell)
            with contextlib.suppress(FileNotFoundError):  # removed in this moment
                os.utime(directory / READY)
                break
        if node:
            _link_modules(package, directory)
            programs, executable = directory / "node_modules" / ".bin", plan.interpreter
        else:
            programs, executable = directory / "bin", directory / "bin" / "python"
        read = (directory, executable.resolve().parents[1], _HARNESS, _BASE, *plan.sources(package))
        return Environment(plan.key, directory, executable, programs, plan.version, warnings, read)

    def kept(self) -> list[KeptEnvironment]:
        """The finished ones, the least recently used first. Reads every folder for its size."""
        found: list[KeptEnvironment] = []
        for marker in self._folder.glob(f"*/{READY}"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):  # removed meanwhile
                ready = msgspec.json.decode(marker.read_bytes(), type=_Ready)
                kernel = f"{ready.kernel.partition('-')[0]}-{ready.version}"
                size, used = _size(marker.parent), marker.stat().st_mtime
                found.append(
                    KeptEnvironment(marker.parent.name, kernel, ready.requirements, size, ready.made_at_s, used)
                )
        return sorted(found, key=lambda kept: kept.used_at_s)

    def remove(self, key: str) -> bool:
        """Remove an environment, unless a process uses or builds it: then False. It is made again when it is needed."""
        directory = self._folder / key
        if len(key) != 32 or not key.isalnum() or not directory.is_dir():
            return False
        with (self._folder / f"{key}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            _remove(directory)
            return True

    def _remove_remains(self) -> None:
        """Remove what builds left that were killed, unless their tools still work."""
        for directory in self._folder.iterdir():
            if directory.is_dir() and not (directory / READY).exists():
                self.remove(directory.name)

    async def _python_plan(self, package: Path, kernel: str, tell: Progress) -> tuple[_Plan, tuple[str, ...]]:
        interpreter, version = await self._python(kernel.partition("-")[2], tell)
        first = next((name for name in ("requirements.lock", "requirements.txt") if (package / name).is_file()), "")
        try:
            declared = await asyncio.to_thread(read_declared, package / ENTRY)
        except InvalidInput as err:
            raise BuildFailed(str(err)) from err
        wanted = self._requirements(package, first) if first else self._lines("\n".join(declared.requirements), package)
        stages = [(*wanted, *HARNESS_NEEDS, *(BASE_NEEDS if declared.uses_base else ()))]
        second = self._requirements(package, "requirements2.txt")
        return _Plan("python", interpreter, version, (*stages, *([second] if second else []))), ()

    def _requirements(self, package: Path, name: str) -> tuple[str, ...]:
        if not name or not (package / name).is_file():
            return ()
        try:
            text = (package / name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as err:
            raise BuildFailed(f"{name} cannot be read: {err}") from err
        return self._lines(text, package)

    def _lines(self, text: str, package: Path) -> tuple[str, ...]:
        return read_requirements(text, package, {"stepwell": _stepwell(), **self._settings.substitutes})

    async def _python(self, wanted: str, tell: Progress) -> tuple[Path, str]:
        """The interpreter of a version such as `3.11`, and which version it really is."""
        known = self._pythons.get(wanted)
        if known is not None and known[0].exists():
            return known
        found = await self._find_python(wanted)
        if found is None and wanted and self._settings.python_downloads:
            await self._uv(["python", "install", wanted], tell, what=f"Python {wanted} cannot be fetched")
            found = await self._find_python(wanted)
        if found is None:
            asked = f"Python {wanted}" if wanted else f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer"
            raise BuildFailed(
                f"the app asks for {asked}, which is not installed on this machine; install it"
                f" (`uv python install {wanted}`), or change `kernel` in inf.yml"
            )
        self._pythons[wanted] = found
        return found

    async def _find_python(self, wanted: str) -> tuple[Path, str] | None:
        """The server's own if it fits, else the newest that does and is installed."""
        own = (sys.version_info[:3], Path(getattr(sys, "_base_executable", "") or sys.executable))
        prefix = tuple(map(int, wanted.split("."))) if wanted else ()
        if own[0][: len(prefix)] == prefix:
            return own[1], ".".join(map(str, own[0]))
        said: list[str] = []
        listing = ["python", "list", "--only-installed", "--no-python-downloads", "--output-format", "json"]
        await self._uv(listing, _nobody, what="the installed versions of Python cannot be listed", output=said)
        try:
            installed = msgspec.json.decode("".join(said), type=list[_Interpreter])
        except msgspec.MsgspecError as err:
            raise BuildFailed(f"uv lists the installed versions of Python in a way that is not known: {err}") from err
        candidates = [
            (tuple(map(int, one.version.split("."))), Path(one.path))
            for one in installed
            if one.implementation == "cpython" and one.variant == "default" and re.fullmatch(r"[0-9.]+", one.version)
        ]
        fitting = [one for one in candidates if one[0][: len(prefix)] == prefix and one[0] >= OLDEST_PYTHON]
        if not fitting:
            return None
        version, path = max(fitting, key=itemgetter(0))
        return path, ".".join(map(str, version))

    async def _node_plan(self, package: Path, kernel: str) -> tuple[_Plan, tuple[str, ...]]:
        found = shutil.which(self._settings.node)
        wanted = kernel.partition("-")[2]
        if found is None:
            raise BuildFailed(
                f"the app asks for Node {wanted}, which is not installed on this machine; install it".replace("  ", " ")
            )
        said: list[str] = []
        await _run([found, "--version"], Path("/"), _nobody, what="node does not start", timeout_s=60, output=said)
        version = "".join(said).strip().removeprefix("v")
        warnings: tuple[str, ...] = ()
        if wanted and int(version.split(".")[0]) < int(wanted.split(".")[0]):
            warnings = (f"the app asks for Node {wanted}, and this machine has {version}: it may not work",)
        files = [
            name
            for name in ("package.json", "package-lock.json", "npm-shrinkwrap.json", ".npmrc")
            if (package / name).is_file()
        ]
        texts = tuple((package / name).read_text(encoding="utf-8") for name in files)
        return _Plan("node", Path(found), version, (texts,), tuple(files)), warnings

    async def _build(self, plan: _Plan, directory: Path, package: Path, tell: Progress) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        guard = self._building.setdefault(plan.key, asyncio.Lock())
        if guard.locked():
            tell("waiting: the same environment is being made for somebody else")
        async with guard, _alone(self._folder / f"{plan.key}.lock") as lock:
            if _is_ready(directory, plan.kernel == "node"):
                return
            await asyncio.to_thread(self._remove_remains)
            await asyncio.to_thread(_remove, directory)
            tell(f"making an environment with {plan.kernel.capitalize()} {plan.version}")
            try:
                if plan.kernel == "node":
                    await self._build_node(plan, directory, package, tell, lock)
                else:
                    await self._build_python(plan, directory, package, tell, lock)
                await asyncio.to_thread(shutil.rmtree, directory / _SCRATCH, ignore_errors=True)
                _write_marker(plan, directory)
            except BaseException:
                await asyncio.shield(asyncio.to_thread(_remove, directory))
                raise
        tell("the environment is ready")

    async def _build_python(self, plan: _Plan, directory: Path, package: Path, tell: Progress, lock: IO[bytes]) -> None:
        options = [option for folder in self._settings.find_links for option in ("--find-links", folder)]
        if self._settings.offline:
            options += ["--no-index"] if options else ["--offline"]
        uv = partial(self._uv, tell=tell, lock=lock)
        what = "the environment cannot be made"
        await uv(["venv", "-q", "--no-project", "--python", str(plan.interpreter), str(directory)], what=what)
        told: list[str] = []
        await uv(["cache", "dir"], what="uv does not say where its cache is", output=told)
        read = [Path(_uv_program()), *_local(self._settings.find_links), *plan.sources(package)]
        confined = self._confined(plan, directory, package, read, Path(told[0]))
        # compiled once: processes of apps may not write here, and would compile everything at each start
        install = ["pip", "install", "--compile-bytecode", "--python", str(directory / "bin" / "python"), *options]
        for number, stage in enumerate(plan.stages):
            listed = directory / _SCRATCH / f"stage{number}.txt"
            listed.write_text("\n".join(stage), encoding="utf-8")
            these = [*install, "-r", str(listed)]
            if number == 0:
                await uv(these, what="the requirements cannot be installed", confined=confined)
                continue
            what = "requirements2.txt cannot be installed"
            try:
                await uv(these, what=what, confined=confined)
            except BuildFailed:  # packages that are built with what the first ones are
                tell("building requirements2.txt once more, with the packages of the first stage")
                await uv([*install, "setuptools", "wheel"], what=what, confined=confined)
                await uv([*these, "--no-build-isolation"], what=what, confined=confined)

    async def _build_node(self, plan: _Plan, directory: Path, package: Path, tell: Progress, lock: IO[bytes]) -> None:
        (directory / "node_modules" / ".bin").mkdir(parents=True)
        (texts,) = plan.stages
        for name, text in zip(plan.files, texts, strict=True):
            (directory / name).write_text(text, encoding="utf-8")
        if "package.json" not in plan.files:
            return
        beside = plan.interpreter.with_name("npm")
        npm = str(beside) if beside.exists() else shutil.which("npm")
        if npm is None:
            raise BuildFailed("the app has a package.json, and npm is not installed on this machine; install it")
        locked = {"package-lock.json", "npm-shrinkwrap.json"} & set(plan.files)
        command = [
            npm,
            "ci" if locked else "install",
            "--omit=dev",
            "--no-audit",
            "--no-fund",
            "--no-progress",
            "--install-links",
        ]
        command.append("--offline" if self._settings.offline else "--prefer-offline")
        cache = Path(os.environ.get("NPM_CONFIG_CACHE", Path.home() / ".npm"))
        path = f"{plan.interpreter.parent}:{os.environ.get('PATH', '')}"
        read = [Path(npm).resolve().parent, *_local(_FILE_URL.findall("".join(texts)))]
        await _run(
            command, directory, tell, what="npm cannot install the packages", lock=lock,
            timeout_s=self._settings.build_timeout_s, extra={"PATH": path},
            confined=self._confined(plan, directory, package, read, cache),
        )  # fmt: skip
        (directory / "node_modules" / ".bin").mkdir(parents=True, exist_ok=True)

    def _confined(self, plan: _Plan, directory: Path, package: Path, read: list[Path], cache: Path) -> _Confined:
        """What a tool and the code that it runs may reach: folders of its own for the time of the build, what the
        tool reads, the environment and the cache of the tool."""
        scratch = directory / _SCRATCH
        home = Path.home()
        places = Places(
            package, scratch / "home", scratch / "tmp", scratch / "changes", scratch / "cache",
            (plan.interpreter.resolve().parents[1], *read, *(home / name for name in _CONFIGURATION), *_named()),
        )  # fmt: skip
        for folder in (
            places.home, places.temporary, places.changes / "upper", places.changes / "work", places.cache, cache,
        ):  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True)
        places.temporary.chmod(0o1777)
        variables = {
            "TMPDIR": "/tmp" if self._isolation.private_tmp else str(places.temporary),
            "XDG_CACHE_HOME": str(places.cache),
            "UV_CACHE_DIR": str(cache),
        }
        told = self._isolation.confined(places)
        for name in ("kept", "write"):
            listed = told[name]
            assert isinstance(listed, list)
            told[name] = [*listed, str(directory), str(cache)]
        return _Confined(told, variables)

    async def _uv(
        self, arguments: Sequence[str], tell: Progress, *, what: str, output: list[str] | None = None,
        lock: IO[bytes] | None = None, confined: _Confined | None = None,
    ) -> None:  # fmt: skip
        downloads = {} if self._settings.python_downloads else {"UV_PYTHON_DOWNLOADS": "never"}
        await _run(
            # in a folder without settings of a project: those of whatever the data folder lies in are not the app's
            [_uv_program(), *arguments, "--color", "never"], Path("/"), tell, what=what, output=output,
            lock=lock, timeout_s=self._settings.build_timeout_s, extra=downloads, confined=confined,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Confined:
    """What `launch.py` is told of isolation, and variables that belong to it."""

    told: Mapping[str, object]
    variables: Mapping[str, str]


class _Interpreter(msgspec.Struct, frozen=True):
    version: str
    path: str
    implementation: str
    variant: str = "default"


def read_requirements(text: str, package: Path, substitutes: Mapping[str, str]) -> tuple[str, ...]:
    """The lines of a file of requirements without comments, ready to be read from elsewhere: paths are absolute.

    What `substitutes` has a requirement for is replaced by it. `inferencesh` from a place in git is replaced by
    whatever the index has, since that serves every app.
    """
    lines: list[str] = []
    for line in re.sub(r"\s*\\\r?\n\s*", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if line:
            lines.append(_substituted(_absolute(line, package), substitutes))
    return tuple(lines)


def _absolute(line: str, package: Path) -> str:
    option = _FILE_OPTION.fullmatch(line)
    if option is not None and "://" not in option[2]:
        return f"{option[1]} {package / option[2].strip()}"
    if line.startswith((".", "/")) or (re.search(r"\.(whl|zip|tar\.gz)$", line) and "://" not in line):
        return str(package / line) if " @ " not in line else line
    return line


def _substituted(line: str, substitutes: Mapping[str, str]) -> str:
    plain = re.sub(r"^(-e|--editable)[\s=]+", "", line)
    named = _NAMED.fullmatch(plain)
    if named is not None and (not named[3] or named[3][0] in "=<>!~@;(-"):
        name, extras, rest = re.sub(r"[-_.]+", "-", named[1]).lower(), named[2] or "", named[3]
    else:  # a path, a URL or an option
        name, extras, rest = "inferencesh" if _SDK.search(plain) else "", "", "@"
    if name in substitutes:
        return substitutes[name]
    if name == "inferencesh" and rest.startswith("@"):
        _, marked, marker = rest.partition(" ;")
        return f"inferencesh{extras}{marked}{marker}"
    return line


@cache
def _stepwell() -> str:
    """Ourselves, for apps that are written with `stepwell.apps`: the same that runs here."""
    try:
        distribution = importlib.metadata.distribution("stepwell")
    except importlib.metadata.PackageNotFoundError:  # runs from its sources
        return "stepwell"
    raw = distribution.read_text("direct_url.json")
    if raw is not None:
        place = msgspec.json.decode(raw, type=_Place)
        if place.dir_info.get("editable"):
            return f"-e {place.url}"
        return f"stepwell @ {place.url}"
    return f"stepwell=={distribution.version}"


class _Place(msgspec.Struct, frozen=True):
    """Where a package was installed from; PEP 610."""

    url: str
    dir_info: dict[str, bool] = {}


async def missing_packages(package: Path) -> tuple[str, ...]:
    """Packages of the system that `packages.txt` names and this machine does not have."""
    file = package / "packages.txt"
    if not file.is_file():
        return ()
    text = file.read_text(encoding="utf-8", errors="replace")
    wanted = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
    names = list(dict.fromkeys(re.split(r"[=:/]", word)[0] for word in wanted if re.match(r"[a-z0-9]", word)))
    asking = [name for name in names if shutil.which(name) is None]
    query = shutil.which("dpkg-query")
    if not asking or query is None:
        return tuple(asking)
    said: list[str] = []
    with contextlib.suppress(BuildFailed):  # it fails if it does not know one of them
        command = [query, "-W", "-f", "${db:Status-Status} ${Package}\\n", "--", *asking]
        await _run(command, Path("/"), _nobody, what="", timeout_s=60, output=said)
    installed = {line.split()[1] for line in said if line.startswith("installed ")}
    return tuple(name for name in asking if name not in installed)


async def _run(
    command: Sequence[str], directory: Path, tell: Progress, *, what: str, timeout_s: float,
    output: list[str] | None = None, lock: IO[bytes] | None = None, extra: Mapping[str, str] | None = None,
    confined: _Confined | None = None,
) -> None:  # fmt: skip
    """Run a program and its children to the end; they end with us.

    Args:
        what: Begins the message if it fails.
        output: Gets the lines of its standard output, which otherwise count as told.
        lock: A file that it keeps open. Should we be killed and it not, whoever comes next waits for it.
    """
    told: deque[str] = deque(maxlen=_TOLD_LINES)
    program, environment, given = list(command), _environment() | dict(extra or {}), b""
    if confined is not None:
        rest = {"directory": str(directory), "parent": os.getpid(), "limits": {}, "group": "", **confined.told}
        given = msgspec.json.encode({"command": program, "environment": environment | dict(confined.variables), **rest})
        program, environment = [sys.executable, "-I", "-S", str(LAUNCH)], {}
    child = await asyncio.create_subprocess_exec(
        *program, cwd=directory, env=environment, start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        pass_fds=() if lock is None else (lock.fileno(),), limit=1 << 24,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None

    async def listen(stream: asyncio.StreamReader, lines: list[str] | None) -> None:
        while raw := await stream.readline():
            line = _without_credentials(raw.decode("utf-8", "replace").rstrip())
            if lines is not None:
                lines.append(line)
            elif line:
                told.append(line)
                tell(line)

    try:
        async with asyncio.timeout(timeout_s):
            child.stdin.write(given)
            child.stdin.close()
            await asyncio.gather(listen(child.stdout, output), listen(child.stderr, None))
            code = await child.wait()
    except TimeoutError as err:
        raise BuildFailed(f"{what}: {command[0]} did not end within {timeout_s:g} s") from err
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    if code != 0:
        lines = "\n".join(told) or f"{command[0]} ended with {code}"
        raise BuildFailed(f"{what}:\n{lines}")


def _environment() -> dict[str, str]:
    """What of the server's environment concerns the tools. Packages may run code while they are built."""
    return {
        name: value
        for name, value in os.environ.items()
        if (upper := name.upper()) in _PASSED_ON
        or upper.startswith(_PASSED_ON_STARTS)
        or upper.endswith(_PASSED_ON_ENDS)
    }


def _local(places: Iterable[str]) -> list[Path]:
    """Those of some places that are on this machine."""
    paths = [Path(place.removeprefix("file://")) for place in places]
    return [path for path in paths if path.is_absolute() and path.exists() and not Path.home().is_relative_to(path)]


def _named() -> list[Path]:
    """What the variables for the tools name: programs, certificates, folders with packages."""
    kept = {name: value for name, value in _environment().items() if name not in ("HOME", "TMPDIR")}
    return _local(place for value in kept.values() for place in re.split(r"(?<!file):|[,\s]", value))


def _without_credentials(line: str) -> str:
    return re.sub(r"(://)[^/\s@]+@", r"\1", line)


def _uv_program() -> str:
    try:
        from uv import find_uv_bin
    except ImportError:
        found = shutil.which("uv")
        if found is None:
            raise ConfigurationError("apps need uv; install it with `pip install 'stepwell[apps]'`") from None
        return found
    return str(find_uv_bin())


@contextlib.asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[IO[bytes]]:
    """Hold a lock that processes share; others wait, in a thread."""
    waiting = asyncio.ensure_future(asyncio.to_thread(_locked, path))
    try:
        lock = await asyncio.shield(waiting)
    except asyncio.CancelledError:
        waiting.add_done_callback(_close)
        raise
    with lock:
        yield lock


def _close(done: asyncio.Future[IO[bytes]]) -> None:
    if not done.cancelled() and done.exception() is None:
        done.result().close()


def _locked(path: Path) -> IO[bytes]:
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except BaseException:
        lock.close()
        raise
    return lock


def _is_ready(directory: Path, node: bool) -> bool:
    return (directory / READY).is_file() and (node or (directory / "bin" / "python").exists())


def _write_marker(plan: _Plan, directory: Path) -> None:
    lines = (_without_credentials(line) for stage in plan.stages for line in stage)
    requirements = tuple(lines) if plan.kernel == "python" else plan.files
    made = directory.stat().st_mtime
    ready = _Ready(kernel=plan.kernel, version=plan.version, requirements=requirements, made_at_s=made)
    unfinished = directory / f".{READY}"
    unfinished.write_bytes(msgspec.json.encode(ready))
    unfinished.rename(directory / READY)


def _link_modules(package: Path, directory: Path) -> None:
    """Let the app find its packages: Node looks for them beside the files that import them."""
    link, target = package / "node_modules", directory / "node_modules"
    if link.is_symlink() and Path(os.readlink(link)) == target:
        return
    mode = package.stat().st_mode
    package.chmod(mode | 0o200)
    try:
        unfinished = package / f".node_modules-{os.getpid()}"
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(target)
        unfinished.rename(link)
    finally:
        package.chmod(mode)


def _size(folder: Path) -> int:
    """Bytes on disk that go when the folder goes: files that others share by a hard link do not count."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(path, name))
            total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (folder / READY).unlink()
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise BuildFailed(f"{folder} cannot be removed; look at who owns it")


def _nobody(_: str) -> None:
    pass
