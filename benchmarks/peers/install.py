"""Puts other products where their targets look for them, once for each set of versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = (
    "restate-sdk[serde]==1.3.0",
    "dbos==3.4.0",
    "psycopg[binary]==3.3.9",
    "aiohttp==3.14.5",
    "hypercorn==0.18.0",
    "uvloop==0.23.0",
)
LITSERVE = ("litserve==0.2.19",)
NODE = ("@restatedev/restate-server@1.7.12", "@restatedev/restate-sdk@1.17.2")


def folder() -> Path:
    """Outside the repository; remove it to install everything again."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "stepwell-bench"


def python() -> Path:
    """An interpreter that has the Python SDKs."""
    return _environment("python", PYTHON)


def litserve() -> Path:
    """An interpreter that has LitServe, in an environment of its own."""
    return _environment("litserve", LITSERVE)


def _environment(name: str, packages: tuple[str, ...]) -> Path:
    place = folder() / name
    found = place / "bin" / "python"
    if _wants(place, packages):
        uv = Path(sys.executable).with_name("uv")
        if uv.exists():
            subprocess.run([str(uv), "venv", "-q", "--clear", "--python", sys.executable, str(place)], check=True)
            subprocess.run([str(uv), "pip", "install", "-q", "--python", str(found), *packages], check=True)
        else:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
            subprocess.run([str(found), "-m", "pip", "install", "-q", *packages], check=True)
        _has(place, packages)
    return found


def node() -> Path | None:
    """A `node_modules` folder with Restate's server and its TypeScript SDK; None without npm."""
    place = folder() / "npm"
    if shutil.which("npm") is None:
        return None
    if _wants(place, NODE):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "install", "--prefix", str(place), *quiet, *NODE], check=True)
        _has(place, NODE)
    return place / "node_modules"


def restate_server(modules: Path) -> Path:
    """The program itself: npm's wrapper around it would be one process more."""
    return next(modules.glob("@restatedev/restate-server-*/bin/restate-server"))


def _wants(place: Path, packages: tuple[str, ...]) -> bool:
    try:
        return (place / "installed").read_text().split() != list(packages)
    except OSError:
        return True


def _has(place: Path, packages: tuple[str, ...]) -> None:
    (place / "installed").write_text("\n".join(packages))
