"""The processes of a run: none outlives the one that started it, and each can be asked to stop."""

from __future__ import annotations

import os
import sys
import threading
import time

POLL = 0.5
"""Seconds between looks at whether the process above is alive."""
GONE = 1
"""Exit code of a process whose starter is gone."""


class Interrupted(Exception):
    """The run was asked to stop and has saved where it stands."""


def end_with_parent() -> None:
    """End this process, with a message, soon after the one that started it: a rank alone would wait for ever.

    A thread looks, since the main thread may wait inside a collective, where no signal handler runs. Only for ranks
    that Lightning or another launcher started; a run's first process may outlive its shell.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        return
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="end-with-parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    rank = os.environ.get("LOCAL_RANK")
    print(f"process {rank} of the run ends: the one that started it ({parent}) is gone", file=sys.stderr, flush=True)
    os._exit(GONE)
