"""What apps are written with: run in this process, without a server, and as the harness runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from stepwell.apps import App, Embeddings, File, LanguageModel, batched
from stepwell.wire import app as wire
from tests.apps.harness import Harness, python_harness


class Text(BaseModel):
    text: str


class Length(BaseModel):
    length: int


# In this process


class Measure(App):
    class Setup(BaseModel):
        times: int = 1

    async def setup(self, setup: Setup) -> None:
        self.times = setup.times

    async def run(self, input: Text) -> Length:
        return Length(length=len(input.text) * self.times)


def test_an_app_runs_without_a_server() -> None:
    assert Measure.run_locally(Text(text="four")).length == 4
    assert Measure.run_locally(Text(text="four"), setup=Measure.Setup(times=2)).length == 8
    assert Measure.run_locally(Text(text="four"), setup={"times": 3}).length == 12
    with pytest.raises(ValidationError, match="times"):
        Measure.run_locally(Text(text="four"), setup={"times": "many"})


async def test_run_locally_says_what_to_do_where_a_loop_runs() -> None:
    with pytest.raises(RuntimeError, match=r"`app = Measure\(\)`"):
        Measure.run_locally(Text(text="four"))
    app = Measure()
    await app.setup(Measure.Setup(times=2))
    assert (await app.run(Text(text="four"))).length == 8
    assert not app.context.cancel_requested


def test_every_form_of_run_gives_its_last_output() -> None:
    ended: list[str] = []

    class Streams(App):
        async def run(self, input: Text) -> AsyncIterator[Length]:
            for length in range(len(input.text) + 1):
                yield Length(length=length)

        async def unload(self) -> None:
            ended.append("async")

    class Pulled(App):
        def run(self, input: Text) -> Iterator[Length]:
            yield Length(length=0)
            yield Length(length=len(input.text))

        def unload(self) -> None:
            ended.append("pulled")

    class Plain(App):
        def run(self, input: Text) -> Length:
            return Length(length=len(input.text))

    for app in (Streams, Pulled, Plain):
        assert app.run_locally(Text(text="four")).length == 4
    assert ended == ["async", "pulled"]


async def test_a_batched_function_takes_one_or_many() -> None:
    class Together(App):
        seen: list[int] = []

        @batched(max_size=4, max_wait=0.5)
        async def run(self, inputs: list[Text]) -> list[Length]:
            self.seen.append(len(inputs))
            return [Length(length=len(one.text)) for one in inputs]

        @batched()
        def fails(self, inputs: list[Text]) -> list[Any]:
            return [KeyError(one.text) for one in inputs]

    together = Together()
    assert (await together.run(Text(text="four"))).length == 4
    many: Any = await together.run([Text(text="a"), Text(text="bb")])  # type: ignore[arg-type]  # as the harness does
    assert [one.length for one in many] == [1, 2]
    assert Together.seen == [1, 2]
    assert Together.run.__stepwell_batch__ == (4, 0.5)  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="x"):
        together.fails(Text(text="x"))
    with pytest.raises(ValueError, match="max_size is 1 or more"):
        batched(max_size=0)


# Files


class Pictures(BaseModel):
    first: File
    others: list[File] = []


def test_a_file_is_fetched_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILE_CACHE_DIR", str(tmp_path))
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if "there" in self.path else 404)
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        given = Pictures.model_validate({"first": f"{base}/there/a%20cat.png", "others": [{"uri": f"{base}/gone"}]})
        first, (gone,) = given.first, given.others
        assert (first.filename, first.content_type, first.size) == ("a cat.png", "image/png", None)
        assert asked == []
        assert first.read_bytes() == b"content"
        assert Path(first.path).name == "a cat.png"
        assert File(first.uri).read_text() == "content"
        assert asked == ["/there/a%20cat.png"]
        with pytest.raises(OSError, match=r"the file 'gone' of 127\.0\.0\.1:\d+ cannot be fetched: HTTP Error 404"):
            gone.read_bytes()
        assert list(tmp_path.rglob(".part-*")) == []
        server.shutdown()


async def test_a_data_uri_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILE_CACHE_DIR", str(tmp_path))
    file = Pictures.model_validate({"first": "data:text/plain;base64,aGk="}).first
    assert (await file.fetch()).read_bytes() == b"hi"
    assert (file.filename, file.content_type) == ("file.txt", "text/plain")
    assert File("data:,a%20b").read_text() == "a b"
    assert Path(File(uri="data:,c", filename="../" + "ü" * 300 + ".txt").path).suffix == ".txt"
    with pytest.raises(OSError, match="has a comma before its data"):
        File("data:text/plain").read_text()


def test_files_of_a_process_go_with_it(tmp_path: Path) -> None:
    code = "from stepwell.apps import File; print(File.of(b'x', 'a.txt').path); print(File('data:,y').path)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("FILE_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert all(line.startswith(str(tmp_path)) for line in done.stdout.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_an_input_names_no_path_of_the_machine_that_runs_the_app(tmp_path: Path) -> None:
    for given in ("/etc/passwd", {"path": "/etc/passwd"}, {"uri": "file:///etc/passwd"}, {}, 5, None, {"uri": 5}):
        with pytest.raises(ValidationError, match="a file is an address"):
            Pictures.model_validate({"first": given})
    here = tmp_path / "x.png"
    assert Pictures.model_validate({"first": here}).first.path == str(here)
    sly = Pictures.model_validate({"first": {"uri": "https://host/x", "path": "/etc/passwd", "filename": "../x"}}).first
    assert sly.to_dict() == {"uri": "https://host/x", "filename": "../x"}


def test_a_file_of_bytes_has_the_shape_of_the_wire() -> None:
    file = File.of(b"12345", "a.txt")
    assert file.to_dict() == {"path": file.path, "content_type": "text/plain", "size": 5, "filename": "a.txt"}
    assert Pictures(first=file).model_dump(mode="json")["first"]["size"] == 5
    schema = Pictures.model_json_schema()["properties"]
    assert (schema["first"]["type"], schema["first"]["format"]) == ("string", "file")
    with pytest.raises(ValueError, match="needs a path"):
        File()


# Where it is imported


def test_importing_it_loads_nothing_of_the_server() -> None:
    listing = "import sys; from stepwell.apps import App; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    assert "stepwell.apps.base" in loaded
    assert [name for name in loaded if name.partition(".")[0] in ("msgspec", "uv", "yaml", "aiohttp")] == []


# As the harness runs them


def app_of(folder: Path, code: str) -> Path:
    (folder / "inference.py").write_text(textwrap.dedent(code), encoding="utf-8")
    return folder


@pytest.fixture
def harness() -> Iterator[Harness]:
    with python_harness() as started:
        yield started


WHOLE = """
    from __future__ import annotations
    import asyncio
    from pydantic import BaseModel
    from stepwell.apps import App, File, batched
    import stepwell.apps

    class Shared(App):
        class Input(BaseModel):
            text: str
            picture: File | None = None
        class Output(BaseModel):
            text: str
            file: File | None = None

    class Tools(Shared):
        session = "snapshot"
        class Setup(BaseModel):
            ending: str = "!"
        async def setup(self, setup: Setup) -> None:
            self.logger.info("set up")
            self.ending = setup.ending
        async def run(self, input: Shared.Input) -> Shared.Output:
            return self.Output(text=input.text + self.ending, file=input.picture)
        def write(self, input: Shared.Input) -> Shared.Output:
            return self.Output(text="", file=File.of(input.text.encode(), "out.txt"))
        async def waits(self, input: Shared.Input) -> Shared.Output:
            print("waiting", flush=True)
            while not self.context.cancel_requested:
                await asyncio.sleep(0.01)
            return self.Output(text=f"cancelled {self.context.metadata.task_id}")
        @batched(max_size=3, max_wait=0.2)
        async def many(self, inputs: list[Shared.Input]) -> list[Shared.Output]:
            return [self.Output(text=f"{one.text}{len(inputs)}") for one in inputs]
