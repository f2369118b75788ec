"""Every kind of language model, small, as trees of tokens and as the separate sequences that they stand for."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dress import config
from dress.dialogue.batch import Batch, Forest
from dress.dialogue.encode import EncodedDialogue
from dress.kernels.fused import fuse
from dress.kernels.last_layer import prune_last_layer
from dress.model import attention
from dress.model.language import build_language
from dress.model.states import States

COMMON = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 97, "pad_token_id": 0,
}  # fmt: skip
GROUPED = COMMON | dict(num_key_value_heads=2)
# A bias of the keys acts only by their rotation: where that is slow, its gradient cancels to less than fp32 holds.
BIASED = GROUPED | dict(rope_parameters={"rope_type": "default", "rope_theta": 10.0})
MODELS = {
    "llama": GROUPED,
    "smollm2": GROUPED | dict(model_type="llama", hidden_size=36, num_attention_heads=9, num_key_value_heads=3,
                              tie_word_embeddings=True),
    "qwen2": BIASED,
    "qwen2.5": BIASED | dict(model_type="qwen2", hidden_size=96, num_attention_heads=12, tie_word_embeddings=True),
    "qwen3": GROUPED | dict(head_dim=8),
    "mistral": GROUPED | dict(sliding_window=6),
    "smollm3": GROUPED,
    "gemma2": GROUPED | dict(head_dim=8, sliding_window=6, query_pre_attn_scalar=8),
    "gemma3_text": GROUPED | dict(head_dim=8, sliding_window=6, sliding_window_pattern=2, query_pre_attn_scalar=8),
    "gpt2": dict(
        n_embd=32, n_inner=48, n_layer=2, n_head=4, vocab_size=97, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0
    ),
}  # fmt: skip
PRUNED = {"llama", "smollm2", "qwen2", "qwen2.5", "qwen3", "mistral", "smollm3"}
TOLERANCE = {torch.float64: (1e-12, 1e-10), torch.float32: (1e-6, 1e-6)}


def encoded(phase: str, *parts: tuple[list[int], float]) -> EncodedDialogue:
    ids = [token for run, _ in parts for token in run]
    return EncodedDialogue(phase, np.array(ids), np.array([weight for run, weight in parts for _ in run]))


def tuples() -> list[list[EncodedDialogue]]:
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


def wider(fields: dict[str, Any]) -> dict[str, Any]:
    """The same with heads of 16 numbers, the least that FlexAttention takes on CUDA."""
    if "head_dim" in fields:
        return fields | {"head_dim": 16}
    width, heads = ("n_embd", "n_head") if "n_embd" in fields else ("hidden_size", "num_attention_heads")
    return fields | {width: 16 * fields[heads]}


def language(kind: str, dtype: torch.dtype, lora: config.Lora | None = None, wide: bool = False):
    """As transformers builds it; `wide` for CUDA."""
    torch.manual_seed(0)
    fields = {"model_type": kind, **(wider(MODELS[kind]) if wide else MODELS[kind])}
    model = build_language(config.Language(config=fields, lora=lora), None).to(dtype)
    biases = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():  # so that no path is lost in tiny numbers
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith("proj.bias"):
            torch.nn.init.normal_(parameter, std=0.1, generator=biases)
        parameter.requires_grad_(lora is None or "lora_" in name)
    return model


def ours(kind: str, dtype: torch.dtype, lora: config.Lora | None = None):
    """The same weights, as the trainer runs them."""
    model = language(kind, dtype, lora)
    assert prune_last_layer(model) == (kind in PRUNED)
    fuse(model)
    if dtype == torch.float64:
        in_fp64(model)
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


def total_of(step: Batch) -> torch.Tensor:
    return torch.stack([forest.weight.sum() for forest in step.forests]).sum()


def of_forests(model, step: Batch, backend: str = "nodes") -> torch.Tensor:
    """Loss of a step as LVLM.forward computes it, without an image."""
    losses = [states_of(model, forest, backend).loss(forest.weight / total_of(step))[0] for forest in step.forests]
    return torch.stack(losses).sum()


def states_of(model, forest: Forest, backend: str = "nodes") -> States:
    """What LVLM.forward makes of a forest without an image."""
    rows, where = torch.unique(forest.row, return_inverse=True)
    hidden = model.base_model(
        inputs_embeds=model.get_input_embeddings()(forest.ids[None]),
        attention_mask=attention.foreign_mask(forest.ids.device), position_ids=forest.depth[None],
        use_cache=False, plan=attention.plan(forest, backend),
    ).last_hidden_state[0]  # fmt: skip
    hidden = hidden if len(hidden) == len(rows) else hidden[rows]
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return States(hidden, model.get_output_embeddings().weight, where, forest.target, softcap)


def of_sequences(model, dialogues: list[EncodedDialogue]) -> torch.Tensor:
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
    """Loss and gradients of two models within TOLERANCE."""
    loss_tolerance, tolerance = TOLERANCE[dtype]
    assert abs(loss_one - loss_two) <= loss_tolerance * abs(loss_two)
    expected = {name: p.grad for name, p in two.named_parameters() if p.grad is not None}
    got = {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
    assert expected.keys() == got.keys()
    for name, gradient in expected.items():
        error = (got[name] - gradient).norm() / gradient.norm().clamp(min=1e-30)
        assert error <= tolerance or gradient.norm() < 1e-9, (name, float(error))
