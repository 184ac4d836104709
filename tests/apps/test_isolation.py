"""An app that tries to read what is not its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from stepwell.apps.isolation import Isolation, find_isolation
from stepwell.model.errors import ConfigurationError
from tests.apps.workers import ISOLATION, Talk, started

CODE = """
    import os, signal, socket, subprocess

    def tried(step):
        try:
            return step()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    class App:
        def run(self, input):
            what, path = input["what"], input.get("path", "")
            return {"got": tried(lambda: getattr(self, what)(path))}
        def read(self, path):
            with open(path, "rb") as file:
                return file.read(100_000).decode(errors="replace")
        def list(self, path):
            return sorted(os.listdir(path))
        def write(self, path):
            with open(path, "w") as file:
                file.write("written")
            return "written"
        def shell(self, path):
            done = subprocess.run(path, shell=True, capture_output=True, text=True)
            return done.stdout + done.stderr
        def kill(self, path):
            os.kill(int(path), signal.SIGTERM)
            return "killed"
        def connect(self, path):
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(path)
                return "connected"
        def tcp(self, path):
            with socket.create_connection(("127.0.0.1", int(path)), timeout=5):
                return "connected"
"""
SECRET = "canary-5b2f"

pytestmark = pytest.mark.skipif(not ISOLATION.full, reason="this machine does not allow it")


class Asking:
    def __init__(self, talk: Talk) -> None:
        self.talk = talk

    async def __call__(self, what: str, path: object = "") -> Any:
        return (await self.talk.run({"what": what, "path": str(path)}))["got"]


def refused(answer: object) -> bool:
    return isinstance(answer, str) and answer.startswith(("PermissionError", "FileNotFoundError", "NotADirectory"))


async def test_an_app_reads_none_of_what_belongs_to_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SECRET", SECRET)
    database = tmp_path / "stepwell.db"
    database.write_text(SECRET)
    other = tmp_path / "packages" / "other"
    other.mkdir(parents=True)
    (other / "inference.py").write_text(SECRET)
    async with started(CODE, tmp_path) as talk:
        ask = Asking(talk)
        for path in (database, other / "inference.py", Path.home() / ".bashrc", "/etc/shadow", "/root"):
            assert refused(await ask("read", path)), path
        for path in (tmp_path, other, tmp_path / "workers", Path.home()):
            listed = await ask("list", path)
            assert refused(listed) or not {"stepwell.db", "other", ".bashrc"} & set(listed), path
        for place in ("environ", "cmdline", "maps", "mem", "cwd/pyproject.toml", f"root{database}"):
            answer = await ask("read", f"/proc/{os.getpid()}/{place}")
            assert refused(answer), (place, answer)
        assert SECRET not in str(await ask("shell", f"cat {database}; env; cat /proc/*/environ; ls -R {tmp_path}"))
        (talk.process.plan.places.home / "link").symlink_to(database)
        assert refused(await ask("read", talk.process.plan.places.home / "link"))


async def test_an_app_changes_nothing_of_the_system_and_nothing_of_others(tmp_path: Path) -> None:
    async with started(CODE, tmp_path) as talk:
        ask = Asking(talk)
        for path in ("/etc/passwd", "/usr/bin/new", "/proc/sys/kernel/core_pattern", "/root/new"):
            answer = await ask("write", path)
            assert answer != "written", path
        await ask("write", tmp_path / "new")
        assert not (tmp_path / "new").exists(), "at most in a /tmp of its own"
        assert refused(await ask("kill", os.getpid())) or "ProcessLookup" in await ask("kill", os.getpid())
        assert "not permitted" in await ask("shell", "mount -t tmpfs none /mnt || unshare -m true")


async def test_an_app_has_a_tmp_and_a_home_of_its_own_and_may_change_a_copy_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "weights.txt").write_text("weights")
    name = f"stepwell-test-{os.getpid()}"
    (Path("/tmp") / name).write_text(SECRET)
    try:
        async with started(CODE, tmp_path) as talk:
            ask, places = Asking(talk), talk.process.plan.places
            assert await ask("list", "/dev/shm") == []
            assert refused(await ask("read", f"/tmp/{name}"))
            for path in (f"/tmp/{name}", places.home / "x", "output.txt", "weights.txt", "/dev/shm/x"):
                assert await ask("write", path) == "written", path
                assert await ask("read", path) == "written"
            assert (places.temporary / name).read_text() == "written"
            assert (tmp_path / "app" / "weights.txt").read_text() == "weights"
            assert not (tmp_path / "app" / "output.txt").exists()
            for path, real in ((f"/tmp/{name}", places.temporary / name), ("output.txt", None)):
                seen = ISOLATION.seen_as(places, str(path))
                assert seen.read_text() == "written"
                assert real is None or seen == real
            assert ISOLATION.seen_as(places, "inference.py") == tmp_path / "app" / "inference.py"
        assert not talk.process.plan.folder.exists()
        assert (Path("/tmp") / name).read_text() == SECRET
    finally:
        (Path("/tmp") / name).unlink()


async def test_an_app_reaches_the_network_but_no_local_sockets_of_others(tmp_path: Path) -> None:
    async with started(CODE, tmp_path) as talk:
        ask = Asking(talk)
        with socket.socket() as server, socket.socket(socket.AF_UNIX) as local, socket.socket(socket.AF_UNIX) as hidden:
            server.bind(("127.0.0.1", 0))
            server.listen()
            local.bind(f"\0stepwell-test-{os.getpid()}")
            local.listen()
            path = f"/run/stepwell-test-{os.getpid()}"
            hidden.bind(path)
            hidden.listen()
            try:
                assert await ask("tcp", server.getsockname()[1]) == "connected"
                assert "not permitted" in await ask("shell", _connect(f"\\0stepwell-test-{os.getpid()}"))
                assert refused(await ask("connect", path))
            finally:
                Path(path).unlink()
        assert "localhost" in await ask("read", "/etc/hosts")
        await ask("read", "/etc/resolv.conf")
        assert "root" in await ask("shell", "id -un")


def _connect(name: str) -> str:
    return f"""python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("{name}")' 2>&1 | tail -1"""


