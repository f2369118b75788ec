"""How the tokens of answers are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from dress.base.seeding import seed_for


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of answers are drawn.

    Attributes:
        max_new_tokens: longest answer; it ends earlier at the stop token.
        temperature: 0 is greedy.
        top_p: smallest set of tokens whose probability reaches it; 1 is all.
        seed: of the draws: one for each prompt, or one that they are made from, by number. Nothing else that is
            random comes in.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | Sequence[int] = 0

    def seeds(self, prompts: int) -> Sequence[int]:
        """One for each of so many prompts."""
        return [seed_for(self.seed, i) for i in range(prompts)] if isinstance(self.seed, int) else self.seed


def noise_of(sampling: SamplingParams, seeds: list[int]) -> Tensor:
    """Uniform numbers in (0, 1], [A, max_new_tokens]: a row's own, whatever stands beside it."""
    if sampling.temperature == 0:
        return torch.zeros(len(seeds), sampling.max_new_tokens)
    draws = [np.random.default_rng(seed).random(sampling.max_new_tokens) for seed in seeds]
    return torch.from_numpy(1 - np.stack(draws)).float()


def choose(logits: Tensor, sampling: SamplingParams, noise: Tensor) -> Tensor:
    """The next token of every row, [A] from logits [A, vocabulary]: greedy, or where the summed probability
    reaches `noise` [A]."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if 0 < sampling.top_p < 1:
        logits = TopPLogitsWarper(sampling.top_p)(None, logits)
    summed = logits.softmax(-1).cumsum(-1)
    return torch.searchsorted(summed, noise[:, None] * summed[:, -1:])[:, 0]
