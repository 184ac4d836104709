"""Files: how uploads are announced, and how a file is told of.

    {"files": [{"uri", "filename", "content_type", "path", "size", "public"}], "category"}

`uri` is empty when the bytes are to be uploaded. A data URI has them in it, and from any other URL the server gets
them itself.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.file import FileRecord
from stepwell.wire.infsh.request import read_body
from stepwell.wire.infsh.text import instant, short_id

MOST_AT_ONCE = 100
_UNSAID = ("", "application/octet-stream")


class _File(msgspec.Struct, kw_only=True):
    uri: str | None = None
    filename: str | None = None
    content_type: str | None = None
    path: str | None = None
    size: int | None = None
    public: bool | None = None
    metadata: dict[str, Any] | None = None


class _Body(msgspec.Struct, kw_only=True):
    files: list[_File] | None = None
    category: str | None = None


class Announced(msgspec.Struct, frozen=True):
    """A file that somebody wants to be kept. `uri` is where its bytes are; empty: they will be uploaded."""

    file: FileRecord
    uri: str = ""


def read_announced(text: bytes, env: str = DEV_ENV) -> list[Announced]:
    """Read a request. Raises `InvalidInput` that names the member."""
    body = read_body(text, _Body)
    if not body.files:
        raise InvalidInput("files is missing: a list of what is to be uploaded, one entry a file", field="files")
    if len(body.files) > MOST_AT_ONCE:
        raise InvalidInput(
            f"there are {len(body.files):,} files in one request and there may be {MOST_AT_ONCE}; send several",
            field="files",
        )
    return [_announced(one, number, env, body.category or "") for number, one in enumerate(body.files)]


def _announced(one: _File, number: int, env: str, category: str) -> Announced:
    uri = (one.uri or "").strip()
    if uri and not uri[:8].lower().startswith(("http://", "https://", "data:")):
        raise InvalidInput(
            f"{uri[:60]!r} is no place that this server can get a file from: http://, https:// or data:",
            field=f"files[{number}].uri",
        )
    if one.size is not None and one.size < 0:
        raise InvalidInput("size is a number of bytes, 0 or more", field=f"files[{number}].size")
    content_type = (one.content_type or "").strip().lower()
    if len(content_type) > 200 or any(not " " <= letter <= "~" for letter in content_type):
        raise InvalidInput("content_type is written like image/png", field=f"files[{number}].content_type")
    file = FileRecord(
        id="",
        env=env,
        filename=one.filename or _last_part(uri),
        content_type="" if content_type in _UNSAID else content_type,
        size_bytes=one.size or 0,
        public=bool(one.public),
        category=category[:200],
        path=(one.path or "")[:2000],
        metadata=one.metadata or {},
    )
    return Announced(file, uri)


def _last_part(uri: str) -> str:
    """The name that a URL suggests."""
    if uri[:5].lower() == "data:":
        return ""
    return unquote_to_bytes(uri.partition("#")[0].partition("?")[0].rpartition("/")[2]).decode("utf-8", "replace")[:255]


def read_data_uri(uri: str) -> tuple[str, bytes]:
    """The content type and the bytes of `data:[type][;base64],...`. Raises `InvalidInput`."""
    head, comma, rest = uri[5:].partition(",")
    if not comma:
        raise InvalidInput("the data URI has no comma before its data: data:image/png;base64,...", field="uri")
    content_type, _, parameters = head.partition(";")
    if "base64" not in parameters.lower().split(";"):
        return content_type.lower() or "text/plain", unquote_to_bytes(rest)
    text = unquote_to_bytes(rest) if "%" in rest else rest.encode("ascii", "replace")
    try:
        # Both alphabets, with and without padding: people write all of them.
        text = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        return content_type.lower(), base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as err:
        raise InvalidInput(f"the data URI is not base64 as it says: {err}", field="uri") from err


def file_dto(file: FileRecord, uri: str, upload_url: str = "") -> dict[str, Any]:
    """A file as clients know it."""
    dto: dict[str, Any] = {
        "id": file.id,
        "short_id": short_id(file.id),
        "created_at": instant(file.created_at),
        "updated_at": instant(file.created_at),
        "uri": uri,
        "filename": file.filename,
        "content_type": file.content_type or _UNSAID[1],
        "size": file.size_bytes,
        "path": file.path,
        "remote_path": "",
        "category": file.category,
        "rating": "unrated",
        "visibility": "public" if file.public else "private",
        "metadata": file.metadata or None,
    }
    if upload_url:
        dto["upload_url"] = upload_url
    return dto


def task_file_dto(file: FileRecord, uri: str) -> dict[str, Any]:
    """A file in the role that it has for a task."""
    return {
        "id": file.id,
        "created_at": instant(file.created_at),
        "role": file.role,
        "uri": uri,
        "filename": file.filename,
        "content_type": file.content_type or _UNSAID[1],
        "size": file.size_bytes,
    }
