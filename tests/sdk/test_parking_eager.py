"""The parking cases on eager tasks, which need a newer Python than the oldest that is supported.

Where such a Python is found beside this one, the suite is run by it, in an environment made for it; elsewhere the test
is skipped and says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEWER = ("3.14", "3.13", "3.12")


def newer_python() -> str | None:
    """A Python of 3.12 or newer, by its name or among those of pyenv."""
    if sys.version_info >= (3, 12):
        return sys.executable
    places = [shutil.which(f"python{version}") for version in NEWER]
    places += sorted(map(str, (Path.home() / ".pyenv" / "versions").glob("3.1[2-9]*/bin/python")), reverse=True)
    for place in places:
        asked = [place, "-c", "import sys; raise SystemExit(sys.version_info < (3, 12))"]
        if place is not None and subprocess.run(asked, capture_output=True, check=False).returncode == 0:  # type: ignore[arg-type]
            return place
    return None


@pytest.mark.slow
def test_every_case_holds_on_eager_tasks(tmp_path: Path) -> None:
    python = newer_python()
    uv = Path(sys.executable).with_name("uv")
    if python is None or not uv.exists():
        pytest.skip("no Python 3.12 or newer beside this one")
    place = tmp_path / "venv"
    inside = str(place / "bin" / "python")
    for command in (
        [str(uv), "venv", "-q", "--python", python, str(place)],
        [str(uv), "pip", "install", "-q", "--python", inside, "--require-hashes", "-r", "requirements/dev.txt"],
        [str(uv), "pip", "install", "-q", "--python", inside, "--no-deps", "-e", "."],
    ):
        subprocess.run(command, cwd=ROOT, check=True, timeout=240)
    cases = [inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "eager", "tests/sdk/test_parking.py"]
    told = subprocess.run(cases, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-1000:]
    assert " passed" in told.stdout
