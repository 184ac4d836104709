"""Apps: a model in a process of its own that stays warm, and what a server needs to run it.

    from stepwell.apps import App, File, batched          what an app is written with (base.py)

    directory, file --declared, manifest, package, environment, importing--> AppVersion, and on disk
        packages/<checksum>/       the files of a version, never changed
        environments/<key>/        what its requirements ask for

The names are loaded when they are first used. Where stepwell is not installed, as in the environments of apps,
`base.py` alone is `stepwell.apps`.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from stepwell.apps.base import App as App
    from stepwell.apps.base import Context as Context
    from stepwell.apps.base import Embeddings as Embeddings
    from stepwell.apps.base import File as File
    from stepwell.apps.base import LanguageModel as LanguageModel
    from stepwell.apps.base import batched as batched

_NAMES = ("App", "Context", "Embeddings", "File", "LanguageModel", "batched")


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'stepwell.apps' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module("stepwell.apps.base"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
