"""`stepwell app deploy` and `import`, which give a server an app, and `stepwell app environments`: what the apps of a
data folder run in, and what of it nothing uses any more."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from stepwell.cli.api import Api, url_option, utf8
from stepwell.cli.app_init import init
from stepwell.cli.app_tasks import list_apps, logs, remove, run, show, versions
from stepwell.cli.options import age
from stepwell.cli.output import ago_text, dim, print_json, printable, say, table
from stepwell.cli.upkeep import data_option


@click.group()
def app() -> None:
    """Apps: inference programs that the server keeps and runs."""


@app.command()
@click.argument("directory", type=click.Path(path_type=Path), default=".")
@click.option("--as", "as_", metavar="NAMESPACE/NAME", help="In place of what inf.yml says.")
@click.option(
    "--version", metavar="SHORTID", help="4 to 8 small letters and digits  [default: made from what the files hold]"
)
@click.option("--not-current", is_flag=True, help="Leave the version that is meant when none is named.")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def deploy(
    directory: Path, as_: str | None, version: str | None, not_current: bool, url: str, key: str | None, as_json: bool
) -> None:
    """Give the server the app in DIRECTORY, or in one file of Python, and print its reference.

    The server makes its environment, loads it to see what functions it has, and keeps it as a version that never
    changes. The same files again are the same version.
    """
    from stepwell.apps.declared import directory_of
    from stepwell.apps.manifest import read_manifest
    from stepwell.apps.package import write_archive

    query = {"as": as_, "version": version, "current": "false" if not_current else None}
    done: Any = None
    with tempfile.TemporaryFile() as archive:
        with directory_of(directory) as found:
            read_manifest(found)  # before anything is sent
            files = write_archive(found, archive)
        say(f"sending {files:,} files, {archive.tell() / (1 << 20):.1f} MiB", mark="↑")
        archive.seek(0)
        pieces = iter(lambda: archive.read(1 << 18), b"")
        sent = {name: utf8(value, f"--{name}") for name, value in query.items() if value is not None}
        for line in Api(url, key).upload("/api/apps", pieces, **sent):
            if line["type"] == "progress":
                text = printable(line["text"])
                warned = text.startswith("warning: ")
                say(
                    text.removeprefix("warning: ") if warned else dim(text),
                    mark="!" if warned else " ",
                    colour="yellow",
                )
            elif line["type"] == "error":
                raise click.ClickException("\n".join(map(printable, str(line["error"]).splitlines())))
            else:
                done = line
    if done is None:
        raise click.ClickException("the server ended its answer before the app was there; its log says more")
    if as_json:
        print_json(done)
        return
    say("the app is there", mark="✓", colour="green")
    click.echo(printable(done["reference"]))


app.add_command(deploy, "import")
for _command in (init, run, logs, list_apps, show, versions, remove):
    app.add_command(_command)


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
