"""Attention over forests: every token attends to its ancestors and itself.

Registered in transformers as `dress`, so that any causal LM built on its attention interface uses it:
with a `Plan` among the model's keyword arguments it is tree attention, with a plan of `model.cache` it
reads and writes a cache (generation), without one it is SDPA with transformers' own mask. The model gets
`FOREIGN_MASK` beside a plan, a 4-D mask that transformers passes on untouched: it builds no T x T mask and
detects no "packed sequences" in our positions.

Backends, all equal (tests/test_attention.py):

- `dense`: trees padded side by side, one SDPA with an ancestor mask per tree. The oracle.
- `nodes`: one attention per segment over [keys of its ancestors ‖ its own], equal segments batched; SDPA, or (bf16)
  matrix products (kernels.products). No masked-out work but above the diagonal; for CPU.
- `flex`: FlexAttention over the whole forest with block sparsity; for CUDA.

Shapes: T tokens, H query heads, K key heads, d width of a head.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dress.dialogue.batch import Forest
from dress.dialogue.tree import Segment
from dress.kernels.attention_params import AttentionParams
from dress.kernels.products import SegmentGroup, segment_attention

NAME = "dress"
Backend = Literal["dense", "nodes", "flex"]
Blocks = Literal["all", "sliding"]
"""All layers (Gemma 3), or those with a sliding window (Gemma 4)."""
PRODUCTS = {torch.bfloat16}
"""Dtypes in which `nodes` is faster as plain matrix products than as PyTorch's attention kernel (CPU)."""


@dataclass
class Plan:
    """How the layers of one forward pass attend; made once per forest, shared by all layers."""

    forest: Forest
    backend: Backend
    rows: Tensor
    """Rows that predict something [U], in order."""
    fused: bool = True
    """`nodes` as plain matrix products where they are faster (bf16)."""
    blocks: Blocks = "all"
    """In which layers the tokens of a block (`Forest.until`) see each other."""
    masks: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @cached_property
    def cuts(self) -> list[int]:
        """Places where any segment or run of ancestors begins or ends."""
        cuts = {0, self.forest.tokens}
        for segment in self.forest.segments:
            cuts |= {segment.start, segment.stop, *(place for run in segment.before for place in run)}
        return sorted(cuts)

    @cached_property
    def number(self) -> dict[int, int]:
        """Which cut a place is."""
        return {place: number for number, place in enumerate(self.cuts)}

    @cached_property
    def until(self) -> list[int] | None:
        """`Forest.until` as plain numbers."""
        return None if self.forest.until is None else self.forest.until.tolist()

    @cached_property
    def groups(self) -> list[list[Segment]]:
        """Paths of equal length below equally many ancestors, with the same blocks."""
        groups: dict[tuple[Any, ...], list[Segment]] = defaultdict(list)
        for segment in self.forest.segments:
            size, above = segment.stop - segment.start, sum(stop - start for start, stop in segment.before)
            groups[size, above, self.blocks_in(segment)].append(segment)
        return list(groups.values())

    def blocks_in(self, segment: Segment) -> tuple[int, ...] | None:
        """How far each token of a segment sees, counted from the segment's start; None where it has no block."""
        if self.until is None:
            return None
        until = self.until[segment.start : segment.stop]
        if all(stop == place + 1 for place, stop in enumerate(until, segment.start)):
            return None
        return tuple(stop - segment.start for stop in until)

    def sees_blocks(self, params: AttentionParams) -> bool:
        """Whether the tokens of a block see each other in a layer."""
        return self.forest.until is not None and (self.blocks == "all" or params.window is not None)

    @cached_property
    def products(self) -> list[SegmentGroup]:
        """The groups as places, for matrix products."""
        device = self.forest.ids.device

        def places(runs: list[tuple[int, int]]) -> Tensor | slice:
            contiguous = all(before[1] == after[0] for before, after in pairwise(runs))
            if contiguous:
                return slice(runs[0][0], runs[-1][1])
            return torch.cat([torch.arange(*run) for run in runs]).to(device)

        return [
            SegmentGroup(
                len(segments),
                segments[0].stop - segments[0].start,
                sum(stop - start for start, stop in (*segments[0].before, (segments[0].start, segments[0].stop))),
                places([(segment.start, segment.stop) for segment in segments]),
                places([run for segment in segments for run in (*segment.before, (segment.start, segment.stop))]),
            )
            for segments in self.groups
        ]

    @cached_property
    def order(self) -> list[int]:
        """Where each segment, in order of place, stands among the segments in order of groups."""
        starts = [segment.start for group in self.groups for segment in group]
        return sorted(range(len(starts)), key=starts.__getitem__)

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Trees side by side: token of each place [R * S] (0 where padded), place of each token [T], ancestor mask
        bool [R, 1, S, S] without and with what blocks add; padding attends to itself."""
        starts = torch.tensor(self.forest.starts, device=self.forest.ids.device)
        sizes = starts.diff()
        rows, width = len(sizes), int(sizes.max())
        column = torch.arange(width, device=starts.device)
        real = column < sizes[:, None]
        token = torch.where(real, starts[:-1, None] + column, 0)
        ends = torch.where(real, self.forest.subtree_end[token] - starts[:-1, None], column + 1)
        place = real.flatten().nonzero()[:, 0]
        below = column[:, None] < ends[:, None, :]
        mask = (column[None, :] <= column[:, None]) & below
        assert len(place) == self.forest.tokens and mask.shape == (rows, width, width)
        if self.forest.until is None:
            return token.flatten(), place, mask[:, None], None
        until = torch.where(real, self.forest.until[token] - starts[:-1, None], column + 1)
        return token.flatten(), place, mask[:, None], ((column[None, :] < until[:, :, None]) & below)[:, None]


class CachePlan(Protocol):
    """Attends to keys and values that it keeps itself; `rows` as in `Plan`, None for all."""

    rows: Tensor | None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Query, key and value of the new tokens to [B, T, H, d]; see `attend` below."""
        ...


