"""Apps in JavaScript: the same frames, from a process of Node."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from stepwell.wire import app as wire
from tests.apps.harness import HARNESS, Harness, node_app, node_harness
from tests.apps.test_harness import tags

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs node and npm"),
]


@pytest.fixture
def harness() -> Any:
    with node_harness() as harness:
        yield harness


def loaded(harness: Harness, setup: Any = None, **metadata: Any) -> wire.Loaded:
    found = harness.load(node_app("slugs-node"))
    harness.setup(setup, **metadata)
    return found


def test_the_harness_knows_exactly_the_frames_of_the_server() -> None:
    text = (HARNESS / "harness.mjs").read_text(encoding="utf-8")
    assert set(re.findall(r'\.send\("(\w+)"', text)) == tags(wire.FromProcess) - {"delta"}
    assert {*re.findall(r'frame\.type === "(\w+)"', text), *re.findall(r'case "(\w+)":\n', text)} == (
        tags(wire.ToProcess)
    )
    assert f"PROTOCOL = {wire.PROTOCOL};" in text
    assert wire.MAX_FRAME_BYTES == 256 * 1024 * 1024
    assert "MAX_FRAME_BYTES = 256 * 1024 * 1024;" in text


def test_functions_and_schemas_are_those_of_zod(harness: Harness) -> None:
    found = loaded(harness)
    assert list(found.functions) == ["run", "countUp", "upperFile", "wait"]
    assert found.session == "snapshot"
    assert found.functions["run"]["input_schema"] == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "minLength": 1, "maxLength": 200, "description": "what is to be named"},
            "times": {"type": "integer", "minimum": 1, "maximum": 3, "default": 1},
            "style": {"type": "string", "enum": ["plain", "loud"], "default": "plain"},
        },
        "required": ["title"],
    }
    assert found.functions["upperFile"]["input_schema"]["properties"]["file"] == {"type": "string", "format": "file"}
    assert found.setup_schema["properties"]["separator"]["default"] == "-"


def test_calls_get_what_zod_makes_of_the_input(harness: Harness) -> None:
    loaded(harness, {"separator": "_"}, app_variant="gpu")
    harness.send(wire.Run(call="c1", function="run", input={"title": "Größe, und mehr"}, metadata={"task_id": "t1"}))
    assert harness.expect(wire.Done) == wire.Done(
        call="c1",
        value={"slug": "größe_und_mehr", "task": "t1", "variant": "gpu"},
        meta={"inputs": [], "outputs": [{"type": "text", "tokens": 1}]},
    )
    assert harness.printed() == "naming Größe, und mehr\n"
    assert harness.run(input={"title": "a b", "times": 2, "style": "loud"}, task_id="t2")["slug"] == "A_B_A_B"


@pytest.mark.parametrize(
    ("function", "given", "code", "name", "message"),
    [
        ("run", {"title": ""}, "validation", "ZodError", "title: "),
        ("run", {}, "validation", "ZodError", "title: "),
        ("walk", {}, "validation", "Error", "the app has no function 'walk'; it has run, countUp, upperFile, wait"),
        ("run", {"title": "nothing"}, "app", "TypeError", "nothing has no name"),
    ],
)
def test_errors(harness: Harness, function: str, given: Any, code: str, name: str, message: str) -> None:
    loaded(harness)
    harness.send(wire.Run(call="c1", function=function, input=given))
    failed = harness.expect(wire.Failed)
    assert (failed.call, failed.code, failed.name) == ("c1", code, name)
    assert failed.message.startswith(message)
    assert ("inference.js" in failed.trace) == (code == "app")
    assert harness.run(input={"title": "a"}, task_id="t")["slug"] == "a"


def test_a_generator_yields_the_whole_output_so_far(harness: Harness) -> None:
    loaded(harness)
    harness.send(wire.Run(call="c1", function="countUp", input={"to": 3}))
    *outputs, done = harness.until_ended()
    assert outputs == [wire.Output(call="c1", value={"number": number}) for number in (1, 2, 3)]
    assert done == wire.Done(call="c1", value={"number": 3})


def test_files_come_in_and_go_out(harness: Harness) -> None:
    loaded(harness)
    data = "data:text/plain;base64," + base64.b64encode(b"some text").decode()
    note = {"path": "/etc/passwd"}
    harness.send(wire.Run(call="c1", function="upperFile", input={"file": data, "note": note}))
    done = harness.expect(wire.Done)
    assert sorted(map(str, done.files)) == ["['all', 0]", "['file']"]
    assert Path(done.value["file"]["path"]).read_text() == "SOME TEXT"
    assert done.value["file"]["content_type"] == "text/plain"
    assert done.value["note"] == note


@pytest.mark.parametrize(("how", "ended"), [("flag", "by the flag"), ("event", "by onCancel")])
def test_a_call_that_is_cancelled_ends_in_time(harness: Harness, how: str, ended: str) -> None:
    loaded(harness)
    harness.send(wire.Run(call="c1", function="wait", input={"how": how}))
    harness.until_printed("waiting")
    harness.send(wire.Cancel(call="c1"))
    assert harness.expect(wire.Done) == wire.Done(call="c1", value={"ended": ended}, cancelled=True)
    assert harness.run(input={"title": "a"}, task_id="t")["slug"] == "a"


def test_a_generator_is_closed_where_it_yields(harness: Harness) -> None:
    loaded(harness)
    harness.send(wire.Run(call="c1", function="countUp", input={"to": 100_000}))
    harness.expect(wire.Output)
    harness.send(wire.Cancel(call="c1"))
    done = harness.until_ended()[-1]
    assert isinstance(done, wire.Done)
    assert done.cancelled
    assert "cleaned up" in harness.printed()


def test_a_session_is_carried_over_by_its_state(harness: Harness) -> None:
    loaded(harness)
    harness.run(input={"title": "first"}, task_id="t")
    harness.send(wire.Snapshot())
    state = harness.expect(wire.State).state
    harness.send(wire.Restore(state=state))
    harness.expect(wire.Ready)
    harness.send(wire.Snapshot())
    assert harness.expect(wire.State).state != state


def test_calls_made_together_are_refused_one_by_one(harness: Harness) -> None:
    loaded(harness)
    harness.send(wire.RunMany(calls=["a", "b"], function="run", inputs=[{}, {}]))
    for call in ("a", "b"):
        failed = harness.expect(wire.Failed)
        assert (failed.call, failed.message) == (call, "'run' takes one input at a time")


def test_unload_ends_it(harness: Harness) -> None:
    loaded(harness)
    harness.send(wire.Unload())
    assert harness.ended() == 0
    assert harness.printed() == "unloaded\n"


def test_it_ends_when_the_server_is_gone(harness: Harness) -> None:
    loaded(harness)
    harness.socket.close()
    assert harness.ended() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no inference.js"),
        ("export const Other = 1;", "inference.js exports no class named App"),
        ("import 'nowhere-to-be-found';", "Cannot find package 'nowhere-to-be-found'"),
        ("export class {", "Unexpected token"),
    ],
)
def test_an_app_that_cannot_be_imported_says_why(
    harness: Harness, tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "package.json").write_text('{"type": "module"}')
        (tmp_path / "inference.js").write_text(text)
    harness.send(wire.Load(directory=str(tmp_path)))
    failed = harness.expect(wire.Failed)
    assert (failed.code, failed.call) == ("import", "")
    assert message in failed.message
    assert harness.ended() == 1


SCHEMAS = """
export const RunInput = z.object({
  text: z.string().regex(/^a/).optional(),
  mail: z.string().email(),
  page: z.string().url(),
  size: z.number().gt(1).lte(9.5).multipleOf(0.5),
  count: z.number().int().nullable(),
  on: z.boolean().default(true),
  kind: z.literal("one"),
  list: z.array(z.string()).min(1).max(3),
  pair: z.tuple([z.string(), z.number()]),
  map: z.record(z.string(), z.number()),
  either: z.union([z.string(), z.number()]),
  tagged: z.discriminatedUnion("t", [z.object({ t: z.literal("a") }), z.object({ t: z.literal("b") })]),
  changed: z.string().transform((text) => text.length),
  refined: z.string().refine((text) => text.length > 1),
  anything: z.any(),
  both: z.intersection(z.object({ a: z.string() }), z.object({ b: z.string() })),
  native: z.nativeEnum({ Up: 0, Down: 1, 0: "Up", 1: "Down" }),
  nested: z.object({ file: createFileSchema(z).describe("a picture") }).readonly(),
});
export class App {
  run(input) {
    return { kinds: Object.fromEntries(Object.entries(input).map(([name, one]) => [name, typeof one])) };
  }
}
"""


@pytest.mark.parametrize("zod", ["zod", "zod/v3"])
def test_schemas_of_both_generations_of_zod(harness: Harness, tmp_path: Path, zod: str) -> None:
    (tmp_path / "node_modules").symlink_to(node_app("slugs-node") / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    start = f'import {{ z }} from "{zod}";\nimport {{ createFileSchema }} from "@inferencesh/app";\n'
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "inference.js").write_text(start + textwrap.dedent(SCHEMAS))
    schema = harness.load(tmp_path).functions["run"]["input_schema"]
    assert schema["properties"] == {
        "text": {"type": "string", "pattern": "^a"},
        "mail": {"type": "string", "format": "email"},
        "page": {"type": "string", "format": "uri"},
        "size": {"type": "number", "exclusiveMinimum": 1, "maximum": 9.5, "multipleOf": 0.5},
        "count": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "on": {"type": "boolean", "default": True},
        "kind": {"type": "string", "const": "one"},
        "list": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]},
        "map": {"type": "object", "additionalProperties": {"type": "number"}},
        "either": {"anyOf": [{"type": "string"}, {"type": "number"}]},
        "tagged": {
            "anyOf": [
                {"type": "object", "properties": {"t": {"type": "string", "const": kind}}, "required": ["t"]}
                for kind in ("a", "b")
            ]
        },
        "changed": {"type": "string"},
        "refined": {"type": "string"},
        "anything": {},
        "both": {
            "allOf": [
                {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]} for name in ("a", "b")
            ]
        },
        "native": {"type": "number", "enum": [0, 1]},
        "nested": {
            "type": "object",
            "properties": {"file": {"type": "string", "format": "file", "description": "a picture"}},
            "required": ["file"],
        },
    }
    assert set(schema["properties"]) - set(schema["required"]) == {"text", "on", "anything"}
    harness.setup()


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 127, 128, -32, -33, 255, 256, 65535, 65536, 2**32, 2**53 - 1, 0.5, -1e300,
    -(2**53 - 1), "", "x" * 31, "x" * 32, "ä" * 200, "🙂" * 70_000, [], [1] * 15, [1] * 16, [None] * 70_000,
    {}, {str(number): number for number in range(15)}, {str(number): [number] for number in range(70_000)},
    {"a": {"b": [{"c": [0.25, "d", None]}]}},
]  # fmt: skip


def test_values_of_every_size_come_back_as_they_went(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "inference.js").write_text("export class App { run({ value }) { return { value }; } }")
    harness.load(tmp_path)
    harness.setup()
    for value in VALUES:
        assert harness.run(input={"value": value}) == {"value": value}
