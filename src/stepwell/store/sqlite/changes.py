"""What is written besides transitions: claims of due jobs, leases of nodes, services, credentials, records.

Each is made on the writer's thread inside a group's transaction, after its transitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import json

from stepwell.model.ids import shard_of
from stepwell.store.batch import encode

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stepwell.model.credential import Credential
    from stepwell.model.function import Service
    from stepwell.model.ids import Instant
    from stepwell.model.job import Claim
    from stepwell.store.base import Node, Record
    from stepwell.store.sqlite.statements import Statements

FORGET_NODE_MS = 24 * 3_600_000


def claim_due(
    on: Statements, node: Node, now: Instant, limit: int, routes: Collection[str] | None
) -> list[tuple[int, bytes]]:
    """Fence and body of each job claimed."""
    if _superseded(on, node):
        return []
    found = on.one(
        "find due jobs",
        "SELECT id, fence + 1, body FROM job INDEXED BY job_due WHERE owner IS NULL AND due <= ? AND "
        + within(routes)
        + " ORDER BY due, id LIMIT ?",
        (now, *named(routes), limit),
    ).fetchall()
    on.many(
        "claim jobs",
        "UPDATE job SET owner = new.column2, epoch = new.column3, fence = new.column4"
        " FROM (VALUES $rows) AS new WHERE job.id = new.column1",
        [(job, node.name, node.epoch, fence) for job, fence, _ in found],
    )
    return [(fence, body) for _, fence, body in found]


def within(routes: Collection[str] | None) -> str:
    """The condition that a job's route is one of those; its values are `named`."""
    return "TRUE" if routes is None else "(route IS NULL OR route IN (SELECT value FROM json_each(?)))"


def named(routes: Collection[str] | None) -> tuple[str, ...]:
    return () if routes is None else (json.encode(sorted(routes)).decode(),)


def heartbeat(on: Statements, node: Node) -> bool:
    if _superseded(on, node):
        return False
    on.one(
        "renew lease",
        "INSERT INTO node VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, lease_until = excluded.lease_until",
        (node.name, node.epoch, node.lease_until),
    )
    return True


def _superseded(on: Statements, node: Node) -> bool:
    known = on.one("find node", "SELECT epoch FROM node WHERE name = ?", (node.name,)).fetchone()
    return known is not None and known[0] > node.epoch


def release_lost(on: Statements, now: Instant) -> int:
    lost = on.one(
        "free lost jobs",
        "UPDATE job SET owner = NULL, epoch = NULL WHERE owner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM node"
        " WHERE node.name = job.owner AND node.epoch = job.epoch AND node.lease_until > ?)",
        (now,),
    )
    on.one("forget nodes", "DELETE FROM node WHERE lease_until <= ?", (now - FORGET_NODE_MS,))
    return lost.rowcount


def release(on: Statements, claims: Sequence[Claim]) -> None:
    on.many(
        "free jobs",
        "UPDATE job SET owner = NULL, epoch = NULL WHERE owner IS NOT NULL AND (id, fence) IN (VALUES $rows)",
        [(claim.job, claim.fence) for claim in claims],
    )


def put_service(on: Statements, service: Service) -> None:
    values: tuple[Any, ...] = (service.env, service.name, shard_of(service.env, ""), encode(service))
    on.one(
        "put service",
        "INSERT INTO service VALUES (?, ?, ?, ?) ON CONFLICT (env, name) DO UPDATE SET body = excluded.body",
        values,
    )


def remove_service(on: Statements, env: str, name: str) -> bool:
    return on.one("remove service", "DELETE FROM service WHERE env = ? AND name = ?", (env, name)).rowcount > 0


def put_credential(on: Statements, credential: Credential, over: Credential | None) -> bool:
    place, body = (credential.env, credential.name), encode(credential)
    if over is not None:
        sql = "UPDATE credential SET body = ? WHERE env = ? AND name = ? AND body IN (?, ?)"
        return on.one("replace credential", sql, (body, *place, encode(over), body)).rowcount > 0
    on.one(
        "put credential",
        "INSERT INTO credential VALUES (?, ?, ?, ?) ON CONFLICT (env, name) DO UPDATE SET body = excluded.body",
        (*place, shard_of(credential.env, ""), body),
    )
    return True


def remove_credential(on: Statements, env: str, name: str) -> bool:
    return on.one("remove credential", "DELETE FROM credential WHERE env = ? AND name = ?", (env, name)).rowcount > 0


def put_record(on: Statements, record: Record) -> bool:
    place, values = (record.env, record.kind, record.key), (record.revision, record.at, record.value)
    if record.revision == 1:
        sql = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        return on.one("put record", sql, (*place, shard_of(record.env, ""), *values)).rowcount > 0
    sql = "UPDATE record SET revision = ?, at = ?, value = ? WHERE env = ? AND kind = ? AND key = ? AND revision = ?"
    return on.one("replace record", sql, (*values, *place, record.revision - 1)).rowcount > 0


def remove_record(on: Statements, env: str, kind: str, key: str, revision: int | None) -> bool:
    sql = "DELETE FROM record WHERE env = ? AND kind = ? AND key = ? AND revision = coalesce(?, revision)"
    return on.one("remove record", sql, (env, kind, key, revision)).rowcount > 0
