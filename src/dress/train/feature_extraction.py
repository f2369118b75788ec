"""`task=features`: new shards that hold, beside every image, what a frozen encoder makes of it.

Of a composed model that is its encoder; of a model of transformers encoder and projector, which it calls together.

A shard is written whole or not at all, so a call that was stopped goes on with the next one. Features
are made in fp32, in batches that start anew with every shard: the same call gives the same bytes. A picture that
several splits or records have, byte for byte, is encoded once: what an earlier shard holds of it is copied.

Shapes: N images of a batch, V tokens of an image, D_v width.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from dress import config
from dress.base.config_folder import config_files
from dress.base.files import read_json, write_json, write_lines
from dress.base.seeding import seed_for
from dress.config.tasks import Features
from dress.data.features import decode, encode
from dress.data.index import FEATURES, IMAGE_EXTENSIONS, index_shard
from dress.data.pixels import Pixels
from dress.data.shards import ShardError, Shards, write_shard
from dress.data.splits import open_splits
from dress.dialogue.batch import image_batches
from dress.dialogue.image import Picture
from dress.model.checkpoint import available_device, load_model, read_facts
from dress.model.composed import ComposedLVLM
from dress.model.hf import HFLVLM
from dress.model.pictures import FixedReader, PictureReader
from dress.model.vision import VisionEncoder
from dress.record import RecordError

SETTINGS = "features.json"


@dataclass
class Totals:
    """What was done, and how far the stored numbers are from the encoder's."""

    shards: int = 0
    skipped: int = 0
    samples: int = 0
    images: int = 0
    encoded: int = 0
    size: int = 0
    squares: float = 0.0
    error_squares: float = 0.0
    worst: float = 0.0
    rejects: list[dict[str, str]] = field(default_factory=list)

    def compare(self, features: Tensor, data: bytes) -> None:
        """Compare what is stored with the features [V, D_v] that the encoder made."""
        copy = decode(np.frombuffer(bytearray(data), np.uint8))
        norm, difference = features.double().square().sum(-1), (features.double() - copy.double()).square().sum(-1)
        self.squares += norm.sum().item()
        self.error_squares += difference.sum().item()
        self.worst = max(self.worst, (difference / norm.clamp(min=1e-300)).sqrt().max().item())
        self.encoded += 1

    @property
    def error(self) -> float:
        """Norm of the difference ÷ norm of the features."""
        return (self.error_squares / max(self.squares, 1e-300)) ** 0.5


