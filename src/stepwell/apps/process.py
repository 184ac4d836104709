"""The process of one worker: started in the app's environment, confined, and ended with everything it began.

    Process ── socket: frames both ways (`wire/app.py`) ─────────▶ harness ─▶ app
            ◀─ pipe: what it prints, to the last line before a frame

Nothing is read from the process on any other thread and nothing waits: what comes is handed to callbacks on the event
loop. The process leads a group of its own. It ends with the server however that ends, by its socket and by the system;
what its group leaves is killed by whoever notices its end, at the latest by the next server that starts on the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.apps.isolation import LAUNCH, Isolation, Places
from stepwell.wire.app import FromProcess, ToProcess, Unload, encode, read_frames

__all__ = ["Exit", "Plan", "Process", "end_left_over", "places_of"]

MARK = "STEPWELL_WORKER"
"""Variable in the environment of a worker and of everything it starts: its folder."""

_RECORD = "process.json"
_PIECE_BYTES = 256 * 1024
_MOST_PRINTED_BYTES = 1024 * 1024
"""Read at a time before a frame is looked at: more than a pipe holds, and an end for what is printed without one."""
_LONGEST_LINE_BYTES = 16 * 1024
_GONE_S = 5.0
_LOOK_AGAIN_S = 0.005
_PAGE_BYTES = resource.getpagesize()
_BASE = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is started and how.

    `command` is the program without the number of its socket, which is added. `programs` goes first in its path.
    """

    worker: str
    folder: Path
    """Of this worker alone; made at the start, removed at the end."""
    places: Places
    command: tuple[str, ...]
    isolation: Isolation = field(default_factory=Isolation)
    programs: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    """It is ended by the system when it takes more, where control groups can be made; 0: no limit of its own."""
    files: int = 65_536
    """Open files."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    status: int
    """Below 0: the number of the signal that ended it."""
    asked: bool
    """We ended it."""
    out_of_memory: bool = False

    def __str__(self) -> str:
        if self.out_of_memory:
            return "was ended by the system because memory ran out"
        if self.status >= 0:
            return f"ended by itself with status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:
            name = f"signal {-self.status}"
        if name == "SIGKILL" and not self.asked:
            return "was killed (SIGKILL): memory ran out, or somebody killed it"
        return f"was ended by {name}"


def places_of(folder: Path, package: Path, cache: Path, read: Sequence[Path] = ()) -> Places:
    """The folders of a worker whose own folder is `folder`."""
    return Places(package, folder / "home", folder / "tmp", folder / "changes", cache, tuple(read))


class Process:
    """One process, from its start to its end.

    Args:
        on_frame: Gets every frame, after all lines that were printed before it.
        on_line: Gets every line that the process printed.
        on_exit: Told once, last of all.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        on_frame: Callable[[FromProcess], None],
        on_line: Callable[[str], None],
        on_exit: Callable[[Exit], None],
    ) -> None:
        self.plan = plan
        self.pid = 0
        self.exit: Exit | None = None
        self._on_frame, self._on_line, self._on_exit = on_frame, on_line, on_exit
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._clearing: asyncio.Future[None] | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._printed = -1
        self._pidfd = -1
        self._received = bytearray()
        self._line = bytearray()
        self._unsent = bytearray()
        self._asked = False
        self._group: _Group | None = None
        self._system_kills = 0
        self._stopping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """
        Raises:
            OSError: It cannot be started.
        """
        plan = self.plan
        plan.folder.mkdir(parents=True, exist_ok=True)
        places = plan.places
        for folder in (places.home, places.temporary, places.changes / "upper", places.changes / "work", places.cache):
            folder.mkdir(parents=True, exist_ok=True)
        places.temporary.chmod(0o1777)
        self._system_kills = _system_kills()
        self._group = _Group.make(plan.worker, plan.memory_bytes) if plan.memory_bytes else None
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCH)],
                stdin=subprocess.PIPE,
                stdout=writing,
                stderr=writing,
                env={},
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            self.pid = self._popen.pid
            self._tell(theirs.fileno())
        except BaseException:
            ours.close()
            os.close(reading)
            if self._group is not None:
                self._group.remove()
            raise
        finally:
            theirs.close()
            os.close(writing)
        self._socket, self._printed = ours, reading
        ours.setblocking(False)
        os.set_blocking(reading, False)
        self._remember()
        self._loop.add_reader(ours, self._receive)
        self._loop.add_reader(reading, self._read_printed)
        self._await_end()

    def send(self, frame: ToProcess) -> None:
        """Send a frame, soon if not at once. Nothing happens if the process is gone.

        Raises:
            ValueError: No such frame can be sent; see `encode`.
        """
        data = encode(frame)
        if self._socket is None:
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # its end is noticed elsewhere
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(self._socket, self._write)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and its group."""
        if self.exit is None and self.pid:
            self._asked = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def stop(self, grace_s: float) -> None:
        """Let the app unload and end; after `grace_s` SIGTERM, a second later SIGKILL. Returns at once."""
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop(grace_s), name=f"stopping worker {self.plan.worker}")

    async def wait(self) -> None:
        """Until it has ended and nothing of it is left."""
        await asyncio.shield(self._ended)

    def memory_bytes(self) -> int:
        """What the process and its children take now."""
        return sum(_memory_of(pid) for pid in (self.pid, *_children_of(self.pid))) if self.exit is None else 0

    async def _stop(self, grace_s: float) -> None:
        self._asked = True
        self.send(Unload())
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s if number == signal.SIGTERM else 1):
                    await self.wait()
                return
            self.kill(number)
        await self.wait()

    # starting

    def _tell(self, descriptor: int) -> None:
        """Tell the launcher what it is to become."""
        plan, places = self.plan, self.plan.places
        private = plan.isolation.private_tmp
        path = [*([str(plan.programs)] if plan.programs is not None else []), *_BASE]
        environment = {
            "PATH": os.pathsep.join(path),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CACHE_HOME": str(places.cache),
            "FILE_CACHE_DIR": str(places.home / "files"),
            **plan.variables,
            "HOME": str(places.home),
            "TMPDIR": "/tmp" if private else str(places.temporary),
            MARK: str(plan.folder),
        }
        limits = {"CORE": 0, "NOFILE": plan.files, "oom": 500}
        told = {
            "command": [*plan.command, str(descriptor)],
            "environment": environment,
            "directory": str(places.package),
            "parent": os.getpid(),
            "limits": limits,
            "group": str(self._group.joining) if self._group is not None else "",
            **plan.isolation.confined(places),
        }
        assert self._popen is not None
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._popen.stdin as stdin:
            stdin.write(json.dumps(told).encode())  # shorter than a pipe holds, but for very long variables

    def _remember(self) -> None:
        record = {
            "pid": self.pid,
            "started": _started(self.pid),
            "server": os.getpid(),
            "server_started": _started(os.getpid()),
        }
        (self.plan.folder / _RECORD).write_text(json.dumps(record))

    # talking

    def _receive(self) -> None:
        if self._socket is None:
            return
        try:
            piece = self._socket.recv(_PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._loop.remove_reader(self._socket)  # its end follows
            return
        self._received += piece
        self._hand_on()

    def _hand_on(self) -> None:
        try:
            frames = read_frames(self._received)
        except ValueError as err:
            self._on_line(f"the process of the app sent something that is no frame, and is ended: {err}")
            self.kill()
            return
        for frame in frames:
            self._drain_printed()
            self._on_frame(frame)

    def _write(self) -> None:
        if self._socket is None:
            return
        try:
            sent = self._socket.send(memoryview(self._unsent)[:_PIECE_BYTES])
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    # what it prints

    def _read_printed(self) -> bool:
        """Read once. False: there is nothing."""
        try:
            piece = os.read(self._printed, 64 * 1024)
        except BlockingIOError:
            return False
        if not piece:
            self._loop.remove_reader(self._printed)
            return False
        self._line += piece
        *lines, rest = bytes(self._line).replace(b"\r", b"\n").split(b"\n")
        if len(rest) > _LONGEST_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        self._line[:] = rest
        for line in lines:
            self._tell_line(line)
        return True

    def _drain_printed(self) -> None:
        """Everything that was printed by now, also the beginning of a line."""
        most = _MOST_PRINTED_BYTES // (64 * 1024)
        while most and self._read_printed():
            most -= 1
        if self._line:
            self._tell_line(bytes(self._line))
            self._line.clear()

    def _tell_line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self._on_line(text)

    # its end

    def _await_end(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # not on other systems, nor on old ones
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.add_reader(self._pidfd, self._over)
            return

        def wait() -> None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._over)

        threading.Thread(target=wait, name=f"worker {self.plan.worker}", daemon=True).start()

    def _over(self) -> None:
        """The process has ended; it was not waited for yet, so its number is still its own."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        assert self._popen is not None
        assert self._socket is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._popen.wait()
        out_of_memory = status == -signal.SIGKILL and (
            self._group.killed() if self._group is not None else _system_kills() > self._system_kills
        )
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        with contextlib.suppress(OSError):
            while piece := self._socket.recv(_PIECE_BYTES):
                self._received += piece
        self._hand_on()
        self._drain_printed()
        self._socket.close()
        self._socket = None
        self._loop.remove_reader(self._printed)
        os.close(self._printed)
        self.exit = Exit(status, self._asked, out_of_memory and not self._asked)
        self._clearing = self._loop.run_in_executor(None, self._clear)
        self._clearing.add_done_callback(self._cleared)
        self._on_exit(self.exit)

    def _cleared(self, _: object) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _clear(self) -> None:
        """End what left the group of the process, and remove its folder."""
        _end_marked({str(self.plan.folder)})
        if self._group is not None:
            self._group.remove()
        shutil.rmtree(self.plan.folder, ignore_errors=True)


