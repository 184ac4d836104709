"""Which version this is, and how it names itself to servers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("stepwell")
    except PackageNotFoundError:
        return "0.0.0"


__version__ = _installed()
SDK = f"stepwell-py:v{__version__}"
