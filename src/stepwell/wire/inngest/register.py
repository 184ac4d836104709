"""Registration: a service tells which functions it has, where they are and how they want to be run.

What would silently not work is refused: an option this server knows and does not carry out yet is an error that
names function, option and what to do. What it does not know is kept, shown as a warning and changes nothing,
because SDKs add fields with every release. All problems of a payload are collected before it is refused.

Protocol: sections 3.3, 3.4, 3.6 and 3.7 of the Inngest wire protocol. The other direction is `sync.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from stepwell.model.duration import parse_duration
from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.function import (
    DEFAULT_RETRIES,
    MAX_RETRIES,
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Function,
    Rate,
    Service,
    Transport,
    Trigger,
)
from stepwell.wire.inngest.call import INTERNAL_PARAMETERS, parameter_name
from stepwell.wire.inngest.ops import MAX_WAIT_MS
from stepwell.wire.inngest.text import read, shortened, write

MAX_TRIGGERS = 10
MAX_CANCELS = 5
MAX_CONCURRENCIES = 2
MAX_CONCURRENCY = 1_000_000
MAX_BATCH = 100
MAX_RATE = 1_000_000
"""Of starts in a period."""
DAY_MS = 86_400_000
MAX_NAME_LETTERS = 255
"""Of a service, a function, its slug and a trigger's event (section 13)."""

MIN_JITTER_MS = 1_000
MAX_JITTER_MS = 300_000
"""Of a trigger by the clock (section 2.9)."""

PLACEHOLDER_URL = "ws://connected"
"""The URL of a function whose service dialled in."""

_TOP_LEVEL = frozenset(
    "appname url functions sdk framework v deploytype deploy_type appversion capabilities headers idempotencykey "
    "deployid featureobservations app_id app_version inspection env platform "
    "sdk_author sdk_language sdk_version".split()
)
_NOT_YET = {
    "singleton": "runs would overlap",
}
_IGNORED = frozenset({"checkpoint", "optimizeParallelism", "featureObservations"})
"""Known, and without effect on what a function does."""
_ACTING = frozenset(
    {"id", "name", "triggers", "steps", "retries", "cancel", "concurrency", "priority"}
    | {"rateLimit", "throttle", "idempotency", "debounce", "batchEvents", "timeouts"}
)
_DENIED_JS = ((3, 22, 0), (3, 53, 1))
"""JS releases that are refused for a security defect (section 3.3)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that keeps a payload from being accepted. `code` is one of section 3.4."""

    function: str
    option: str
    message: str
    code: str = "config_invalid"

    def __str__(self) -> str:
        return f"function {self.function!r}, {self.option}: {self.message}"


class RegisterRefused(InvalidInput):
    """A registration that is not accepted; nothing of it is stored."""

    def __init__(self, message: str, *, reason: str = "", problems: tuple[Problem, ...] = ()) -> None:
        self.reason = reason  # a stable word such as `sdk_version_denied`; goes out as `code`
        self.problems = problems
        super().__init__(message)

    def answer(self) -> bytes:
        """The body of the 400. It always has `status`, or JS would report success (trap 2)."""
        body: dict[str, Any] = {"error": str(self), "status": self.http_status}
        if self.reason:
            body["code"] = self.reason
        if self.problems:
            body["data"] = [
                {"function": one.function, "option": one.option, "code": one.code, "message": one.message}
                for one in self.problems
            ]
        return write(body)


@dataclass(slots=True)
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def accepted_answer(service: Service, *, modified: bool, sync_id: str) -> bytes:
    """The body of the 200. `error` is left out on purpose: null would fail JS's validation (trap 2)."""
    return write({"ok": True, "modified": modified, "sync_id": sync_id, "app_id": service.id, "status": 200})


def check_server_kind(expected: str | None, kind: str) -> None:
    """Refuse a client in the other mode (`x-inngest-expected-server-kind`).

    Raises:
        RegisterRefused: It expects another kind than `kind`, `dev` or `cloud`.
    """
    if expected and expected.strip().lower() != kind:
        raise RegisterRefused(
            f"Expected server kind {shortened(expected, 40)}, got {kind}", reason="server_kind_mismatch"
        )


