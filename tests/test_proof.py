"""The proof: on random tries, loss and every gradient of the trainer's model equal those of separate sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import MODELS, compare, in_fp64, language, of_forests, of_sequences, ours, plain

from dress import config
from dress.dialogue.batch import Example, collate
from dress.dialogue.encode import EncodedDialogue
from dress.dialogue.tree import build_tree
from dress.model import attention

LORA = config.Lora(rank=2, alpha=4, targets=["q_proj", "v_proj", "c_attn", "down_proj"])
tokens = st.lists(st.integers(5, 7), min_size=1, max_size=6)


@st.composite
def records(draw: st.DrawFn) -> list[EncodedDialogue]:
    """Dialogues over three words: many share prefixes, some end where others go on, some stand twice."""
    root = draw(tokens)
    rows = [root + draw(tokens) for _ in range(draw(st.integers(1, 4)))]
    rows += [row[: draw(st.integers(len(root), len(row)))] for row in rows[:1]]  # a leaf without tokens of its own
    rows += rows[: draw(st.integers(0, 1))]
    out = []
    for row in rows:
        weights = [0.0, *(draw(st.sampled_from([0.0, 0.3, 1.0])) for _ in row[1:])]
        weights[-1] = weights[-1] or (0.5 if len(row) > 1 else 0.0)
        out.append(EncodedDialogue(draw(st.sampled_from(["sft", "critique"])), np.array(row), np.array(weights)))
    return out


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", MODELS)
def test_random_tries_learn_what_their_sequences_learn(kind, lora, checkpointing):
    model, other = ours(kind, torch.float64, lora), plain(language(kind, torch.float64, lora))
    in_fp64(other)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()

    @given(st.lists(records(), min_size=1, max_size=2), st.sampled_from([12, 1000]))
    @settings(max_examples=3, deadline=None, derandomize=True, database=None)
    def check(drawn, budget):
        every = [one for dialogues in drawn for one in dialogues]
        if not sum(one.weights.sum() for one in every):
            return
        model.zero_grad()
        other.zero_grad()
        loss = of_forests(model, collate([Example([build_tree(d)], None) for d in drawn], budget))
        loss.backward()
        expected = of_sequences(other, every)
        expected.backward()
        compare(model, other, torch.float64, loss.item(), expected.item())

    check()
    assert all(("lora_" in name) == (p.grad is not None) for name, p in model.named_parameters()) or lora is None


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_a_forgotten_mask_is_seen(kind, monkeypatch):
    """Positions alone are silently wrong in transformers: the proof above must fail without the mask."""
    row = [5, 6, 7, 8, 9]
    dialogues = [
        EncodedDialogue("sft", np.array([*row, i, 8, 9]), np.array([0.0] * 5 + [1.0] * 3)) for i in (10, 11, 12)
    ]
    step = collate([Example([build_tree(dialogues)], None)], 100)
    right = float(of_forests(ours(kind, torch.float64), step))
    monkeypatch.setattr(attention, "foreign_mask", lambda device: None)
    monkeypatch.setattr(attention, "plan", lambda *given: None)
    wrong = float(of_forests(language(kind, torch.float64), step))
    assert abs(right - float(of_sequences(plain(language(kind, torch.float64)), dialogues))) < 1e-6
    assert abs(wrong - right) > 1e-4
