"""A session: rows that are answered turn after turn and go on from the keys and values of what they have read.

What a row has read is known token by token. The next prompt is encoded whole, as training would encode it;
the row is cut back to where the two differ and reads the rest. So a condition that stood in one turn is gone
in the next, and an answer stands there as the tokens of its text, whatever tokens it was sampled as.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dress.dialogue.batch import image_batches
from dress.dialogue.encode import IMAGE, Tokens
from dress.dialogue.image import ImageLayout, Picture
from dress.dialogue.spans import Span
from dress.dialogue.tree import sorted_prefixes
from dress.kernels.packed import PackedWeights
from dress.model.cache import Chunk, Decoding, KVCache, KVStore, Prefill, Slots
from dress.model.lvlm import LVLM
from dress.model.memory import rows_that_fit
from dress.model.sampling import SamplingParams, choose, noise_of

DROP_SHARE = 0.15
"""Ended rows leave the batch when they are this share of it: each time costs a copy of what they have read."""

SHARED_TOKENS = 128
"""Rows share one copy of their beginning where it saves this many tokens per row (benchmarks/generation.py)."""

Watch = Callable[[Hashable, int], bool]
"""Is told each new token of a row, by its key; whether the row is to end there."""


@dataclass(frozen=True)
class Prompt:
    """What to answer: spans up to an open user message, and the image (by index into the pictures)."""

    spans: tuple[Span, ...]
    image: int | None


class ImageTokens:
    """Image tokens of the images that prompts name; those of the last call are kept.

    Args:
        model: encodes them.
        pictures: images by number.
    """

    def __init__(self, model: LVLM, pictures: Sequence[Picture]) -> None:
        self.model, self.pictures = model, pictures
        self._last: dict[int, Tensor] = {}

    def layout(self, image: int | None) -> ImageLayout | None:
        """The tokens of an image; None for no image."""
        return None if image is None else self.pictures[image].layout

    def __call__(self, images: list[int]) -> Tensor:
        """Image tokens [V, D_i] of images, as often as they are named."""
        new = [i for i in dict.fromkeys(images) if i not in self._last]
        kept = {i: self._last[i] for i in images if i in self._last}
        for batch in image_batches([self.pictures[i] for i in new]):
            tokens = self.model.encode_images(batch.to(self.model.device)).split(batch.tokens)
            kept |= {new[number]: one for number, one in zip(batch.numbers, tokens, strict=True)}
        self._last = kept
        return torch.cat([kept[i] for i in images])


@dataclass(eq=False)
class _Row:
    """`ids` [S]: the tokens in the cache, an image's as -1 - its number; `positions` [P, S] and `until` [S] of the
    prompt (dialogue.encode); `place`: where the row stands."""

    key: Hashable
    image: int | None
    ids: np.ndarray
    positions: np.ndarray
    until: np.ndarray | None
    stable: int  # tokens that a later turn has too: all but the condition and what follows it
    place: int = -1
    cached: int = 0

    @property
    def shift(self) -> int:
        """What a position behind the prompt is more than its slot."""
        return int(self.positions[-1, -1]) + 1 - self.positions.shape[1]

    def sees(self, start: int) -> tuple[int, ...] | None:
        """How far tokens from `start` on see among those, if any sees one behind it."""
        if self.until is None:
            return None
        until = self.until[start:] - start
        return None if (until == np.arange(1, len(until) + 1)).all() else tuple(until.tolist())


class Session:
    """Answers rows turn after turn; a row that comes again goes on from what it has read.

    Args:
        model: whose weights stay as they are while the session lasts; in eval mode or not, it is put back.
        weights: its language model's, packed; sessions of the same weights may share it.
    """

    def __init__(self, model: LVLM, weights: PackedWeights | None = None) -> None:
        self.model, self._weights = model, weights or PackedWeights(model.language_model)
        self.rows: dict[Hashable, _Row] = {}
        self.cache: KVCache | None = None
        self.tokens_read = 0
        """Computed so far, apart from answers."""

    def answer(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[Hashable],
        images: ImageTokens,
        sampling: SamplingParams,
        if_fits: bool = False,
        watch: Watch | None = None,
    ) -> list[list[int]] | None:
        """Tokens of an answer to each prompt, with the stop token where it ended by itself.

        Args:
            prompts: at least one; read and decoded together.
            keys: name the rows, all different. If one is new or has another beginning, all are read anew.
            images: that the prompts name; the same numbers in every turn.
            sampling: how tokens are drawn.
            if_fits: answer nothing (None) where memory has no room for the keys and values.
            watch: sees tokens as they come, and may end rows.
        """
        layouts = [images.layout(prompt.image) for prompt in prompts]
        rows = [self._row(*one) for one in zip(prompts, keys, layouts, strict=True)]
        longest = max(len(row.ids) for row in rows) + sampling.max_new_tokens
        if if_fits and len(rows) > rows_that_fit(self.model, longest):
            return None
        try:
            with _generating(self.model), self._weights:
                if not self._goes_on(rows):
                    self._begin(rows)
                assert self.cache is not None
                need = max(len(row.ids) - self.cache.offset(row.place) for row in rows) + sampling.max_new_tokens
                self.cache.own.reserve(need)
                hidden = self._read(rows, images)
                self.rows.update({row.key: row for row in rows})
                return self._decode(rows, hidden, sampling, watch)
        except BaseException:
            self.rows.clear()  # half-written: nobody goes on from here
            raise

    # --- what to read ---

    def _row(self, prompt: Prompt, key: Hashable, layout: ImageLayout | None) -> _Row:
        """The prompt's tokens, as the encoder gives them, with the image's tokens named by image."""

        def encoded(spans: tuple[Span, ...]) -> tuple[np.ndarray, Tokens]:
            tokens = self.model.encoder.prompt(spans, layout)
            return tokens.ids if prompt.image is None else np.where(
                tokens.ids == IMAGE, -1 - prompt.image, tokens.ids
            ), tokens

        ids, tokens = encoded(prompt.spans)
        conditioned = prompt.spans[-1].role == "condition"
        stable = _common(ids, encoded(prompt.spans[:-1])[0]) if conditioned else len(ids)
        positions = tokens.positions
        if positions is None:
            positions = np.tile(np.arange(len(ids)), (self.model.axes, 1))
        return _Row(key, prompt.image, ids, positions, tokens.until, stable)

    def _goes_on(self, rows: list[_Row]) -> bool:
        """Cut known rows back to what their new prompts share with what they have read, and put them in front."""
        if self.cache is None or any(row.key not in self.rows for row in rows):
            return False
        for row in rows:
            old = self.rows[row.key]
            row.place = old.place
            row.cached = min(_common(row.ids, old.ids), len(row.ids) - 1)  # the last is read again: its hidden state
            if row.cached < self.cache.offset(old.place):
                return False
        keys = {row.key for row in rows}
        holes = [old for key, old in self.rows.items() if old.place < len(rows) and key not in keys]
        used = max(len(old.ids) - self.cache.offset(old.place) for old in self.rows.values())
        self._swap(holes, [self.rows[row.key] for row in rows if row.place >= len(rows)], used)
        for row in rows:
            row.place = self.rows[row.key].place
        return True

    def _swap(self, one: list[_Row], two: list[_Row], used: int) -> None:
        """Let rows change places, with their first `used` slots."""
        assert self.cache is not None and len(one) == len(two)
        if one:
            self.cache.swap([row.place for row in one], [row.place for row in two], used)
            for a, b in zip(one, two, strict=True):
                a.place, b.place = b.place, a.place

    def _begin(self, rows: list[_Row]) -> None:
        """An empty cache. Rows of one image are a group and share their beginning where that is worth it."""
        self.rows.clear()
        for place, row in enumerate(rows):
            row.place, row.cached = place, 0
        order, common = sorted_prefixes([row.ids for row in rows])
        group, shared, members = [0] * len(rows), [0], [0]
        before: _Row | None = None
        for i, size in zip(order, common, strict=True):
            if before is not None and rows[i].image != before.image:
                shared, members = [*shared, 0], [*members, 0]
                before = None
            most = min(size, rows[i].stable) if before is not None else rows[i].stable
            shared[-1] = min(shared[-1], most) if members[-1] else most
            members[-1] += 1
            group[i], before = len(shared) - 1, rows[i]
        shared = [size if n > 1 else 0 for size, n in zip(shared, members, strict=True)]
        if sum(size * (n - 1) for size, n in zip(shared, members, strict=True)) < SHARED_TOKENS * len(rows):
            group, shared = [0] * len(rows), [0]
        own = self.cache.own if self.cache is not None and self.cache.own.rows >= len(rows) else KVStore(len(rows))
        self.cache = KVCache(group, shared, own)

    # --- reading ---

    def _read(self, rows: list[_Row], images: ImageTokens) -> Tensor:
        """Hidden states [A, D] of the rows' last tokens; a beginning that rows share is computed once."""
        assert self.cache is not None
        fresh = [row for row in rows if not row.cached]
        order, common = sorted_prefixes([row.ids for row in fresh]) if fresh else ([], [])
        plan = [(fresh[i], size) for i, size in zip(order, common, strict=True)]
        plan += [(row, row.cached) for row in rows if row.cached]
        flat: list[np.ndarray] = []
        positions: list[np.ndarray] = []
        runs: list[Chunk] = []
        tokens: dict[Hashable, np.ndarray] = {}  # by key: which flat token stands at each position from `cached` on
        total, before = 0, np.empty(0, np.int64)
        for row, start in plan:
            new = row.ids[start:]
            here = np.arange(total, total + len(new))
            if len(new):
                flat.append(new)
                positions.append(row.positions[:, start:])
                runs.append(Chunk(total, total + len(new), row.place, len(row.ids), row.sees(start)))
            tokens[row.key] = here if row.cached else np.concatenate([before[:start], here])
            before, total = tokens[row.key], total + len(new)
        self.tokens_read += total
        last = torch.tensor([tokens[row.key][-1] for row in rows], device=self.model.device)
        last_tokens, where = torch.unique(last, return_inverse=True)
        ids = np.concatenate(flat)
        hidden = self.model.hidden(
            torch.from_numpy(np.where(ids < 0, IMAGE, ids)).to(self.model.device)[None],
            self._images(ids, images),
            torch.from_numpy(np.concatenate(positions, 1)).to(self.model.device)[:, None],
            Prefill(self.cache, runs, *self._places(self.cache, rows, tokens), last_tokens, self.model.blocks),
        )[0]
        return (hidden if self.model.pruned else hidden[last_tokens])[where]

    def _places(self, cache: KVCache, rows: list[_Row], tokens: dict[Hashable, np.ndarray]) -> tuple[Slots, Slots]:
        """Which flat token goes to which row and slot: of the rows' own store, and of the common one."""
        own: list[np.ndarray] = []
        common: list[np.ndarray] = []
        groups = set()
        for row in rows:
            offset, group = cache.offset(row.place), cache.group[row.place]
            if not row.cached and offset and group not in groups:
                common.append(_placed(tokens[row.key][:offset], group, 0))
                groups.add(group)
            skipped = max(offset - row.cached, 0)
            own.append(_placed(tokens[row.key][skipped:], row.place, row.cached + skipped - offset))
        none = np.empty((3, 0), np.int64)
        parts = (torch.from_numpy(np.concatenate([none, *writes], 1)).to(self.model.device) for writes in (own, common))
        (a, b, c), (d, e, f) = parts
        return (a, b, c), (d, e, f)

    def _images(self, ids: np.ndarray, images: ImageTokens) -> Tensor | None:
        """The image tokens that stand in `ids`, in order; those of an image are never cut apart."""
        waiting = (-1 - ids[ids < 0]).tolist()
        order: list[int] = []
        at = 0
        while at < len(waiting):
            order.append(waiting[at])
            at += images.pictures[waiting[at]].layout.tokens
        return images(order) if order else None

    # --- answering ---

    def _decode(
        self, rows: list[_Row], hidden: Tensor, sampling: SamplingParams, watch: Watch | None
    ) -> list[list[int]]:
        """Token by token; rows that have ended change places with the last ones and leave the batch."""
        assert self.cache is not None
        device = hidden.device
        order = sorted(range(len(rows)), key=lambda i: rows[i].place)
        batch, hidden = [rows[i] for i in order], hidden[order]
        seeds = sampling.seeds(len(rows))
        noise = noise_of(sampling, [seeds[i] for i in order]).to(device)
        out: dict[Hashable, list[int]] = {row.key: [] for row in rows}
        decoding = Decoding(self.cache, [len(row.ids) for row in batch], device)
        shift = torch.tensor([row.shift for row in batch], device=device)
        ended = [False] * len(batch)
        stops = self.model.encoder.stops
        for step in range(sampling.max_new_tokens):
            token = choose(self.model.logits(hidden), sampling, noise[:, step])
            for i, value in enumerate(token.tolist()):
                if not ended[i]:
                    out[batch[i].key].append(value)
                    ended[i] = value in stops or (watch is not None and watch(batch[i].key, value))
            if all(ended) or step + 1 == sampling.max_new_tokens:
                break
            if sum(ended) >= DROP_SHARE * len(ended):
                batch, cached = self._drop(batch, ended, decoding.longest)
                token, noise, ended = token[cached], noise[cached], [False] * len(batch)
                shift = shift[cached]
                decoding = Decoding(self.cache, [decoding.lengths[i] for i in cached], device)
            positions = (decoding.length + shift)[:, None].expand(self.model.axes, -1, 1)
            hidden = self.model.hidden(token[:, None], None, positions, decoding)[:, -1]
            decoding.step()
        for row in rows:
            row.ids = np.concatenate([row.ids, np.array(out[row.key][:-1], np.int64)])
        return [out[row.key] for row in rows]

    def _drop(self, batch: list[_Row], ended: list[bool], used: int) -> tuple[list[_Row], list[int]]:
        """Rows that go on, in order of place, and which of the batch they were."""
        alive = len(ended) - sum(ended)
        order = list(range(len(batch)))
        holes = [i for i in range(alive) if ended[i]]
        movers = [i for i in range(alive, len(batch)) if not ended[i]]
        self._swap([batch[i] for i in holes], [batch[i] for i in movers], used)
        for i, j in zip(holes, movers, strict=True):
            order[i], order[j] = order[j], order[i]
        return [batch[i] for i in order[:alive]], order[:alive]


@contextmanager
def _generating(model: LVLM) -> Iterator[None]:
    """The model in eval mode, without gradients; afterwards as it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _common(one: np.ndarray, two: np.ndarray) -> int:
    """How many tokens two sequences share from the beginning."""
    size = min(len(one), len(two))
    different = one[:size] != two[:size]
    return int(different.argmax()) if different.any() else size


def _placed(tokens: np.ndarray, row: int, first: int) -> np.ndarray:
    """[3, W]: these flat tokens, in a row, from slot `first` on."""
    return np.stack([tokens, np.full(len(tokens), row), np.arange(first, first + len(tokens))])
