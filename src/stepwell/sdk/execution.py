"""One execution of a function's body: from the first line, or again from the recorded results, to an outcome.

    step called ──▶ recorded? ── yes ──▶ parked until its turn ──▶ result
                        │ no
                        ▼
                   parked; `_found` decides (live: run it now; replay: leave it to the answer)

Whenever nothing of the function can go on by itself (`parking.py`), one recorded result is handed out: the
first, in the order of the journal, that some step waits for. Feeding them one at a time makes races end on
a replay as they ended before. When there is none left, `_settled` decides: a live execution (`live.py`)
waits for more and is suspended after a while; a replay (`replay.py`) answers with what it found.

To suspend, the root task is cancelled first and the parked futures fail after that. The other way round,
`TaskGroup`, `wait` and others take a cancelled child for a finished one, and the function goes on.

A sync function has a thread of its own. A step puts an inbox where an async one has a future; the thread
blocks on it, runs the body of its step when told so, and a suspension is an exception out of the inbox.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from stepwell.model.dispatch import Memo
from stepwell.model.errors import StepwellError
from stepwell.model.ids import RunId, StepId, derived_fraction, step_id, ulid_time
from stepwell.model.op import StepDone, StepErrored
from stepwell.sdk import notice
from stepwell.sdk.attempt import Clock, StepUse, call, failed, step_threads, succeeded, within
from stepwell.sdk.branch import Answer, Branch, current_branch
from stepwell.sdk.errors import (
    AmbiguousStep,
    EventNotValid,
    FunctionError,
    NestedStep,
    RecordedResultChanged,
    Suspended,
)
from stepwell.sdk.outcome import Outcome, Raised, Returned, Stopped, error_object, own_traceback, raised, step_error
from stepwell.sdk.parking import AnyTask, Parked, Roster, Site, frames_of, roster_of_context, try_internals, watching
from stepwell.sdk.request import Request
from stepwell.sdk.types import encode_result, return_type

if TYPE_CHECKING:
    from stepwell.sdk.function import Function

RUNNING_AFTER_S = 1.0
"""A step that runs longer is shown as running."""
CLEANUP_PATIENCE_S = 10.0
"""How long `finally` blocks may take when a function is suspended, before it is cancelled again; then once more."""

_log = logging.getLogger("stepwell")

current: contextvars.ContextVar[Execution | None] = contextvars.ContextVar("stepwell_execution", default=None)
inside_step: contextvars.ContextVar[StepUse | None] = contextvars.ContextVar("stepwell_step", default=None)


class Observer:
    """What somebody outside may want to see of a running function. Every method does nothing by default."""

    def running(self, step: StepId, name: str) -> None:
        """A step has been running for a second."""

    def log(self, level: str, text: str, step: StepId | None) -> None:
        """The function's logger wrote a line, or we have a notice for its author. May come from any thread."""


@dataclass(slots=True)
class Start:
    """What an execution is told about its run."""

    run: RunId
    attempt: int
    max_attempts: int
    events: tuple[bytes, ...]
    memos: Sequence[Memo] = ()
    attempts: dict[StepId, int] = field(default_factory=dict)
    started_at: int = 0