def read_register(body: bytes, *, env: str = DEV_ENV) -> tuple[Service, tuple[str, ...]]:
    """Read the body of `POST /fn/register`, or of an in-band sync, and return the service and warnings about it.

    Names at the top level are read in any case (trap 1). The service has the warnings about the top level,
    each function its own.

    Raises:
        RegisterRefused: With every problem of every function.
    """
    try:
        value = read(body)
    except ValueError as err:
        raise RegisterRefused(f"Invalid request: the body is {err}") from err
    if not isinstance(value, dict):
        raise RegisterRefused("Invalid request: the body must be a JSON object")
    top = {name.lower(): item for name, item in value.items()}
    name = _service_name(top.get("appname", top.get("app_id")))
    sdk = _sdk(top)
    url = _service_url(top.get("url"))
    functions, warnings = read_functions(top.get("functions"), service=name, url=url, env=env)
    unknown = tuple(
        f"unknown field {shortened(member, 60)!r} has no effect" for member in value if member.lower() not in _TOP_LEVEL
    )
    counted = {member: item for member, item in value.items() if member.lower() != "featureobservations"}
    service = Service(
        name=name,
        transport=Transport.HTTP,
        env=env,
        url=url,
        sdk=sdk,
        framework=_text(top.get("framework")),
        checksum=hashlib.sha256(_canonical(counted)).hexdigest(),
        functions=functions,
        app_version=_text(top.get("appversion", top.get("app_version"))),
        warnings=unknown,
    )
    return service, (*unknown, *warnings)


def announced_url(body: bytes) -> str:
    """The URL in a registration, also of one that is refused; empty when none can be read."""
    try:
        value = read(body)
        top = {name.lower(): item for name, item in value.items()} if isinstance(value, dict) else {}
        return _service_url(top.get("url"))
    except (ValueError, RegisterRefused):
        return ""


def read_functions(
    value: object,
    *,
    service: str,
    url: str = PLACEHOLDER_URL,
    env: str = DEV_ENV,
    transport: Transport = Transport.HTTP,
) -> tuple[tuple[Function, ...], tuple[str, ...]]:
    """Read the `functions` of a registration, decoded from JSON, and return them with all warnings.

    A service that dialled in may leave `steps` out, since nobody calls a URL of it.

    Raises:
        RegisterRefused: With every problem of every function.
    """
    if value is None:
        value = []
    if not isinstance(value, list):
        raise RegisterRefused("Invalid request: `functions` must be an array")
    findings = _Findings()
    functions: dict[str, Function] = {}
    for position, config in enumerate(value):
        function = _function(config, position, findings, service=service, url=url, env=env, transport=transport)
        if function is None:
            continue
        if function.slug in functions:
            _refuse(findings, function.slug, "id", "is used by two functions of this service; rename one")
        functions[function.slug] = function
    if findings.problems:
        count = len(findings.problems)
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise RegisterRefused(
            f"At least one function is invalid: {findings.problems[0]}{more}",
            reason="invalid_function",
            problems=tuple(findings.problems),
        )
    return tuple(functions.values()), tuple(findings.warnings)


def composite_slug(service: str, function: str) -> str:
    """How a function is known in an environment: `<service>-<function>`."""
    return f"{service}-{function}"


def normal_url(url: str) -> str:
    """A URL as it is stored and compared (section 3.6).

    Query parameters of the protocol and default ports are dropped; the hosts 127.0.0.1 and 0.0.0.0 become
    `localhost` when a port is given; path and the app's own query stay.

    Raises:
        ValueError: Not an http, https, ws or wss URL with a host.
    """
    parts = urlsplit(url.strip())
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"{shortened(url, 100)!r} is not a URL such as http://localhost:3000/api/inngest")
    port = parts.port  # raises ValueError when out of range
    host = parts.hostname
    if port is not None and host in {"127.0.0.1", "0.0.0.0"}:
        host = "localhost"
    if ":" in host:
        host = f"[{host}]"
    user, at, _ = parts.netloc.rpartition("@")
    netloc = f"{user}{at}{host}" + (f":{port}" if port is not None and port != _PORTS[scheme] else "")
    query = "&".join(
        pair for pair in parts.query.split("&") if pair and parameter_name(pair) not in INTERNAL_PARAMETERS
    )
    return urlunsplit((scheme, netloc, parts.path, query, ""))


