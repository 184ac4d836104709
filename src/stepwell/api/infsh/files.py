"""Files over HTTP: announcing and uploading, lists, and downloads that need no key.

    POST /files ──▶ PUT /upload/{id}?sig=… ──▶ GET /f/{id}.{signature}/{name}

What lies at an address came from anybody. So a browser is told to believe the content type, to open by itself only
what has no code in it, and to give a page that is made of the rest no rights at all.
"""

from __future__ import annotations

import asyncio
import mimetypes
import re
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import quote

import filetype
from msgspec.structs import replace
from starlette.responses import Response, StreamingResponse

from stepwell.api.body import BodyTimeout, Disconnected, UnsupportedEncoding
from stepwell.api.infsh import answers
from stepwell.api.keys import Access
from stepwell.api.routes import Ask, Route
from stepwell.model.errors import InvalidInput, NotFound, StepwellError, TooLarge
from stepwell.node.files import name_in_address
from stepwell.wire.infsh.file import file_dto, read_announced, read_data_uri
from stepwell.wire.infsh.listing import page, read_list

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from stepwell.model.file import FileRecord
    from stepwell.node.files import Files
    from stepwell.wire.infsh.file import Announced
    from stepwell.wire.infsh.listing import ListRequest

_FIELDS = {"id", "filename", "content_type", "size", "category", "visibility"}
_MOST_LOOKED_AT = 10_000
_SHOWN_BY_BROWSERS = re.compile(
    r"(image/(png|jpeg|gif|webp|avif|bmp|apng|heic|heif|tiff)|(audio|video)/[a-z0-9.+-]+|text/plain|application/json)"
)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_POLICY = (
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)


class RangeNotSatisfiable(StepwellError):
    """Nothing of the file is in the range that was asked for."""

    code = "RANGE_NOT_SATISFIABLE"
    http_status = 416


def routes() -> list[Route]:
    return [
        Route("POST", "/files", announce),
        Route("POST", "/files/list", list_files),
        Route("GET", "/files/{id}", find),
        Route("DELETE", "/files/{id}", remove),
        Route("PUT", "/upload/{id}", upload, Access.ADDRESS),
        Route("GET", "/f/{key}/{name}", download, Access.ADDRESS),
    ]


def files_of(ask: Ask) -> Files:
    files = ask.site.files
    if files is None:
        raise NotFound("this server keeps no files")
    return files


def base_of(ask: Ask) -> str:
    """Where the client reaches this server: what the operator said, or else as the client did."""
    files = files_of(ask)
    if ask.site.public_url:
        return ask.site.public_url
    host = ask.request.headers.get("host")
    return f"{ask.request.url.scheme}://{host}" if host else files.base


# announcing and uploading


async def announce(ask: Ask) -> Response:
    """Begin uploads. Files whose bytes are in the request, or come from elsewhere, are there at once."""
    files, base = files_of(ask), base_of(ask)
    made = []
    for one in read_announced(await ask.body(), ask.site.env):
        if one.uri:
            file = await _get(ask, files, one)
            made.append(file_dto(file, files.uri(file, base)))
        else:
            file = await files.announce(one.file)
            made.append(file_dto(file, files.uri(file, base), files.upload_url(file, base)))
    return answers.data(ask, made)


async def _get(ask: Ask, files: Files, one: Announced) -> FileRecord:
    if one.uri[:5].lower() == "data:":
        content_type, content = read_data_uri(one.uri)
        return await files.store_bytes(_typed(one.file, content_type), _single(content))
    if ask.site.fetch_file is None:
        raise InvalidInput("this server gets no files from elsewhere; upload it", field="uri")
    async with ask.site.fetch_file(one.uri) as fetched:
        return await files.store_bytes(_typed(one.file, fetched.content_type), fetched.pieces)


def _typed(file: FileRecord, content_type: str) -> FileRecord:
    """The file with the type that its source names, unless the client named one."""
    named = content_type.partition(";")[0].strip().lower()
    if file.content_type or named == "application/octet-stream" or len(named) > 200:
        return file
    return replace(file, content_type=named, size_bytes=0)


