"""What can be set of how apps are run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stepwell.apps.environment import EnvironmentSettings
from stepwell.apps.isolation import MODES
from stepwell.model.errors import ConfigurationError

__all__ = ["AppSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSettings:
    """How apps are run on this machine."""

    isolation: str = "auto"
    """`auto`: confine their processes as far as the machine allows; `require`: do not start if it does not; `off`."""
    read_paths: tuple[Path, ...] = ()
    """Folders that every app may read besides its own: models that lie elsewhere."""
    workers: int = 32
    """Processes of all apps together, at most."""
    workers_per_app: int = 4
    """Of one version with one setup, where the app does not say."""
    idle_s: float = 300.0
    """A worker with nothing to do for so long goes, where the app does not say otherwise."""
    memory_bytes: int | None = None
    """What the workers may take together; by default nine tenths of the machine."""
    limit_memory: bool = False
    """End a worker that takes more than its app asks for, where control groups can be made."""
    wait_for_resources: bool = False
    """Keep tasks that need more than this machine has, a GPU for instance, instead of failing them."""
    cancel_grace_s: float = 10.0
    """How long a function may take to end by itself when its task is cancelled; 3 s at most if the app has no
    `on_cancel`."""
    stop_grace_s: float = 5.0
    """How long a worker may take to unload."""
    setup_limit_s: float = 1_800.0
    """How long importing an app and its setup may take."""
    log_lines: int = 10_000
    """Lines kept of one task."""
    environments: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    """How their environments are made."""

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot work."""
        if self.isolation not in MODES:
            raise ConfigurationError(f"app isolation is {', '.join(MODES)}, not {self.isolation!r} (--app-isolation)")
        for name in ("workers", "workers_per_app", "log_lines"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"apps.{name} is {getattr(self, name)} and must be 1 at least")
        for name in ("idle_s", "cancel_grace_s", "stop_grace_s", "setup_limit_s"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"apps.{name} cannot be negative")
