"""What `inf.yml` says, in every form in which its keys are written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepwell.apps.manifest import MAX_BYTES, Manifest, parse_manifest, read_manifest
from stepwell.model.app import Needed, Resources, Scaling, Variant
from stepwell.model.errors import InvalidInput

EVERYTHING = """
namespace: acme
name: upscale
description: Makes images larger.
category: image
kernel: python-3.11
resources:
  gpu: {count: 1, vram: 24, type: nvidia}
  ram: 16
env: {COUNTRY: NO, RATE: 1.10, DEBUG: true, EMPTY:}
images: {card: "https://example.com/card.png"}
metadata:
  checksum: 0123
  quoted: "12"
  tags: [a, b]
  rate: 1.5
  public: true
  nothing: null
secrets:
  - {key: API_KEY, description: From the dashboard., optional: false}
  - {key: OTHER, optional: yes}
integrations:
  - {key: google.calendar, description: Read it., optional: true}
functions:
  - {name: run, description: Upscale.}
  - {name: tile}
default_function: tile
variants:
  large: {resources: {gpu: {count: 2}}, env: {SIZE: large}}
scaling: {min: 1, max: 3, idle: 90}
"""


def test_every_key_is_read() -> None:
    assert parse_manifest(EVERYTHING.encode()) == Manifest(
        name="upscale",
        namespace="acme",
        description="Makes images larger.",
        category="image",
        kernel="python-3.11",
        resources=Resources(gpus=1, vram_bytes=24_000_000_000, gpu_type="nvidia", ram_bytes=16_000_000_000),
        variables={"COUNTRY": "NO", "RATE": "1.10", "DEBUG": "true", "EMPTY": ""},
        images={"card": "https://example.com/card.png"},
        metadata={"checksum": 123, "quoted": "12", "tags": ["a", "b"], "rate": 1.5, "public": True, "nothing": None},
        secrets=(Needed(key="API_KEY", description="From the dashboard."), Needed(key="OTHER", optional=True)),
        integrations=(Needed(key="google.calendar", description="Read it.", optional=True),),
        functions={"run": "Upscale.", "tile": ""},
        default_function="tile",
        variants={"large": Variant(resources=Resources(gpus=2), env={"SIZE": "large"})},
        scaling=Scaling(least=1, most=3, idle_ms=90_000),
    )


def test_what_is_left_out_or_empty_has_a_default() -> None:
    bare = parse_manifest(b"name: a")
    assert bare == Manifest(name="a")
    keys = "kernel namespace category resources env images metadata secrets functions variants scaling credentials"
    assert parse_manifest(b"name: a\n" + "\n".join(f"{key}:" for key in keys.split()).encode()) == bare
    assert parse_manifest(b"name: a\nenv: ~\nkernel: null\nresources: {gpu: , ram: }") == bare


@pytest.mark.parametrize(
    ("written", "kernel"),
    [
        ("python-3.11", "python-3.11"), ("3.10", "python-3.10"), ('"3.12"', "python-3.12"), ("''", "python"),
        ("python", "python"), ("python3.12", "python-3.12"), ("python3", "python"), ("node-22", "node-22"),
        ("node", "node"), ("Python-3.11", "python-3.11"),
    ],
)  # fmt: skip
def test_a_kernel_is_written_in_many_ways(written: str, kernel: str) -> None:
    assert parse_manifest(f"name: a\nkernel: {written}".encode()).kernel == kernel


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("24", 24 * 10**9), ("0.5", 5 * 10**8), ("999", 999 * 10**9), ("1000", 10**9), ("24000", 24 * 10**9),
        ("999999999", 999_999_999 * 10**6), ("1000000000", 10**9), ("25769803776", 25769803776), ("24GB", 24 * 10**9),
        ("16 GiB", 16 * 2**30), ("512M", 512 * 10**6), ("", 0), ("0", 0),
    ],
)  # fmt: skip
def test_a_size_counts_gigabytes_megabytes_or_bytes(written: str, size: int) -> None:
    assert parse_manifest(f"name: a\nresources: {{ram: {written} }}".encode()).resources.ram_bytes == size


@pytest.mark.parametrize(
    ("gpu", "resources"),
    [
        ("{count: 0, type: any}", Resources()),
        ("{count: 1, type: any}", Resources(gpus=1)),
        ("{count: 2, vram: 80, type: none}", Resources()),
        ("{vram: 8}", Resources(gpus=1, vram_bytes=8 * 10**9)),
        ("{count: 1, type: AMD}", Resources(gpus=1, gpu_type="amd")),
    ],
)
def test_no_gpu_is_asked_for_by_a_count_of_none(gpu: str, resources: Resources) -> None:
    assert parse_manifest(f"name: a\nresources: {{gpu: {gpu} }}".encode()).resources == resources


def test_lists_and_maps_of_functions_say_the_same() -> None:
    expected = {"run": "Go.", "stop": ""}
    for written in (
        "[{name: run, description: Go.}, stop]",
        "{run: {description: Go.}, stop: {}}",
        "{run: Go., stop: }",
    ):
        assert parse_manifest(f"name: a\nfunctions: {written}".encode()).functions == expected


def test_credentials_are_secrets_or_integrations() -> None:
    manifest = parse_manifest(b"""
name: a
secrets: [{key: TOKEN, description: Ours.}]
credentials:
  google: {capabilities: [calendar, mail], provider: google, optional: true}
  github: {secrets: [GITHUB_TOKEN, {key: TOKEN}], description: To read code.}
  slack: {}
