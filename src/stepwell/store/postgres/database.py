"""How the database is reached: connections, what an error means, and for how long to try again.

Nothing relies on the state of a session. A pooler that gives every transaction another session (PgBouncer in
transaction mode) is noticed by itself: each question is then a transaction of its own and nothing is prepared.

Lost connections, restarts, deadlocks and the like are tried again until `patience_s` have passed since the trouble
began; from then on every call fails at its first try, until one succeeds. So callers wait once and not once each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from stepwell.model.errors import ConfigurationError, StepwellError
from stepwell.store.base import StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.Connection"
T = TypeVar("T")

OLDEST_SERVER = 15
PATIENCE_S = 20.0
CONNECT_S = 5.0
STATEMENT_S = 15.0
"""How long a statement of the hot path may take before its connection is given up as dead."""
LIST_S = 30.0
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5

# The planner has no statistics of a table that was empty a minute ago, and a plan that it remembers may read all that
# has grown since. Every hot statement goes along an index.
_PLANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}
_HOT = _PLANS | {"plan_cache_mode": "force_generic_plan"}
_BEGIN = "BEGIN; " + " ".join(f"SET LOCAL {name} = {value};" for name, value in _PLANS.items())

_AGAIN_CLASSES = ("08", "40", "57P", "53", "58")  # connection, rollback, operator, resources, system
_AGAIN = {"55P03", "57014", "25006", "25P02", "25P03"}  # lock timeout, cancelled, read-only, session ended


class Address:
    """A URL of PostgreSQL with our own options taken out. Prints without the password.

    `pooler=1` in its query says that sessions are not kept from one transaction to the next.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port if "," not in parts.netloc else None
        except ValueError as err:
            raise ConfigurationError(f"the URL of the database cannot be read: {err}; {_FORM}") from None
        if parts.scheme not in ("postgresql", "postgres"):
            raise ConfigurationError(f"the URL of the database begins with {parts.scheme or 'nothing'!r}; {_FORM}")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.pooler = query.pop("pooler", "").lower() in ("1", "true", "yes", "on")
        self.dsn = urlunsplit(parts._replace(query=urlencode(query)))
        self.user = unquote(parts.username) if parts.username else ""
        self.database = unquote(parts.path.lstrip("/")) or self.user or "the default database"
        host = query.get("host") or parts.netloc.rpartition("@")[2].rpartition(":")[0] or parts.hostname or "localhost"
        self._text = f"{self.database} on {host}" + (f":{port}" if port else "")

    def __str__(self) -> str:
        return self._text


_FORM = "it should look like postgresql://user:password@host:5432/database"


