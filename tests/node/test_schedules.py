"""Functions that start by the clock: each occurrence once, whatever happens to nodes, clocks and registrations."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from stepwell.model.errors import InvalidInput
from stepwell.model.event import TICK, Event
from stepwell.model.function import Function, Service, Transport, Trigger
from stepwell.model.ids import Instant
from stepwell.model.job import JobKind
from stepwell.model.message import Returned
from stepwell.node.node import NodeSettings
from stepwell.store.base import Outcome, StoreUnavailable, Transition
from stepwell.store.memory import MemoryStore
from stepwell.testing.node import InMemoryNode
from stepwell.testing.world import Scheduler

MORNING = 1_788_249_600_000  # 2026-09-01T08:00:00Z
SHARING = NodeSettings(search_ms=1_000, lease_ms=6_000)


def at(text: str) -> Instant:
    return round(datetime.fromisoformat(f"2026-09-{text}+00:00").timestamp() * 1000)


def scheduled(*triggers: Trigger | str, slug: str = "tidy", service: str = "shop") -> Service:
    found = tuple(Trigger(cron=one) if isinstance(one, str) else one for one in triggers)
    function = Function(slug=slug, name=slug, service=service, triggers=found)
    return Service(name=service, transport=Transport.HTTP, functions=(function,))


def node_with(*services: Service, **details: object) -> InMemoryNode:
    return InMemoryNode(*services, scheduler=Scheduler(MORNING), **details)  # type: ignore[arg-type]


def ticks(node: InMemoryNode) -> list[Event]:
    return sorted((one for one in node.store.event_rows.values() if one.name == TICK), key=lambda event: event.key)


def started(node: InMemoryNode, slug: str = "tidy") -> list[str]:
    """The occurrences that runs of a function were started for, in the order of the runs."""
    runs = [run for run in node.runs() if run.function == slug]
    assert all(run.event is not None for run in runs)
    return [node.store.event_rows[run.event].id[8:16] for run in runs if run.event is not None]


def finish(*nodes: InMemoryNode) -> None:
    for node in nodes:
        for call in list(node.worker.calls):
            node.answer(call, Returned(call.job, b"null"))


def test_a_function_starts_at_each_occurrence_once() -> None:
    node = node_with(scheduled("*/5 * * * *"))
    assert started(node) == []
    node.pass_time(minutes=20)
    assert started(node) == ["01T08:05", "01T08:10", "01T08:15", "01T08:20"]


def test_the_event_of_an_occurrence_is_what_official_sdks_expect() -> None:
    node = node_with(scheduled("TZ=Europe/Berlin 30 10 * * *"))
    node.pass_time(hours=1)
    (event,) = ticks(node)
    (call,) = node.worker.calls
    assert isinstance(event.body, bytes)
    assert json.loads(event.body) == {
        "name": "inngest/scheduled.timer",
        "id": "2026-09-01T08:30:00Z",
        "ts": MORNING + 30 * 60_000,
        "data": {
            "cron": "TZ=Europe/Berlin 30 10 * * *",
            "scheduledAt": "2026-09-01T08:30:00Z",
            "fireAt": "2026-09-01T08:30:00Z",
        },
        "user": {},
    }
    assert call.events == (event.body,)
    assert event.source == "server"


def test_seconds_are_there_with_every() -> None:
    node = node_with(scheduled("@every 2s"))
    node.pass_time(seconds=60)
    assert len(started(node)) == 30
    assert len({run.created_at for run in node.runs()}) == 30


def test_nothing_is_left_over_but_the_next_tick() -> None:
    node = node_with(scheduled("*/5 * * * *"))
    for _ in range(12):
        node.pass_time(minutes=5)
        finish(node)
    (job,) = node.store.job_rows.values()
    assert (job.kind, job.function, job.cron, job.due) == (JobKind.TICK, "tidy", "*/5 * * * *", at("01T09:05"))
    assert node.do(node.store.stray_rows(10)) == []


def test_two_schedules_that_meet_start_one_run() -> None:
    node = node_with(scheduled("*/10 * * * *", "*/15 * * * *"))
    node.pass_time(minutes=30)
    assert started(node) == ["01T08:10", "01T08:15", "01T08:20", "01T08:30"]
    assert len(ticks(node)) == 5


def test_two_functions_on_one_schedule_start_each_for_itself() -> None:
    node = node_with(scheduled("@hourly"), scheduled("@hourly", slug="count", service="books"))
    node.pass_time(hours=2)
    assert started(node) == started(node, "count") == ["01T09:00", "01T10:00"]


def test_a_schedule_starts_its_function_and_those_that_ask_for_the_event() -> None:
    listener = scheduled(Trigger(event=TICK), slug="watch", service="books")
    bystander = scheduled(Trigger(event="shop/order"), slug="bystander", service="door")
    node = node_with(scheduled("@hourly"), scheduled("30 9 * * *", slug="count", service="yard"), listener, bystander)
    node.pass_time(hours=2)
    assert started(node) == ["01T09:00", "01T10:00"]
    assert started(node, "count") == ["01T09:30"]
    assert started(node, "watch") == ["01T09:00", "01T09:30", "01T10:00"]
    assert started(node, "bystander") == []


def test_who_asks_for_the_event_gets_those_of_one_moment_too() -> None:
    listener = scheduled(Trigger(event=TICK), slug="watch", service="books")
    node = node_with(scheduled("@hourly"), scheduled("@hourly", slug="count", service="yard"), listener)
    node.pass_time(hours=1)
    assert started(node, "watch") == ["01T09:00", "01T09:00"]


def test_jitter_delays_the_start_and_not_the_next_occurrence() -> None:
    node = node_with(scheduled(Trigger(cron="* * * * *", jitter_ms=300_000)))
    node.pass_time(minutes=10)
    assert started(node) == [f"01T08:{minute:02}" for minute in range(1, 11)]
    delays = []
    for event in ticks(node):
        assert isinstance(event.body, bytes)
        data = json.loads(event.body)["data"]
        scheduled_at = datetime.fromisoformat(data["scheduledAt"])
        delay = datetime.fromisoformat(data["fireAt"]) - scheduled_at
        delays.append(delay.total_seconds())
        assert event.ts == round((scheduled_at + delay).astimezone(UTC).timestamp() * 1000)
    assert all(0 <= delay < 300 for delay in delays)
    assert len(set(delays)) == 10
    begun = len(node.worker.calls)
    assert begun < 10
    node.pass_time(minutes=5)
    finished = [run for run in node.runs() if run.created_at <= at("01T08:10")]
    assert len(finished) == 10
    assert len(node.worker.calls) >= 10


def test_jitter_is_the_same_whoever_asks() -> None:
    one, other = (node_with(scheduled(Trigger(cron="@hourly", jitter_ms=60_000)), name=name) for name in ("a", "b"))
    one.pass_time(hours=3)
    other.pass_time(hours=3)
    assert [event.ts for event in ticks(one)] == [event.ts for event in ticks(other)]


# several nodes, crashes


def three_nodes(service: Service) -> list[InMemoryNode]:
    first = node_with(service, name="n0", settings=SHARING)
    more = [
        InMemoryNode(name=f"n{number}", store=first.store, scheduler=first.scheduler, settings=SHARING)
        for number in (1, 2)
    ]
    return [first, *more]


def test_several_nodes_start_an_occurrence_once() -> None:
    nodes = three_nodes(scheduled("* * * * *"))
    nodes[0].pass_time(minutes=30)
    assert started(nodes[0]) == [f"01T08:{minute:02}" for minute in range(1, 31)]


def test_an_occurrence_whose_node_dies_is_started_by_another() -> None:
    nodes = three_nodes(scheduled("* * * * *"))
    first = nodes[0]
    for minute in range(2):
        first.pass_time(seconds=59)
        nodes[minute].world.pause()  # as good as dead: its lease runs out, whatever it had claimed
        first.pass_time(seconds=61)
    first.pass_time(minutes=6)
    assert started(first) == [f"01T08:{minute:02}" for minute in range(1, 11)]


def test_a_node_that_comes_back_takes_no_occurrence_a_second_time() -> None:
    nodes = three_nodes(scheduled("* * * * *"))
    nodes[0].pass_time(seconds=59)
    nodes[0].world.pause()
    nodes[1].pass_time(minutes=5)
    nodes[0].world.unpause()
    nodes[1].pass_time(minutes=4)
    assert sorted(started(nodes[1])) == [f"01T08:{minute:02}" for minute in range(1, 10)]


class Clock:
    """The clock of a store, which somebody sets."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.ahead_ms = 0

    def now(self) -> Instant:
        return self._scheduler.now + self.ahead_ms


