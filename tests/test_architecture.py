"""Who may import whom: the table of the architecture, enforced.

Every import counts: those for types only, those inside a function, and `import_module("a literal")`. A folder is
named by the first part of its path below `stepwell/` (a file there, such as `server.py`, is a folder of one). The
public face, `stepwell/__init__.py` and the small modules beside it that re-export, is called FACE.

To change a line of the tables is to change the architecture: say why in `docs/decisions/`.
"""

import ast
import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "stepwell"
FACE = "(face)"
FOLDERS = frozenset(
    "model wire engine store workers gateway apps streams node sdk agents api testing server cli".split()
)

ALLOWED_FOLDERS: dict[str, frozenset[str]] = {
    "model": frozenset(),
    "wire": frozenset({"model"}),
    "engine": frozenset({"model"}),
    "store": frozenset({"model"}),
    "workers": frozenset({"model", "wire"}),
    "gateway": frozenset({"model", "wire"}),
    "apps": frozenset({"model", "wire"}),
    "streams": frozenset({"model", "store"}),
    "node": frozenset({"model", "engine", "store"}),
    "sdk": frozenset({"model", "wire"}),
    "agents": frozenset({"model", "wire", "sdk"}),
    "api": frozenset({"model", "wire", "node", "streams"}),
    FACE: frozenset({"model", "wire", "sdk", "agents", "apps", "testing"}),
    "testing": FOLDERS - {"api", "server", "cli"} | {FACE},
    "server": FOLDERS | {FACE},
    "cli": FOLDERS | {FACE},
}

# Module outside the standard library -> the files that may import it, below stepwell/ and without ".py".
ANYWHERE = "*"
ALLOWED_LIBRARIES: dict[str, dict[str, tuple[str, ...]]] = {
    "model": {"msgspec": (ANYWHERE,)},
    "wire": {"msgspec": (ANYWHERE,), "google.protobuf": ("wire/*connect*",)},
    "engine": {"msgspec": (ANYWHERE,), "re2": ("engine/expr*",), "cronsim": ("engine/cron*",)},
    "store": {"msgspec": (ANYWHERE,), "asyncpg": ("store/postgres*",), "obstore": ("store/*s3*",)},
    "workers": {"aiohttp": (ANYWHERE,), "yarl": (ANYWHERE,)},  # yarl: the URLs of aiohttp
    "gateway": {
        "msgspec": (ANYWHERE,),
        "aiohttp": (ANYWHERE,),
        "yarl": (ANYWHERE,),
        "genai_prices": ("gateway/prices*",),
    },
    "apps": {
        "msgspec": (ANYWHERE,),
        "uv": (ANYWHERE,),
        "yaml": ("apps/manifest*",),
        "pydantic": ("apps/base*",),  # what apps are written with: in their environments, and where they are tested
        "pydantic_core": ("apps/base*",),
        "pynvml": (ANYWHERE,),
        "ray": ("apps/ray*",),
        "msgpack": ("apps/harness/*",),  # a program that runs in the environments of apps
        "annotationlib": ("apps/harness/*",),  # of the standard library from Python 3.14 on
    },
    "streams": {},
    "node": {"msgspec": (ANYWHERE,)},
    "sdk": {
        "msgspec": (ANYWHERE,),
        "httpx2": (ANYWHERE,),
        "httpx": (ANYWHERE,),
        "websockets": (ANYWHERE,),
        "pydantic": ("sdk/types*",),
        "typing_extensions": (ANYWHERE,),  # for type checkers only, which bring it along
        "fastapi": ("sdk/*fastapi*",),
        "flask": ("sdk/*flask*",),
        "django": ("sdk/*django*",),
        "starlette": ("sdk/*starlette*",),
        "nacl": ("sdk/*encrypt*",),
        "opentelemetry": ("sdk/*otel*", "sdk/*telemetry*"),
    },
    "agents": {"pydantic": (ANYWHERE,), "mcp": ("agents/mcp*",)},
    "api": {
        "msgspec": (ANYWHERE,),
        "starlette": (ANYWHERE,),
        "python_multipart": (ANYWHERE,),
        "prometheus_client": (ANYWHERE,),
        "filetype": (ANYWHERE,),
        "graphql": ("api/inngest/graphql*",),
        "mcp": ("api/*mcp*",),
    },
    FACE: {},
    "testing": {
        "msgspec": (ANYWHERE,),
        "starlette": ("testing/*provider*",),  # the stand-in of an AI provider
        "uvicorn": ("testing/*provider*",),
    },
    "server": {
        "uvicorn": (ANYWHERE,),
        "uvloop": (ANYWHERE,),
        "click": (ANYWHERE,),
        "watchfiles": (ANYWHERE,),
        "cryptography": (ANYWHERE,),
    },
}
ALLOWED_LIBRARIES["cli"] = ALLOWED_LIBRARIES["server"] | {"httpx2": (ANYWHERE,)}


def test_every_folder_has_its_line_in_the_table() -> None:
    unknown = {folder_of(file, SOURCE) for file in sources(SOURCE)} - ALLOWED_FOLDERS.keys()
    assert not unknown, f"give {sorted(unknown)} a line in both tables"
    assert ALLOWED_FOLDERS.keys() == ALLOWED_LIBRARIES.keys()


def test_a_folder_imports_only_the_folders_below_it() -> None:
    assert forbidden_folders(SOURCE) == []


def test_a_folder_imports_only_the_libraries_it_was_given() -> None:
    assert forbidden_libraries(SOURCE) == []


