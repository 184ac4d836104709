"""Small random functions, and what a worker makes of them.

A program is a tree of leaves (steps, sleeps, waits, invocations), sequences and parallel groups. It is static:
every leaf has its step id from the start, a loop is written out with rising indexes. `look` replays it against
the recorded results, as every SDK does, and says how far it gets:

    Progress(new=[leaves reached for the first time], ...)   it waits for these
    Progress(output=...)                                     it returned
    Progress(error=...)                                      it raised

The output is the list of all results that the function saw, so two replays that saw different things differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from stepwell.model import op
from stepwell.model.ids import StepId, step_id
from stepwell.model.offload import Sealed
from stepwell.model.payload import INLINE_LIMIT_BYTES, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell.model.dispatch import Memo

DAY_MS = 86_400_000
ENOUGH_MS = 400 * DAY_MS // 2
"""A timeout that a wait never reaches if what it waits for has happened."""


class Kind(Enum):
    STEP = "step"
    SLEEP = "sleep"
    WAIT = "wait"
    INVOKE = "invoke"
    FETCH = "fetch"


@dataclass(slots=True, eq=False)
class Leaf:
    """One step of a program."""

    kind: Kind
    name: str
    index: int = 0
    race: bool = False  # directly in a group in race mode
    grouped: bool = False  # in a parallel group
    fails: int = 0  # the first executions that fail
    fatal: bool = False  # fails for good at its first success
    caught: bool = True  # the function goes on if it fails for good
    large: bool = False  # returns more than fits into an entry
    sends: str = ""  # the event that the step sends while it runs
    copies: int = 1  # how many of them
    ms: int = 0  # how long a step runs, a sleep sleeps, a wait waits
    event: str = ""
    expression: str | None = None
    sure: bool = False  # the event has been sent by then: the wait cannot time out
    function: str = ""
    secret: bool = False  # a request that needs credentials
    id: StepId = field(default=StepId(""))

    def wait_op(self) -> op.Op:
        """What a worker reports when it reaches a leaf that is not a step to be run."""
        if self.kind is Kind.SLEEP:
            return op.Sleep(step=self.id, name=self.name, index=self.index, for_ms=self.ms, race=self.race)
        if self.kind is Kind.WAIT:
            return op.WaitForEvent(
                step=self.id,
                name=self.name,
                index=self.index,
                event=self.event,
                expression=self.expression,
                for_ms=self.ms,
                race=self.race,
            )
        if self.kind is Kind.FETCH:
            return op.Offload(
                step=self.id,
                name=self.name,
                index=self.index,
                request=canonical({"function": self.function, "padding": "." * INLINE_LIMIT_BYTES * self.large}),
                sealed=Sealed(f"https://{self.name}") if self.secret else None,
                race=self.race,
            )
        return op.Invoke(
            step=self.id, name=self.name, index=self.index, function=self.function, for_ms=self.ms, race=self.race
        )


@dataclass(slots=True, eq=False)
class Sequence:
    parts: list[Tree]


@dataclass(slots=True, eq=False)
class Parallel:
    """Branches side by side. A race goes on with the first; `lingers`: the losers go on beside the rest."""

    branches: list[Tree]
    race: bool = False
    lingers: bool = False


Tree: TypeAlias = "Leaf | Sequence | Parallel"


@dataclass(slots=True, eq=False)
class Program:
    """A function: its tree, and how the SDK that runs it behaves."""

    tree: Tree
    leaves: dict[StepId, Leaf]
    eager: bool = False  # runs a step at once even inside a group, if it is the only new one
    checkpoints: bool = False  # reports a step before it answers the call, and goes on

    @property
    def parallel(self) -> bool:
        """Whether it has a parallel group."""
        return any(leaf.grouped for leaf in self.leaves.values())

    def __len__(self) -> int:
        return len(self.leaves)


class _Raised(Exception):
    """A step that failed for good and was not caught."""

    def __init__(self, error: bytes) -> None:
        self.error = error


class Progress(msgspec.Struct):
    """How far a function gets with the results that there are."""

    new: list[Leaf]
    output: bytes | None = None
    error: bytes | None = None


def look(program: Program, memos: Mapping[StepId, Memo], order: Mapping[StepId, int]) -> Progress:
    """Replay a program.

    Args:
        program: What to run.
        memos: The results so far.
        order: The place of each of them, for races.
    """
    new: list[Leaf] = []
    seen: list[bytes] = []
    try:
        last = _walk(program.tree, memos, order, new, seen)
    except _Raised as raised:
        return Progress(new, error=raised.error)
    if last < 0:
        return Progress(new)
    return Progress(new, output=b"[%b]" % b",".join(seen))


_CAUGHT = b'"caught"'


def _walk(
    tree: Tree, memos: Mapping[StepId, Memo], order: Mapping[StepId, int], new: list[Leaf], seen: list[bytes]
) -> int:
    """The place of the last result of a tree that is done; -1: it is not done."""
    if type(tree) is Parallel:
        return _walk_parallel(tree, memos, order, new, seen)
    last = 0
    for part in tree.parts if type(tree) is Sequence else (tree,):
        if type(part) is Leaf:
            memo = memos.get(part.id)
            if memo is None:
                new.append(part)
                return -1
            if memo.shape != "error":
                seen.append(memo.value)
            elif part.caught:
                seen.append(_CAUGHT)
            else:
                raise _Raised(memo.value)
            place = order[part.id]
        else:
            place = _walk(part, memos, order, new, seen)
            if place < 0:
                return -1
        if place > last:
            last = place
    return last


def _walk_parallel(
    group: Parallel, memos: Mapping[StepId, Memo], order: Mapping[StepId, int], new: list[Leaf], seen: list[bytes]
) -> int:
    places = []
    outputs: list[list[bytes]] = []
    found: list[Leaf] = []
    failed: tuple[int, _Raised] | None = None
    for branch in group.branches:
        output: list[bytes] = []
        try:
            place = _walk(branch, memos, order, found, output)
        except _Raised as raised:
            place = _last_error(branch, memos, order)
            if failed is None or place < failed[0]:
                failed = (place, raised)
            place = -1
        places.append(place)
        outputs.append(output)
    finished = [place for place in places if place >= 0]
    if group.race:
        first = min(finished, default=-1)
        if failed is not None and (first < 0 or failed[0] < first):
            raise failed[1]
        if first < 0:
            new.extend(found)
            return -1
        if group.lingers:
            new.extend(found)
        seen.extend(outputs[places.index(first)])
        return first
    if failed is not None:
        raise failed[1]
    if len(finished) < len(places):
        new.extend(found)
        return -1
    for output in outputs:
        seen.extend(output)
    return max(finished)


def _last_error(tree: Tree, memos: Mapping[StepId, Memo], order: Mapping[StepId, int]) -> int:
    """The place of the first error that is not caught."""
    if isinstance(tree, Leaf):
        memo = memos.get(tree.id)
        return order[tree.id] if memo is not None and memo.shape == "error" and not tree.caught else 1 << 30
    parts = tree.parts if isinstance(tree, Sequence) else tree.branches
    return min(_last_error(part, memos, order) for part in parts)


# making them up


class Author:
    """Writes programs. All chance comes from the given source.

    Args:
        random: Where chance comes from.
        slug: The function to be written; names of its events contain it.
        children: Functions that it may invoke.
        outside: Events that somebody outside may or may not send.
    """

    def __init__(self, random: Random, slug: str, children: list[str], outside: list[str]) -> None:
        self._random = random
        self._slug = slug
        self._children = children
        self._outside = outside
        self._used: dict[str, int] = {}
        self._leaves: dict[StepId, Leaf] = {}
        self._number = 0

    def write(self, parts: int, *, group: bool = False, wait: bool = False) -> Program:
        """A program of about so many parts. `group`: with at least one parallel group. `wait`: it begins with a wait
        that every run of it comes to, unless somebody cancels the run before."""
        random = self._random
        body: list[Tree] = [self._part(0) for _ in range(parts)]
        if group:
            body.insert(random.randrange(len(body) + 1), self._group(0))
        if wait:
            body.insert(0, self._sent_wait(direct=True))
        eager, checkpoints = random.random() < 0.5, random.random() < 0.5
        return Program(Sequence(body), self._leaves, eager=eager, checkpoints=checkpoints)

    def _part(self, depth: int) -> Tree:
        chance = self._random.random()
        if chance < 0.38:
            return self._step()
        if chance < 0.44:
            return self._fetch()
        if chance < 0.54:
            return self._leaf(Kind.SLEEP, ms=self._random.choice((0, 300, 3_000, 20_000)))
        if chance < 0.60:
            return self._sent_wait()
        if chance < 0.62:
            return self._twin_waits()
        if chance < 0.64:
            return self._early_wait()
        if chance < 0.70 and self._outside:
            event = self._random.choice(self._outside)
            return self._leaf(Kind.WAIT, event=event, ms=self._random.choice((1_000, 8_000, 30_000)))
        if chance < 0.78 and self._children:
            caught = self._random.random() < 0.8
            return self._leaf(Kind.INVOKE, function=self._random.choice(self._children), ms=ENOUGH_MS, caught=caught)
        if chance < 0.88:
            return self._loop(depth)
        if depth < 2:
            return self._group(depth + 1)
        return self._step()

    def _step(self, name: str = "") -> Leaf:
        random = self._random
        chance = random.random()
        fails, fatal, caught = 0, False, True
        if chance < 0.10:
            fails = random.randrange(1, 3)
        elif chance < 0.14:
            fatal, caught = True, random.random() < 0.8
        return self._leaf(
            Kind.STEP,
            name=name,
            fails=fails,
            fatal=fatal,
            caught=caught,
            large=random.random() < 0.02,
            ms=random.choice((1, 5, 40, 300, 2_000)),
        )

    def _fetch(self) -> Leaf:
        leaf = self._step(self._new_name("fetch"))
        leaf.kind, leaf.function, leaf.secret = Kind.FETCH, self._slug, self._random.random() < 0.5
        return leaf

    def _sent_wait(self, *, direct: bool = False) -> Tree:
        """A step that sends an event, and a wait for that event: right behind it, if `direct`, or soon."""
        name = self._new_name("wait")
        event = f"sent/{self._slug}.{name}"
        random = self._random
        expression = random.choice((None, "async.data.k == event.data.k", "event.data.k == async.data.k && true"))
        parts: list[Tree] = [
            self._leaf(Kind.STEP, name=f"send-{name}", sends=event, ms=random.choice((1, 30, 500))),
        ]
        if not direct and random.random() < 0.2:
            parts.append(self._leaf(Kind.SLEEP, ms=0) if random.random() < 0.3 else self._step())
            sure = False
        else:
            sure = True
        parts.append(
            self._leaf(
                Kind.WAIT, name=name, event=event, expression=expression, sure=sure, ms=ENOUGH_MS if sure else 9_000
            )
        )
        return Sequence(parts)

    def _twin_waits(self) -> Tree:
        """A step that sends two events, and right behind it two waits, one for each."""
        name = self._new_name("twin")
        event = f"sent/{self._slug}.{name}"
        send = self._leaf(Kind.STEP, name=f"send-{name}", sends=event, copies=2, ms=1)
        expression = "async.data.k == event.data.k"
        waits: list[Tree] = [
            self._leaf(Kind.WAIT, event=event, expression=expression, sure=True, ms=ENOUGH_MS, grouped=True)
            for _ in range(2)
        ]
        return Sequence([send, Parallel(waits)])

    def _early_wait(self) -> Tree:
        """A wait, and beside it a branch that sends its event a while later."""
        name = self._new_name("early")
        event = f"sent/{self._slug}.{name}"
        expression = self._random.choice((None, "async.data.k == event.data.k"))
        wait = self._leaf(
            Kind.WAIT, name=name, event=event, expression=expression, sure=True, ms=ENOUGH_MS, grouped=True
        )
        nap = self._leaf(Kind.SLEEP, ms=self._random.choice((300, 3_000, 20_000)), grouped=True)
        # In a group the wait is joined with what stands beside it, so the event has to come from before the join.
        send = self._leaf(Kind.STEP, name=f"send-{name}", sends=event, ms=self._random.choice((1, 500)), grouped=True)
        return Parallel([wait, Sequence([send, nap])])

    def _loop(self, depth: int) -> Tree:
        """The same ids again and again."""
        names = [self._new_name("loop") for _ in range(self._random.choice((1, 1, 2)))]
        turns = self._random.choice((2, 3))
        return Sequence([self._step(name) for _ in range(turns) for name in names])

    def _group(self, depth: int) -> Tree:
        random = self._random
        race = random.random() < 0.35
        branches: list[Tree] = []
        same = self._new_name("both") if random.random() < 0.2 else ""
        for _ in range(random.choice((2, 2, 2, 3, 4))):
            parts: list[Tree] = [self._part(depth + 1) for _ in range(random.choice((1, 1, 1, 2, 2)))]
            if same:
                parts.insert(0, self._step(same))
            branches.append(parts[0] if len(parts) == 1 else Sequence(parts))
        group = Parallel(branches, race=race, lingers=race and random.random() < 0.5)
        for branch in branches:
            _mark(branch, race)
        return group

    def _new_name(self, word: str) -> str:
        self._number += 1
        return f"{word}{self._number}"

    def _leaf(self, kind: Kind, name: str = "", **details: object) -> Leaf:
        name = name or self._new_name(kind.value)
        index = self._used.get(name, 0)
        self._used[name] = index + 1
        leaf = Leaf(kind, name, index, id=step_id(name, index), **details)  # type: ignore[arg-type]
        self._leaves[leaf.id] = leaf
        return leaf


def _mark(tree: Tree, race: bool) -> None:
    if isinstance(tree, Leaf):
        tree.grouped = True
        tree.race = tree.race or race
        return
    for part in tree.parts if isinstance(tree, Sequence) else tree.branches:
        _mark(part, race)


def result_of(leaf: Leaf, run: str, execution: int) -> bytes:
    """What an execution of a step returns: other than any other."""
    padding = "." * INLINE_LIMIT_BYTES if leaf.large else ""
    return canonical(f"{leaf.name}:{leaf.index}#{execution}@{run[-6:]}{padding}")
