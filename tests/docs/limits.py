"""The tables of `docs/limits.md`, made from the code.

    python -m tests.docs.limits    # write them into the page

A row is a name for people, the value itself, how it can be changed, and what happens at the limit.
"""

# ruff: noqa: E501 - a row of a table is a line

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from stepwell.api import credentials as api_credentials
from stepwell.api import read_tokens
from stepwell.api import runs as api_runs
from stepwell.api.body import Limits as BodyLimits
from stepwell.api.inngest import v1
from stepwell.apps import manifest
from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.importing import Importer
from stepwell.apps.package import PackageLimits
from stepwell.apps.settings import AppSettings
from stepwell.engine import cron, decide, expr, flow
from stepwell.engine.retry import _JITTER_MS, _TABLE_MS
from stepwell.engine.session import Rules
from stepwell.gateway import webhook
from stepwell.gateway.gateway import GatewaySettings
from stepwell.model import event, function, payload, session
from stepwell.node import apps, credentials, files, hooks, matching, notes, retention, sessions, tasks
from stepwell.sdk import attempt, checkpoint, execution, live, options, parking, request, types, worker
from stepwell.sdk.client import requests
from stepwell.sdk.serve import message, reporting
from stepwell.server.settings import ServerSettings
from stepwell.store.sqlite import store as sqlite_store
from stepwell.store.sqlite import writer
from stepwell.streams.streams import StreamSettings
from stepwell.wire import app as wire_app
from stepwell.wire import offload, signature
from stepwell.wire import worker as frames
from stepwell.wire.infsh import file as wire_file
from stepwell.wire.inngest import call, ops, register, reply
from stepwell.wire.inngest import event as wire_event
from stepwell.workers import http, socket
from stepwell.workers.connection import Limits as ConnectionLimits
from tests.docs.pages import DOCS

PAGE = DOCS / "limits.md"
FIXED = "fixed"


@dataclass(frozen=True)
class Row:
    what: str
    value: str
    how: str
    then: str


def default(owner: type, field: str) -> Any:
    """The default of a field of a dataclass."""
    return next(one.default for one in dataclasses.fields(owner) if one.name == field)


def size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count:,} bytes"


