"""What settings of suites have in common; a suite's own settings stand in its file (`dress.evaluation.suites`)."""

from __future__ import annotations

from pydantic import ConfigDict

from dress.config import Consent, Positive, Section, TopP
from dress.config.raters import RaterSettings, ResponderName, Server
from dress.config.types import Count, Real


class SuiteSettings(Section):
    """What every suite takes."""

    model_config = ConfigDict(strict=False, coerce_numbers_to_str=True)

    suite: str  # its name
    suite_module: str | None = None  # the module that registers it, where it is none of dress.evaluation.suites
    out: str  # suite.json, outcomes.jsonl and run.json go here


class Measured(SuiteSettings):
    """What suites take whose figures are measures of outcomes."""

    baseline: str | None = None  # the folder of an earlier evaluation, to compare with
    failures: Count = 120  # questions of suite.html whose answers fell short


class Asking(Measured, Consent):
    """What suites take that ask a responder."""

    responder: ResponderName | None  # a file of answers, a run or model's folder, or a server's address
    server: Server = Server()  # where the responder is one
    stage: str | None = None  # of a run: whose model answers; null = the last
    condition: str | None = None  # of a run: none or praise; null = praise where the stage taught it
    temperature: Real = 0.0  # of answers; 0 = greedy
    top_p: TopP = 1.0  # of sampled answers: among the likeliest tokens of this total probability
    max_new_tokens: Positive | None = None  # null = as in the run; 512 of a server
    batch_size: Positive = 256  # prompts
    runs: Positive = 1  # times that answers (if sampled) are drawn, and judged


class Judged(Asking):
    """What suites take that have the responder's answers judged."""

    responder: ResponderName  # a file of answers, a run or model's folder, or a server's address
    judge: RaterSettings  # who judges the answers
