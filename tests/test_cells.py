"""Outcomes of several ranks: all of them, each once, in order."""

from __future__ import annotations

import os
from itertools import chain

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from scripts import free_port

from dress.base.ranks import of_ranks
from dress.evaluation.cells import in_order
from dress.evaluation.outcomes import Outcome


def outcome(number: int, turn: int = 0) -> Outcome:
    user = "q\u2028\n" + "é" * number  # line ends of all kinds, lines of unlike length
    return Outcome(
        "dress", "none", f"k/{number}", "k", "honesty", "description", turn, user, "a", 4, "c", None, {"x": 1}
    )


ALL = [outcome(number, turn) for number in range(11) for turn in range(2)]


def _rank(rank: int, world: int, port: int, uneven: bool) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    mine = ALL if uneven and rank == 0 else [] if uneven else [*ALL[rank::world], ALL[0]]  # one of them twice
    assert in_order(chain.from_iterable(of_ranks(mine))) == ALL
    dist.destroy_process_group()


def test_they_come_back_sorted_and_once():
    assert in_order([*ALL[::-1], *ALL[:3]]) == ALL
    assert in_order([]) == []


@pytest.mark.parametrize("uneven", [False, True])
def test_two_ranks_see_the_whole_each_outcome_once(uneven):
    mp.start_processes(_rank, args=(2, free_port(), uneven), nprocs=2, start_method="fork")
