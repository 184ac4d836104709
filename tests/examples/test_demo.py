"""`make demo`, as it is run: by itself, in an empty folder, without keys."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "demo.py"


def test_the_demo_shows_what_it_says(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert "KILLED the server" in shown
    assert "parse functions  executed 2 times, one result" in shown
    assert "count lines      executed once, one result" in shown
    assert "a stand-in answers: rules, no model" in shown
    assert re.search(r'sort +\{"title":"Charged twice for one lamp"', done.stderr), "its words, as they come"
    assert "edited input" in done.stdout
    assert re.search(r"three kind +technical\), reply \(one kind", done.stdout), "old and new side by side"
    stored = [line for line in done.stdout.splitlines() if re.match(r"  [0-9A-Z]{26}  high  billing  ", line)]
    assert [len(re.findall(r"[.](?= |$)", line)) for line in stored] == [3, 1]
