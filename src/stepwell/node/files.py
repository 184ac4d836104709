"""Files that people uploaded and apps made: what is known of them, who may read them, and when they go.

    announce ──▶ receive ─┐
                          ├─▶ staged ──▶ storing ──▶ in use ──▶ kept ──▶ known        each a record, or bytes
    store ────────────────┘

    record "file"             id               FileRecord: its bytes are there
    record "file_pending"     id               announced, being stored or being removed
    record "file_use"         digest/id        this file needs these bytes
    record "file_going"       digest           its bytes are being removed
    record "task_file"        task/role/id     the file is an input or an output of the task
    record "file_key"         signature        signs addresses; drawn once for each store

A file is known from the moment its last record is written; whatever is cut off before leaves a pending record, by
which it is tidied up. Equal bytes are kept once: they go with the last file that uses them. Who removes them says so
first and then looks for users; who adds a user does so first and then looks for removals. So of the two at least one
sees the other, on however many servers.

Elsewhere: the bytes (`stepwell.store.contents`), HTTP (`stepwell.api.infsh.files`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from stepwell.model.errors import Conflict, InvalidInput, NotFound, Overloaded
from stepwell.model.event import DEV_ENV
from stepwell.model.file import FileRecord
from stepwell.store.base import Record, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stepwell.model.file import Contents, Staged
    from stepwell.model.ids import Instant
    from stepwell.node.clock import World
    from stepwell.store.base import Store

log = logging.getLogger("stepwell.node")

FILE, PENDING, USE, GOING, OF_TASK, KEY = (
    "file",
    "file_pending",
    "file_use",
    "file_going",
    "task_file",
    "file_key",
)

ANNOUNCED_MS = 24 * 3_600_000
"""How long an upload may be begun, and may take."""
LEFTOVER_MS = 3_600_000
"""How long what a killed server left half done stays."""
UNFINISHED_S = 1_800.0
"""How long bytes stay that came to nobody's file and do not grow."""
EVERY_MS = 600_000
LONGEST_NAME = 1_000
PAGE = 200

_GOING_MS = 60_000
_LOOK_AGAIN_MS = 20
_LOOKS = 250
_SIGNATURE_BYTES = 18

_decode = msgspec.json.Decoder(FileRecord).decode
_encode = msgspec.json.Encoder().encode


