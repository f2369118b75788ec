"""Every attention backend on every kind of language model equals the plain model on separate sequences."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dress import config
from dress.dialogue.batch import Sample, Step, collate
from dress.dialogue.encode import Encoded
from dress.dialogue.tree import build_tree, build_trees
from dress.model import attention
from dress.model.head import head_loss
from dress.model.language import build_language
from dress.model.last_layer import prune_last_layer

COMMON = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 97, "pad_token_id": 0,
}  # fmt: skip
GROUPED = COMMON | dict(num_key_value_heads=2)
MODELS = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | dict(head_dim=8),
    "mistral": GROUPED | dict(sliding_window=6),
    "smollm3": GROUPED,
    "gemma2": GROUPED | dict(head_dim=8, sliding_window=6, query_pre_attn_scalar=8),
    "gemma3_text": GROUPED | dict(head_dim=8, sliding_window=6, sliding_window_pattern=2, query_pre_attn_scalar=8),
    "gpt2": dict(
        n_embd=32, n_inner=48, n_layer=2, n_head=4, vocab_size=97, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0
    ),
}
TOLERANCE = {torch.float64: (1e-12, 1e-10), torch.float32: (1e-6, 1e-6)}


def encoded(phase: str, *parts: tuple[list[int], float]) -> Encoded:
    ids = [token for run, _ in parts for token in run]
    return Encoded(phase, np.array(ids), np.array([weight for run, weight in parts for _ in run]))


def tuples() -> list[list[Encoded]]:
    """Records with deep and flat branches, a nested prefix, a duplicate, one branch only; weights differ."""
    rng = np.random.default_rng(0)

    def run(size: int) -> list[int]:
        return rng.integers(1, 90, size).tolist()

    prompt, a0, fb, a1, fb2, a2 = run(11), run(7), run(4), run(7), run(4), run(9)
    deep = [
        encoded("refinement", (prompt, 0), (a0, 0.0), (fb, 0), (a1, 1.0), (fb2, 0), (a2, 1.0)),
        encoded("sft", (prompt, 0), (a0, 0.7)),
        encoded("refinement", (prompt, 0), (a0, 0.0), (fb, 0), (a1, 0.5)),
        encoded("refinement", (prompt, 0), (a0, 0.0), (fb, 0), (run(5), 0.5)),
        *(encoded("critique", (prompt, 0), (run(5), 0), (run(7), 0.3)) for _ in range(3)),
    ]
    flat = [encoded("sft", (prompt[:4], 0), (run(3), 1.0)), encoded("sft", (prompt[:4], 0), (run(12), 2.0))]
    flat.append(flat[0])
    return [deep, flat, [encoded("align", (run(3), 0), (run(6), 1.0))]]


def language(kind: str, dtype: torch.dtype, **more: object):
    torch.manual_seed(0)
    fields = {"model_type": kind, **MODELS[kind], **more}
    model = build_language(config.Language(config=fields, chat="plain"), None).to(dtype)
    for parameter in model.parameters():  # so that no path is lost in tiny numbers
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def in_fp64(model) -> None:
    """Norms in fp64: transformers' own compute in fp32, whose rounding (1.4e-7 here) would hide what is proved."""
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            one = 1.0 if "Gemma" in type(module).__name__ else 0.0
            eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))

            def forward(x, module=module, one=one, eps=eps):
                return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (one + module.weight)

            module.forward = forward


def total_of(step: Step) -> torch.Tensor:
    return torch.stack([forest.weight.sum() for forest in step.forests]).sum()


def of_forests(model, step: Step, backend: str, pruned: bool = False) -> torch.Tensor:
    """Loss of a step as LVLM.forward computes it, without an image."""
    losses = []
    for forest in step.forests:
        rows, where = torch.unique(forest.row, return_inverse=True)
        hidden = model.base_model(
            inputs_embeds=model.get_input_embeddings()(forest.ids[None]),
            attention_mask=attention.foreign_mask(forest.ids.device), position_ids=forest.depth[None],
            use_cache=False, plan=attention.plan(forest, backend),
        ).last_hidden_state[0]  # fmt: skip
        hidden = hidden if pruned else hidden[rows]
        softcap = getattr(model.config, "final_logit_softcapping", None)
        head = model.get_output_embeddings().weight
        losses.append(head_loss(hidden, head, where, forest.target, forest.weight / total_of(step), softcap)[0])
    return torch.stack(losses).sum()


