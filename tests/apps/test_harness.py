"""The harness as a process: its frames, every way to write an app's methods, cancelling, errors, and how it ends."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stepwell.wire import app as wire
from tests.apps.harness import HARNESS, PATIENCE_S, Harness, python_harness

pytestmark = pytest.mark.slow

WriteApp = Callable[[str], Path]


@pytest.fixture
def write_app(tmp_path: Path) -> WriteApp:
    """Writes an `inference.py` into a folder of its own."""

    def write(text: str) -> Path:
        folder = tmp_path / "an-app"
        folder.mkdir()
        (folder / "inference.py").write_text(textwrap.dedent(text), encoding="utf-8")
        return folder

    return write


# Both sides of the frames


def test_the_harness_knows_exactly_the_frames_of_the_server() -> None:
    tree = ast.parse((HARNESS / "harness.py").read_text(encoding="utf-8"))
    sent, understood = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="send" | "_send"), args=[ast.Constant(value=str(kind)), *_]):
                sent.add(kind)
            case ast.Compare(left=left, comparators=[ast.Constant(value=str(kind))]) if is_type(left):
                understood.add(kind)
    assert sent == tags(wire.FromProcess)
    assert understood == tags(wire.ToProcess)
    assert constants(tree, "PROTOCOL", "MAX_FRAME_BYTES") == [wire.PROTOCOL, wire.MAX_FRAME_BYTES]


def is_type(node: ast.expr) -> bool:
    return (isinstance(node, ast.Subscript | ast.NamedExpr) and "'type'" in ast.unparse(node)) or (
        isinstance(node, ast.Name) and node.id == "kind"
    )


def tags(union: Any) -> set[str]:
    return {str(kind.__struct_config__.tag) for kind in union.__args__}


def constants(tree: ast.Module, *names: str) -> list[int]:
    found = {
        node.targets[0].id: eval(ast.unparse(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names
    }
    return [found[name] for name in names]


# How methods may be written


MODELS = """
    from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, BaseAppSetup, Metadata

    class In(BaseAppInput):
        text: str = "none"

    class Out(BaseAppOutput):
        text: str
"""


@pytest.mark.parametrize(
    ("setup", "value", "expected"),
    [
        ("async def setup(self): self.said = 'nothing'", None, "nothing"),
        ("def setup(self): self.said = 'nothing'", None, "nothing"),
        ("async def setup(self, metadata): self.said = metadata.app_variant + metadata.worker_id", None, "defaultw1"),
        ("async def setup(self, meta: Metadata): self.said = meta.app_id or 'no id'", None, "no id"),
        ("async def setup(self, config): self.said = str(config)", {"a": 1}, "{'a': 1}"),
        ("async def setup(self, config): self.said = str(config)", None, "{}"),
        (
            "async def setup(self, config=None, metadata=None): self.said = f'{config} {metadata.gpu_ids}'",
            None,
            "{} []",
        ),
        (
            "async def setup(self, metadata, config): self.said = f'{config} {metadata.worker_id}'",
            {"b": 2},
            "{'b': 2} w1",
        ),
        ("async def setup(self, s: 'Settings'): self.said = s.size", {"size": "L"}, "L"),
        ("async def setup(self, s: 'Settings | None' = None): self.said = s.size", None, "M"),
        ("async def setup(self, *rest, **more): self.said = f'{rest}{more}'", {"c": 3}, "(){}"),
        ("pass; said = 'no setup'", None, "no setup"),
    ],
)
def test_setup_gets_by_name_what_it_asks_for(write_app: WriteApp, setup: str, value: Any, expected: str) -> None:
    body = f"""
    class Settings(BaseAppSetup):
        size: str = "M"

    class App:
        {setup}

        def run(self, given: In) -> Out:
            return Out(text=self.said)
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup(value, worker_id="w1")
        assert harness.run() == {"text": expected}


