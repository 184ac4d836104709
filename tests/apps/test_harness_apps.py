"""Apps as people write them, each loaded and called through the real harness in an environment with the real SDK."""

from __future__ import annotations

import base64
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stepwell.wire import app as wire
from tests.apps.harness import python_harness

pytestmark = pytest.mark.slow

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")


def test_a_text_tool() -> None:
    with python_harness() as harness:
        loaded = harness.load("text-reverse")
        assert list(loaded.functions) == ["run"]
        run = loaded.functions["run"]
        assert (run["description"], run["kind"], run["capabilities"]) == ("Turn a text round.", "run", [])
        assert list(run["input_schema"]["properties"]) == ["text", "times"]
        assert run["input_schema"]["properties"]["text"]["description"] == "what to turn round"
        assert run["input_schema"]["required"] == ["text"]
        assert list(run["output_schema"]["properties"]) == ["text", "length", "output_meta"]
        assert (loaded.setup_schema, loaded.session) == ({}, "")
        harness.setup()
        assert harness.run(input={"text": "abc"}) == {"text": "cba", "length": 3}
        assert harness.run(input={"text": "abc", "times": 2}, call="c2") == {"text": "abc", "length": 3}
        harness.send(wire.Unload())
        assert harness.ended() == 0


def test_an_input_that_does_not_fit_fails_with_what_pydantic_says_and_the_next_call_goes_on() -> None:
    with python_harness() as harness:
        harness.load("text-reverse")
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={"text": "abc", "times": 10}))
        failed = harness.expect(wire.Failed)
        assert (failed.call, failed.code, failed.name, failed.trace) == ("c1", "validation", "ValidationError", "")
        assert failed.message.startswith("1 validation error for AppInput\ntimes\n  Input should be less than or equal")
        harness.send(wire.Run(call="c2", function="run", input=["no map"]))
        assert harness.expect(wire.Failed).code == "validation"
        harness.send(wire.Run(call="c3", function="walk", input={}))
        failed = harness.expect(wire.Failed)
        assert (failed.code, failed.message) == ("validation", "the app has no function 'walk'; it has run")
        assert harness.run(input={"text": "ab"}, call="c4") == {"text": "ba", "length": 2}


def test_several_functions_are_found_by_their_annotations() -> None:
    with python_harness() as harness:
        functions = harness.load("many-functions").functions
        assert list(functions) == ["run", "upper", "count", "keys"]  # `run` is inherited, `helper` takes no model
        assert functions["run"]["input_schema"]["properties"] == {}
        assert functions["upper"]["description"] == "Write it in capitals.\n\nLetters only."
        assert functions["count"]["annotations"] == {"readOnlyHint": True}
        assert functions["count"]["credentials"] == [{"slug": "slack"}]
        assert functions["keys"]["input_schema"]["title"] == "Chosen"
        assert functions["keys"]["output_schema"]["title"] == "Counts"
        harness.setup()
        assert harness.run("upper", {"text": "ab"}) == {"text": "AB"}
        assert harness.run("count", {"text": "ab cd"}) == {"letters": 5, "words": 2}
        assert harness.run("keys", {"keys": ["a", "bc"]}) == {"letters": 3, "words": 2}
        harness.send(wire.Run(call="c1", function="run", input={}))
        failed = harness.expect(wire.Failed)
        assert (failed.code, failed.name, failed.message) == (
            "app",
            "NotImplementedError",
            "run method must be implemented",
        )


@pytest.mark.parametrize(("function", "thread"), [("run", "MainThread"), ("slowly", "app_0")])
def test_what_a_generator_yields_is_the_whole_output_so_far(function: str, thread: str) -> None:
    with python_harness() as harness:
        harness.load("words-counted")
        harness.setup()
        harness.send(wire.Run(call="c1", function=function, input={"text": "a b c"}))
        *outputs, done = harness.until_ended()
        texts = [["a"], ["a", "b"], ["a", "b", "c"]]
        assert outputs == [wire.Output(call="c1", value={"words": words, "thread": thread}) for words in texts]
        assert isinstance(done, wire.Done)
        assert done.value == {"words": texts[-1], "thread": thread}
        assert (done.meta is not None) == (function == "run")
        if done.meta is not None:
            assert done.meta["outputs"][0]["tokens"] == 3


def test_a_generator_that_yields_nothing_gives_nothing() -> None:
    with python_harness() as harness:
        harness.load("words-counted")
        harness.setup()
        assert harness.run(input={"text": ""}) is None


