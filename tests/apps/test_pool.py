"""Calls through real workers: warm and cold, cancelled at every moment, with workers that die."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from stepwell.apps.isolation import Isolation
from stepwell.apps.settings import AppSettings
from stepwell.engine.session import Rules
from stepwell.model.app import App, AppFunction, Needed, Resources, Scaling, Variant
from stepwell.model.errors import BuildFailed, ConfigurationError, Overloaded
from stepwell.model.ids import RunId
from stepwell.model.message import CallLost, Returned
from stepwell.model.placement import Capacity
from stepwell.model.task import TaskRequest, TaskStatus
from tests.apps.pools import Apps, apps
from tests.apps.workers import alive, until

COUNTER = """
    import os

    class App:
        def setup(self, config):
            print("setting up", config)
            self.config, self.calls = config, 0
        def run(self, input):
            self.calls += 1
            print("call", self.calls)
            return {"pid": os.getpid(), "calls": self.calls, "config": self.config, "input": input}
"""

WAITING = """
    import asyncio, os, time
    from pathlib import Path

    class App:
        async def setup(self, config):
            for moment in range(int((config or {}).get("seconds", 0) * 100)):
                await asyncio.sleep(0.01)
        async def run(self, input):
            print("begun", os.getpid())
            if input.get("stubborn"):
                time.sleep(60)
            while not self.context.cancel_requested and not input.get("quick"):
                await asyncio.sleep(0.01)
            return {"pid": os.getpid()}
        async def on_cancel(self):
            print("told to cancel")
