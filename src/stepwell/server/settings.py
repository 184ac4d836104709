"""What can be set of a server, with defaults, and what is refused before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

from stepwell.api.body import Limits
from stepwell.api.gate import is_loopback
from stepwell.apps.settings import AppSettings
from stepwell.gateway.gateway import GatewaySettings
from stepwell.gateway.policy import Policy, read_place
from stepwell.model.app import read_reference
from stepwell.model.errors import ConfigurationError, InvalidInput
from stepwell.node.retention import YOUNGEST_EVENT_MS, Keep
from stepwell.server.cipher import AesCipher, installed, key_file_of, make_key_file, read_key, read_key_file
from stepwell.streams.streams import StreamSettings
from stepwell.wire import signature
from stepwell.wire.inngest.register import normal_url

_SHORTEST_KEY_DIGITS = 16
SHORTEST_KEEP_RUNS_MS = 60_000
SHORTEST_KEEP_FILES_MS = 3_600_000
FEWEST_KEPT_RUNS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server runs. The defaults are those of `stepwell dev`."""

    dev: bool = True
    """Development: no keys needed, SDKs run in dev mode. Otherwise production: keys are required."""
    host: str = "127.0.0.1"
    """Address to listen on. A loopback address listens on IPv4 and IPv6, since `localhost` may be either."""
    port: int = 8288
    """Port to listen on; 0 takes a free one."""
    beside_others: bool = False
    """Share the port with other server processes on this machine; they need one database."""
    data: Path | None = Path(".stepwell")
    """Folder for all state; None keeps it in memory, for tests, and forgets it at the end."""
    db: str | None = field(default=None, repr=False)
    """PostgreSQL database for all state instead: `postgresql://user:password@host:5432/database`."""
    db_listen: str | None = field(default=None, repr=False)
    """The same database reached directly, when `db` leads through a connection pooler."""
    fresh: bool = False
    """Forget what the data folder holds."""

    service_urls: tuple[str, ...] = ()
    """Services to register, whether they announce themselves or not. In production they may be at any address."""
    discovery: bool = True
    """Look for services on the usual local ports until one has registered."""
    poll: bool = True
    """Ask known HTTP services again and again, so that changed code is noticed."""
    poll_interval_s: float = 5.0
    """How often to look and to ask."""

    signing_key: str | None = None
    """Signs what is sent to services, and is asked of everybody but senders of events. Hexadecimal."""
    signing_key_fallback: str | None = None
    """Accepted as well, while keys are being exchanged."""
    event_keys: tuple[str, ...] = ()
    """Accepted from senders of events; with none, development takes any."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names that lead to this server, for the Host check of a server without keys."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may use a server without keys, such as `http://localhost:3000`."""
    secret_key: str | None = field(default=None, repr=False)
    """Seals the credentials that the server keeps: 64 hexadecimal digits. Given to every server of a database."""
    secret_key_fallback: str | None = field(default=None, repr=False)
    """Opens what was sealed with it, while keys are being exchanged."""
    secret_key_file: Path | None = None
    """A file with such keys instead, one a line: the first one seals. Development makes one in the data folder."""
    seal_credentials: bool = False
    """Keep the credentials of requests sealed until their steps have a result, so that a lost server costs no question
    to the function. Otherwise they are in memory only."""
    unsafe_no_auth: bool = False
    """Listen beyond this machine without keys: whoever reaches the port can run your code."""

    retry_interval_ms: int | None = None
    """A fixed pause between attempts, instead of 15 s to 2 h."""
    drain_s: float | None = None
    """How long calls in flight may go on when the server is asked to stop; by default 1 s in development, else 10 s."""
    lease_ms: int = 10_000
    """How long a server that shares its database may be silent before others take over its work; for tests."""
    files: str | None = None
    """Keep the bytes of files in an object store, `s3://bucket/prefix`; by default in `files` of the data folder."""
    public_url: str | None = None
    """Where clients reach this server, such as `https://stepwell.example.com`: what addresses of files begin with. By
    default they begin as the client asked."""
    keep: Keep = field(default_factory=Keep)
    """How long ended runs and events are kept; by default for ever."""
    cached_runs: int = 10_000
    """Runs kept in memory; more are loaded when they are needed."""
    limits: Limits = field(default_factory=Limits)
    """Sizes and counts of requests."""
    apps: AppSettings = field(default_factory=AppSettings)
    """How apps are run."""
    map_apps: Mapping[str, str] = field(default_factory=dict)
    """Which app is meant by the name of one that is not there: `{"infsh/claude": "acme/assistant"}`."""
    gpu_second_usd: float | None = None
    """What a second of a GPU costs, in US dollars: so calls of apps have a cost where they say none themselves."""
    app_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What apps get as environment variables, by name: each app those that it asks for."""
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    """Limits of the requests that the server makes for functions, and what they may call."""
    redact: tuple[str, ...] = ()
    """Members that traces do not show, by name or the end of their path: `email`, `*_token`, `messages.*.content`."""
    streams: StreamSettings = field(default_factory=StreamSettings)
    """How much of live streams is kept for those who come late or come back."""
    log_json: bool = False
    """Log lines as JSON."""
    manage_logging: bool = True
    """Set up logging at start; False leaves it to the program around."""

    @property
    def drain_limit_s(self) -> float:
        if self.drain_s is not None:
            return self.drain_s
        return 1.0 if self.dev else 10.0

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot work or must not."""
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"the port must be 0 to 65535, not {self.port} (--port)")
        if self.db is not None and self.fresh:
            raise ConfigurationError(
                "--fresh forgets a data folder and does not touch a database; give --db the URL of an empty one"
            )
        if self.db is None and self.db_listen is not None:
            raise ConfigurationError("--db-listen needs --db, the database to keep the state in")
        if self.poll_interval_s < 0.1:
            raise ConfigurationError(f"the poll interval is {self.poll_interval_s:g} s and must be 0.1 s at least")
        if self.retry_interval_ms is not None and self.retry_interval_ms < 0:
            raise ConfigurationError("the retry interval cannot be negative (--retry-interval)")
        for name, key in (("--signing-key", self.signing_key), ("the fallback key", self.signing_key_fallback)):
            if key is not None:
                _check_signing_key(name, key)
        if self.signing_key is None and self.signing_key_fallback is not None:
            raise ConfigurationError("there is a fallback signing key and no signing key (--signing-key)")
        self._check_secret_keys()
        self._check_keep()
        self.apps.check()
        for name, other in self.map_apps.items():
            try:
                known = read_reference(name)
                read_reference(other)
            except InvalidInput as err:
                raise ConfigurationError(f"{err} (--map-app)") from err
            if not known.namespace or known.app != name:
                raise ConfigurationError(f"{name!r} is not namespace/name of an app (--map-app NAMESPACE/NAME=APP)")
        if self.gpu_second_usd is not None and not 0 <= self.gpu_second_usd < float("inf"):
            raise ConfigurationError("the price of a GPU second is a number of dollars from 0 on (--app-gpu-price)")
        if any(not key.strip() for key in self.event_keys):
            raise ConfigurationError("an event key is empty (--event-key)")
        if not self.dev:
            self._check_production()
        elif not is_loopback(self.host) and self.signing_key is None and not self.unsafe_no_auth:
            raise ConfigurationError(
                f"{self.host} can be reached from other machines and there is no key: whoever reaches the port could "
                "run your code. Give keys (--signing-key and --event-key), listen on 127.0.0.1, or accept it with "
                "--unsafe-no-auth"
            )
        for place in self.gateway.allow_addresses:
            read_place(place)
        self._check_files()
        for url in self.service_urls:
            try:
                normal_url(url)
            except ValueError as err:
                raise ConfigurationError(f"the service URL cannot be used: {err} (--service-url)") from err
        self.addresses()

    def addresses(self) -> Policy | None:
        """Which addresses services may be called at; None is all of them, in development.

        Raises:
            ConfigurationError: One of them cannot be read.
        """
        if self.dev:
            return None
        return Policy(self.gateway.allow_addresses, urls=self.service_urls, loopback=True)

    def _check_secret_keys(self) -> None:
        if self.secret_key is not None and self.secret_key_file is not None:
            raise ConfigurationError("STEPWELL_SECRET_KEY and --secret-key-file are both given; give only one of them")
        if self.secret_key_fallback is not None and self.secret_key is None:
            raise ConfigurationError(
                "STEPWELL_SECRET_KEY_FALLBACK needs STEPWELL_SECRET_KEY; in a key file the further lines are fallbacks"
            )
        if self.seal_credentials and self.secret_key is None and self.key_file is None:
            raise ConfigurationError(
                "--seal-credentials needs a key: STEPWELL_SECRET_KEY (make one with `openssl rand -hex 32`) or "
                "--secret-key-file"
            )

    @property
    def key_file(self) -> Path | None:
        """The file with the keys that seal credentials, perhaps still to be made."""
        if self.secret_key_file is None and self.secret_key is None and self.dev and self.db is None and self.data:
            return key_file_of(self.data)
        return self.secret_key_file

    def cipher(self) -> AesCipher | None:
        """What seals credentials; None without a key, and in development without the library for it.

        Raises:
            ConfigurationError: A key cannot be read, or the library is missing.
        """
        if self.secret_key is not None:
            keys = [read_key(self.secret_key, "STEPWELL_SECRET_KEY")]
            if self.secret_key_fallback is not None:
                keys.append(read_key(self.secret_key_fallback, "STEPWELL_SECRET_KEY_FALLBACK"))
            return AesCipher(keys)
        if self.secret_key_file is not None:
            return AesCipher(read_key_file(self.secret_key_file))
        if self.key_file is None or not (self.seal_credentials or installed()):
            return None
        make_key_file(self.key_file)
        return AesCipher(read_key_file(self.key_file))

    def _check_files(self) -> None:
        if self.files is not None and not re.fullmatch(r"s3://[^/\s]+(/\S*)?", self.files):
            raise ConfigurationError(f"files are kept in s3://bucket/prefix or in the data folder, not {self.files!r}")
        if self.public_url is not None and not re.fullmatch(r"https?://[^/?#\s]+", self.public_url):
            raise ConfigurationError(
                f"the public URL is {self.public_url!r} and must be scheme, host and perhaps a port, as in "
                "https://stepwell.example.com (--public-url)"
            )
        if self.keep.files_ms is not None and self.keep.files_ms < SHORTEST_KEEP_FILES_MS:
            raise ConfigurationError("files are kept for an hour at least, for those who work with them (--keep-files)")

    def _check_keep(self) -> None:
        keep = self.keep
        if keep.runs_ms is not None and keep.runs_ms < SHORTEST_KEEP_RUNS_MS:
            raise ConfigurationError("ended runs are kept for a minute at least, to be read (--keep-runs)")
        if keep.events_ms is not None and keep.events_ms < YOUNGEST_EVENT_MS:
            raise ConfigurationError(
                "events are kept for 24 hours at least: their ids count once for so long, and steps look back for them "
                "(--keep-events)"
            )
        if keep.most_runs is not None and keep.most_runs < FEWEST_KEPT_RUNS:
            raise ConfigurationError(f"{FEWEST_KEPT_RUNS} ended runs are kept at least (--keep-runs-at-most)")

    def _check_production(self) -> None:
        if self.signing_key is None:
            raise ConfigurationError(
                "a signing key is needed: --signing-key or STEPWELL_SIGNING_KEY. Make one with `openssl rand -hex 32`"
            )
        if not self.event_keys:
            raise ConfigurationError(
                "an event key is needed: --event-key or STEPWELL_EVENT_KEY. Make one with `openssl rand -hex 16`"
            )
        for key in self.event_keys:
            if len(key) < 8:
                raise ConfigurationError("an event key has fewer than 8 letters and could be guessed (--event-key)")