class Writer:
    """Makes the samples of new shards.

    Args:
        settings: batch size, how features are stored, what to do with damage.
        encoder: an encoder, or a model whose encoder and projector are meant, on its device.
    """

    def __init__(self, settings: Features, encoder: VisionEncoder | HFLVLM) -> None:
        self.settings, self.encoder = settings, encoder.eval()
        self.device = next(encoder.parameters()).device
        self.reader: PictureReader
        if isinstance(encoder, HFLVLM):
            self.facts = encoder.image_facts(settings.images)
            self.reader = encoder.reader(settings.images, settings.max_aspect)
        else:
            self.facts = encoder.facts(settings.images)
            pixels = Pixels(encoder.preprocessing, encoder.transform, settings.images, settings.max_aspect)
            self.reader = FixedReader(pixels, encoder.num_tokens)
        self.totals = Totals()
        self.sizes: set[tuple[int, ...]] = set()
        """[V, D_v] of images that were encoded."""
        self._places: dict[bytes, tuple[Path, int, int]] = {}
        """A picture's digest to the shard that has its features, and to their offset and size there."""

    def samples(self, shards: Shards, indices: range) -> Iterator[dict[str, Any]]:
        """Samples as webdataset has them, with features beside every image."""
        several = _several(shards, indices)
        again: dict[bytes, bytes] = {}  # features of those
        for first in range(indices.start, indices.stop, self.settings.batch_size):
            batch = range(first, min(first + self.settings.batch_size, indices.stop))
            pictures: dict[bytes, Picture] = {}
            rows = [row for index in batch if (row := self._read(shards, index, pictures, again)) is not None]
            fresh = dict(zip(pictures, self._features(list(pictures.values())), strict=True))
            for sample, digest in rows:
                if digest is not None:
                    data = again.get(digest)
                    if digest in fresh and data is None:
                        data = self._file_of(fresh[digest], pictures[digest])
                        if digest in several:
                            again[digest] = data
                    sample[FEATURES] = self._copy(digest) if data is None else data
                    self.totals.images += 1
                    self.totals.size += len(sample[FEATURES])
                self.totals.samples += 1
                yield sample
        self.totals.shards += 1

    def remember(self, shard: Path) -> None:
        """Note where a finished shard has the features of its pictures, to copy them where these come again."""
        with shard.open("rb") as file:
            for _, places in index_shard(shard)["samples"]:
                image = next((places[ext] for ext in IMAGE_EXTENSIONS if ext in places), None)
                if image is not None and FEATURES in places:
                    digest = _digest(os.pread(file.fileno(), image[1], image[0]))
                    self._places.setdefault(digest, (shard, *places[FEATURES]))

    def _copy(self, digest: bytes) -> bytes:
        shard, offset, size = self._places[digest]
        with shard.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    def _file_of(self, features: Tensor, picture: Picture) -> bytes:
        """The file of a picture's features."""
        self.sizes.add(tuple(features.shape))
        layout = picture.layout if isinstance(self.encoder, HFLVLM) else None
        data = encode(features, self.settings.stored, self.facts, layout)
        self.totals.compare(features, data)
        return data

    def _read(
        self, shards: Shards, index: int, pictures: dict[bytes, Picture], again: dict[bytes, bytes]
    ) -> tuple[dict[str, Any], bytes | None] | None:
        """A sample and its picture's digest, which is put among those to encode if it is new; None if set aside."""
        try:
            members: dict[str, Any] = {**shards.members(index), "__key__": shards.record(index).key}
            members.pop(FEATURES, None)
            image = next((members[ext] for ext in IMAGE_EXTENSIONS if ext in members), None)
            if image is None:
                return members, None
            digest = _digest(image)
            if digest not in pictures and digest not in again and digest not in self._places:
                pictures[digest] = self.reader(image, shards.where(index))
            return members, digest
        except RecordError as error:
            if self.settings.on_damage == "stop":
                raise
            self.totals.rejects.append({"where": shards.where(index), "reason": str(error)})
            return None

    def _features(self, pictures: list[Picture]) -> list[Tensor]:
        """[V, D_v] of each, in fp32, on the CPU."""
        features: dict[int, Tensor] = {}
        for batch in image_batches(pictures):
            with torch.inference_mode():
                if isinstance(self.encoder, HFLVLM):
                    encoded = self.encoder.encode_images(batch.to(self.device)).float().cpu().split(batch.tokens)
                else:
                    encoded = self.encoder(batch.inputs["pixels"].to(self.device)).float().cpu().unbind()
            features.update(zip(batch.numbers, encoded, strict=True))
        return [features[number] for number in range(len(pictures))]


def run(settings: Features, console: Console) -> Totals:
    """Write the features of every image; ends with a table.

    Raises:
        FileNotFoundError: no shards, no run, or no such scale.
        ValueError: `out` was begun with other settings or holds the input, or what is read is damaged.
    """
    path, out = Path(settings.path), Path(settings.out)
    if path.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"out={out}: expected a folder beside path={path}, got one that holds it or lies in it")
    splits = open_splits(settings.path, settings.on_damage)
    device = settings.device or available_device()
    writer = Writer(settings, encoder_of(settings).to(device))
    fingerprints = {name: shards.fingerprint for name, shards in splits.items()}
    begin(out, {"shards": fingerprints, "stored": settings.stored, "encoder": writer.facts})
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for name, shards in splits.items():
            writer.totals.rejects += [{"where": line, "reason": line} for line in shards.damage]
            bar = progress.add_task(f"features {name}".strip(), total=len(shards))
            for file, indices in shards.by_file():
                target = out / name / file
                if target.exists():
                    writer.totals.skipped += 1
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_shard(target, writer.samples(shards, indices))
                writer.remember(target)
                progress.advance(bar, len(indices))
            Shards(out / name)  # writes the index
    if writer.totals.rejects:
        write_lines(out / "rejects.jsonl", writer.totals.rejects)
    console.print(table(settings, writer))
    console.print(f"Next: python src/train.py data=shards data.path={out}", highlight=False)
    return writer.totals


def _digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()