def of_sequences(model, dialogues: list[Encoded]) -> torch.Tensor:
    """The same loss from the plain model: one sequence at a time, its own masks, its own head."""
    total = sum(one.weights.sum() for one in dialogues)
    losses = []
    for one in dialogues:
        logits = model(input_ids=torch.from_numpy(one.ids)[None]).logits[0, :-1]
        nll = F.cross_entropy(logits, torch.from_numpy(one.ids[1:]), reduction="none")
        losses.append((nll * torch.from_numpy(one.weights[1:]).to(nll.dtype)).sum() / total)
    return torch.stack(losses).sum()


def plain(model):
    """The same model as transformers runs it; its own soft cap is eager, with a softmax in fp32 only."""
    other = copy.deepcopy(model)
    if model.config.model_type != "gemma2":
        other.set_attn_implementation("sdpa")
    return other


def compare(one, two, dtype, loss_one, loss_two):
    loss_tolerance, tolerance = TOLERANCE[dtype]
    assert abs(loss_one - loss_two) <= loss_tolerance * abs(loss_two)
    wanted = {name: p.grad for name, p in two.named_parameters() if p.grad is not None}
    got = {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
    assert wanted.keys() == got.keys()
    for name, gradient in wanted.items():
        error = (got[name] - gradient).norm() / gradient.norm().clamp(min=1e-30)
        assert error <= tolerance or gradient.norm() < 1e-9, (name, float(error))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", ["dense", "nodes"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_and_backend_equals_separate_sequences(kind, backend, dtype):
    model = language(kind, dtype)
    other = plain(model)
    if dtype == torch.float64:
        in_fp64(model)
        in_fp64(other)
    records = tuples()
    step = collate([Sample([build_tree(dialogues)], None) for dialogues in records], 90)
    assert len(step.forests) > 1
    pruned = prune_last_layer(model)
    assert pruned == (kind not in ("gemma2", "gemma3_text", "gpt2"))
    loss = of_forests(model, step, backend, pruned)
    loss.backward()
    wanted = of_sequences(other, [one for dialogues in records for one in dialogues])
    wanted.backward()
    compare(model, other, dtype, loss.item(), wanted.item())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "mistral"])
def test_flex_sees_what_dense_sees(kind):
    """Forward only: FlexAttention has no backward on CPU (its gradients are a gpu test)."""
    model = language(kind, torch.float32)
    step = collate([Sample([build_tree(dialogues)], None) for dialogues in tuples()], 200)
    with torch.no_grad():
        assert abs(of_forests(model, step, "flex") - of_forests(model, step, "dense")) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MODELS)
def test_flex_gradients_equal_dense_ones(kind):
    model = language(kind, torch.float32).cuda()
    other = copy.deepcopy(model)
    step = collate([Sample([build_tree(dialogues)], None) for dialogues in tuples()], 200).to("cuda")
    losses = of_forests(model, step, "flex"), of_forests(other, step, "dense")
    for loss in losses:
        loss.backward()
    assert abs(losses[0] - losses[1]) < 1e-5 * losses[1]
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        if q.grad is not None:
            assert (p.grad - q.grad).norm() <= 1e-4 * q.grad.norm() + 1e-9, name


def test_flex_is_refused_where_it_cannot_train():
    step = collate([Sample([build_tree(tuples()[0])], None)], 200)
    with pytest.raises(ValueError, match=r"model\.attention=flex: expected a CUDA device"):
        attention.plan(step.forests[0], "flex")