@pytest.mark.parametrize(
    "function",
    [
        "async def run(self, given: In) -> Out: return Out(text=given.text)",
        "def run(self, given: In) -> Out: return Out(text=given.text)",
        "def run(self, given: In) -> Out: return self.later(given)",
        "async def run(self, given: 'In', metadata) -> 'Out': return Out(text=given.text + metadata.task_id[2:])",
        "async def run(self, given: In, about: Metadata) -> Out: return Out(text=given.text + about.task_id[2:])",
        "def run(self, given: In, metadata=None) -> Out: return Out(text=given.text + metadata.task_id[2:])",
        "async def run(self, it: In, size=4, *, metadata) -> Out: return Out(text=it.text + metadata.team_id[1:])",
        "async def run(self, given: In) -> AsyncGenerator[Out, None]: yield Out(text=given.text)",
        "async def run(self, given: In) -> AsyncIterator[Out]: yield Out(text=given.text)",
        "def run(self, given: In) -> Generator[Out, None, None]: yield Out(text=given.text)",
        "def run(self, given: In) -> Iterator['Out']: yield Out(text=given.text)",
        "def run(self, given: In) -> AsyncIterator[Out]: return self.some(given)",
        "async def run(self, given: In) -> Optional[Out]: return {'text': given.text, 'output_meta': None}",
        "@staticmethod\n        def unused(): pass\n        async def run(self, given): return {'text': given['text']}",
    ],
)
def test_functions_are_called_in_every_form(write_app: WriteApp, function: str) -> None:
    body = f"""
    from typing import AsyncGenerator, AsyncIterator, Generator, Iterator, Optional

    class App(BaseApp):
        {function}

        async def later(self, given):
            return Out(text=given.text)

        async def some(self, given):
            yield Out(text=given.text)
    """
    with python_harness() as harness:
        loaded = harness.load(write_app(MODELS + body))
        assert list(loaded.functions) == ["run"]
        harness.setup(team_id="t")
        harness.send(wire.Run(call="c1", function="run", input={"text": "ok"}, metadata={"task_id": "t1"}))
        *outputs, done = harness.until_ended()
        assert done == wire.Done(call="c1", value={"text": "ok"})
        assert len(outputs) == ("yield" in function or "some" in function)


def test_annotations_that_cannot_be_read_do_not_hide_the_others(write_app: WriteApp) -> None:
    body = """
    from __future__ import annotations
    from typing import TYPE_CHECKING
    from pydantic import BaseModel

    if TYPE_CHECKING:
        from elsewhere import Metadata

    class App:
        class Given(BaseModel):
            text: str

        async def run(self, given: Given, metadata: Metadata) -> Given:
            return given
    """
    with python_harness() as harness:
        run = harness.load(write_app(body)).functions["run"]
        assert run["input_schema"]["title"] == run["output_schema"]["title"] == "Given"


def test_a_live_stream_is_named_and_refused(write_app: WriteApp) -> None:
    body = """
    class App(BaseApp):
        async def talk(self, given: In, socket) -> Out:
            return Out(text="")
    """
    with python_harness() as harness:
        assert harness.load(write_app(MODELS + body)).functions["talk"]["kind"] == "stream"
        harness.setup()
        harness.send(wire.Run(call="c1", function="talk", input={}))
        failed = harness.expect(wire.Failed)
        assert (failed.code, failed.message) == (
            "validation",
            "'talk' takes a socket, and live streams are not offered",
        )


def test_what_the_app_sets_itself_stays(write_app: WriteApp) -> None:
    body = """
    from pydantic import BaseModel

    class App(BaseApp):
        def __init__(self, **values):
            super().__init__(**values)
            self.logger = "mine"

        async def setup(self):
            self.given = self.context.cancel_requested

        async def run(self, given: In) -> Out:
            return Out(text=f"{self.logger} {self.given} {self.context.metadata.task_id}")
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        assert harness.run(task_id="t1") == {"text": "mine False t1"}


def test_async_functions_share_one_loop_and_others_one_thread(write_app: WriteApp) -> None:
    body = """
    import asyncio, threading

    class App(BaseApp):
        def setup(self):
            self.thread = threading.get_ident()

        async def run(self, given: In) -> Out:
            loop = asyncio.get_running_loop()
            same = getattr(self, "loop", loop) is loop
            self.loop = loop
            return Out(text=str(same))

        def other(self, given: In) -> Out:
            return Out(text=str(threading.get_ident() == self.thread))
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        assert [harness.run(name)["text"] for name in ("run", "run", "other", "other")] == ["True"] * 4


