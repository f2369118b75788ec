"""Keys and values of rows that are being answered, and how new tokens attend to them.

A token's slot is its position, so rows of any length stand side by side without gaps, cutting a row back
is forgetting its end, and a mask needs nothing but lengths. New tokens come as one flat sequence of all
rows (`Prefill`) or as one token per row (`Decoding`): both are a `plan` of `attention.attend`, write the
cache and attend to it, layer by layer.

Shapes: T tokens, R rows, A rows that are being decoded, G groups, H query heads, K key heads, g = H / K,
d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dress.kernels.attention_params import AttentionParams
from dress.model.attention import Blocks, additive, descend, softcapped


class KVStore:
    """Keys and values of some rows in every layer, [R, K, slots, d].

    On CPU bf16 is kept as fp32: one token's attention is faster in it, and more exact.
    """

    def __init__(self, rows: int, slots: int = 0) -> None:
        self.rows, self.slots = rows, slots
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._layers[layer]

    def reserve(self, slots: int) -> None:
        """Make room for rows of `slots` tokens; half as much again as there was, if that is more."""
        if slots > self.slots:
            self.slots = max(slots, self.slots + self.slots // 2)
            for layer, stored in self._layers.items():
                grown = tuple(self._empty(x) for x in stored)
                for old, new in zip(stored, grown, strict=True):
                    new[:, :, : old.shape[2]] = old
                self._layers[layer] = grown  # type: ignore[assignment]

    def write(self, layer: int, key: Tensor, value: Tensor, row: Tensor, slot: Tensor) -> None:
        """Put keys and values [W, K, d] at `slot` [W] of `row` [W]."""
        if layer not in self._layers:
            like = key.transpose(0, 1)[None]
            self._layers[layer] = (self._empty(like), self._empty(like))
        for stored, new in zip(self._layers[layer], (key, value), strict=True):
            stored[row, :, slot] = new.to(stored.dtype)

    def swap(self, one: Sequence[int], two: Sequence[int], used: int) -> None:
        """Exchange rows pairwise, their first `used` slots."""
        for stored in self._layers.values():
            for x in stored:
                x[[*one, *two], :, :used] = x[[*two, *one], :, :used]

    def _empty(self, like: Tensor) -> Tensor:
        dtype = torch.float32 if like.device.type == "cpu" and like.dtype == torch.bfloat16 else like.dtype
        # zeros, because what a mask hides is still multiplied by 0, and 0 x NaN is NaN
        return torch.zeros(self.rows, like.shape[1], self.slots, like.shape[3], dtype=dtype, device=like.device)


@dataclass
class KVCache:
    """Rows in groups; the first `shared[g]` tokens of the rows of group g are kept once, in `common`.

    `group` is the group of each row. Position p of a row is slot p of its group's row in `common`, or
    slot p - shared[g] of its own. `own` has room for as many rows or more: what is left in it of others
    is written over before it is seen.
    """

    group: list[int]
    shared: list[int]
    own: KVStore

    def __post_init__(self) -> None:
        assert len(self.group) <= self.own.rows
        self.common = KVStore(len(self.shared), max(self.shared)) if any(self.shared) else None

    def offset(self, row: int) -> int:
        """Position of the row's first own slot."""
        return self.shared[self.group[row]]

    def read(self, layer: int, row: int, end: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values [1, K, end, d] of a row's first `end` positions."""
        offset, group = self.offset(row), self.group[row]
        parts = [[x[row : row + 1, :, : max(0, end - offset)] for x in self.own[layer]]] if end > offset else []
        if self.common is not None and offset:
            parts.insert(0, [x[group : group + 1, :, : min(end, offset)] for x in self.common[layer]])
        key, value = (torch.cat(x, 2).to(dtype) if len(x) > 1 else x[0].to(dtype) for x in zip(*parts, strict=True))
        return key, value

    def swap(self, one: Sequence[int], two: Sequence[int], used: int) -> None:
        """Exchange rows pairwise, their first `used` own slots."""
        self.own.swap(one, two, used)
        for i, j in zip(one, two, strict=True):
            self.group[i], self.group[j] = self.group[j], self.group[i]


Slots = tuple[Tensor, Tensor, Tensor]
"""Which token of the flat sequence [W] goes to which row [W] and slot [W] of a store."""


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, stop) of the flat sequence, which end `row` at slot `end`; `until`: how far each sees among
    them, where some see tokens behind them."""

    start: int
    stop: int
    row: int
    end: int
    until: tuple[int, ...] | None = None


@dataclass
class Prefill:
    """One forward pass over new tokens of many rows, flat: [1, T].

    A run attends to its row's cache before it and to itself. A token that several rows share is computed
    once and written to each: `own` and `common` say where. `rows` [U] are the tokens whose hidden states are wanted.
    """

    cache: KVCache
    runs: list[Chunk]
    own: Slots
    common: Slots
    rows: Tensor
    blocks: Blocks = "all"
    masks: dict[tuple, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Query [1, H, T, d], key and value [1, K, T, d] to [1, T, H, d]."""
        for store, (token, row, slot) in ((self.cache.own, self.own), (self.cache.common, self.common)):
            if store is not None and len(token):
                store.write(layer, key[0].transpose(0, 1)[token], value[0].transpose(0, 1)[token], row, slot)
        outs = []
        for run in self.runs:
            own = slice(run.start, run.stop)
            if run.stop - run.start == run.end:
                k, v = key[:, :, own], value[:, :, own]
            else:
                k, v = self.cache.read(layer, run.row, run.end, query.dtype)
            until = run.until if self.blocks == "all" or params.window is not None else None
            outs.append(descend(query[:, :, own], k, v, params, self.masks, until))
        return torch.cat(outs, 2).transpose(1, 2)


