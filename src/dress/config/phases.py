"""Settings of the phases: prompts, conditions, losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dress.config.types import Condition, Real, Section, Whole

FROM_DATA = "from_data"


class Align(Section):
    """`align`: captions as answers to one prompt."""

    prompt: str = "Write a caption."  # ours


class Critique(Section):
    """`critique`: every judged answer, conditioned on what was said of it."""

    condition: Literal["critique", "rating", "both"] = "critique"
    history: bool = False  # keep the turns before; false = the dialogue's first user text only


class Refinement(Section):
    """`refinement`: the better answer after advice."""

    loss: Literal["refined_only", "last_only", "all", "rating_at_least"] = "refined_only"
    target: Literal["best_turn", "reference"] = "best_turn"
    min_rating: Annotated[Whole, Field(ge=1, le=4)] = 4  # for loss=rating_at_least
    anchor: Real = 0.5  # weight of the model's own first answers
    anchor_conditions: list[Condition] = Field(default=["none"])  # what they stand after


ModuleName = Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*$")]


class Phases(Section):
    """How records become supervised dialogues, and the texts of the conditions."""

    modules: list[ModuleName] = Field(default=[])  # of your own phases: each is imported and registers them
    align: Align = Align()
    critique: Critique = Critique()
    refinement: Refinement = Refinement()
    critique_template: str = "Feedback: {critique}"  # fields: {critique}; ours
    rating_template: str = "Rating: {rating}."  # fields: {rating}; ours
    praise: str = "Excellent. Nothing is wrong with this answer."  # the critique under `praise`; ours
    # from_data: the most frequent critique of answers rated 4 in data.feedback
