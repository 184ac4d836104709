"""What the code of an app can reach: its own files, its environment, a home of its own, and the system's libraries.

Two means of Linux are used together, each where the machine allows it:

    Landlock        what may be read and changed, by path, for the process and all it starts; it cannot look into
                    processes outside, and signals and abstract sockets reach none of them
    own mounts      a private /tmp and /dev/shm, no sockets in /run, a copy of the app's folder that it may change,
                    and a list of processes with its own only

What is possible is tried once, when the server starts. The network is not restricted: apps fetch files and call
services, this server's among them, which asks for a key like from everybody. Where the server has no keys, as in
development, whoever can reach its port may use it, and so may an app.

Elsewhere: the process that gives its rights up (`launch.py`), and limits of memory (`process.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stepwell.model.errors import ConfigurationError

__all__ = ["LAUNCH", "MODES", "Isolation", "Places", "find_isolation"]

LAUNCH = Path(__file__).with_name("launch.py")
MODES = ("auto", "require", "off")
_PROBE_S = 30

# What programs need of a system. Of /etc by name: some of the rest is only for the user that the server runs as.
_SYSTEM = (
    "/usr /lib /lib32 /lib64 /bin /sbin /opt /nix/store /sys /proc /var/cache/fontconfig /var/lib/dpkg "
    "/run/systemd/resolve /run/resolvconf"
).split()
_ETC = (
    "alternatives ca-certificates ca-certificates.conf crypto-policies debian_version default/locale ethertypes fonts "
    "fuse.conf gai.conf glvnd group host.conf hosts ImageMagick-6 ImageMagick-7 inputrc ld.so.cache ld.so.conf "
    "ld.so.conf.d ld.so.preload locale.alias locale.conf localtime login.defs lsb-release machine-id magic mailcap "
    "manpath.config mime.types nsswitch.conf OpenCL os-release pango papersize passwd pki profile protocols "
    "python3 python3.10 python3.11 python3.12 python3.13 python3.14 resolv.conf rpc services shells ssl terminfo "
    "timezone vulkan X11/fonts xdg chromium chromium.d"
).split()
_DEVICES = (
    "null zero full random urandom tty ptmx pts shm dri kfd nvidiactl nvidia-uvm "
    "nvidia-uvm-tools nvidia-modeset nvidia-caps dxg accel"
).split()
_RUN_KEPT = ("/run/systemd/resolve", "/run/resolvconf", "/run/nvidia-persistenced", "/run/opengl-driver")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one process."""

    package: Path
    """The app's own files, and the working directory."""
    home: Path
    temporary: Path
    changes: Path
    """Where changes to the package go, if they can go elsewhere."""
    cache: Path
    """Shared by the workers of one app."""
    read: tuple[Path, ...] = ()
    """What else it may read: its environment, the interpreter, the harness."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What is done for every process of an app."""

    landlock: int = 0
    """Its version; 0: not used."""
    mounts: str = ""
    """`root` or `user`: by which rights; empty: not used."""
    proc: bool = False
    """A process sees no others in /proc."""
    read: tuple[Path, ...] = ()
    """Folders that every app may read."""

    @property
    def private_tmp(self) -> bool:
        """Whether /tmp of a process is a folder of its own."""
        return bool(self.mounts)

    @property
    def full(self) -> bool:
        return bool(self.landlock and self.mounts)

    def described(self) -> str:
        """What is done, in a few words."""
        parts = [
            *([f"Landlock {self.landlock}"] if self.landlock else []),
            *(["own mounts"] if self.mounts else []),
            *(["own list of processes"] if self.proc else []),
        ]
        return ", ".join(parts) or "none"

    def seen_as(self, places: Places, path: str) -> Path:
        """Where a file lies that the process calls `path`."""
        inside = Path("/", path) if path.startswith("/") else places.package / path
        if not self.private_tmp:
            return inside
        if inside.is_relative_to(places.package):
            changed = places.changes / "upper" / inside.relative_to(places.package)
            return changed if changed.exists() else inside
        known = (places.home.parent, places.cache, *places.read)
        for folder in ("/tmp", "/var/tmp"):
            if inside.is_relative_to(folder) and not any(inside.is_relative_to(one) for one in known):
                return places.temporary / inside.relative_to(folder)
        return inside

    def roots(self, places: Places) -> tuple[Path, ...]:
        """Folders from which files that an app gives back are taken."""
        own = [places.package, places.home, places.temporary, places.changes, places.cache, *places.read]
        return tuple(own if self.private_tmp else [*own, Path("/tmp")])

    def confined(self, places: Places) -> dict[str, object]:
        """The members of what `launch.py` reads that are about isolation."""
        own = [places.home, places.temporary, places.cache]
        read = [places.package, *places.read, *self.read]
        devices = [f"/dev/{name}" for name in _DEVICES] + [str(one) for one in Path("/dev").glob("nvidia[0-9]*")]
        changed: dict[str, list[str]] = {}
        if self.mounts:
            changed = {str(places.package): [str(places.changes / "upper"), str(places.changes / "work")]}
        else:
            devices.append("/tmp")
        return {
            "mounts": self.mounts,
            "proc": self.proc,
            "landlock": self.landlock,
            "replaced": {"/tmp": str(places.temporary), "/var/tmp": str(places.temporary), "/dev/shm": "", "/run": ""},
            "kept": [*_texts([*read, *own]), *_RUN_KEPT],
            "changed": changed,
            "read": [*_SYSTEM, *(f"/etc/{name}" for name in _ETC), *_texts(read)],
            "write": [*devices, *_texts(own), *(["/tmp", "/var/tmp"] if self.mounts else [])],
        }


def find_isolation(mode: str, read: Iterable[Path] = ()) -> Isolation:
    """What this machine allows, tried in processes of their own; takes about 0.1 s.

    Raises:
        ConfigurationError: `require` was asked for, and something is not possible; or there is no such mode.
    """
    if mode not in MODES:
        raise ConfigurationError(f"app isolation is {', '.join(MODES)}, not {mode!r} (--app-isolation)")
    if mode == "off":
        return Isolation(read=tuple(read))
    command = [sys.executable, "-I", "-S", str(LAUNCH), "--probe"]
    told = subprocess.run(command, capture_output=True, env={}, timeout=_PROBE_S, check=False)
    try:
        found = json.loads(told.stdout)
    except ValueError:
        found = {"landlock": 0, "mounts": "", "proc": False}
    isolation = Isolation(found["landlock"], found["mounts"], found["proc"], tuple(read))
    if mode == "require" and not isolation.full:
        missing = [*([] if isolation.landlock else ["Landlock"]), *([] if isolation.mounts else ["own mounts"])]
        raise ConfigurationError(
            "apps are to be isolated (--app-isolation require), and this machine does not allow "
            f"{' or '.join(missing)}. "
            "Run the server on Linux 5.13 or newer where it may make namespaces, or take --app-isolation auto"
        )
    return isolation


def _texts(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths]
