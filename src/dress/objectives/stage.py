"""The objectives of a stage's phases, and the dialogues of a record that they have a use for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from dress import config
from dress.dialogue.spans import SupervisedDialogue
from dress.objectives import comparing
from dress.objectives.comparisons import Comparing, Scoring
from dress.objectives.distill import Distillation
from dress.objectives.reward_weighted import weight_of
from dress.phases import supervised
from dress.record import Record

DEFAULT = config.Objectives()


class StageObjectives:
    """What each phase of a stage minimises.

    Args:
        stage: its phases and their objectives.
        settings: of the objectives that the stage has.
    """

    def __init__(self, stage: config.TrainStage, settings: Mapping[str, config.Section]) -> None:
        self.names = stage.objectives
        self.shares = dict(stage.phases)
        every = {phase: comparing(settings.get(name)) for phase, name in self.names.items()}
        self.comparing: dict[str, Comparing] = {phase: one for phase, one in every.items() if one is not None}
        """Of phases whose objective compares answers."""
        self.scoring: dict[str, Scoring] = {
            phase: one for phase, one in self.comparing.items() if isinstance(one, Scoring)
        }
        """Of those, by comparisons; all others are by tokens."""
        self.distilling: dict[str, Distillation] = {
            phase: one for phase, one in self.comparing.items() if isinstance(one, Distillation)
        }
        self._weights = {
            phase: one for phase, name in self.names.items()
            if isinstance(one := settings.get(name), config.RewardWeighted)
        }  # fmt: skip
        self.mixture = {phase: 1.0 if phase in self.scoring else share for phase, share in self.shares.items()}
        """Phase to the weight of its tokens; what is compared is weighed by comparisons."""
        self.mismatching = {phase for phase, name in self.names.items() if name == "kto"}
        """Phases in which a record of a step needs answers of another one."""

    def step_loss(self, sums: Tensor) -> float:
        """The loss of steps, from the sums of `objectives.lm.add_sums` [3, P] by phase, where any phase has a weight.

        What is learned by tokens is one mean; the mean of each phase that is learned by comparisons is added.
        """
        rows = dict(zip(self.names, sums.T.tolist(), strict=True))
        loss, weight = (sum(one[n] for name, one in rows.items() if name not in self.scoring) for n in (0, 1))
        compared = (self.shares[name] * rows[name][0] / rows[name][1] for name in self.scoring if rows[name][1])
        return (loss / weight if weight else 0.0) + sum(compared)

    def dialogues(self, record: Record, phases: config.Phases) -> list[SupervisedDialogue]:
        """What there is to learn of a record: no answer that its objective has nothing to compare with.

        Raises:
            ValueError: see `phases.supervised`; or a phase that gives its objective no answers to compare.
        """
        useful = []
        every = supervised(record, self.mixture, phases)
        for phase in self.names:
            dialogues = [one for one in every if one.phase == phase]
            if phase in self.comparing:
                useful += self._compared(phase, dialogues)
            elif phase in self._weights:
                useful += self._weighted(phase, dialogues)
            else:
                useful += [one if one.answer is None else replace(one, answer=None) for one in dialogues]
        return useful

    def _compared(self, phase: str, dialogues: list[SupervisedDialogue]) -> list[SupervisedDialogue]:
        facts = [one.answer for one in dialogues if one.answer is not None]
        if len(facts) < len(dialogues):
            raise ValueError(
                f"phase {phase}: objective {self.names[phase]} compares answers, and this phase says nothing of them "
                f"(SupervisedDialogue.answer)"
            )
        numbers = {number for comparison in self.comparing[phase].compared(facts) for number in comparison}
        useful = [dialogues[number] for number in sorted(numbers)]
        if phase in self.mismatching:  # each by itself, so that none need share a tree
            useful = [
                replace(one, answer=replace(one.answer, group=f"{one.answer.group}.{place}"))
                for place, one in enumerate(useful)
                if one.answer is not None
            ]
        return useful

    def _weighted(self, phase: str, dialogues: list[SupervisedDialogue]) -> list[SupervisedDialogue]:
        weighted = []
        for one in dialogues:
            if one.answer is not None and one.answer.rating is not None:
                weight = weight_of(one.answer.rating, self._weights[phase])
                spans = tuple(replace(span, weight=span.weight * weight) for span in one.spans)
                weighted.append(replace(one, spans=spans, answer=None))
        return weighted


def stage_objectives(stage: config.TrainStage, settings: config.Objectives = DEFAULT) -> StageObjectives:
    """The objectives of a stage, from the settings of all."""
    return StageObjectives(stage, used_objectives(stage, settings))


def used_objectives(stage: config.TrainStage, settings: config.Objectives) -> dict[str, config.Section]:
    """Settings of the objectives that a stage has, by name; `lm` and `words` have none."""
    names = sorted(set(stage.objectives.values()))
    return {name: getattr(settings, name) for name in names if name in config.Objectives.model_fields}