def _several(shards: Shards, indices: range) -> set[bytes]:
    """The pictures that more than one of the samples has; what cannot be read is named where it is encoded."""
    counts: Counter[bytes] = Counter()
    for index in indices:
        with suppress(RecordError):
            if (image := shards.image(index)) is not None:
                counts[_digest(image)] += 1
    return {digest for digest, number in counts.items() if number > 1}


def encoder_of(settings: Features) -> VisionEncoder | HFLVLM:
    """The encoder that the settings name, with the weights that training begins with.

    Raises:
        FileNotFoundError: no such run, stage or scale.
        ValueError: a model that cannot be loaded.
    """
    if settings.model is not None:
        return HFLVLM(settings.model.model_copy(update={"lora": None}))
    if settings.ckpt is not None:
        consent = config.Consent(
            trust_remote_code=settings.trust_remote_code, trust_targets=list(settings.trust_targets)
        )
        return _of_run(Path(settings.ckpt), settings.stage, consent)
    vision = settings.vision.model_dump()
    if settings.encoder is not None:
        scales = config_files("scale")
        if settings.encoder not in scales:
            raise FileNotFoundError(
                f"encoder={settings.encoder}: expected the name of a scale, one of {', '.join(sorted(scales))}"
            )
        defaults = read_yaml(scales[settings.encoder])["defaults"]
        (model,) = [entry["/model"] for entry in defaults if "/model" in entry]
        vision = read_yaml(config_files("model")[model])["vision"]
    torch.manual_seed(seed_for(settings.seed, "init"))
    return VisionEncoder(config.Vision.model_validate(vision))


def read_yaml(file: Path) -> dict[str, Any]:
    """A file of `configs/` as it stands there."""
    settings: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return settings


def _of_run(run: Path, stage: str | None, consent: config.Consent) -> VisionEncoder | HFLVLM:
    facts = [read_facts(file.parent, "stage", "stages") for file in run.glob("stages/*/model.json")]
    trained = [fact["stage"] for fact in sorted(facts, key=lambda fact: len(fact["stages"]))]
    if not trained or (stage or trained[-1]) not in trained:
        raise FileNotFoundError(
            f"ckpt={run}, stage={stage}: expected a stage of a run that was trained, got {', '.join(trained) or 'none'}"
        )
    folder = run / "stages" / (stage or trained[-1])
    model, _ = load_model(folder, consent=consent, exact=True)
    if isinstance(model, ComposedLVLM):
        return model.vision
    assert isinstance(model, HFLVLM)
    return model


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Note what the features in `out` are made of, or refuse to mix them.

    Raises:
        ShardError: `out` was begun with other shards or settings.
    """
    file = out / SETTINGS
    before = read_json(file) if file.exists() else settings
    unlike = [name for name in settings if before.get(name) != settings[name]]
    if unlike:
        name = unlike[0]
        raise ShardError(
            f"{file}: begun with other {name}: expected {before.get(name)}, got {settings[name]}. Choose another out="
        )
    write_json(file, settings)


def table(settings: Features, writer: Writer) -> Table:
    """What was written, how large it is, and the error of storing it."""
    totals, facts = writer.totals, writer.facts
    tokens = sorted({size[0] for size in writer.sizes})
    width = next((size[1] for size in writer.sizes), "unknown width")
    number = "no new ones" if not tokens else f"{tokens[0]} to {tokens[-1]}" if len(tokens) > 1 else f"{tokens[0]}"
    result = Table("features", "", title=settings.out)
    rows = {
        "shards written": f"{totals.shards:,}",
        "shards that were there": f"{totals.skipped:,}",
        "samples": f"{totals.samples:,}",
        "images": f"{totals.images:,}",
        "pictures that were encoded": f"{totals.encoded:,}",
        "set aside": f"{len(totals.rejects):,}",
        "features": f"{number} x {width}, {settings.stored}",
        "bytes per image": f"{totals.size // max(1, totals.images):,}",
        "relative error": f"{totals.error:.2e}",
        "relative error of the worst token": f"{totals.worst:.2e}",
        "encoder": ", ".join(f"{name} {facts[name]}" for name in ("weights", "layer") if name in facts)
        + f", {facts['library']}",
    }
    for name, value in rows.items():
        result.add_row(name, value)
    return result