def _check_signing_key(name: str, key: str) -> None:
    try:
        signature.check_key(key)
    except ValueError as err:
        raise ConfigurationError(f"{name}: {err}") from err
    if len(signature.without_prefix(key)) < _SHORTEST_KEY_DIGITS:
        raise ConfigurationError(
            f"{name}: fewer than {_SHORTEST_KEY_DIGITS} hex digits could be guessed; "
            "make one with `openssl rand -hex 32`"
        )


def shown(settings: ServerSettings) -> dict[str, object]:
    """The settings for the status page: of secrets only whether, or how many, there are."""
    seen: dict[str, object] = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        match one.name:
            case "db" | "db_listen" | "signing_key" | "signing_key_fallback" | "secret_key" | "secret_key_fallback":
                seen[one.name] = "set" if value is not None else None
            case "event_keys":
                seen[one.name] = len(value)
            case "service_urls":
                seen[one.name] = [_without_password(url) for url in value]
            case "limits":
                continue  # shown by themselves
            case "app_secrets":
                seen[one.name] = sorted(value)
            case _ if is_dataclass(value):
                parts = {f"{one.name}_{part.name}": getattr(value, part.name) for part in fields(value)}
                seen |= {name: _plain(part) for name, part in parts.items() if not is_dataclass(part)}
            case _:
                seen[one.name] = _plain(value)
    return seen


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(name): str(one) for name, one in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [str(one) for one in value]
    return str(value)


def _without_password(url: str) -> str:
    before, at, after = url.rpartition("@")
    return f"{before.partition('://')[0]}://…@{after}" if at else url