@pytest.mark.parametrize(
    ("line", "session"),
    [
        ("session = 'rebuild'", "rebuild"),
        ("session: str = 'snapshot'", "snapshot"),
        ("session: ClassVar[str] = 'rebuild'", "rebuild"),
        ("session: Any = None", ""),
        ("session: str = 'mine'", ""),
        ("pass", ""),
    ],
)
@pytest.mark.parametrize("base", ["BaseApp", "object"])
def test_an_app_says_what_becomes_of_its_sessions(write_app: WriteApp, base: str, line: str, session: str) -> None:
    if (base, line) == ("BaseApp", "session = 'rebuild'"):
        line = "session: ClassVar = 'rebuild'"  # which pydantic demands
    body = f"""
    from typing import Any, ClassVar

    class App({base}):
        {line}

        def run(self, given: In) -> Out:
            return Out(text="")
    """
    with python_harness() as harness:
        assert harness.load(write_app(MODELS + body)).session == session


def test_files_are_found_wherever_they_are(write_app: WriteApp) -> None:
    body = """
    import dataclasses
    from typing import Any
    from inferencesh import File
    from pydantic import BaseModel, RootModel

    class Files(RootModel[list[File]]):
        pass

    class Holder(BaseModel):
        root: File

    @dataclasses.dataclass
    class Pair:
        first: File
        second: str

    class Found(BaseAppOutput):
        model_config = {"extra": "allow"}
        several: Files
        holder: Holder
        pair: Any
        nothing: File | None = None

    class App(BaseApp):
        def run(self, given: In) -> Found:
            file = File(path=__file__)
            several, pair = Files([file, file]), Pair(file, "x")
            return Found(several=several, holder=Holder(root=file), pair=pair, more=[{"deep": file}])

        def alone(self, given: In) -> Found:
            return File(path=__file__)
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={}))
        done = harness.expect(wire.Done)
        assert sorted(map(str, done.files)) == sorted(
            map(str, [["several", 0], ["several", 1], ["holder", "root"], ["pair", "first"], ["more", 0, "deep"]])
        )
        assert done.value["holder"]["root"]["filename"] == "inference.py"
        harness.send(wire.Run(call="c1", function="alone", input={}))
        done = harness.expect(wire.Done)
        assert done.files == [[]]
        assert done.value["filename"] == "inference.py"


def test_the_loop_goes_on_while_an_input_is_fetched(write_app: WriteApp) -> None:
    class Serve(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(0.5)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    body = """
    import asyncio
    from inferencesh import File

    class Picture(BaseAppInput):
        file: File

    class App(BaseApp):
        async def setup(self):
            self.ticks = 0
            self.ticking = asyncio.create_task(self.tick())

        async def tick(self):
            while True:
                self.ticks += 1
                await asyncio.sleep(0.01)

        async def run(self, given: Picture) -> Out:
            return Out(text=str(self.ticks))
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with python_harness() as harness:
            harness.load(write_app(MODELS + body))
            harness.setup()
            ticks = harness.run(input={"file": f"http://127.0.0.1:{server.server_port}/a.txt"})
            assert int(ticks["text"]) >= 10
        server.shutdown()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_that_the_app_starts_find_its_functions(write_app: WriteApp, method: str) -> None:
    body = f"""
    import multiprocessing
    from .helper import prefix

    def upper(text):
        return prefix + text.upper()

    class App(BaseApp):
        def run(self, given: In) -> Out:
            with multiprocessing.get_context("{method}").Pool(1) as pool:
                return Out(text=pool.apply(upper, (given.text,)))
    """
    app = write_app(MODELS + body)
    (app / "helper.py").write_text("prefix = '> '")
    (app / "__init__.py").touch()
    with python_harness() as harness:
        harness.load(app)
        harness.setup()
        assert harness.run(input={"text": "ab"}) == {"text": "> AB"}