class _Pending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file on its way. `state`: `announced`, `storing` or `removing`."""

    file: FileRecord
    state: str = "announced"


_decode_pending = msgspec.json.Decoder(_Pending).decode


def as_said(claimed: str, filename: str, head: bytes) -> str:
    return claimed or "application/octet-stream"


@dataclass(slots=True, kw_only=True)
class Files:
    """The files of one store.

    Args:
        new_id: Draws ULIDs.
        limit_bytes: Of one file.
        base: Where clients reach this server, such as `https://files.example.com`; addresses begin so unless the
            caller knows better.
        type_of: The content type by what was said, the name and how the bytes begin.
        keep_ms: How long files are kept; None: until they are removed.
        envs: Where files that are old are looked for.
    """

    store: Store
    world: World
    contents: Contents
    new_id: Callable[[], str]
    limit_bytes: int
    base: str = ""
    type_of: Callable[[str, str, bytes], str] = as_said
    keep_ms: int | None = None
    envs: tuple[str, ...] = (DEV_ENV,)
    stopped: bool = False
    _key: bytes = field(default=b"", repr=False)

    async def open(self) -> None:
        """Prepare the contents and find the key, drawing it if this is the store's first server."""
        await self.contents.open()
        drawn = Record(env="", kind=KEY, key="signature", value=secrets.token_bytes(32), at=self.world.now())
        await self.store.put_record(drawn)
        kept = await self.store.record("", KEY, "signature")
        assert kept is not None
        self._key = kept.value
        if not self.store.shared:  # then nobody else is removing anything
            for going in await self.store.records("", GOING, limit=PAGE):
                await self.store.remove_record("", GOING, going.key)

    async def close(self) -> None:
        await self.contents.close()

    # files come

    async def announce(self, file: FileRecord) -> FileRecord:
        """Expect the bytes of a file, to be uploaded within a day. Nobody sees it before they have come."""
        file = self._new(file)
        await self._put_pending(file, "announced", 0)
        return file

    async def announced(self, env: str, id: str, signature: str) -> FileRecord:
        """The file that may be uploaded with that signature.

        Raises:
            NotFound: None, or its time is over.
            Conflict: Its bytes are there already: each address takes one upload.
        """
        return (await self._announced(env, id, signature))[0]

    async def _announced(self, env: str, id: str, signature: str) -> tuple[FileRecord, int]:
        if not hmac.compare_digest(self._sign("upload", id).encode(), signature.encode("utf-8", "replace")):
            raise NotFound("no file is expected at this address; announce it with POST /files")
        found = await self.store.record("", PENDING, id)
        pending = None if found is None else _decode_pending(found.value)
        if found is None or pending is None or pending.state == "removing" or self._late(found, ANNOUNCED_MS):
            if await self.store.record(env, FILE, id) is not None:
                raise Conflict(f"the bytes of file {id} are there already; announce another file to upload others")
            raise NotFound("the time to upload this file is over, or it was removed; announce it anew with POST /files")
        return pending.file, found.revision

    async def receive(self, env: str, id: str, signature: str, pieces: AsyncIterator[bytes]) -> FileRecord:
        """Take the bytes of a file that was announced. What is cut off leaves nothing, and may be sent again.

        Raises:
            NotFound, Conflict: As `announced`.
            InvalidInput: Other than as many bytes as were announced came.
            TooLarge, StoreFull: They cannot be kept.
        """
        await self._announced(env, id, signature)
        staged = await self.contents.stage(pieces, limit_bytes=self.limit_bytes)
        try:
            file, revision = await self._announced(env, id, signature)
            if file.size_bytes and file.size_bytes != staged.size_bytes:
                raise InvalidInput(
                    f"{staged.size_bytes:,} bytes came and {file.size_bytes:,} were announced; send the file again",
                    field="size",
                )
            if file.digest and file.digest != staged.digest:
                raise Conflict(f"other bytes of file {id} are being stored; announce another file to upload these")
            return await self._keep(file, revision, staged)
        finally:
            await self.contents.drop(staged)

    async def store_bytes(
        self, file: FileRecord, pieces: AsyncIterator[bytes], *, limit_bytes: int | None = None
    ) -> FileRecord:
        """Keep a file that the server has at hand; it is there on return. Raises as `receive`."""
        file = self._new(file)
        staged = await self.contents.stage(pieces, limit_bytes=limit_bytes or self.limit_bytes)
        try:
            if file.task:
                await self.assign(file, file.task, file.role)
            return await self._keep(file, 0, staged)
        finally:
            await self.contents.drop(staged)

    def _new(self, file: FileRecord) -> FileRecord:
        if len(file.filename) > LONGEST_NAME:
            raise InvalidInput(
                f"the name has {len(file.filename):,} characters and may have {LONGEST_NAME:,}", field="filename"
            )
        if file.size_bytes > self.limit_bytes:
            raise InvalidInput(
                f"the file has {file.size_bytes:,} bytes and may have {self.limit_bytes:,} (max_file_bytes)",
                field="size",
            )
        role = file.role or ("output" if file.task else "")
        return replace(file, id=self.new_id(), digest="", role=role, created_at=self.world.now())

    async def _keep(self, file: FileRecord, revision: int, staged: Staged) -> FileRecord:
        content_type = self.type_of(file.content_type, file.filename, staged.head)
        file = replace(file, digest=staged.digest, size_bytes=staged.size_bytes, content_type=content_type)
        revision = await self._put_pending(file, "storing", revision)
        await self.store.put_record(Record(env="", kind=USE, key=_use(file), value=b"", at=self.world.now()))
        await self._until_not_going(file.digest)
        await self.contents.keep(staged)
        known = Record(env=file.env, kind=FILE, key=file.id, value=_encode(file), at=file.created_at)
        await self.store.put_record(known)  # there already: a request that was given up had come this far
        if not await self.store.remove_record("", PENDING, file.id, revision):
            await self.store.remove_record(file.env, FILE, file.id)
            await self._forget(file)
            raise Conflict(f"storing file {file.id} took so long that it was given up; announce it anew")
        return file

    async def _put_pending(self, file: FileRecord, state: str, revision: int) -> int:
        value = _encode(_Pending(file=file, state=state))
        pending = Record(env="", kind=PENDING, key=file.id, value=value, revision=revision + 1, at=self.world.now())
        if not await self.store.put_record(pending):
            raise Conflict(f"file {file.id} is being stored or removed by another request; ask again in a moment")
        return pending.revision

    # files are found

    async def find(self, env: str, id: str) -> FileRecord:
        """Raises `NotFound`, also while its bytes have not come."""
        found = await self.store.record(env, FILE, id)
        if found is None:
            raise NotFound(f"no file {id[:60]!r}: it does not exist, was removed, or its bytes have not come yet")
        return _decode(found.value)

    async def shown(self, env: str, key: str) -> FileRecord:
        """The file that an address leads to: `key` is its id with its signature. Raises `NotFound`."""
        id, _, signature = key.partition(".")
        if not hmac.compare_digest(self._sign("read", id).encode(), signature.encode("utf-8", "replace")):
            raise NotFound("no file at this address")
        return await self.find(env, id)

    async def page(
        self, env: str, *, after: str | None = None, limit: int = PAGE, descending: bool = True
    ) -> list[FileRecord]:
        """By id, which is by time; `after` is the id of the last one seen."""
        found = await self.store.records(env, FILE, after=after, limit=limit, descending=descending)
        return [_decode(one.value) for one in found]

    async def assign(self, file: FileRecord, task: str, role: str) -> None:
        """Note that a file is an `input` or an `output` of a task."""
        key = f"{task}/{role}/{file.id}"
        await self.store.put_record(Record(env=file.env, kind=OF_TASK, key=key, value=b"", at=self.world.now()))

    async def of_task(self, env: str, task: str, role: str = "") -> list[FileRecord]:
        """The files of a task that are there, inputs first. Each has the role that it has for this task."""
        prefix = f"{task}/{role}/" if role else f"{task}/"
        files: list[FileRecord] = []
        after: str | None = None
        while found := await self.store.records(env, OF_TASK, prefix=prefix, after=after, limit=PAGE):
            for one in found:
                _, its_role, id = one.key.rsplit("/", 2)
                kept = await self.store.record(env, FILE, id)
                if kept is not None:
                    files.append(replace(_decode(kept.value), task=task, role=its_role))
            after = found[-1].key
        return files

    def read(self, file: FileRecord, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes of a file, from `start` to `end` (exclusive)."""
        return self.contents.read(file.digest, start, end)

    def uri(self, file: FileRecord, base: str | None = None) -> str:
        """The address of a file, for whoever is given it: it never changes and asks for no key."""
        name = quote(name_in_address(file), safe="")
        return f"{self.base if base is None else base}/f/{file.id}.{self._sign('read', file.id)}/{name}"

    def upload_url(self, file: FileRecord, base: str | None = None) -> str:
        """Where the bytes of a file that was announced may be put, once."""
        return f"{self.base if base is None else base}/upload/{file.id}?sig={self._sign('upload', file.id)}"

    def _sign(self, purpose: str, id: str) -> str:
        assert self._key, "the files were not opened"
        digest = hmac.digest(self._key, f"{purpose}\x1f{id}".encode("utf-8", "replace"), hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:_SIGNATURE_BYTES]).decode()

    # files go

    async def remove(self, env: str, id: str) -> None:
        """Remove a file, and its bytes unless another file has the same. Raises `NotFound`."""
        file = await self.find(env, id)
        old = await self.store.record("", PENDING, id)
        await self._put_pending(file, "removing", 0 if old is None else old.revision)
        removed = await self.store.remove_record(env, FILE, id)
        await self._forget(file)
        if not removed:
            raise NotFound(f"no file {id!r}: it was just removed")

    async def _forget(self, file: FileRecord) -> None:
        """Remove what is left of a file that nobody knows any more."""
        if file.digest:
            await self.store.remove_record("", USE, _use(file))
            await self._reclaim(file.digest)
        if file.task:
            await self.store.remove_record(file.env, OF_TASK, f"{file.task}/{file.role}/{file.id}")
        await self.store.remove_record("", PENDING, file.id)

    async def _reclaim(self, digest: str) -> None:
        """Remove bytes, unless a file needs them."""
        while not await self._in_use(digest):
            going = Record(env="", kind=GOING, key=digest, value=b"", at=self.world.now())
            if not await self.store.put_record(going):
                await self._until_not_going(digest)
                continue
            try:
                if not await self._in_use(digest):
                    await self.contents.remove(digest)
            finally:
                await self.store.remove_record("", GOING, digest)
            return

    async def _in_use(self, digest: str) -> bool:
        return bool(await self.store.records("", USE, prefix=f"{digest}/", limit=1))

    async def _until_not_going(self, digest: str) -> None:
        """Wait for whoever is removing bytes; one that has been at it for a minute was killed."""
        for _ in range(_LOOKS):
            going = await self.store.record("", GOING, digest)
            if going is None:
                return
            if self._late(going, _GOING_MS):
                await self.store.remove_record("", GOING, digest, going.revision)
            else:
                await self.world.sleep(_LOOK_AGAIN_MS)
        raise Overloaded("the same bytes are being removed right now; send the file again in a moment")

    def _late(self, record: Record, after_ms: int) -> bool:
        return record.at + after_ms <= self.world.now()

    # tidying

    async def run(self) -> None:
        """Sweep until `stop`."""
        while not self.stopped:
            try:
                await self.sweep()
            except (StoreFull, StoreUnavailable) as err:
                log.warning("old files could not be removed: %s", err)
            await self.world.sleep(EVERY_MS)

    def stop(self) -> None:
        self.stopped = True

    async def sweep(self) -> int:
        """Remove what was left half done, and files that are older than what is kept. Returns how many files."""
        await self.contents.tidy(UNFINISHED_S)
        after: str | None = None
        while found := await self.store.records("", PENDING, after=after, limit=PAGE):
            for one in found:
                await self._sweep_pending(one)
            after = found[-1].key
        removed = 0
        if self.keep_ms is not None:
            for env in self.envs:
                removed += await self._sweep_old(env, self.world.now() - self.keep_ms)
        return removed

    async def _sweep_pending(self, one: Record) -> None:
        pending = _decode_pending(one.value)
        file = pending.file
        if not self._late(one, ANNOUNCED_MS if pending.state == "announced" else LEFTOVER_MS):
            return
        try:
            revision = await self._put_pending(file, "removing", one.revision)
        except Conflict:
            return  # somebody goes on with it
        if await self.store.record(file.env, FILE, file.id) is None:
            await self._forget(file)
        else:
            await self.store.remove_record("", PENDING, file.id, revision)

    async def _sweep_old(self, env: str, before: Instant) -> int:
        removed = 0
        after: str | None = None
        while found := await self.page(env, after=after, descending=False):
            for file in found:
                if file.created_at >= before or self.stopped:
                    return removed
                try:
                    await self.remove(env, file.id)
                    removed += 1
                except (NotFound, Conflict):
                    pass  # another server sweeps, too
            after = found[-1].id
        return removed


def _use(file: FileRecord) -> str:
    return f"{file.digest}/{file.id}"


_SEPARATORS = re.compile(r"[/\\\x00]")
_UNFIT = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")
_LONGEST_LAST_PART = 120


def name_in_address(file: FileRecord) -> str:
    """The name of a file as the last part of its address: no path, not too long, with its ending."""
    name = _UNFIT.sub("", _SEPARATORS.split(file.filename)[-1]).strip()
    if not name.strip("."):
        return "file"
    if len(name) > _LONGEST_LAST_PART:
        stem, dot, ending = name.rpartition(".")
        ending = dot + ending if stem and len(ending) <= 16 else ""
        name = name[: _LONGEST_LAST_PART - len(ending)] + ending
    return name
