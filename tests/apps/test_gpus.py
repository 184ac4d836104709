"""The GPUs that the driver tells of. A stand-in for its library, since few machines have one."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stepwell.apps.gpus import gpus
from stepwell.model.placement import Gpu


class NVMLError(Exception):
    pass


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    made: Any = ModuleType("pynvml")
    made.NVMLError = NVMLError
    made.closed = 0

    def close() -> None:
        made.closed += 1

    made.nvmlInit = lambda: None
    made.nvmlShutdown = close
    made.nvmlDeviceGetCount = lambda: 2
    made.nvmlDeviceGetHandleByIndex = lambda number: number
    made.nvmlDeviceGetName = lambda handle: b"Tesla T4" if handle else "H200"
    made.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(total=16 * 1024**3)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_every_gpu_is_told_with_its_memory(library: Any) -> None:
    assert gpus() == (Gpu(0, "nvidia", 16 * 1024**3, "H200"), Gpu(1, "nvidia", 16 * 1024**3, "Tesla T4"))
    assert library.closed == 1


def test_there_are_none_without_a_driver_or_its_library(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise NVMLError("Driver Not Loaded")

    library.nvmlInit = refuse
    assert gpus() == ()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus() == ()


def test_a_driver_that_does_not_answer_is_told_in_the_log(library: Any, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: Any) -> Any:
        raise NVMLError("GPU is lost")

    library.nvmlDeviceGetMemoryInfo = refuse
    assert gpus() == ()
    assert "cannot be listed, so apps get none: GPU is lost" in caplog.text
    assert library.closed == 1