def test_the_given_logger_writes_though_nothing_was_arranged(write_app: WriteApp) -> None:
    body = """
    class App(BaseApp):
        async def run(self, given: In) -> Out:
            self.logger.info("by the given logger")
            return Out(text="")
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.run()
        assert harness.printed() == "by the given logger\n"


# Cancelling


def cancelled(harness: Harness, function: str, printed: str) -> wire.Done:
    harness.send(wire.Run(call="c1", function=function, input={"seconds": 60}))
    harness.until_printed(printed)
    harness.send(wire.Cancel(call="c1"))
    done = harness.until_ended()[-1]
    assert isinstance(done, wire.Done)
    return done


@pytest.mark.parametrize(
    ("function", "printed", "ended"),
    [("run", "running", "by on_cancel"), ("looks", "looking", "by the flag"), ("blocks", "looking", "by the flag")],
)
def test_a_call_that_is_cancelled_ends_in_time(function: str, printed: str, ended: str) -> None:
    with python_harness() as harness:
        harness.load("long-job")
        harness.setup()
        began = time.monotonic()
        assert cancelled(harness, function, printed) == wire.Done(call="c1", value={"ended": ended}, cancelled=True)
        assert time.monotonic() - began < PATIENCE_S
        # and the next call is not cancelled
        assert harness.run("looks", {"seconds": 0.05}, call="c2") == {"ended": "by itself"}


def test_a_call_that_is_cancelled_while_its_input_is_fetched_never_begins(write_app: WriteApp) -> None:
    body = """
    import time
    from inferencesh import File
    from pydantic import field_validator

    class Picture(BaseAppInput):
        file: File | None = None
        text: str

        @field_validator("text")
        @classmethod
        def slow(cls, text):
            print("validating")
            time.sleep(0.5)
            return text

    class App(BaseApp):
        async def run(self, given: Picture) -> Out:
            print("running")
            return Out(text="ran")
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={"text": "a"}))
        harness.until_printed("validating")
        harness.send(wire.Cancel(call="c1"))
        assert harness.expect(wire.Done) == wire.Done(call="c1", cancelled=True)
        assert "running" not in harness.printed()


def test_a_generator_is_closed_where_it_yields() -> None:
    with python_harness() as harness:
        harness.load("long-job")
        harness.setup()
        harness.send(wire.Run(call="c1", function="yields", input={"seconds": 60}))
        harness.expect(wire.Output)
        harness.send(wire.Cancel(call="c1"))
        *outputs, done = harness.until_ended()
        assert isinstance(done, wire.Done)
        assert done.cancelled
        assert len(outputs) < 3000
        assert "cleaned up" in harness.printed()


def test_a_call_that_does_not_heed_goes_on_until_the_process_is_killed() -> None:
    with python_harness() as harness:
        harness.load("long-job")
        harness.setup()
        harness.send(wire.Run(call="c1", function="stubborn", input={"seconds": 60}))
        harness.until_printed("stubborn")
        harness.send(wire.Cancel(call="c1"))
        harness.until_printed("on_cancel was called")
        with pytest.raises(AssertionError, match="no frame came"):
            harness.receive(within_s=0.3)


def test_a_call_that_was_cancelled_before_it_began_never_begins() -> None:
    with python_harness() as harness:
        harness.load("long-job")
        harness.setup()
        harness.send(wire.Run(call="c1", function="looks", input={"seconds": 0.5}))
        harness.send(wire.Run(call="c2", function="stubborn", input={"seconds": 60}))
        harness.send(wire.Cancel(call="c2"))
        assert harness.expect(wire.Done) == wire.Done(call="c1", value={"ended": "by itself"})
        assert harness.expect(wire.Done) == wire.Done(call="c2", cancelled=True)
        assert "stubborn" not in harness.printed()
        harness.send(wire.Cancel(call="c1"))  # late
        assert harness.run("looks", {"seconds": 0.05}, call="c1") == {"ended": "by itself"}


