"""The harness as a real process, and this side of its socket."""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from stepwell.wire import app as wire
from tests.libraries.environments import ENVIRONMENTS, python_of

HARNESS = Path(wire.__file__).parents[1] / "apps" / "harness"
APPS = Path(__file__).parent / "apps"
PATIENCE_S = 30.0

_Frame = TypeVar("_Frame", bound=wire.FromProcess)


def python() -> Path:
    """The interpreter of an environment in which apps find what they require, and `msgpack`."""
    return python_of("inferencesh")


class Harness:
    """One process. Everything that is sent and received is a frame of `stepwell.wire.app`."""

    def __init__(self, *command: str | Path, env: dict[str, str] | None = None) -> None:
        self.home = tempfile.TemporaryDirectory(prefix="stepwell-harness-")
        self.socket, theirs = socket.socketpair()
        self.log = Path(self.home.name) / "log"
        with theirs, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*map(str, command), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": os.environ["PATH"], "HOME": self.home.name, "TMPDIR": self.home.name, **(env or {})},
                start_new_session=True,
            )
        self._decoder: msgspec.msgpack.Decoder[wire.FromProcess] = msgspec.msgpack.Decoder(wire.FromProcess)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.socket.close()
        if error is not None:
            print(self.printed())
        self.home.cleanup()

    def send(self, frame: wire.ToProcess) -> None:
        self.socket.sendall(wire.encode(frame))

    def receive(self, within_s: float = PATIENCE_S) -> wire.FromProcess:
        (size,) = struct.unpack(">I", self._exactly(4, within_s))
        data = self._exactly(size)
        frame = self._decoder.decode(data)
        unknown = msgspec.msgpack.decode(data).keys() - {"type", *frame.__struct_fields__}
        assert not unknown, f"{frame} came with {unknown}"
        return frame

    def expect(self, kind: type[_Frame]) -> _Frame:
        frame = self.receive()
        assert isinstance(frame, kind), f"{frame}\n{self.printed()}"
        return frame

    def load(self, app: str | Path) -> wire.Loaded:
        self.send(wire.Load(directory=str(APPS / app)))
        return self.expect(wire.Loaded)

    def setup(self, value: Any = None, **metadata: Any) -> None:
        self.send(wire.Setup(value=value, metadata=metadata))
        self.expect(wire.Ready)

    def run(self, function: str = "run", input: Any = None, *, call: str = "c1", **metadata: Any) -> Any:
        """The value of the result."""
        self.send(wire.Run(call=call, function=function, input=input, metadata=metadata))
        return self.expect(wire.Done).value

    def until_ended(self) -> list[wire.FromProcess]:
        """The frames of a call, with its end."""
        frames = [self.receive()]
        while not isinstance(frames[-1], wire.Done | wire.Failed):
            frames.append(self.receive())
        return frames

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def until_printed(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.printed():
            assert time.monotonic() < deadline, f"{text!r} was not printed:\n{self.printed()}"
            assert self.process.poll() is None, f"ended before {text!r} was printed:\n{self.printed()}"
            time.sleep(0.01)

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)

    def _exactly(self, size: int, within_s: float = PATIENCE_S) -> bytes:
        received = b""
        while len(received) < size:
            assert select.select([self.socket], [], [], within_s)[0], f"no frame came:\n{self.printed()}"
            piece = self.socket.recv(size - len(received))
            assert piece, f"the process ended:\n{self.printed()}"
            received += piece
        return received


def node_app(name: str) -> Path:
    """A copy of the app `name` with the packages that its lock names, made again when anything of it changes."""
    source, folder = APPS / name, ENVIRONMENTS / f"node-{name}"
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    wanted = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"node-{name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        stamp = folder / ".installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            npm = ["npm", "ci", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(npm, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            stamp.write_text(wanted)
    return folder


def node_harness(**env: str) -> Harness:
    return Harness("node", HARNESS / "harness.mjs", env=env)


def python_harness(**env: str) -> Harness:
    return Harness(python(), HARNESS / "harness.py", env=env)