""")
    assert manifest.secrets == (
        Needed(key="GITHUB_TOKEN", description="To read code."),
        Needed(key="TOKEN", description="Ours."),
    )
    assert manifest.integrations == (
        Needed(key="google.calendar", optional=True),
        Needed(key="google.mail", optional=True),
        Needed(key="slack"),
    )
    listed = parse_manifest(b"name: a\ncredentials: [{slug: google, capabilities: [mail]}, slack]")
    assert [needed.key for needed in listed.integrations] == ["google.mail", "slack"]


def test_what_we_do_not_know_is_a_warning() -> None:
    manifest = parse_manifest(
        b"name: a\ncolour: red\nresources: {disk: 4, gpu: {brand: x, type: tpu}}\nsecrets: [{key: K, form: x}]\n"
        b"sandbox: {host_network: true}"
    )
    assert [warning.split(":")[1].strip() for warning in manifest.warnings] == [
        "colour", "secrets[0].form", "sandbox", "resources.disk", "resources.gpu.brand", "resources.gpu.type",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "inf.yml: name: expected the name of the app"),
        ("name: [a]", "inf.yml: name: expected a text; found ['a']"),
        ("name: a b", "inf.yml: name: expected letters, digits"),
        ("- a", "inf.yml: the whole file: expected a map"),
        ("name: a\nkernel: ruby-3", "inf.yml: kernel: expected `python`"),
        ("name: a\nkernel: python-11", "inf.yml: kernel: expected a version such as"),
        ("name: a\nresources: {gpu: {vram: much}}", "inf.yml: resources.gpu.vram: expected a size"),
        ("name: a\nresources: {gpu: {count: -1}}", "inf.yml: resources.gpu.count: expected a whole number; found '-1'"),
        ("name: a\nresources: 4", "inf.yml: resources: expected a map"),
        ("name: a\nenv: {A: [b]}", "inf.yml: env.A: expected a text"),
        ("name: a\nenv: {A-B: c}", "inf.yml: env.A-B: expected the name of a variable"),
        ("name: a\nsecrets: {A: b}", "inf.yml: secrets: expected a list"),
        ("name: a\nsecrets: [{description: x}]", "inf.yml: secrets[0].key: expected the name of a variable"),
        ("name: a\nsecrets: [{key: A, optional: perhaps}]", "inf.yml: secrets[0].optional: expected true or false"),
        ("name: a\nfunctions: [{description: x}]", "inf.yml: functions[0]: expected an entry with `name`"),
        ("name: a\ndefault_function: a-b", "inf.yml: default_function: expected the name of a function"),
        ("name: a\nscaling: {min: 3, max: 2}", "inf.yml: scaling.max: expected at least 3"),
        ("name: a\nmetadata: x", "inf.yml: metadata: expected a map"),
        ("name: a\nname: b", "inf.yml: line 2: 'name' is there twice"),
        ("name: a\n  b: c", "inf.yml: line 2, column 4: mapping values are not allowed"),
        ("name: \x01", "inf.yml: "),
        ('name: "\\uD800"', "inf.yml: line 1: holds half a character"),
        ("name: a\nmetadata: &a [*a]", "inf.yml: is nested too deep"),
        ("name: a\nmetadata: " + "[" * 5000, "inf.yml: is nested too deep"),
    ],
)  # fmt: skip
def test_an_error_names_the_key_and_what_it_expects(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_manifest(text.encode())
    assert told in str(raised.value)


def test_aliases_cannot_make_a_small_file_large() -> None:
    lines = ["name: a", "metadata:", "  l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InvalidInput, match=r"more than 50,000 values"):
        parse_manifest("\n".join(lines).encode())


def test_a_file_that_is_too_large_or_no_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"larger than 1,048,576 bytes"):
        parse_manifest(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidInput, match=r"not UTF-8"):
        parse_manifest(b"name: \xff")


def test_a_directory_without_one_is_no_app(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"it has no inf\.yml; write one that says at least `name: my-app`"):
        read_manifest(tmp_path)
    with pytest.raises(InvalidInput, match=r"there is no directory .*absent"):
        read_manifest(tmp_path / "absent")
    (tmp_path / "inf.yml").write_text("name: a")
    assert read_manifest(tmp_path).name == "a"
    (tmp_path / "inf.yml").unlink()
    (tmp_path / "inf.yml").mkdir()
    with pytest.raises(InvalidInput, match=r"cannot be read"):
        read_manifest(tmp_path)


SCALARS = st.sampled_from(
    ["1", "-2.5", "1e999", "9" * 30, "true", "null", "~", "x", "'1'", ".inf", "0x1F", "2026-01-01"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda some: f"[{', '.join(some)}]")
        | st.dictionaries(st.sampled_from(["a", "key", "name", "description", "gpu", "count"]), inner, max_size=3).map(
            lambda some: "{" + ", ".join(f"{key}: {value}" for key, value in some.items()) + "}"
        )
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    "namespace description category kernel resources env images metadata secrets integrations functions sandbox"
    " default_function credentials variants scaling colour".split()
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
@example({"metadata": "[1e999]"})
def test_whatever_is_written_is_read_or_refused_by_key(fields: dict[str, str]) -> None:
    text = "\n".join(["name: a", *(f"{key}: {value}" for key, value in fields.items())])
    found = parsed(text.encode())
    if isinstance(found, str):
        assert found.startswith("inf.yml: ")
    else:
        assert msgspec.json.decode(msgspec.json.encode(found), type=Manifest) == found


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    found = parsed(raw)
    assert isinstance(found, Manifest) or found.startswith("inf.yml")


def parsed(raw: bytes) -> Manifest | str:
    """The manifest, or why it is refused."""
    try:
        return parse_manifest(raw)
    except InvalidInput as err:
        return str(err)
