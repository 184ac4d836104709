"""The outside world of the sample services: one file that remembers what really ran.

Every line is one JSON object, appended with a single write, so that several processes may share the file and a
process that dies leaves whole lines. The server never sees the ledger: tests compare the two.
"""

import json
import os
import time

FUNCTION = "(function)"  # the step name under which each entry into a function's body is noted


def note(run_id: str, step: str, attempt: int, **facts: object) -> None:
    """Write down that `step` of a run starts now. `facts` is whatever the test wants to look at later."""
    line = {"run": run_id, "step": step, "attempt": attempt, "time": time.time(), "facts": facts}
    descriptor = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)
