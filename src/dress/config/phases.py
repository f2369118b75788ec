"""Settings of the phases: prompts, conditions, losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dress.config.types import Condition, Real, Section, Whole

FROM_DATA = "from_data"


class Align(Section):
    """`align`: captions as answers to one prompt."""

    prompt: str = "Write a caption."  # ours


class SFT(Section):
    """`sft` and `best_of`: answers as they are given."""

    marked_weight: Real = 1.0  # what multiplies the weight of what a rater marked in an answer; 0 = not learned


class Critique(Section):
    """`critique`: every judged answer, conditioned on what was said of it."""

    condition: Literal["critique", "rating", "both"] = "critique"  # what an answer is learned after
    history: bool = False  # keep the turns before; false = the dialogue's first user text only
    marked_weight: Real = 1.0  # what multiplies the weight of what a rater marked in an answer


class Refinement(Section):
    """`refinement`: the better answer after advice."""

    loss: Literal["refined_only", "last_only", "all", "rating_at_least"] = "refined_only"  # which answers are learned
    target: Literal["best_turn", "reference"] = "best_turn"  # the better answer: the best rated turn, or the reference
    min_rating: Annotated[Whole, Field(ge=1, le=4)] = 4  # for loss=rating_at_least
    anchor: Real = 0.5  # weight of the model's own first answers
    anchor_conditions: list[Condition] = Field(default=["none"])  # what they stand after


class Preference(Section):
    """`preference`: rated answers to one question, to be compared."""

    turns: Literal["all", "first"] = "all"  # answers after advice are answers to the question, too; or first ones only
    condition: Condition = "none"  # what the answers stand after


class Distill(Section):
    """`distill`: an answer without and with a context that only the teacher sees."""

    under: Literal["critique", "refinement", "reference", "praise"] = "critique"  # that context
    refinement_template: str = "Advice: {refinement}"  # fields: {refinement}; ours
    reference_template: str = "A good answer: {reference}"  # fields: {reference}; ours


class SelfCorrection(Section):
    """`self_correction`: two first answers, each with two second ones."""

    prompt: str = "Improve your answer."  # after a first answer that got no advice; ours


class LanguageFeedback(Section):
    """`critic`, `advised` and `improved`: a critic, its advice, and the answer that follows it."""

    critic_prompt: str = "What is good and what is bad about this answer?"  # ours
    template: str = "Mind this about an earlier answer: {critique}"  # fields: {critique}; ours


ModuleName = Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*$")]


class Phases(Section):
    """How records become supervised dialogues, and the texts of the conditions."""

    modules: list[ModuleName] = Field(default=[])  # of your own phases: each is imported and registers them
    align: Align = Align()
    sft: SFT = SFT()
    critique: Critique = Critique()
    refinement: Refinement = Refinement()
    preference: Preference = Preference()
    distill: Distill = Distill()
    self_correction: SelfCorrection = SelfCorrection()
    language_feedback: LanguageFeedback = LanguageFeedback()
    critique_template: str = "Feedback: {critique}"  # fields: {critique}; ours
    rating_template: str = "Rating: {rating}."  # fields: {rating}; ours
    praise: str = "Excellent. Nothing is wrong with this answer."  # the critique under `praise`; ours
    # from_data: the most frequent critique of answers rated 4 in data.feedback
