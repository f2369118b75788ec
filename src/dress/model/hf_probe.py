"""A small token tree with an image through a vision-language model, beside the model's own forward pass."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dress.dialogue.batch import Example, collate
from dress.dialogue.encode import IMAGE, EncodedDialogue
from dress.dialogue.image import Picture
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tree import build_tree
from dress.model.language import UNEQUAL
from dress.model.lvlm import LVLM

SIZE = (96, 64)
"""Width and height of the picture, in pixels."""
QUESTION = Span("user", "What is in the picture?")
DIALOGUES = (
    (QUESTION, Span("assistant", "A red dog.", 1.0), Span("user", "Sure?"), Span("assistant", "Yes, it is.", 1.0)),
    (QUESTION, Span("assistant", "A cat.", 1.0)),
    (Span("user", "Where?"), Span("assistant", "In the grass.", 1.0)),
)
"""A chain, a branch and another question, over one picture."""


def refuse_unequal(model: LVLM, network: Any, processor: Any, where: str) -> None:
    """Refuse a kind of model that is not proved unless a tree with an image gives the losses of its sequences.

    Args:
        model: just built.
        network: of transformers, inside of it.
        processor: of the network.
        where: names it.

    Raises:
        ValueError: another loss, or trees do not run through it.
    """
    kind, training = network.config.model_type, model.training
    model.eval()
    try:
        with torch.no_grad():
            error = difference(model, network, processor)
    except Exception as problem:  # whatever a foreign model says of arguments that it does not take
        raise ValueError(f"{where}: token trees do not run through {kind} ({problem!r:.300})") from problem
    finally:
        model.train(training)
    if not error <= UNEQUAL:
        raise ValueError(
            f"{where}: a token tree with an image gives other losses than its sequences do in {kind} (relative "
            f"difference {error:.1e}, at most {UNEQUAL:.0e}): it takes positions, masks or image tokens of its own"
        )


def difference(model: LVLM, network: Any, processor: Any) -> float:
    """The largest relative difference of a dialogue's loss."""
    picture = model.reader()(_noise(), where="a picture of noise")
    encoded = [
        model.encoder.supervised(SupervisedDialogue(str(number), spans), "", picture.layout)
        for number, spans in enumerate(DIALOGUES)
    ]
    (forest,) = collate([Example([build_tree(encoded)], picture)], 10**9).forests
    forest = forest.to(model.device)
    _, nll = model(forest, forest.weight)
    errors = []
    for number, one in enumerate(encoded):
        of_one = forest.phase == forest.phases.index(str(number))
        mine = float((nll[of_one].double() * forest.weight[of_one]).sum())
        own = _own_loss(network, processor, one, picture)
        errors.append(abs(mine - own) / abs(own))
    return max(errors)


def _own_loss(network: Any, processor: Any, one: EncodedDialogue, picture: Picture) -> float:
    """The loss of one dialogue, in nats, as the model's own class computes it."""
    place = torch.from_numpy(one.ids == IMAGE)[None].to(network.device)
    ids = torch.from_numpy(one.ids)[None].to(network.device)
    inputs: dict[str, Tensor] = {
        name: (value.to(network.dtype) if value.is_floating_point() else value).to(network.device)
        for name, value in picture.inputs.items()
    }
    own = processor(images=[Image.new("RGB", SIZE)], text=processor.image_token)
    kinds = {name: place.long() for name in ("token_type_ids", "mm_token_type_ids") if name in own}
    logits = network(
        input_ids=ids.masked_fill(place, network.config.image_token_id), attention_mask=torch.ones_like(ids),
        use_cache=False, **inputs, **kinds,
    ).logits[0, :-1]  # fmt: skip
    nll = torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:].clamp(min=0), reduction="none")
    return float((nll * torch.from_numpy(one.weights[1:]).to(nll.device)).sum())


def _noise() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()
