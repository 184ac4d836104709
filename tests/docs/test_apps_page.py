"""The app on its page is imported and called, and gives what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from stepwell.apps import manifest
from stepwell.apps.environment import Environments, EnvironmentSettings
from stepwell.apps.importing import Importer, example_input
from stepwell.apps.package import Packages
from stepwell.apps.settings import AppSettings
from stepwell.cli import cli
from stepwell.wire import app as wire
from tests.apps.harness import Harness, python
from tests.apps.wheels import repack
from tests.docs.pages import DOCS, read_page
from tests.docs.running import running_server

PAGE = read_page(DOCS / "apps.md")


@pytest.mark.slow
async def test_the_app_on_the_page_gives_what_the_page_says(tmp_path: Path) -> None:
    folder = tmp_path / "summary"
    folder.mkdir()
    for block in PAGE.blocks:
        if block.title and block.title not in ("output", "embed.py"):
            (folder / block.title).write_text(block.text)
    repack(tmp_path / "wheels", python())
    settings = EnvironmentSettings(find_links=(str(tmp_path / "wheels"),), offline=True)
    packages, environments = Packages(tmp_path / "packages"), Environments(tmp_path / "environments", settings)
    told: list[str] = []
    importer = Importer(tmp_path, packages=packages, environments=environments)
    version = await importer.import_directory(folder, progress=told.append)
    assert version.app == "acme/summary"
    assert {name: function.description for name, function in version.functions.items()} == {
        "run": "Keep the first sentences of a text.",
        "words": "The text, word by word.",
    }
    assert not [line for line in told if line.startswith("warning")]
    package = packages.find(version.checksum)
    assert package is not None
    environment = await environments.prepare(package, version.kernel)
    given = example_input(package)
    with Harness(*environment.command) as harness:
        harness.load(package)
        harness.setup({"ending": "!"})
        assert harness.run("run", given) == json.loads(PAGE.titled("output").text)
        harness.send(wire.Run(call="c2", function="words", input=given))
        *outputs, done = harness.until_ended()
        assert len(outputs) > 3
        assert isinstance(done, wire.Done)


@pytest.mark.slow
def test_the_single_file_on_the_page_runs_as_a_program(tmp_path: Path) -> None:
    file = tmp_path / "embed.py"
    file.write_text(PAGE.titled("embed.py").text)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[1, 1]\n", "")


@pytest.mark.slow
async def test_the_single_file_on_the_page_is_an_app(tmp_path: Path) -> None:
    file = tmp_path / "embed.py"
    file.write_text(PAGE.titled("embed.py").text)
    repack(tmp_path / "wheels", python())
    settings = EnvironmentSettings(find_links=(str(tmp_path / "wheels"),), offline=True)
    packages, environments = Packages(tmp_path / "packages"), Environments(tmp_path / "environments", settings)
    version = await Importer(tmp_path, packages=packages, environments=environments).import_directory(
        file, own_namespace="acme"
    )
    assert (version.app, version.description) == ("acme/embed", "Very small vectors of texts.")
    assert version.functions["run"].batch_size == 32


@pytest.mark.slow
def test_the_program_that_calls_an_app_prints_what_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = read_page(DOCS / "client.md").titled("call.py").text
    (tmp_path / "embed.py").write_text(PAGE.titled("embed.py").text)
    repack(tmp_path / "wheels", python())
    environments = EnvironmentSettings(find_links=(str(tmp_path / "wheels"),), offline=True)
    with running_server(data=tmp_path / "data", apps=AppSettings(environments=environments)) as server:
        monkeypatch.setenv("STEPWELL_URL", server.url)
        monkeypatch.syspath_prepend(str(tmp_path))
        deployed = CliRunner().invoke(cli, ["app", "deploy", str(tmp_path / "embed.py"), "--url", server.url])
        assert deployed.exit_code == 0, deployed.output
        capsys.readouterr()
        exec(compile(program, "call.py", "exec"), {"__name__": "__main__"})
    monkeypatch.delitem(sys.modules, "embed")
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", program, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == expected


def test_the_page_has_every_key_of_the_manifest() -> None:
    text = (DOCS / "apps.md").read_text(encoding="utf-8")
    table = text[text.index("| key of `inf.yml` |") :].split("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {key.strip(" `") for cell in first for key in cell.split(",")} == manifest._KEYS
