"""The options of the server commands, with the names that people bring from Inngest.

A name that means the same here is an alias. One that tunes something we do not have is accepted and said to do
nothing. One that would change what is stored or where is refused by name, never ignored.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stepwell.model.duration import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Command = TypeVar("Command", bound="Callable[..., Any]")

_NO_EFFECT = {
    "tick": "Stepwell does not poll its queue",
    "queue_workers": "Stepwell does not limit its queue by workers",
    "persist": "state is always kept (use --fresh to start empty)",
    "in_memory": "state is always kept (use --fresh to start empty)",
    "connect_gateway_port": "worker connections use the same port as everything else",
    "connect_gateway_grpc_port": "servers of one database need no port between them",
    "connect_executor_grpc_port": "servers of one database need no port between them",
    "postgres_max_idle_conns": "a server keeps the few connections that it needs",
    "postgres_max_open_conns": "a server opens the few connections that it needs",
    "postgres_conn_max_idle_time": "a server keeps the few connections that it needs",
    "postgres_conn_max_lifetime": "a server keeps the few connections that it needs",
    "debug_api_port": "there is no separate port for debugging",
    "log_level": "use --log-json or read the log as it is",
    "no_ui": "there is no separate page server to switch off",
}
_REFUSED = {
    "redis_uri": "Stepwell needs no Redis; state is kept in SQLite (--data DIR) or PostgreSQL (--db URL)",
    "config": "there is no configuration file; use options or STEPWELL_* variables",
}


def age(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Milliseconds of a duration such as `12h`, for a `callback`."""
    if value is None:
        return None
    try:
        return round(parse_duration(value).total_seconds() * 1000)
    except (ValueError, OverflowError) as err:
        raise click.BadParameter(str(err), ctx, param) from err


_KEYS = ("INNGEST_SIGNING_KEY", "INNGEST_SIGNING_KEY_FALLBACK", "INNGEST_EVENT_KEY")


def fallback_option(*variables: str) -> Callable[[Command], Command]:
    """`--signing-key-fallback`, else the first of these variables."""
    return click.option(
        "--signing-key-fallback",
        envvar=variables,
        metavar="KEY",
        help="Accepted as well, while keys are being exchanged.",
    )


def server_options(command: Command) -> Command:
    """Options that `dev` and `start` share."""
    for decorate in reversed(_shared()):
        command = decorate(command)
    return command


