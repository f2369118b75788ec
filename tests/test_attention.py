"""Every attention backend on every kind of language model equals the plain model on separate sequences."""

from __future__ import annotations

import copy

import pytest
import torch
from sequences import (
    MODELS,
    PRUNED,
    TOLERANCE,
    compare,
    in_fp64,
    language,
    of_forests,
    of_sequences,
    ours,
    plain,
    tuples,
)
from torch.nn import functional as F

from dress.dialogue.batch import Batch, Example, collate
from dress.dialogue.tree import build_tree, build_trees
from dress.kernels import fused, products
from dress.kernels.fused import gated, rms_norm, rotary
from dress.model import attention
from dress.model.head import head_loss


def forests(budget: int) -> Batch:
    return collate([Example([build_tree(dialogues)], None) for dialogues in tuples()], budget)


def sequences() -> list:
    return [one for dialogues in tuples() for one in dialogues]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", ["dense", "nodes"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_and_backend_equals_separate_sequences(kind, backend, dtype):
    model, other = ours(kind, dtype), plain(language(kind, dtype))
    if dtype == torch.float64:
        in_fp64(other)
    step = forests(90)
    assert len(step.forests) > 1
    loss = of_forests(model, step, backend)
    loss.backward()
    reference = of_sequences(other, sequences())
    reference.backward()
    compare(model, other, dtype, loss.item(), reference.item())


@pytest.mark.parametrize("limit", [1024, 8], ids=["kept", "computed again"])
@pytest.mark.parametrize("kind", MODELS)
def test_matrix_products_equal_separate_sequences(kind, limit, monkeypatch):
    """What bf16 runs on CPU, here in fp64, in blocks of three queries."""
    monkeypatch.setattr(attention, "PRODUCTS", {torch.float64})
    monkeypatch.setattr(products, "BLOCK", 3)
    monkeypatch.setattr(products, "SAVED_KEYS", limit)
    calls = []
    inner = products._SegmentAttention.apply
    monkeypatch.setattr(products._SegmentAttention, "apply", lambda *arguments: calls.append(1) or inner(*arguments))
    model, other = ours(kind, torch.float64), plain(language(kind, torch.float64))
    in_fp64(other)
    loss = of_forests(model, forests(90))
    loss.backward()
    reference = of_sequences(other, sequences())
    reference.backward()
    assert calls
    compare(model, other, torch.float64, loss.item(), reference.item())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "mistral"])
def test_flex_sees_what_dense_sees(kind):
    """Forward only: FlexAttention has no backward on CPU (its gradients are a gpu test)."""
    model, step = language(kind, torch.float32, wide=True), forests(200)
    with torch.no_grad():
        assert abs(of_forests(model, step, "flex") - of_forests(model, step, "dense")) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MODELS)
def test_flex_gradients_equal_dense_ones(kind):
    model = language(kind, torch.float32, wide=True).cuda()
    other = copy.deepcopy(model)
    step = forests(200).to("cuda")
    losses = of_forests(model, step, "flex"), of_forests(other, step, "dense")
    for loss in losses:
        loss.backward()
    assert abs(losses[0] - losses[1]) < 1e-5 * losses[1]
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        if two.grad is not None:
            assert (one.grad - two.grad).norm() <= 1e-4 * two.grad.norm() + 1e-9, name


def test_flex_is_refused_where_it_cannot_train():
    with pytest.raises(ValueError, match=r"model\.attention=flex: expected a CUDA device"):
        attention.plan(forests(200).forests[0], "flex")


def test_split_trees_give_the_same_loss_and_gradients():
    model, other = language("llama", torch.float64), language("llama", torch.float64)
    in_fp64(model), in_fp64(other)
    deep = tuples()[0]
    parts = build_trees(deep, 50)
    assert len(parts) > 1
    losses = (
        of_forests(model, collate([Example(parts, None)], 50)),
        of_forests(other, collate([Example([build_tree(deep)], None)], 200), "dense"),
    )
    for loss in losses:
        loss.backward()
    compare(model, other, torch.float64, *(loss.item() for loss in losses))


def test_bf16_is_as_near_as_two_layouts_without_sharing():
    """bf16 results move with the layout of a batch: sharing may not move them further (x 1.2)."""
    records = tuples()
    every = sequences()
    layouts = {
        "exact": (torch.float32, [[build_tree([one])] for one in every], 10**6),
        "tree": (torch.bfloat16, [[build_tree(dialogues)] for dialogues in records], 10**6),
        "rows": (torch.bfloat16, [[build_tree([one])] for one in every], 40),
        "packed": (torch.bfloat16, [[build_tree([one])] for one in every], 10**6),
    }
    gradients = {}
    for name, (dtype, trees, budget) in layouts.items():
        model = ours("llama", dtype)
        of_forests(model, collate([Example(t, None) for t in trees], budget)).backward()
        gradients[name] = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    far = {n: float((g - gradients["exact"]).norm() / gradients["exact"].norm()) for n, g in gradients.items()}
    assert 0 < far["tree"] <= 1.2 * max(far["rows"], far["packed"]), far


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_head_in_chunks_equals_the_whole(softcap, monkeypatch):
    torch.manual_seed(0)
    hidden, weight = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((9, 8), (31, 8)))
    where, target = torch.tensor([0, 1, 1, 4, 8, 8, 2, 3, 5, 6, 7]), torch.randint(0, 31, (11,))
    factor = torch.rand(11, dtype=torch.float64)
    logits = hidden @ weight.T
    logits = torch.tanh(logits / softcap) * softcap if softcap else logits
    monkeypatch.setattr("dress.model.head.CHUNK", 70)
    target[3:6] = logits[where].argmax(-1)[3:6]
    wanted_nll = F.cross_entropy(logits[where], target, reduction="none")
    reference = torch.autograd.grad((wanted_nll * factor).sum(), (hidden, weight))
    likeliest = torch.zeros(11, dtype=torch.bool)
    loss, nll = head_loss(hidden, weight, where, target, factor, softcap, likeliest)
    assert likeliest.tolist() == (logits[where].argmax(-1) == target).tolist() and likeliest[3:6].all()
    got = torch.autograd.grad(3 * loss, (hidden, weight))
    assert torch.allclose(nll, wanted_nll.detach()) and torch.allclose(loss, (wanted_nll * factor).sum())
    assert all(torch.allclose(g, 3 * w, rtol=1e-10, atol=1e-12) for g, w in zip(got, reference, strict=True))


