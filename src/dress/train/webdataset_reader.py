"""`data.reader=webdataset`: webdataset's own pipeline, for comparison.

It cannot resume, repeats one order of shards and takes a cut shard for a whole one;
`data.reader=indexed` is the engine. Only raw members are taken from it: its decoding would unpickle.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from torch.utils.data import IterableDataset, get_worker_info

from dress.base.seeding import rng_for
from dress.data.features import FeatureError, decode_image
from dress.data.index import FEATURES, IMAGE_EXTENSIONS
from dress.data.remote import RemoteShards
from dress.dialogue.batch import Batch
from dress.record import Record, RecordError
from dress.train.steps import StepDataset

SHUFFLED = 1000
"""Samples of webdataset's shuffle buffer."""


class WebdatasetSteps(IterableDataset[Batch]):
    """Steps of `dataset`'s shards in webdataset's order: for this rank, and this worker of it.

    Raises:
        ValueError: a mixture, remote shards or scores of a stage's start, which only the indexed reader knows.
    """

    def __init__(self, dataset: StepDataset) -> None:
        (part, *more) = dataset.stream.parts
        if more or isinstance(part.shards, RemoteShards):
            raise ValueError("data.reader=webdataset: expected one local dataset; use data.reader=indexed")
        if scoring := dataset.examples.objectives.scoring:
            phases = ", ".join(scoring)
            raise ValueError(f"data.reader=webdataset: phase {phases} compares with the stage's start; use indexed")
        self.dataset = dataset
        self.paths = [str(path.absolute()) for path in sorted(Path(part.shards.folder).glob("**/*.tar"))]

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        dataset, worker = self.dataset, get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        size = max(1, dataset.stage.records_per_step // dataset.world)
        samples = self._samples(dataset.rank * workers + number, dataset.world * workers)
        for _ in range(number, len(dataset), workers):
            yield dataset.collated(islice(samples, size))

    def _samples(self, first: int, every: int) -> Iterator[Any]:
        """Endless; shards are dealt out by explicit rank and worker."""
        paths, seed, examples = self.paths[first::every] or self.paths, self.dataset.stream.seed, self.dataset.examples
        epoch = 0
        while True:
            pipeline = webdataset.WebDataset(paths, shardshuffle=False, nodesplitter=None, workersplitter=None)
            for raw in pipeline.shuffle(SHUFFLED, seed=seed + epoch):
                where = f"{raw.get('__url__')}: {raw['__key__']}"
                try:
                    if "json" not in raw:
                        raise RecordError(f"{where}: expected a .json, found none")
                    picture: Any = next((raw[ext] for ext in IMAGE_EXTENSIONS if ext in raw), None)
                    if examples.data.stored:
                        data = bytearray(raw[FEATURES]) if FEATURES in raw else None
                        picture = None if data is None else decode_image(np.frombuffer(data, np.uint8))
                    rng = rng_for(seed, epoch, raw["__key__"])
                    yield examples.build(Record.parse(raw["json"], where), picture, where, rng)
                except (RecordError, FeatureError) as error:
                    examples.reject(where, str(error))
            epoch += 1
