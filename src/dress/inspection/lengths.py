"""Lengths in tokens, as a scale's tokenizer and chat format count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.config.targets import PROJECTOR, build
from dress.data.images import upright_size
from dress.dialogue.chat import FORMATS, Chat
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.image import ImageLayout
from dress.dialogue.spans import Span, history, prompt
from dress.dialogue.tokenizer import load_tokenizer, train_tokenizer
from dress.inspection.data_set import DataSet
from dress.model.building import own_tokenizer
from dress.model.chats import hf_chat, language_chat, own_format
from dress.model.hf_folder import layout_reader
from dress.model.hf_pictures import HFReader
from dress.model.towers import folder_tokens
from dress.model.vision import VisionEncoder
from dress.record import Dialogue, Record, RecordError

KINDS = ("caption", "question", "answer", "critique", "refinement", "dialogue")
TRAINED_ON = 2000
"""Records per split that a tokenizer is trained on, as in a run."""


@dataclass(frozen=True)
class Scale:
    """What of a scale decides lengths."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    chat: Chat
    image_tokens: int | None  # of every image; None: as the reader says, or nobody knows
    max_tokens: int
    origin: str  # where the tokenizer comes from
    reader: HFReader | None = None  # where an image's tokens depend on its size


@dataclass
class Lengths:
    """How many texts of each kind have how many tokens.

    A `dialogue` is the whole of it with the chat format's own tokens, without its image's.
    """

    scale: Scale
    by_kind: dict[str, Counter[int]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    too_long: int = 0
    """Dialogues that are longer with their image than training allows (`data.max_tokens`)."""
    images: Counter[int] = field(default_factory=Counter)
    """How many images have how many tokens, where that depends on their sizes."""

    def __post_init__(self) -> None:
        reader = self.scale.reader
        markers = [] if reader is None else reader.markers()
        encoder = self._encoder = DialogueEncoder(self.scale.tokenizer, self.scale.chat, markers=markers)

        def count(text: str) -> int:
            return len(encoder.texts.encode(text, first=False))

        self._count: Callable[[str], int] = lru_cache(maxsize=1 << 16)(count)

    def add(self, record: Record, image: bytes | None) -> None:
        """Count the tokens of a record's texts and dialogues, and those of its image's bytes."""
        layout = self._layout(image)
        for caption in record.annotation.captions:
            self._add("caption", caption)
        for dialogue in record.dialogues:
            for turn in dialogue.turns:
                self._add("question", turn.user)
                self._add("answer", turn.assistant)
                for feedback in turn.feedback:
                    self._add("critique", feedback.critique)
                    self._add("refinement", feedback.refinement)
            spans = _spans(dialogue, self.scale.chat)
            length = len(self._encoder.prompt(spans, None).ids)
            self.by_kind["dialogue"][length] += 1
            if layout is not None:
                length = len(self._encoder.prompt(spans, layout).ids)
            elif record.image is not None:
                length += self.scale.image_tokens or 0
            self.too_long += length > self.scale.max_tokens

    def image_words(self) -> str:
        """How many tokens an image adds."""
        if not self.images:
            number = self.scale.image_tokens
            return "an unknown number of tokens" if number is None else f"{number:,} tokens"
        least, most = min(self.images), max(self.images)
        return f"{least:,} tokens" if least == most else f"{least:,} to {most:,} tokens"

    def summary(self) -> dict[str, dict[str, float]]:
        """By kind: n, mean, median, 90th and 99th percentile, longest."""
        return {kind: _summary(numbers) for kind, numbers in self.by_kind.items() if numbers}

    def to_json(self) -> dict[str, Any]:
        """All figures as plain data."""
        scale = self.scale
        images = {str(n): c for n, c in sorted(self.images.items())} or scale.image_tokens
        return {
            "scale": scale.name, "tokenizer": scale.origin, "image_tokens": images, "max_tokens": scale.max_tokens,
            "too_long": self.too_long, "summary": self.summary(),
            "histograms": {k: {str(n): c for n, c in sorted(v.items())} for k, v in self.by_kind.items() if v},
        }  # fmt: skip

    def _layout(self, image: bytes | None) -> ImageLayout | None:
        """Of an image whose size decides; None also where it cannot be read, which is among the findings."""
        if self.scale.reader is None or image is None:
            return None
        try:
            layout = ImageLayout((self.scale.reader.length(upright_size(image, "")),))
        except RecordError:
            return None
        self.images[layout.tokens] += 1
        return layout

    def _add(self, kind: str, text: str | None) -> None:
        if text is not None:
            self.by_kind[kind][self._count(self.scale.chat.gap + text)] += 1


def _spans(dialogue: Dialogue, chat: Chat) -> tuple[Span, ...]:
    """Without a system text where the format has no place for it: training refuses such a dialogue by name."""
    fitting = dialogue if chat.takes_system else dialogue.model_copy(update={"system": None})
    open_ = dialogue.turns[-1].assistant is None
    return tuple(prompt(fitting) if open_ else history(fitting, len(fitting.turns)))


def _summary(numbers: Counter[int]) -> dict[str, float]:
    total, tokens = sum(numbers.values()), 0
    shares: dict[str, float] = {}
    for length, count in sorted(numbers.items()):
        tokens += count
        for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
            if name not in shares and tokens >= share * total:
                shares[name] = length
    mean = sum(length * count for length, count in numbers.items()) / total
    return {"n": total, "mean": mean, **shares, "longest": max(numbers)}


def open_scale(name: str, model: config.Model, tokenizer: str | None, data: DataSet) -> Scale:
    """The scale's tokenizer and chat format.

    Args:
        name: of the scale.
        model: of the scale.
        tokenizer: a run folder or a tokenizer.json; null: the language model's own, or for a scale that is
            built from scratch one trained on `data`, as a run would train it.
        data: what it is trained on.

    Raises:
        ValueError: no such tokenizer, or the package with the weights is not installed.
    """
    if tokenizer is not None:
        own_chat = own_format(model.language) if isinstance(model, config.ComposedModel) else FORMATS["plain"]
        file = Path(tokenizer) / "tokenizer.json" if Path(tokenizer).is_dir() else Path(tokenizer)
        if not file.is_file():
            raise ValueError(f"tokenizer={tokenizer}: expected a run folder or a tokenizer.json, found none")
        opened: PreTrainedTokenizerBase = load_tokenizer(file, own_chat)
        origin = str(file)
    elif (own := own_tokenizer(model)) is not None:
        opened = own
        origin = model.name if isinstance(model, config.HFModel) else str(model.language.name)
    else:
        assert isinstance(model, config.ComposedModel)
        own_chat = own_format(model.language)
        opened, origin = train_tokenizer(_texts(data), model.tokenizer.vocabulary, own_chat), f"trained on {data.path}"
    limit = config.Data.model_fields["max_tokens"].default
    if isinstance(model, config.HFModel):
        reader = layout_reader(model)
        return Scale(name, opened, hf_chat(model, reader.processor), None, limit, origin, reader)
    return Scale(name, opened, language_chat(model.language, opened), image_tokens(model), limit, origin)


def image_tokens(model: config.ComposedModel) -> int | None:
    """Tokens per image as the projector gives them, None where the settings do not say."""
    tokens = _encoder_tokens(model.vision)
    if tokens is None:
        return None
    projector = build(model.projector, "model.projector", PROJECTOR, 8, 8)  # widths do not matter here
    with torch.no_grad():
        return int(projector(torch.zeros(1, tokens, 8)).shape[1])


def _encoder_tokens(vision: config.Vision) -> int | None:
    if vision.vit is not None:
        return (vision.vit.image_size // vision.vit.patch_size) ** 2
    if vision.folder is not None:
        return folder_tokens(vision)
    if vision.timm is not None:
        with torch.device("meta"):  # no weights are made
            return VisionEncoder(vision.model_copy(update={"weights": None})).num_tokens
    if vision.name is None:
        return None
    import open_clip  # here: it takes seconds

    settings = (open_clip.get_model_config(vision.name) or {}).get("vision_cfg", {})
    size = vision.image_size or settings.get("image_size")
    if not isinstance(settings.get("patch_size"), int) or not isinstance(size, int):
        return None
    return int(size // settings["patch_size"]) ** 2


def _texts(data: DataSet) -> Iterator[str]:
    """Training text: all but the evaluation split, with the feedback that stands in the data."""
    tokens: Counter[str] = Counter()
    for item in data:
        tokens[item.split] += 1
        if (item.split == "eval" and len(data.splits) > 1) or tokens[item.split] > TRAINED_ON:
            continue
        yield from item.record.annotation.captions
        for turn in (turn for dialogue in item.record.dialogues for turn in dialogue.turns):
            yield turn.user
            yield from [turn.assistant] if turn.assistant is not None else []
            yield from (text for f in turn.feedback for text in (f.critique, f.refinement) if text)
