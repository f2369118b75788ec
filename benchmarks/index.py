"""The index of a large dataset: bytes a sample, seconds until its first steps, and memory of all processes of a node.

Shards are sparse files of the right size and time, with a synthetic index; nothing is read of them. A rank opens the
folder as a train stage does: every shard's size and time are compared with the index, the index with its checksum, and
texts that could be too long are looked for. Its data module then hands steps to data workers, each of which makes the
order for itself. All ranks begin at once, and memory is summed while all ranks and workers stand still: of each process
what it has alone, and its share of what several have mapped (PSS). What the dataset costs is the difference to the same
processes with a dataset of as many samples as a shard holds.

    python benchmarks/index.py [samples=8000000] [shards=40000] [ranks=2] [workers=4] [method=fork]
        [out=benchmarks/results/index.json]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from steps.machine import commit, facts, pss  # noqa: E402

from dress import config  # noqa: E402
from dress.data.index import Entry  # noqa: E402
from dress.data.index_file import INDEX, write_index  # noqa: E402
from dress.data.order import EpochOrder  # noqa: E402
from dress.train.datamodule import StageData  # noqa: E402
from dress.train.run_data import RunData  # noqa: E402
from dress.train.steps import StepDataset  # noqa: E402

SIZE = 16 << 20
"""Bytes of a shard."""
LONG = 480
"""Bytes of a text that are looked for."""
STAGE: Any = SimpleNamespace(records_per_step=512, total_steps=10_000, data_title="sft")


class Node(NamedTuple):
    """Processes of one machine: its ranks, the data workers of each, and how these are started."""

    ranks: int
    workers: int
    method: str


def entries(folder: Path, samples: int, shards: int) -> Iterator[Entry]:
    """Shards of captions of 50 to 250 bytes beside images of 20 to 80 kB."""
    rng, each = random.Random(0), samples // shards
    for number in range(shards):
        path = folder / f"shard-{number:06d}.tar"
        path.touch()
        os.truncate(path, SIZE)
        rows, at = [], 512
        for row in range(number * each, (number + 1) * each):
            text, image = rng.randrange(300, 500), rng.randrange(20_000, 80_000)
            rows.append((f"{row:012d}", {"json": (at, text), "jpg": (at + 1536, image)}))
            at += 1536 + 512 + image // 512 * 512 + 512
        yield {
            "name": path.name, "size": SIZE, "mtime_ns": path.stat().st_mtime_ns, "sha256": rng.randbytes(32).hex(),
            "samples": rows, "problems": [], "features": None,
        }  # fmt: skip


def write_folder(folder: Path, samples: int, shards: int) -> None:
    """The sparse shards and their index."""
    folder.mkdir()
    write_index(folder / INDEX, entries(folder, samples, shards), "records", ())


class Places(StepDataset):
    """Steps of which only the places are known."""

    def __getitem__(self, step: int) -> Any:
        places = self.stream.step(step, self.stage.records_per_step)[self.rank :: self.world]
        return [self.stream.where(place) for place in places]


def rank(number: int, node: Node, folder: str, begin: Any, results: Any, done: Any) -> None:
    """Open the folder and get a step of every worker; all stay until they were measured."""
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
    data = config.Data.model_validate({"path": folder, "workers": node.workers, "start_method": node.method})
    begin.wait()
    started = time.perf_counter()
    stream = RunData(data, folder).stream(".", seed=0)
    opened = time.perf_counter()
    longer = len(stream.parts[0].shards.longer_texts(LONG))
    searched = time.perf_counter()
    module = StageData(lambda at, world: Places(stream, STAGE, None, rank=at, world=world), data, None)  # type: ignore[arg-type]
    module.trainer = SimpleNamespace(global_rank=number, world_size=node.ranks)  # type: ignore[assignment]
    steps = iter(module.train_dataloader())
    for _ in range(max(1, node.workers)):
        assert len(next(steps)) == STAGE.records_per_step // node.ranks
    stepped = time.perf_counter()
    shards = stream.parts[0].shards
    indices = [random.Random(number).randrange(len(shards)) for _ in range(20_000)]
    for index in indices:
        shards.where(index)
    located = (time.perf_counter() - stepped) / len(indices)
    pids = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    assert len(pids) == 1 + node.workers
    results.put(
        {
            "pids": pids, "open": opened - started, "search": searched - opened, "longer": longer,
            "steps": stepped - searched, "locate": located,
        }
    )  # fmt: skip
    done.wait()


def measure(folder: Path, node: Node) -> tuple[list[dict[str, Any]], float]:
    """What each rank measures, and the MiB of all ranks and workers together."""
    context = multiprocessing.get_context("spawn")
    begin, done, results = context.Barrier(node.ranks), context.Event(), context.Queue()
    shared = node, str(folder), begin, results, done
    processes = [context.Process(target=rank, args=(number, *shared)) for number in range(node.ranks)]
    for process in processes:
        process.start()
    rows = [results.get(timeout=600) for _ in processes]
    mib = sum(pss(pid) / 2**20 for row in rows for pid in row["pids"])
    done.set()
    for process in processes:
        process.join()
    return rows, mib


def order_seconds(samples: int, shards: int) -> tuple[float, float]:
    """Seconds until the first place of an epoch is known, and until all are."""
    started = time.perf_counter()
    order = EpochOrder(0, 0, [samples // shards] * shards)
    assert order[0] >= 0
    first = time.perf_counter() - started
    deque(order, maxlen=0)
    return first, time.perf_counter() - started


def main() -> None:
    """Make the folder, open it, print and write the figures."""
    options = {
        "samples": "8000000", "shards": "40000", "ranks": "2", "workers": "4", "method": "fork",
        "out": str(ROOT / "benchmarks" / "results" / "index.json"),
    }  # fmt: skip
    options |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    samples, shards, ranks, workers = (int(options[name]) for name in ("samples", "shards", "ranks", "workers"))
    node = Node(ranks, workers, options["method"])
    with tempfile.TemporaryDirectory() as place:
        large, small = Path(place) / "large", Path(place) / "small"
        started = time.perf_counter()
        write_folder(large, samples, shards)
        making = time.perf_counter() - started
        write_folder(small, samples // shards, 1)
        size = (large / INDEX).stat().st_size
        (alone,), _ = measure(large, Node(1, 0, node.method))
        _, base = measure(small, node)
        rows, whole = measure(large, node)
    first, order = order_seconds(samples, shards)

    def seconds(*names: str) -> list[float]:
        return [round(sum(row[name] for name in names), 2) for row in rows]

    figures = {
        "samples": samples, "shards": shards, "cores": os.cpu_count(), **node._asdict(),
        "bytes_per_sample": round(size / samples, 1), "file_mib": round(size / 2**20, 1),
        "seconds_to_make": round(making, 1), "seconds_to_open_alone": round(alone["open"], 2),
        "seconds_to_open_of_each_rank": seconds("open"),
        "seconds_until_every_worker_gave_a_step": seconds("open", "search", "steps"),
        "mib_of_all_processes": round(whole, 1),
        "mib_of_them_with_a_small_dataset": round(base, 1),
        "mib_of_the_dataset": round(whole - base, 1),
        "seconds_of_an_epochs_order": round(order, 2), "seconds_to_its_first_place": round(first, 3),
        "microseconds_to_locate_a_sample": round(statistics.median(row["locate"] for row in rows) * 1e6, 2),
        "seconds_to_find_longer_texts": round(alone["search"], 3), "longer_texts": alone["longer"],
    }  # fmt: skip
    figures |= {"commit": commit(ROOT), "cpu": facts(1)["cpu"], "load_average": os.getloadavg()}
    print(json.dumps(figures, indent=1))
    Path(options["out"]).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
