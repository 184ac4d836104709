"""`stepwell app environments`, against environments that are really there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stepwell.apps.environment import READY, Environment, Environments, EnvironmentSettings
from stepwell.cli import cli
from tests.apps.wheels import make_wheel


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