async def _single(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def upload(ask: Ask) -> Response:
    """Take the bytes of a file that was announced, as they come. The signature of the address is the key."""
    files, request = files_of(ask), ask.request
    env, id, signature = ask.site.env, ask.part("id"), ask.query("sig") or ""
    await files.announced(env, id, signature)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(f"content-encoding {encoding[:40]!r}: send the bytes of a file as they are")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > files.limit_bytes:
        raise TooLarge(
            f"the file has {int(length):,} bytes and may have {files.limit_bytes:,} (max_file_bytes)", field="size"
        )
    file = await files.receive(env, id, signature, _pieces(request, ask.site.limits.body_idle_s))
    return answers.data(ask, file_dto(file, files.uri(file, base_of(ask))))


async def _pieces(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    while True:
        try:
            message = await asyncio.wait_for(request.receive(), idle_s)
        except TimeoutError as err:
            raise BodyTimeout(f"the file stopped arriving for {idle_s:g} s (body_idle_s); send it again") from err
        if message["type"] != "http.request":
            raise Disconnected("the sender went away before the file had arrived")
        if piece := message.get("body", b""):
            yield piece
        if not message.get("more_body", False):
            return


# what there is


async def find(ask: Ask) -> Response:
    files = files_of(ask)
    file = await files.find(ask.site.env, ask.part("id"))
    return answers.data(ask, file_dto(file, files.uri(file, base_of(ask))))


async def remove(ask: Ask) -> Response:
    await files_of(ask).remove(ask.site.env, ask.part("id"))
    return answers.data(ask, None)


async def list_files(ask: Ask) -> Response:
    """The newest first, unless they are sorted by `created_at` upwards. A search looks at names."""
    files, base = files_of(ask), base_of(ask)
    wanted = read_list(await ask.body(), _FIELDS, {"created_at"})
    descending = wanted.descending("created_at")
    found, more = await _some(files, ask.site.env, wanted, descending != wanted.backward)
    if wanted.backward:
        found.reverse()
    ahead, behind = (bool(wanted.cursor), more) if wanted.backward else (more, bool(wanted.cursor))
    following = found[-1].id if found and ahead else ""
    preceding = found[0].id if found and behind else ""
    items = [file_dto(one, files.uri(one, base)) for one in found]
    return answers.data(ask, page(items, limit=wanted.limit, following=following, preceding=preceding))


async def _some(files: Files, env: str, wanted: ListRequest, descending: bool) -> tuple[list[FileRecord], bool]:
    """A page of those that are wanted, from the cursor on, and whether there may be more."""
    found: list[FileRecord] = []
    after, looked_at = wanted.cursor or None, 0
    plain = not wanted.filters and not wanted.search.term
    while looked_at < _MOST_LOOKED_AT:
        size = wanted.limit + 1 if plain else 200
        some = await files.page(env, after=after, limit=size, descending=descending)
        for one in some:
            if wanted.search.holds(one.filename, one.id) and wanted.holds(file_dto(one, "")):
                if len(found) == wanted.limit:
                    return found, True
                found.append(one)
        if len(some) < size:
            return found, False
        after = some[-1].id
        looked_at += len(some)
    return found, True


# downloads


async def download(ask: Ask) -> Response:
    """A file, or a part of it, for whoever has its address."""
    files, request = files_of(ask), ask.request
    file = await files.shown(ask.site.env, ask.part("key"))
    headers = headers_of(file)
    if _matches(request.headers.get("if-none-match", ""), headers["etag"]):
        return Response(status_code=304, headers=headers)
    asked = request.headers.get("range")
    if asked is not None and request.headers.get("if-range", headers["etag"]) not in (
        headers["etag"],
        headers["last-modified"],
    ):
        asked = None
    try:
        part = read_range(asked, file.size_bytes)
    except RangeNotSatisfiable as err:
        answer = answers.error(err, request)
        answer.headers["content-range"] = f"bytes */{file.size_bytes}"
        return answer
    start, end = part or (0, file.size_bytes)
    headers["content-length"] = str(end - start)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    status = 206 if part is not None else 200
    if request.method == "HEAD" or start == end:
        return Response(status_code=status, headers=headers)
    pieces = files.read(file, start, end)
    first = await anext(pieces)  # what is not there any more is an error, and no answer that ends early
    return StreamingResponse(_after(first, pieces), status, headers)


async def _after(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


def headers_of(file: FileRecord) -> dict[str, str]:
    """What a browser is told of a file."""
    bare = file.content_type.partition(";")[0].strip()
    shown = _SHOWN_BY_BROWSERS.fullmatch(bare) is not None
    name = name_in_address(file)
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    disposition = "inline" if shown else "attachment"
    return {
        "content-type": f"{bare}; charset=utf-8" if bare == "text/plain" else file.content_type,
        "content-disposition": f"{disposition}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "accept-ranges": "bytes",
        "etag": f'"{file.digest}"',
        "last-modified": formatdate(file.created_at // 1000, usegmt=True),
        "cache-control": f"{'public' if file.public else 'private'}, max-age=3600",
        "x-content-type-options": "nosniff",
        "content-security-policy": _POLICY,
        "cross-origin-resource-policy": "cross-origin" if shown else "same-origin",
        "referrer-policy": "no-referrer",
    }


def _matches(condition: str, etag: str) -> bool:
    tags = [one.strip().removeprefix("W/") for one in condition.split(",")]
    return etag in tags or tags == ["*"]


def read_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The part of a file that a `Range` asks for, its end exclusive; None for all of it, which also answers several
    ranges at once and whatever cannot be read.

    Raises:
        RangeNotSatisfiable: There is nothing of the file in it.
    """
    found = None if header is None else _RANGE.fullmatch(header.strip().lower())
    if found is None or not (found[1] or found[2]):
        return None
    if found[1]:
        start = int(found[1])
        end = min(int(found[2]) + 1, size_bytes) if found[2] else size_bytes
        if found[2] and int(found[2]) < start:
            return None
    else:
        start, end = max(0, size_bytes - int(found[2])), size_bytes
    if start >= end:
        raise RangeNotSatisfiable(f"the file has {size_bytes:,} bytes and nothing of it is in {header!r}")
    return start, end


def content_type_of(claimed: str, filename: str, head: bytes) -> str:
    """The type of a file: as it was said, unless its first bytes are plainly of another kind; by those bytes; by its
    name."""
    kind = filetype.guess(head) if head else None
    seen = "" if kind is None else str(kind.mime)
    if claimed and (not seen or seen.partition("/")[0] == claimed.partition("/")[0]):
        return claimed
    return seen or mimetypes.guess_type(filename)[0] or "application/octet-stream"