def end_left_over(folder: Path) -> int:
    """End the workers that a server left which did not end in order, and remove their folders.

    Args:
        folder: That of all workers. Those of a server that is still there are left alone.

    Returns:
        How many processes were ended.
    """
    left: set[str] = set()
    count = 0
    for one in folder.iterdir() if folder.is_dir() else ():
        try:
            record = json.loads((one / _RECORD).read_text())
            pid, started, server = int(record["pid"]), record["started"], int(record["server"])
            if _started(server) == record["server_started"] and record["server_started"] is not None:
                continue
        except (OSError, ValueError, KeyError, TypeError):
            left.add(str(one))  # was not started, or is half removed
            continue
        left.add(str(one))
        leader = _started(pid)
        if leader is None or leader == started:
            for member in _members_of(pid, started):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(member, signal.SIGKILL)
                    count += 1
    count += _end_marked(left)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return count


# what the system knows of processes; on other systems than Linux less, and then groups and sockets are all there is


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name; empty if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _started(pid: int) -> int | None:
    """When a process began, in the system's own unit; None if there is none."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 and fields[0] != "Z" else None


def _members_of(group: int, since: int | None) -> list[int]:
    """The processes of a group that began with it or later."""
    found = []
    for pid in _pids():
        fields = _stat(pid)
        if len(fields) > 19 and int(fields[2]) == group and fields[0] != "Z" and int(fields[19]) >= (since or 0):
            found.append(pid)
    return found


def _end_marked(folders: set[str]) -> int:
    """Kill the processes that were started by workers of these folders, whatever group they are in by now, and wait
    until they are gone. Blocks."""
    marks = {f"{MARK}={folder}".encode() for folder in folders}
    killed: set[int] = set()
    deadline = time.monotonic() + _GONE_S
    while time.monotonic() < deadline:
        for pid in _pids():
            with contextlib.suppress(OSError):
                if marks.intersection(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        if not any(_started(pid) for pid in killed):
            break
        time.sleep(_LOOK_AGAIN_S)
    return len(killed)


def _children_of(pid: int) -> list[int]:
    """All processes below one, as far as the system tells."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        direct = [int(one) for task in tasks for one in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    except OSError:
        return []
    return [*direct, *(below for one in direct for below in _children_of(one))]


def _memory_of(pid: int) -> int:
    """Resident memory that is not shared with others."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _system_kills() -> int:
    """How many processes the system has ended for want of memory."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class _Group:
    """A control group with a limit of memory, where this process may make one (cgroup v2, delegated)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.joining = folder / "cgroup.procs"

    @classmethod
    def make(cls, worker: str, memory_bytes: int) -> _Group | None:
        """None where that is not possible."""
        try:
            own = next(
                line.split("::", 1)[1].strip()
                for line in Path("/proc/self/cgroup").read_text().splitlines()
                if line.startswith("0::")
            )
            folder = Path("/sys/fs/cgroup") / own.lstrip("/") / f"stepwell-{worker}"
            if not (folder.parent / "cgroup.controllers").read_text().split().count("memory"):
                return None
            folder.mkdir()
        except (OSError, StopIteration):
            return None
        group = cls(folder)
        try:
            (folder / "memory.max").write_text(str(memory_bytes))
        except OSError:
            group.remove()
            return None
        return group

    def killed(self) -> bool:
        """Whether the system ended something in it for want of memory."""
        with contextlib.suppress(OSError):
            return "oom_kill 0" not in (self._folder / "memory.events").read_text().splitlines()
        return False

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.rmdir()
