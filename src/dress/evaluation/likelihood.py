"""How likely a model finds answers after one history or another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from dress.dialogue.batch import Example, collate, pack
from dress.dialogue.image import Picture
from dress.dialogue.spans import Span, SupervisedDialogue, answer, prompt
from dress.dialogue.tree import build_tree
from dress.evaluation.image_use import WITH, WITHOUT
from dress.model.lvlm import LVLM
from dress.record import Dialogue, RecordError, Turn

TOKENS = 8192
"""Of one forward pass."""


@dataclass(frozen=True)
class LastAnswer:
    """The last turn's answer after the turns before it, and the condition that it follows."""

    turns: Sequence[Turn]
    condition: str
    picture: Picture | None
    system: str | None = None

    @property
    def spans(self) -> tuple[Span, ...]:
        """The whole dialogue; only the last answer has weight."""
        dialogue = Dialogue(system=self.system, turns=list(self.turns))
        return (*prompt(dialogue, condition=self.condition), answer(dialogue.turns[-1], 1.0))


def answer_nll(
    model: LVLM, answers: Sequence[LastAnswer], progress: Callable[[int], None] = lambda n: None
) -> list[float | None]:
    """Mean negative log-likelihood per token of each last answer, in nats; None where it is too long.

    Args:
        model: put back into its mode afterwards.
        answers: in their dialogues.
        progress: called with the number of finished answers.
    """
    means: list[float | None] = [None] * len(answers)
    samples: dict[int, Example] = {}
    for number, one in enumerate(answers):
        try:
            encoded = model.encoder.supervised(
                SupervisedDialogue("sft", one.spans, one.picture is not None), str(number),
                None if one.picture is None else one.picture.layout,
            )  # fmt: skip
        except RecordError:
            continue
        samples[number] = Example([build_tree([encoded])], one.picture)
    numbers = list(samples)
    training = model.training
    model.eval()
    with torch.inference_mode():
        for group in pack([len(samples[n].trees[0]) for n in numbers], TOKENS):
            chosen = sorted((numbers[i] for i in group), key=lambda number: -len(samples[number].trees[0]))
            sizes = [len(samples[n].trees[0]) for n in chosen]
            (forest,) = collate([samples[n] for n in chosen], sum(sizes)).forests
            # `collate` puts the longest first, too: the trees stand as they were chosen.
            assert [end - start for start, end in pairwise(forest.starts)] == sizes
            forest = forest.to(model.device)
            _, nll = model(forest, forest.weight)
            for number, (start, end) in zip(chosen, pairwise(forest.starts), strict=True):
                of_tree = (forest.row >= start) & (forest.row < end) & (forest.weight > 0)
                means[number] = float(nll[of_tree].double().mean())
            progress(len(chosen))
    model.train(training)
    progress(len(answers) - len(numbers))
    return means


def image_use(model: LVLM, answers: Sequence[LastAnswer]) -> list[dict[str, float]]:
    """Log-probability of each answer with its image and with nothing to see in it (`evaluation.image_use`).

    Nothing of an answer without an image, or that is too long.

    Args:
        model: that gave them.
        answers: in their dialogues.
    """
    blank = [replace(one, picture=None if one.picture is None else one.picture.blank()) for one in answers]
    both = zip(answer_nll(model, answers), answer_nll(model, blank), strict=True)
    return [
        {} if one.picture is None or with_it is None or without is None else {WITH: -with_it, WITHOUT: -without}
        for one, (with_it, without) in zip(answers, both, strict=True)
    ]
