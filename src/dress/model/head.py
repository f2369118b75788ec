"""The loss of the language model's head, on supervised rows only, in chunks.

Logits of a whole forest would take more memory than the model: they are made chunk by chunk, turned
into loss and gradient at once, and dropped. The head's weight gradient is summed in fp32: a bf16 sum
over chunks biases training.

Shapes: E entries, U supervised rows, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dress.kernels.fused import out_dtype

CHUNK = 2**25
"""Logits in memory at a time."""


def head_loss(
    hidden: Tensor, weight: Tensor, where: Tensor, target: Tensor, factor: Tensor, softcap: float | None = None,
    likeliest: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The weighted sum of negative log-likelihoods, and each of them without gradient.

    Args:
        hidden: [U, D], rows that predict something.
        weight: [V, D], the head.
        where: [E], the row that predicts an entry; sorted entries are fastest.
        target: [E].
        factor: [E], float64; the loss is sum of factor x nll.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2).
        likeliest: bool [E], written here: whether nothing is more probable than the target. None: not looked at.

    Returns:
        loss [] (fp32, or fp64 for fp64 weights) and nll [E] in nats.
    """
    return _HeadLoss.apply(hidden, weight, where, target, factor, softcap, likeliest)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, where: Tensor, target: Tensor, factor: Tensor, softcap: float | None,
        likeliest: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        dtype = out_dtype(hidden)
        rows_all, head = hidden.to(dtype), weight.to(dtype)
        order = where.argsort(stable=True)
        counts = torch.bincount(where, minlength=len(hidden)).tolist()
        nll = torch.empty(len(target), dtype=wide, device=hidden.device)
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight: Tensor | None = None
        chunks = -(-len(hidden) * len(weight) // CHUNK)
        rows_at_once = max(1, -(-len(hidden) // max(1, chunks)))
        first = 0
        for start in range(0, len(hidden), rows_at_once):
            rows = rows_all[start : start + rows_at_once]
            entries = order[first : first + sum(counts[start : start + rows_at_once])]
            first += len(entries)
            at, goal, share = where[entries] - start, target[entries], factor[entries]
            logits = F.linear(rows, head)
            if softcap is not None:
                logits = torch.tanh(logits.to(wide).div_(softcap))
                capped = logits
                logits = capped * softcap
            p = torch.softmax(logits, -1, dtype=wide)
            nll[entries] = values = _surprise(p, logits, at, goal)
            loss += (values.double() * share).sum()
            if likeliest is not None:
                likeliest[entries] = p[at, goal] >= p.amax(-1)[at]
            if not (need_hidden or need_weight):
                continue
            summed = torch.zeros(len(rows), dtype=torch.float64, device=rows.device).index_add_(0, at, share)
            grad = p.mul_(summed.to(wide)[:, None])
            grad.index_put_((at, goal), -share.to(wide), accumulate=True)
            if softcap is not None:
                grad *= 1 - capped.square_()
            grad = grad.to(dtype)
            if grad_hidden is not None:
                grad_hidden[start : start + rows_at_once] = grad @ head
            if need_weight:
                part = grad.T @ rows
                grad_weight = part.to(wide) if grad_weight is None else grad_weight.add_(part)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(nll)
        ctx.dtype = weight.dtype
        return loss.to(wide), nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> Any:
        gradients = [g if g is None or grad_loss == 1 else g * grad_loss.to(g.dtype) for g in ctx.saved_tensors]
        grad_hidden, grad_weight = gradients
        return grad_hidden, None if grad_weight is None else grad_weight.to(ctx.dtype), None, None, None, None, None


def _surprise(p: Tensor, logits: Tensor, at: Tensor, goal: Tensor) -> Tensor:
    """Negative log-likelihood [E] of `goal` in rows `at`, exact also where its probability is too small to hold."""
    probability = p[at, goal]
    nll = -probability.log()
    rare = (probability < 1e-30).nonzero()[:, 0]
    if len(rare):
        rows = logits[at[rare]].to(p.dtype)
        nll[rare] = rows.logsumexp(-1) - rows.gather(1, goal[rare, None])[:, 0]
    return nll