_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


# The top level


def _service_name(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RegisterRefused("App ID required: `appName` must be the id of the service")
    if len(value) > MAX_NAME_LETTERS:
        raise RegisterRefused(f"`appName` has {len(value)} letters and may have {MAX_NAME_LETTERS}; shorten it")
    return value


def _service_url(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RegisterRefused("`url` is missing; it says where the functions are called")
    try:
        url = normal_url(value)
    except ValueError as err:
        raise RegisterRefused(f"`url` cannot be called: {err}") from err
    return url


def _sdk(top: Mapping[str, Any]) -> str:
    sdk = _text(top.get("sdk"))
    if not sdk and top.get("sdk_language"):
        sdk = f"{_text(top['sdk_language'])}:v{_text(top.get('sdk_version'))}"
    match = re.match(r"js:v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})", sdk)
    if match and _DENIED_JS[0] <= tuple(map(int, match.groups())) <= _DENIED_JS[1]:
        raise RegisterRefused(
            f"the SDK {shortened(sdk, 40)} has a security defect and is refused; update the package `inngest`",
            reason="sdk_version_denied",
        )
    return sdk


# One function


def _function(
    config: object, position: int, findings: _Findings, *, service: str, url: str, env: str, transport: Transport
) -> Function | None:
    if not isinstance(config, dict):
        _refuse(findings, f"#{position}", "functions", "must be an object")
        return None
    slug = config.get("id")
    if not isinstance(slug, str) or not slug:
        _refuse(findings, f"#{position}", "id", f"is missing; it is `{service}-` and the function's own id")
        return None
    if len(slug) > MAX_NAME_LETTERS:
        _refuse(findings, slug, "id", f"has {len(slug)} letters and may have {MAX_NAME_LETTERS}; shorten it")
    noticed = len(findings.warnings)
    if not slug.startswith(f"{service}-"):
        _warn(findings, slug, f"the id does not begin with {service + '-'!r}; other services may use it too")
    for option, value in config.items():
        if option in _NOT_YET:
            if _acts(value):
                _refuse(
                    findings,
                    slug,
                    option,
                    f"is not supported by this server yet; without it {_NOT_YET[option]}. "
                    "Remove it if that is fine, or keep this function on a server that has it",
                )
        elif option not in _ACTING and option not in _IGNORED:
            _warn(findings, slug, f"unknown option {shortened(option, 60)!r} has no effect")
    step = _step(config.get("steps"), slug, findings, required=transport is Transport.HTTP)
    return Function(
        slug=slug,
        name=_function_name(config.get("name"), slug, findings),
        service=service,
        triggers=_triggers(config.get("triggers"), slug, findings),
        env=env,
        url=_function_url(step, slug, findings) or url,
        retries=_retries(step, config, slug, findings),
        cancel_on=_cancels(config.get("cancel"), slug, findings),
        concurrency=_concurrency(config.get("concurrency"), slug, findings),
        run_concurrency=_run_concurrency(config.get("concurrency"), slug, findings),
        priority=_priority(config.get("priority"), slug, findings),
        rate_limit=_rate(config.get("rateLimit"), "rateLimit", slug, findings),
        throttle=_rate(config.get("throttle"), "throttle", slug, findings),
        idempotency=_idempotency(config.get("idempotency"), slug, findings),
        debounce=_debounce(config.get("debounce"), slug, findings),
        batch=_batch(config, slug, findings),
        start_within_ms=_timeout(config.get("timeouts"), "start", slug, findings),
        finish_within_ms=_timeout(config.get("timeouts"), "finish", slug, findings),
        config=_canonical(config),
        warnings=tuple(text for text in findings.warnings[noticed:]),
    )


def _function_name(value: object, slug: str, findings: _Findings) -> str:
    if not isinstance(value, str) or not value.strip():
        _refuse(findings, slug, "name", "is empty; give the function a name")
        return slug
    if len(value) > MAX_NAME_LETTERS:
        _refuse(findings, slug, "name", f"has {len(value)} letters and may have {MAX_NAME_LETTERS}; shorten it")
    return value


def _step(steps: object, slug: str, findings: _Findings, *, required: bool) -> dict[str, Any]:
    if steps is None and not required:
        return {}
    if not isinstance(steps, dict) or len(steps) != 1:
        _refuse(findings, slug, "steps", "must be an object with exactly one entry, `step`")
        return {}
    (step,) = steps.values()
    if not isinstance(step, dict):
        _refuse(findings, slug, "steps", "must have an object as its entry `step`")
        return {}
    _look_for_unknown(step, {"id", "name", "runtime", "retries"}, slug, "steps.step", findings)
    return step


def _function_url(step: Mapping[str, Any], slug: str, findings: _Findings) -> str:
    runtime = step.get("runtime")
    if not step or runtime is None:
        if step:
            _refuse(findings, slug, "steps.step.runtime", "is missing; it says where the function is called")
        return ""
    kind = runtime.get("type", "http") if isinstance(runtime, dict) else None
    if kind not in {"http", "ws"}:
        _refuse(findings, slug, "steps.step.runtime.type", "must be `http` or `ws`")
        return ""
    _look_for_unknown(runtime, {"type", "url"}, slug, "steps.step.runtime", findings)
    try:
        return normal_url(_text(runtime.get("url")))
    except ValueError as err:
        _refuse(findings, slug, "steps.step.runtime.url", str(err))
        return ""


def _retries(step: Mapping[str, Any], config: Mapping[str, Any], slug: str, findings: _Findings) -> int:
    """The number of retries; 0 is one attempt, absent is the default (trap 4)."""
    for option, value in (("steps.step.retries", step.get("retries")), ("retries", config.get("retries"))):
        if isinstance(value, dict):
            _look_for_unknown(value, {"attempts"}, slug, option, findings)
        attempts = value.get("attempts") if isinstance(value, dict) else value
        if attempts is None:
            continue
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 0:
            _refuse(findings, slug, option, "must be a whole number of retries, 0 for one attempt")
        elif attempts > MAX_RETRIES:
            _refuse(findings, slug, option, f"is {attempts} and may be {MAX_RETRIES}; ask for fewer retries")
        else:
            return attempts
    return DEFAULT_RETRIES


def _triggers(value: object, slug: str, findings: _Findings) -> tuple[Trigger, ...]:
    items = _items(value, slug, "triggers", findings)
    if not items:
        _warn(findings, slug, "no triggers: it runs only when another function invokes it")
    if len(items) > MAX_TRIGGERS:
        _refuse(findings, slug, "triggers", f"has {len(items)} entries and may have {MAX_TRIGGERS}; split the function")
    triggers: list[Trigger] = []
    for position, item in enumerate(items):
        where = f"triggers[{position}]"
        if not isinstance(item, dict):
            _refuse(findings, slug, where, "must be an object with `event` or `cron`")
            continue
        _look_for_unknown(item, {"event", "expression", "cron", "jitter"}, slug, where, findings)
        event, cron = item.get("event"), item.get("cron")
        trigger = None
        if cron and event:
            _refuse(findings, slug, where, "has both `event` and `cron`; make two triggers of it")
        elif cron:
            trigger = _schedule(item, slug, where, findings)
        elif _event_name(event, slug, f"{where}.event", findings):
            trigger = Trigger(str(event), _expression(item.get("expression"), slug, f"{where}.expression", findings))
        if trigger is not None:
            if trigger in triggers or (cron and any(cron == known.cron for known in triggers)):
                _refuse(findings, slug, where, "is there twice; remove one")
            triggers.append(trigger)
    return tuple(triggers)


def _schedule(item: Mapping[str, Any], slug: str, where: str, findings: _Findings) -> Trigger | None:
    """A trigger by the clock. Whether its text is a schedule is judged by the node that takes the registration."""
    cron = item["cron"]
    if not isinstance(cron, str):
        _refuse(findings, slug, f"{where}.cron", "must be text, such as 0 9 * * 1-5", "schedule_invalid")
        return None
    if item.get("expression"):
        _refuse(findings, slug, f"{where}.expression", "has no meaning beside `cron`; remove it", "schedule_invalid")
    jitter_ms = _duration(item.get("jitter"), slug, f"{where}.jitter", findings) or 0
    if jitter_ms and not MIN_JITTER_MS <= jitter_ms <= MAX_JITTER_MS:
        _refuse(
            findings,
            slug,
            f"{where}.jitter",
            f"is {item['jitter']} and may be 1s to 5m; write a length of time in between, or leave it out",
            "schedule_invalid",
        )
    return Trigger(cron=cron, jitter_ms=jitter_ms)


def _cancels(value: object, slug: str, findings: _Findings) -> tuple[CancelOn, ...]:
    items = _items(value, slug, "cancel", findings)
    if len(items) > MAX_CANCELS:
        _refuse(findings, slug, "cancel", f"has {len(items)} entries and may have {MAX_CANCELS}; join them in one `if`")
    cancels = []
    for position, item in enumerate(items):
        where = f"cancel[{position}]"
        if not isinstance(item, dict):
            _refuse(findings, slug, where, "must be an object with `event`")
            continue
        _look_for_unknown(item, {"event", "if", "timeout"}, slug, where, findings)
        if _event_name(item.get("event"), slug, f"{where}.event", findings):
            expression = _expression(item.get("if"), slug, f"{where}.if", findings)
            timeout_ms = _duration(item.get("timeout"), slug, f"{where}.timeout", findings)
            cancels.append(CancelOn(item["event"], expression, timeout_ms))
    return tuple(cancels)


def _concurrency(value: object, slug: str, findings: _Findings) -> tuple[Concurrency, ...]:
    where = "concurrency"
    if isinstance(value, dict) and ("fn" in value or "step" in value):
        _look_for_unknown(value, {"fn", "step"}, slug, where, findings)
        value, where = value.get("step"), f"{where}.step"
    return _limits(value, where, MAX_CONCURRENCIES, slug, findings)


def _run_concurrency(value: object, slug: str, findings: _Findings) -> tuple[Concurrency, ...]:
    """Of whole runs; `concurrency.fn`."""
    return _limits(value.get("fn"), "concurrency.fn", 1, slug, findings) if isinstance(value, dict) else ()


def _limits(value: object, where: str, most: int, slug: str, findings: _Findings) -> tuple[Concurrency, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    if len(items) > most:
        _refuse(findings, slug, where, f"has {len(items)} limits and may have {most}; remove some")
    limits: list[Concurrency] = []
    for position, item in enumerate(items):
        one = f"{where}[{position}]" if isinstance(value, list) else where
        limit = _one_concurrency({"limit": item} if _is_number(item) else item, slug, one, findings)
        if limit is None:
            continue
        if any((limit.scope, limit.key) == (known.scope, known.key) for known in limits):
            _refuse(findings, slug, one, "has the same key and scope as the one before; remove one")
        limits.append(limit)
    return tuple(limits)


def _one_concurrency(item: object, slug: str, where: str, findings: _Findings) -> Concurrency | None:
    """One limit; None for 0, which stands for no limit, and for what is refused."""
    if not isinstance(item, dict):
        _refuse(findings, slug, where, "must be a number, or an object with `limit`")
        return None
    _look_for_unknown(item, {"limit", "key", "scope"}, slug, where, findings)
    limit, scope = item.get("limit"), item.get("scope") or "fn"
    key = _expression(item.get("key"), slug, f"{where}.key", findings)
    if limit is None or limit == 0:
        return None
    if not _is_number(limit) or not 0 < limit <= MAX_CONCURRENCY or limit != int(limit):
        text = f"must be a whole number from 1 to {MAX_CONCURRENCY}, or 0 for no limit"
        _refuse(findings, slug, f"{where}.limit", text, "concurrency_limit_invalid")
    elif scope not in {"fn", "env", "account"}:
        _refuse(findings, slug, f"{where}.scope", "must be `fn`, `env` or `account`")
    elif scope != "fn" and key is None:
        _refuse(findings, slug, f"{where}.key", f"is missing; functions that share a limit by scope `{scope}` need one")
    else:
        return Concurrency(int(limit), key, scope)
    return None


def _priority(value: object, slug: str, findings: _Findings) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, dict):
        _refuse(findings, slug, "priority", "must be an object with `run`")
        return None
    _look_for_unknown(value, {"run"}, slug, "priority", findings)
    return _expression(value.get("run"), slug, "priority.run", findings)


def _rate(value: object, option: str, slug: str, findings: _Findings) -> Rate | None:
    """A rate limit, of which a tenth may come at once, or a throttle, whose `burst` is beside the limit."""
    if value is None or not _acts(value):
        return None
    if not isinstance(value, dict):
        _refuse(findings, slug, option, "must be an object with `limit` and `period`")
        return None
    throttles = option == "throttle"
    _look_for_unknown(value, {"limit", "period", "key"} | ({"burst"} if throttles else set()), slug, option, findings)
    count = len(findings.problems)
    limit = _whole(value.get("limit"), 1, slug, f"{option}.limit", findings)
    burst = _whole(value.get("burst") or 0, 0, slug, f"{option}.burst", findings) if throttles else 0
    period_ms = _duration(value.get("period"), slug, f"{option}.period", findings)
    if period_ms is None and count == len(findings.problems):
        _refuse(findings, slug, f"{option}.period", 'is missing; write a length of time, such as "1m"')
    elif period_ms is not None and throttles and period_ms % 1000:
        _refuse(findings, slug, f"{option}.period", f"is {value['period']} and must be whole seconds, 1s or more")
    elif period_ms is not None and not throttles and period_ms > DAY_MS:
        _refuse(findings, slug, f"{option}.period", f"is {value['period']} and may be 24h; shorten it")
    key = _expression(value.get("key"), slug, f"{option}.key", findings)
    if limit is None or burst is None or period_ms is None or count < len(findings.problems):
        return None
    return Rate(limit, period_ms, limit + burst - 1 if throttles else limit // 10, key)


def _idempotency(value: object, slug: str, findings: _Findings) -> Rate | None:
    """A rate limit of one in 24 hours."""
    key = _expression(value, slug, "idempotency", findings)
    return Rate(1, DAY_MS, key=key) if key is not None else None


def _debounce(value: object, slug: str, findings: _Findings) -> Debounce | None:
    if value is None or not _acts(value):
        return None
    if not isinstance(value, dict):
        _refuse(findings, slug, "debounce", "must be an object with `period`")
        return None
    _look_for_unknown(value, {"period", "key", "timeout"}, slug, "debounce", findings)
    period_ms = _between(value.get("period"), 1_000, 7 * DAY_MS, "1s to 7d", slug, "debounce.period", findings)
    timeout_ms = _duration(value.get("timeout"), slug, "debounce.timeout", findings)
    key = _expression(value.get("key"), slug, "debounce.key", findings)
    return Debounce(period_ms, key, timeout_ms) if period_ms is not None else None


def _batch(config: Mapping[str, Any], slug: str, findings: _Findings) -> Batch | None:
    value = config.get("batchEvents")
    if value is None or not _acts(value):
        return None
    if not isinstance(value, dict):
        _refuse(findings, slug, "batchEvents", "must be an object with `maxSize` and `timeout`")
        return None
    for other in ("cancel", "debounce", "singleton", "priority"):
        if _acts(config.get(other)):
            text = f"cannot be together with `{other}`; remove one of the two"
            _refuse(findings, slug, "batchEvents", text, "combo_unsupported")
    _look_for_unknown(value, {"maxSize", "timeout", "key", "if"}, slug, "batchEvents", findings)
    size = _whole(
        value.get("maxSize"), 2, slug, "batchEvents.maxSize", findings, most=MAX_BATCH, code="batch_size_invalid"
    )
    timeout_ms = _between(
        value.get("timeout"),
        1_000,
        600_000,
        "1s to 10m",
        slug,
        "batchEvents.timeout",
        findings,
        "batch_timeout_invalid",
    )
    key = _expression(value.get("key"), slug, "batchEvents.key", findings)
    condition = _expression(value.get("if"), slug, "batchEvents.if", findings)
    return Batch(size, timeout_ms, key, condition) if size is not None and timeout_ms is not None else None


def _timeout(value: object, which: str, slug: str, findings: _Findings) -> int | None:
    if isinstance(value, dict):
        if which == "start":
            _look_for_unknown(value, {"start", "finish"}, slug, "timeouts", findings)
        return _duration(value.get(which), slug, f"timeouts.{which}", findings)
    if value is not None and _acts(value) and which == "start":
        _refuse(findings, slug, "timeouts", "must be an object with `start`, `finish` or both")
    return None


def _between(
    value: object,
    least_ms: int,
    most_ms: int,
    text: str,
    slug: str,
    where: str,
    findings: _Findings,
    code: str = "config_invalid",
) -> int | None:
    """A length of time within bounds, in milliseconds; None if it is refused."""
    count = len(findings.problems)
    length_ms = _duration(value, slug, where, findings)
    if length_ms is not None and least_ms <= length_ms <= most_ms:
        return length_ms
    if count == len(findings.problems):
        told = "is missing" if length_ms is None else f"is {value}"
        _refuse(findings, slug, where, f"{told} and may be {text}", code)
    return None


def _whole(
    value: object,
    least: int,
    slug: str,
    where: str,
    findings: _Findings,
    *,
    most: int = MAX_RATE,
    code: str = "config_invalid",
) -> int | None:
    if _is_number(value) and isinstance(value, int | float) and value == value // 1 and least <= value <= most:
        return int(value)
    _refuse(findings, slug, where, f"must be a whole number from {least} to {most}", code)
    return None


# The values in it


def _look_for_unknown(
    value: Mapping[str, Any], known: Collection[str], slug: str, where: str, findings: _Findings
) -> None:
    for option in value:
        if option not in known:
            _warn(findings, slug, f"{where}: unknown option {shortened(option, 60)!r} has no effect")


def _event_name(value: object, slug: str, where: str, findings: _Findings) -> bool:
    if not isinstance(value, str) or not value.strip():
        _refuse(findings, slug, where, "must name an event, such as shop/order.placed", "event_name_invalid")
        return False
    length = len(value.encode("utf-8", "surrogatepass"))
    if length > MAX_NAME_LETTERS:
        _refuse(
            findings,
            slug,
            where,
            f"has {length} bytes and may have {MAX_NAME_LETTERS}; shorten it",
            "event_name_invalid",
        )
        return False
    star = value.find("*")
    if star >= 0 and (star != len(value) - 1 or star < 2 or value[star - 1] not in "/."):
        _refuse(
            findings, slug, where, "may have `*` only at its end, after `/` or `.`, as in shop/*", "event_name_invalid"
        )
        return False
    return True


def _expression(value: object, slug: str, where: str, findings: _Findings) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        _refuse(findings, slug, where, "must be text, such as event.data.amount > 10")
        return None
    return value


def _duration(value: object, slug: str, where: str, findings: _Findings) -> int | None:
    if value is None or value == "":
        return None
    try:
        if not isinstance(value, str):
            raise ValueError('must be text, such as "1h"')
        length = parse_duration(value) // timedelta(milliseconds=1)
        if not 0 < length <= MAX_WAIT_MS:
            raise ValueError(f"{value!r} must lie above 0 and be at most {MAX_WAIT_MS // 86_400_000} days")
    except ValueError as err:
        _refuse(findings, slug, where, str(err))
        return None
    return length


def _items(value: object, slug: str, option: str, findings: _Findings) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, list):
        return value
    _refuse(findings, slug, option, "must be an array")
    return []


def _acts(value: object) -> bool:
    """Whether an option asks for anything: null, 0, empty text and empty containers do not."""
    if isinstance(value, dict):
        return any(map(_acts, value.values()))
    if isinstance(value, list):
        return any(map(_acts, value))
    return bool(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _canonical(value: object) -> bytes:
    try:
        return write(value)
    except ValueError as err:
        raise RegisterRefused(f"Invalid request: {err}") from err


def _refuse(findings: _Findings, slug: str, option: str, message: str, code: str = "config_invalid") -> None:
    findings.problems.append(Problem(slug, option, message, code))


def _warn(findings: _Findings, slug: str, message: str) -> None:
    findings.warnings.append(f"function {slug!r}: {message}")


def unsupported_options() -> Iterable[str]:
    """The options that are refused by name, for documentation."""
    return _NOT_YET.keys()
