"""`task=features`: new shards that hold, beside every image, what a frozen encoder makes of it.

Of a composed model that is its encoder; of a model of transformers encoder and projector, which it calls together.

A shard is written whole or not at all, so a call that was stopped goes on with the next one. Features
are made in fp32, in batches that start anew with every shard: the same call gives the same bytes. A picture that
several splits or records have, byte for byte, is encoded once: what an earlier shard holds of it is copied. A batch
of which an earlier shard holds all is left out, any other is encoded whole: so the features of a picture depend on
the shard where it stands first, and on no other, and parts can be made apart (`feature_parts`).

Shapes: N images of a batch, V tokens of an image, D_v width.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
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
from dress.base.files import checksum, read_json, write_json, write_lines
from dress.base.parts import PART_WAIT, PartNumber, finish_part, finished_part
from dress.base.run_folder import lock, unlock
from dress.base.seeding import seed_for
from dress.config.tasks import Features
from dress.data.features import decode, encode
from dress.data.index import FEATURES, IMAGE_EXTENSIONS, index_shard
from dress.data.pixels import Pixels
from dress.data.shards import ShardError, Shards, write_shard
from dress.data.splits import Splits, open_splits
from dress.dialogue.batch import image_batches
from dress.dialogue.image import Picture
from dress.model.checkpoint import available_device, load_model, read_facts
from dress.model.composed import ComposedLVLM
from dress.model.hf import HFLVLM
from dress.model.pictures import FixedReader, PictureReader
from dress.model.vision import VisionEncoder
from dress.record import RecordError

SETTINGS, REJECTS = "features.json", "rejects.jsonl"
VERSION = 1
"""Raised when parts would give other features."""


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
        earlier: set[bytes] = set()  # pictures of earlier batches
        for first in range(indices.start, indices.stop, self.settings.batch_size):
            batch = range(first, min(first + self.settings.batch_size, indices.stop))
            rows, pictures = self._read(shards, batch, earlier)
            fresh = dict(zip(pictures, self._features(list(pictures.values())), strict=True))
            for sample, digest in rows:
                if digest is not None:
                    data = again.get(digest)
                    if digest not in self._places and data is None:
                        data = self._file_of(fresh[digest], pictures[digest])
                        if digest in several:
                            again[digest] = data
                    sample[FEATURES] = self._copy(digest) if data is None else data
                    self.totals.images += 1
                    self.totals.size += len(sample[FEATURES])
                self.totals.samples += 1
                yield sample
        self.totals.shards += 1

    def remember(self, shard: Path) -> list[bytes | None]:
        """Note where a finished shard has the features of its pictures, to copy them where these come again.

        Returns:
            The pictures' digests, None for a sample without one.
        """
        digests: list[bytes | None] = []
        with shard.open("rb") as file:
            for _, places in index_shard(shard)["samples"]:
                image = next((places[ext] for ext in IMAGE_EXTENSIONS if ext in places), None)
                digests.append(None)
                if image is not None and FEATURES in places:
                    digests[-1] = digest = _digest(os.pread(file.fileno(), image[1], image[0]))
                    self._places.setdefault(digest, (shard, *places[FEATURES]))
        return digests

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
        self, shards: Shards, batch: range, earlier: set[bytes]
    ) -> tuple[list[tuple[dict[str, Any], bytes | None]], dict[bytes, Picture]]:
        """Samples of a batch, each with its picture's digest, and the pictures that are to be encoded.

        Args:
            shards: that hold the samples.
            batch: their indices; what cannot be read is set aside.
            earlier: pictures of earlier batches of this shard; those of this one are added.
        """
        samples = [_sample(shards, index) for index in batch]
        digests = {digest for sample in samples if isinstance(sample, tuple) and (digest := sample[2]) is not None}
        needs_encoder = not digests - earlier <= self._places.keys()
        rows: list[tuple[dict[str, Any], bytes | None]] = []
        pictures: dict[bytes, Picture] = {}
        for index, sample in zip(batch, samples, strict=True):
            try:
                if isinstance(sample, RecordError):
                    raise sample
                members, image, digest = sample
                if not needs_encoder or image is None or digest is None:
                    pass  # nothing to be encoded
                elif digest not in pictures and digest not in earlier:
                    pictures[digest] = self.reader(image, shards.where(index))
                rows.append((members, digest))
            except RecordError as error:
                if self.settings.on_damage == "stop":
                    raise
                self.totals.rejects.append({"where": shards.where(index), "reason": str(error)})
        earlier.update(digest for _, digest in rows if digest is not None)
        return rows, pictures

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
    part = None if settings.part is None else PartNumber.parse(settings.part)
    out = out if part is None else part.folder(out)
    splits = open_splits(settings.path, settings.on_damage)
    device = settings.device or available_device()
    writer = Writer(settings, encoder_of(settings).to(device))
    fingerprints = {name: shards.fingerprint for name, shards in splits.items()}
    facts = {"shards": fingerprints, "stored": settings.stored, "encoder": writer.facts}
    if part is not None:
        out.mkdir(parents=True, exist_ok=True)
        lock(out, PART_WAIT)
    try:
        if part is not None and finished_part(out, identity(settings, facts)):
            console.print(f"Nothing to do: {out} is finished.", highlight=False)
            return writer.totals
        begin(out, facts)
        shards_of_part = _write(settings, splits, writer, out, part, console)
        if part is not None:
            damage = {name: shards.damage for name, shards in splits.items()}
            sums = {name: checksum(out / name) for name in shards_of_part}
            facts_of_part = {"pictures": shards_of_part, "damage": damage, "files": sums}
            finish_part(out, "features", identity(settings, facts), facts_of_part)
    finally:
        unlock(out)
    console.print(table(settings, writer))
    if part is None:
        console.print(f"Next: python src/train.py data=shards data.path={out}", highlight=False)
    return writer.totals


def identity(settings: Features, facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that the features of a part depend on."""
    chosen = settings.model_dump(include={"batch_size", "images", "max_aspect", "on_damage", "seed"})
    return {"features": VERSION, **facts, **chosen}


