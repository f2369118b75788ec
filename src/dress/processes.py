"""The processes of a run: none outlives the one that started it, and no signal handler waits for a peer."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from dress import config

if TYPE_CHECKING:
    import lightning as L

POLL = 0.5
"""Seconds between looks at whether the process above is alive."""
GONE = 1
"""Exit code of a process whose starter is gone."""


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


def build_trainer(training: config.Training, **more: Any) -> L.Trainer:
    """A Trainer on the devices of the run that shows and saves nothing by itself.

    Lightning's own handler of SIGTERM waits for the other ranks inside of the handler, and can wait for ever; it is
    never installed: what this process had installed before goes on to count.

    Args:
        training: accelerator, devices, strategy.
        more: further arguments of `L.Trainer`.
    """
    import lightning as L  # here: a command line is checked without it

    plain = {"logger": False, "num_sanity_val_steps": 0}
    trainer = L.Trainer(
        accelerator=training.accelerator,
        devices=training.devices,
        strategy=training.strategy,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{**plain, **more},
    )
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer
