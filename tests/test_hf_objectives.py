"""A model of transformers learns by comparisons over token trees what it learns on separate sequences."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from families import SIZES, checkpoint
from hf_proof import OWN_FP32, gradients, in_fp64, inputs, png, worst
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText

from dress import config
from dress.dialogue.batch import Example, Forest, collate
from dress.dialogue.spans import STUDENT, TEACHER, AnswerFacts, Span, SupervisedDialogue
from dress.dialogue.tree import build_trees
from dress.model.hf import HFLVLM
from dress.model.states import States
from dress.objectives.stage import stage_objectives
from dress.train.answer_pass import AnswerPasses, Figures, Logged, Pass

QUESTION = Span("user", "What is in the picture?")
ANSWERS = (("A red dog.", 4), ("Two cats, a cow.", 1), ("A dog.", 3))


def pairs() -> list[SupervisedDialogue]:
    """Three rated answers to one question."""
    return [
        SupervisedDialogue("pairs", (QUESTION, Span("assistant", text, 1.0)), answer=AnswerFacts("0", "", rating))
        for text, rating in ANSWERS
    ]


def twice() -> list[SupervisedDialogue]:
    """An answer without and with what was said of it."""
    sides = ((STUDENT, ()), (TEACHER, (Span("condition", "Feedback: it is a dog."),)))
    return [
        SupervisedDialogue(
            "pairs", (QUESTION, *more, Span("assistant", ANSWERS[0][0], 1.0)), answer=AnswerFacts("0", side)
        )
        for side, more in sides
    ]


@pytest.mark.parametrize("objective", ["dpo", "distill"])
@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "gemma3"])
def test_loss_and_gradients_of_comparisons_are_those_of_separate_sequences(name: str, objective: str, tmp_path: Path):
    folder = checkpoint(name, tmp_path)
    model = HFLVLM(config.HFModel(kind="hf", name=str(folder))).double()
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    plain = plain.double()
    in_fp64(model)
    in_fp64(plain)
    stage = config.TrainStage(
        weights=None, data={"sft": 1.0}, phases={"pairs": 1.0}, objective={"pairs": objective},
        trainable=["language"], steps=1, records_per_step=1, lr=1.0,
    )  # fmt: skip
    settings = config.Objectives.model_validate({"distill": {"divergence": "forward", "top_k": None}})
    objectives, reader = stage_objectives(stage, settings), model.reader()
    examples, records = [], []
    for seed, size in enumerate(SIZES):
        picture = reader(png(size, seed), "")
        dialogues = (pairs if objective == "dpo" else twice)()
        encoded = [model.encoder.supervised(one, "", picture.layout) for one in dialogues]
        examples.append(Example(build_trees(encoded, 100_000), picture))
        records.append([(one, picture) for one in encoded])
    step = collate(examples, 1)  # a forest for each
    reference = {f" {one.key}": -3.0 for record in records for one, _ in record}
    passes = AnswerPasses(objectives, reference)
    amounts = passes.of_step(torch.tensor(passes.amounts(step.forests), dtype=torch.float64))
    logged = Logged(torch.zeros(3, 1).double(), torch.zeros(1).double(), Figures(objectives).values)

    def read(forest: Forest, states: States) -> tuple[Tensor, Tensor]:
        scored = passes.scored(forest, states)
        return passes.loss(forest, Pass(states, scored), amounts, torch.zeros(2, len(objectives.scoring)), logged)

    ours = torch.stack([model(one, one.weight, read=partial(read, one))[0] for one in step.forests]).sum()
    theirs = (of_pairs if objective == "dpo" else of_contexts)(plain, records)
    error, where = worst(gradients(model, ours), gradients(plain, theirs))
    assert len(step.forests) > 1 and abs(ours.item() - theirs.item()) < 1e-12
    assert error < OWN_FP32.get(name, 1e-10), where


def learned(plain, one, picture) -> tuple[Tensor, Tensor]:
    """Logits of the rows that predict an answer's tokens, and these tokens."""
    at = torch.from_numpy(one.weights[1:]) > 0
    logits = plain(**inputs(plain, one, picture), use_cache=False).logits[0, :-1]
    return logits[at], torch.from_numpy(one.ids[1:])[at]


def of_pairs(plain, records) -> Tensor:
    costs = []
    for record in records:
        sums = [-F.cross_entropy(*learned(plain, one, picture), reduction="sum") for one, picture in record]
        ratings = [one.answer.rating for one, _ in record]
        costs += [
            -F.logsigmoid(0.1 * (sums[better] - sums[worse]))
            for better in range(3)
            for worse in range(3)
            if ratings[better] > ratings[worse]
        ]
    return torch.stack(costs).mean()


def of_contexts(plain, records) -> Tensor:
    costs = []
    for (student, picture), (teacher, _) in records:
        ours = learned(plain, student, picture)[0].log_softmax(-1)
        theirs = learned(plain, teacher, picture)[0].log_softmax(-1).detach()
        costs.append((theirs.exp() * (theirs - ours)).sum(-1))
    return torch.cat(costs).mean()
