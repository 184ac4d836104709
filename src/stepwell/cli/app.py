"""`stepwell app environments`: what the apps of a data folder run in, and what of it nothing uses any more."""

from __future__ import annotations

import time
from pathlib import Path

import click

from stepwell.cli.options import age
from stepwell.cli.output import ago_text, print_json, printable, say, table
from stepwell.cli.upkeep import data_option


@click.group()
def app() -> None:
    """Apps: inference programs that the server keeps and runs."""


@app.command()
@data_option
@click.option(
    "--remove-unused", "unused_ms", metavar="AGE", callback=age,
    help="Remove those in which no process has started for so long (30d, 12h) and none runs.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def environments(data: Path, unused_ms: int | None, as_json: bool) -> None:
    """List the environments of apps, the least recently used first.

    A size is what removing it frees: files that it shares with the cache of uv do not count. One that was removed is
    made again when an app needs it.
    """
    from stepwell.apps.environment import Environments

    made = Environments(data / "apps" / "environments")
    found = made.kept()
    gone: set[str] = set()
    if unused_ms is not None:
        oldest = time.time() - unused_ms / 1000
        gone = {kept.key for kept in found if kept.used_at_s <= oldest and made.remove(kept.key)}
    rows = [
        {
            "key": kept.key,
            "kernel": kept.kernel,
            "requirements": list(kept.requirements),
            "size_bytes": kept.size_bytes,
            "made_at": round(kept.made_at_s * 1000),
            "used_at": round(kept.used_at_s * 1000),
            "removed": kept.key in gone,
        }
        for kept in found
    ]
    if as_json:
        print_json(rows)
        return
    table(
        [
            {
                "key": kept.key[:8],
                "kernel": kept.kernel,
                "size": f"{kept.size_bytes / (1 << 20):.1f} MiB",
                "used": ago_text(round(kept.used_at_s * 1000)) + (", removed" if kept.key in gone else ""),
                "requirements": _shortened(", ".join(map(printable, kept.requirements))),
            }
            for kept in found
        ],
        ("key", "kernel", "size", "used", "requirements"),
    )
    if unused_ms is not None:
        freed = sum(kept.size_bytes for kept in found if kept.key in gone)
        say(f"{len(gone)} removed, {freed / (1 << 20):.1f} MiB", mark="✓", colour="green")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
