"""Every route of this surface, in the order in which paths are looked up, with and without `/v1`."""

from __future__ import annotations

from dataclasses import replace

from stepwell.api.infsh import absent, account, apps, files, sessions, task_files, tasks
from stepwell.api.infsh.answers import ERRORS
from stepwell.api.routes import Route

_PREFIXES = ("", "/v1")


def routes() -> list[Route]:
    """To come after those of the Inngest surface, which keeps its own paths below `/v1`."""
    table = [
        *tasks.routes(),
        *task_files.routes(),
        *sessions.routes(),
        *apps.routes(),
        *files.routes(),
        *account.routes(),
        *absent.routes(),
    ]
    return [replace(one, path=prefix + one.path, errors=ERRORS) for prefix in _PREFIXES for one in table]
