"""Real processes: what they say, what they print, how they end, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from stepwell.apps.process import Exit, end_left_over
from stepwell.wire.app import MAX_FRAME_BYTES, Cancel, Done, Failed, Load, Output, Run, encode, read_frames
from tests.apps.workers import PATIENCE_S, Talk, alive, started, write_app

ECHO = """
    import os

    class App:
        def run(self, input):
            return {"input": input, "pid": os.getpid()}
"""


async def test_a_call_goes_there_and_back(tmp_path: Path) -> None:
    async with started(ECHO, tmp_path) as talk:
        assert await talk.run({"a": [1, "é", None]}) == {"input": {"a": [1, "é", None]}, "pid": talk.process.pid}
        large = {"text": "x" * 20_000_000}
        assert (await talk.run(large))["input"] == large
        assert talk.process.memory_bytes() > 5_000_000


async def test_everything_that_was_printed_comes_before_the_result(tmp_path: Path) -> None:
    code = """
    import os, subprocess, sys

    class App:
        def run(self, input):
            for number in range(2000):
                print("line", number)
            subprocess.run(["echo", "from a child"], check=True)
            print("one\\rtwo\\n\\nthree", file=sys.stderr)
            os.write(1, b"no end of line and \\xff")
            return {}
    """
    async with started(code, tmp_path) as talk:
        await talk.run()
        done = talk.heard.index(next(one for one in talk.heard if isinstance(one, Done)))
        assert talk.heard[:done] == talk.lines
        assert talk.lines[:2000] == [f"line {number}" for number in range(2000)]
        assert talk.lines[2000:] == ["from a child", "one", "two", "three", "no end of line and \ufffd"]


async def test_a_process_that_prints_without_an_end_does_not_hold_up_its_result(tmp_path: Path) -> None:
    code = """
    import subprocess

    class App:
        def run(self, input):
            self.child = subprocess.Popen(["yes"])
            return {}
    """
    async with started(code, tmp_path) as talk:
        await talk.run()
        assert isinstance(talk.process.memory_bytes(), int)


async def test_the_process_sees_a_clean_environment_and_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPWELL_SIGNING_KEY", "abc")
    monkeypatch.setenv("OPENAI_API_KEY", "abc")
    code = """
    import os

    class App:
        def run(self, input):
            return {"variables": dict(os.environ), "here": os.getcwd(), "files": os.listdir()}
    """
    async with started(code, tmp_path, variables={"MODEL": "small", "HOME": "/root"}) as talk:
        seen = await talk.run()
        variables = seen["variables"]
        assert variables.keys() - {"LC_CTYPE"} == {
            *("PATH", "LANG", "HOME", "TMPDIR", "MODEL", "STEPWELL_WORKER"),
            *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "XDG_CACHE_HOME", "FILE_CACHE_DIR"),
        }
        assert variables["MODEL"] == "small"
        assert variables["HOME"] == str(talk.process.plan.places.home)
        assert seen["here"] == str(tmp_path / "app")
        assert seen["files"] == ["inference.py"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os._exit(3)", "ended by itself with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed (SIGKILL): memory ran out, or somebody killed it"),
    ],
)
async def test_how_a_process_ended_is_told_in_words(tmp_path: Path, code: str, words: str) -> None:
    app = f"""
    import os, signal

    class App:
        def run(self, input):
            print("about to end")
            {code}
    """
    async with started(app, tmp_path) as talk:
        talk.process.send(Run(call="c", function="run"))
        async with asyncio.timeout(PATIENCE_S):
            await talk.process.wait()
        assert isinstance(talk.heard[-1], Exit)
        assert str(talk.heard[-1]) == words
        assert "about to end" in talk.lines
        assert not talk.process.plan.folder.exists()
        talk.process.send(Run(call="late", function="run"))  # nobody there: nothing happens


async def test_the_end_of_a_process_is_noticed_on_systems_without_descriptors_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    async with started(ECHO, tmp_path) as talk:
        os.kill(talk.process.pid, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await talk.process.wait()
        assert str(talk.heard[-1]) == "was ended by SIGTERM"


async def test_what_a_process_said_last_is_heard_although_it_has_ended(tmp_path: Path) -> None:
    talk = Talk(write_app(tmp_path / "app", "import nothing_of_that_name"), tmp_path / "workers" / "w1")
    talk.process.start()
    talk.process.send(Load(directory=str(tmp_path / "app")))
    async with asyncio.timeout(PATIENCE_S):
        await talk.process.wait()
    failed, ended = talk.heard[-2:]
    assert isinstance(failed, Failed)
    assert failed.code == "import"
    assert "nothing_of_that_name" in failed.message
    assert isinstance(ended, Exit)
    assert ended.status == 1


async def test_a_stopped_process_unloads_and_one_that_does_not_is_made_to_end(tmp_path: Path) -> None:
    code = """
    import asyncio, signal, time

    class App:
        async def run(self, input):
            if input["stubborn"]:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self.stubborn = True
            return {}
        async def unload(self):
            print("unloaded")
            if getattr(self, "stubborn", False):
                time.sleep(60)
    """
    async with started(code, tmp_path) as talk:
        await talk.run({"stubborn": False})
        talk.process.stop(5)
        await talk.process.wait()
        assert "unloaded" in talk.lines
        assert talk.process.exit == Exit(0, asked=True)
    async with started(code, tmp_path) as talk:
        await talk.run({"stubborn": True})
        began = time.monotonic()
        talk.process.stop(0.2)
        await talk.process.wait()
        assert 1.2 <= time.monotonic() - began < 5
        assert talk.process.exit is not None
        assert talk.process.exit.status == -signal.SIGKILL


CHILDREN = '''
    import os, subprocess, sys, time

    TWICE = """if True:
        import subprocess
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        print(subprocess.Popen(["sleep", "602"], start_new_session=True, **quiet).pid)
    """

    class App:
        def run(self, input):
            plain = subprocess.Popen(["sleep", "600"])
            away = subprocess.Popen(["sleep", "601"], start_new_session=True)
            twice = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, check=True)
            return {"pids": [plain.pid, away.pid, int(twice.stdout)]}
'''


async def test_what_the_app_started_ends_with_it_wherever_it_hides(tmp_path: Path) -> None:
    async with started(CHILDREN, tmp_path) as talk:
        pids = (await talk.run())["pids"]
        assert all(map(alive, pids))
        talk.process.kill()
        await talk.process.wait()
        assert not any(map(alive, pids))


async def test_cancel_reaches_an_app_that_is_busy(tmp_path: Path) -> None:
    code = """
    import time

    class App:
        def run(self, input):
            while not self.context.cancel_requested:
                time.sleep(0.01)
            return {"stopped": True}
    """
    async with started(code, tmp_path) as talk:
        talk.process.send(Run(call="c", function="run"))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        talk.process.send(Cancel(call="c"))
        done = await talk.next(Done)
        assert (done.value, done.cancelled) == ({"stopped": True}, True)
        assert time.monotonic() - began < 1


async def test_partial_outputs_come_in_order(tmp_path: Path) -> None:
    code = """
    class App:
        def run(self, input):
            for number in range(500):
                print("made", number)
                yield {"number": number}
    """
    async with started(code, tmp_path) as talk:
        await talk.run()
        assert [one.value["number"] for one in talk.heard if isinstance(one, Output)] == list(range(500))
        seen = 0
        for one in talk.heard:
            if isinstance(one, str):
                seen += 1
            elif isinstance(one, Output):
                assert seen > one.value["number"], "a line is there before what follows it"


async def test_an_app_runs_whether_its_memory_can_be_limited_here_or_not(tmp_path: Path) -> None:
    async with started(ECHO, tmp_path, memory_bytes=1 << 30) as talk:
        assert (await talk.run("x"))["input"] == "x"
    assert str(Exit(-signal.SIGKILL, asked=False, out_of_memory=True)).endswith("because memory ran out")


async def test_a_process_keeps_no_large_core_and_many_open_files(tmp_path: Path) -> None:
    code = """
    from resource import RLIMIT_CORE, RLIMIT_NOFILE, getrlimit

    class App:
        def run(self, input):
            return {"core": getrlimit(RLIMIT_CORE), "files": getrlimit(RLIMIT_NOFILE)}
    """
    async with started(code, tmp_path, files=512) as talk:
        assert await talk.run() == {"core": [0, 0], "files": [512, 512]}


def test_a_frame_that_is_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        read_frames(bytearray((MAX_FRAME_BYTES + 1).to_bytes(4)))
    with pytest.raises(ValueError, match="cannot be read"):
        read_frames(bytearray(b"\0\0\0\x01\xc1"))
    half = bytearray(encode(Cancel(call="c"))[:-1])
    assert read_frames(half) == []
    assert len(half) == len(encode(Cancel(call="c"))) - 1


async def test_a_process_that_says_nonsense_is_ended(tmp_path: Path) -> None:
    code = """
    import os, sys

    class App:
        def run(self, input):
            os.write(int(sys.argv[1]), b"\\0\\0\\0\\x01\\xc1")
            import time
            time.sleep(60)
    """
    async with started(code, tmp_path) as talk:
        talk.process.send(Run(call="c", function="run"))
        async with asyncio.timeout(PATIENCE_S):
            await talk.process.wait()
        assert any("no frame" in line for line in talk.lines)


# a server that is killed

SERVER = """
    import asyncio, sys
    from pathlib import Path
    from stepwell.apps.guard import Guard
    from tests.apps.workers import Talk, write_app

    async def main():
        folder = Path(sys.argv[1])
        guard = Guard(folder / "workers") if sys.argv[3] == "guarded" else None
        talk = Talk(write_app(folder / "app", Path(sys.argv[2]).read_text()), folder / "workers" / "w1")
        talk.process.start()
        await talk.ready()
        print(*(await talk.run())["pids"], talk.process.pid, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
"""


@pytest.mark.parametrize("guard", ["guarded", "not guarded"])
def test_kill_9_of_the_server_leaves_nothing(tmp_path: Path, guard: str) -> None:
    (tmp_path / "code.py").write_text(textwrap.dedent(CHILDREN))
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(tmp_path), str(tmp_path / "code.py"), guard]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        assert server.stdout is not None
        *children, worker = map(int, server.stdout.readline().split())
        assert all(map(alive, [*children, worker]))
        assert end_left_over(tmp_path / "workers") == 0, "the server is there"
        assert alive(worker)
        server.kill()
        server.wait()
    left = [worker, *children] if guard == "guarded" else [worker]
    deadline = time.monotonic() + 10
    while any(map(alive, left)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, left)), "the worker ends with the server, and the guard ends the rest"
    if guard == "not guarded":
        assert end_left_over(tmp_path / "workers") >= 1, "the next server does"
        assert not any(map(alive, children))
    while any((tmp_path / "workers").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_server_ends_only_what_was_left_and_nobody_who_has_its_number_now(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        folder = tmp_path / "workers" / "w1"
        folder.mkdir(parents=True)
        (folder / "process.json").write_text(
            f'{{"pid": {other.pid}, "started": 5, "server": {os.getpid()}, "server_started": 5}}'
        )
        (tmp_path / "workers" / "w2").mkdir()
        assert end_left_over(tmp_path / "workers") == 0
        assert alive(other.pid)
        assert list((tmp_path / "workers").iterdir()) == []
    finally:
        other.kill()
        other.wait()


async def test_the_system_ends_workers_before_the_server(tmp_path: Path) -> None:
    async with started(ECHO, tmp_path) as talk:
        assert Path(f"/proc/{talk.process.pid}/oom_score_adj").read_text().strip() == "500"