def test_no_occurrence_comes_twice_when_clocks_jump() -> None:
    scheduler = Scheduler(MORNING)
    clock = Clock(scheduler)
    node = InMemoryNode(scheduled("*/10 * * * *"), scheduler=scheduler, store=MemoryStore(clock))
    node.pass_time(minutes=25)
    clock.ahead_ms = 3_600_000
    node.pass_time(minutes=20)
    assert started(node) == ["01T08:10", "01T08:20", "01T09:30", "01T09:40"]  # 08:30 was never the time of day
    clock.ahead_ms = -3_600_000
    node.pass_time(hours=4)
    found = started(node)
    assert len(found) == len(set(found))
    hours = [f"01T{hour:02}:{minute}0" for hour in (10, 11) for minute in range(6)]
    assert [one for one in found if one in hours[:10]] == hours[:10]  # the corrected clock shows 11:45 now


def test_a_wrong_clock_of_one_node_starts_nothing_early() -> None:
    nodes = three_nodes(scheduled("*/10 * * * *"))
    nodes[1].world.skew_ms = 3_600_000
    nodes[2].world.skew_ms = -7_200_000
    nodes[0].pass_time(minutes=35)
    assert started(nodes[0]) == ["01T08:10", "01T08:20", "01T08:30"]
    assert [run.created_at // 600_000 * 600_000 for run in nodes[0].runs()] == [
        at("01T08:10"),
        at("01T08:20"),
        at("01T08:30"),
    ]


