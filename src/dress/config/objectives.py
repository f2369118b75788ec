"""Settings of the objectives that compare answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dress.config.types import Positive, PositiveReal, Real, Section, Whole

ObjectiveName = Literal["lm", "words", "reward_weighted", "dpo", "kto", "distill", "self_correction"]


class RewardWeighted(Section):
    """`reward_weighted`: every rated answer, the better the more."""

    # An answer weighs exp((rating - 4) / temperature); ours
    temperature: Annotated[float, Field(ge=0.01, le=1000)] = 1.0


class DPO(Section):
    """`dpo`: of two answers to a question, the better one becomes likelier than before."""

    beta: PositiveReal = 0.1  # how much a log-ratio counts
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # share of pairs that may be the wrong way round
    pairs: Literal["all", "extremes"] = "all"  # all answers of unlike ratings, or the best and the worst


class KTO(Section):
    """`kto`: wanted answers become likelier than before, others less."""

    beta: PositiveReal = 0.1  # how much a log-ratio counts
    min_rating: Annotated[Whole, Field(ge=2, le=4)] = 3  # of a wanted answer
    wanted_weight: Real = 1.0  # of wanted answers in the loss
    unwanted_weight: Real = 1.0  # of the others


class Distill(Section):
    """`distill`: the model without feedback learns what it would say with it."""

    divergence: Literal["forward", "reverse", "js"] = "js"  # from the teacher; forward is KL(teacher, student)
    top_k: Positive | None = None  # tokens of the teacher that are told apart from the rest; null = all
    teacher: Literal["current", "average"] = "current"  # weights: those that learn, or their moving average
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99  # of that average, by step; ours


class SelfCorrection(Section):
    """`self_correction`: after a good first answer and after a bad one, the good second one."""

    beta: PositiveReal = 0.1  # how much a log-ratio counts
    weight: PositiveReal = 0.5  # of each first answer; ours


class Objectives(Section):
    """How the objectives weigh what they compare."""

    reward_weighted: RewardWeighted = RewardWeighted()
    dpo: DPO = DPO()
    kto: KTO = KTO()
    distill: Distill = Distill()
    self_correction: SelfCorrection = SelfCorrection()