@pytest.mark.parametrize(
    "isolation",
    [Isolation(), Isolation(landlock=ISOLATION.landlock), Isolation(mounts=ISOLATION.mounts), Isolation(mounts="user")],
    ids=["none", "landlock", "mounts", "user namespace"],
)
async def test_apps_run_with_whatever_a_machine_allows(tmp_path: Path, isolation: Isolation) -> None:
    async with started(CODE, tmp_path, isolation) as talk:
        ask = Asking(talk)
        name = f"/tmp/stepwell-test-{os.getpid()}"
        assert await ask("write", name) == "written"
        seen = isolation.seen_as(talk.process.plan.places, name)
        assert seen.read_text() == "written"
        seen.unlink()
        assert refused(await ask("read", "/etc/shadow")) == bool(isolation.landlock)
        inside = tmp_path if isolation.mounts else Path("/")
        assert refused(await ask("read", inside / "stepwell.db"))


def test_isolation_that_is_required_and_not_there_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_isolation("off") == Isolation()
    assert "Landlock" in ISOLATION.described()
    with pytest.raises(ConfigurationError, match="not 'perhaps'"):
        find_isolation("perhaps")

    def nothing(*_: Any, **__: Any) -> Any:
        class Told:
            stdout = b'{"landlock": 0, "mounts": "root", "proc": false}'

        return Told()

    monkeypatch.setattr("stepwell.apps.isolation.subprocess.run", nothing)
    assert find_isolation("auto") == Isolation(mounts="root")
    with pytest.raises(ConfigurationError, match="does not allow Landlock"):
        find_isolation("require")
