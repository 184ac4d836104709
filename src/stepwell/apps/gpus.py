"""The GPUs of this machine, as NVIDIA's driver tells them."""

from __future__ import annotations

import logging

from stepwell.model.placement import Gpu

__all__ = ["gpus"]

log = logging.getLogger("stepwell.apps")


def gpus() -> tuple[Gpu, ...]:
    """None without a driver, or without the library that asks it (`pip install "stepwell[apps]"`)."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        found = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            name = pynvml.nvmlDeviceGetName(handle)
            memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            found.append(Gpu(number, "nvidia", memory, name.decode() if isinstance(name, bytes) else str(name)))
        return tuple(found)
    except pynvml.NVMLError as err:
        log.warning("the GPUs of this machine cannot be listed, so apps get none: %s", err)
        return ()
    finally:
        pynvml.nvmlShutdown()
