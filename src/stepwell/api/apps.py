"""Deploying an app: its archive comes in, its progress goes out, and at last the version that was made.

    POST /api/apps?as=NAMESPACE/NAME&version=SHORT_ID&current=true       a tar.gz or a zip, as it is

With `Accept: application/x-ndjson` the answer is written line by line, since making an environment may take minutes:

    {"type": "progress", "text": "..."}
    {"type": "done", "reference": "namespace/name@version", "app": {...}}   or   {"type": "error", "error": "...", ...}
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from stepwell.api import answers
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import InvalidInput, NotFound, StepwellError, TooLarge
from stepwell.wire.infsh.app import app_dto
from stepwell.wire.infsh.framing import NDJSON, wants_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from stepwell.api.site import AppImporter

MAX_ARCHIVE_BYTES = 2 << 30
_WRITE_BYTES = 1 << 20

log = logging.getLogger("stepwell.api")


def routes() -> list[Route]:
    return [Route("POST", "/api/apps", deploy)]


async def deploy(ask: Ask) -> Response:
    """Make a version of an app, and make it the current one unless `current=false`."""
    importer = ask.site.importer
    if importer is None:
        raise NotFound("this server runs no apps")
    current = ask.query("current") or "true"
    if current not in ("true", "false"):
        raise InvalidInput(f"current is true or false, not {current[:40]!r}", field="current")
    archive = await _received(ask)
    if wants_lines(ask.request.headers.get("accept", "")):
        return _Progress(ask, importer, archive, current == "true")
    with archive:
        return answers.json(await _made(ask, importer, archive, current == "true", lambda _: None), 201)


async def _received(ask: Ask) -> BinaryIO:
    """The body, in a file that is gone once it is closed."""
    archive = tempfile.TemporaryFile()  # noqa: SIM115 - who takes it closes it
    held, size = bytearray(), 0
    try:
        async for piece in ask.request.stream():
            held += piece
            size += len(piece)
            if size > MAX_ARCHIVE_BYTES:
                raise TooLarge(
                    f"the archive has more than {MAX_ARCHIVE_BYTES:,} bytes; fetch large files in setup() instead",
                    field="archive",
                )
            if len(held) >= _WRITE_BYTES:
                await asyncio.to_thread(archive.write, bytes(held))
                held.clear()
        if not size:
            raise InvalidInput("the body is empty; send the app as a tar.gz or a zip", field="archive")
        await asyncio.to_thread(archive.write, bytes(held))
        archive.seek(0)
    except BaseException:
        archive.close()
        raise
    return archive


async def _made(
    ask: Ask, importer: AppImporter, archive: BinaryIO, current: bool, progress: Callable[[str], None]
) -> dict[str, Any]:
    site = ask.site
    version = await importer.import_archive(
        archive,
        as_=ask.query("as") or "",
        version=ask.query("version") or "",
        own_namespace=site.namespace,
        env=site.env,
        now=site.node.world.now(),
        progress=progress,
    )
    app = await site.node.apps.add(version, current=current)
    return {"reference": version.reference, "app": app_dto(app, version)}


class _Progress(Response):
    """Lines as things happen. Whoever goes away ends it."""

    media_type = NDJSON

    def __init__(self, ask: Ask, importer: AppImporter, archive: BinaryIO, current: bool) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._ask = ask
        self._importer = importer
        self._archive = archive
        self._current = current
        self._lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        making = asyncio.create_task(self._make(), name="deploying an app")
        leaving = asyncio.create_task(self._leave(receive, making), name="subscriber")
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while (line := await self._lines.get()) is not None:
                body = answers.encode(line) + b"\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()
            making.cancel()
            with suppress(asyncio.CancelledError):
                await making

    async def _make(self) -> None:
        try:
            with self._archive as archive:
                made = await _made(self._ask, self._importer, archive, self._current, self._tell)
            self._lines.put_nowait({"type": "done", **made})
        except StepwellError as err:
            self._lines.put_nowait({"type": "error", **answers.error_members(err)})
        except Exception:
            reference = self._ask.site.node.new_key()
            log.exception("%s: deploying an app", reference)
            text = f"this server made a mistake; its log has more under {reference}"
            self._lines.put_nowait({"type": "error", "error": text, "status": 500, "code": "internal"})
        finally:
            self._lines.put_nowait(None)

    def _tell(self, text: str) -> None:
        self._lines.put_nowait({"type": "progress", "text": text})

    async def _leave(self, receive: Receive, making: asyncio.Task[None]) -> None:
        with suppress(ClientDisconnect):
            while (await receive())["type"] != "http.disconnect":
                pass
        making.cancel()
