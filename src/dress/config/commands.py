"""Settings of the commands beside training: collect, ask, serve, chat."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dress.config.data import Data
from dress.config.generation import KeepCache
from dress.config.raters import RaterSettings, ResponderName, Server
from dress.config.stages import CollectSettings
from dress.config.types import Consent, Count, Package, PartOf, Positive, Real, Section, TopP, VariableName


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


class Loading(Section):
    """How a run's or a folder's model is loaded."""

    stage: str | None = None  # of a run: whose model; null = of its last train stage
    device: str | None = None  # cpu, cuda, …; null = a GPU where there is one
    trust_remote_code: bool = False  # run code that comes with the run's language model
    trust_targets: list[Package] = Field(default=[])  # packages beside the known ones whose classes the run may name


class AskCommand(Loading, Server):
    """`dress ask`: of a run or a server, what one may say beside the question."""

    condition: str | None = None  # of a run: none or praise; null = praise where the stage taught it
    temperature: Real = 0.0  # of answers; 0 = greedy
    top_p: TopP = 1.0  # of sampled answers: among the likeliest tokens of this total probability
    max_new_tokens: Positive | None = None  # longest answer; null = as in the run; 512 of a server
    seed: Count = 0  # of the draws


Port = Annotated[int, Field(ge=0, le=65_535)]


class ServeCommand(Loading):
    """`dress serve`: a run's or a folder's model behind the interface of OpenAI's servers."""

    name: str | None = None  # that clients know the model by; null = RUN/STAGE
    host: str = "127.0.0.1"  # another address needs api_key_env
    port: Port = 8000  # 0 = any that is free
    api_key_env: VariableName | None = None  # variable that holds the key which clients have to give
    max_new_tokens: Positive | None = None  # longest answer where a client names none; null = as in the run


class ChatCommand(Loading):
    """`src/chat.py`: who answers on the page, and where what people say is written."""

    responder: ResponderName | None = None  # a run folder, a model's folder, or the address of a server
    vs: ResponderName | None = None  # another one, beside it
    blind: bool = False  # two responders without their names, in an order that each conversation draws
    model: str | None = None  # of a responder that is a server: name that it knows the model by; null = its only one
    vs_model: str | None = None  # the same of the other
    api_key_env: VariableName | None = None  # variable that holds the key of a responder that is a server
    vs_api_key_env: VariableName | None = None  # the same of the other
    out: str = "data/chat"  # folder of the journal, and of the shards that are made of it
    queue: str | None = None  # what people go through: a split of the run (prompts), or a folder of shards
    records: Positive | None = None  # of the queue, from the first; null = all
    port: Port = 7860  # on 127.0.0.1; 0 = any that is free
    max_new_tokens: Positive | None = None  # longest answer; null = as in the run; 512 of a server
    temperature: Real = 0.0  # of answers; 0 = greedy
    top_p: TopP = 1.0  # of sampled answers: among the likeliest tokens of this total probability
    seed: Count = 0  # of the draws