"""

COLD = [
    TaskStatus.QUEUED,
    TaskStatus.DISPATCHED,
    TaskStatus.PREPARING,
    TaskStatus.SERVING,
    TaskStatus.SETTING_UP,
    TaskStatus.RUNNING,
]
WARM = [TaskStatus.QUEUED, TaskStatus.DISPATCHED, TaskStatus.RUNNING]


async def test_the_second_call_with_an_equal_setup_is_warm(tmp_path: Path) -> None:
    async with apps(tmp_path) as given:
        app = given.app(COUNTER)
        first = given.call(app, {"a": 1}, setup={"x": 1, "y": {"z": 2, "w": 3}})
        one = await given.result(first)
        second = given.call(app, {"a": 2}, setup={"y": {"w": 3, "z": 2}, "x": 1})
        two = await given.result(second)
        other = await given.result(given.call(app, setup={"x": 2}))
        assert (one["calls"], two["calls"], other["calls"]) == (1, 2, 1)
        assert one["pid"] == two["pid"] != other["pid"]
        assert given.statuses(first) == COLD
        assert given.statuses(second) == WARM
        message = await given.end(first)
        assert isinstance(message, Returned)
        assert [phase.status for phase in message.info.phases] == COLD
        assert message.info.worker == given.taken[first]
        assert [phase.status for phase in given.phases[first]] == COLD
        assert [(level, text) for run, level, text in given.logged if run == first] == [
            ("build", "making the environment"),
            ("setup", "setting up {'x': 1, 'y': {'w': 3, 'z': 2}}"),
            ("task", "call 1"),
        ]
        assert [text for run, _, text in given.logged if run == second] == ["call 2"]
        assert given.pool.started == 2


async def test_partial_outputs_and_lines_are_published_in_order(tmp_path: Path) -> None:
    code = """
    class App:
        def run(self, input):
            for number in range(3):
                print("making", number)
                yield {"number": number}
    """
    async with apps(tmp_path) as given:
        run = given.call(given.app(code))
        assert await given.result(run) == {"number": 2}
        told = [one for one in given.pieces[run] if one.kind in {"output", "log"}]
        texts = [one.text for one in told if "environment" not in one.text]
        outputs = [one for one in texts if one.startswith("{")]
        lines = [one for one in texts if one not in outputs]
        assert outputs == ['{"number":0}', '{"number":1}', '{"number":2}']
        assert lines == ["making 0", "making 1", "making 2"]
        assert all(texts.index(line) < texts.index(output) for line, output in zip(lines, outputs, strict=True))
        assert next(one.more["log_type"] for one in told if one.text == "making 0") == 4


async def test_lines_beyond_the_limit_are_not_kept_and_one_says_so(tmp_path: Path) -> None:
    code = """
    class App:
        def run(self, input):
            for number in range(1000):
                print(number)
            return {}
    """
    async with apps(tmp_path, settings=AppSettings(log_lines=100)) as given:
        run = given.call(given.app(code))
        await given.result(run)
        lines = [text for _, _, text in given.logged]
        assert len(lines) == 101
        assert lines[-1] == "more than 100 lines: the rest is not kept"


async def test_an_error_of_the_app_fails_the_task_and_keeps_the_worker(tmp_path: Path) -> None:
    code = """
    import os

    class App:
        def run(self, input):
            if input["bad"]:
                raise ValueError("no such colour")
            return {"pid": os.getpid()}
    """
    async with apps(tmp_path) as given:
        app = given.app(code)
        first = await given.result(given.call(app, {"bad": False}))
        error = await given.error(given.call(app, {"bad": True}))
        assert (error["name"], error["message"]) == ("ValueError", "no such colour")
        assert "inference.py" in error["stack"]
        assert await given.result(given.call(app, {"bad": False})) == first


async def test_a_result_that_cannot_be_json_fails_with_its_reason(tmp_path: Path) -> None:
    code = """
    class App:
        def run(self, input):
            return {"value": float("nan") if input == "nan" else 1}
    """
    async with apps(tmp_path) as given:
        app = given.app(code)
        error = await given.error(given.call(app, "nan"))
        assert error["name"] == "OutputNotJson"
        assert "JSON cannot hold" in error["message"]
        assert await given.result(given.call(app, "one")) == {"value": 1}


# setup


async def test_a_failed_setup_fails_the_tasks_with_its_own_error_and_is_tried_again_later(tmp_path: Path) -> None:
    code = """
    class App:
        def setup(self, config):
            raise RuntimeError("the weights are missing")
        def run(self, input):
            return {}
    """
    async with apps(tmp_path, rules=Rules(backoff_ms=300)) as given:
        app = given.app(code)
        runs = [given.call(app) for _ in range(3)]
        for run in runs:
            error = await given.error(run)
            assert (error["name"], error["message"]) == ("RuntimeError", "the weights are missing")
        assert given.pool.started == 1
        await given.error(given.call(app))
        assert given.pool.started == 2
        await given.no_workers()


async def test_an_app_that_cannot_be_imported_or_built_says_why(tmp_path: Path) -> None:
    async with apps(tmp_path) as given:
        error = await given.error(given.call(given.app("import no_such_module", "first")))
        assert error["name"] == "ModuleNotFoundError"
        assert "no_such_module" in error["message"]
        given.ready.error = BuildFailed("torch==99 does not exist")
        assert (await given.error(given.call(given.app(COUNTER, "second"))))["message"] == "torch==99 does not exist"
        given.ready.error = None
        assert "no app ns/none@1" in (await given.error(given.call("ns/none@1")))["message"]
        app = given.app(COUNTER, "third")
        package = given.pool.packages.find(given.versions[app].checksum)
        assert package is not None
        given.pool.packages.remove(given.versions[app].checksum)
        assert "are not on this machine" in (await given.error(given.call(app)))["message"]


async def test_a_store_that_is_away_loses_a_call_and_does_not_fail_it(tmp_path: Path) -> None:
    async with apps(tmp_path, keep_output=unavailable) as given:
        app = given.app(FILES)
        given.away = True
        first = given.call(app)
        assert isinstance(await given.end(first), CallLost)
        given.away = False
        second = given.call(app, {"path": "/tmp/image.png"})
        assert isinstance(await given.end(second), CallLost)


async def unavailable(path: str, filename: str, content_type: str, task: RunId, env: str, /) -> str:
    raise Overloaded("the store is away")


async def test_a_setup_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with apps(tmp_path, settings=AppSettings(setup_limit_s=0.5)) as given:
        error = await given.error(given.call(given.app(WAITING), {"quick": True}, setup={"seconds": 60}))
        assert "was not set up within 0.5 s" in error["message"]
        await given.no_workers()


# workers that die


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGSEGV"])
async def test_a_worker_that_dies_in_a_task_loses_the_call_and_another_one_makes_the_next(
    tmp_path: Path, ending: str
) -> None:
    async with apps(tmp_path) as given:
        app = given.app(WAITING)
        run = given.call(app, {})
        await until(lambda: any(text.startswith("begun") for _, _, text in given.logged))
        (worker,) = given.workers("busy")
        os.kill(worker.pid, getattr(signal, ending))
        message = await given.end(run)
        assert isinstance(message, CallLost)
        assert not message.free
        assert message.code == "worker_lost"
        assert isinstance(message.error, bytes)
        assert ending.encode() in message.error
        again = given.call(app, {"quick": True}, run=run)
        assert await until(lambda: len(given.messages[run]) == 2)
        assert isinstance(given.messages[again][-1], Returned)
        statuses = given.statuses(run)
        assert statuses == sorted(set(statuses)), "they only ever become more"


async def test_a_worker_that_dies_in_setup_is_replaced_without_anybody_noticing(tmp_path: Path) -> None:
    async with apps(tmp_path, rules=Rules(backoff_ms=10)) as given:
        run = given.call(given.app(WAITING), {"quick": True}, setup={"seconds": 0.5})
        await given.until(run, TaskStatus.SETTING_UP)
        (worker,) = given.workers()
        os.kill(worker.pid, signal.SIGKILL)
        result = await given.result(run)
        assert result["pid"] != worker.pid
        assert given.pool.started == 2
        assert given.statuses(run) == COLD


async def test_a_setup_that_kills_every_worker_fails_the_task(tmp_path: Path) -> None:
    code = """
    import os, signal

    class App:
        def setup(self, config):
            os.kill(os.getpid(), signal.SIGKILL)
        def run(self, input):
            return {}
    """
    async with apps(tmp_path, rules=Rules(backoff_ms=10, setup_tries=3)) as given:
        error = await given.error(given.call(given.app(code)))
        assert error["name"] == "WorkerLost"
        assert "was killed (SIGKILL)" in error["message"]
        assert given.pool.started == 3
        await given.no_workers()


async def test_killed_workers_under_load_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    code = """
    import os, time

    class App:
        def run(self, input):
            time.sleep(0.01)
            return {"number": input["number"]}
    """
    async with apps(tmp_path, rules=Rules(backoff_ms=10, turn_ms=100)) as given:
        app = given.app(code, scaling=Scaling(most=3))
        runs = {given.call(app, {"number": number}): number for number in range(120)}
        seen: set[int] = set()
        for _ in range(4):
            (worker, *_) = await until(lambda: given.workers("busy"))
            seen |= {one.pid for one in given.workers() if one.pid}
            os.kill(worker.pid, signal.SIGKILL)
            await asyncio.sleep(0.1)
        for run, number in runs.items():
            while True:
                await until(lambda: given.messages.get(run))  # noqa: B023 - awaited at once
                message = given.messages[run][-1]
                if isinstance(message, Returned):
                    break
                assert isinstance(message, CallLost)
                del given.messages[run]
                given.call(app, {"number": number}, run=run)
        assert all(len(given.messages[run]) == 1 for run in runs)
    assert not any(map(alive, seen))


async def test_workers_that_come_and_go_leave_no_descriptors_and_no_records(tmp_path: Path) -> None:
    async with apps(tmp_path, rules=Rules(idle_ms=0)) as given:
        app = given.app(COUNTER)

        async def once(number: int) -> int:
            await given.result(given.call(app, setup={"number": number}))
            await given.no_workers()
            await until(lambda: not list((tmp_path / "apps" / "workers").iterdir()))
            return len(os.listdir("/proc/self/fd"))

        first = await once(0)
        assert [await once(number) for number in range(1, 5)] == [first] * 4
        assert given.pool.started == 5


async def test_the_least_number_of_workers_is_there_before_the_first_call_and_again_after_a_death(
    tmp_path: Path,
) -> None:
    async with apps(tmp_path) as given:
        app = given.app(COUNTER, scaling=Scaling(least=2))
        given.performer.know(App(namespace="ns", name="app", current="1"), given.versions[app])
        workers = await until(lambda: len(given.workers("idle")) == 2 and given.workers())
        assert await given.result(given.call(app))
        assert given.pool.started == 2
        os.kill(workers[0].pid, signal.SIGKILL)
        await until(lambda: given.pool.started == 3 and len(given.workers("idle")) == 2)


async def test_idle_workers_go_when_the_machine_runs_short_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10**12
    monkeypatch.setattr("stepwell.apps.pool._LOOK_S", 0.05)
    monkeypatch.setattr("stepwell.apps.pool._memory", lambda: (10**12, free))
    async with apps(tmp_path) as given:
        app = given.app(WAITING)
        busy = given.call(app, {}, setup={"busy": True})
        await given.until(busy, TaskStatus.RUNNING)
        await given.result(given.call(app, {"quick": True}))
        await asyncio.sleep(0.2)
        assert len(given.workers()) == 2
        assert all(one.memory_bytes > 1_000_000 for one in given.workers())
        free = 10**10
        await until(lambda: len(given.workers()) == 1)
        assert [one.state for one in given.workers()] == ["busy"]


async def test_a_machine_that_cannot_isolate_apps_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with apps(tmp_path, isolation=Isolation()) as given:
        app = given.app(COUNTER)
        await given.result(given.call(app))
        await given.result(given.call(app, setup={"x": 1}))
        assert caplog.text.count("does not allow to isolate apps fully (done: none)") == 1


# cancelling


@pytest.mark.parametrize("moment", ["queued", "preparing", "setting up", "running", "stubborn", "finished"])
async def test_a_task_is_cancelled_at_any_moment_and_its_worker_is_free_or_replaced(
    tmp_path: Path, moment: str
) -> None:
    settings = AppSettings(cancel_grace_s=1.0)
    async with apps(tmp_path, settings=settings, rules=Rules(most=1)) as given:
        app = given.app(WAITING, scaling=Scaling(most=1))
        setup = {"seconds": 1.0} if moment == "setting up" else None
        if moment == "preparing":
            given.ready.gate.clear()
        run = given.call(app, {"stubborn": moment == "stubborn", "quick": moment == "finished"}, setup=setup)
        first = run
        match moment:
            case "queued":
                run = given.call(app, {}, setup=setup)
                await given.until(first, TaskStatus.RUNNING)
            case "preparing":
                await given.until(run, TaskStatus.PREPARING)
            case "setting up":
                await given.until(run, TaskStatus.SETTING_UP)
            case "finished":
                await given.result(run)
            case _:
                await until(lambda: any(text.startswith("begun") for _, _, text in given.logged))
        began = time.monotonic()
        given.cancel(run)
        message = await given.end(run)
        took = time.monotonic() - began
        match moment:
            case "running":
                assert isinstance(message, Returned)
                assert took < 1
                assert any(text == "told to cancel" for _, _, text in given.logged)
            case "stubborn":
                assert isinstance(message, CallLost)
                assert message.code == "cancelled"
                assert 1 <= took < 3
            case "finished":
                assert isinstance(message, Returned)
            case _:
                assert isinstance(message, CallLost)
                assert message.code == "cancelled"
                assert took < 1
        given.cancel(run)
        given.ready.gate.set()
        if moment == "queued":
            given.cancel(first)
        began = time.monotonic()
        await given.result(given.call(app, {"quick": True}, setup=setup))
        assert time.monotonic() - began < 5
        assert len(given.messages[run]) == 1
        statuses = given.statuses(run)
        assert statuses == sorted(set(statuses))


@pytest.mark.parametrize("moment", ["preparing", "setting up"])
async def test_a_setup_that_nobody_wants_any_more_gives_its_room_to_another_app(tmp_path: Path, moment: str) -> None:
    async with apps(tmp_path, capacity=Capacity(workers=1)) as given:
        slow, other = given.app(WAITING), given.app(COUNTER, name="other")
        if moment == "preparing":
            given.ready.gate.clear()
        run = given.call(slow, {}, setup={"seconds": 60})
        await given.until(run, TaskStatus.PREPARING if moment == "preparing" else TaskStatus.SETTING_UP)
        waiting = given.call(other, {})
        given.cancel(run)
        given.ready.gate.set()
        began = time.monotonic()
        await given.result(waiting)
        assert time.monotonic() - began < 5
        await given.result(given.call(slow, {"quick": True}))


async def test_an_app_without_on_cancel_gets_less_time_to_end(tmp_path: Path) -> None:
    code = WAITING.replace("async def on_cancel", "async def other")
    async with apps(tmp_path, settings=AppSettings(cancel_grace_s=60.0)) as given:
        run = given.call(given.app(code), {"stubborn": True})
        await until(lambda: any(text.startswith("begun") for _, _, text in given.logged))
        given.cancel(run)
        began = time.monotonic()
        message = await given.end(run)
        assert isinstance(message, CallLost)
        assert 2.5 < time.monotonic() - began < 5


async def test_a_call_that_nobody_wants_any_more_is_not_told_and_its_worker_is_freed(tmp_path: Path) -> None:
    async with apps(tmp_path) as given:
        app = given.app(WAITING)
        run = given.call(app, {})
        await until(lambda: any(text.startswith("begun") for _, _, text in given.logged))
        given.cancel(run, "stale")
        await until(lambda: given.workers("idle"))
        given.cancel(run, "finished")
        assert run not in given.messages
        stubborn = given.call(app, {"stubborn": True})
        await given.until(stubborn, TaskStatus.RUNNING)
        given.cancel(stubborn)
        given.cancel(stubborn, "finished")
        await given.no_workers()
        assert stubborn not in given.messages


# stopping and starting again


async def test_a_server_that_stops_leaves_what_it_was_doing_to_the_next_one(tmp_path: Path) -> None:
    async with apps(tmp_path) as given:
        app = given.app(WAITING, scaling=Scaling(most=1))
        run, waiting = given.call(app, {}), given.call(app, {})
        await given.until(run, TaskStatus.RUNNING)
        given.performer.drain()
        assert given.performer.in_flight == 1
        given.cancel(run)
        await given.end(run)
        assert given.performer.in_flight == 0
        late = given.call(app, {})
        await given.performer.close()
        assert waiting not in given.messages
        assert late not in given.messages


async def test_workers_unload_when_the_server_stops(tmp_path: Path) -> None:
    code = """
    import os

    class App:
        def run(self, input):
            return {"cache": os.environ["XDG_CACHE_HOME"]}
        async def unload(self):
            with open(os.environ["XDG_CACHE_HOME"] + "/unloaded", "w") as file:
                file.write("yes")
    """
    async with apps(tmp_path) as given:
        cache = (await given.result(given.call(given.app(code))))["cache"]
        await given.performer.close()
        assert (Path(cache) / "unloaded").read_text() == "yes"


# what an app needs


async def test_an_app_gets_the_secrets_it_names_and_no_log_or_error_has_them(tmp_path: Path) -> None:
    code = """
    import os

    KEY = os.environ["API_KEY"]

    class App:
        def run(self, input):
            print("the key is", KEY)
            if input:
                raise ValueError("refused: " + KEY)
            return {"key": KEY, "others": [name for name in os.environ if "OTHER" in name]}
    """
    secrets = {"API_KEY": "canary-7c3f1", "OTHER_KEY": "canary-other"}
    async with apps(tmp_path, secrets=secrets) as given:
        app = given.app(code, secrets=(Needed(key="API_KEY"), Needed(key="MAYBE", optional=True)))
        assert await given.result(given.call(app)) == {"key": "canary-7c3f1", "others": []}
        error = await given.error(given.call(app, 1))
        assert error["message"] == "refused: [API_KEY]"
        assert "canary" not in str(error) + str(given.logged) + str(given.pieces)
        needy = given.app(code, "needy", secrets=(Needed(key="API_KEY"), Needed(key="MISSING")))
        error = await given.error(given.call(needy))
        assert (
            error["message"]
            == "ns/needy@1 needs MISSING, which this server was not given: start it with --app-secret MISSING"
        )


async def test_an_app_that_needs_a_gpu_where_there_is_none_fails_and_one_that_has_it_sees_its_number(
    tmp_path: Path,
) -> None:
    code = """
    import os

    class App:
        def setup(self, metadata):
            self.metadata = metadata
        def run(self, input):
            return {"ids": self.metadata.gpu_ids, "visible": os.environ["CUDA_VISIBLE_DEVICES"],
                    "variant": self.metadata.app_variant, "small": os.environ.get("SMALL")}
    """
    async with apps(tmp_path) as given:
        large = Variant(resources=Resources(gpus=1))
        app = given.app(code, variants={"large": large, "small": Variant(env={"SMALL": "yes"})})
        error = await given.error(given.call(app, variant="large"))
        assert error["name"] == "ResourcesMissing"
        assert "needs 1 GPU" in error["message"]
        assert await given.result(given.call(app, variant="small")) == {
            "ids": [], "visible": "", "variant": "small", "small": "yes"
        }  # fmt: skip
    from stepwell.model.placement import Gpu

    async with apps(tmp_path / "second", capacity=Capacity(gpus=(Gpu(3, "nvidia", 10**10),))) as given:
        app = given.app(code, variants={"large": large})
        result = await given.result(given.call(app, variant="large"))
        assert (result["ids"], result["visible"], result["variant"]) == (["3"], "3", "large")


async def test_workers_of_an_old_version_go_when_a_new_one_is_called(tmp_path: Path) -> None:
    async with apps(tmp_path, rules=Rules(old_idle_ms=100)) as given:
        old = given.app(COUNTER)
        await given.result(given.call(old))
        await asyncio.sleep(0.2)
        assert len(given.workers("idle")) == 1
        new = given.app(COUNTER, version="2")
        await given.result(given.call(new))
        await until(lambda: [one.app for one in given.workers()] == [new])


async def test_calls_of_a_function_that_takes_several_are_made_together(tmp_path: Path) -> None:
    code = """
    class App:
        def __init__(self):
            self.sizes = []
        def run(self, inputs):
            self.sizes.append(len(inputs))
            return [ValueError("odd") if one["n"] == 3 else {"n": one["n"], "sizes": self.sizes} for one in inputs]
        run.__stepwell_batch__ = (4, 0.05)
    """
    async with apps(tmp_path) as given:
        functions = {"run": AppFunction(name="run", batch_size=4, batch_wait_ms=50)}
        app = given.app(code, functions=functions, scaling=Scaling(most=1))
        runs = [given.call(app, {"n": number}) for number in range(6)]
        results = [await given.result(run) for run in runs if run != runs[3]]
        assert [one["n"] for one in results] == [0, 1, 2, 4, 5]
        assert results[-1]["sizes"] == [4, 2]
        assert (await given.error(runs[3]))["message"] == "odd"


# files


class Kept:
    """Keeps files by copying what they hold."""

    def __init__(self) -> None:
        self.files: list[tuple[str, str, bytes]] = []

    async def __call__(self, path: str, filename: str, content_type: str, task: RunId, env: str, /) -> str:
        self.files.append((filename, content_type, Path(path).read_bytes()))
        return f"http://here/f/{len(self.files)}/{filename}"


FILES = """
    import os
    from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, File

    class Input(BaseAppInput):
        path: str
        again: bool = False

    class Output(BaseAppOutput):
        image: File | None = None
        many: list[File] = []

    class App(BaseApp):
        async def run(self, input: Input) -> Output:
            if not input.path.startswith("/etc"):
                with open(input.path, "w") as file:
                    file.write("made by the app")
            return Output(image=File(path=input.path), many=[File(path=input.path)])
