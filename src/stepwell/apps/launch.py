"""What a worker's process does before it becomes the app: gives up what it need not have, and sees only what it may.

    python -I -S launch.py < what.json          become the program that `what.json` names
    python -I -S launch.py --probe              say as JSON what this machine allows

It is run by the server's interpreter with an empty environment and imports nothing of ours, so nothing of the app's
own (`LD_PRELOAD`, `PYTHONPATH`) acts before it is confined. `stepwell.apps.isolation` writes what it reads:

    command, environment, directory     the program, and where it runs
    parent                              ends with this process, whose child it is
    limits                              resource limits by name, and `oom`: how readily the system kills it
    group                               file to write its number to, of a control group
    mounts                              "root" or "user": a view of the file system of its own
    replaced                            there, these folders in place of those: {"/tmp": "/private/tmp"}
    kept                                of what is hidden by that, what stays where it is
    changed                             folders of which it changes a copy: {folder: [changes, work]}
    proc                                it sees its own processes only
    landlock                            version of Landlock; 0: without
    read, write                         what it may read and run, and what it may change, too
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 38, 47
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read files, read folders
_OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}  # from 5 on: devices, too
_SCOPES = 1 << 0 | 1 << 1  # abstract sockets and signals of others, from 6 on
_CAPABILITY_VERSION = 0x20080522
_FAILED = 125

libc: Any = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    if sys.argv[1:] == ["--probe"]:
        json.dump(probe(), sys.stdout)
        return
    what = json.load(sys.stdin)
    try:
        become(what)
    except OSError as err:
        os.write(2, f"the process of the app cannot be started: {err}\n".encode())
        sys.exit(_FAILED)


def become(what: dict[str, Any]) -> None:
    """
    Raises:
        OSError: One of the steps is not possible.
    """
    if sys.platform == "linux":
        checked("prctl", libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        if os.getppid() != what["parent"]:  # it ended before this was asked for
            sys.exit(_FAILED)
        be_first_to_go(what["limits"].get("oom", 0))
    if what["group"]:
        with open(what["group"], "w") as file:
            file.write(str(os.getpid()))
    for name, value in what["limits"].items():
        if name != "oom":
            limit(getattr(resource, f"RLIMIT_{name}"), value)
    ruleset = None
    if what["landlock"]:
        ruleset = Ruleset(what["landlock"])
    changed = own_mounts(what) if what["mounts"] else []
    if ruleset is not None:
        for path in what["read"]:
            ruleset.allow(path, _READ)
        for path in (*what["write"], *changed):
            ruleset.allow(path, ruleset.handled)
    if what["mounts"] or what["landlock"]:
        give_up_rights()
    if ruleset is not None:
        ruleset.restrict()
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    for number in (signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(what["directory"])
    os.execve(what["command"][0], what["command"], what["environment"])


def be_first_to_go(score: int) -> None:
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError:
        pass  # then the system chooses by size


def limit(which: int, value: int) -> None:
    """Set a limit, as far as the one that there is already allows. -1: as much as that."""
    _, most = resource.getrlimit(which)
    if value == -1 or (most != resource.RLIM_INFINITY and value > most):
        value = most
    resource.setrlimit(which, (value, value))


def checked(what: str, returned: int) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return returned


# a view of the file system of its own


def own_mounts(what: dict[str, Any]) -> list[str]:
    """Returns the folders of which there is a copy to be changed."""
    enter(what["mounts"])
    kept = {path: os.open(path, os.O_PATH) for path in what["kept"] if os.path.exists(path)}
    sources = {place: os.open(folder, os.O_PATH) for place, folder in what["replaced"].items() if folder}
    changed = [folder for folder, paths in what["changed"].items() if overlay(folder, *paths)]
    for folder in changed:
        if folder in kept:
            os.close(kept[folder])
            kept[folder] = os.open(folder, os.O_PATH)
    for place in what["replaced"]:
        if not os.path.isdir(place):
            continue
        if place in sources:
            mount(f"/proc/self/fd/{sources[place]}", place, "", _MS_BIND)
        else:
            mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")
    for path, descriptor in sorted(kept.items()):  # outer folders first
        if hidden(path, descriptor):
            make_place(path, os.path.isdir(f"/proc/self/fd/{descriptor}"))
            mount(f"/proc/self/fd/{descriptor}", path, "", _MS_BIND | _MS_REC)
    if what["proc"]:
        mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "hidepid=ptraceable")
    for descriptor in (*kept.values(), *sources.values()):
        os.close(descriptor)
    return changed


def enter(how: str) -> None:
    user, group = os.getuid(), os.getgid()
    checked("unshare", libc.unshare(_CLONE_NEWNS | (_CLONE_NEWUSER if how == "user" else 0)))
    if how == "user":
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def overlay(folder: str, changes: str, work: str) -> bool:
    """Let changes to a folder go elsewhere. False if this machine cannot do that: then it cannot be changed."""
    if any(mark in path for path in (folder, changes, work) for mark in ",:\\"):
        return False
    try:
        mount("overlay", folder, "overlay", 0, f"lowerdir={folder},upperdir={changes},workdir={work}")
        for place, folders, _ in os.walk(folder):  # packages are kept without the right to change them
            os.chmod(place, 0o755)
            folders[:] = [name for name in folders if name != "node_modules"]
    except OSError:
        return False
    return True


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    texts = [text.encode() or None for text in (source, target, kind)]
    checked(f"mount {target}", libc.mount(*texts, ctypes.c_ulong(flags), options.encode() or None))


def hidden(path: str, descriptor: int) -> bool:
    try:
        now, before = os.stat(path), os.fstat(descriptor)
    except OSError:
        return True
    return (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino)


def make_place(path: str, folder: bool) -> None:
    if folder:
        os.makedirs(path, mode=0o755, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(path, "a"):
        pass


# rights


def give_up_rights() -> None:
    """Have no capability, and never get one."""
    checked("prctl", libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)  # all of them; not known to old systems
    number = 0
    while libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    head = struct.pack("II", _CAPABILITY_VERSION, 0)
    checked("capset", libc.capset(head, bytes(24)))


class Ruleset:
    """Landlock: what is not allowed by a rule is not possible, for this process and all that it starts."""

    def __init__(self, version: int) -> None:
        self.handled = _HANDLED.get(version, (1 << 16) - 1)
        attributes = struct.pack("QQQ", self.handled, 0, _SCOPES if version >= 6 else 0)
        size = 24 if version >= 6 else 8
        self._descriptor = checked("landlock", libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0))

    def allow(self, path: str, access: int) -> None:
        """A path that is not there is left out."""
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        access &= self.handled if os.path.isdir(path) else self.handled & _OF_FILES
        rule = struct.pack("=Qi", access, place)
        checked(f"landlock {path}", libc.syscall(_LANDLOCK_ADD, self._descriptor, 1, rule, 0))
        os.close(place)

    def restrict(self) -> None:
        checked("landlock", libc.syscall(_LANDLOCK_RESTRICT, self._descriptor, 0))
        os.close(self._descriptor)


# what this machine allows


def probe() -> dict[str, Any]:
    found: dict[str, Any] = {"landlock": 0, "mounts": "", "proc": False}
    if sys.platform != "linux":
        return found
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version > 0 and tried(give_up_rights, lambda: Ruleset(version).restrict()):
        found["landlock"] = version
    for how in ("root", "user"):
        if tried(partial(enter, how), partial(mount, "tmpfs", "/tmp", "tmpfs", 0), give_up_rights):
            found["mounts"] = how
            break
    options = "hidepid=ptraceable"
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    found["proc"] = bool(found["mounts"] and found["landlock"]) and tried(
        partial(enter, found["mounts"]), partial(mount, "proc", "/proc", "proc", flags, options)
    )
    return found


def tried(*steps: Callable[[], object]) -> bool:
    """Whether these steps are possible one after the other, tried in a process of its own."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for step in steps:
                step()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main()
