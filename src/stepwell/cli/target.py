"""From `app.py`, `package.module` or `app.py:service` to the services in it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from types import ModuleType

    from stepwell.sdk.service import Service

NOT_LOADED = 78
"""How a worker of `stepwell dev` exits when its target cannot be loaded or served: a new start would not help.

The number is EX_CONFIG of sysexits.h; small numbers are what the user's own code exits with.
"""


def load_services(target: str) -> list[Service]:
    """Import the target and collect its services: those named after the colon, else every one in the module.

    Raises:
        click.ClickException: Nothing there, or no service in it. An error inside the user's module passes through.
    """
    from stepwell.sdk.service import Service

    place, _, name = target.partition(":") if not _is_drive(target) else (target, "", "")
    module = _import(place)
    if name:
        found = getattr(module, name, None)
        if not isinstance(found, Service):
            raise click.ClickException(f"{place} has no service named {name!r}")
        return [found]
    services = list({id(one): one for one in vars(module).values() if isinstance(one, Service)}.values())
    if not services:
        raise click.ClickException(
            f'{place} has no service. Add one, service = stepwell.Service("my-service"), and decorate functions with it'
        )
    return services


def watched_folder(target: str) -> Path:
    """The folder whose changes restart the worker."""
    place = target.partition(":")[0]
    path = Path(place)
    if path.suffix == ".py" or path.exists():
        return (path if path.is_dir() else path.parent).resolve()
    return Path.cwd()


def _is_drive(target: str) -> bool:
    return len(target) > 2 and target[1] == ":" and target[2] in "\\/" and target.count(":") == 1


def _import(place: str) -> ModuleType:
    path = Path(place)
    if path.suffix != ".py" and not path.exists():
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as err:
            if err.name and place.startswith(err.name):
                raise click.ClickException(f"no file and no module named {place!r} (looked in {Path.cwd()})") from err
            raise
    if path.is_dir():
        path /= "app.py"
    if not path.is_file():
        raise click.ClickException(f"no file {path}")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
