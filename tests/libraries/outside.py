"""Every way in which a library of `tests.libraries.apps` is used, without a function around it; prints the answers."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from typing import Any


async def asynchronous(library: Any) -> dict[str, str]:
    ways = ("asked", "streamed")
    return dict(zip(ways, await asyncio.gather(*(getattr(library, way)(way) for way in ways)), strict=True))


def main() -> None:
    library = importlib.import_module(f"tests.libraries.apps.{os.environ['LIBRARY']}")
    answers = asyncio.run(asynchronous(library))
    answers |= {way: getattr(library, way)(way) for way in ("asked_now", "streamed_now") if hasattr(library, way)}
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
