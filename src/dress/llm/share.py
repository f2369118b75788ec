"""Several processes of one machine share a file: who comes first sets it up, the kernel notices who is gone."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from pathlib import Path
from weakref import WeakSet

LONGEST_SETUP = 60.0
"""Seconds that the first process may take."""
_LOOK_AGAIN = 0.05


_shares: WeakSet[Share] = WeakSet()


def _leave() -> None:
    """A data worker that outlives its killed parent for a moment holds no share."""
    for share in list(_shares):
        share.close()


os.register_at_fork(after_in_child=_leave)


class Share:
    """A lock that is exclusive while the first process sets a file up, and shared afterwards.

    Args:
        path: of the lock; made where it is missing.

    Raises:
        BlockingIOError: another process holds it alone for too long.
        OSError: a process on another machine has a share, which SQLite cannot do.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self.first = self._take(fcntl.LOCK_EX)
            """Nobody else has a share now."""
            until = time.monotonic() + LONGEST_SETUP
            while not self.first and not self._take(fcntl.LOCK_SH):
                if time.monotonic() > until:
                    raise BlockingIOError(f"another process holds {path}")
                time.sleep(_LOOK_AGAIN)
            holder = os.pread(self._file, 200, 0).decode("utf-8", "replace")
            if not self.first and holder and holder != machine():
                raise OSError(f"a process on another machine ({holder}) holds {path}")
        except OSError:
            self.close()
            raise
        _shares.add(self)

    def admit_others(self) -> None:
        """It is set up."""
        if self.first:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, machine().encode(), 0)
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def close(self) -> None:
        """Give the share up."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _take(self, kind: int) -> bool:
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


def machine() -> str:
    """A name of the running kernel: containers on one machine share it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()