"""


@pytest.mark.slow
def test_an_app_of_this_base_runs_where_stepwell_is_not_installed(tmp_path: Path, harness: Harness) -> None:
    harness.send(wire.Load(directory=str(app_of(tmp_path, WHOLE))))
    loaded = harness.expect(wire.Loaded)
    assert set(loaded.functions) == {"run", "write", "waits", "many"}
    assert (loaded.functions["many"]["batch_size"], loaded.functions["many"]["batch_wait_ms"]) == (3, 200)
    assert loaded.setup_schema["properties"]["ending"]["default"] == "!"
    assert loaded.session == "snapshot"
    harness.setup({"ending": "?"})
    assert harness.run(input={"text": "hi"})["text"] == "hi?"
    harness.until_printed("set up")

    harness.send(wire.Run(call="f", function="write", input={"text": "content"}))
    done = harness.expect(wire.Done)
    assert done.files == [["file"]]
    assert Path(done.value["file"]["path"]).read_text() == "content"

    gone = "http://127.0.0.1:9/gone.png"  # never fetched: the app only passes it on
    harness.send(wire.Run(call="g", function="run", input={"text": "", "picture": gone}))
    done = harness.expect(wire.Done)
    assert (done.files, done.value["file"]["uri"]) == ([["file"]], gone)

    harness.send(wire.RunMany(calls=["m1", "m2"], function="many", inputs=[{"text": "a"}, {"text": "b"}]))
    assert [harness.expect(wire.Done).value["text"] for _ in range(2)] == ["a2", "b2"]
    assert harness.run("many", {"text": "c"})["text"] == "c1"

    harness.send(wire.Run(call="w", function="waits", input={"text": ""}, metadata={"task_id": "t7"}))
    harness.until_printed("waiting")
    harness.send(wire.Cancel(call="w"))
    done = harness.expect(wire.Done)
    assert (done.value["text"], done.cancelled) == ("cancelled t7", True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("class First(App): ...\nclass Second(App): ...", "several apps: First, Second"),
        ("", "none that inherits from stepwell.apps.App"),
        ("import stepwell.model", "stepwell.model"),
    ],
)
def test_a_file_without_one_app_is_refused(tmp_path: Path, harness: Harness, code: str, told: str) -> None:
    app_of(tmp_path, f"from stepwell.apps import App\n{code}")
    harness.send(wire.Load(directory=str(tmp_path)))
    failed = harness.expect(wire.Failed)
    assert told in failed.message


@pytest.mark.slow
def test_language_models_and_embeddings_say_what_they_are(tmp_path: Path, harness: Harness) -> None:
    code = """
        from stepwell.apps import Embeddings, LanguageModel
        class Model(LanguageModel):
            async def run(self, input: LanguageModel.Input) -> LanguageModel.Output:
                return self.Output(response=input.context[0].text + input.text)
            async def embed(self, input: Embeddings.Input) -> Embeddings.Output:
                return Embeddings.Output(vectors=[[1.0] for _ in input.texts])
    """
    harness.send(wire.Load(directory=str(app_of(tmp_path, code))))
    functions = harness.expect(wire.Loaded).functions
    assert (functions["run"]["capabilities"], functions["embed"]["capabilities"]) == (["llm"], ["embeddings"])
    harness.setup()
    assert harness.run(input={"text": "b", "context": [{"text": "a"}]})["response"] == "ab"
    assert LanguageModel.Output(response="x").usage is None
    assert Embeddings.Output(vectors=[]).tokens == 0
