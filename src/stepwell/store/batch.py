"""Many transitions become one set of writes: the part of group commit that needs no database.

`prepare` encodes one transition on its own, so that whatever is wrong with it hurts its caller alone. `merge` then
plays a group of them, in order, against what the database says now: who is late is refused and leaves no trace,
everybody else's rows are added up. What one transition creates and a later one removes is never written, and a run
that moves twice is written once. A database then needs one statement per table, however large the group.

    current state ─┐
    prepared ──────┴─ merge ──▶ outcomes, and rows: deletes first, then inserts and updates

Columns are what SQL looks at; the last one, `body`, is the whole value as MessagePack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from stepwell.model.credential import Credential
from stepwell.model.event import Event
from stepwell.model.function import Service
from stepwell.model.ids import shard_of
from stepwell.model.job import Job, RunRow, Wait
from stepwell.model.journal import ENTRY_VERSION, Entry
from stepwell.model.payload import Blob
from stepwell.store.base import COMMITTED, ClaimLost, Committed, Duplicate, RunMoved

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from stepwell.model.ids import Instant, JobId, RunId, StepId
    from stepwell.store.base import Outcome, Transition, Unique

Row: TypeAlias = "tuple[Any, ...]"

encode: Final = msgspec.msgpack.Encoder().encode
decode_entry: Final = msgspec.msgpack.Decoder(Entry).decode
decode_run: Final = msgspec.msgpack.Decoder(RunRow).decode
decode_job: Final = msgspec.msgpack.Decoder(Job).decode
decode_wait: Final = msgspec.msgpack.Decoder(Wait).decode
decode_event: Final = msgspec.msgpack.Decoder(Event).decode
decode_service: Final = msgspec.msgpack.Decoder(Service).decode
decode_credential: Final = msgspec.msgpack.Decoder(Credential).decode

ROW_OVERHEAD_BYTES = 64


@dataclass(slots=True)
class Prepared:
    """A transition as rows. The orders of columns are those of the INSERT statements of every store."""

    transition: Transition
    size_bytes: int
    run: Row | None
    """id, env, shard, seq, status, ending, function, service, event, parent, created_at, body"""
    entries: list[Row]
    """run, seq, shard, version, body"""
    jobs: list[Row]
    """id, env, shard, run, due, owner, epoch, fence, route, body"""
    waits: list[Row]
    """run, step, env, shard, event, path, value, body"""
    events: list[Row]
    """key, env, shard, name, internal_id, received_at, body"""
    uses: list[Row]
    """holder, hash, shard: the runs and events (by id) that refer to blobs"""
    asks: bool = False
    """Whether jobs of it ask for slots."""


RUN_SEQ, RUN_STATUS, RUN_ENDING, RUN_BODY = 3, 4, 5, 11
JOB_RUN = 3


def prepare(transition: Transition, epochs: dict[str, int]) -> Prepared:
    """Encode. `epochs` has the epoch of each node that lives here; a job born claimed gets that of its owner."""
    size = ROW_OVERHEAD_BYTES
    run_row: Row | None = None
    entries: list[Row] = []
    uses: list[Row] = []
    if (write := transition.run) is not None:
        row = write.row
        run, shard, seq = row.id, row.shard, write.expected_seq
        for entry in write.entries:
            seq += 1
            body = encode(entry)
            size += len(body) + ROW_OVERHEAD_BYTES
            entries.append((run, seq, shard, ENTRY_VERSION, body))
            if BLOB_MARK in body:
                uses += [(run, blob.hash, shard) for blob in blobs_of(entry)]
        assert row.seq == seq > 0, f"run {run}: seq does not count its entries"
        status = row.status.value
        ending = status if row.status.final else None
        body = encode(row)
        size += len(body) + ROW_OVERHEAD_BYTES
        run_row = (
            *(run, row.env, shard, seq, status, ending),
            *(row.function, row.service, row.event, row.parent, row.created_at, body),
        )
    jobs: list[Row] = []
    asks = bool(transition.enter)
    for job in transition.jobs:
        body = encode(job)
        size += len(body) + ROW_OVERHEAD_BYTES
        asks = asks or bool(job.slots)
        owner = job.owner
        epoch, fence = (None, 0) if owner is None else (epochs.get(owner, 0), 1)
        jobs.append((job.id, job.env, job.shard, job.run, job.due, owner, epoch, fence, job.route, body))
        if BLOB_MARK in body and job.run is not None:
            uses += [(job.run, blob.hash, job.shard) for blob in blobs_of(job)]
    waits: list[Row] = []
    for wait in transition.waits:
        body = encode(wait)
        size += len(body) + ROW_OVERHEAD_BYTES
        waits.append((wait.run, wait.step, wait.env, wait.shard, wait.event, wait.path, wait.value, body))
    events: list[Row] = []
    for event in transition.events:
        body = encode(event)
        size += len(body) + ROW_OVERHEAD_BYTES
        shard = shard_of(event.env, "")
        events.append((event.key, event.env, shard, event.name, event.internal_id, event.received_at, body))
        if isinstance(event.body, Blob):
            uses.append((event.key, event.body.hash, shard))
    for _, text in transition.blobs:
        size += len(text) + ROW_OVERHEAD_BYTES
    return Prepared(transition, size, run_row, entries, jobs, waits, events, uses, asks)


BLOB_MARK: Final = b"\x92\xd9\x40"
"""How the MessagePack of every blob begins: a pair, of which the first is 64 letters. Other values rarely have it."""


def blobs_of(value: msgspec.Struct) -> list[Blob]:
    """The blobs that an entry, a job or an event refers to."""
    found: list[Blob] = []
    for name in value.__struct_fields__:
        part = getattr(value, name)
        parts: tuple[object, ...] = part if isinstance(part, tuple) else (part,)
        for one in parts:
            if isinstance(one, Blob):
                found.append(one)
            elif isinstance(one, msgspec.Struct):
                found += blobs_of(one)
    return found


def asked_body(job: Job, *, parked: bool) -> bytes | None:
    """The body of a job that has asked for its slots, if it is another one than before."""
    return encode(job.asked(parked=parked)) if job.later else None


@dataclass(slots=True)
class Current:
    """What the database says about the runs and jobs that a group relies on."""

    seqs: dict[str, int] = field(default_factory=dict)
    """Of the runs that exist."""
    claims: list[tuple[str, int, str | None]] = field(default_factory=list)
    """Of the jobs that are claimed: id, fence and run."""
    keys: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    """Of the unique keys somebody has or had: value and expiry."""


@dataclass(slots=True)
class Batch:
    """The sum of a group. Deletes go first: whatever is removed and also added was added later."""

    outcomes: list[Outcome] = field(default_factory=list)
    drop_jobs: list[JobId] = field(default_factory=list)
    drop_all_of: list[RunId] = field(default_factory=list)
    drop_waits: list[tuple[RunId, StepId]] = field(default_factory=list)
    new_runs: dict[str, Row] = field(default_factory=dict)
    moved_runs: dict[str, Row] = field(default_factory=dict)
    entries: list[Row] = field(default_factory=list)
    jobs: dict[str, Row] = field(default_factory=dict)
    waits: dict[tuple[str, str], Row] = field(default_factory=dict)
    events: list[Row] = field(default_factory=list)
    keys: dict[tuple[str, str], Row] = field(default_factory=dict)
    """env, key, value, until, shard"""
    keys_at: Instant = 0
    """The earliest time by which a key of this group was judged."""
    blobs: dict[Blob, bytes] = field(default_factory=dict)
    uses: dict[tuple[str, str], Row] = field(default_factory=dict)
    """By holder and hash."""

    def entering(self, group: Sequence[Prepared]) -> list[Job]:
        """The jobs of the group that ask for slots, without those that are gone again."""
        entering: list[Job] = []
        gone: set[str] | None = None
        for prepared, outcome in zip(group, self.outcomes, strict=True):
            if not prepared.asks or not isinstance(outcome, Committed):
                continue
            transition = prepared.transition
            entering += [job for job in transition.jobs if job.slots and not job.later and job.id in self.jobs]
            if transition.enter:
                gone = {*self.drop_jobs, *self.drop_all_of} if gone is None else gone
                entering += [job for job in transition.enter if job.id not in gone and job.run not in gone]
        return entering

    def park(self, group: Sequence[Prepared], parked: Collection[str]) -> list[Job]:
        """Put into the outcomes who is parked, and return those jobs."""
        found: list[Job] = []
        for number, prepared in enumerate(group):
            if not prepared.asks or not isinstance(self.outcomes[number], Committed):
                continue
            transition = prepared.transition
            these = [job for job in (*transition.jobs, *transition.enter) if job.id in parked]
            if these:
                self.outcomes[number] = Committed(tuple(job.id for job in these))
                found += these
        return found


def relied_on(group: Iterable[Prepared]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """The runs, the jobs and the unique keys whose state `merge` must be given."""
    runs: list[str] = []
    jobs: list[str] = []
    keys: list[tuple[str, str]] = []
    for prepared in group:
        transition = prepared.transition
        if transition.run is not None:
            runs.append(transition.run.row.id)
        for claim in transition.ends:
            jobs.append(claim.job)
        for claim in transition.holds:
            jobs.append(claim.job)
        for key in transition.unique:
            keys.append((key.env, key.key))
    return runs, jobs, keys


def merge(group: Sequence[Prepared], current: Current) -> Batch:
    """Play the group in order. `current` is used up.

    Raises:
        AssertionError: A job or wait exists twice in the group; which is a bug of one of the callers.
    """
    batch = Batch()
    seqs = current.seqs
    claims: dict[str, int] = {}
    jobs_of: dict[str | None, list[str]] = {}
    for job_id, fence, run in current.claims:
        claims[job_id] = fence
        jobs_of.setdefault(run, []).append(job_id)
    for prepared in group:
        refusal = _refusal(prepared.transition, seqs, claims, current.keys)
        if refusal is None:
            _add(prepared, batch, seqs, claims, jobs_of)
            for key in prepared.transition.unique:
                _take_key(key, prepared.transition.now, batch, current.keys)
            batch.outcomes.append(COMMITTED)
        else:
            batch.outcomes.append(refusal)
    return batch


def _refusal(
    transition: Transition,
    seqs: dict[str, int],
    claims: dict[str, int],
    keys: dict[tuple[str, str], tuple[str, int]],
) -> ClaimLost | RunMoved | Duplicate | None:
    for asked in (transition.ends, transition.holds):
        for claim in asked:
            if claims.get(claim.job) != claim.fence:
                return ClaimLost(claim.job)
    # A run that exists has entries: its number is never 0, which stands for "not there".
    if (write := transition.run) is not None and seqs.get(write.row.id, 0) != write.expected_seq:
        return RunMoved(write.row.id)
    for key in transition.unique:
        value, until = keys.get((key.env, key.key), ("", 0))
        if until > transition.now if key.replaces is None else value != key.replaces:
            return Duplicate(key.key, value)
    return None


def _take_key(key: Unique, now: Instant, batch: Batch, keys: dict[tuple[str, str], tuple[str, int]]) -> None:
    place = (key.env, key.key)
    keys[place] = (key.value, key.until)
    batch.keys_at = min(now, batch.keys_at) if batch.keys else now
    batch.keys[place] = (key.env, key.key, key.value, key.until, shard_of(key.env, ""))


def _add(
    prepared: Prepared,
    batch: Batch,
    seqs: dict[str, int],
    claims: dict[str, int],
    jobs_of: dict[str | None, list[str]],
) -> None:
    transition = prepared.transition
    for claim in transition.ends:
        claims.pop(claim.job, None)
        if batch.jobs.pop(claim.job, None) is None:
            batch.drop_jobs.append(claim.job)
    for job_id in transition.drop_jobs:
        claims.pop(job_id, None)
        if batch.jobs.pop(job_id, None) is None:
            batch.drop_jobs.append(job_id)
    for listener in transition.drop_waits:
        if batch.waits.pop(listener, None) is None:
            batch.drop_waits.append(listener)
    if (gone := transition.drop_all_of) is not None:
        batch.drop_all_of.append(gone)
        for known in jobs_of.pop(gone, ()):
            claims.pop(known, None)
            batch.jobs.pop(known, None)
        if batch.waits:
            for known_wait in [key for key in batch.waits if key[0] == gone]:
                del batch.waits[known_wait]
    if (row := prepared.run) is not None:
        run = row[0]
        if run in batch.new_runs or run not in seqs:
            batch.new_runs[run] = row
        else:
            batch.moved_runs[run] = row
        seqs[run] = row[RUN_SEQ]
        batch.entries += prepared.entries
    for job, row in zip(transition.jobs, prepared.jobs, strict=True):
        assert job.id not in batch.jobs, f"job {job.id} exists already"
        batch.jobs[job.id] = row
        if job.owner is not None:
            claims[job.id] = 1
        jobs_of.setdefault(job.run, []).append(job.id)
    for row in prepared.waits:
        assert row[:2] not in batch.waits, f"run {row[0]} has a wait for step {row[1]} already"
        batch.waits[row[:2]] = row
    batch.events += prepared.events
    for blob, text in transition.blobs:
        batch.blobs[blob] = text
    for row in prepared.uses:
        batch.uses[row[0], row[1]] = row
