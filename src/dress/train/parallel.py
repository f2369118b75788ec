"""Work that the ranks of a run share out: the same number of steps on each, on the devices of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import lightning as L
import torch
from torch.utils.data import DataLoader

from dress import config
from dress.base.processes import Interrupted
from dress.model.lvlm import LVLM
from dress.model.sharding import units, whole
from dress.train.strategies import build_strategy

Work = Callable[[int], None]
"""Does the share of this number."""
Finish = Callable[[], None]


def build_trainer(devices: config.Devices, **more: Any) -> L.Trainer:
    """A Trainer on the devices of the run that shows and saves nothing by itself.

    Lightning's own handler of SIGTERM waits for the other ranks inside of the handler, and can wait for ever; it is
    never installed: what this process had installed before goes on to count.

    Args:
        devices: of the run.
        more: further arguments of `L.Trainer`.
    """
    plain = {"logger": False, "num_sanity_val_steps": 0}
    trainer = L.Trainer(
        accelerator=devices.accelerator,
        devices=devices.devices,
        num_nodes=devices.num_nodes,
        strategy=build_strategy(devices),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{**plain, **more},
    )
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]  # ours stand already
    return trainer


class SharedWork(L.LightningModule):
    """A predict step does one share; rank r of n takes the shares r, r + n, … A rank without one takes part.

    Args:
        model: Lightning moves it to its device, and back unless it is spread over ranks.
        work: does a share.
        shares: how many there are.
        finish: called on every rank when its shares are done, still in the loop; it may hold collectives.
        during: holds what lasts as long as the shares: a model that is spread over ranks is whole meanwhile.
    """

    def __init__(self, model: LVLM, work: Work, shares: int, finish: Finish, during: ExitStack) -> None:
        super().__init__()
        self.model, self.work, self.shares, self.finish, self.during = model, work, shares, finish, during

    def configure_model(self) -> None:
        """Nothing: a model that no stage has spread stays whole."""

    def on_predict_start(self) -> None:
        """Gather a model that is spread, once it is on its device."""
        self.during.enter_context(whole(self.model))

    def predict_dataloader(self) -> DataLoader[int]:
        """Numbers of this rank's shares; as many on every rank."""
        rounds = math.ceil(self.shares / self.trainer.world_size)
        mine = range(self.trainer.global_rank, rounds * self.trainer.world_size, self.trainer.world_size)
        return DataLoader(cast(Any, mine), batch_size=None)

    def predict_step(self, number: int, batch_idx: int) -> int:
        """Do a share; returns its number, since Lightning warns of a step without a result."""
        if number < self.shares:
            with _interruptible():
                self.work(number)
        return number

    def on_predict_epoch_end(self) -> None:
        """Call `finish` on every rank."""
        with _interruptible():
            self.finish()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning would end the process with exit code 1."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted from None


def share_out(model: LVLM, work: Work, shares: int, finish: Finish = lambda: None, *, devices: config.Devices) -> None:
    """Do all shares of a work, on all ranks and on the devices of the run.

    Raises:
        Interrupted: SIGINT or SIGTERM.
    """
    with ExitStack() as during:
        build_trainer(devices).predict(SharedWork(model, work, shares, finish, during), return_predictions=False)


def rank_device(devices: config.Devices) -> torch.device:
    """Where this process computes."""
    device: torch.device = build_trainer(devices).strategy.root_device
    return device


@contextmanager
def on_device(model: LVLM, devices: config.Devices) -> Iterator[None]:
    """The whole model on this process's device, for work of one rank alone; every rank enters."""
    if units(model):  # it is there
        with whole(model):
            yield
        return
    model.to(rank_device(devices))
    try:
        yield
    finally:
        model.cpu()