def test_no_folders_import_each_other_in_a_circle() -> None:
    assert circle(SOURCE) is None


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("engine/run.py", "from stepwell.store import base", ["engine/run.py:1 imports stepwell.store.base"]),
        ("engine/run.py", "from .. import store", ["engine/run.py:1 imports stepwell.store"]),
        ("engine/run.py", "def f():\n    import stepwell.node.turn", ["engine/run.py:2 imports stepwell.node.turn"]),
        (
            "engine/run.py",
            "if TYPE_CHECKING:\n    from ..wire import sse",
            ["engine/run.py:2 imports stepwell.wire.sse"],
        ),
        ("engine/run.py", "import_module('stepwell.api')", ["engine/run.py:1 imports stepwell.api"]),
        ("engine/run.py", "from stepwell import Context", ["engine/run.py:1 imports stepwell.Context"]),
        ("api/inngest/intake.py", "from ...engine import run", ["api/inngest/intake.py:1 imports stepwell.engine.run"]),
        ("server.py", "from . import cli, node\nfrom .api import inngest", []),
        ("engine/run.py", "from ..model import ids\nfrom .match import waits\nimport stepwell.model.op", []),
    ],
)
def test_an_import_of_a_folder_is_seen_however_it_is_written(
    tmp_path: Path, file: str, text: str, expected: list[str]
) -> None:
    write(tmp_path, {file: text})
    assert forbidden_folders(tmp_path) == expected


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("engine/match.py", "import re2", ["engine/match.py:1 imports re2"]),
        ("engine/expr.py", "import re2, json", []),
        ("engine/expr/compile.py", "import re2", []),
        ("node/turn.py", "def f():\n    from aiohttp import web", ["node/turn.py:2 imports aiohttp.web"]),
        ("api/inngest/graphql_schema.py", "from graphql import GraphQLSchema", []),
        ("api/dashboard.py", "import graphql", ["api/dashboard.py:1 imports graphql"]),
        ("wire/inngest/connect.py", "from google.protobuf import descriptor_pool", []),
        ("wire/inngest/connect.py", "import google.auth", ["wire/inngest/connect.py:1 imports google.auth"]),
    ],
)
def test_an_import_of_a_library_is_allowed_by_file(tmp_path: Path, file: str, text: str, expected: list[str]) -> None:
    write(tmp_path, {file: text})
    assert forbidden_libraries(tmp_path) == expected


def test_a_circle_is_named_by_its_folders(tmp_path: Path) -> None:
    write(tmp_path, {"model/ids.py": "import stepwell.wire.sse", "wire/sse.py": "from ..model import ids"})
    assert circle(tmp_path) == ["model", "wire", "model"]


def test_importing_stepwell_loads_nothing_of_the_server() -> None:
    listing = "import sys, stepwell; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    server_side = [f"stepwell.{folder}" for folder in ("engine", "store", "node", "api", "workers")]
    heavy = [*server_side, "starlette", "uvicorn", "aiohttp"]
    assert [module for module in loaded for name in heavy if module == name or module.startswith(name + ".")] == []


@dataclass(frozen=True, slots=True)
class Import:
    """One name imported by one line: `module` is absolute, with the imported name as its last part."""

    file: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def forbidden_folders(root: Path) -> list[str]:
    return [
        str(found)
        for file in sources(root)
        for found in imports(file, root)
        if (target := target_folder(found)) is not None
        and target != (folder := folder_of(file, root))
        and target not in ALLOWED_FOLDERS.get(folder, frozenset())
    ]


def forbidden_libraries(root: Path) -> list[str]:
    found_libraries = [
        (file, found)
        for file in sources(root)
        for found in imports(file, root)
        if target_folder(found) is None and found.module.split(".")[0] not in sys.stdlib_module_names
    ]
    return [
        str(found)
        for file, found in found_libraries
        if not any(
            f"{found.module}.".startswith(f"{library}.") and fnmatch(found.file.removesuffix(".py"), pattern)
            for library, patterns in ALLOWED_LIBRARIES.get(folder_of(file, root), {}).items()
            for pattern in patterns
        )
    ]


def circle(root: Path) -> list[str] | None:
    """The first circle among the folders, as the path that walks it; None if there is none."""
    edges: dict[str, set[str]] = {}
    for file in sources(root):
        folder = folder_of(file, root)
        targets = {target for found in imports(file, root) if (target := target_folder(found)) is not None}
        edges.setdefault(folder, set()).update(targets - {folder})
    finished: set[str] = set()

    def walk(folder: str, path: list[str]) -> list[str] | None:
        if folder in path:
            return [*path[path.index(folder) :], folder]
        if folder in finished:
            return None
        for target in sorted(edges.get(folder, ())):
            if (found := walk(target, [*path, folder])) is not None:
                return found
        finished.add(folder)
        return None

    for folder in sorted(edges):
        if (found := walk(folder, [])) is not None:
            return found
    return None


def sources(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def folder_of(file: Path, root: Path) -> str:
    """The folder whose line in the tables governs this file."""
    first, *rest = file.relative_to(root).with_suffix("").parts
    if rest or first in FOLDERS:
        return first
    return "cli" if first == "__main__" else FACE


def target_folder(found: Import) -> str | None:
    """The folder an import leads to; None if it leads out of Stepwell."""
    package, *rest = found.module.split(".")
    if package != "stepwell":
        return None
    return rest[0] if rest and rest[0] in FOLDERS else FACE


def imports(file: Path, root: Path) -> Iterator[Import]:
    relative = file.relative_to(root)
    package = ("stepwell", *relative.parts[:-1])
    gc.disable()  # CPython 3.11 may fail if a collection in the middle of this runs a finaliser that parses, too
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    finally:
        gc.enable()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                base = [*(package[: len(package) - level + 1] if level else ()), *([module] if module else ())]
                modules = [".".join([*base, alias.name]) for alias in names]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                modules = [module]
            case _:
                continue
        for name in modules:
            yield Import(relative.as_posix(), node.lineno, name)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
