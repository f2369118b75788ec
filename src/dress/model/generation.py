"""Answers: batched generation with a KV cache, greedy or sampled; every image is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig

from dress.dialogue.spans import Span
from dress.model.lvlm import LVLM


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
    """Left-padded, so that all rows go on at the same column; the mask comes from lengths."""
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    image = torch.tensor([-1 if i is None else i for i in images], device=model.device)
    embeddings = model.embed(padded, features if (image >= 0).any() else None, image)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else None,
        top_p=top_p if temperature > 0 else None,
        top_k=0 if temperature > 0 else None,
        eos_token_id=model.encoder.stop_id,
        pad_token_id=model.encoder.stop_id,
    )
    return model.language.generate(
        inputs_embeds=embeddings, attention_mask=mask, generation_config=settings
    ).tolist()
