"""Token trees: loss and every gradient equal those of the separate dialogues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LAYOUT, picture, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from dress.data.images import open_image
from dress.data.shards import Shards
from dress.dialogue.batch import Example, collate, pack
from dress.dialogue.encode import IMAGE, EncodedDialogue
from dress.dialogue.tree import build_tree, build_trees
from dress.model import attention
from dress.phases import supervised
from dress.record import Record, Turn
from dress.worlds.shapes.rater import OracleRater

DTYPES = {torch.float64: (1e-12, 1e-7), torch.float32: (1e-6, 1e-6)}


def collected(record: Record) -> Record:
    """The record as if its answers had been collected: feedback, a second try, feedback."""
    rater = OracleRater()
    dialogues = []
    for dialogue in record.dialogues:
        turns_there = dialogue.model_copy(update={"turns": [dialogue.turns[0].model_copy()]})
        turns_there.turns[0] = turns_there.turns[0].model_copy(update={"feedback": rater.rate([(record, turns_there)])})
        again = turns_there.turns[0].feedback[0].refinement or "Again."
        turns_there.turns.append(Turn(user=again, assistant="There is a red circle."))
        turns_there.turns[1] = turns_there.turns[1].model_copy(update={"feedback": rater.rate([(record, turns_there)])})
        dialogues.append(turns_there)
    return record.model_copy(update={"dialogues": dialogues})


def loss_and_gradients(model, samples, tokens_per_forest) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    step = collate(samples, tokens_per_forest)
    weight = torch.stack([f.weight.sum() for f in step.forests]).sum()
    total = 0.0
    for forest in step.forests:
        loss, _ = model(forest, forest.weight / weight)
        loss.backward()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def samples_of(model, folder, phases, shared: bool, dtype) -> list[Example]:
    mixture = {"align": 0.3, "sft": 1.0, "critique": 0.5, "refinement": 0.5, "rating": 0.2}
    samples = []
    for record, image in list(Shards(folder / "sft"))[:3]:
        dialogues = supervised(collected(record), mixture, phases)
        encoded = [model.encoder.supervised(d, record.key, LAYOUT) for d in dialogues]
        trees = [build_tree(encoded)] if shared else [build_tree([one]) for one in encoded]
        samples.append(Example(trees, picture(model.vision.preprocess(open_image(image, "")).to(dtype))))
    return samples


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("budget", [700, 100_000])
def test_a_tree_gives_the_loss_and_gradients_of_separate_sequences(dtype, budget, tokenizer, shapes_folder, phases):
    model = small_model(tokenizer).to(dtype)
    one, grads_one = loss_and_gradients(model, samples_of(model, shapes_folder, phases, True, dtype), budget)
    two, grads_two = loss_and_gradients(model, samples_of(model, shapes_folder, phases, False, dtype), 100_000)
    loss_tolerance, gradient_tolerance = DTYPES[dtype]
    assert abs(one - two) <= loss_tolerance * abs(two)
    assert grads_one.keys() == grads_two.keys()
    for name in grads_two:
        error = (grads_one[name] - grads_two[name]).norm() / grads_two[name].norm().clamp(min=1e-30)
        assert error <= gradient_tolerance or grads_two[name].norm() < 1e-9, (name, error)


def test_forgetting_the_mask_changes_the_loss(tokenizer, shapes_folder, phases, monkeypatch):
    model = small_model(tokenizer).double()
    samples = samples_of(model, shapes_folder, phases, True, torch.float64)
    right, _ = loss_and_gradients(model, samples, 100_000)
    monkeypatch.setattr(attention, "foreign_mask", lambda device: None)
    monkeypatch.setattr("dress.model.lvlm.plan", lambda *given: None)
    wrong, _ = loss_and_gradients(model, samples, 100_000)
    assert abs(right - wrong) > 1e-4


def test_a_tree_is_smaller_than_its_dialogues(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    shared, separate = (
        sum(f.tokens for f in collate(samples_of(model, shapes_folder, phases, s, torch.float32), 10**6).forests)
        for s in (True, False)
    )
    assert shared < 0.6 * separate


words = st.integers(0, 3)
dialogue = st.builds(
    lambda prefix, rest, flags: EncodedDialogue(
        "sft",
        np.array([IMAGE] * 2 + prefix + rest),
        np.array([0.0, 0.0, *(float(f) for f in (flags + [1] * 20)[: len(prefix + rest)])]),
    ),
    st.lists(words, max_size=3),
    st.lists(words, min_size=1, max_size=6),
    st.lists(st.integers(0, 2), max_size=6),
)


@given(st.lists(dialogue, min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_a_trie_keeps_every_context_target_and_weight(dialogues):
    """Walking from a source row up to the root gives the context of some dialogue, with its weight."""
    tree = build_tree(dialogues)
    parent = [-1] * len(tree)
    for k in range(len(tree)):
        for q in range(k + 1, tree.subtree_end[k]):
            parent[q] = k  # the last ancestor in depth-first order is the parent
    expected: dict = {}
    for one in dialogues:
        for i, weight in enumerate(one.weights):
            if weight:
                key = (tuple(one.ids[:i]), one.ids[i])
                expected[key] = expected.get(key, 0.0) + weight
    got: dict = {}
    for row, target, weight in zip(tree.row, tree.target, tree.weight, strict=True):
        context, node = [], row
        while node >= 0:
            context.append(tree.ids[node])
            assert tree.depth[node] == (tree.depth[parent[node]] + 1 if parent[node] >= 0 else 0)
            node = parent[node]
        assert (tuple(reversed(context)), target) not in got
        got[tuple(reversed(context)), target] = weight
    assert got == expected
    assert len(tree) == len({tuple(one.ids[: i + 1]) for one in dialogues for i in range(len(one.ids))})
    places = []
    for segment in tree.segments:
        runs = [place for run in segment.before for place in range(*run)]
        places += range(segment.start, segment.stop)
        ancestors, node = [], parent[segment.start]
        while node >= 0:
            ancestors.append(node)
            node = parent[node]
        assert runs == ancestors[::-1]
        assert [parent[i] for i in range(segment.start + 1, segment.stop)] == list(
            range(segment.start, segment.stop - 1)
        )
    assert places == list(range(len(tree)))


@given(st.lists(dialogue, min_size=1, max_size=6), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_a_split_keeps_every_dialogue_whole_and_every_part_within_budget(dialogues, budget):
    trees = build_trees(dialogues, budget)
    assert sum(tree.weight.sum() for tree in trees) == sum(one.weights.sum() for one in dialogues)
    assert all(len(tree) <= max(budget, *(len(one.ids) for one in dialogues)) for tree in trees)
    if len(build_tree(dialogues)) <= budget:
        assert len(trees) == 1


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 200))
def test_packing_puts_every_tree_into_one_forest(sizes, budget):
    bins = pack(sizes, budget)
    assert sorted(i for one in bins for i in one) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in one) <= budget for one in bins)


def test_forests_of_mixed_records_are_full():
    """97 % and more of the budget, the last forest of a step not counted."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = np.clip(rng.lognormal(6.9, 0.5, 64), 300, 4000).astype(int).tolist()
        *full, _ = ([sizes[i] for i in one] for one in pack(sizes, 16384))
        assert len(full) >= 3
        assert sum(map(sum, full)) >= 0.97 * 16384 * len(full)


def test_a_step_counts_what_was_split_and_how_full_its_forests_are(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    samples = samples_of(model, shapes_folder, phases, True, torch.float32)
    size = max(len(sample.trees[0]) for sample in samples)
    step = collate([*samples, Example(samples[0].trees, samples[0].picture, split=True)], size)
    assert step.split == 1
    assert step.capacity == size * (len(step.forests) - 1)
    assert step.filled == sum(forest.tokens for forest in step.forests[:-1])


@given(st.lists(dialogue, min_size=1, max_size=6), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_a_split_cuts_neither_image_nor_supervised_span(dialogues, budget):
    """Every dialogue stands whole, from the image on, in exactly one part."""
    ways = []
    for tree in build_trees(dialogues, budget):
        for leaf in range(len(tree)):
            above = [i for i in range(leaf + 1) if tree.subtree_end[i] > leaf]
            ways.append(tuple(tree.ids[above].tolist()))
    for one in dialogues:
        assert tuple(one.ids.tolist()) in ways
    assert all(way[:2] == (IMAGE, IMAGE)[: len(way)] for way in ways)
