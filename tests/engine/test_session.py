"""Which worker makes which call: rules one by one, and that nothing is lost whatever happens in whatever order."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.engine.session import Placement, Rules, State
from stepwell.model.app import Resources, Scaling
from stepwell.model.placement import (
    Action,
    Assign,
    Capacity,
    Ended,
    Gpu,
    Kind,
    Refuse,
    Start,
    Stop,
    Waiting,
    WorkerKey,
    setup_digest,
)

A = WorkerKey("ns/a@1")
B = WorkerKey("ns/b@1")
GIB = 1 << 30


class Pool:
    """A schedule, and workers that do what it says."""

    def __init__(self, capacity: Capacity | None = None, **rules: Any) -> None:
        numbers = itertools.count(1)
        self.schedule = Placement(capacity or Capacity(), Rules(**rules), lambda: f"w{next(numbers)}")
        self.now = 1_000
        self.calls = itertools.count(1)

    def add(self, key: WorkerKey = A, kind: Kind | None = None, **more: Any) -> str:
        call = f"c{next(self.calls)}"
        self.schedule.add(Waiting(call=call, key=key, **more), kind or Kind(), self.now)
        return call

    def decide(self, later_ms: int = 0) -> list[Action]:
        self.now += later_ms
        return self.schedule.decide(self.now)

    def started(self, key: WorkerKey = A, kind: Kind | None = None, **more: Any) -> str:
        """A worker that makes its first call."""
        self.add(key, kind, **more)
        worker: str = one(self.decide(), Start).worker
        self.schedule.ready(worker, self.now)
        assert one(self.decide(), Assign).worker == worker
        return worker

    def idle(self, key: WorkerKey = A, kind: Kind | None = None) -> str:
        worker = self.started(key, kind)
        self.schedule.done(worker, self.now)
        assert self.decide() == []
        return worker


def one(actions: list[Action], kind: type[Any]) -> Any:
    assert len(actions) == 1, actions
    assert isinstance(actions[0], kind), actions
    return actions[0]


def test_equal_setups_have_one_digest_in_whatever_order_their_keys_come() -> None:
    assert setup_digest({"a": 1, "b": {"c": 2, "d": 3}}) == setup_digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert setup_digest({"a": 1}) != setup_digest({"a": 2})
    assert setup_digest(None) == ""


def test_the_first_call_starts_a_worker_and_the_second_finds_it_warm() -> None:
    pool = Pool()
    worker = pool.idle()
    call = pool.add()
    assert pool.decide() == [Assign(worker, (call,))]


def test_another_setup_or_variant_is_another_worker() -> None:
    pool = Pool()
    pool.idle()
    for key in (WorkerKey("ns/a@1", setup="x"), WorkerKey("ns/a@1", variant="large"), WorkerKey("ns/a@2")):
        pool.add(key)
        assert one(pool.decide(), Start).key == key


def test_calls_go_in_order_of_arrival_to_one_worker_at_a_time() -> None:
    pool = Pool(most=1)
    worker = pool.started()
    calls = [pool.add() for _ in range(3)]
    assert pool.decide() == []
    for call in calls:
        pool.schedule.done(worker, pool.now)
        assert pool.decide() == [Assign(worker, (call,))]


def test_short_calls_wait_for_the_worker_that_is_there() -> None:
    pool = Pool()
    worker = pool.started()
    pool.now += 5
    pool.schedule.done(worker, pool.now)
    calls = [pool.add() for _ in range(32)]
    assert pool.decide() == [Assign(worker, (calls[0],))]


def test_more_workers_are_started_when_what_waits_takes_longer_than_a_start() -> None:
    pool = Pool(most=3)
    worker = pool.started()
    pool.now += 4_000
    pool.schedule.done(worker, pool.now)
    for _ in range(5):
        pool.add()
    actions = pool.decide()
    assert [type(action) for action in actions] == [Assign, Start, Start]


def test_a_call_that_has_waited_long_gets_a_worker_even_before_durations_are_known() -> None:
    pool = Pool()
    pool.started()
    pool.add()
    assert pool.decide() == []
    wake = pool.schedule.wake_at(pool.now)
    assert wake is not None
    assert one(pool.decide(wake - pool.now), Start).key == A


def test_a_cancelled_call_is_never_assigned() -> None:
    pool = Pool()
    call = pool.add()
    worker = one(pool.decide(), Start).worker
    assert pool.schedule.remove(call)
    assert not pool.schedule.remove(call)
    pool.schedule.ready(worker, pool.now)
    assert pool.decide() == []
    assert pool.schedule.queued == 0


def test_an_idle_worker_goes_after_its_time() -> None:
    pool = Pool(idle_ms=10_000)
    worker = pool.idle()
    assert pool.schedule.wake_at(pool.now) == pool.now + 10_000
    assert pool.decide(9_999) == []
    assert one(pool.decide(1), Stop).worker == worker
    pool.schedule.gone(worker, pool.now)
    assert pool.schedule.wake_at(pool.now) is None


def test_the_least_number_is_kept_warm_however_idle() -> None:
    pool = Pool(idle_ms=1_000)
    pool.schedule.keep_warm(A, Kind(scaling=Scaling(least=2)))
    workers = [action.worker for action in pool.decide() if isinstance(action, Start)]
    assert len(workers) == 2
    for worker in workers:
        pool.schedule.ready(worker, pool.now)
    assert pool.decide(1_000_000) == []
    pool.schedule.gone(workers[0], pool.now)
    assert one(pool.decide(), Start).call == ""


def test_workers_of_an_old_version_go_at_once_and_are_not_replaced() -> None:
    pool = Pool(old_idle_ms=500)
    pool.schedule.keep_warm(A, Kind(scaling=Scaling(least=1)))
    worker = one(pool.decide(), Start).worker
    pool.schedule.ready(worker, pool.now)
    assert pool.decide(100_000) == []
    pool.schedule.set_current(A.app, "ns/a@2")
    assert one(pool.decide(500), Stop).worker == worker
    pool.schedule.gone(worker, pool.now)
    assert pool.decide() == []


def test_the_app_says_how_many_workers_it_may_have() -> None:
    pool = Pool(most=100)
    kind = Kind(scaling=Scaling(most=2))
    for _ in range(50):
        pool.add(A, kind)
    assert [type(action) for action in pool.decide()] == [Start]
    assert [type(action) for action in pool.decide(60_000)] == [Start]
    assert pool.decide(60_000) == []


# sessions


def test_a_session_has_a_worker_to_itself_and_its_calls_go_one_after_the_other() -> None:
    pool = Pool()
    worker = pool.started(session="s1", opens=True)
    second, third = pool.add(session="s1"), pool.add(session="s1")
    assert pool.decide() == []
    pool.schedule.done(worker, pool.now)
    assert pool.decide() == [Assign(worker, (second,))]
    pool.schedule.done(worker, pool.now)
    assert pool.decide() == [Assign(worker, (third,))]
    pool.schedule.done(worker, pool.now)
    pool.add()
    assert one(pool.decide(), Start).key == A, "nobody else gets the worker of a session"


def test_new_sessions_get_different_workers() -> None:
    pool = Pool()
    for name in ("s1", "s2", "s3"):
        pool.add(session=name, opens=True)
    workers = [action.worker for action in pool.decide() if isinstance(action, Start)]
    assert len(workers) == 3
    for worker in workers:
        pool.schedule.ready(worker, pool.now)
    assert {action.worker for action in pool.decide() if isinstance(action, Assign)} == set(workers)


def test_a_session_that_lost_its_worker_is_told_and_its_calls_are_refused() -> None:
    pool = Pool()
    worker = pool.started(session="s1", opens=True)
    call = pool.add(session="s1")
    pool.schedule.gone(worker, pool.now)
    ended, refused = pool.decide()
    assert ended == Ended("s1", worker)
    assert isinstance(refused, Refuse)
    assert (refused.call, refused.code) == (call, "session")
    late = pool.add(session="s1")
    assert one(pool.decide(), Refuse).call == late


@pytest.mark.parametrize("busy", [True, False])
def test_the_worker_of_a_session_that_is_over_is_not_used_again(busy: bool) -> None:
    pool = Pool()
    worker = pool.started(session="s1", opens=True)
    if busy:
        pool.schedule.release("s1", pool.now)
        assert pool.decide() == []
        pool.schedule.done(worker, pool.now)
    else:
        pool.schedule.done(worker, pool.now)
        pool.decide()
        pool.schedule.release("s1", pool.now)
    assert one(pool.decide(), Stop).worker == worker


# pinned


def test_a_call_for_a_certain_worker_waits_for_it() -> None:
    pool = Pool()
    first = pool.started()
    pool.schedule.done(first, pool.now)
    pool.add()
    pool.decide()
    call = pool.add(workers=(first,))
    assert pool.decide(60_000) == []
    pool.schedule.done(first, pool.now)
    assert pool.decide() == [Assign(first, (call,))]


def test_a_call_for_a_worker_that_is_not_there_is_refused() -> None:
    pool = Pool()
    worker = pool.started()
    pool.add(workers=("w99",))
    refused = one(pool.decide(), Refuse)
    assert refused.code == "workers"
    assert "w99" in refused.why
    pool.add(B, workers=(worker,))
    assert "another app" in one(pool.decide(), Refuse).why
    call = pool.add(workers=(worker,))
    pool.schedule.gone(worker, pool.now)
    assert one(pool.decide(), Refuse).call == call


# failures


def test_calls_fail_with_what_the_setup_said_and_later_ones_try_again_after_a_pause() -> None:
    pool = Pool(backoff_ms=1_000)
    calls = [pool.add() for _ in range(3)]
    worker = one(pool.decide(), Start).worker
    pool.schedule.failed(worker, pool.now, "no weights", told=True)
    assert pool.decide() == [Refuse(call, "setup", "no weights") for call in calls]
    pool.schedule.gone(worker, pool.now)
    pool.add()
    assert pool.decide() == []
    assert pool.schedule.wake_at(pool.now) == pool.now + 1_000
    again = one(pool.decide(1_000), Start).worker
    pool.schedule.failed(again, pool.now, "no weights", told=True)
    pool.decide()
    pool.schedule.gone(again, pool.now)
    pool.add()
    assert pool.decide(1_999) == [], "twice as long"
    assert one(pool.decide(1), Start).worker != again


def test_a_worker_that_dies_in_setup_is_replaced_but_not_for_ever() -> None:
    pool = Pool(setup_tries=3)
    call = pool.add()
    for attempt in range(3):
        worker = one(pool.decide(100_000), Start).worker
        pool.schedule.failed(worker, pool.now, "killed by SIGKILL", told=False)
        if attempt == 2:
            assert one(pool.decide(), Refuse) == Refuse(call, "setup", "killed by SIGKILL")
        pool.schedule.gone(worker, pool.now)
    assert pool.decide(100_000) == []


def test_calls_go_on_with_sound_workers_when_another_one_cannot_be_set_up() -> None:
    pool = Pool()
    sound = pool.started()
    call = pool.add()
    bad = one(pool.decide(1_000), Start).worker
    pool.schedule.failed(bad, pool.now, "no weights", told=True)
    assert pool.decide() == []
    pool.schedule.done(sound, pool.now)
    assert pool.decide() == [Assign(sound, (call,))]


# batches


def test_calls_of_a_function_that_takes_several_go_together() -> None:
    pool = Pool(most=1)
    worker = pool.started()
    several: dict[str, Any] = {"function": "embed", "batch_size": 4, "batch_wait_ms": 50.0}
    calls = [pool.add(**several) for _ in range(5)]
    pool.schedule.done(worker, pool.now)
    assert pool.decide() == [Assign(worker, tuple(calls[:4]))]
    pool.schedule.done(worker, pool.now)
    assert pool.decide() == []
    assert pool.schedule.wake_at(pool.now) == pool.now + 50
    assert pool.decide(50) == [Assign(worker, (calls[4],))]


# room


def test_a_call_that_needs_a_gpu_where_there_is_none_is_refused_with_what_to_do() -> None:
    pool = Pool()
    pool.add(A, Kind(needs=Resources(gpus=1)))
    refused = one(pool.decide(), Refuse)
    assert refused.code == "resources"
    assert "needs 1 GPU" in refused.why
    assert "has none" in refused.why
    waiting = Pool(wait_for_resources=True)
    waiting.add(A, Kind(needs=Resources(gpus=1)))
    assert waiting.decide() == []
    assert waiting.schedule.queued == 1


def test_gpus_are_given_out_by_their_memory() -> None:
    gpus = (Gpu(0, "nvidia", 24 * GIB), Gpu(1, "nvidia", 80 * GIB))
    pool = Pool(Capacity(gpus=gpus))
    large, small, alone = (
        Kind(needs=Resources(gpus=1, vram_bytes=size, gpu_type="nvidia")) for size in (40 * GIB, 10 * GIB, 0)
    )
    pool.add(WorkerKey("ns/large@1"), large)
    assert one(pool.decide(), Start).gpus == (1,)
    for name in "xy":
        pool.add(WorkerKey(f"ns/{name}@1"), small)
        assert one(pool.decide(), Start).gpus == (0,)
    pool.add(WorkerKey("ns/z@1"), small)
    assert one(pool.decide(), Start).gpus == (1,)
    pool.add(WorkerKey("ns/alone@1"), alone)
    assert pool.decide() == []
    pool.add(WorkerKey("ns/amd@1"), Kind(needs=Resources(gpus=1, gpu_type="amd")))
    assert "of type amd" in one(pool.decide(), Refuse).why


def test_an_idle_worker_makes_room_the_one_longest_idle_first_and_old_versions_before_all() -> None:
    pool = Pool(Capacity(workers=3), old_idle_ms=100_000)
    first = pool.idle(WorkerKey("ns/one@1"))
    pool.now += 10
    old = pool.idle(WorkerKey("ns/two@1"))
    pool.now += 10
    pool.idle(WorkerKey("ns/three@1"))
    pool.schedule.set_current(("", "ns/two"), "ns/two@2")
    pool.add(A)
    assert one(pool.decide(), Stop).worker == old
    assert pool.decide() == [], "one is enough"
    pool.schedule.gone(old, pool.now)
    assert one(pool.decide(), Start).key == A
    pool.add(B)
    assert one(pool.decide(), Stop).worker == first


def test_a_worker_that_is_set_up_for_nobody_goes_when_others_need_the_room() -> None:
    pool = Pool(Capacity(workers=1))
    unwanted, kept = pool.add(A), pool.add(A)
    worker = one(pool.decide(), Start).worker
    wanted = pool.add(B)
    pool.schedule.remove(unwanted)
    assert pool.decide(60_000) == [], "somebody waits for that very setup"
    pool.schedule.remove(kept)
    assert one(pool.decide(), Stop).worker == worker
    pool.schedule.ready(worker, pool.now)
    assert pool.decide() == [], "too late"
    pool.schedule.gone(worker, pool.now)
    assert one(pool.decide(), Start).call == wanted


def test_a_worker_that_is_set_up_for_nobody_serves_the_next_call_where_there_is_room() -> None:
    pool = Pool(Capacity(workers=2))
    call = pool.add(A)
    worker = one(pool.decide(), Start).worker
    pool.schedule.remove(call)
    pool.add(B)
    assert one(pool.decide(), Start).key == B
    pool.add(A)
    assert pool.decide() == []
    pool.schedule.ready(worker, pool.now)
    assert one(pool.decide(), Assign).worker == worker


def test_workers_go_when_memory_is_short_and_starts_keep_to_what_there_is() -> None:
    pool = Pool(Capacity(memory_bytes=8 * GIB))
    kind = Kind(needs=Resources(ram_bytes=3 * GIB))
    first = pool.idle(WorkerKey("ns/one@1"), kind)
    second = pool.idle(WorkerKey("ns/two@1"), kind)
    pool.add(A, kind)
    assert one(pool.decide(), Stop).worker == first
    pool.schedule.gone(first, pool.now)
    worker = one(pool.decide(), Start).worker
    pool.schedule.ready(worker, pool.now)
    pool.decide()
    pool.schedule.measured(second, 4 * GIB)
    pool.schedule.relieve(GIB, pool.now)
    assert one(pool.decide(), Stop).worker == second
    pool.add(B, Kind(needs=Resources(ram_bytes=9 * GIB)))
    assert "needs 9.66 GB of memory" in one(pool.decide(), Refuse).why


def test_a_large_worker_is_not_overtaken_by_small_ones_for_ever() -> None:
    pool = Pool(Capacity(memory_bytes=8 * GIB), patience_ms=10_000)
    small = Kind(needs=Resources(ram_bytes=4 * GIB))
    busy = pool.started(WorkerKey("ns/one@1"), small)
    pool.add(A, Kind(needs=Resources(ram_bytes=8 * GIB)))
    assert pool.decide() == []
    other = pool.started(WorkerKey("ns/two@1"), small)
    pool.schedule.gone(other, pool.now)
    pool.decide(20_000)
    pool.add(WorkerKey("ns/three@1"), small)
    assert pool.decide() == []
    pool.schedule.gone(busy, pool.now)
    assert one(pool.decide(), Start).key == A


# fairness


class Machine:
    """Runs the workers of a schedule against a clock of its own. Each one started is ready `later_ms` after the one
    before."""

    def __init__(self, schedule: Placement, start_ms: int, call_ms: dict[WorkerKey, int], *, later_ms: int = 0) -> None:
        self.schedule, self.start_ms, self.call_ms, self.later_ms = schedule, start_ms, call_ms, later_ms
        self.now = 0
        self.events: list[tuple[int, int, str, str]] = []
        self.number = itertools.count()
        self.keys: dict[str, WorkerKey] = {}
        self.served: Counter[WorkerKey] = Counter()
        self.finished: Counter[WorkerKey] = Counter()
        self.starts = 0

    def soon(self, later_ms: int, what: str, worker: str) -> None:
        self.events.append((self.now + later_ms, next(self.number), what, worker))
        self.events.sort(reverse=True)

    def run(self, until: int) -> None:
        while self.now < until:
            for action in self.schedule.decide(self.now):
                match action:
                    case Start(worker=worker, key=key):
                        self.keys[worker] = key
                        self.soon(self.start_ms + self.later_ms * self.starts, "ready", worker)
                        self.starts += 1
                    case Assign(worker=worker):
                        self.soon(self.call_ms[self.keys[worker]], "done", worker)
                    case Stop(worker=worker):
                        self.soon(20, "gone", worker)
            wake = self.schedule.wake_at(self.now)
            if self.events and (wake is None or self.events[-1][0] <= wake):
                self.now, _, what, worker = self.events.pop()
                if what == "done":
                    key = self.keys[worker]
                    self.served[key] += self.call_ms[key]
                    self.finished[key] += 1
                getattr(self.schedule, what)(worker, self.now)
            elif wake is not None:
                self.now = wake
            else:
                return


def apps(count: int) -> list[WorkerKey]:
    return [WorkerKey(f"ns/app{number}@1") for number in range(count)]


def test_a_thousand_calls_of_twenty_apps_are_done_evenly_at_every_moment() -> None:
    numbers = itertools.count()
    schedule = Placement(Capacity(workers=32), Rules(), lambda: f"w{next(numbers)}")
    keys = apps(20)
    machine = Machine(schedule, 400, dict.fromkeys(keys, 100))
    for key in keys:  # all of one app before the first of the next
        for number in range(50):
            schedule.add(Waiting(call=f"{key.reference} {number}", key=key), Kind(), 0)
    for moment in range(1_000, 6_000, 500):
        machine.run(moment)
        counts = [machine.finished[key] for key in keys]
        assert max(counts) <= 1.2 * min(counts) + 1, (moment, counts)
    machine.run(100_000)
    assert all(machine.finished[key] == 50 for key in keys)


@pytest.mark.parametrize("call_ms", [30, 100])
def test_apps_whose_workers_are_ready_later_catch_up_on_a_busy_machine(call_ms: int) -> None:
    numbers = itertools.count()
    schedule = Placement(Capacity(workers=32, cpus=2), Rules(), lambda: f"w{next(numbers)}")
    keys = apps(20)
    machine = Machine(schedule, 400, dict.fromkeys(keys, call_ms), later_ms=50)
    for key in keys:
        for number in range(50):
            schedule.add(Waiting(call=f"{key.reference} {number}", key=key), Kind(), 0)
    while sum(machine.finished.values()) < 500:
        machine.run(machine.now + 10)
    counts = [machine.finished[key] for key in keys]
    assert max(counts) <= 1.2 * min(counts) + 1, counts
    machine.run(100_000)
    assert all(machine.finished[key] == 50 for key in keys)


def test_nobody_waits_long_for_an_app_that_was_set_up_for_minutes_or_whose_calls_take_minutes() -> None:
    numbers = itertools.count()
    schedule = Placement(Capacity(workers=32, cpus=1), Rules(most=1), lambda: f"w{next(numbers)}")
    slow = WorkerKey("ns/slow@1")
    machine = Machine(schedule, 300, {A: 100, B: 100, slow: 120_000}, later_ms=60_000)
    for key, count in ((A, 5_000), (slow, 10), (B, 5_000)):  # ready one minute after the other
        for number in range(count):
            schedule.add(Waiting(call=f"{key.reference} {number}", key=key), Kind(), 0)
    machine.run(60_000)
    assert machine.finished[A] > 590
    machine.run(300_000)
    assert machine.finished[A] > 2_900
    assert machine.finished[B] > 1_700
    assert machine.finished[slow] == 1


def test_nobody_waits_for_an_app_that_cannot_go_on() -> None:
    pool = Pool(Capacity(workers=8, cpus=1), most=1)
    leased = pool.started(B, session="s1", opens=True)
    pool.schedule.done(leased, pool.now)
    pool.decide()
    warm = pool.idle(WorkerKey("ns/c@1"))
    pool.started(WorkerKey("ns/busy@1"))
    pool.add(WorkerKey("ns/c@1", setup="slow"))
    for _ in range(3):
        pool.add(B)
        pool.add(B, session="s1")
    pool.decide()  # B waits for its session's worker or has none, and `c` is being set up for minutes
    worker = pool.started(A)
    for _ in range(50):
        call = pool.add(A)
        pool.now += 1_000
        pool.schedule.done(worker, pool.now)
        assert Assign(worker, (call,)) in pool.decide()
    assert pool.schedule.state(warm) is State.IDLE


@pytest.mark.parametrize("slots", [1, 4, 7])
def test_apps_that_share_few_workers_get_equal_time_whatever_they_ask_for(slots: int) -> None:
    numbers = itertools.count()
    schedule = Placement(Capacity(workers=slots), Rules(), lambda: f"w{next(numbers)}")
    keys = apps(20)
    machine = Machine(schedule, 300, {key: 20 + 10 * number for number, key in enumerate(keys)})
    for number, key in enumerate(keys):
        for call in range(6_000 // (number + 1)):
            schedule.add(Waiting(call=f"{key.reference} {call}", key=key), Kind(), 0)
    machine.run(20 * 20_000 // slots)
    times = [machine.served[key] for key in keys]
    assert min(times) > 0
    assert max(times) <= 1.2 * min(times), times
    assert sum(times) > 0.6 * machine.now * slots, "and most of the time is not spent on starts"


def test_an_app_that_comes_later_gets_its_share_and_nothing_for_the_time_it_was_away() -> None:
    numbers = itertools.count()
    schedule = Placement(Capacity(workers=4), Rules(), lambda: f"w{next(numbers)}")
    machine = Machine(schedule, 300, {A: 100, B: 100})
    for number in range(10_000):
        schedule.add(Waiting(call=f"a{number}", key=A), Kind(scaling=Scaling(most=4)), 0)
    machine.run(60_000)
    before = machine.finished[A]
    for number in range(10_000):
        schedule.add(Waiting(call=f"b{number}", key=B), Kind(scaling=Scaling(most=4)), machine.now)
    machine.run(120_000)
    first, second = machine.finished[A] - before, machine.finished[B]
    assert 0.8 < first / second < 1.25, (first, second)


# whatever happens


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 5), st.booleans())
def test_every_call_ends_once_and_no_worker_makes_two_calls_at_a_time(seed: int, slots: int, memory: bool) -> None:
    chance = random.Random(seed)
    numbers = itertools.count()
    capacity = Capacity(workers=slots, memory_bytes=8 * GIB if memory else 0, gpus=(Gpu(0, "nvidia", 8 * GIB),))
    schedule = Placement(capacity, Rules(most=2, idle_ms=2_000, setup_tries=2), lambda: f"w{next(numbers)}")
    keys = [*apps(3), WorkerKey("ns/app0@2"), WorkerKey("ns/app1@1", setup="x")]
    kinds = {
        key: Kind(
            Resources(gpus=chance.randrange(2), ram_bytes=chance.randrange(4) * GIB),
            Scaling(least=chance.randrange(2), most=chance.choice([None, 1, 3])),
        )
        for key in keys
    }
    now = 0
    state: dict[str, str] = {}
    doing: dict[str, tuple[str, ...]] = {}
    key_of: dict[str, WorkerKey] = {}
    lease: dict[str, str] = {}
    calls: dict[str, Waiting] = {}
    ended: set[str] = set()
    live_sessions: list[str] = []

    def end(call: str) -> None:
        assert call not in ended, f"{call} ended twice"
        ended.add(call)

    def obey() -> None:
        for action in schedule.decide(now):
            match action:
                case Start(worker=worker, key=key):
                    assert worker not in state
                    state[worker], key_of[worker] = "starting", key
                    assert len(state) <= slots
                case Assign(worker=worker, calls=given_):
                    assert state[worker] == "idle"
                    state[worker], doing[worker] = "busy", given_
                    for call in given_:
                        assert call not in ended
                        waiting = calls[call]
                        if waiting.opens:
                            assert worker not in lease
                            lease[worker] = waiting.session
                            live_sessions.append(waiting.session)
                        else:
                            assert lease.get(worker, "") == waiting.session
                        assert not waiting.workers or worker in waiting.workers
                        assert waiting.session or key_of[worker] == waiting.key
                case Stop(worker=worker):
                    waiting_ = calls.keys() - ended - {call for made in doing.values() for call in made}
                    wanted = any(calls[call].key == key_of[worker] and not calls[call].session for call in waiting_)
                    assert state[worker] == "idle" or (state[worker] == "starting" and not wanted)
                    assert lease.get(worker, "") not in live_sessions
                    state[worker] = "stopping"
                case Refuse(call=call):
                    end(call)
                case Ended(session=session):
                    live_sessions.remove(session)

    for step in range(200):
        now += chance.randrange(500)
        match chance.randrange(9):
            case 0 | 1 | 2 if step < 120:
                key = chance.choice(keys)
                call = f"c{step}"
                more: dict[str, Any] = {}
                if chance.random() < 0.2:
                    more = {"session": f"s{step}", "opens": True}
                elif live_sessions and chance.random() < 0.3:
                    more = {"session": chance.choice(live_sessions)}
                elif state and chance.random() < 0.1:
                    more = {"workers": (chance.choice(list(state)),)}
                elif chance.random() < 0.3:
                    more = {"function": "many", "batch_size": 3, "batch_wait_ms": 100.0}
                calls[call] = Waiting(call=call, key=key, **more)
                schedule.add(calls[call], kinds[key], now)
            case 3 if running := [one for one, its in state.items() if its == "busy"]:
                worker = chance.choice(running)
                for call in doing.pop(worker):
                    end(call)
                state[worker] = "idle"
                schedule.done(worker, now)
            case 4 | 5 if starting := [one for one, its in state.items() if its == "starting"]:
                worker = chance.choice(starting)
                if chance.random() < 0.7:
                    state[worker] = "idle"
                    schedule.ready(worker, now)
                else:
                    state[worker] = "stopping"
                    schedule.failed(worker, now, "no", told=chance.random() < 0.5)
            case 6 if state:
                worker = chance.choice(list(state))
                if state[worker] == "starting":
                    schedule.failed(worker, now, "died", told=False)
                for call in doing.pop(worker, ()):
                    end(call)
                del state[worker]
                lease.pop(worker, None)
                schedule.gone(worker, now)
            case 7 if live_sessions:
                session = chance.choice(live_sessions)
                live_sessions.remove(session)
                schedule.release(session, now)
                lease = {one: its for one, its in lease.items() if its != session or state[one] != "stopping"}
            case 8 if open_ := [call for call in calls if call not in ended]:
                call = chance.choice(open_)
                if schedule.remove(call):
                    end(call)
                schedule.set_current(("", "ns/app0"), f"ns/app0@{chance.choice('12')}")
        obey()
    for _ in range(3_000):  # from now on every worker does its work
        for worker, its in list(state.items()):
            if its == "starting":
                state[worker] = "idle"
                schedule.ready(worker, now)
            elif its == "busy":
                for call in doing.pop(worker):
                    end(call)
                state[worker] = "idle"
                schedule.done(worker, now)
            elif its == "stopping":
                del state[worker]
                lease.pop(worker, None)
                schedule.gone(worker, now)
        for session in list(live_sessions):
            live_sessions.remove(session)
            schedule.release(session, now)
        obey()
        if ended == set(calls):
            break
        now += 1_000
    assert ended == set(calls)
    assert schedule.queued == 0
    assert all(schedule.state(worker) is not State.BUSY for worker in state)