def _shared() -> list[Callable[[Any], Any]]:
    def option(*names: str, **settings: Any) -> Callable[[Any], Any]:
        return click.option(*names, show_default=settings.pop("show_default", False), **settings)

    options = [
        option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            envvar=["STEPWELL_HOST", "INNGEST_HOST"],
            help="Address to listen on.",
        ),
        option(
            "--port",
            "-p",
            type=click.IntRange(0, 65535),
            default=8288,
            show_default=True,
            envvar=["STEPWELL_PORT", "INNGEST_PORT"],
            help="Port to listen on; 0 takes a free one.",
        ),
        option(
            "--data",
            "--sqlite-dir",
            "data",
            type=click.Path(file_okay=False),
            envvar=["STEPWELL_DATA", "INNGEST_SQLITE_DIR"],
            help="Folder for all state  [default: .stepwell]",
        ),
        option(
            "--db",
            "--postgres-uri",
            "db",
            envvar=["STEPWELL_DB", "INNGEST_POSTGRES_URI"],
            metavar="URL",
            help="PostgreSQL database for all state, instead of a folder; any number of servers may share it.",
        ),
        option(
            "--db-listen",
            envvar="STEPWELL_DB_LISTEN",
            metavar="URL",
            help="The same database without a connection pooler, when --db leads through one.",
        ),
        option("--fresh", is_flag=True, envvar="STEPWELL_FRESH", help="Forget what the data folder holds."),
        option(
            "--service-url",
            "--sdk-url",
            "-u",
            "service_urls",
            multiple=True,
            envvar=["STEPWELL_SERVICE_URL", "INNGEST_SDK_URL"],
            metavar="URL",
            help="Address of a service to register; repeatable.",
        ),
        option(
            "--no-discovery",
            is_flag=True,
            envvar=["STEPWELL_NO_DISCOVERY", "INNGEST_NO_DISCOVERY"],
            help="Do not look for services on local ports.",
        ),
        option(
            "--no-poll",
            is_flag=True,
            envvar=["STEPWELL_NO_POLL", "INNGEST_NO_POLL"],
            help="Do not ask known services again for their functions.",
        ),
        option(
            "--allow-address",
            "allow_addresses",
            multiple=True,
            envvar="STEPWELL_ALLOW_ADDRESS",
            metavar="HOST:PORT",
            help="A place that is not public and that may be called, such as localhost:11434; repeatable.",
        ),
        option(
            "--poll-interval",
            type=click.FloatRange(0.2),
            default=5.0,
            show_default=True,
            envvar=["STEPWELL_POLL_INTERVAL", "INNGEST_POLL_INTERVAL"],
            metavar="SECONDS",
            help="How often to ask them.",
        ),
        option(
            "--retry-interval",
            type=click.FloatRange(0),
            envvar=["STEPWELL_RETRY_INTERVAL", "INNGEST_RETRY_INTERVAL"],
            metavar="SECONDS",
            help="A fixed pause between attempts, instead of 15 s to 2 h.",
        ),
        option(
            "--allowed-host",
            "allowed_hosts",
            multiple=True,
            envvar="STEPWELL_ALLOWED_HOST",
            metavar="NAME",
            help="A further name that leads to this server, for one without keys; repeatable.",
        ),
        option(
            "--allowed-origin",
            "allowed_origins",
            multiple=True,
            envvar="STEPWELL_ALLOWED_ORIGIN",
            metavar="ORIGIN",
            help="An origin of web pages that may use this server, for one without keys; repeatable.",
        ),
        option(
            "--keep-runs",
            callback=age,
            envvar="STEPWELL_KEEP_RUNS",
            metavar="AGE",
            help="Remove runs that ended so long ago (`30d`, `12h`), 1m at least  [default: for ever]",
        ),
        option(
            "--keep-runs-at-most",
            type=click.IntRange(100),
            envvar="STEPWELL_KEEP_RUNS_AT_MOST",
            metavar="COUNT",
            help="Keep only so many ended runs, the newest.",
        ),
        option(
            "--keep-events",
            callback=age,
            envvar="STEPWELL_KEEP_EVENTS",
            metavar="AGE",
            help="Remove events so old, 24h at least  [default: as long as runs]",
        ),
        option(
            "--keep-files",
            callback=age,
            envvar="STEPWELL_KEEP_FILES",
            metavar="AGE",
            help="Remove files so old, 1h at least  [default: for ever]",
        ),
        option(
            "--files",
            envvar="STEPWELL_FILES",
            metavar="URL",
            help="Keep files in s3://BUCKET/PREFIX  [default: in the data folder]",
        ),
        option(
            "--public-url",
            envvar="STEPWELL_PUBLIC_URL",
            metavar="URL",
            help="Where clients reach this server, for addresses of files  [default: as they asked]",
        ),
        option(
            "--app-secret",
            "app_secrets",
            multiple=True,
            envvar="STEPWELL_APP_SECRETS",
            metavar="NAME",
            help="Give apps that ask for it the variable NAME of this server; repeatable.",
        ),
        option(
            "--app-isolation",
            type=click.Choice(["auto", "require", "off"]),
            default="auto",
            envvar="STEPWELL_APP_ISOLATION",
            help="Confine apps as far as the machine allows, or do not start if it does not  [default: auto]",
        ),
        option(
            "--app-read",
            multiple=True,
            type=click.Path(path_type=Path),
            envvar="STEPWELL_APP_READ",
            metavar="FOLDER",
            help="A folder that every app may read, of models for instance; repeatable.",
        ),
        option(
            "--app-workers",
            type=click.IntRange(1),
            default=32,
            envvar="STEPWELL_APP_WORKERS",
            help="Processes of all apps together  [default: 32]",
        ),
        option(
            "--map-app",
            "map_apps",
            multiple=True,
            envvar="STEPWELL_MAP_APPS",
            metavar="NAME=APP",
            help="Take the app APP for NAME, which is not there: infsh/claude=acme/assistant; repeatable.",
        ),
        option(
            "--app-gpu-price",
            type=click.FloatRange(0),
            envvar="STEPWELL_APP_GPU_PRICE",
            metavar="USD",
            help="What a second of a GPU costs: the cost of calls of apps that do not say theirs.",
        ),
        option(
            "--app-wait-for-resources",
            is_flag=True,
            envvar="STEPWELL_APP_WAIT_FOR_RESOURCES",
            help="Keep tasks that need a GPU or memory which this machine does not have, instead of failing them.",
        ),
        option(
            "--secret-key-file",
            type=click.Path(dir_okay=False),
            envvar="STEPWELL_SECRET_KEY_FILE",
            help="File with the key that seals the credentials the server keeps, readable by its owner only.",
        ),
        option(
            "--seal-credentials",
            is_flag=True,
            envvar="STEPWELL_SEAL_CREDENTIALS",
            help="Keep the credentials that functions give with requests in the database, encrypted, until the request "
            "is answered; otherwise they are in memory only.",
        ),
        option(
            "--redact",
            multiple=True,
            envvar="STEPWELL_REDACT",
            metavar="MEMBER",
            help="Members that traces show as ***, by name or end of path: email, '*_token', 'messages.*.content'; "
            "repeatable.",
        ),
        option("--lease-ms", type=click.IntRange(1000), default=10_000, envvar="STEPWELL_LEASE_MS", hidden=True),
        option("--log-json", is_flag=True, envvar="STEPWELL_LOG_JSON", help="Log lines as JSON."),
        option(
            "--unsafe-no-auth",
            is_flag=True,
            envvar="STEPWELL_UNSAFE_NO_AUTH",
            help="Listen beyond this machine without keys: whoever reaches the port can run your code.",
        ),
    ]
    for name in (*_NO_EFFECT, *_REFUSED):
        flag = "--" + name.replace("_", "-")
        is_flag = name in ("persist", "in_memory", "no_ui")
        options.append(option(flag, name, hidden=True, is_flag=is_flag, envvar=f"INNGEST_{name.upper()}"))
    return options


