"""Answers to any number of prompts, greedy or sampled, in batches that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dress.dialogue.image import Picture
from dress.dialogue.spans import Completion
from dress.kernels.packed import PackedWeights
from dress.model.lvlm import LVLM
from dress.model.memory import rows_that_fit
from dress.model.sampling import SamplingParams
from dress.model.session import ImageTokens, Prompt, Session


def generate(
    model: LVLM,
    prompts: Sequence[Prompt],
    pictures: Sequence[Picture],
    sampling: SamplingParams,
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Completion]:
    """One answer per prompt, in the order of the prompts; each says whether it ended by itself.

    An answer depends on its prompt and seed, and but for rounding not on the prompts beside it. A batch
    encodes each image once and reads what prompts share once: equal prompts are branches of one cache.

    Args:
        model: in eval mode or not; it is put back as it was.
        prompts: any number. Those of one image are answered together.
        pictures: images; prompts name them by index and share them freely.
        sampling: how tokens are drawn.
        batch_size: prompts decoded together; fewer, where their keys and values would not fit into memory.
        progress: called with the number of finished prompts.
    """
    seeds = sampling.seeds(len(prompts))
    first = {image: i for i, image in reversed(list(enumerate(prompt.image for prompt in prompts)))}
    order = sorted(range(len(prompts)), key=lambda i: first[prompts[i].image])
    images, weights = ImageTokens(model, pictures), PackedWeights(model.language_model)
    answers = [Completion("")] * len(prompts)
    while order:
        nearest = [prompts[i] for i in order[:batch_size]]
        longest = max(len(model.encoder.prompt(one.spans, images.layout(one.image)).ids) for one in nearest)
        size = max(1, min(batch_size, rows_that_fit(model, longest + sampling.max_new_tokens)))
        batch, order = order[:size], order[size:]
        session = Session(model, weights)
        batch_sampling = replace(sampling, seed=[seeds[i] for i in batch])
        out = session.answer([prompts[i] for i in batch], batch, images, batch_sampling)
        assert out is not None
        for i, tokens in zip(batch, out, strict=True):
            answers[i] = model.encoder.decode(tokens)
        progress(len(batch))
    return answers


def check_new_tokens(model: LVLM, number: int) -> None:
    """Refuse answers that are longer than the language model has positions.

    Raises:
        ValueError: `generation.max_new_tokens` or a command's `max_new_tokens` is too large.
    """
    most = getattr(model.text_config, "max_position_embeddings", None)
    if isinstance(most, int) and number >= most:
        raise ValueError(f"max_new_tokens: expected less than the language model's {most:,} positions, got {number:,}")
