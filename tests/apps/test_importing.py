"""From a directory to a version: the real harness in a real environment, of packages that lie on this disk."""

from __future__ import annotations

import io
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from stepwell.apps.environment import Environments, EnvironmentSettings
from stepwell.apps.importing import Importer, example_input, short_id
from stepwell.apps.isolation import find_isolation
from stepwell.apps.package import Packages, write_archive
from stepwell.model.app import AppVersion, Needed, Resources
from stepwell.model.errors import BuildFailed, Conflict, InvalidInput
from tests.apps.harness import APPS, python
from tests.apps.wheels import repack

pytestmark = pytest.mark.slow

KERNEL = f"python-{sys.version_info[0]}.{sys.version_info[1]}"
NOTHING = "class App:\n    def run(self, given):\n        return given\n"


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of apps in a data folder, shared by the tests: environments take a second each."""
    return tmp_path_factory.mktemp("data") / "apps"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EnvironmentSettings:
    wheels = tmp_path_factory.mktemp("wheels")
    repack(wheels, python())
    return EnvironmentSettings(find_links=(str(wheels),), offline=True)


@pytest.fixture
def importer(apps: Path, settings: EnvironmentSettings) -> Importer:
    return an_importer(apps, settings)


def an_importer(apps: Path, settings: EnvironmentSettings, describe_s: float = 60.0) -> Importer:
    return Importer(
        apps,
        packages=Packages(apps / "packages"),
        environments=Environments(apps / "environments", settings),
        isolation=find_isolation("auto"),
        describe_s=describe_s,
    )


def an_app(folder: Path, code: str = NOTHING, manifest: str = "", **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "inf.yml").write_text(f"namespace: acme\nname: tool\nkernel: {KERNEL}\n{textwrap.dedent(manifest)}")
    (folder / "inference.py").write_text(textwrap.dedent(code))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


async def test_an_app_becomes_a_version(tmp_path: Path, importer: Importer, apps: Path) -> None:
    code = """
        from pydantic import BaseModel
        class Question(BaseModel):
            text: str
            times: int = 1
        class Answer(BaseModel):
            text: str
        class Choice(BaseModel):
            size: str = "small"
        class App:
            async def setup(self, config: Choice): ...
            async def run(self, question: Question) -> Answer:
                '''Repeat a text.'''
            async def shout(self, question: Question) -> Answer: ...
    """
    manifest = """
        description: Repeats.
        category: text
        resources: {gpu: {count: 1, vram: 8}}
        env: {MODE: quiet}
        metadata: {tags: [a]}
        secrets: [{key: TOKEN, optional: true}]
        functions: {shout: Repeat loudly.}
        default_function: shout
    """
    folder = an_app(tmp_path / "app", code, manifest)
    (folder / "requirements.txt").write_text("pydantic\n")
    told: list[str] = []
    version = await importer.import_directory(folder, now=5, progress=told.append)
    run, shout = version.functions["run"], version.functions["shout"]
    assert run.description == "Repeat a text."
    assert shout.description == "Repeat loudly."
    assert run.input_schema["properties"]["times"] == {"default": 1, "title": "Times", "type": "integer"}
    assert run.input_schema["required"] == ["text"]
    assert list(run.output_schema["properties"]) == ["text"]
    assert list(version.setup_schema["properties"]) == ["size"]
    assert version.reference == f"acme/tool@{short_id(version.checksum)}"
    assert version == AppVersion(
        namespace="acme",
        name="tool",
        version=version.version,
        checksum=version.checksum,
        created_at=5,
        kernel=KERNEL,
        description="Repeats.",
        category="text",
        metadata={"tags": ["a"]},
        variables={"MODE": "quiet"},
        resources=Resources(gpus=1, vram_bytes=8 * 10**9),
        secrets=(Needed(key="TOKEN", optional=True),),
        functions=version.functions,
        default_function="shout",
        setup_schema=version.setup_schema,
    )
    assert told[0].startswith(f"{version.reference}: 3 files")
    assert Packages(apps / "packages").find(version.checksum) is not None
    assert list((apps / "workers").iterdir()) == []


async def test_apps_as_people_write_them_are_imported(importer: Importer) -> None:
    """Links to shared helpers, relative imports, directory names that are no identifiers, generators, no base class."""
    checked = 0
    for folder in sorted(APPS.iterdir()):
        if not (folder / "inference.py").is_file():
            continue
        version = await importer.import_directory(folder)
        assert version.app == f"tests/{folder.name}"
        assert version.functions[version.default_function].input_schema["type"] == "object"
        checked += 1
    assert checked > 10


async def test_the_same_content_is_the_same_version_also_as_an_archive(tmp_path: Path, importer: Importer) -> None:
    folder = an_app(tmp_path / "app")
    first = await importer.import_directory(folder)
    assert await importer.import_directory(folder, known={first.version: first.checksum}) == first
    archive = io.BytesIO()
    write_archive(folder, archive)
    archive.seek(0)
    assert await importer.import_archive(archive) == first
    (folder / "inference.py").write_text(NOTHING + "# changed\n")
    assert (await importer.import_directory(folder)).version != first.version


async def test_a_version_is_imported_under_a_stated_name_and_id(tmp_path: Path, importer: Importer) -> None:
    folder = an_app(tmp_path / "app")
    version = await importer.import_directory(folder, as_="infsh/text-templating", version="53bk0yzk")
    assert version.reference == "infsh/text-templating@53bk0yzk"
    assert (await importer.import_directory(folder, as_="other")).app == "acme/other"


async def test_a_short_id_means_one_content(tmp_path: Path, importer: Importer) -> None:
    folder = an_app(tmp_path / "app")
    told: list[str] = []
    with pytest.raises(Conflict, match=r"acme/tool@abcd is there already and has other files.*--version"):
        await importer.import_directory(folder, version="abcd", known={"abcd": "0" * 64}, progress=told.append)
    assert told == []


@pytest.mark.parametrize("version", ["abc", "abcdefghi", "ABCD", "ab-d", "äbcd"])
async def test_a_short_id_is_four_to_eight_letters_and_digits(tmp_path: Path, importer: Importer, version: str) -> None:
    with pytest.raises(InvalidInput, match=r"not written in 4 to 8 small letters and digits"):
        await importer.import_directory(an_app(tmp_path / "app"), version=version)


def test_short_ids_are_eight_letters_of_the_checksum() -> None:
    assert short_id("0" * 64) == "00000000"
    assert short_id("f" * 64) == "zzzzzzzz"
    assert short_id("0123456789" + "0" * 54) == "04hmasw9"


async def test_an_app_needs_a_namespace(tmp_path: Path, importer: Importer) -> None:
    folder = an_app(tmp_path / "app")
    (folder / "inf.yml").write_text(f"name: tool\nkernel: {KERNEL}\n")
    with pytest.raises(InvalidInput, match=r"in no namespace; .* `--as NAMESPACE/tool`"):
        await importer.import_directory(folder)
    assert (await importer.import_directory(folder, own_namespace="mine")).app == "mine/tool"
    assert (await importer.import_directory(folder, own_namespace="mine", as_="a/b")).app == "a/b"
    with pytest.raises(InvalidInput, match=r"the version is given apart"):
        await importer.import_directory(folder, as_="a/b@cdef")


async def test_secrets_that_are_read_at_import_need_not_be_there(tmp_path: Path, importer: Importer) -> None:
    code = "import json, os\nkey = os.environ['TOKEN']\njson.loads(os.environ['GOOGLE_SA_CREDENTIALS'])\n" + NOTHING
    manifest = "secrets: [{key: TOKEN}]\nintegrations: [{key: google.calendar}]\n"
    await importer.import_directory(an_app(tmp_path / "app", code, manifest))


async def test_the_server_s_environment_is_not_seen_at_import(
    tmp_path: Path, importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = "import os\nassert 'OPENAI_API_KEY' not in os.environ\nassert os.environ['MODE'] == 'x'\n" + NOTHING
    await importer.import_directory(an_app(tmp_path / "app", code, "env: {MODE: x}"))


async def test_without_the_hardware_the_committed_schemas_count(tmp_path: Path, importer: Importer) -> None:
    code = "raise RuntimeError('Found no NVIDIA driver on your system')\n" + NOTHING
    folder = an_app(tmp_path / "app", code)
    with pytest.raises(InvalidInput, match=r"Found no NVIDIA driver"):
        await importer.import_directory(folder)
    schema = {"type": "object", "properties": {"prompt": {"type": "string"}}}
    an_app(folder, code, input_schema=schema, output_schema={"type": "object"}, setup_schema={"title": "Setup"})
    told: list[str] = []
    version = await importer.import_directory(folder, progress=told.append)
    assert version.functions["run"].input_schema == schema
    assert version.setup_schema == {"title": "Setup"}
    assert any("Found no NVIDIA driver" in line and "are taken from the schemas beside it" in line for line in told)
    an_app(
        folder,
        code,
        functions_schema={"draw": {"description": "Draw.", "input_schema": schema, "kind": "run", "more": 1}},
    )
    version = await importer.import_directory(folder)
    assert version.default_function == "draw"
    assert version.functions["draw"].description == "Draw."


async def test_damaged_schemas_do_not_count(tmp_path: Path, importer: Importer) -> None:
    code = "raise RuntimeError('no driver')\n" + NOTHING
    told: list[str] = []
    for damaged in ("{", "[1]", '{"run": 1}'):
        with pytest.raises(InvalidInput, match=r"no driver"):
            await importer.import_directory(
                an_app(tmp_path / "app", code, functions_schema=damaged), progress=told.append
            )
    assert sum("functions_schema.json" in line for line in told) == 3
    with pytest.raises(InvalidInput, match=r"function 'run' of the app is described wrongly"):
        await importer.import_directory(an_app(tmp_path / "app", code, functions_schema={"run": {"kind": 1}}))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("x = undefined\n", "name 'undefined' is not defined"),
        ("class Other: ...\n", "no class named App"),
        ("class App: ...\n", "the app has no functions"),
        ("import os\nprint('goodbye')\nos._exit(3)\n", "ended by itself with status 3\ngoodbye"),
    ],
)
async def test_an_app_that_cannot_be_loaded_says_why(
    tmp_path: Path, importer: Importer, apps: Path, code: str, told: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        await importer.import_directory(an_app(tmp_path / "app", code))
    assert told in str(raised.value)
    assert list((apps / "workers").iterdir()) == []


async def test_an_error_of_the_code_is_no_lack_of_hardware(tmp_path: Path, importer: Importer) -> None:
    folder = an_app(tmp_path / "app", "x = undefined\n", input_schema={}, output_schema={})
    with pytest.raises(InvalidInput, match=r"(?s)name 'undefined' is not defined.*inference\.py"):
        await importer.import_directory(folder)


async def test_loading_has_a_limit(tmp_path: Path, apps: Path, settings: EnvironmentSettings) -> None:
    folder = an_app(tmp_path / "app", "import time\ntime.sleep(3600)\n")
    with pytest.raises(InvalidInput, match=r"was not loaded within 1 s"):
        await an_importer(apps, settings, describe_s=1.0).import_directory(folder)
    assert list((apps / "workers").iterdir()) == []


async def test_a_default_function_is_one_that_there_is(tmp_path: Path, importer: Importer) -> None:
    with pytest.raises(InvalidInput, match=r"default_function: there is no function 'draw'; the app has run"):
        await importer.import_directory(an_app(tmp_path / "app", manifest="default_function: draw"))


async def test_an_app_begins_where_its_kernel_does(tmp_path: Path, importer: Importer) -> None:
    folder = an_app(tmp_path / "app")
    (folder / "inference.py").rename(folder / "other.py")
    with pytest.raises(InvalidInput, match=r"no inference\.py, which its kernel 'python-3\.\d+' begins with"):
        await importer.import_directory(folder)
    (folder / "inf.yml").write_text("namespace: a\nname: b\nkernel: node-22\n")
    with pytest.raises(
        InvalidInput, match=r"no inference\.js or src/inference\.js or inference\.mjs, which its kernel 'node-22'"
    ):
        await importer.import_directory(folder)


async def test_an_app_in_javascript_is_imported(apps: Path) -> None:
    told: list[str] = []
    importer = an_importer(apps, EnvironmentSettings())
    version = await importer.import_directory(APPS / "slugs-node", progress=told.append)
    assert (version.app, version.kernel, version.default_function) == ("tests/slugs-node", "node-22", "run")
    assert version.functions["run"].input_schema["type"] == "object"
    assert await importer.import_directory(APPS / "slugs-node") == version


async def test_what_is_no_app_is_not_copied(tmp_path: Path, settings: EnvironmentSettings) -> None:
    with pytest.raises(InvalidInput, match=r"it has no inf\.yml"):
        await an_importer(tmp_path / "apps", settings).import_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_requirements_that_cannot_be_had_are_told(tmp_path: Path, importer: Importer) -> None:
    folder = an_app(tmp_path / "app")
    (folder / "requirements.txt").write_text("no-such-package-of-ours")
    with pytest.raises(BuildFailed, match=r"no-such-package-of-ours was not found"):
        await importer.import_directory(folder)


def test_sample_inputs_are_known(tmp_path: Path) -> None:
    assert example_input(tmp_path) is None
    (tmp_path / "example.input.json").write_text('{"a": 1}')
    assert example_input(tmp_path) == {"a": 1}
    (tmp_path / "input.json").write_text('{"b": 2}')
    assert example_input(tmp_path) == {"b": 2}
    (tmp_path / "input.json").write_text("{")
    assert example_input(tmp_path) == {"a": 1}


async def test_a_single_file_is_an_app(tmp_path: Path, importer: Importer) -> None:
    file = tmp_path / "embed.py"
    file.write_text(
        textwrap.dedent(
            """
            # /// script
            # dependencies = ["pydantic>=2"]
            # ///
            from stepwell.apps import Embeddings

            class Vectors(Embeddings):
                resources = {"ram": "1GB"}

                async def run(self, input: Embeddings.Input) -> Embeddings.Output:
                    return self.Output(vectors=[[float(len(text))] for text in input.texts])
            """
        )
    )
    version = await importer.import_directory(file, own_namespace="me")
    assert version.app == "me/vectors"
    assert version.resources == Resources(ram_bytes=10**9)
    assert version.functions["run"].capabilities == ("embeddings",)
    assert (await importer.import_directory(file, own_namespace="me")).version == version.version
    file.write_text(file.read_text().replace('"1GB"', "size"))
    with pytest.raises(InvalidInput, match=r"embed.py.*Vectors.resources is read without running the code"):
        await importer.import_directory(file, own_namespace="me")
