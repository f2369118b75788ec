"""Contrastive alignment of images and words: which of a step's images is a word of an answer about?

The score of image n for word w is the log-sum-exp, over the image's tokens, of 20 x the cosine between token and word
embedding; a word's softmax runs over the images of the step. So a projector learns where photos lie among the language
model's words before that model reads them, in seconds: images and word embeddings in one space as in DeViSE (Frome et
al., 2013), an image as the bag of its tokens as in words learned from captions (Fang et al., 2015), told apart within
a batch as in CLIP (Radford et al., 2021). A word that every image has teaches nothing, so none need be listed.

Shapes: N images of a step, of all ranks, W words, D width of embeddings, P pairs of an image and a word of its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE = 20.0
"""What cosines are multiplied by: 1 ÷ temperature."""


@dataclass(frozen=True)
class Pairs:
    """Words of answers about images: `image` [P], `word` [P] (ids), `weight` [P] (float64, above 0), `phase` [P]."""

    image: Tensor
    word: Tensor
    weight: Tensor
    phase: Tensor


def word_scores(images: Sequence[Tensor], words: Tensor, centre: Tensor) -> Tensor:
    """Scores of all images for all words, [N, W], in fp32.

    Args:
        images: of each, its tokens [V, D].
        words: [W, D], their embeddings.
        centre: [D], the mean embedding, from which directions are measured: it tells no word from another.
    """
    directions = F.normalize(words.float() - centre, dim=-1)
    scores = [(F.normalize(tokens.float() - centre, dim=-1) @ directions.T * SCALE).logsumexp(0) for tokens in images]
    return torch.stack(scores) if scores else directions.new_zeros(0, len(words))


def word_loss(scores: Tensor, image: Tensor, word: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each pair costs, what it weighs, and whether no image has a higher score for its word.

    The images of a word share its weight; the cost is zero where they have equal scores and all others far lower ones.

    Args:
        scores: [N, W].
        image: [P], row of each pair.
        word: [P], column of each pair.
        weight: [P], float64.

    Returns:
        cost [P] in nats, weight [P] (float64), best bool [P].
    """
    if not len(word):
        return scores.new_zeros(0), weight, torch.zeros(0, dtype=torch.bool, device=scores.device)
    table = torch.zeros_like(scores, dtype=torch.bool)
    table[image, word] = True
    sharing = table.sum(0)[word]
    cost = -scores.log_softmax(0)[image, word] - sharing.to(scores).log()
    return cost, weight / sharing, scores.argmax(0)[word] == image
