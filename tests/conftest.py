"""Small real parts that the tests share: shards of the shapes world, a tiny model, the composed config."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from scripts import end_all

import dress  # noqa: F401 - first: sets how CPU threads wait
from dress import config
from dress.data.shards import Shards, write_shards
from dress.dialogue.batch import image_batches
from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import IMAGE
from dress.dialogue.image import ImageLayout, Picture
from dress.dialogue.tokenizer import train_tokenizer
from dress.model.composed import ComposedLVLM
from dress.phases import check_phases
from dress.run.composing import compose
from dress.worlds.shapes import generate as shapes

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "data.sizes={align: 40, sft: 40, prompts: 24, eval: 8}",
    "curriculum.stages.align.steps=4", "curriculum.stages.sft.steps=4", "curriculum.stages.dress.steps=4",
    "curriculum.stages.align.records_per_step=4", "curriculum.stages.sft.records_per_step=4",
    "curriculum.stages.dress.records_per_step=4",
    "curriculum.stages.collect.records=24", "generation.max_new_tokens=12",
    "model.vision.vit={image_size: 48, patch_size: 16, width: 32, layers: 1, heads: 2}",
    "model.language.config.hidden_size=32", "model.language.config.intermediate_size=48",
    "model.language.config.num_hidden_layers=2", "model.language.config.num_attention_heads=2",
    "model.language.config.num_key_value_heads=2", "trainer.log_every_n_steps=1", "trainer.devices=1",
]  # fmt: skip
"""Overrides that make a whole curriculum a matter of seconds."""


def png() -> bytes:
    """A red square."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


def tar(path: Path, members: list[tuple[str, bytes | tarfile.TarInfo]]) -> Path:
    """Write a tar file of (name, bytes) or headers as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                file.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def keys(shards) -> list[str]:
    """Of all records, in order."""
    return [record.key for record, _ in shards]


def huge_png(side: int = 13_000) -> bytes:
    """20 KB that decode to 169 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def composed(*overrides: str, run_dir: Path | str = "unused") -> config.Config:
    """The checked configuration of `python src/train.py <overrides>`."""
    settings = config.check(compose("train", [f"run_dir={run_dir}", *overrides]))
    config.check_targets(settings)
    check_phases(settings.curriculum.stages, settings.phases)
    return settings


def tiny_settings(tmp_path: Path, *overrides: str, run: str = "run") -> config.Config:
    """A whole tiny run under `tmp_path`."""
    return composed(*TINY, f"data.path={tmp_path / 'data'}", *overrides, run_dir=tmp_path / run)


LONGEST = (
    "test_stopping.py", "test_parallel.py", "test_stages_page.py", "test_changing_page.py",
    "test_readme.py", "test_train_step.py", "test_data_docs.py", "test_command_line.py", "test_remote.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few and long tests first: where two processes share the files, the last ones are then short."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Two in all, however many processes the tests run in."""
    torch.set_num_threads(max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


@pytest.fixture(autouse=True)
def _processes_end() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every split of a small shapes world, as shards."""
    folder = tmp_path_factory.mktemp("shapes")
    for split in shapes.SPLITS:
        write_shards(folder / split, shapes.samples(split, 30, seed=0), per_shard=10)
    return folder


@pytest.fixture(scope="session")
def phases() -> config.Phases:
    return composed().phases


@pytest.fixture(scope="session")
def tokenizer(shapes_folder: Path):
    texts = []
    for split in ("align", "sft", "prompts"):
        for record, _ in Shards(shapes_folder / split):
            texts += record.annotation.captions
            texts += [t for d in record.dialogues for turn in d.turns for t in (turn.user, turn.assistant) if t]
    return train_tokenizer(texts, 1024, FORMATS["plain"])


def small_settings(chat: str = "plain", **language: object) -> config.ComposedModel:
    """Of a model of a few thousand weights."""
    fields = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    } | language  # fmt: skip
    return config.ComposedModel(
        vision=config.Vision(vit=config.ViT(image_size=48, patch_size=16, width=32, layers=2, heads=2)),
        language=config.Language(config=fields, chat=chat),
    )


def small_model(tokenizer, chat: str = "plain", **language: object) -> ComposedLVLM:
    """A model of `small_settings`; the same for the same arguments."""
    torch.manual_seed(0)
    return ComposedLVLM(small_settings(chat, **language), tokenizer)


LAYOUT = ImageLayout((9,))
"""An image's tokens in a model of `small_settings`."""


def picture(pixels: torch.Tensor, tokens: int = LAYOUT.tokens) -> Picture:
    """Pixels [3, H, W] as a composed model takes them, by default one of `small_settings`."""
    return Picture({"pixels": pixels[None]}, ImageLayout((tokens,)))


def embedded(model: ComposedLVLM, ids: list[int], image: Picture | None) -> torch.Tensor:
    """Embeddings [1, S, D] of one sequence, the image's tokens in place."""
    row = torch.tensor([ids])
    embeddings = model.language.get_input_embeddings()(row.clamp(min=0))
    if image is None:
        return embeddings
    return embeddings.masked_scatter((row == IMAGE)[..., None], model.encode_images(*image_batches([image])))
