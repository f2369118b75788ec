"""Answers: batched generation with a KV cache, greedy or sampled; every image is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, TopPLogitsWarper

from dress.dialogue.spans import Span
from dress.model.lvlm import LVLM

DROP_SHARE = 0.15
"""Ended rows leave the batch when they are this share of it: each time costs a copy of the cache."""


@dataclass(frozen=True)
class Prompt:
    """What to answer: spans up to an open user message, and the image (by index into the pixels)."""

    spans: tuple[Span, ...]
    image: int | None


def generate(
    model: LVLM,
    prompts: Sequence[Prompt],
    pixels: Sequence[Tensor],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """One answer per prompt, in the order of the prompts.

    Args:
        model: in eval mode or not; it is put back as it was.
        prompts: any number.
        pixels: images [3, H, W]; prompts name them by index and share them freely.
        max_new_tokens: longest answer; it ends earlier at the stop token.
        batch_size: prompts decoded together. Prompts of like length stand together.
        temperature: 0 is greedy.
        top_p: smallest set of tokens whose probability reaches it; 1 is all.
        seed: of the sampling; the same prompts and seed give the same answers.
        progress: called with the number of finished prompts.
    """
    ids = [model.encoder.prompt(prompt.spans, prompt.image is not None) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(ids[i]), i))
    answers = [""] * len(prompts)
    training = model.training
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        features = _encode(model, pixels, batch_size)
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            out = _decode(model, [ids[i] for i in batch], [prompts[i].image for i in batch], features,
                          max_new_tokens, temperature, top_p)  # fmt: skip
            for i, tokens in zip(batch, out, strict=True):
                answers[i] = model.encoder.decode(tokens)
            progress(len(batch))
    model.train(training)
    return answers


def _encode(model: LVLM, pixels: Sequence[Tensor], batch_size: int) -> Tensor | None:
    if not pixels:
        return None
    parts = [
        model.encode_images(torch.stack(list(pixels[i : i + batch_size])).to(model.device))
        for i in range(0, len(pixels), batch_size)
    ]
    return torch.cat(parts)


def _decode(
    model: LVLM,
    ids: list[list[int]],
    images: list[int | None],
    features: Tensor | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> list[list[int]]:
    """Left-padded, so that all rows go on at the same column; the mask comes from lengths.

    Equal prompts are read once and go on as branches of one cache. Rows that have ended leave the
    batch and its cache once there are enough of them.
    """
    unlike = {(tuple(row), image): number for number, (row, image) in enumerate(zip(ids, images, strict=True))}
    number = {prompt: place for place, prompt in enumerate(unlike)}
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + list(row) for row, _ in unlike], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row, _ in unlike], device=model.device)
    image = torch.tensor([i for _, i in unlike if i is not None], dtype=torch.long, device=model.device)
    cache = DynamicCache(config=model.language.config)

    def last_hidden(embeddings: Tensor, position: Tensor) -> Tensor:
        out = model.language.base_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        return out.last_hidden_state[:, -1]

    position = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = last_hidden(model.embed(padded, features if len(image) else None, image), position)
    rows = torch.arange(len(ids), device=model.device)  # which prompt each row of the batch answers
    if len(unlike) < len(ids):
        branch = torch.tensor([number[tuple(row), i] for row, i in zip(ids, images, strict=True)], device=model.device)
        cache.batch_select_indices(branch)
        hidden, mask, position = hidden[branch], mask[branch], position[branch]
    warp = TopPLogitsWarper(top_p) if 0 < top_p < 1 else None
    out: list[list[int]] = [[] for _ in ids]
    ended = torch.zeros(len(ids), dtype=torch.bool, device=model.device)
    for step in range(max_new_tokens):
        token = _choose(model.logits(hidden), temperature, warp)
        for row, value, over in zip(rows.tolist(), token.tolist(), ended.tolist(), strict=True):
            if not over:
                out[row].append(value)
        ended |= token == model.encoder.stop_id
        if ended.all() or step + 1 == max_new_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = position[:, -1:] + 1
        if ended.sum() >= DROP_SHARE * len(ended):
            kept = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, token, mask, position, ended = (t[kept] for t in (rows, token, mask, position, ended))
        hidden = last_hidden(model.language.get_input_embeddings()(token)[:, None], position)
    return out


def _choose(logits: Tensor, temperature: float, warp: TopPLogitsWarper | None) -> Tensor:
    """The next token of every row, [B] from logits [B, vocabulary]."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if warp is not None:
        logits = warp(None, logits)
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]