"""


@pytest.mark.parametrize("path", ["/tmp/image.png", "image.png", "~/image.png"])
async def test_files_that_an_app_made_become_addresses(tmp_path: Path, path: str) -> None:
    kept = Kept()
    async with apps(tmp_path, keep_output=kept) as given:
        app = given.app(
            FILES.replace("open(input.path", "open(os.path.expanduser(input.path)").replace(
                "path=input.path", "path=os.path.expanduser(input.path)"
            )
        )
        run = given.call(app, {"path": path})
        result = await given.result(run)
        assert result == {"image": "http://here/f/1/image.png", "many": ["http://here/f/1/image.png"]}
        assert kept.files == [("image.png", "image/png", b"made by the app")]
        assert given.statuses(run)[-1] is TaskStatus.UPLOADING


GIVING = """
    import os
    from inferencesh import BaseApp, BaseAppInput, BaseAppOutput, File

    class Input(BaseAppInput):
        path: str

    class Output(BaseAppOutput):
        image: File

    class App(BaseApp):
        async def run(self, input: Input) -> Output:
            path = input.path
            if path.startswith("link to "):
                target, path = path.removeprefix("link to "), "/tmp/link"
                if os.path.lexists(path):
                    os.unlink(path)
                os.symlink(target, path)
            elif path == "/tmp/own":
                with open(path, "w") as file:
                    file.write("own")
            file = File(path="/proc/self/status")
            file.path, file.filename, file.content_type = path, os.path.basename(path), "text/plain"
            return Output(image=file)