def check_foreign(values: dict[str, Any]) -> list[str]:
    """Take the foreign options out of `values`: what to say of those that do nothing.

    Raises:
        click.UsageError: One of those that would be a lie.
    """
    for name, why in _REFUSED.items():
        if values.pop(name, None):
            raise click.UsageError(f"{_both(name)}: {why}")
    return [f"{_both(name)} does nothing here: {why}" for name, why in _NO_EFFECT.items() if values.pop(name, None)]


def _both(name: str) -> str:
    return f"--{name.replace('_', '-')} (or INNGEST_{name.upper()})"


def keys_not_taken(environment: Mapping[str, str]) -> list[str]:
    """What to say of keys that `dev` leaves to the SDKs: they are often those of another server."""
    found = [name for name in _KEYS if environment.get(name)]
    if not found:
        return []
    ours = " and ".join(name.replace("INNGEST", "STEPWELL") for name in found)
    are = "is" if len(found) == 1 else "are"
    return [f"{' and '.join(found)} {are} not used by `dev`, which needs no keys; {ours} would be"]


def keys_from_environment(option: tuple[str, ...], *names: str) -> tuple[str, ...]:
    """Keys given as options, else those in the first variable that is set, separated by commas."""
    if option:
        return option
    for name in names:
        if value := os.environ.get(name):
            return tuple(key.strip() for key in value.split(",") if key.strip())
    return ()
