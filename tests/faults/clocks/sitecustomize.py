"""Loaded by Python at its start when this folder is on its path: the wall clock of this process is wrong."""

import os
import time

_ahead_s = float(os.environ.get("STEPWELL_TEST_CLOCK_S", "0"))
_time, _time_ns = time.time, time.time_ns


def _wrong() -> float:
    return _time() + _ahead_s


def _wrong_ns() -> int:
    return _time_ns() + round(_ahead_s * 1e9)


time.time, time.time_ns = _wrong, _wrong_ns
