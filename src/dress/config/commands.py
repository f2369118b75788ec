"""Settings of `src/collect.py`."""

from __future__ import annotations

from dress.config.data import Data
from dress.config.raters import RaterSettings, ResponderName, Server
from dress.config.run import KeepCache
from dress.config.stages import CollectSettings
from dress.config.types import Consent, Count, Positive


class CollectCommand(CollectSettings, Consent):
    """`src/collect.py`: whose answers are collected, and who judges them."""

    responder: ResponderName  # a run folder, a file of answers, or the address of a server
    stage: str | None = None  # of a run: whose model; null = of its last train stage
    server: Server = Server()  # where the responder is one
    out: str
    data: Data | None = None  # whose prompts are asked; null = the run's own
    shards: str | None = None  # a folder of shards whose questions are asked instead
    max_new_tokens: Positive | None = None  # null = as in the run; 512 of a server
    batch_size: Positive = 256
    keep_cache: KeepCache = "auto"
    seed: Count = 0
    annotator: RaterSettings  # auto: the run's own; without one the oracle of the data's world, or rules
    dry_run: bool = False  # only estimate calls, tokens and cost
