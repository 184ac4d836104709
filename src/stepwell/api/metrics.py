"""Figures over time for Prometheus. Nothing is counted here: what others count is read when somebody asks.

Of several processes behind one port, whichever is asked gives the figures of all: each has a label `process`, but not
those of the store, which are the same for all.

Labels have few values: outcomes, reasons of refusals, and services, of which the first hundred are told apart.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import Response

from stepwell.api.routes import Ask, Route
from stepwell.model import journal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from stepwell.api.site import Site
    from stepwell.node.tally import Histogram

MOST_SERVICES: Final = 100
OF_THE_STORE: Final = frozenset(
    f"stepwell_{name}" for name in ("jobs_due", "jobs_due_lag_seconds", "live_runs", "jobs", "waits", "store_bytes")
)
_OTHERS: Final = "(others)"


def routes(site: Site) -> list[Route]:
    figures = Figures(site)

    async def metrics(ask: Ask) -> Response:
        """All figures in the text format of Prometheus."""
        text, neighbours = await figures.text(), site.neighbours
        if neighbours is not None:
            text = together({neighbours.name: text, **await neighbours.ask()})
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return [Route("GET", "/metrics", metrics)]


class Figures:
    """The registry of one server, apart from those of other programs in this process."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._due, self._lag_ms = 0, 0
        self._store: Mapping[str, Any] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def text(self) -> bytes:
        store, now = self._site.node.store, self._site.node.world.now()
        backlog = await store.backlog(now)
        self._due = backlog.due
        self._lag_ms = 0 if backlog.oldest_due is None else max(0, now - backlog.oldest_due)
        self._store = await store.status()
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Known when asked, so that registering this asks nothing."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._work()
        yield from self._queue()
        yield from self._apps()
        yield from self._storage()
        yield from self._surroundings()

    def _work(self) -> Iterator[Metric]:
        turns = self._site.node.turns
        done = turns.tally
        yield counter("runs_started", "Runs that this node created", done.of(journal.RunStarted))
        yield counters(
            "runs_ended",
            "Runs whose end this node recorded",
            "status",
            {
                "completed": done.of(journal.RunCompleted),
                "failed": done.of(journal.RunFailed),
                "cancelled": done.of(journal.RunCancelled),
            },
        )
        yield counters(
            "steps",
            "Steps by what became of them; a retried one is counted for each attempt that failed",
            "outcome",
            {
                "completed": done.of(journal.StepCompleted),
                "failed": done.of(journal.StepFailed),
                "retried": done.of(journal.StepRetried),
            },
        )
        yield histogram("step_seconds", "How long completed steps ran in their workers", done.step_seconds)
        yield counter("calls_scheduled", "Calls of workers that were planned", done.of(journal.CallScheduled))
        yield counter("calls_ended", "Calls of workers that are over", done.of(journal.CallEnded))
        yield counter("events_accepted", "Events that senders were told are durable", done.events)
        limited = sum(self._site.node.matching.limited.values())
        yield counter("events_limited", "Events that started no run because of a rate limit or idempotency", limited)
        yield counter("commits_refused", "Decisions that came too late and were made again", turns.refused)
        yield counter("answers_dropped", "Answers of calls that somebody else has by now", turns.dropped)

    def _queue(self) -> Iterator[Metric]:
        yield gauge("jobs_due", "Jobs that are due and nobody has taken, counted up to 10,000", self._due)
        yield gauge("jobs_due_lag_seconds", "How long the oldest of them has been due", self._lag_ms / 1000)
        workers = GaugeMetricFamily("stepwell_workers", "Workers that are connected to this node", labels=["service"])
        waiting = GaugeMetricFamily("stepwell_calls_waiting", "Calls that wait for a worker here", labels=["service"])
        lines = sorted(self._site.lines(), key=lambda line: line.service)
        for line in lines[:MOST_SERVICES]:
            workers.add_metric([line.service], line.workers)
            waiting.add_metric([line.service], line.waiting)
        if rest := lines[MOST_SERVICES:]:
            workers.add_metric([_OTHERS], sum(line.workers for line in rest))
            waiting.add_metric([_OTHERS], sum(line.waiting for line in rest))
        yield workers
        yield waiting

    def _apps(self) -> Iterator[Metric]:
        if self._site.app_figures is None:
            return
        figures = self._site.app_figures()
        states = Counter(dict.fromkeys(("starting", "idle", "busy", "stopping"), 0))
        states.update(one.state for one in figures.workers)
        workers = GaugeMetricFamily("stepwell_app_workers", "Workers of apps on this machine", labels=["state"])
        for state, count in states.items():
            workers.add_metric([state], count)
        yield workers
        memory = sum(one.memory_bytes for one in figures.workers)
        yield gauge("app_workers_memory_bytes", "What they take, as measured every few seconds", memory)
        yield counter("app_workers_started", "Cold starts: workers of apps that were started", figures.started)
        yield gauge("app_calls_waiting", "Calls of apps that wait for a worker", figures.waiting)
        calls = CounterMetricFamily("stepwell_app_calls", "Calls of apps that are over", labels=["app", "outcome"])
        names = sorted({app for app, _ in figures.ended})[:MOST_SERVICES]
        totals: Counter[tuple[str, str]] = Counter()
        for (app, outcome), count in figures.ended.items():
            totals[app if app in names else _OTHERS, outcome] += count
        for (app, outcome), count in sorted(totals.items()):
            calls.add_metric([app, outcome], count)
        yield calls

    def _storage(self) -> Iterator[Metric]:
        meters = self._site.node.store.meters()
        if (seconds := meters.get("commit_seconds")) is not None:
            yield histogram("commit_seconds", "How long a group of transitions took to be durable", seconds)
        if (sizes := meters.get("group_size")) is not None:
            yield histogram("commit_group_size", "Transitions and other changes in one group", sizes)
        for name, text in (
            ("live_runs", "Runs that have not ended, of all nodes"),
            ("jobs", "Jobs that are stored, of all nodes"),
            ("waits", "Waits for events, of all nodes"),
        ):
            if isinstance(value := self._store.get(name), int):
                yield gauge(name, text, value)
        sizes_of = GaugeMetricFamily("stepwell_store_bytes", "Size of what is stored", labels=["part"])
        for part in ("database", "wal"):
            if isinstance(value := self._store.get(f"{part}_bytes"), int):
                sizes_of.add_metric([part], value)
        yield sizes_of

    def _surroundings(self) -> Iterator[Metric]:
        site = self._site
        ready = GaugeMetricFamily("stepwell_up", "Whether this node takes part", labels=["version", "kind", "node"])
        ready.add_metric([site.version, site.kind, site.node.name], site.state == "ready")
        yield ready
        yield gauge("uptime_seconds", "Since this server was put together", site.uptime_s)
        yield gauge("requests_in_progress", "Requests that are being answered", site.bodies.requests)
        yield gauge("request_body_bytes", "What their bodies take", site.bodies.bytes)
        yield gauge("followers", "Streams that follow a run", site.watch.followers)
        refused = {name.removeprefix("refused:"): count for name, count in site.counts.items()}
        yield counters("requests_refused", "Requests that were refused", "reason", refused)
        report = site.auditor.latest if site.auditor is not None else None
        if report is not None:
            yield gauge("auditor_findings", "Broken invariants at the last look", len(report.findings))
            yield gauge("auditor_checked_timestamp_seconds", "When that was", report.checked_at / 1000)
        if site.retention is not None:
            removed = site.retention.removed
            yield counters("removed", "What this node removed for its age", "kind", removed)


def together(told: Mapping[str, bytes]) -> bytes:
    """The figures of several processes, by their names, as those of one target; those of the store are the first's."""
    families: dict[str, Metric] = {}
    for process, text in told.items():
        for family in text_string_to_metric_families(text.decode()):
            known = families.get(family.name)
            if family.name in OF_THE_STORE:
                families.setdefault(family.name, family)
                continue
            family.samples = [
                sample._replace(labels={"process": process, **sample.labels}) for sample in family.samples
            ]
            if known is None:
                families[family.name] = family
            else:
                known.samples += family.samples
    return generate_latest(_Told(families.values()))


class _Told:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"stepwell_{name}", text, value=value)


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"stepwell_{name}", text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"stepwell_{name}", text, value=value)


def histogram(name: str, text: str, values: Histogram) -> HistogramMetricFamily:
    so_far = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*values.bounds, None), tuple(values.counts), strict=True):
        so_far += count
        buckets.append(("+Inf" if bound is None else f"{bound:g}", so_far))
    return HistogramMetricFamily(f"stepwell_{name}", text, buckets=buckets, sum_value=values.sum)