@pytest.mark.parametrize("backend", ["dense", "nodes"])
def test_checkpointing_changes_nothing(backend):
    model, other = language("llama", torch.float64), language("llama", torch.float64)
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert prune_last_layer(model)
    step = collate([Sample([build_tree(dialogues)], None) for dialogues in tuples()], 90)
    losses = of_forests(model, step, backend, pruned=True), of_forests(other, step, backend)
    for loss in losses:
        loss.backward()
    compare(model, other, torch.float64, *(loss.item() for loss in losses))


def test_lora_gradients_equal_those_of_separate_sequences():
    lora = config.Lora(rank=2, alpha=4, targets=["q_proj", "v_proj"])
    fields = {"model_type": "llama", **GROUPED}
    torch.manual_seed(0)
    model = build_language(config.Language(config=fields, lora=lora), None).double()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
        parameter.requires_grad_("lora_" in name)
    in_fp64(model)
    other = plain(model)
    in_fp64(other)
    records = tuples()
    loss = of_forests(model, collate([Sample([build_tree(d)], None) for d in records], 90), "nodes")
    wanted = of_sequences(other, [one for dialogues in records for one in dialogues])
    loss.backward()
    wanted.backward()
    assert all("lora_" in name for name, p in model.named_parameters() if p.grad is not None)
    compare(model, other, torch.float64, loss.item(), wanted.item())


def test_split_trees_give_the_same_loss_and_gradients():
    model, other = language("llama", torch.float64), language("llama", torch.float64)
    in_fp64(model), in_fp64(other)
    deep = tuples()[0]
    parts = build_trees(deep, 50)
    assert len(parts) > 1
    losses = (
        of_forests(model, collate([Sample(parts, None)], 50), "nodes"),
        of_forests(other, collate([Sample([build_tree(deep)], None)], 200), "dense"),
    )
    for loss in losses:
        loss.backward()
    compare(model, other, torch.float64, *(loss.item() for loss in losses))


def test_bf16_is_as_near_as_two_layouts_without_sharing():
    """bf16 results move with the layout of a batch: sharing may not move them further (x 1.2)."""
    records = tuples()
    every = [one for dialogues in records for one in dialogues]
    layouts = {
        "exact": (torch.float32, [[build_tree([one])] for one in every], 10**6),
        "tree": (torch.bfloat16, [[build_tree(dialogues)] for dialogues in records], 10**6),
        "rows": (torch.bfloat16, [[build_tree([one])] for one in every], 40),
        "packed": (torch.bfloat16, [[build_tree([one])] for one in every], 10**6),
    }
    gradients = {}
    for name, (dtype, trees, budget) in layouts.items():
        model = language("llama", dtype)
        of_forests(model, collate([Sample(t, None) for t in trees], budget), "nodes").backward()
        gradients[name] = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    far = {n: float((g - gradients["exact"]).norm() / gradients["exact"].norm()) for n, g in gradients.items()}
    assert far["tree"] <= 1.2 * max(far["rows"], far["packed"]), far


def test_a_head_in_chunks_equals_the_whole(monkeypatch):
    torch.manual_seed(0)
    hidden, weight = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((9, 8), (31, 8)))
    where, target = torch.tensor([0, 1, 1, 4, 8, 8, 2, 3, 5, 6, 7]), torch.randint(0, 31, (11,))
    factor = torch.rand(11, dtype=torch.float64)
    for softcap in (None, 2.0):
        logits = hidden @ weight.T
        logits = torch.tanh(logits / softcap) * softcap if softcap else logits
        plain = F.cross_entropy(logits[where], target, reduction="none")
        wanted = torch.autograd.grad((plain * factor).sum(), (hidden, weight))
        monkeypatch.setattr("dress.model.head.CHUNK", 70)
        loss, nll = head_loss(hidden, weight, where, target, factor, softcap)
        got = torch.autograd.grad(3 * loss, (hidden, weight))
        assert torch.allclose(nll, plain.detach()) and torch.allclose(loss, (plain * factor).sum())
        assert all(torch.allclose(g, 3 * w, rtol=1e-10, atol=1e-12) for g, w in zip(got, wanted, strict=True))
