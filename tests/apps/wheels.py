"""Packages made by the tests, so that environments are built without an index."""

from __future__ import annotations

import importlib.metadata
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
) -> Path:
    """A wheel with one module of the package's name, or with `files`."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    head = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    info = f"{name}-{version}.dist-info"
    contents = {
        **(files if files is not None else {f"{name}.py": f"version = {version!r}\n"}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{head}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    _write(path, info, {name: content.encode() for name, content in contents.items()})
    return path


def repack(folder: Path, python: Path) -> None:
    """Wheels of all packages that an interpreter's environment has, to make environments of without an index."""
    folder.mkdir(exist_ok=True)
    (site,) = python.parents[1].glob("lib/python3.*/site-packages")
    for distribution in importlib.metadata.distributions(path=[str(site)]):
        contents = {
            str(file): Path(str(file.locate())).read_bytes()
            for file in distribution.files or ()
            if ".." not in file.parts and file.suffix != ".pyc" and file.name not in ("RECORD", "INSTALLER")
        }
        (info,) = {name.split("/")[0] for name in contents if ".dist-info/" in name}
        lines = contents[f"{info}/WHEEL"].decode().splitlines()
        tag = next(line for line in lines if line.startswith("Tag: ")).removeprefix("Tag: ")
        _write(folder / f"{info.removesuffix('.dist-info')}-{tag}.whl", info, contents)


def _write(path: Path, info: str, contents: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in contents.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*contents, f"{info}/RECORD"]))
