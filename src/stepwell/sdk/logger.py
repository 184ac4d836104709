"""A logger for functions that is silent while recorded steps are replayed, so that each line appears once.

Inside a step it is never silent: a step's body runs only for real. A line also goes to the trace of the run: from
INFO on always, below it if the program shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell.sdk.execution import Execution

    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class FunctionLogger(_Adapter):
    """What `ctx.logger` is. Records carry `run_id` and `function` as extra attributes."""

    def __init__(self, logger: logging.Logger, execution: Execution) -> None:
        super().__init__(logger, {"run_id": execution.start.run, "function": execution.function.slug})
        self._execution = execution

    def isEnabledFor(self, level: int) -> bool:
        return not self._execution.is_replaying and super().isEnabledFor(level)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        shown = self.isEnabledFor(level)
        if shown:
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            super().log(level, msg, *args, **kwargs)
        elif self._execution.is_replaying or level < logging.INFO:
            return
        try:
            text = str(msg) % _arguments(args) if args else str(msg)
        except (TypeError, ValueError):
            text = f"{msg} {args}"  # logging itself has complained already
        self._execution.observer.log(logging.getLevelName(level).lower(), text, self._execution.running_step())

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        extra: Mapping[str, object] = kwargs.get("extra") or {}
        kwargs["extra"] = {**(self.extra or {}), **extra}
        return msg, kwargs


def _arguments(args: tuple[object, ...]) -> Any:
    return args[0] if len(args) == 1 and isinstance(args[0], Mapping) and args[0] else args