def test_a_language_model_streams_deltas_and_ends_with_the_whole() -> None:
    with python_harness() as harness:
        functions = harness.load("chat-words").functions
        assert {name: about["capabilities"] for name, about in functions.items()} == {
            "openai": [],
            "run": ["llm"],
            "only_deltas": ["llm"],
        }
        assert "response" in functions["run"]["output_schema"]["properties"]
        assert functions["openai"]["output_schema"]["title"] == "ChatCompletion"  # what is yielded before are deltas
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={"text": "good day"}))
        first, second, output, done = harness.until_ended()
        assert first == wire.Delta(call="c1", value={"response": "good "})
        assert second == wire.Delta(call="c1", value={"response": "day "})
        assert isinstance(output, wire.Output)
        assert isinstance(done, wire.Done)
        assert done.value["response"] == output.value["response"] == "good day "
        assert done.meta["outputs"][0]["tokens"] == 2
        assert "output_meta" not in {*done.value, *output.value}


def test_deltas_without_an_end_are_put_together() -> None:
    with python_harness() as harness:
        harness.load("chat-words")
        harness.setup()
        harness.send(wire.Run(call="c1", function="only_deltas", input={"text": "good day"}))
        *deltas, done = harness.until_ended()
        assert [delta.value for delta in deltas if isinstance(delta, wire.Delta)] == [
            {"response": "good"},
            {"response": "day"},
        ]
        assert done == wire.Done(call="c1", value={"response": "goodday"})


def test_the_mixin_of_the_sdk_speaks_chat_completions() -> None:
    with python_harness() as harness:
        harness.load("chat-words")
        harness.setup()
        messages = [{"role": "user", "content": "good day"}]
        harness.send(wire.Run(call="c1", function="openai", input={"messages": messages}))
        *_, done = harness.until_ended()
        assert isinstance(done, wire.Done)
        assert done.value["choices"][0]["message"]["content"] == "good day "
        assert done.value["model"] == "words"


def test_a_typed_setup_gets_its_defaults_and_a_second_one_a_fresh_instance() -> None:
    with python_harness() as harness:
        loaded = harness.load("upscale-model")
        assert list(loaded.setup_schema["properties"]) == ["model", "layers"]
        harness.setup(None)
        assert harness.run(input={"size": 1}) == {"size": 4, "model": "small", "variant": "default", "setups": 1}
        harness.setup({"model": "large", "layers": 3}, app_variant="gpu")
        assert "unloaded small" in harness.printed()
        assert harness.run(input={"size": 1}) == {"size": 8, "model": "large", "variant": "gpu", "setups": 1}


def test_a_setup_value_that_does_not_fit_fails_the_setup() -> None:
    with python_harness() as harness:
        harness.load("upscale-model")
        harness.send(wire.Setup(value={"layers": 0}))
        failed = harness.expect(wire.Failed)
        assert (failed.code, failed.call, failed.name) == ("setup", "", "ValidationError")
        assert "layers" in failed.message


def test_helpers_are_imported_from_a_directory_of_any_name() -> None:
    with python_harness() as harness:
        harness.load("relative-imports-1.5")
        harness.setup()
        assert harness.run(input={"words": ["a", "b"]}) == {"text": "a-b-provider-sibling-file"}


def test_a_secret_is_there_when_the_app_is_imported() -> None:
    with python_harness(PROVIDER_API_KEY="12345", MODE="production") as harness:
        harness.load("needs-a-key")
        harness.setup()
        assert harness.run() == {"key_length": 5, "mode": "production"}


def test_a_missing_secret_fails_the_import_by_name() -> None:
    with python_harness() as harness:
        harness.send(wire.Load(directory=str(Path(__file__).parent / "apps" / "needs-a-key")))
        failed = harness.expect(wire.Failed)
        assert (failed.code, failed.name) == ("import", "KeyError")
        assert failed.message == "the app cannot be imported: KeyError: 'PROVIDER_API_KEY'"
        first_place = failed.trace.splitlines()[1]
        assert "needs-a-key/inference.py" in first_place
        assert harness.ended() == 1


