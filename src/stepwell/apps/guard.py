"""Ends the workers of a server that was killed: a small process beside it that waits for its end.

python -m stepwell.apps.guard FOLDER SERVER      the folder of all workers, and the number of the server's process;
                                                 standard input ends with it

The processes of workers end with the server by themselves. What they had started does so by this one; and by the next
server, if this one was killed, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from stepwell.apps.process import end_left_over

__all__ = ["Guard"]

_LOOK_AGAIN_S = 0.01


class Guard:
    """The guard of one folder, as the server has it."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """It is not needed any more: all workers have ended in order."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    server = int(sys.argv[2])
    while os.read(0, 1024):
        pass
    while os.getppid() == server:  # a process that is killed closes its files a moment before it is gone
        time.sleep(_LOOK_AGAIN_S)
    end_left_over(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