# downtime


def restarted(node: InMemoryNode, **away: float) -> InMemoryNode:
    node.world.pause()
    node.node.stop()
    node.pass_time(**away)
    return InMemoryNode(store=node.store, scheduler=node.scheduler, epoch=2)


@pytest.mark.parametrize(
    ("schedule", "away", "expected"),
    [
        ("* * * * *", {"minutes": 30}, "01T08:30"),
        ("*/20 * * * *", {"minutes": 30}, "01T08:20"),
        ("@every 10s", {"days": 400}, None),
        ("@hourly", {"days": 2, "minutes": 7}, "03T08:00"),
    ],
)
def test_of_the_occurrences_missed_while_down_the_last_is_made_up_for(
    schedule: str, away: dict[str, float], expected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        node = restarted(node_with(scheduled(schedule)), **away)
    assert len(started(node)) == 1
    if expected is not None:
        assert started(node) == [expected]
    if schedule != "*/20 * * * *":
        assert "and for none between" in caplog.text
    count = len(started(node))
    period_s = {"* * * * *": 60, "*/20 * * * *": 1200, "@every 10s": 10, "@hourly": 3600}[schedule]
    node.pass_time(seconds=5 * period_s)
    assert len(started(node)) == count + 5


def test_what_was_not_missed_is_not_made_up_for() -> None:
    node = restarted(node_with(scheduled("@hourly")), minutes=30)
    assert started(node) == []
    node.pass_time(minutes=30)
    assert started(node) == ["01T09:00"]


# registrations


def test_a_schedule_begins_when_its_function_registers() -> None:
    node = node_with()
    node.pass_time(minutes=3)
    node.do(node.node.register(scheduled("*/5 * * * *")))
    node.pass_time(minutes=8)
    assert started(node) == ["01T08:05", "01T08:10"]


def test_a_changed_schedule_takes_the_place_of_the_old_one() -> None:
    node = node_with(scheduled("0 * * * *"))
    node.pass_time(minutes=30)
    node.do(node.node.register(scheduled("45 * * * *")))
    node.pass_time(hours=2)
    assert started(node) == ["01T08:45", "01T09:45"]


def test_a_schedule_that_is_changed_there_and_back_comes_once() -> None:
    node = node_with(scheduled("0 * * * *"))
    for schedule in ("45 * * * *", "0 * * * *", "45 * * * *", "0 * * * *"):
        node.pass_time(minutes=5)
        node.do(node.node.register(scheduled(schedule)))
    node.pass_time(hours=2)
    assert started(node) == ["01T09:00", "01T10:00"]


@pytest.mark.parametrize("how", ["removed", "archived", "forgotten"])
def test_a_function_that_is_gone_is_not_started_and_goes_on_when_it_returns(how: str) -> None:
    node = node_with(scheduled("*/10 * * * *"))
    node.pass_time(minutes=15)
    if how == "removed":
        node.do(node.node.register(scheduled(Trigger(event="shop/other"))))
    elif how == "archived":
        node.do(node.node.register(Service(name="shop", transport=Transport.HTTP)))
    else:
        node.do(node.node.forget(node.runs()[0].env, "shop"))
    node.pass_time(minutes=20)
    assert started(node) == ["01T08:10"]
    assert not [job for job in node.store.job_rows.values() if job.kind is JobKind.TICK]
    node.do(node.node.register(scheduled("*/10 * * * *")))
    node.pass_time(minutes=20)
    assert started(node) == ["01T08:10", "01T08:40", "01T08:50"]


def test_a_function_that_returns_before_its_next_occurrence_misses_none() -> None:
    node = node_with(scheduled("*/10 * * * *"))
    node.pass_time(minutes=12)
    node.do(node.node.register(Service(name="shop", transport=Transport.HTTP)))
    node.pass_time(minutes=5)
    node.do(node.node.register(scheduled("*/10 * * * *")))
    node.pass_time(minutes=13)
    assert started(node) == ["01T08:10", "01T08:20", "01T08:30"]


def test_a_registration_at_one_node_is_right_on_all() -> None:
    nodes = three_nodes(scheduled("* * * * *"))
    nodes[0].pass_time(seconds=150)
    nodes[2].do(nodes[2].node.register(scheduled("*/5 * * * *")))
    nodes[0].pass_time(seconds=570)
    assert started(nodes[0]) == ["01T08:01", "01T08:02", "01T08:05", "01T08:10"]


def test_a_schedule_whose_next_tick_is_missing_goes_on() -> None:
    node = node_with(scheduled("*/10 * * * *"))
    node.pass_time(minutes=12)
    for job in list(node.store.job_rows.values()):
        if job.kind is JobKind.TICK:
            node.store._remove_job(job.id, None)  # nothing does this; an occurrence may be lost with it, no more
    node.pass_time(minutes=30)
    assert started(node) == ["01T08:10", "01T08:30", "01T08:40"]


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("* * * * * *", "'@every 10s'"),
        ("TZ=Europe/Nowhere * * * * *", "no time zone"),
        ("0 0 30 2 *", "never comes"),
    ],
)
def test_a_schedule_that_cannot_be_carried_out_is_refused(schedule: str, reason: str) -> None:
    node = node_with()
    with pytest.raises(InvalidInput, match=r"function 'tidy', triggers\[1\]\.cron: .*" + reason):
        node.do(node.node.register(scheduled("@daily", schedule)))
    assert node.do(node.store.services()) == []


