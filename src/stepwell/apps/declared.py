'''What the code of an app says of itself, read without running it: the class attributes of a `stepwell.apps.App`, and
inline metadata as Python scripts have it.

    # /// script
    # requires-python = ">=3.12"
    # dependencies = ["numpy"]
    # ///
    class Embed(App):
        """Vectors of texts."""

        resources = {"ram": "2GB"}

So one file is an app: `directory_of` makes the directory of it that everything else wants.
'''

from __future__ import annotations

import ast
import re
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwell.model.errors import InvalidInput

__all__ = ["ENTRY", "Declared", "directory_of", "read_declared"]

ENTRY = "inference.py"
MAX_BYTES = 1 << 20
_BASES = ("App", "LanguageModel", "Embeddings")
_ATTRIBUTES = ("name", "requirements", "resources", "scaling", "secrets")
_SCRIPT = re.compile(r"(?m)^# /// script\s*$\s(?P<content>(^#(| .*)$\s)+?)^# ///$")
_PYTHON = re.compile(r"(>=|==|~=)\s*(3\.\d+)(\.\*|\.\d+)?")
_OWN_PYTHON = (3, 11)  # what a server runs on at the least, so there is always one that is newer


@dataclass(frozen=True, slots=True)
class Declared:
    """What is declared. `values` are those that the manifest may have, too: name, resources, scaling, secrets,
    description, kernel."""

    uses_base: bool = False
    requirements: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)


def read_declared(file: Path) -> Declared:
    """Read what a file of Python declares. Nothing if it is not there, or is no Python: importing it says why.

    Raises:
        InvalidInput: An attribute is not written as a plain value, or inline metadata cannot be read.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES)
        if b"stepwell" not in raw and b"/// script" not in raw:  # most: reading more would take seconds of long files
            return Declared()
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return Declared()
    imported, uses_base = _imported(tree)
    script = _script(text, file.name)
    requirements = script.get("dependencies", [])
    values: dict[str, Any] = {}
    if "requires-python" in script:
        values["kernel"] = _kernel(script["requires-python"], file.name)
    chain = _app_class(tree, imported) if uses_base else []
    if chain:
        values["name"] = _kebab(chain[0].name)
        description = (ast.get_docstring(chain[0]) or "").partition("\n\n")[0].replace("\n", " ")
        if description:
            values["description"] = description
    for owner in reversed(chain):
        values |= _attributes(owner, file.name)
    attribute = values.pop("requirements", [])
    for said, where in ((requirements, "dependencies"), (attribute, "requirements")):
        if not isinstance(said, list | tuple) or not all(isinstance(one, str) for one in said):
            raise InvalidInput(f"{file.name}: {where}: expected a list of texts such as ['numpy>=2']", field=where)
    return Declared(uses_base, (*requirements, *attribute), values)


@contextmanager
def directory_of(path: Path) -> Iterator[Path]:
    """The directory of an app: `path` itself, or one made of the single file that it is, gone afterwards.

    Raises:
        InvalidInput: The file is no app.
    """
    if path.is_dir() or not path.exists():
        yield path
        return
    if path.suffix != ".py":
        raise InvalidInput(f"{path} is no app: give a directory, or a file of Python", field="directory")
    name = read_declared(path).values.get("name") or _kebab(path.stem)
    with tempfile.TemporaryDirectory(prefix="stepwell-app-") as made:
        directory = Path(made)
        (directory / ENTRY).write_bytes(path.read_bytes())
        namespace, _, own = str(name).rpartition("/")
        lines = [f"namespace: {namespace}"] if namespace else []
        (directory / "inf.yml").write_text("\n".join([*lines, f"name: {own}", ""]), encoding="utf-8")
        yield directory


def _imported(tree: ast.Module) -> tuple[dict[str, str], bool]:
    """The bases that it imports from `stepwell.apps`, by the names that they have here; does it import that at all?"""
    names: dict[str, str] = {}
    uses = False
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "stepwell.apps" and not node.level:
            uses = True
            names |= {one.asname or one.name: one.name for one in node.names if one.name in _BASES}
        elif isinstance(node, ast.ImportFrom) and node.module == "stepwell" and not node.level:
            uses = uses or any(one.name == "apps" for one in node.names)
            mine = [one.asname or one.name for one in node.names if one.name == "apps"]
            names |= {f"{module}.{base}": base for module in mine for base in _BASES}
        elif isinstance(node, ast.Import):
            for one in node.names:
                if one.name == "stepwell.apps":
                    uses = True
                    names |= {f"{one.asname or 'stepwell.apps'}.{base}": base for base in _BASES}
    return names, uses


def _app_class(tree: ast.Module, imported: dict[str, str]) -> list[ast.ClassDef]:
    """The class of the app and those of this file that it inherits from; nothing if it is not plain which one it is."""
    known: dict[str, list[ast.ClassDef]] = {}
    parents: set[str] = set()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for base in map(_dotted, node.bases):
            if base in known or base in imported:
                known[node.name] = [node, *known.get(base, [])]
                parents.add(base)
                break
    if "App" in known:
        return known["App"]
    leaves = [name for name in known if name not in parents and not name.startswith("_")]
    return known[leaves[0]] if len(leaves) == 1 else []


def _dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _attributes(owner: ast.ClassDef, file: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in owner.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if not isinstance(target, ast.Name) or target.id not in _ATTRIBUTES or not isinstance(value, ast.expr):
            continue
        try:
            found[target.id] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as err:
            raise InvalidInput(
                f"{file}, line {node.lineno}: {owner.name}.{target.id} is read without running the code; write it as a"
                " plain list, map or text",
                field=target.id,
            ) from err
    return found


def _script(text: str, file: str) -> dict[str, Any]:
    found = list(_SCRIPT.finditer(text))
    if not found:
        return {}
    if len(found) > 1:
        raise InvalidInput(f"{file}: has the block `# /// script` twice", field="dependencies")
    lines = found[0]["content"].splitlines()
    try:
        return tomllib.loads("\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
    except tomllib.TOMLDecodeError as err:
        raise InvalidInput(f"{file}: the block `# /// script` cannot be read: {err}", field="dependencies") from err


def _kernel(wanted: Any, file: str) -> str:
    found = _PYTHON.fullmatch(wanted.strip()) if isinstance(wanted, str) else None
    if found is None:
        raise InvalidInput(
            f"{file}: requires-python: expected one version such as '>=3.11' or '==3.12.*'; found {wanted!r}",
            field="requires-python",
        )
    newer = found[1] == ">=" and tuple(map(int, found[2].split("."))) <= _OWN_PYTHON
    return "python" if newer else f"python-{found[2]}"


def _kebab(name: str) -> str:
    """`TextTools` is `text-tools`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).replace("_", "-").strip("-").lower()
