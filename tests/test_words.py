"""The objective `words`: words of answers find their image among those of a step, without the language model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import composed, small_model
from hypothesis import given
from hypothesis import strategies as st
from test_tree import samples_of
from torch import Tensor

from dress import config
from dress.dialogue.batch import Example, collate
from dress.objectives.words import word_loss, word_scores
from dress.train.words import in_a_new_projector, mean_embedding, word_costs

PHASES = ("align", "sft", "critique", "refinement", "rating")
STAGE = {"objective": "words", "trainable": ["projector"], "records_per_step": 8, "steps": 60, "lr": 3e-3}


def every_pair(said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image, word and weight of a table [N, W] of what is said of what."""
    image, word = said.nonzero(as_tuple=True)
    return image, word, torch.ones(len(word), dtype=torch.float64)


def loss_of(scores: Tensor, said: Tensor) -> Tensor:
    cost, weight, _ = word_loss(scores, *every_pair(said))
    return (cost * weight).sum() / weight.sum()


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_it_is_the_divergence_of_the_images_that_say_a_word_from_those_it_is_said_of(images, words, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, words, generator=generator, dtype=torch.float64, requires_grad=True)
    said = torch.rand(images, words, generator=generator) < 0.5
    said[0] |= ~said.any(0)
    wanted = said.double() / said.sum(0)
    plain = (torch.special.xlogy(wanted, wanted) - wanted * scores.log_softmax(0)).sum(0).mean()
    loss = loss_of(scores, said)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-12) and loss >= -1e-12
    (gradient,) = torch.autograd.grad(loss, scores)
    assert torch.allclose(gradient, (scores.softmax(0) - wanted) / words, atol=1e-12)
    shifted = scores + torch.randn(words, generator=generator, dtype=torch.float64)
    assert loss_of(shifted, said).item() == pytest.approx(loss.item())  # how common a word is does not count


def test_a_word_of_every_image_teaches_nothing_where_all_say_it_equally():
    scores = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    loss = loss_of(scores, torch.tensor([[True, True], [True, False], [True, False]]))
    assert loss.item() == pytest.approx(math.log(3) / 2)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[:, 0].abs().max() < 1e-15 and gradient[0, 1] < 0 < gradient[1, 1]


def test_a_score_is_that_of_the_nearest_token_from_where_all_words_have_their_middle():
    generator = torch.Generator().manual_seed(0)
    words, common = torch.randn(4, 16, generator=generator), torch.full((16,), 9.0)
    images = [torch.randn(5, 16, generator=generator), torch.randn(3, 16, generator=generator)]
    images[1][2] = 7 * words[3]
    scores = word_scores([image + common for image in images], words + common, common)
    assert scores.shape == (2, 4) and scores[1].argmax() == 3
    assert 19.999 < scores[1, 3] < 20 + math.log(3)  # a cosine of 1, and two tokens that whisper
    assert torch.allclose(scores, word_scores(images, words, torch.zeros(16)), atol=1e-4)


def test_the_words_are_those_of_the_answers_of_each_photo_however_they_are_packed(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    samples = samples_of(model, shapes_folder, phases, True, torch.float32)
    whole = word_costs(model, mean_embedding(model), collate(samples, 10**6), PHASES)
    parts = word_costs(model, mean_embedding(model), collate(samples, 500), PHASES)
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    learned = [
        {(tree.phases[phase], target) for tree in sample.trees
         for phase, target, weight in zip(tree.phase, tree.target, tree.weight, strict=True) if weight > 0}
        for sample in samples
    ]  # fmt: skip
    assert len(whole.cost) == len(parts.cost) == sum(map(len, learned))
    alone = [part for part in samples[:1] if part.trees]
    costs = word_costs(model, mean_embedding(model), collate(alone, 10**6), PHASES)
    assert costs.loss.item() == pytest.approx(0, abs=1e-6) and not costs.learned  # one image is told from no other


def test_a_step_without_images_or_words_teaches_nothing(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    textless = samples_of(model, shapes_folder, phases, True, torch.float32)
    for sample in textless:
        for tree in sample.trees:
            tree.weight[:] = 0
    for batch in (collate(textless, 10**6), collate([], 10**6)):
        costs = word_costs(model, mean_embedding(model), batch, PHASES)
        assert not costs.learned and not costs.loss.requires_grad and not len(costs.cost)


def test_trees_of_one_photo_are_one_image(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    samples = samples_of(model, shapes_folder, phases, True, torch.float32)
    whole = word_costs(model, mean_embedding(model), collate(samples, 10**6), PHASES)
    twice = [Example([*sample.trees, *sample.trees], sample.picture, split=True) for sample in samples]
    split = word_costs(model, mean_embedding(model), collate(twice, 10**6), PHASES)
    assert split.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5) and len(split.cost) == len(whole.cost)


def run(folder: Any, *more: str) -> Any:
    stage = [f"curriculum.stages.align.{key}={value}" for key, value in STAGE.items()]
    return composed("curriculum.run=[align]", *stage, *more, run_dir=folder)


@pytest.mark.parametrize("more, message", [
    (["curriculum.stages.align.trainable=[projector,language]"],
     "objective=words reaches projector and vision only, trainable names language"),
    (["curriculum.stages.align.records_per_step=1"], "expected records_per_step >= 2, got 1"),
])  # fmt: skip
def test_what_it_cannot_reach_is_refused(more, message, tmp_path):
    with pytest.raises((config.ConfigError, ValueError)) as refused:
        run(tmp_path, *more)
    assert message in str(refused.value)


def test_a_model_that_knows_its_images_learns_through_the_language_model(tmp_path):
    settings, line = in_a_new_projector(run(tmp_path, "model=hf", "model.name=models/any"))
    assert settings.curriculum.stages["align"].objective == "lm"
    assert line == "stage align: objective=lm, since words is for the new projector of a composed model"
    settings, line = in_a_new_projector(run(tmp_path))
    assert settings.curriculum.stages["align"].objective == "words" and line is None
