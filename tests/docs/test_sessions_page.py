"""The app on the page about sessions is deployed, and called by the program on it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.settings import AppSettings
from stepwell.cli import cli
from tests.apps.harness import python
from tests.apps.wheels import repack
from tests.docs.pages import DOCS, read_page
from tests.docs.running import running_server

PAGE = read_page(DOCS / "sessions.md")


@pytest.mark.slow
def test_calls_of_a_session_find_what_the_ones_before_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = PAGE.titled("count.py").text
    (tmp_path / "counter.py").write_text(PAGE.titled("counter.py").text)
    repack(tmp_path / "wheels", python())
    environments = EnvironmentSettings(find_links=(str(tmp_path / "wheels"),), offline=True)
    with running_server(data=tmp_path / "data", apps=AppSettings(environments=environments)) as server:
        monkeypatch.setenv("STEPWELL_URL", server.url)
        monkeypatch.syspath_prepend(str(tmp_path))
        deployed = CliRunner().invoke(cli, ["app", "deploy", str(tmp_path / "counter.py"), "--url", server.url])
        assert deployed.exit_code == 0, deployed.output
        capsys.readouterr()
        exec(compile(program, "count.py", "exec"), {"__name__": "__main__"})
    monkeypatch.delitem(sys.modules, "counter")
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", program, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == expected == ["2", "5", "1"]


def test_the_state_of_an_app_goes_to_another() -> None:
    made: dict[str, Any] = {"__name__": "kept"}
    exec(compile(PAGE.titled("kept.py").text, "kept.py", "exec"), made)
    first, second = made["Kept"](), made["Kept"]()
    for app in (first, second):
        app.setup()
    first.run(first.Input(add=4))
    second.restore(first.snapshot())
    assert second.run(second.Input()).total == 5
