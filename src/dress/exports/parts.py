"""What is written of a model that no class of transformers computes: its parts, each as others load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from dress.base.files import write_text
from dress.data.pixels import size_of
from dress.dialogue.encode import IMAGE
from dress.dialogue.jinja_text import start_of, template_of
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.model.composed import ComposedLVLM
from dress.model.merging import merged_state

LANGUAGE, PROJECTOR, VISION = "language", "projector.safetensors", "vision.safetensors"
CARD = """# {title}
No class of transformers computes what this model does: {why}. These are its parts:

- `{language}/`: the language model with adapters merged and its tokenizer; `AutoModelForCausalLM` loads it.
- `{projector}`: {described}, from the encoder's tokens to the language model's embeddings.
- `{vision}`: the encoder's weights ({tower}).

An image's tokens, {tokens} of them, stand as embeddings before the text of the first question. {condition}

DRESS goes on from them: `model.language.name=THIS_FOLDER/{language} model.projector_weights=THIS_FOLDER/{projector}`.
"""
BOUND = 1e-4
"""Largest difference of a logit of the language model that was read again, relative to the largest."""


def write_parts_of(model: ComposedLVLM, title: str, condition: str, why: str, folder: Path) -> None:
    """Write language model, projector and encoder, and read the language model again.

    Args:
        model: trained, in fp32, on the CPU.
        title: of the card.
        condition: text that it was trained under; may be empty.
        why: no class holds the whole.
        folder: that exists.

    Raises:
        ValueError: what was read again computes something else.
    """
    state = {name: value.contiguous() for name, value in merged_state(model).items()}
    language: Any = model.language
    language.save_pretrained(folder / LANGUAGE, state_dict=_under(state, "language."))
    GenerationConfig(eos_token_id=sorted(model.encoder.stops)).save_pretrained(folder / LANGUAGE)
    tokenizer: Any = model.encoder.tokenizer
    before, tokenizer.chat_template = (
        tokenizer.chat_template,
        template_of(model.encoder.chat, None, start_of(model.encoder)),
    )
    tokenizer.save_pretrained(folder / LANGUAGE)
    tokenizer.chat_template = before
    save_file(_under(state, "projector."), folder / PROJECTOR)
    save_file(_under(state, "vision.tower."), folder / VISION)
    described = f"`{type(model.projector).__module__}.{type(model.projector).__name__}`"
    tower = f"block {model.vision.layer}, images {size_of(model.vision.preprocessing)}"
    asked = f"It was trained to be asked under: `{condition}`, behind the last question." if condition else ""
    text = CARD.format(
        title=title, why=why, language=LANGUAGE, projector=PROJECTOR, vision=VISION, described=described, tower=tower,
        tokens=model.image_tokens, condition=asked,
    )  # fmt: skip
    write_text(folder / "README.md", text)
    _read_again(model, folder)


def _read_again(model: ComposedLVLM, folder: Path) -> None:
    again = AutoModelForCausalLM.from_pretrained(folder / LANGUAGE, dtype=torch.float32).eval()
    spans = (Span("user", "What is it?"), Span("assistant", "A house.", 1.0))
    ids = model.encoder.supervised(SupervisedDialogue("sft", spans, image=False), "", None).ids
    assert IMAGE not in ids
    with torch.no_grad():
        row = torch.from_numpy(ids)[None]
        own: Tensor = model.language(input_ids=row, use_cache=False).logits
        read: Tensor = again(input_ids=row, use_cache=False).logits
    error = float((own - read).abs().max() / own.abs().max())
    if not error <= BOUND:
        raise ValueError(f"{folder / LANGUAGE}: read again, its logits differ by {error:.1e} of the largest")


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
