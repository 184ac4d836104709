"""`stepwell app`: apps given to a real server, and environments that are really there."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result

from stepwell.apps.environment import READY, Environment, Environments, EnvironmentSettings
from stepwell.apps.settings import AppSettings
from stepwell.cli import cli
from tests.apps.harness import python
from tests.apps.wheels import make_wheel, repack
from tests.docs.running import running_server


@pytest.fixture
async def made(tmp_path: Path) -> tuple[Environment, Environment]:
    """Two of them; the first was last used long ago."""
    for name in ("msgpack", "tea", "coffee"):
        make_wheel(tmp_path / "wheels", name)
    settings = EnvironmentSettings(find_links=(str(tmp_path / "wheels"),), offline=True)
    environments = Environments(tmp_path / "data" / "apps" / "environments", settings)
    found = []
    for name in ("tea", "coffee"):
        (tmp_path / "requirements.txt").write_text(name)
        found.append(await environments.prepare(tmp_path, f"python-{sys.version_info[0]}.{sys.version_info[1]}"))
    os.utime(found[0].directory / READY, (1_000_000, 1_000_000))
    return found[0], found[1]


def called(tmp_path: Path, *words: str) -> str:
    result = CliRunner().invoke(cli, ["app", "environments", "--data", str(tmp_path / "data"), *words])
    assert result.exit_code == 0, result.output
    return result.output


def rows(tmp_path: Path, *words: str) -> dict[str, Any]:
    return {row["requirements"][0]: row for row in json.loads(called(tmp_path, "--json", *words))}


async def test_environments_are_listed(tmp_path: Path, made: tuple[Environment, Environment]) -> None:
    tea, coffee = made
    lines = called(tmp_path).splitlines()
    assert lines[0].split() == ["KEY", "KERNEL", "SIZE", "USED", "REQUIREMENTS"]
    assert lines[1].startswith(f"{tea.key[:8]}  python-{tea.version}")
    assert lines[1].endswith("tea, msgpack")
    assert lines[2].startswith(coffee.key[:8])
    listed = rows(tmp_path)
    assert listed["tea"]["key"] == tea.key
    assert (listed["tea"]["used_at"], listed["tea"]["removed"]) == (1_000_000_000, False)
    assert listed["tea"]["size_bytes"] > 1000


async def test_those_that_nothing_used_for_long_are_removed(
    tmp_path: Path, made: tuple[Environment, Environment]
) -> None:
    tea, coffee = made
    with tea.hold():
        assert "0 removed" in called(tmp_path, "--remove-unused", "30d")
    assert tea.directory.exists()
    removed = rows(tmp_path, "--remove-unused", "30d")
    assert [removed[name]["removed"] for name in ("tea", "coffee")] == [True, False]
    assert not tea.directory.exists()
    assert coffee.directory.exists()


def test_without_any_there_is_nothing_to_list(tmp_path: Path) -> None:
    assert called(tmp_path).split() == ["KEY", "KERNEL", "SIZE", "USED", "REQUIREMENTS"]


INF = f"namespace: acme\nname: tool\nkernel: python-{sys.version_info[0]}.{sys.version_info[1]}\ncolour: red\n"
CODE = "class App:\n    def run(self, given):\n        return {'twice': 2 * given['n']}\n"


@pytest.mark.slow
def test_an_app_is_deployed_and_called(tmp_path: Path) -> None:
    """With the real server: sent, given an environment, loaded, kept; then a task of it is made and ends."""
    wheels, folder = tmp_path / "wheels", tmp_path / "tool"
    repack(wheels, python())
    folder.mkdir()
    (folder / "inf.yml").write_text(INF)
    (folder / "inference.py").write_text(CODE)
    settings = AppSettings(environments=EnvironmentSettings(find_links=(str(wheels),), offline=True))
    with running_server(data=tmp_path / "data", apps=settings) as server:

        def deployed(*words: str) -> Result:
            return CliRunner().invoke(cli, ["app", *words, "--url", server.url])

        first = deployed("deploy", str(folder))
        assert first.exit_code == 0, first.output
        reference = first.stdout.strip()
        assert reference.startswith("acme/tool@")
        assert "! inf.yml: colour: is not known" in first.stderr
        assert "making an environment" in first.stderr
        assert deployed("import", str(folder)).stdout == first.stdout
        stated = deployed("import", str(folder), "--as", "infsh/other", "--version", "53bk0yzk", "--json")
        assert json.loads(stated.stdout)["reference"] == "infsh/other@53bk0yzk"
        (folder / "inference.py").write_text(CODE + "# changed\n")
        refused = deployed("import", str(folder), "--as", "infsh/other", "--version", "53bk0yzk")
        assert refused.exit_code == 1
        assert "infsh/other@53bk0yzk is there already and has other files" in refused.stderr
        (folder / "inference.py").write_text("raise RuntimeError('no such model')\n")
        broken = deployed("deploy", str(folder))
        assert broken.exit_code == 1
        assert "no such model" in broken.stderr
        for called_as in (reference, "infsh/other@53bk0yzk", "acme/tool"):
            asked = {"app": called_as, "input": {"n": 21}, "wait": True}
            task = httpx2.post(f"{server.url}/apps/run", json=asked, timeout=60).json()["data"]
            if task["status"] < 9:
                task = the_end_of(server.url, task["id"])
            assert (task["status"], task["output"]) == (10, {"twice": 42}), task
        assert_made_app_runs(server.url, tmp_path)
        assert_called(server.url, reference)


def assert_made_app_runs(url: str, tmp_path: Path) -> None:
    """What `init` makes is deployed and called as it is."""
    with contextlib.chdir(tmp_path):
        made = CliRunner().invoke(cli, ["app", "init", "zoo/shout"])
        again = CliRunner().invoke(cli, ["app", "init", "zoo/shout"])
    assert made.exit_code == 0, made.output
    assert again.exit_code == 1
    assert "the directory shout cannot be made" in again.output
    manifest = tmp_path / "shout" / "inf.yml"
    own = f"kernel: python-{sys.version_info[0]}.{sys.version_info[1]}"
    manifest.write_text(manifest.read_text().replace("kernel: python", own))
    deployed = CliRunner().invoke(cli, ["app", "deploy", str(tmp_path / "shout"), "--url", url])
    assert deployed.exit_code == 0, deployed.output
    given = f"@{tmp_path / 'shout' / 'input.json'}"
    run = CliRunner().invoke(cli, ["app", "run", deployed.stdout.strip(), "--input", given, "--url", url])
    assert json.loads(run.stdout) == {"text": "HELLO!"}


def assert_called(url: str, reference: str) -> None:
    def asked(*words: str) -> Result:
        return CliRunner().invoke(cli, ["app", *words, "--url", url])

    run = asked("run", reference, "--input", '{"n": 4}')
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout) == {"twice": 8}
    failed = asked("run", "acme/tool", "--input", "{}")
    assert failed.exit_code == 1
    assert "'n'" in failed.stderr
    assert "`stepwell run show 01" in failed.stderr
    task = json.loads(asked("run", reference, "--input", '{"n": 1}', "--json").stdout)
    assert (task["status"], task["output"]) == (10, {"twice": 2})
    started = asked("run", reference, "--input", '{"n": 2}', "--no-wait").stdout.strip()
    assert json.loads(asked("logs", started, "--json").stdout)["task_id"] == started
    missing = asked("run", "acme/missing")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: app 'acme/missing' does not exist")
    assert asked("list").stdout.splitlines()[1].split()[:2] == ["acme/tool", reference.partition("@")[2]]
    assert asked("show", reference).stdout.startswith(f"{reference}  python")
    assert "current" in asked("versions", "acme/tool").stdout
    assert asked("remove", reference).exit_code == 2
    removed = asked("remove", "acme/tool")
    assert removed.exit_code == 0, removed.output
    assert [one["name"] for one in json.loads(asked("list", "--json").stdout)] == ["other", "shout"]


@pytest.mark.parametrize(("given", "told"), [("{", "--input is not JSON"), ("@/no/such", "cannot be read")])
def test_an_input_that_cannot_be_read_is_told(given: str, told: str) -> None:
    result = CliRunner().invoke(cli, ["app", "run", "acme/tool", "--input", given])
    assert result.exit_code == 2
    assert told in result.output


def the_end_of(url: str, task: str) -> dict[str, Any]:
    with httpx2.stream("GET", f"{url}/tasks/{task}/stream", headers={"Accept": "application/x-ndjson"}) as response:
        for _ in response.iter_lines():
            pass
    found: dict[str, Any] = httpx2.get(f"{url}/tasks/{task}").json()["data"]
    return found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["deploy", "{tmp}"], "it has no inf.yml"),
        (["deploy", "{tmp}/app", "--url", "http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_deployed_is_told(tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "inf.yml").write_text(INF)
    result = CliRunner().invoke(cli, ["app", *(word.replace("{tmp}", str(tmp_path)) for word in words)])
    assert result.exit_code == 1
    assert told in result.output + str(result.exception)