class Patience:
    """How long trouble has lasted, shared by all who ask."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._since: float | None = None
        self._last = 0.0

    def worked(self) -> None:
        self._since = None

    def over(self) -> bool:
        """To be called after each failure: has the trouble lasted too long?"""
        now = time.monotonic()
        if self._since is None or now - self._last > self.limit_s:  # or nobody has tried for a while
            self._since = now
        self._last = now
        return now - self._since >= self.limit_s


class Database:
    """One database. `pooler` is known after `probe`."""

    def __init__(self, address: Address, patience_s: float, statement_s: float = STATEMENT_S) -> None:
        self.address = address
        self.statement_s = statement_s
        self.pooler = address.pooler
        self.patience = Patience(patience_s)
        self.closing = False
        self.retries = 0
        self.settings: dict[str, str] = {}
        self._settings: dict[str, str] = {}

    async def connect(self, *, hot: bool = True) -> Connection:
        kept = {} if self.pooler else self._settings | (_HOT if hot else {"jit": "off"})
        return await asyncpg.connect(
            self.address.dsn,
            timeout=CONNECT_S,
            statement_cache_size=0 if self.pooler else 200,
            max_cached_statement_lifetime=0,
            server_settings={"application_name": "stepwell"} | kept,
        )

    async def probe(self) -> Connection:
        """The first connection: is there a server, new enough, durable, writable; is there a pooler in between?

        Raises:
            ConfigurationError: It cannot be used; the message says why and never has the password.
        """
        connection: Connection = await self._first()
        try:
            pid = await self.alone(connection, "fetchval", "SELECT pg_backend_pid()")
            if not self.pooler and pid != connection.get_server_pid():
                log.info("there is a connection pooler before %s: nothing is prepared", self.address)
                self.pooler = True
            await self._check(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _first(self) -> Connection:
        known, self.pooler = self.pooler, True  # which works with and without one
        pause = FIRST_PAUSE_S
        try:
            while True:
                try:
                    return await self.connect()
                except asyncpg.InvalidPasswordError:
                    raise ConfigurationError(
                        f"PostgreSQL refused the password of user {self.address.user!r} for {self.address}"
                    ) from None
                except asyncpg.InvalidCatalogNameError:
                    raise ConfigurationError(
                        f"there is no database {self.address}; make it with `createdb {self.address.database}`"
                    ) from None
                except asyncpg.CannotConnectNowError as err:  # it is starting up
                    if self.patience.over():
                        raise ConfigurationError(f"PostgreSQL does not let us in to {self.address}: {err}") from None
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
                except asyncpg.PostgresError as err:
                    raise ConfigurationError(f"PostgreSQL does not let us in to {self.address}: {err}") from None
                except (OSError, TimeoutError, asyncpg.InterfaceError, ValueError) as err:
                    raise ConfigurationError(
                        f"no PostgreSQL answers for {self.address}: {_words(err)}. Is it running, and is the URL right?"
                    ) from None
        finally:
            self.pooler = known

    async def _check(self, connection: Connection) -> None:
        names = (
            "server_version,server_version_num,synchronous_commit,fsync,full_page_writes,default_transaction_read_only"
        )
        sql = "SELECT name, current_setting(name, true) FROM unnest(string_to_array($1, ',')) AS name"
        self.settings = settings = {name: value or "" for name, value in await self.ask(connection, sql, names)}
        if int(settings["server_version_num"]) < OLDEST_SERVER * 10_000:
            raise ConfigurationError(
                f"{self.address} is PostgreSQL {settings['server_version']}; {OLDEST_SERVER} or newer is needed"
            )
        if await self.alone(connection, "fetchval", "SELECT pg_is_in_recovery()"):
            raise ConfigurationError(f"{self.address} is a standby, which cannot be written to; name the primary")
        if settings["synchronous_commit"] == "off":
            log.warning("synchronous_commit is off for %s; it is switched on for what Stepwell writes", self.address)
            self._settings["synchronous_commit"] = "on"
        for name in ("fsync", "full_page_writes"):
            if settings[name] == "off":
                log.warning(
                    "%s is off on the server of %s: acknowledged events and steps can be lost when the machine stops",
                    name,
                    self.address,
                )

    async def ask(self, connection: Connection, sql: str, *values: Any, timeout_s: float | None = None) -> list[Any]:
        """The rows of one statement, which is a transaction."""
        rows: list[Any] = await self.alone(connection, "fetch", sql, *values, timeout_s=timeout_s)
        return rows

    async def alone(
        self, connection: Connection, how: str, sql: str, *values: Any, timeout_s: float | None = None
    ) -> Any:
        """One statement as one transaction; behind a pooler that has to be said."""
        timeout_s = timeout_s or self.statement_s
        method = getattr(connection, how)
        if not self.pooler:
            return await method(sql, *values, timeout=timeout_s)
        await connection.execute(_BEGIN, timeout=timeout_s)
        try:
            result = await method(sql, *values, timeout=timeout_s)
        except asyncpg.PostgresError:
            if not connection.is_closed():
                await connection.execute("ROLLBACK", timeout=timeout_s)
            raise
        await connection.execute("COMMIT", timeout=timeout_s)
        return result

    async def persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call `attempt` until it succeeds, or fails for good, or patience is over.

        Raises:
            StoreUnavailable: Patience is over.
            StoreFull: The disk of the database is full.
        """
        pause = FIRST_PAUSE_S
        while True:
            if self.closing:
                raise StoreUnavailable("the store is closing")
            try:
                result = await attempt()
            except Exception as err:
                failure = self.failure(err)
                if failure is None:
                    raise
                self.retries += 1
                if isinstance(failure, StoreFull) or self.patience.over():
                    raise failure from err
                log.debug("asked again in %g s: %s", pause, err)
            else:
                self.patience.worked()
                return result
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def failure(self, err: BaseException) -> StepwellError | None:
        """What an error means for callers; None when it is a bug and no trouble of the database."""
        if isinstance(err, asyncpg.DiskFullError):
            return StoreFull(f"the disk of the database {self.address} is full; nothing was stored")
        if is_trouble(err):
            return StoreUnavailable(f"the database {self.address} cannot be reached or used: {_words(err)}")
        return None


