"""Attention of the `nodes` backend as plain matrix products, forward and backward.

A segment's queries meet the keys of its ancestors and its own in one product per key head, and what lies
above the diagonal is left out block by block. On CPU this is about four times as fast as PyTorch's own
attention kernel, whose products are small; scores are rounded to the dtype of the inputs, as in
transformers' eager attention.

Shapes: T tokens, H query heads, K key heads, G = H / K, d width of a head; a group of P equal segments
has `own` tokens each and sees `seen`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dress.kernels.attention_params import AttentionParams

BLOCK = 128
"""Queries of a segment that are scored together: fewer leave out more, more are larger products."""

SAVED_KEYS = 1024
"""Keys up to which probabilities are kept for the backward pass; beyond, they are computed again."""


@dataclass(frozen=True)
class SegmentGroup:
    """P equal segments. `queries` [P * own] and `keys` [P * seen] are places in the forest, or a run of them."""

    segments: int
    own: int
    seen: int
    queries: Tensor | slice
    keys: Tensor | slice


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, groups: list[SegmentGroup], params: AttentionParams
) -> Tensor:
    """Attention of every segment to its ancestors and itself.

    Args:
        query: [H, T, d].
        key: [K, T, d].
        value: [K, T, d].
        groups: every token is a query of exactly one.
        params: of the layer.

    Returns:
        [T, H, d].
    """
    return _SegmentAttention.apply(query, key, value, groups, params)


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: list[SegmentGroup], params: AttentionParams
    ) -> Tensor:
        out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
        saved: list[Tensor | None] = []
        for group in groups:
            q, k, v = _take(query, group.queries, group, key.shape[0]), _keys(key, group), _keys(value, group)
            answers = torch.empty_like(q)
            for first, last, low in _blocks(group, params.window):
                p = _probabilities(q[:, :, first:last], k[:, low:], group, first, low, params)
                answers[:, :, first:last] = torch.bmm(p, v[:, low : low + p.shape[2]]).view(*_of(q, first, last))
                saved.append(p if group.seen <= SAVED_KEYS and any(ctx.needs_input_grad[:3]) else None)
            _put(out, group.queries, answers, group)
        ctx.save_for_backward(query, key, value, *saved)
        ctx.groups, ctx.params = groups, params
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        query, key, value, *saved = ctx.saved_tensors
        groups, params = ctx.groups, ctx.params
        scale = params.scale_of(query.shape[-1])
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (key, value))
        number = 0
        for group in groups:
            q, k, v = _take(query, group.queries, group, key.shape[0]), _keys(key, group), _keys(value, group)
            g = _take(grad_out.transpose(0, 1), group.queries, group, key.shape[0])
            grad_q = torch.empty_like(q)
            grad_k, grad_v = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (k, v))
            for first, last, low in _blocks(group, params.window):
                p, number = saved[number], number + 1
                part, rows = q[:, :, first:last], _of(q, first, last)
                if p is None:
                    p = _probabilities(part, k[:, low:], group, first, low, params)
                high = low + p.shape[2]
                grad_rows = g[:, :, first:last].reshape(len(p), -1, q.shape[-1])
                grad_v[:, low:high] += torch.bmm(p.transpose(1, 2), grad_rows)
                grad_s = torch._softmax_backward_data(
                    torch.bmm(grad_rows, v[:, low:high].transpose(1, 2)), p, -1, p.dtype
                )
                if params.softcap is not None:
                    capped = _scores(part, k[:, low:high], scale).div_(params.softcap).tanh_()
                    grad_s *= 1 - capped.square_()
                grad_q[:, :, first:last] = torch.bmm(grad_s, k[:, low:high]).view(rows)
                grad_k[:, low:high] += torch.bmm(grad_s.transpose(1, 2), part.reshape(grad_rows.shape))
            _put(grad_query.transpose(0, 1), group.queries, grad_q.mul_(scale), group)
            _add(grad_key, group, grad_k.mul_(scale))
            _add(grad_value, group, grad_v)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _take(x: Tensor, places: Tensor | slice, group: SegmentGroup, key_heads: int) -> Tensor:
    """Queries [H, T, d] of a group as [P * K, G, own, d]."""
    rows = x[:, places] if isinstance(places, slice) else x.index_select(1, places)
    rows = rows.reshape(key_heads, -1, group.segments, group.own, x.shape[2])
    return rows.permute(2, 0, 1, 3, 4).reshape(group.segments * key_heads, -1, group.own, x.shape[2])


def _keys(x: Tensor, group: SegmentGroup) -> Tensor:
    """Keys or values [K, T, d] of a group as [P * K, seen, d]."""
    rows = x[:, group.keys] if isinstance(group.keys, slice) else x.index_select(1, group.keys)
    rows = rows.reshape(len(x), group.segments, group.seen, x.shape[2])
    return rows.transpose(0, 1).reshape(-1, group.seen, x.shape[2])


def _put(out: Tensor, places: Tensor | slice, answers: Tensor, group: SegmentGroup) -> None:
    """Write [P * K, G, own, d] into [T, H, d]."""
    rows = answers.view(group.segments, -1, group.own, answers.shape[-1]).transpose(1, 2).flatten(0, 1)
    out[places] = rows


def _add(total: Tensor, group: SegmentGroup, part: Tensor) -> None:
    """Add [P * K, seen, d] to [K, T, d]; several segments may see one key."""
    rows = part.view(group.segments, len(total), group.seen, -1).transpose(0, 1).reshape(len(total), -1, part.shape[2])
    if isinstance(group.keys, slice):
        total[:, group.keys] += rows
    else:
        total.index_add_(1, group.keys, rows)


def _blocks(group: SegmentGroup, window: int | None) -> list[tuple[int, int, int]]:
    """[first, last) of the queries of each block, and the first key that any of them sees."""
    count = -(-group.own // BLOCK)
    cuts = [group.own * i // count for i in range(count + 1)]
    above = group.seen - group.own
    return [
        (first, last, 0 if window is None else max(0, above + first - window + 1)) for first, last in pairwise(cuts)
    ]


def _of(q: Tensor, first: int, last: int) -> tuple[int, ...]:
    return (q.shape[0], q.shape[1], last - first, q.shape[3])


def _scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Scaled products of [B, G, q, d] and [B, k, d] as [B, G * q, k]."""
    rows = q.reshape(len(q), -1, q.shape[-1])
    return torch.baddbmm(rows.new_empty(()), rows, k.transpose(1, 2), beta=0, alpha=scale)


def _probabilities(q: Tensor, k: Tensor, group: SegmentGroup, first: int, low: int, params: AttentionParams) -> Tensor:
    """Of the queries from `first` on to the keys from `low` on: [B, G * q, keys up to the last query's own]."""
    size = q.shape[2]
    above = group.seen - group.own - low  # keys before the segment's own
    seen = above + first + size
    scores = _scores(q, k[:, :seen], params.scale_of(q.shape[-1]))
    if params.softcap is not None:
        scores.div_(params.softcap).tanh_().mul_(params.softcap)
    view = scores.view(len(q), -1, size, seen)
    view[..., above + first :] += _hidden(size, size, size, scores.dtype, scores.device)
    if params.window is not None and seen > params.window:
        view += _hidden(size, seen, params.window, scores.dtype, scores.device)
    return torch.softmax(scores, -1)


@lru_cache(maxsize=64)
def _hidden(size: int, seen: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores [size, seen] of the last `size` of `seen` tokens: -inf on later ones, and on
    those `window` or more before."""
    before = torch.arange(seen - size, seen, device=device)[:, None] - torch.arange(seen, device=device)
    hidden = (before < 0) | (before >= window)
    return torch.zeros(size, seen, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
