"""Every rank makes the same passes and collectives, whatever its share of a step holds; the result is one process's."""

from __future__ import annotations

import pytest
import torch
from conftest import small_model
from safetensors.torch import load_file
from test_step import Steps, Watch, fit, module_of
from test_tree import samples_of
from torch.multiprocessing import ProcessRaisedException

from dress.dialogue.batch import Example
from dress.dialogue.encode import IMAGE, EncodedDialogue
from dress.dialogue.tree import build_tree
from dress.train.module import NotFinite, TrainingStopped

RAISED = {2: ProcessRaisedException}
"""What another process raised, as the one that started it sees it."""
EVERYTHING = ["vision", "projector", "language"]


def text_only(sample: Example) -> Example:
    """The same words without the image."""
    (tree,) = sample.trees
    ids = tree.ids[tree.ids != IMAGE][:40]
    weights = torch.ones(len(ids), dtype=torch.float64).numpy()
    weights[0] = 0
    return Example([build_tree([EncodedDialogue("sft", ids, weights)])], None, where="text")


def samples(model, shapes_folder, phases, kinds: str) -> list[Example]:
    """`i` an image's record, `t` one without an image, in the order in which ranks take turns."""
    pictured = samples_of(model, shapes_folder, phases, True, torch.float32)
    return [pictured[n % 3] if kind == "i" else text_only(pictured[n % 3]) for n, kind in enumerate(kinds)]


CASES = {
    "text beside images": ("itit", EVERYTHING, 10**6),
    "text only": ("tttt", EVERYTHING, 10**6),
    "more forests on one rank": ("ititi", EVERYTHING, 600),
    "a rank without a record": ("i", EVERYTHING, 10**6),
    "the projector alone": ("itt", ["projector"], 10**6),
    "the encoder alone": ("tit", ["vision"], 10**6),
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_give_the_gradients_of_one_process(case, tokenizer, shapes_folder, phases, tmp_path):
    kinds, trainable, budget = CASES[case]
    gradients = {}
    for ranks, more in ((1, {}), (2, {"devices": 2, "strategy": "ddp_fork"})):
        model = small_model(tokenizer)
        module = module_of(model, trainable)
        read = samples(model, shapes_folder, phases, kinds)
        fit(module, Steps(read, budget), Watch(tmp_path / str(ranks)), **more)
        gradients[ranks] = load_file(tmp_path / str(ranks))
    assert gradients[1].keys() == gradients[2].keys() and gradients[1]
    assert any(name.startswith("projector") for name in gradients[1]) == ("i" in kinds and "projector" in trainable)
    for name, wanted in gradients[1].items():
        assert (gradients[2][name] - wanted).norm() <= 1e-6 * wanted.norm() + 1e-9, name


def test_a_step_that_reaches_nothing_trained_is_counted_and_changes_nothing(tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    module = module_of(model, ["projector"], steps=3)
    read = samples(model, shapes_folder, phases, "tt")
    before = [p.detach().clone() for p in model.parameters()]
    fit(module, Steps(read, 10**6, 3), Watch())
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert module.unreached_steps == 3 and module.trainer.global_step == 3
    assert module.lr_schedulers().last_epoch == 3
    assert not module.optimizers().state


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_without_a_supervised_token_stops_all_ranks(ranks, tokenizer, shapes_folder, phases):
    model = small_model(tokenizer)
    more = {"devices": 2, "strategy": "ddp_fork"} if ranks > 1 else {}
    with pytest.raises(RAISED.get(ranks, TrainingStopped), match="step 1: no supervised token"):
        fit(module_of(model, EVERYTHING), Steps([], 10**6), Watch(), **more)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_loss_that_is_not_finite_stops_all_ranks_before_the_step(ranks, tokenizer, shapes_folder, phases, tmp_path):
    model = small_model(tokenizer)
    read = samples(model, shapes_folder, phases, "ti")
    for number, sample in enumerate(read):
        sample.where = f"shard.tar: {number}"
    read[1].picture.inputs["pixels"][0, 0, 0, 0] = float("nan")  # on the second rank only
    more = {"devices": 2, "strategy": "ddp_fork"} if ranks > 1 else {}
    with pytest.raises(
        RAISED.get(ranks, NotFinite), match=r"step 1: a loss of nan \(phase .*shard\.tar: 0, shard\.tar: 1\)"
    ):
        fit(module_of(model, EVERYTHING), Steps(read, 10**6), Watch(tmp_path / "gradients"), **more)
    assert not (tmp_path / "gradients").exists()
