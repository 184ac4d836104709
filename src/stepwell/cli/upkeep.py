"""`stepwell backup` and `stepwell audit`: a copy that is whole, and whether what is stored is sound."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stepwell.cli.output import dim, print_json, printable, say
from stepwell.model.errors import ConfigurationError

if TYPE_CHECKING:
    from stepwell.node.auditor import Report
    from stepwell.store.base import Store

db_option = click.option(
    "--db", envvar=["STEPWELL_DB", "INNGEST_POSTGRES_URI"], metavar="URL", help="PostgreSQL database of the state."
)
data_option = click.option(
    "--data",
    default=".stepwell",
    show_default=True,
    envvar="STEPWELL_DATA",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the state.",
)


@click.command()
@click.argument("destination", type=click.Path(path_type=Path))
@data_option
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backup(destination: Path, data: Path, db: str | None, as_json: bool) -> None:
    """Copy all state to the new folder DESTINATION.

    A server may use it meanwhile. The copy is one moment of the state, checked and synced; a server started on it
    (--data DESTINATION) goes on from there.
    """
    if db is not None:
        raise ConfigurationError(
            "PostgreSQL has its own tools: `pg_dump --format=custom --schema=stepwell --file=stepwell.dump URL` copies "
            "one moment of it while servers work, `pg_restore --clean --if-exists --dbname=URL stepwell.dump` brings "
            "it back while none does; continuous archiving leads back to any moment"
        )
    from stepwell.store.sqlite.backup import back_up

    done = back_up(data, destination)
    if as_json:
        print_json({**done._asdict(), "place": str(done.place)})
        return
    size = (done.database_bytes + done.files_bytes) / (1 << 20)
    say(
        f"{done.place} holds {done.runs} runs {dim(f'{size:.1f} MiB, {done.files} files')}",
        mark="✓",
        colour="green",
    )


@click.command()
@data_option
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(data: Path, db: str | None, as_json: bool) -> None:
    """Check everything stored for broken invariants. Exit 1 if there are any.

    A running server is not disturbed: of a data folder a copy is checked, made as by `stepwell backup`.
    """
    report, texts = asyncio.run(_audit_database(db) if db is not None else _audit_folder(data))
    findings = [str(finding) for finding in report.findings]
    if as_json:
        print_json({"runs": report.runs, "texts": texts, "skipped": report.skipped, "findings": findings})
    else:
        for finding in findings:
            say(printable(finding), mark="✗", colour="red")
        skipped = f", {report.skipped} changed meanwhile and were left out" if report.skipped else ""
        say(
            f"{report.runs} runs and {texts} texts checked{skipped}: "
            f"{'nothing is wrong' if not findings else f'{len(findings)} findings'}",
            mark="✗" if findings else "✓",
            colour="red" if findings else "green",
        )
    raise SystemExit(1 if findings else 0)


async def _audit_folder(data: Path) -> tuple[Report, int]:
    from stepwell.store.sqlite import SqliteStore
    from stepwell.store.sqlite.backup import back_up

    # Beside the data, since it is as large and the folder for temporary files may be in memory.
    scratch = Path(tempfile.mkdtemp(prefix=".audit-", dir=data.parent)) if data.is_dir() else data
    try:
        copy = scratch / "copy"
        back_up(data, copy, note=False)
        return await _audit(SqliteStore(copy))
    finally:
        if scratch != data:
            shutil.rmtree(scratch, ignore_errors=True)


async def _audit_database(url: str) -> tuple[Report, int]:
    from stepwell.server.server import postgres_store

    return await _audit(postgres_store(url))


async def _audit(store: Store) -> tuple[Report, int]:
    from stepwell.node.auditor import Auditor
    from stepwell.node.clock import AsyncioWorld

    await store.open()
    try:
        return await Auditor(store, AsyncioWorld()).audit_all()
    finally:
        await store.close()