def span(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def ms(milliseconds: float) -> str:
    return span(milliseconds / 1000)


POLICY = decide.Policy
SETTING = "`ServerSettings.{}`".format
LIMIT = "`ServerSettings.limits.{}`".format
GATEWAY = "`ServerSettings.gateway.{}`".format


TABLES: dict[str, list[Row]] = {
    "Runs": [
        Row("steps of a run", f"{default(POLICY, 'max_steps'):,}", FIXED, "the run fails: `InngestErrFunctionOverflowed`"),
        Row("results of a run's steps together", size(default(POLICY, "max_state_bytes")), FIXED, "the run fails: `InngestErrStateOverflowed`"),
        Row("runs that invoke one another, deep", str(default(POLICY, "max_depth")), FIXED, "the step fails: `InvocationTooDeep`"),
        Row("lines and notices in a run's trace", f"{default(POLICY, 'max_notes'):,}", FIXED, "later ones are left out, and it says so"),
        Row("workers that a run may lose in a row", str(default(POLICY, "max_losses")), FIXED, "the run fails: `worker_lost`"),
        Row("a sleep or a wait", ms(decide.LONGEST_WAIT_MS), FIXED, "the run fails: `InngestErrTimeoutTooLong`, or the SDK refuses"),
        Row("an invocation without `timeout`", ms(ops.DEFAULT_INVOKE_MS), "`timeout=`", "`StepError`"),
        Row("retries of a function", f"{function.DEFAULT_RETRIES}, at most {function.MAX_RETRIES}", "`retries=`", "refused when declared"),
        Row("pause before an attempt", f"{ms(_TABLE_MS[0])} growing to {ms(_TABLE_MS[-1])}, plus up to {ms(_JITTER_MS)}", "`--retry-interval` (`retry_interval_ms`), `RetryAfterError`", ""),
        Row("a pause that is asked for", f"{ms(reply.SHORTEST_RETRY_MS)} to {ms(reply.LONGEST_RETRY_MS)} over HTTP", FIXED, "kept within"),
        Row("how long `cancel_on` listens", ms(matching._CANCEL_MS), "`timeout=`", "no longer cancelled so"),
        Row("how long an event id is remembered", ms(matching._DAY_MS), FIXED, "the same id starts again"),
    ],
    "Sizes": [
        Row("the result of a step", size(ops.MAX_STEP_OUTPUT_BYTES), FIXED, "the run or step fails and says so"),
        Row("the result of a function", size(reply.MAX_BODY_BYTES), FIXED, "the run fails and says so"),
        Row("recorded arguments of a step", f"{size(request.MAX_SHOWN_INPUT_BYTES)}; of `step.ai.wrap` {size(request.MAX_WRAPPED_INPUT_BYTES)}", FIXED, "the step works; there is nothing to show or edit"),
        Row("the edited input of a rerun", size(offload.MAX_REQUEST_BYTES), FIXED, "413"),
        Row("an event", size(wire_event.MAX_EVENT_BYTES), FIXED, "413"),
        Row("a request to the server", size(default(BodyLimits, "max_body_bytes")), LIMIT("max_body_bytes"), "413"),
        Row("all requests in progress together", size(default(BodyLimits, "max_bodies_bytes")), LIMIT("max_bodies_bytes"), "503 with `Retry-After`"),
        Row("a file", size(default(BodyLimits, "max_file_bytes")), LIMIT("max_file_bytes"), "413"),
        Row("the name of a file", f"{files.LONGEST_NAME:,} characters", FIXED, "400"),
        Row("a call to a service over HTTP, with results", size(call.MAX_BODY_BYTES), FIXED, "the SDK fetches them instead"),
        Row("steps in one checkpoint", f"{ops.MAX_OPS:,}", FIXED, f"400; our SDK sends {checkpoint.MAX_REPORT_OPS} and {size(checkpoint.MAX_REPORT_BYTES)} at most"),
        Row("a call that our SDK takes over HTTP", size(message.LARGEST_BODY_BYTES), FIXED, "413"),
        Row("a value that our SDK encodes", size(types.LARGEST_RESULT_BYTES), FIXED, "`StepResultNotPortable`"),
        Row("a frame of the worker's connection", size(frames.MAX_FRAME_BYTES), FIXED, "the connection is closed"),
        Row("kept inline in the journal", size(payload.INLINE_LIMIT_BYTES), FIXED, "larger ones are stored apart"),
        Row("kept in the database", size(sqlite_store.BLOB_IN_TABLE_BYTES), FIXED, "larger ones are files"),
        Row("a logged line in the trace", f"{notes.LONGEST_LINE:,} characters", FIXED, "it is cut"),
    ],
    "Names and numbers": [
        Row("events in a request", f"{wire_event.MAX_EVENTS:,}", FIXED, "400; our clients send several requests"),
        Row("the name of an event", f"{event.MAX_NAME_BYTES} bytes", FIXED, "400"),
        Row("sessions of an event", f"{wire_event.MAX_SESSIONS}; a name of {wire_event.MAX_SESSION_KEY_BYTES} bytes, an id of {wire_event.MAX_SESSION_ID_BYTES}", FIXED, "400"),
        Row("`meta` of an event", size(wire_event.MAX_META_BYTES), FIXED, "400"),
        Row("the sender's id of an event", f"{wire_event.MAX_ID_BYTES:,} bytes", FIXED, "400"),
        Row("the name of a service, function or trigger", str(register.MAX_NAME_LETTERS), FIXED, "refused at registration"),
        Row("triggers of a function", str(register.MAX_TRIGGERS), FIXED, "refused at registration"),
        Row("an integer in an event, a result or a reply", f"2**{types._LARGEST_EXACT.bit_length() - 1} either way", FIXED, "`StepResultNotPortable`; from others rounded, [and told](inngest-sdks.md#numbers-and-text)"),
        Row("a schedule", f"{cron.LONGEST} characters; `@every` of {cron.SHORTEST_MS // 1000} s to {cron.LONGEST_MS // 86_400_000} days", FIXED, "refused at registration"),
        Row("the jitter of a schedule", f"{register.MIN_JITTER_MS // 1000} s to {register.MAX_JITTER_MS // 60_000} min", FIXED, "refused at registration"),
        Row("`cancel_on` of a function", str(register.MAX_CANCELS), FIXED, "refused at registration"),
        Row("`concurrency` limits of a function", str(register.MAX_CONCURRENCIES), FIXED, "refused at registration"),
        Row("events of a batch", str(register.MAX_BATCH), FIXED, "refused at registration"),
        Row("`priority` of a run", f"±{flow.MAX_PRIORITY_S:,} s", FIXED, "counts as the limit"),
        Row("steps in one answer or report", f"{ops.MAX_OPS:,}", FIXED, "the run fails: `InngestErrFunctionOverflowed`"),
        Row("an expression", f"{expr.MAX_TEXT_LENGTH:,} characters", FIXED, "see [Expressions](expressions.md#limits)"),
        Row("runs in one list", f"{api_runs.DEFAULT_RUNS}, at most {api_runs.MAX_RUNS:,}", "`limit=`", "kept within"),
        Row("events in one list", f"{v1.DEFAULT_EVENTS}, at most {v1.MAX_EVENTS}", "`limit=`", "kept within"),
    ],
    "At a time": [
        Row("requests with a body", f"{default(BodyLimits, 'max_requests'):,}", LIMIT("max_requests"), "503 with `Retry-After`"),
        Row("followed runs", f"{default(BodyLimits, 'max_streams'):,}", LIMIT("max_streams"), "503 with `Retry-After`"),
        Row("pieces of live streams kept", f"{default(StreamSettings, 'pieces'):,} and {size(default(StreamSettings, 'bytes'))} of a run, {size(default(StreamSettings, 'all_bytes'))} of all", "`ServerSettings.streams`", "the oldest go; who misses them is told"),
        Row("the age of such pieces", span(default(StreamSettings, "age_s")), "`ServerSettings.streams.age_s`", "they go"),
        Row("a token for a stream", f"{span(read_tokens.DEFAULT_LIFETIME_S)}, at most {span(read_tokens.LONGEST_LIFETIME_S)}", "`lifetime=`", "refused when asked for"),
        Row("calls of a worker", f"{socket.DEFAULT_CONCURRENCY}, at most {socket.MAX_CONCURRENCY:,}", "`--concurrency`", "more wait"),
        Row("calls of a service over HTTP", str(http.CALLS_PER_SERVICE), FIXED, "more wait; the oldest runs go first"),
        Row("bytes of large calls under way", size(http.BYTES_IN_FLIGHT), FIXED, "more wait"),
        Row("frames of a worker in a second", f"{default(ConnectionLimits, 'frames_per_second'):,.0f}", FIXED, "it is read no faster"),
        Row("sync steps of a worker", str(attempt.STEP_THREADS), FIXED, "more wait for a thread"),
        Row("runs kept in the server's memory", f"{default(ServerSettings, 'cached_runs'):,}", SETTING("cached_runs"), "a tenth of that of runs that only wait; others are loaded when needed"),
        Row("ended runs", "kept for ever", "`--keep-runs`, `--keep-runs-at-most`", "the oldest are removed"),
        Row("events", f"kept for ever, for {span(retention.YOUNGEST_EVENT_MS / 1000)} at least", "`--keep-events`, `--keep-runs`", "the oldest are removed"),
        Row("files", f"kept for ever; their upload begins within {span(files.ANNOUNCED_MS / 1000)}", "`--keep-files`", "the oldest are removed"),
        Row("files announced in a request", str(wire_file.MOST_AT_ONCE), FIXED, "400"),
        Row("changes waiting to be committed", f"{writer.WAITING_TRANSITIONS:,}, or {size(writer.WAITING_BYTES)}", FIXED, "more wait"),
        Row("changes in one commit", str(writer.GROUP_TRANSITIONS), FIXED, "the next ones go into the next"),
    ],
    "Requests for functions": [
        Row("a request for a function", size(offload.MAX_REQUEST_BYTES), FIXED, "refused when asked for"),
        Row("its answer", size(default(GatewaySettings, "max_answer_bytes")), GATEWAY("max_answer_bytes"), "the step fails and says so"),
        Row("large answers being read together", size(default(GatewaySettings, "answers_bytes")), GATEWAY("answers_bytes"), "more wait"),
        Row("its time", span(default(GatewaySettings, "timeout_s")), f"`timeout=`, {GATEWAY('timeout_s')}", "tried again"),
        Row("connecting for it", span(default(GatewaySettings, "connect_timeout_s")), GATEWAY("connect_timeout_s"), "tried again"),
        Row("redirects of it", str(default(GatewaySettings, "max_redirects")), GATEWAY("max_redirects"), "the step fails and says so"),
        Row("a pause that its answer asks for", f"up to {span(default(GatewaySettings, 'max_retry_after_s'))}", GATEWAY("max_retry_after_s"), "kept within"),
        Row("requests for functions at a time", f"{default(GatewaySettings, 'requests'):,}", GATEWAY("requests"), "more wait"),
        Row("of these to one host", str(default(GatewaySettings, "requests_per_host")), GATEWAY("requests_per_host"), "more wait"),
        Row("steps whose keys are in memory", f"{default(GatewaySettings, 'credentials'):,}", GATEWAY("credentials"), "functions are asked for the oldest again"),
        Row("named credentials", f"{credentials.MOST:,}", FIXED, "400"),
        Row("the value of one", f"{api_credentials.MIN_VALUE_LETTERS} to {api_credentials.MAX_VALUE_LETTERS:,} letters", FIXED, "400"),
        Row("its hosts", str(api_credentials.MAX_HOSTS), FIXED, "400"),
    ],
    "Times": [
        Row("a call over HTTP", span(http.CALL_TIMEOUT_S), FIXED, "the call is lost, and tried again"),
        Row("connecting to a service", span(http.CONNECT_TIMEOUT_S), FIXED, "tried again"),
        Row("a pause inside a body", span(default(BodyLimits, "body_idle_s")), LIMIT("body_idle_s"), "408"),
        Row("from connecting to the end of the headers of a request", span(default(BodyLimits, "headers_s")), LIMIT("headers_s"), "disconnected"),
        Row("a call of our SDK over HTTP goes on starting steps", span(options.duration(options.Checkpointing().max_runtime).total_seconds()), "`Checkpointing(max_runtime=)`", "the server makes another"),
        Row("no checkpoints after one that could not be sent", span(reporting.WITHOUT_S), FIXED, "each step takes a call"),
        Row("a waiting function stays in a worker's memory", ms(socket.IDLE_MS), FIXED, f"dropped, and entered again later; {live.OUTSIDE_IDLE_FACTOR} times as long while it does something outside its steps"),
        Row("something outside steps holds up a suspension", span(parking.GRACE_S), FIXED, "suspended all the same"),
        Row("`finally` blocks at a suspension", span(execution.CLEANUP_PATIENCE_S), FIXED, "cancelled again"),
        Row("running steps when a worker is stopped", span(worker.DRAIN_LIMIT_S), "`drain_limit_s=` of `Worker`", "cancelled, and run again elsewhere"),
        Row("a signature is good for", span(signature.MAX_SKEW_S), FIXED, "401"),
        Row("looking for services and asking them", span(default(ServerSettings, "poll_interval_s")), "`--poll-interval`", ""),
        Row("a client repeats a request", f"{requests.ATTEMPTS} times", FIXED, "the error is raised"),
    ],
    "Apps": [
        Row("the files of an app", size(default(PackageLimits, "bytes")), FIXED, "413"),
        Row("files and folders of an app", f"{default(PackageLimits, 'files'):,}", FIXED, "413"),
        Row("`inf.yml`", f"{size(manifest.MAX_BYTES)}, {manifest.MAX_VALUES:,} values", FIXED, "400"),
        Row("one run of `uv` or `npm`", span(default(EnvironmentSettings, "build_timeout_s")), "`ServerSettings.apps.environments`", "422"),
        Row("loading an app when it is imported", span(inspect.signature(Importer).parameters["describe_s"].default), FIXED, "400"),
        Row("processes of apps", str(default(AppSettings, "workers")), "`--app-workers`", "more tasks wait"),
        Row("of one version with one `setup`", str(default(AppSettings, "workers_per_app")), "`ServerSettings.apps.workers_per_app`", "more tasks wait"),
        Row("memory of all of them", "nine tenths of the machine's", "`ServerSettings.apps.memory_bytes`", "idle ones go, more tasks wait"),
        Row("how long one is kept that has nothing to do", span(default(AppSettings, "idle_s")), "`ServerSettings.apps.idle_s`", "it goes"),
        Row("importing an app and its `setup`", span(default(AppSettings, "setup_limit_s")), "`ServerSettings.apps.setup_limit_s`", "its tasks fail"),
        Row("processes that may die one after the other in `setup`", str(default(Rules, "setup_tries")), FIXED, "the tasks that wait for it fail"),
        Row("one input or output of an app", size(wire_app.MAX_FRAME_BYTES), FIXED, "the task fails"),
        Row("lines that are kept of a task", f"{default(AppSettings, 'log_lines'):,}", "`ServerSettings.apps.log_lines`", "one more line says so"),
        Row("how long a cancelled task may take to end by itself", ms(apps.CANCEL_GRACE_MS), "`timeout` of the request, for less", f"its process is killed; {span(decide.CANCEL_LATE_MS / 1000)} later the task is cancelled in any case"),
        Row("how long the key of a request for a task counts", ms(tasks.KEY_MS), FIXED, "the same key begins another task"),
        Row("the idle time of a session", f"{span(session.IDLE_TIMEOUT_S)}; {span(session.SHORTEST_IDLE_S)} to {session.LONGEST_IDLE_S:,} s", "`session_timeout`", "410: `SESSION_EXPIRED`"),
        Row("calls that are made again for a session that is rebuilt", f"{sessions.MOST_CALLS:,}", FIXED, "it is lost with its worker"),
        Row("how long it is known what became of a session", ms(sessions.KEEP_MS), FIXED, "404"),
        Row("attempts to deliver a webhook", f"{hooks.HOOK_RETRIES + 1}, of {span(webhook.TIMEOUT_S)} each", FIXED, "its run fails"),
        Row("webhooks under way at a time", str(webhook.MOST_AT_A_TIME), FIXED, "they wait in line"),
    ],
}  # fmt: skip


def written() -> str:
    """The page."""
    head = (
        "# Limits\n\n"
        "Every limit and its default, made from the code and compared with it by our tests. Reaching one is an error that\n"
        "names it, or a delay; never a loss. *Fixed* means that it is **not yet** a setting. `ServerSettings` is for programs\n"
        "that start a server in Python; the command line has no option for those.\n"
    )
    pieces = [head]
    for title, rows in TABLES.items():
        lines = [f"## {title}\n", "| what | default | to change it | at the limit |", "| --- | --- | --- | --- |"]
        lines += [f"| {row.what} | {row.value} | {row.how} | {row.then} |" for row in rows]
        pieces.append("\n".join(lines) + "\n")
    return "\n".join(pieces)


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
