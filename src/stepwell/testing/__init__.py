"""What tests run against: a clock, an in-memory node, scripted workers and the simulator.

Start at `node.py` for a test of your own, at `simulation.py` to see how the whole is tried:

    world         virtual time, coroutines without asyncio, processes that pause and die
    node          a real node in memory, and a worker that writes down what it is asked
    workers       scripted workers of both kinds, and what a network does to them
    programs      the random functions that they run
    faulty        a store that is slow, refuses, and is a good place to die
    ledger        what really ran
    simulation    one seed: trouble, calm, verdict
    verdict       what must be true, after every transition and at the end
    simulate      the command: many seeds, or one with its story
"""

from stepwell.testing.runs import (
    FinishedRun,
    NotAnswered,
    NotRepeatable,
    RecordedStep,
    RecordedSteps,
    run,
    run_async,
)

__all__ = ["FinishedRun", "NotAnswered", "NotRepeatable", "RecordedStep", "RecordedSteps", "run", "run_async"]
