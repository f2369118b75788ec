"""Settings of `src/collect.py`, and of asking in the terminal."""

from __future__ import annotations

from pydantic import Field

from dress.config.data import Data
from dress.config.generation import KeepCache
from dress.config.raters import RaterSettings, ResponderName, Server
from dress.config.stages import CollectSettings
from dress.config.types import Consent, Count, Package, PartOf, Positive, Real, TopP


class CollectCommand(CollectSettings, Consent):
    """`src/collect.py`: whose answers are collected, and who judges them."""

    # a run folder, a model's folder, a file of answers, a server's address, or shards whose answers are judged again
    responder: ResponderName
    stage: str | None = None  # of a run: whose model; null = of its last train stage
    server: Server = Server()  # where the responder is one
    out: str  # the folder to make
    part: PartOf | None = None  # K/N: one of N parts, in a folder below out; prepare.py task=merge puts them together
    data: Data | None = None  # whose prompts are asked; null = the run's own
    shards: str | None = None  # a folder of shards whose questions are asked instead
    max_new_tokens: Positive | None = None  # null = as in the run; 512 of a server
    batch_size: Positive = 256  # questions answered together
    keep_cache: KeepCache = "auto"  # go on from what the turn before has read; auto: where it fits into memory
    seed: Count = 0  # of the draws
    annotator: RaterSettings  # auto: the run's own; without one the oracle of the data's world, or rules
    dry_run: bool = False  # only estimate calls, tokens and cost


class AskCommand(Server):
    """`dress ask`: of a run or a server, what one may say beside the question."""

    stage: str | None = None  # of a run: whose model; null = of its last train stage
    condition: str | None = None  # of a run: none or praise; null = praise where the stage taught it
    temperature: Real = 0.0  # of answers; 0 = greedy
    top_p: TopP = 1.0  # of sampled answers: among the likeliest tokens of this total probability
    max_new_tokens: Positive | None = None  # longest answer; null = as in the run; 512 of a server
    seed: Count = 0  # of the draws
    device: str | None = None  # cpu, cuda, …; null = a GPU where there is one
    trust_remote_code: bool = False  # run code that comes with the run's language model
    trust_targets: list[Package] = Field(default=[])  # packages beside the known ones whose classes the run may name
