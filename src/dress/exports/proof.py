"""Whether an exported model is the one that was trained: its folder, read anew by transformers alone, gives the same.

Shapes: A tokens of an answer, M entries of the vocabulary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dress.base.files import image_extension, write_json
from dress.data.shards import Sample
from dress.dialogue.batch import Example, collate
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.image import Picture
from dress.dialogue.spans import Completion, Span, SupervisedDialogue
from dress.dialogue.tree import build_tree
from dress.model.lvlm import LVLM
from dress.model.sampling import SamplingParams
from dress.model.session import ImageTokens, Prompt, Session
from dress.record import RecordError

EXAMPLES, TENSORS, RESULT = "examples.json", "expected.safetensors", "result.json"
BOUND = 1e-4
"""Largest difference of a logit, relative to the largest, in fp32."""
AGAIN = (Span("assistant", "I see."), Span("user", "Look again, please."))
"""Goes before the answer of every other dialogue: a condition must stand behind the last question only."""


@dataclass(frozen=True)
class Figures:
    """What was compared, and how equal it was.

    Attributes:
        examples: dialogues of the run's own records.
        ids: of them, those whose prompt has the same tokens, under the condition and without.
        logits: the largest difference of a logit, relative to the largest logit.
        answers: of them, those whose greedy answer is the same, token for token.
        answers_from_pixels: the same, where the folder's own image processor makes the pixels.
        pixels: the largest difference of a pixel, in units of its standard deviation; None where they are one code's.
        tokens: of all answers.
    """

    examples: int
    ids: int
    logits: float
    answers: int
    answers_from_pixels: int
    pixels: float | None
    tokens: int

    def differences(self) -> Iterator[str]:
        """What is not as it should be, one sentence each."""
        if self.ids < self.examples:
            yield f"{self.examples - self.ids} of {self.examples} prompts have other tokens"
        if not self.logits <= BOUND:
            yield f"logits differ by {self.logits:.1e} of the largest, more than {BOUND:.0e}"
        if self.answers < self.examples:
            yield f"{self.examples - self.answers} of {self.examples} greedy answers differ"


def prove(
    model: LVLM, samples: Sequence[Sample], condition: str, max_new_tokens: int, folder: Path, aside: Path
) -> Figures:
    """Compare a trained model with its exported folder, which a process of its own reads.

    Args:
        model: as it was trained, in fp32.
        samples: records to ask about, with image bytes.
        condition: text that the folder's template carries; may be empty.
        max_new_tokens: longest answer.
        folder: the export.
        aside: an empty folder for what is compared.

    Raises:
        ValueError: nothing to ask, or the folder does not load.
    """
    _write_expected(model, samples, condition, max_new_tokens, aside)
    command = [sys.executable, "-m", "dress.exports.proof_process", str(folder), str(aside), str(max_new_tokens)]
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        errors="replace", check=False,
    )  # fmt: skip
    if done.returncode < 0:
        raise ValueError(
            f"the process that compares the exported folder was ended by signal {-done.returncode}: most likely too "
            f"little memory for the weights twice"
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ValueError(
            f"the exported folder does not load, or cannot be compared: {(lines or ['no message'])[-1]:.400}"
        )
    return Figures(**json.loads((aside / RESULT).read_text(encoding="utf-8")))


def _write_expected(model: LVLM, samples: Sequence[Sample], condition: str, max_new_tokens: int, aside: Path) -> None:
    rows: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    reader, encoder = model.reader(), model.encoder
    dialogues = ((record, image, dialogue) for record, image in samples for dialogue in record.dialogues[:1])
    with torch.no_grad():
        for number, (record, image, dialogue) in enumerate(dialogues):
            try:
                picture = None if image is None else reader(image, record.key)
            except RecordError:  # named where it was evaluated
                continue
            system = dialogue.system if encoder.chat.takes_system else None
            first = [Span("user", dialogue.turns[0].user)]
            spans = [Span("system", system), *first] if system else first
            if number % 2:
                spans = [*spans, *AGAIN]
            asked = [*spans, Span("condition", condition)] if condition else spans
            answer, tokens = _answer(model, asked, picture, max_new_tokens)
            ids, places, logits = answer_logits(model, [*asked, Span("assistant", str(answer) or "x", 1.0)], picture)
            file = None if image is None else f"{len(rows)}.{image_extension(image)}"
            if file is not None and image is not None and picture is not None:
                (aside / file).write_bytes(image)
                if "pixels" in picture.inputs:
                    tensors[f"pixels.{len(rows)}"] = picture.inputs["pixels"].float().contiguous()
            tensors[f"logits.{len(rows)}"] = logits.contiguous()
            rows.append(
                {
                    "messages": [{"role": span.role, "content": span.text} for span in spans],
                    "image": file, "ids": ids, "places": places, "prompt": _prompt(encoder, asked, picture),
                    "plain": _prompt(encoder, spans, picture), "answer": tokens,
                }
            )  # fmt: skip
    if not rows:
        raise ValueError("expected records to compare answers to, found none whose picture can be read")
    write_json(aside / EXAMPLES, rows)
    save_file(tensors, aside / TENSORS)


def _prompt(encoder: DialogueEncoder, spans: Sequence[Span], picture: Picture | None) -> list[int]:
    return [int(one) for one in encoder.prompt(spans, picture.layout if picture else None).ids]


def _answer(
    model: LVLM, spans: Sequence[Span], picture: Picture | None, max_new_tokens: int
) -> tuple[Completion, list[int]]:
    """The greedy answer, and its tokens."""
    images = ImageTokens(model, [] if picture is None else [picture])
    prompt = Prompt(tuple(spans), None if picture is None else 0)
    tokens = Session(model).answer([prompt], [0], images, SamplingParams(max_new_tokens))
    assert tokens is not None
    return model.encoder.decode(tokens[0]), [int(one) for one in tokens[0]]


def answer_logits(model: LVLM, spans: Sequence[Span], picture: Picture | None) -> tuple[list[int], list[int], Tensor]:
    """Tokens of a dialogue, the places of its last answer's, and logits [A, M] of these."""
    dialogue = SupervisedDialogue("sft", tuple(spans), picture is not None)
    encoded = model.encoder.supervised(dialogue, "", picture.layout if picture else None)
    (forest,) = collate([Example([build_tree([encoded])], picture)], 10**9).forests
    forest = forest.to(model.device)
    hidden = model.hidden_rows(forest, torch.unique(forest.row))
    (places,) = np.nonzero(encoded.weights)
    return encoded.ids.tolist(), places.tolist(), model.logits(hidden).cpu()