def test_a_zone_that_is_unknown_here_stops_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    odd = scheduled("TZ=Mars/Olympus * * * * *", slug="odd", service="mars")
    node = node_with(scheduled("*/10 * * * *"), odd)
    node.pass_time(minutes=30)
    assert started(node) == ["01T08:10", "01T08:20", "01T08:30"]
    assert caplog.text.count("function 'odd' cannot start on its schedule: 'Mars/Olympus' is no time zone") == 1


def test_an_environment_has_schedules_of_its_own() -> None:
    service = scheduled("@hourly")
    other = replace(service, env="other", functions=(replace(service.functions[0], env="other"),))
    node = node_with(service, other)
    node.pass_time(hours=1)
    assert sorted(run.env for run in node.runs()) == sorted([service.env, "other"])


class Counting(MemoryStore):
    """Counts who asks for the services."""

    asked = 0

    async def services(self) -> list[Service]:
        self.asked += 1
        return await super().services()


def test_many_functions_on_one_schedule_start_together_and_read_the_services_once() -> None:
    functions = tuple(
        Function(slug=f"f{n}", name="f", service="shop", triggers=(Trigger(cron="*/10 * * * *"),)) for n in range(700)
    )
    scheduler = Scheduler(MORNING)
    store = Counting(Clock(scheduler))
    node = InMemoryNode(
        Service(name="shop", transport=Transport.HTTP, functions=functions),
        scheduler=scheduler,
        store=store,
        settings=SHARING,
    )
    node.pass_time(minutes=10, milliseconds=-1)
    before = store.asked
    node.pass_time(milliseconds=1)
    assert len(node.runs()) == 700
    assert store.asked - before < 5


def test_what_a_store_refuses_is_made_with_the_next_beat(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(MemoryStore):
        down = False

        async def commit(self, transition: Transition) -> Outcome:
            if self.down:
                raise StoreUnavailable("it is restarting")
            return await super().commit(transition)

    scheduler = Scheduler(MORNING)
    store = Refusing(Clock(scheduler))
    node = InMemoryNode(scheduler=scheduler, store=store)
    node.pass_time(minutes=1)
    node.node.registry.put(scheduled("*/10 * * * *"))  # as if another node had taken the registration
    store.down = True
    node.pass_time(minutes=1)
    assert "could not see to its schedules: it is restarting" in caplog.text
    store.down = False
    node.pass_time(minutes=9)
    assert started(node) == ["01T08:10"]