def test_the_flag_is_the_harness_own_though_the_app_replaces_its_context(write_app: WriteApp) -> None:
    body = """
    import asyncio

    class App(BaseApp):
        async def setup(self):
            self.context = object()

        async def on_cancel(self):
            await asyncio.sleep(0.2)
            raise RuntimeError("on_cancel went wrong")

        async def run(self, given: In):
            print("running")
            for number in range(6000):
                yield Out(text=str(number))
                await asyncio.sleep(0.01)
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={}))
        harness.until_printed("running")
        harness.send(wire.Cancel(call="c1"))
        done = harness.until_ended()[-1]
        assert isinstance(done, wire.Done)
        assert done.cancelled
        assert harness.printed().count("RuntimeError: on_cancel went wrong") == 1  # it ends before the call


def test_calls_made_together_are_cancelled_when_all_of_them_are(write_app: WriteApp) -> None:
    body = """
    import time

    def looks(self, inputs: list[In]) -> list[Out]:
        print("looking")
        while not self.context.cancel_requested:
            time.sleep(0.01)
        return [Out(text="seen") for _ in inputs]

    looks.__stepwell_batch__ = (4, 0.0)

    class App(BaseApp):
        looks = looks
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.RunMany(calls=["a", "b"], function="looks", inputs=[{}, {}]))
        harness.until_printed("looking")
        harness.send(wire.Cancel(call="a"))
        with pytest.raises(AssertionError, match="no frame came"):
            harness.receive(within_s=0.2)
        harness.send(wire.Cancel(call="b"))
        for call in ("a", "b"):
            assert harness.expect(wire.Done) == wire.Done(call=call, value={"text": "seen"}, cancelled=True)


# Errors


@pytest.mark.parametrize(
    ("line", "name", "message"),
    [
        ("raise ValueError('too bad')", "ValueError", "too bad"),
        ("raise KeyError()", "KeyError", "KeyError"),
        ("import sys; sys.exit(3)", "SystemExit", "the app ended itself (SystemExit: 3)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise __import__('asyncio').CancelledError", "CancelledError", "CancelledError"),
        (
            "return {'text': object()}",
            "TypeError",
            "the app gave back a object, which JSON cannot hold",
        ),
        ("return {'text': 1 << 70}", "ValueError", "done cannot be sent to the server: Integer value out of range"),
        ("return In(text=3)", "ValidationError", "1 validation error for In"),
    ],
)
@pytest.mark.parametrize("kind", ["async def", "def"])
def test_an_error_is_told_with_its_text_and_where_it_was(
    write_app: WriteApp, kind: str, line: str, name: str, message: str
) -> None:
    body = f"""
    class App(BaseApp):
        {kind} run(self, given: In) -> Out:
            {line}

        {kind} fine(self, given: In) -> Out:
            return Out(text="fine")
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={}))
        failed = harness.expect(wire.Failed)
        assert (failed.call, failed.code, failed.name) == ("c1", "app", name)
        assert message in failed.message
        if not line.startswith("return {"):
            assert "an-app/inference.py" in failed.trace.splitlines()[1]
        assert harness.run("fine", call="c2") == {"text": "fine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Other: pass", "the app cannot be imported: ImportError: inference.py has no class named App"),
        ("App = 3", "the app cannot be imported: ImportError: inference.py has no class named App"),
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'; name the package that has it"),
        ("def (", "SyntaxError"),
        ("import sys; sys.exit(1)", "the app cannot be imported: SystemExit"),
    ],
)
def test_an_app_that_cannot_be_imported_says_why(write_app: WriteApp, text: str, message: str) -> None:
    with python_harness() as harness:
        harness.send(wire.Load(directory=str(write_app(text))))
        failed = harness.expect(wire.Failed)
        assert (failed.code, failed.call) == ("import", "")
        assert message in failed.message
        assert "harness.py" not in failed.trace
        assert "importlib" not in failed.trace
        assert harness.ended() == 1


def test_a_directory_without_an_app(tmp_path: Path) -> None:
    with python_harness() as harness:
        harness.send(wire.Load(directory=str(tmp_path)))
        assert harness.expect(wire.Failed).message.endswith(f"{tmp_path} has no inference.py")


def test_another_protocol_is_refused() -> None:
    with python_harness() as harness:
        harness.send(wire.Load(directory="/", protocol=7))
        assert "protocol 1" in harness.expect(wire.Failed).message


def test_a_setup_that_fails_can_be_tried_again(write_app: WriteApp) -> None:
    body = """
    class App(BaseApp):
        async def setup(self, config):
            if not config:
                raise RuntimeError("no weights")

        async def run(self, given: In) -> Out:
            return Out(text="up")
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.send(wire.Setup())
        failed = harness.expect(wire.Failed)
        assert (failed.code, failed.message) == ("setup", "no weights")
        harness.send(wire.Run(call="c1", function="run", input={}))
        assert harness.expect(wire.Failed).message == "the app was not set up"
        harness.setup({"a": 1})
        assert harness.run() == {"text": "up"}


