"""Would the simulator notice? Each patch beside this file puts one bug back.

A patch is applied to a copy of the sources, and the simulator has to name the broken invariant within a bounded
number of seeds. A patch that does not apply any more has to be written anew against the code as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
PATCHES = sorted(HERE.glob("*.patch"))
SEEDS = 1500


@pytest.mark.slow
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_seeded_bug_is_caught(patch: Path, tmp_path: Path) -> None:
    expected = re.search(r"^Caught by: (.+)$", patch.read_text(), re.MULTILINE)
    assert expected is not None, "the patch says which invariant it breaks"
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.js", "*.html"))
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "stepwell.testing.simulate", "--seeds", str(SEEDS), "--no-coverage"]
    played = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path / "src")}, capture_output=True, text=True, check=False
    )
    caught = re.search(r"^caught by '(.+)' after (\d+) seeds$", played.stdout, re.MULTILINE)
    assert caught is not None, played.stdout[-2000:] + played.stderr[-2000:]
    print(f"{patch.stem}: caught by {caught[1]!r} after {caught[2]} seeds")
    assert caught[1] in expected[1].split(" or ")


def test_there_are_at_least_ten() -> None:
    assert len(PATCHES) >= 10