def is_trouble(err: BaseException) -> bool:
    """Whether asking again may help."""
    if isinstance(err, asyncpg.PostgresError):
        state = getattr(err, "sqlstate", None) or ""
        return state.startswith(_AGAIN_CLASSES) or state in _AGAIN
    if isinstance(err, ValueError):  # a value that cannot be sent
        return False
    return isinstance(err, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError, EOFError))


def breaks(err: BaseException) -> bool:
    """Whether the connection is of no use after this error."""
    if isinstance(err, asyncpg.PostgresError):
        return (getattr(err, "sqlstate", None) or "").startswith(("08", "57P"))
    return True


def _words(err: BaseException) -> str:
    return str(err).strip() or type(err).__name__


class Connections:
    """A few connections that are handed out one question at a time, made when they are needed."""

    def __init__(self, database: Database, count: int, *, hot: bool) -> None:
        self._database = database
        self._hot = hot
        self._timeout_s = database.statement_s if hot else LIST_S
        self._idle: deque[Connection] = deque()
        self._places = asyncio.Semaphore(count)

    async def ask(self, sql: str, *values: Any) -> list[Any]:
        """The rows of a question, asked again after trouble. A question may change something if it may do so twice.

        Raises:
            StoreUnavailable: The database cannot be reached, or the question took too long.
        """
        database = self._database

        async def attempt() -> list[Any]:
            async with self.one() as connection:
                return await database.ask(connection, sql, *values, timeout_s=self._timeout_s)

        if not self._hot:
            return await self._once(attempt)
        return await database.persist(attempt)

    async def _once(self, attempt: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        """A question that took too long would do so again."""
        limited = attempt

        async def stopped() -> list[Any]:
            try:
                return await limited()
            except TimeoutError as err:
                raise _TooLong from err

        try:
            return await self._database.persist(stopped)
        except _TooLong as err:
            raise StoreUnavailable(
                f"the question took longer than {self._timeout_s:g} s and was stopped; narrow it"
            ) from err

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        async with self._places:
            connection = self._idle.pop() if self._idle else None
            if connection is None or connection.is_closed():
                connection = await self._database.connect(hot=self._hot)
            try:
                yield connection
            except BaseException as err:
                if breaks(err):
                    connection.terminate()
                raise
            finally:
                if not connection.is_closed():
                    self._idle.append(connection)

    def put(self, connection: Connection) -> None:
        self._idle.append(connection)

    async def close(self) -> None:
        idle = tuple(self._idle)
        self._idle.clear()
        await asyncio.gather(*map(shut, idle))


class _TooLong(Exception):
    pass


async def shut(connection: Connection) -> None:
    """Say goodbye, briefly."""
    try:
        await connection.close(timeout=1)
    except Exception:
        connection.terminate()