class Execution:
    """The part that live executions and replays share. Made and run on one event loop.

    Args:
        function: What to run.
        start: The run so far.
        send: Sends events for `step.send_event`; None makes that step fail and say so.
        observer: Told of long steps and of log lines.
    """

    def __init__(
        self,
        function: Function[Any, Any],
        start: Start,
        *,
        send: Callable[[list[bytes]], Any] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.function = function
        self.start = start
        self.send = send
        self.observer = observer or Observer()
        self.caught_up = True
        self._memos: dict[StepId, Memo] = {}  # recorded and not handed out yet, in the order of the journal
        self._inputs: dict[StepId, bytes] = {}  # arguments that replace those of the code
        self._values: dict[StepId, Any] = {}  # results read back already
        for memo in start.memos:
            if memo.shape == "input":
                self._inputs[memo.step] = memo.value
            else:
                self._memos[memo.step] = memo
                self.caught_up = False
        self._used: set[StepId] = set()
        self._next_index: dict[str, int] = {}
        self._parked: dict[StepId, StepUse] = {}
        self._parked_by_name: dict[str, dict[StepId, StepUse]] = {}
        self._running: dict[StepId, StepUse] = {}
        self._ending: Outcome | None = None
        self._over = False
        self._stood_at: list[Site] = []
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[Outcome] = self._loop.create_future()
        self._roster = Roster(self._loop, self._on_quiet, lambda: bool(self._parked))
        self._root: AnyTask | None = None
        self._insisting: asyncio.TimerHandle | None = None
        self._thread: int | None = None

    @property
    def is_replaying(self) -> bool:
        """Whether the code that runs now has run before: log lines are muted."""
        return not self.caught_up and bool(self._memos) and inside_step.get() is None

    def times_used(self, name: str) -> int:
        """How many steps have had this id so far."""
        return self._next_index.get(name, 0)

    def running_step(self) -> StepId | None:
        """The step whose body this is called from."""
        use = inside_step.get()
        return use.id if use is not None else None

    def attempt(self) -> int:
        """Which attempt the code that calls this belongs to: of a step, or of the function's body."""
        use = inside_step.get()
        return use.attempt if use is not None else self.start.attempt

    @cached_property
    def started_at(self) -> datetime:
        """When the run began, the same in every execution of it."""
        at = self.start.started_at
        if not at:
            try:
                at = ulid_time(self.start.run)
            except ValueError:  # a server with other ids; derived, because it must not change either
                at = int(1_500_000_000_000 + derived_fraction(self.start.run) * 1e11)
        return datetime.fromtimestamp(at // 1000, UTC) + timedelta(milliseconds=at % 1000)

    async def run(self) -> Outcome:
        """Run the function to its outcome. Call it once."""
        await try_internals()
        if self._ending is not None:  # stopped before it began
            return self._ending
        with watching(self._loop):
            context = contextvars.copy_context()
            context.run(current.set, self)
            context.run(inside_step.set, None)
            context.run(roster_of_context.set, self._roster)
            name = f"{self.function.slug} {self.start.run}"
            self._root = asyncio.Task(self._main(), loop=self._loop, name=name, context=context)
            if self.function.is_async:
                self._roster.add(self._root, ("", 0))
            self._root.add_done_callback(self._root_ended, context=contextvars.Context())
            try:
                outcome = await self._done
            except asyncio.CancelledError:
                self.stop("cancelled")
                raise
            if self._insisting is not None:
                self._insisting.cancel()  # it would keep the whole execution in memory until it fires
            await self._report_leftovers()
        self._take_apart()
        return outcome

    def _take_apart(self) -> None:
        """Cut what refers to itself, so that it is freed at once.

        Each step that was parked when a function left is a small knot of a task, a future and the error that ended
        both. Left to the garbage collector they cost a service with wide fan-outs a quarter of its time.
        """
        for use in self._parked.values():
            use.future = use.task = use.runner = None
        self._parked.clear()
        self._parked_by_name.clear()
        self._root = None

    def stop(self, reason: str) -> None:
        """Stop at once; steps that run are cancelled and nothing more is reported. `run()` gives `Stopped`."""
        for use in list(self._running.values()):
            self._cancel_body(use)
        self._leave(Stopped(reason))
        if self._root is None:
            return
        if not self.function.is_async and not self._done.done():
            # The thread may be anywhere; it ends at its next step.
            self._done.set_result(Stopped(reason))

    def give_up(self, error: StepwellError) -> None:
        """End the function with `error`, whatever a library between it and the function makes of exceptions. May be
        called from any thread; whoever calls it in the function raises `Suspended` after it."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if not here:
            self._loop.call_soon_threadsafe(self.give_up, error, context=contextvars.Context())
        elif not self._over:
            outcome = self._body_done(raised(error))
            self._log_failure("the function", error, self.start.attempt, retry=False)
            for use in list(self._running.values()):
                self._cancel_body(use)
            self._leave(outcome)

    def warn(self, kind: str, text: str) -> None:
        """Tell the function's author something, once for each `kind`."""
        self._tell(logging.WARNING, kind, ("", 0), text)

    # Called by steps

    async def perform(self, request: Request) -> Any:
        """One step of an async function."""
        if not self.function.is_async or asyncio.get_running_loop() is not self._loop:
            raise FunctionError(
                f"the async step {request.name!r} was awaited outside its function's event loop; "
                f'in a sync function write ctx.step.run("{request.name}", ...)'
            )
        use = self._begin(request, None)
        assert use.future is not None
        return await use.future

    def perform_blocking(self, request: Request) -> Any:
        """One step of a sync function, from its thread."""
        branch = current_branch.get()
        value, error = self._settle_together([request])[0] if branch is None else branch.next(request)
        if error is not None:
            raise error
        return value

    def perform_branches(self, branches: Sequence[Callable[[], Any]]) -> list[Any]:
        """Callables of a sync function, with the steps they reach run at once, round after round.

        Each is called again after every round, with the results it had before, until it ends: a thread has only one
        place to stand. Raises the first error in their order, when all have ended.
        """
        if current_branch.get() is not None:
            raise FunctionError("step.parallel inside step.parallel; make one list of all the branches")
        all_branches = [Branch(work) for work in branches]
        while waiting := [branch for branch in all_branches if not branch.advance()]:
            requests = [branch.request for branch in waiting if branch.request is not None]
            for branch, answer in zip(waiting, self._settle_together(requests), strict=True):
                branch.answers.append(answer)
        for branch in all_branches:
            if branch.error is not None:
                raise branch.error
        return [branch.value for branch in all_branches]

    def _settle_together(self, requests: Sequence[Request]) -> list[Answer]:
        self._refuse_loop_thread(requests)
        inboxes: list[SimpleQueue[Any]] = [SimpleQueue() for _ in requests]
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(self._begin_together, requests, inboxes, context)
        answers: list[Answer] = []
        for inbox in inboxes:
            while not isinstance(answer := inbox.get(), tuple):
                answer()  # the body of the step, in this thread
            answers.append(answer)
        for _, error in answers:
            if isinstance(error, Suspended | FunctionError) and not isinstance(error, EventNotValid):
                raise error
        return answers

    def _refuse_loop_thread(self, requests: Sequence[Request]) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            name = requests[0].name if requests else "?"
            raise FunctionError(
                f"step {name!r} of a sync function was called from the event loop, which it would block"
            )

    def _begin_together(
        self, requests: Sequence[Request], inboxes: list[SimpleQueue[Any]], context: contextvars.Context
    ) -> None:
        for request, inbox in zip(requests, inboxes, strict=True):
            try:
                context.copy().run(self._begin, request, inbox, in_caller=len(requests) == 1)
            except BaseException as err:
                # Whatever it is belongs to the thread that waits for this step.
                inbox.put((None, err))

    def _begin(self, request: Request, inbox: SimpleQueue[Any] | None, *, in_caller: bool = False) -> StepUse:
        if self._over:
            raise Suspended
        outer = inside_step.get()
        if outer is not None:
            raise NestedStep(request.name, outer.name)
        index = self._next_index.get(request.name, 0)
        while (key := step_id(request.name, index)) in self._used:  # `a:1` may be somebody's own id
            index += 1
        self._next_index[request.name] = index + 1
        self._used.add(key)
        use = StepUse(key, request.name, index, request, contextvars.copy_context(), inbox=inbox)
        if inbox is None:
            self._refuse_ambiguity(use)
            use.future = Parked(self._loop, partial(self._abandoned, use))
            use.task = asyncio.current_task()
        self._parked[key] = use
        if key not in self._memos:
            use.runs_in_caller = in_caller
            self._found(use)
        self._roster.moved()
        return use

    def _refuse_ambiguity(self, use: StepUse) -> None:
        alike = self._parked_by_name.setdefault(use.name, {})
        for other in alike.values():  # they are equal to one another, so one tells for all
            if other.request.signature != use.request.signature:
                raise AmbiguousStep(use.name)
            break
        alike[use.id] = use

    def _unpark(self, use: StepUse) -> bool:
        """The step is not waited for any more; whether it was."""
        alike = self._parked_by_name.get(use.name)
        if alike is not None:
            alike.pop(use.id, None)
        self._roster.woke(use.future)
        return self._parked.pop(use.id, None) is not None

    def _abandoned(self, use: StepUse) -> None:
        """The user's code cancelled the await of a step."""
        if self._over or not self._unpark(use):
            return
        if notice.cancelled_by_timeout(sys._getframe(2)):
            site = notice.sites_of(frames_of(use.task))[:1] if use.task else []
            self._tell(
                logging.WARNING,
                "timeout",
                site[0] if site else ("", 0),
                f"a timeout around step {use.name!r} ran out; it counts only time in this process and starts again "
                "at every replay, so use the step's own `timeout=`",
            )
        self._dropped(use)
        if use.running:
            self._cancel_body(use)
        self._roster.moved()

    # Quiet points

    def _on_quiet(self, outside: list[AnyTask]) -> None:
        for task in outside:
            site = (*notice.sites_of(frames_of(task)), self._roster.tasks[task])[0]
            where = f"{notice.shown(site)}, task {notice.task_name(task)!r} {notice.waiting_at(task)}"
            text = f"waits for something outside its steps ({where}); it is repeated at every replay"
            self._tell(logging.DEBUG, "outside", site, text)
        for key in self._memos:
            use = self._parked.get(key)
            if use is not None:
                self._feed(use, self._memos.pop(key))
                return
        displaced = None if outside else self._displaced()
        if displaced is not None:
            self.give_up(displaced)
            return
        self.caught_up = True
        self._settled(outside)

    def _displaced(self) -> FunctionError | None:
        """Whether a request that waits differs from what it was when its result was recorded."""
        unused = [memo for key, memo in self._memos.items() if memo.shape == "data" and key not in self._used]
        asked = [use.request.displaced for use in self._parked.values()] if unused else []
        for displaced in filter(None, asked):
            for memo in unused:
                error = displaced(memo.value)
                if error is not None:
                    return error
        return None

    def _feed(self, use: StepUse, memo: Memo) -> None:
        self._unpark(use)
        if memo.shape == "error":
            use.fail(step_error(use.name, memo.value))
        elif use.id in self._values:
            use.succeed(self._values.pop(use.id))
        else:
            try:
                use.succeed(use.request.read(memo.value))
            except EventNotValid as err:  # somebody sent it so; no code was changed
                use.fail(err)
            except Exception as err:
                # The user's own validators may raise anything.
                changed = RecordedResultChanged(
                    f"the recorded result of step {use.name!r} does not read as what the code expects now ({err}); "
                    "keep code that can read old results, or give the step a new id"
                )
                changed.__cause__ = err
                use.fail(changed)
        self._roster.moved()

    def _record(self, memo: Memo) -> None:
        """A result came while the function is in memory; it is handed out at the next quiet point."""
        if memo.step in self._memos or (memo.step in self._used and memo.step not in self._parked):
            return
        self._memos[memo.step] = memo
        self._roster.look_soon()

    # For the two kinds of executions to fill in

    def _found(self, use: StepUse) -> None:
        """A step without a recorded result was parked."""
        raise NotImplementedError

    def _settled(self, outside: list[AnyTask]) -> None:
        """Nothing can go on and nothing recorded is left to hand out."""
        raise NotImplementedError

    def _finished(self, use: StepUse, op: StepDone | StepErrored) -> None:
        """An attempt of a step ended here."""
        raise NotImplementedError

    def _dropped(self, use: StepUse) -> None:
        """The function does not want the step any more."""

    def _body_done(self, outcome: Outcome) -> Outcome:
        """The function itself ended; a chance to report what is not reported yet."""
        return outcome

    # Bodies of steps

    def _run_body(self, use: StepUse, attempt: int) -> None:
        body = use.body
        use.running = True
        use.attempt = attempt
        self._running[use.id] = use
        use.shown = self._loop.call_later(RUNNING_AFTER_S, self.observer.running, use.id, use.name)
        context = use.context.copy()
        context.run(inside_step.set, use)
        context.run(roster_of_context.set, None)
        if body.is_coroutine:
            work = self._attempt(use, attempt)
            use.runner = asyncio.Task(work, loop=self._loop, name=f"step {use.name}", context=context)
        elif use.inbox is not None and use.runs_in_caller:
            use.inbox.put(partial(context.run, self._attempt_blocking, use, attempt))
        else:
            step_threads().submit(context.run, self._attempt_blocking, use, attempt)

    async def _attempt(self, use: StepUse, attempt: int, awaitable: Any = None) -> None:
        clock = Clock()
        try:
            work = awaitable if awaitable is not None else call(use.body, self._inputs.get(use.id))
            limit = use.body.timeout
            value = await (work if limit is None else within(limit, work, use.name))
        except asyncio.CancelledError as err:
            task = asyncio.current_task()
            if use.id not in self._running or (task is not None and task.cancelling()):
                raise  # by us: the function dropped the step, or the call was stopped
            self._attempt_ended(use, failed(use, attempt, err, clock, self._inputs.get(use.id)), None)
        except (Exception, SystemExit) as err:
            self._attempt_ended(use, failed(use, attempt, err, clock, self._inputs.get(use.id)), None)
        else:
            self._attempt_ended(use, *succeeded(use, attempt, value, clock, self._inputs.get(use.id)))

    def _attempt_blocking(self, use: StepUse, attempt: int) -> None:
        body, clock = use.body, Clock()
        op: StepDone | StepErrored
        value = None
        try:
            value = call(body, self._inputs.get(use.id))
        except BaseException as err:
            # Also what is no Exception: it must not end a thread of the pool without a word.
            op = failed(use, attempt, err, clock, self._inputs.get(use.id))
        else:
            if inspect.isawaitable(value):
                self._post(self._go_on_async, use, attempt, value, contextvars.copy_context())
                return
            op, value = succeeded(use, attempt, value, clock, self._inputs.get(use.id))
        self._post(self._attempt_ended, use, op, value)

    def _go_on_async(self, use: StepUse, attempt: int, value: Any, context: contextvars.Context) -> None:
        """A callable that did not look async returned an awaitable, as wrapped client methods do."""
        if use.id in self._running:
            work = self._attempt(use, attempt, value)
            use.runner = asyncio.Task(work, loop=self._loop, name=f"step {use.name}", context=context)
        elif inspect.iscoroutine(value):
            value.close()

    def _attempt_ended(self, use: StepUse, op: StepDone | StepErrored, value: Any) -> None:
        if self._running.pop(use.id, None) is None:
            return  # cancelled meanwhile
        use.running = False
        use.runner = None
        if use.shown is not None:
            use.shown.cancel()
        error, use.error = use.error, None
        if isinstance(op, StepDone):
            self._values[use.id] = value
        elif error is not None:
            self._log_failure(f"step {use.name!r}", error, use.attempt, retry=op.retry, step=use.name)
        self._finished(use, op)

    def _cancel_body(self, use: StepUse) -> None:
        """A thread cannot be cancelled: it ends by itself, and what it returns is dropped."""
        if use.runner is not None or self._over:
            self._running.pop(use.id, None)
        if use.runner is not None:
            use.runner.cancel()
        if use.shown is not None:
            use.shown.cancel()

    # The body of the function

    async def _main(self) -> bytes:
        context = self.function.context_for(self)
        if self.function.is_async:
            value = await self.function.handler(context)
        else:
            value = await self._in_thread(partial(self.function.handler, context))
        where = f"the result of function {self.function.slug!r}"
        return encode_result(value, return_type(self.function.handler), where)[0]

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        ended: asyncio.Future[Any] = self._loop.create_future()
        context = contextvars.copy_context()

        def main() -> None:
            try:
                result = context.run(work)
            except BaseException as err:
                # A suspension among others; all of them belong to the execution.
                error = RuntimeError("the function raised StopIteration") if isinstance(err, StopIteration) else err
                self._post(_settle, ended, None, error)
            else:
                self._post(_settle, ended, result, None)

        thread = threading.Thread(target=main, name=f"stepwell {self.function.slug}", daemon=True)
        thread.start()
        self._thread = thread.ident
        return await ended

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments, context=contextvars.Context())
        except RuntimeError:
            _log.debug("a thread of %s ended after its event loop", self.function.slug)

    def _root_ended(self, root: AnyTask) -> None:
        if self._done.done():
            _ = root.cancelled() or root.exception()  # seen
            return
        error: BaseException | None = asyncio.CancelledError() if root.cancelled() else root.exception()
        if self._ending is not None:
            if not isinstance(error, asyncio.CancelledError) and not isinstance(self._ending, Stopped):
                self._report_swallowed(error)
            self._done.set_result(self._ending)
            return
        if error is None:
            outcome: Outcome = Returned(root.result())
        elif isinstance(error, asyncio.CancelledError):
            error = RuntimeError("the function cancelled its own task")
            outcome = Raised(error_object(error))
        else:
            outcome = raised(error)
        if error is not None and isinstance(outcome, Raised):
            self._log_failure("the function", error, self.start.attempt, retry=outcome.retry)
        self._over = True
        self._roster.close()
        outcome = self._body_done(outcome)
        for use in list(self._running.values()):
            text = f"step {use.name!r} was still running when the function ended; await it"
            self._tell(logging.WARNING, "unawaited", (use.name, 0), text)
            self._cancel_body(use)
        self._report_unused()
        for use in list(self._parked.values()):
            use.fail(Suspended())
        self._done.set_result(outcome)

    def _leave(self, outcome: Outcome) -> None:
        """Drop the function from memory, with `outcome` when it is gone."""
        if self._over:
            return
        self._over = True
        self._ending = outcome
        self._roster.close()
        if self._root is None:
            return
        if not self.function.is_async:
            self._stood_at = notice.sites_of(notice.frames_of_thread(self._thread))
        else:
            self._stood_at = notice.sites_of(frames_of(self._root))
            self._root.cancel()  # first the root, then what it waits for: see the module's docstring
            self._insisting = self._loop.call_later(CLEANUP_PATIENCE_S, self._insist, 2)
        for use in list(self._parked.values()):
            use.fail(Suspended())

    def _insist(self, times: int) -> None:
        if self._done.done() or self._ending is None or self._root is None:
            return
        if times:
            self._report_swallowed(None)
            self._root.cancel()
            self._insisting = self._loop.call_later(CLEANUP_PATIENCE_S, self._insist, times - 1)
        else:
            self._done.set_result(self._ending)

    # Notices

    def _log_failure(
        self, what: str, error: BaseException, attempt: int, *, retry: bool, step: str | None = None
    ) -> None:
        """Tell the program's log of a failed attempt: ERROR if it was the last one, WARNING if there is another.

        The server has it, too, but whoever runs this program looks here first.
        """
        most = self.start.max_attempts
        again = retry and not 0 < most <= attempt + 1
        _log.log(
            logging.WARNING if again else logging.ERROR,
            "%s: %s failed in run %s, attempt %d%s; %s",
            self.function.slug,
            what,
            self.start.run,
            attempt + 1,
            f" of {most}" if most else "",
            "it is tried again" if again else "it is not tried again",
            exc_info=(type(error), error, own_traceback(error)),
            extra={"function": self.function.slug, "run_id": self.start.run, "step": step, "attempt": attempt},
        )

    def _report_swallowed(self, error: BaseException | None) -> None:
        site = notice.catching_site(self._stood_at)
        where = site or (self._stood_at[0] if self._stood_at else ("", 0))
        what = f"the suspension was caught at {notice.shown(where)}"
        if site is None and error is not None:
            what = f"cleanup raised {type(error).__name__} during a suspension, near {notice.shown(where)}"
        text = f"{what}; what follows runs again at every replay. Catch Exception, never BaseException"
        self._tell(logging.ERROR, "swallowed", where, text)

    def _report_unused(self) -> None:
        """Recorded steps that the function did not come to. Races are no reason: their losers are called, too."""
        unused = [memo for key, memo in self._memos.items() if key not in self._used]
        for memo in unused[:1]:
            more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
            text = (
                f"step {memo.name or memo.step!r}{more} has a recorded result that the function did not ask for; its "
                "code has changed under a run, or it depends on something outside its steps"
            )
            self._tell(logging.WARNING, "unused", (memo.step, 0), text)

    async def _report_leftovers(self) -> None:
        if not self._roster.tasks:
            return
        for _ in range(3):  # what was cancelled with the root needs a few turns to end
            await asyncio.sleep(0)
        for task, site in list(self._roster.tasks.items()):
            if task is not self._root:
                text = (
                    f"left running: task {notice.task_name(task)!r} {notice.waiting_at(task)}, created at "
                    f"{notice.shown(site)}; await it, move it outside the function, or start it in "
                    "`with stepwell.outside()`"
                )
                self._tell(logging.WARNING, "leftover", site, text)

    def _tell(self, level: int, kind: str, site: Site, text: str) -> None:
        told = notice.tell(level, self.function.slug, kind, site, text)
        if told and level > logging.DEBUG:
            self.observer.log(logging.getLevelName(level).lower(), told, None)


def _settle(future: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


def in_function() -> Execution | None:
    """The execution whose body calls this, or None outside functions and inside steps."""
    return None if inside_step.get() is not None else current.get()