def _write(
    settings: Features, splits: Splits, writer: Writer, out: Path, part: PartNumber | None, console: Console
) -> dict[str, list[str | None]]:
    """The shards, or those of a part, that are not there yet; their names with the pictures in each."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pictures_by_shard: dict[str, list[str | None]] = {}
    with Progress(*columns, console=console, transient=True) as progress:
        for name, shards in splits.items():
            writer.totals.rejects += [{"where": line, "reason": line} for line in shards.damage]
            files = list(shards.by_file())
            files = [files[place] for place in (part or PartNumber(0, 1)).span(len(files))]
            bar = progress.add_task(f"features {name}".strip(), total=sum(len(indices) for _, indices in files))
            for file, indices in files:
                target = out / name / file
                if target.exists():
                    writer.totals.skipped += 1
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    samples = writer.samples(shards, indices)
                    write_shard(target, samples if part is None else _with_rejects(samples, writer.totals, target))
                digests = writer.remember(target)
                pictures_by_shard[target.relative_to(out).as_posix()] = [
                    None if one is None else one.hex() for one in digests
                ]
                progress.advance(bar, len(indices))
            if files:
                Shards(out / name)  # writes the index
    if writer.totals.rejects and part is None:
        write_lines(out / REJECTS, writer.totals.rejects)
    return pictures_by_shard


def rejects_of(shard: Path) -> Path:
    """Beside a shard of a part: what was set aside of it."""
    return shard.with_suffix(".rejects.jsonl")


def _with_rejects(samples: Iterator[dict[str, Any]], totals: Totals, shard: Path) -> Iterator[dict[str, Any]]:
    """The samples; what was set aside is written down before their shard is."""
    before = len(totals.rejects)
    yield from samples
    if len(totals.rejects) > before:
        write_lines(rejects_of(shard), totals.rejects[before:])


def _sample(shards: Shards, index: int) -> tuple[dict[str, Any], bytes | None, bytes | None] | RecordError:
    """The members of a sample, its picture and its digest; or why it cannot be read."""
    try:
        members: dict[str, Any] = {**shards.members(index), "__key__": shards.record(index).key}
    except RecordError as error:
        return error
    members.pop(FEATURES, None)
    image = next((members[ext] for ext in IMAGE_EXTENSIONS if ext in members), None)
    return members, image, None if image is None else _digest(image)


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