def test_files_come_in_by_url_and_data_uri_and_go_out_by_path() -> None:
    class Serve(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(PIXEL)))
            self.end_headers()
            self.wfile.write(PIXEL)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with python_harness() as harness:
            functions = harness.load("image-tool").functions
            assert functions["run"]["input_schema"]["properties"]["image"]["format"] == "file"
            harness.setup()
            note = {"path": "/etc/passwd", "uri": "x"}
            data = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
            url = f"http://127.0.0.1:{server.server_port}/pixel.png"
            harness.send(
                wire.Run(call="c1", function="run", input={"image": url, "sizes": [4, 8], "mask": data, "note": note})
            )
            done = harness.expect(wire.Done)
            assert done.value["has_mask"] is True
            assert done.meta["outputs"][1]["width"] == 8
            assert sorted(map(str, done.files)) == sorted(
                map(str, [["image"], ["resized", 0], ["resized", 1], ["by_size", "4"], ["by_size", "8"], ["loose", 0]])
            )
            assert done.value["note"] == note  # no file: it was only passed on
            for place in done.files:
                file: Any = done.value
                for key in place:
                    file = file[key]
                assert Path(file["path"]).read_bytes().startswith(b"\x89PNG")
                assert file["content_type"] == "image/png"
                assert file["size"] == Path(file["path"]).stat().st_size
            harness.send(wire.Run(call="c2", function="run", input={"image": f"{url[:-4]}", "mask": ""}))
            assert harness.expect(wire.Done).value["has_mask"] is False
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_that_cannot_be_fetched_fails_the_input() -> None:
    with python_harness() as harness:
        harness.load("image-tool")
        harness.setup()
        harness.send(wire.Run(call="c1", function="run", input={"image": "http://127.0.0.1:9/gone.png"}))
        failed = harness.expect(wire.Failed)
        assert failed.code == "validation"
        assert "http://127.0.0.1:9/gone.png" in failed.message


def test_what_is_printed_and_logged_is_there_before_the_end_of_the_call() -> None:
    with python_harness() as harness:
        harness.load("chatty")
        assert harness.printed() == "imported\n"
        harness.setup()
        harness.run(input={"text": "this"})
        lines = harness.printed().splitlines()
        assert lines[1] == "printed this"
        assert {"INFO logged this", "INFO by the given logger", "by a child"} <= set(lines[2:])
        whole = harness.printed()
        assert "without an end" in whole
        assert "to stderr" in whole
        assert "by the metadata" in whole
        assert whole.count("by the given logger") == 1


def test_an_app_without_any_sdk() -> None:
    with python_harness() as harness:
        functions = harness.load("without-base").functions
        assert list(functions) == ["run"]
        assert functions["run"]["output_schema"]["title"] == "Answer"
        harness.setup({"unit": "m"})
        assert harness.run(input={"numbers": [1, 2.5]}) == {"total": 3.5, "unit": "m"}
        harness.send(wire.Unload())
        assert harness.ended() == 0
        assert harness.printed() == "unloaded\n"


def test_a_session_is_carried_over_by_its_state() -> None:
    with python_harness() as first, python_harness() as second:
        assert first.load("notebook").session == "snapshot"
        first.setup()
        first.run(input={"note": "a"})
        first.send(wire.Snapshot())
        state = first.expect(wire.State).state
        second.load("notebook")
        second.setup()
        second.send(wire.Restore(state=state))
        second.expect(wire.Ready)
        assert second.run(input={"note": "b"}) == {"notes": ["a", "b"]}


def test_calls_that_are_made_together_end_each_by_itself() -> None:
    with python_harness() as harness:
        loaded = harness.load("embed-lengths")
        run = loaded.functions["run"]
        assert loaded.session == "rebuild"
        assert (run["batch_size"], run["batch_wait_ms"], run["capabilities"]) == (8, 20.0, ["embeddings"])
        assert run["input_schema"]["title"] == "Input"
        assert run["output_schema"]["title"] == "Output"
        harness.setup()
        calls = ["a", "b", "c", "d"]
        inputs: list[Any] = [{"texts": ["x", "yy"]}, {"texts": 4}, {"texts": ["bad"]}, {"texts": []}]
        harness.send(wire.RunMany(calls=calls, function="run", inputs=inputs))
        frames = {frame.call: frame for frame in (harness.receive() for _ in calls) if hasattr(frame, "call")}
        assert frames["a"] == wire.Done(call="a", value={"vectors": [[1.0], [2.0]]})
        assert frames["d"] == wire.Done(call="d", value={"vectors": []})
        unfit, bad = frames["b"], frames["c"]
        assert isinstance(unfit, wire.Failed)
        assert isinstance(bad, wire.Failed)
        assert (unfit.code, unfit.name) == ("validation", "ValidationError")
        assert (bad.code, bad.name, bad.message) == ("app", "ValueError", "bad text")
        assert harness.run(input={"texts": ["zzz"]}, call="e") == {"vectors": [[3.0]]}  # one alone, in the same way
        harness.send(wire.RunMany(calls=["f", "g"], function="short", inputs=[{"texts": []}, {"texts": []}]))
        for call in ("f", "g"):
            failed = harness.expect(wire.Failed)
            assert (failed.call, failed.name) == (call, "TypeError")
            assert failed.message == "'short' was given 2 inputs and is to return as many, not 0"
        assert harness.printed().splitlines() == ["3 at a time", "1 at a time"]
