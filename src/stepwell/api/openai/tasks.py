"""The task behind a request: begun, followed by the client that asked, cancelled when it goes away.

A request with an `Idempotency-Key` joins the task that an earlier one with it made, so a client that comes back gets
the answer that it missed; its task is cancelled only if it stays away. One that failed or was cancelled is not joined:
a new task is made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from stepwell.api.infsh.task_files import note_inputs
from stepwell.api.openai.answers import ModelCancelled, ModelFailed
from stepwell.api.stream import Bell
from stepwell.model import journal
from stepwell.model.errors import InvalidInput, NotFound, Overloaded
from stepwell.model.ids import RunId, ulid_time
from stepwell.model.job import RunStatus
from stepwell.model.task import TaskStatus, usage_of
from stepwell.node.reads.tasks import task_of

if TYPE_CHECKING:
    from starlette.types import Receive

    from stepwell.api.routes import Ask
    from stepwell.api.site import Site
    from stepwell.model.task import TaskRequest
    from stepwell.node.reads.tasks import Task

COMES_BACK_S = 30.0
"""How long a client that named its request may stay away."""
_LONGEST_KEY = 255
_MOST_TRIES = 100


class Tasks:
    """The tasks of this surface."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._followed: Counter[RunId] = Counter()
        self._away: set[asyncio.Task[None]] = set()

    async def begin(self, ask: Ask, request: TaskRequest) -> RunId:
        """Begin a task, or find the one that was made for the same key. It is durable once this returns."""
        site = self._site
        if site.watch.followers >= site.limits.max_streams:
            raise Overloaded(
                f"{site.limits.max_streams} requests are followed and no more may be (max_streams)", retry_after_s=5
            )
        key = ask.request.headers.get("idempotency-key", "")
        if len(key) > _LONGEST_KEY:
            raise InvalidInput(
                f"Idempotency-Key has {len(key)} letters and may have {_LONGEST_KEY}", field="Idempotency-Key"
            )
        name = f"openai:{key}" if key else ""
        for _ in range(_MOST_TRIES):
            now = site.node.world.now()
            made = await site.node.tasks.begin(site.env, request, key=name)
            if not key or ulid_time(made) >= now or await self._may_be_joined(made):
                await note_inputs(ask, made, request.input)
                return made
            name = f"openai:{key} after {made}"
        raise Overloaded(f"{_MOST_TRIES} tasks of this Idempotency-Key failed; use another one", retry_after_s=60)

    async def _may_be_joined(self, task: RunId) -> bool:
        try:
            row = await self._site.node.tasks.row(self._site.env, task)
        except NotFound:
            return False
        return row.status not in (RunStatus.FAILED, RunStatus.CANCELLED)

    @contextlib.asynccontextmanager
    async def followed(
        self, task: RunId, receive: Receive, ring: Callable[[], None], named: bool
    ) -> AsyncIterator[Callable[[], bool]]:
        """While a client follows a task; gives what tells whether it has gone, and `ring` is called when it goes.

        Args:
            named: The request has a key, so the client may come back.
        """
        gone = False

        async def leave() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            ring()

        self._followed[task] += 1
        leaving = asyncio.create_task(leave(), name="client")
        try:
            yield lambda: gone
        finally:
            leaving.cancel()
            self._followed[task] -= 1
            if not self._followed[task]:
                del self._followed[task]
            if gone and not self._site.watch.closed:
                away = asyncio.create_task(self._cancel(task, COMES_BACK_S if named else 0), name="cancel")
                self._away.add(away)
                away.add_done_callback(self._away.discard)

    async def _cancel(self, task: RunId, later_s: float) -> None:
        await asyncio.sleep(later_s)
        site = self._site
        if task in self._followed or site.watch.closed:
            return
        with contextlib.suppress(NotFound):
            await site.node.tasks.cancel(site.env, task)

    async def ended(self, ask: Ask, task: RunId) -> Task:
        """The task once it has completed.

        Raises:
            ClientDisconnect: The client has gone.
            Overloaded: The server stops before that.
            StepwellError: It failed, or was cancelled.
        """
        site, bell = self._site, Bell()
        async with self.followed(task, ask.request.receive, bell.ring, is_named(ask)) as gone:
            with site.watch.follow(task, bell.ring):
                found = await self.load(task)
                while not found.status.final:
                    if gone():
                        raise ClientDisconnect
                    if site.watch.closed:
                        raise Overloaded("this server stops; ask again", retry_after_s=1)
                    await bell.wait()
                    found = await self.load(task)
        await self.check(found)
        return found

    async def load(self, task: RunId) -> Task:
        node = self._site.node
        found = await task_of(node.store, self._site.env, task, node.world.now(), self._site.running)
        if found is None:
            raise NotFound(f"task {task} was deleted")
        return found

    async def check(self, found: Task) -> None:
        """Raises the error that a task which has ended has ended with."""
        if found.status is TaskStatus.CANCELLED:
            raise ModelCancelled(f"task {found.id} was cancelled")
        if found.status is not TaskStatus.FAILED:
            return
        stored = await self._site.node.store.load_run(found.id)
        failed = [one for one in stored.entries if isinstance(one, journal.RunFailed)] if stored is not None else []
        if failed and failed[-1].code == "app_validation":
            raise InvalidInput(found.error)
        raise ModelFailed(found.error)


def is_named(ask: Ask) -> bool:
    """Whether a request has a key, so that it may be repeated."""
    return bool(ask.request.headers.get("idempotency-key"))


def headers_of(task: RunId) -> dict[str, str]:
    """What every answer says of the task that it comes from."""
    return {"x-request-id": task}


def about(found: Task, gpus: int, gpu_second_usd: float | None) -> dict[str, Any]:
    """What an answer says beside what OpenAI's has: which task it was, how long the app took, what that cost.

    Args:
        gpus: That the app holds.
    """
    began = [phase.at for phase in found.phases if phase.status is TaskStatus.RUNNING]
    told: dict[str, Any] = {"task": found.id}
    if began:
        told["seconds"] = (found.updated_at - began[-1]) / 1000
    cost = usage_of(found.meta).cost_usd
    if cost is None and began and gpus and gpu_second_usd is not None:
        cost = told["seconds"] * gpus * gpu_second_usd
    if cost is not None:
        told["cost_usd"] = round(cost, 9)
    return {"stepwell": told}