"""


async def test_a_task_that_is_cancelled_while_its_files_are_kept_ends_once_and_its_worker_stays(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def keep(path: str, filename: str, content_type: str, task: RunId, env: str, /) -> str:
        await gate.wait()
        return f"http://here/{filename}"

    async with apps(tmp_path, keep_output=keep, settings=AppSettings(cancel_grace_s=0.1)) as given:
        app = given.app(FILES)
        run = given.call(app, {"path": "/tmp/image.png"})
        await given.until(run, TaskStatus.UPLOADING)
        given.cancel(run)
        await asyncio.sleep(0.3)
        assert run not in given.messages
        gate.set()
        assert (await given.result(run))["image"] == "http://here/image.png"
        gate.clear()
        run = given.call(app, {"path": "/tmp/image.png"})
        await given.until(run, TaskStatus.UPLOADING)
        (worker,) = given.workers()
        os.kill(worker.pid, signal.SIGKILL)
        assert isinstance(await given.end(run), CallLost)
        gate.set()
        await asyncio.sleep(0.1)
        assert len(given.messages[run]) == 1
        assert given.pool.started == 1


async def test_an_app_gives_away_no_file_that_is_not_its_own(tmp_path: Path) -> None:
    kept = Kept()
    secret = tmp_path / "stepwell.db"
    secret.write_text("canary")
    async with apps(tmp_path, keep_output=kept) as given:
        app = given.app(GIVING)
        for path in ("/etc/passwd", str(secret), "link to /etc/passwd", f"link to {secret}", "/dev/zero", "nothing"):
            error = await given.error(given.call(app, {"path": path}))
            assert error["name"] == "OutputNotKept", path
        assert await given.result(given.call(app, {"path": "/tmp/own"})) == {"image": "http://here/f/1/own"}
        assert kept.files == [("own", "text/plain", b"own")]


# sessions


class Records:
    """What a node keeps of sessions."""

    def __init__(self) -> None:
        self.workers: dict[str, str] = {}
        self.lost: list[tuple[str, str]] = []
        self.requests: list[TaskRequest] = []
        self.states: dict[str, bytes] = {}

    def got_worker(self, env: str, session: str, worker: str) -> None:
        self.workers[session] = worker

    def worker_lost(self, env: str, session: str, why: str) -> None:
        self.lost.append((session, why))

    async def history(self, env: str, session: str) -> list[TaskRequest]:
        return self.requests

    async def keep_state(self, env: str, session: str, state: bytes) -> None:
        self.states[session] = state

    async def state(self, env: str, session: str) -> bytes | None:
        return self.states.get(session)


async def in_session(given: Apps, app: str, session: str, opens: bool = False, **more: Any) -> Any:
    return await given.result(given.call(app, {"n": 1}, session=session, opens=opens, **more))


async def test_a_session_keeps_its_worker_and_loses_it_with_an_explicit_error(tmp_path: Path) -> None:
    records = Records()
    async with apps(tmp_path, sessions=records) as given:
        app = given.app(COUNTER)
        first = await in_session(given, app, "s1", opens=True)
        other = await in_session(given, app, "s2", opens=True)
        results = await asyncio.gather(*(in_session(given, app, "s1") for _ in range(3)))
        assert [one["calls"] for one in results] == [2, 3, 4]
        assert {one["pid"] for one in results} == {first["pid"]} != {other["pid"]}
        worker = next(one for one in given.workers() if one.session == "s1")
        assert records.workers["s1"] == worker.id
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: records.lost)
        assert records.lost == [("s1", "its worker was killed (SIGKILL): memory ran out, or somebody killed it")]
        error = await given.error(given.call(app, {}, session="s1"))
        assert error["name"] == "SessionLost"
        assert (await in_session(given, app, "s2"))["calls"] == 2
        given.performer.release_session("dev", "s2")
        await given.no_workers()
        assert len(records.lost) == 1


async def test_a_session_whose_app_can_be_called_again_survives_its_worker(tmp_path: Path) -> None:
    records = Records()
    async with apps(tmp_path, sessions=records) as given:
        app = given.app(COUNTER, session="rebuild")
        first = await in_session(given, app, "s1", opens=True)
        await in_session(given, app, "s1")
        records.requests = [TaskRequest(app=app, function="run", input={"n": n}) for n in range(2)]
        os.kill(first["pid"], signal.SIGKILL)
        await until(lambda: records.lost)
        third, fourth = await asyncio.gather(in_session(given, app, "s1"), in_session(given, app, "s1"))
        assert (third["calls"], fourth["calls"]) == (3, 4)
        assert third["pid"] == fourth["pid"] != first["pid"]
        assert len([one for one in given.workers() if one.session == "s1"]) == 1


async def test_a_session_whose_app_tells_its_state_survives_its_worker(tmp_path: Path) -> None:
    code = """
    import os

    class App:
        def __init__(self):
            self.calls = 0
        def run(self, input):
            self.calls += 1
            return {"calls": self.calls, "pid": os.getpid()}
        def snapshot(self):
            return {"calls": self.calls}
        def restore(self, state):
            self.calls = state["calls"]
    """
    records = Records()
    async with apps(tmp_path, sessions=records) as given:
        app = given.app(code, session="snapshot")
        first = await in_session(given, app, "s1", opens=True)
        await in_session(given, app, "s1")
        os.kill(first["pid"], signal.SIGKILL)
        await until(lambda: records.lost)
        third = await in_session(given, app, "s1")
        assert third["calls"] == 3
        assert third["pid"] != first["pid"]


async def test_a_session_whose_first_call_loses_its_worker_is_opened_again(tmp_path: Path) -> None:
    records = Records()
    async with apps(tmp_path, sessions=records) as given:
        app = given.app(WAITING)
        run = given.call(app, {}, session="s1", opens=True)
        await given.until(run, TaskStatus.RUNNING)
        (worker,) = given.workers()
        os.kill(worker.pid, signal.SIGKILL)
        assert isinstance(await given.end(run), CallLost)
        assert records.lost == []
        await given.result(given.call(app, {"quick": True}, session="s1", opens=True))
        assert [one.session for one in given.workers("idle")] == ["s1"]


# settings


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"isolation": "perhaps"}, "not 'perhaps'"),
        ({"workers": 0}, "apps.workers is 0"),
        ({"idle_s": -1}, "apps.idle_s cannot be negative"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AppSettings(**setting).check()