def test_a_setup_value_that_does_not_fit_is_told_without_the_lines_of_the_harness(write_app: WriteApp) -> None:
    body = """
    class Settings(BaseAppSetup):
        size: str = "M"

    class App:
        def setup(self, settings: Settings): ...

        def run(self, given: In) -> Out:
            return Out()
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.send(wire.Setup(value={"size": 5}))
        failed = harness.expect(wire.Failed)
        assert (failed.code, failed.name) == ("setup", "ValidationError")
        assert "size" in failed.trace
        assert "harness.py" not in failed.trace


def test_a_value_that_is_too_long_fails_the_call(write_app: WriteApp) -> None:
    body = """
    class App(BaseApp):
        async def run(self, given: In) -> Out:
            return Out(text="x" * (257 << 20))
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={}))
        assert "more than 268435456; give large values back as a file" in harness.expect(wire.Failed).message


def test_frames_are_whole_whoever_sends_them(write_app: WriteApp) -> None:
    body = """
    class App(BaseApp):
        def run(self, given: In):
            for number in range(2000):
                yield Out(text="ä" * number)
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={}))
        *outputs, done = harness.until_ended()
        assert [len(output.value["text"]) for output in outputs if isinstance(output, wire.Output)] == list(range(2000))
        assert isinstance(done, wire.Done)


# How it ends


def test_it_ends_with_everything_it_started_when_the_server_is_gone(write_app: WriteApp) -> None:
    body = """
    import subprocess, time

    class App(BaseApp):
        async def run(self, given: In) -> Out:
            child = subprocess.Popen(["sleep", "600"])
            print(f"child {child.pid}.")
            time.sleep(600)
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={}))
        harness.until_printed(".")
        child = int(harness.printed().split("child ")[1].split(".")[0])
        os.kill(child, 0)
        harness.socket.close()
        assert harness.ended() == -signal.SIGKILL
        deadline = time.monotonic() + PATIENCE_S
        while is_running(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_server_sees_it_end_though_a_fork_lives_on(write_app: WriteApp) -> None:
    body = """
    import os, time

    class App(BaseApp):
        async def run(self, given: In) -> Out:
            if os.fork() == 0:
                os.setsid()
                time.sleep(5)
                os._exit(0)
            os._exit(7)
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={}))
        assert harness.ended() == 7
        began = time.monotonic()
        with pytest.raises(AssertionError, match="the process ended"):
            harness.receive()
        assert time.monotonic() - began < 4


def test_a_crash_shows_its_stack(write_app: WriteApp) -> None:
    body = """
    import ctypes

    class App(BaseApp):
        async def run(self, given: In) -> Out:
            ctypes.string_at(0)
    """
    with python_harness() as harness:
        harness.load(write_app(MODELS + body))
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={}))
        assert harness.ended() == -signal.SIGSEGV
        assert "Segmentation fault" in harness.printed()
        assert "an-app/inference.py" in harness.printed()


def test_it_says_what_it_needs_where_messagepack_is_missing() -> None:
    done = subprocess.run([sys.executable, HARNESS / "harness.py", "0"], capture_output=True, text=True)
    assert "No module named 'msgpack'" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_every_python_that_apps_may_ask_for_understands_it(tmp_path: Path, version: str) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip(f"Python {version} is not installed")
    (tmp_path / "msgpack.py").touch()
    start = f"import sys; sys.path[:0] = [{str(HARNESS)!r}, {str(tmp_path)!r}]; import harness"
    base = HARNESS.with_name("base.py")
    start += f"; from pathlib import Path; compile(Path({str(base)!r}).read_text('utf-8'), 'base.py', 'exec')"
    done = subprocess.run([python, "-W", "error", "-c", start], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