def plan(
    forest: Forest, backend: str, rows: Tensor | None = None, fused: bool = True, blocks: Blocks = "all"
) -> Plan:  # fmt: skip
    """A plan with the chosen backend; `auto` is `flex` on CUDA and `nodes` elsewhere.

    Raises:
        ValueError: `flex` without CUDA (it has no backward on CPU).
    """
    if backend == "auto":
        backend = "flex" if forest.ids.is_cuda else "nodes"
    if backend == "flex" and not forest.ids.is_cuda and torch.is_grad_enabled():
        raise ValueError("model.attention=flex: expected a CUDA device, got the CPU, where it cannot train; use auto")
    rows = forest.row.unique() if rows is None else rows
    return Plan(forest, backend, rows, fused, blocks)  # type: ignore[arg-type]


def foreign_mask(device: torch.device) -> Tensor:
    """What stands in place of a mask beside a plan: 4-D, so that transformers leaves it alone."""
    return torch.zeros(1, 1, 1, 1, device=device)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, scaling: float | None = None, sliding_window: int | None = None, softcap: float | None = None,
    plan: Plan | CachePlan | None = None, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Query [B, H, T, d], key and value [B, K, T', d] to [B, T, H, d]; B is 1 where there is a plan.

    Args:
        scaling: of the scores; None is d ** -0.5.
        sliding_window: tokens that are seen at most, itself included; counts depth.
        softcap: scores become softcap * tanh(scores / softcap).
        plan: of the forest, or of rows that go on from a cache (model.cache); None for plain sequences.
    """
    params = AttentionParams(scaling, sliding_window, softcap)
    if plan is None:
        if softcap is not None:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            if attention_mask is None and query.shape[2] > 1:  # transformers leaves plain causality to SDPA
                attention_mask = _below(query.shape[2], key.shape[2], None, query)
            out = _product(query, key, value, attention_mask, params)
            return out.transpose(1, 2).contiguous(), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    if not isinstance(plan, Plan):
        return plan.attend(module.layer_idx, query, key, value, params), None
    backend = {"dense": _dense, "nodes": _nodes, "flex": _flex}[plan.backend]
    return backend(query, key, value, plan, params), None


def _dense(query: Tensor, key: Tensor, value: Tensor, plan: Plan, params: AttentionParams) -> Tensor:
    token, place, mask, with_blocks = plan.padded
    if with_blocks is not None and plan.sees_blocks(params):
        mask = with_blocks
    rows, _, width, _ = mask.shape
    if params.window is not None:
        depth = plan.forest.depth[token].view(rows, 1, width)
        mask = mask & (depth[..., None] - depth[..., None, :] < params.window)

    def side_by_side(x: Tensor) -> Tensor:
        flat = x[0].transpose(0, 1)
        return flat.index_select(0, token).view(rows, width, *flat.shape[1:]).transpose(1, 2)

    q, k, v = map(side_by_side, (query, key, value))
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = _product(q, k, v, mask, params)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, place)[None]


def _nodes(query: Tensor, key: Tensor, value: Tensor, plan: Plan, params: AttentionParams) -> Tensor:
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    blocks = plan.sees_blocks(params)
    if plan.fused and query.dtype in PRODUCTS and not blocks:
        return segment_attention(query[0], key[0], value[0], plan.products, params)[None]
    # torch.split: its backward is one cat, that of a slice a whole tensor of zeros
    sizes = [stop - start for start, stop in pairwise(plan.cuts)]
    keys, values = key.split(sizes, 2), value.split(sizes, 2)
    queries = query.split([segment.stop - segment.start for segment in plan.forest.segments], 2)
    number = {segment.start: i for i, segment in enumerate(plan.forest.segments)}
    outs: list[Tensor] = []
    for segments in plan.groups:
        q = torch.cat([queries[number[segment.start]] for segment in segments])
        k, v = (torch.cat([_run(parts, plan, segment) for segment in segments]) for parts in (keys, values))
        until = plan.blocks_in(segments[0]) if blocks else None
        outs += descend(q, k, v, params, plan.masks, until).unbind()
    return torch.cat([outs[i] for i in plan.order], 1).transpose(0, 1)[None]


def descend(
    query: Tensor, key: Tensor, value: Tensor, params: AttentionParams, masks: dict[tuple[Any, ...], Any],
    until: tuple[int, ...] | None = None,
) -> Tensor:  # fmt: skip
    """Causal attention of the last `own` of `seen` tokens to [B, H, own, d].

    Args:
        query: [B, H, own, d].
        key: [B, K, seen, d].
        value: [B, K, seen, d].
        params: of the layer.
        masks: of the pass; a mask that is missing is added to them.
        until: how far each of the `own` tokens sees among them; None: to itself.
    """
    (rows, heads, own, width), visible_keys = query.shape, key.shape[2]
    groups = heads // key.shape[1]
    if groups > 1:  # key heads as rows: each is read by its query heads without a copy
        query = query.reshape(-1, groups, own, width)
        key, value = (x.reshape(-1, 1, visible_keys, width).expand(-1, groups, -1, -1) for x in (key, value))
    if own == visible_keys and params.window is None and params.softcap is None and until is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=params.scale)
    else:
        mask_key = (own, visible_keys, params.window, query.dtype, until)
        if mask_key not in masks:
            masks[mask_key] = _below(own, visible_keys, params.window, query, until)
        out = _product(query, key, value, masks[mask_key], params)
    return out.reshape(rows, heads, own, width)


def _run(parts: tuple[Tensor, ...], plan: Plan, segment: Segment) -> Tensor:
    """Keys or values of a segment's ancestors and its own, in order of depth."""
    runs = (*segment.before, (segment.start, segment.stop))
    chunks = [part for start, stop in runs for part in parts[plan.number[start] : plan.number[stop]]]
    return torch.cat(chunks, 2) if len(chunks) > 1 else chunks[0]


def _below(
    own: int, visible_keys: int, window: int | None, like: Tensor, until: tuple[int, ...] | None = None
) -> Tensor:
    """Additive mask [own, seen]: the last `own` of `seen` tokens see those before them and themselves, or as far among
    the `own` as `until` says."""
    q = torch.arange(visible_keys - own, visible_keys, device=like.device)[:, None]
    k = torch.arange(visible_keys, device=like.device)
    visible = k <= q
    if until is not None:
        visible = k < torch.tensor(until, device=like.device)[:, None] + (visible_keys - own)
    return additive(visible if window is None else visible & (q - k < window), like.dtype)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores: 0 where bool `visible` says so, else -inf."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def softcapped(scores: Tensor, softcap: float | None) -> Tensor:
    """softcap * tanh(scores / softcap); the scores themselves without one."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, params: AttentionParams) -> Tensor:
    if params.softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=params.scale)
    scores = query @ key.transpose(-1, -2) * params.scale_of(query.shape[-1])
    scores = softcapped(scores, params.softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.softmax(-1, dtype=wide).to(value.dtype) @ value


_compiled: Callable[..., Tensor] | None = None


def _flex(query: Tensor, key: Tensor, value: Tensor, plan: Plan, params: AttentionParams) -> Tensor:
    """FlexAttention with native grouped heads, compiled once for all lengths."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    global _compiled
    if _compiled is None:
        _compiled = torch.compile(flex_attention, dynamic=True) if query.is_cuda else flex_attention
    window, softcap = params.window, params.softcap
    blocks = plan.sees_blocks(params)
    mask_key = ("flex", window, blocks)
    if mask_key not in plan.masks:
        end, depth, size = plan.forest.subtree_end, plan.forest.depth, plan.forest.tokens
        until = plan.forest.until

        def ancestor(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            visible = (k < until[q] if blocks else k <= q) & (q < end[k])  # type: ignore[index]
            return visible if window is None else visible & (depth[q] - depth[k] < window)

        plan.masks[mask_key] = create_block_mask(ancestor, None, None, size, size, device=query.device)

    def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap  # type: ignore[operator]

    out = _compiled(
        query, key, value, score_mod=capped if softcap else None, block_mask=plan.masks[mask_key],
        scale=params.scale, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