def test_a_target_without_probability_has_its_exact_loss():
    weight = torch.tensor([[300.0], [0.0]])
    loss, nll = head_loss(torch.ones(1, 1), weight, torch.tensor([0]), torch.tensor([1]), torch.ones(1).double())
    assert nll.item() == loss.item() == 300.0


def test_the_heads_weight_gradient_is_summed_in_fp32(monkeypatch):
    """In bf16 the sum over many chunks loses its last parts."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(256, 16).bfloat16(), torch.randn(32, 16).requires_grad_()
    entries = (torch.arange(256), torch.randint(0, 32, (256,)), torch.ones(256).double() / 256)
    gradients = []
    for chunk in (10**9, 64):
        monkeypatch.setattr("dress.model.head.CHUNK", chunk)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = head_loss(hidden, weight, *entries)
        gradients += torch.autograd.grad(loss, weight)
    at_once, summed = gradients
    assert summed.dtype == torch.float32
    assert (summed - at_once).norm() < 3e-3 * at_once.norm()


def test_a_norm_under_autocast_is_rounded_once():
    x, weight = torch.randn(4, 16), torch.rand(16)
    with torch.autocast("cpu", torch.bfloat16):
        half = rms_norm(x, weight, 1e-5)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, rms_norm(x, weight, 1e-5).bfloat16())


def test_fused_parts_and_their_gradients_are_transformers_own():
    """In fp64, against the formulas written out: the trainer uses them for results in 16 bits only."""
    torch.manual_seed(0)
    x, weight, q, k, gate, up, down, bias = (
        torch.randn(*size, dtype=torch.float64, requires_grad=True)
        for size in ((2, 5, 8), (8,), (1, 4, 5, 8), (1, 2, 5, 8), (2, 5, 12), (2, 5, 12), (8, 12), (8,))
    )
    angle = torch.randn(1, 5, 4, dtype=torch.float64).repeat(1, 1, 2)
    cos, sin = angle.cos(), angle.sin()

    def half_turned(t):
        return torch.cat((-t[..., 4:], t[..., :4]), -1)

    reference = {
        "norm": (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight, rms_norm(x, weight, 1e-5)),
        "query": (q * cos[:, None] + half_turned(q) * sin[:, None], rotary(q, k, cos, sin)[0]),
        "key": (k * cos[:, None] + half_turned(k) * sin[:, None], rotary(q, k, cos, sin)[1]),
        "mlp": (gate * gate.sigmoid() * up @ down.T + bias, gated(gate, up, down, bias)),
        "mlp without bias": (gate * gate.sigmoid() * up @ down.T, gated(gate, up, down)),
    }
    for name, (theirs, mine) in reference.items():
        inputs = {
            "norm": (x, weight), "query": (q,), "key": (k,), "mlp": (gate, up, down, bias),
            "mlp without bias": (gate, up, down),
        }[name]  # fmt: skip
        along = torch.randn_like(theirs)
        assert torch.allclose(theirs, mine, rtol=1e-12, atol=1e-12), name
        for one, two in zip(
            torch.autograd.grad(theirs, inputs, along), torch.autograd.grad(mine, inputs, along), strict=True
        ):
            assert torch.allclose(one, two, rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("kind", sorted(PRUNED))
def test_layers_are_fused_in_16_bits_and_left_alone_above(kind, monkeypatch):
    model, other = ours(kind, torch.float32), language(kind, torch.float32)
    forest = forests(200).forests[0]
    calls = []
    for part in (fused._RMSNorm, fused._Rotary, fused._Gated):
        inner = part.apply
        monkeypatch.setattr(
            part, "apply", lambda *arguments, inner=inner, part=part: calls.append(part) or inner(*arguments)
        )

    def hidden(of):
        return of.base_model(
            inputs_embeds=of.get_input_embeddings()(forest.ids[None]), position_ids=forest.depth[None],
            attention_mask=attention.foreign_mask(forest.ids.device), use_cache=False,
            plan=attention.plan(forest, "dense", torch.arange(forest.tokens)),
        ).last_hidden_state.detach()  # fmt: skip

    assert torch.equal(hidden(model), hidden(other)) and not calls
    with torch.autocast("cpu", torch.bfloat16):
        assert (hidden(model) - hidden(other)).norm() < 2e-2 * hidden(other).norm()
    assert set(calls) == {fused._RMSNorm, fused._Rotary, fused._Gated}


def test_a_fused_mlp_keeps_two_wide_tensors_of_four():
    wide = {}
    for name, model in (("fused", ours("llama", torch.float32)), ("transformers", language("llama", torch.float32))):
        mlp, storages = model.base_model.layers[0].mlp, {}

        def keep(x, storages=storages):
            storages[x.untyped_storage().data_ptr()] = x
            return x

        x = torch.randn(1, 50, mlp.gate_proj.in_features, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16):
            mlp(x)
        wide[name] = sum(x.numel() == 50 * mlp.gate_proj.out_features for x in storages.values())
    assert wide == {"fused": 2, "transformers": 4}