@dataclass
class Decoding:
    """Forward passes of one new token for each of the first A rows, [A, 1], one after another.

    `lengths` are the rows' tokens in the cache, the common ones included. Attention is plain products over
    common and own slots and one softmax: for one token SDPA takes 2 to 4 times as long on CPU.
    """

    cache: KVCache
    lengths: list[int]
    device: torch.device
    rows: None = None

    def __post_init__(self) -> None:
        group = self.cache.group[: len(self.lengths)]
        offsets = [self.cache.shared[g] for g in group]
        own = [length - offset for length, offset in zip(self.lengths, offsets, strict=True)]
        self.longest, self.even = max(own), len(set(own)) == 1
        self.length, self.offset = (torch.tensor(x, device=self.device) for x in (self.lengths, offsets))
        self.row = torch.arange(len(group), device=self.device)
        self._masks: dict[tuple, Tensor | None] = {}
        if self.cache.common is not None:
            self._line_up(group)

    def step(self) -> None:
        """The tokens of the last pass are in the cache now."""
        self.length = self.length + 1
        self.lengths = [length + 1 for length in self.lengths]
        self.longest += 1
        self._masks.clear()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, params: AttentionParams) -> Tensor:
        """Query [A, H, 1, d], key and value [A, K, 1, d] to [A, 1, H, d]."""
        rows, heads, _, width = query.shape
        key_heads = key.shape[1]
        self.cache.own.write(layer, key[:, :, 0], value[:, :, 0], self.row, self.length - self.offset)
        used = self.longest + 1
        keys, values = (x.flatten(0, 1)[: rows * key_heads, :used] for x in self.cache.own[layer])
        query = query.reshape(rows * key_heads, heads // key_heads, width).to(keys.dtype)
        query = query * params.scale_of(width)
        scores = torch.bmm(query, keys.transpose(1, 2)).view(rows, key_heads, -1, used)
        scores = softcapped(scores, params.softcap)
        mask = self._own_mask(used, params.window, scores.dtype)
        if mask is not None:
            scores = scores + mask
        if self.cache.common is None:
            out = torch.bmm(scores.softmax(-1).flatten(0, 1), values)
            return out.reshape(rows, 1, heads, width).to(key.dtype)
        common_keys, common_values = self.cache.common[layer]
        size = common_keys.shape[2]
        before = self._by_group(query.view(rows, key_heads, -1, width)) @ common_keys.transpose(2, 3)
        before = softcapped(before, params.softcap)
        mask = self._common_mask(size, params.window, scores)
        if mask is not None:
            before = before + mask
        both = torch.cat([before, self._by_group(scores)], -1).softmax(-1)
        out = self._by_row(both[..., :size] @ common_values, rows, key_heads)
        out = out + (self._by_row(both[..., size:], rows, key_heads).flatten(0, 1) @ values).view_as(out)
        return out.reshape(rows, 1, heads, width).to(key.dtype)

    # --- masks, the same for all layers of a pass ---

    def _own_mask(self, used: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive [A, 1, 1, used], or None where all is seen."""
        mask_key = ("own", window)
        if mask_key not in self._masks:
            slot = torch.arange(used, device=self.device)
            last = (self.length - self.offset)[:, None]
            visible = slot <= last if window is None else (slot <= last) & (slot > last - window)
            everything = self.even and (window is None or used <= window)
            self._masks[mask_key] = None if everything else additive(visible, dtype)[:, None, None]
        return self._masks[mask_key]

    def _common_mask(self, size: int, window: int | None, scores: Tensor) -> Tensor | None:
        """Additive [G, K, n * g, size], or None where all is seen."""
        mask_key = ("common", window)
        if mask_key not in self._masks:
            slot = torch.arange(size, device=self.device)
            visible = slot < self.offset[:, None]
            if window is not None:
                visible = visible & (slot > self.length[:, None] - window)
            if window is None and min(self.cache.shared) == size:
                self._masks[mask_key] = None
            else:
                mask = additive(visible, scores.dtype)[:, None, None].expand(*scores.shape[:3], size)
                self._masks[mask_key] = self._by_group(mask)
        return self._masks[mask_key]

    # --- rows side by side in their groups ---

    def _line_up(self, group: list[int]) -> None:
        """`place` [G * n]: a row for every place of a group (row 0 where it is empty); `at` [A]: a row's place."""
        members: list[list[int]] = [[] for _ in self.cache.shared]
        for row, number in enumerate(group):
            members[number].append(row)
        self.most = max(map(len, members))
        place = [row for rows in members for row in [*rows, *[0] * (self.most - len(rows))]]
        at = {row: g * self.most + i for g, rows in enumerate(members) for i, row in enumerate(rows)}
        self.place = torch.tensor(place, device=self.device)
        self.at = torch.tensor([at[row] for row in range(len(group))], device=self.device)
        self.straight = place == list(range(len(group)))

    def _by_group(self, x: Tensor) -> Tensor:
        """[A, K, g, *] to [G, K, n * g, *]."""
        x = x if self.straight else x[self.place]
        grouped = x.view(len(self.cache.shared), self.most, *x.shape[1:]).transpose(1, 2)
        return grouped.flatten(2, 3)

    def _by_row(self, x: Tensor, rows: int, key_heads: int) -> Tensor:
        """[G, K, n * g, *] to [A, K, g, *]."""
        split = x.unflatten(2, (self.most, -1)).transpose(1, 2).flatten(0, 1)
        return split if self.straight else split[self.at]
