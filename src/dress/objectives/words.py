"""Words find their image: which of a step's images is a word of an answer said of?

An image says a word as loudly as its loudest token does, by the cosine to the word's embedding in the language model.
So a projector learns where photos lie among words before any language model reads them, in seconds: image and word
embeddings in one space as in DeViSE (Frome et al., 2013), an image as the bag of its tokens as in multiple-instance
learning of words from captions (Fang et al., 2015), told apart within a batch as in CLIP (Radford et al., 2021).
Words that are said of every image teach nothing, so that no list of them is needed.

Shapes: N images of a step (of all ranks), W words, D width of embeddings, P pairs: a word that is said of an image.
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
    """Words that are said of images: `image` [P], `word` [P] (ids), `weight` [P] (float64, above 0), `phase` [P]."""

    image: Tensor
    word: Tensor
    weight: Tensor
    phase: Tensor


def word_scores(images: Sequence[Tensor], words: Tensor, centre: Tensor) -> Tensor:
    """How loudly each image says each word, [N, W].

    Args:
        images: of each, its tokens [V, D].
        words: [W, D], their embeddings.
        centre: [D], the mean embedding, which tells no word from another; directions are from there.
    """
    directions = F.normalize((words - centre).float(), dim=-1)
    scores = [(F.normalize(tokens.float() - centre, dim=-1) @ directions.T * SCALE).logsumexp(0) for tokens in images]
    return torch.stack(scores) if scores else directions.new_zeros(0, len(words))


def word_loss(scores: Tensor, image: Tensor, word: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each pair costs, its weight, and whether its image says the word loudest.

    A word's images share its weight, and its cost is none where they say it equally loudly and no other does.

    Args:
        scores: [N, W].
        image, word: [P], row and column of each pair.
        weight: [P], float64.

    Returns:
        cost [P] in nats, weight [P] (float64), loudest bool [P].
    """
    table = torch.zeros_like(scores, dtype=torch.bool)
    table[image, word] = True
    said = table.sum(0)[word]
    cost = -scores.log_softmax(0)[image, word] - said.to(scores).log()
    return cost, weight / said, scores.argmax(0)[word] == image
