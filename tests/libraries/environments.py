"""An environment for each library, so that none decides the version of another: made from its lock when it is first
needed, and again when the lock changes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "requirements" / "libraries"
ENVIRONMENTS = ROOT / ".venv-libraries"
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # or it fetches its prices when it is imported


def python_of(name: str, **build: str) -> Path:
    """The interpreter of the environment that `requirements/libraries/<name>.txt` describes. `build` are variables for
    packages that are built from source."""
    lock, folder = LOCKS / f"{name}.txt", ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = f"{sys.version} {hashlib.sha256(lock.read_bytes()).hexdigest()}"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # other processes test the same library
        if not stamp.exists() or stamp.read_text() != wanted:
            _run("uv", "venv", "--clear", "--python", sys.executable, str(folder))
            install = ("install", "-q", "--require-hashes", "-r", str(lock))
            try:
                _run("uv", "pip", *install, "--python", str(python), **build)
            except AssertionError:  # as in the Makefile: uv may not reach the index in the way pip is configured to
                _run("pip", "--python", str(python), *install, **build)
            stamp.write_text(wanted)
    return python


def _run(*module: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *module], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(module)}\n{done.stdout}{done.stderr}"
