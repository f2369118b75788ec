"""The index of a large dataset: bytes a sample, seconds to open it, and memory of all processes of a node together.

Shards are empty files of the right size, with a synthetic index; nothing is read of them. Every process opens the
folder as training does: every shard's size and time are compared with the index, and the index with its checksum.

    python benchmarks/index.py [samples=8000000] [shards=40000] [processes=8] [out=benchmarks/results/index.json]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from dress.data.index import Entry
from dress.data.index_file import INDEX, read_index, write_index
from dress.data.order import epoch_order
from dress.data.shards import Shards

SIZE = 16 << 20
"""Bytes of a shard."""


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


def memory() -> dict[str, float]:
    """MiB of this process: resident, and its share of what several processes use (PSS)."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    sizes = {name.rstrip(":").lower(): int(size) / 1024 for name, size, *_ in lines}
    return {name: round(sizes[name], 1) for name in ("rss", "pss")}


def opened(folder: str, ready: Any, done: Any, results: Any) -> None:
    """Open the folder, and keep it open until all processes have been measured."""
    before = memory()
    started = time.perf_counter()
    shards = Shards(folder)
    seconds = time.perf_counter() - started
    rng = random.Random(os.getpid())
    asked = [rng.randrange(len(shards)) for _ in range(20_000)]
    started = time.perf_counter()
    for index in asked:
        shards.where(index)
    located = (time.perf_counter() - started) / len(asked)
    started = time.perf_counter()
    shards.longer_texts(480)
    lengths = time.perf_counter() - started
    ready.wait()
    results.put({"seconds": seconds, "before": before, "after": memory(), "where": located, "longer": lengths})
    done.wait()


def at_once(folder: Path, number: int) -> list[dict[str, Any]]:
    """What so many processes measure that have the folder open at the same time."""
    context = multiprocessing.get_context("spawn")
    ready, done, results = context.Barrier(number), context.Event(), context.Queue()
    processes = [context.Process(target=opened, args=(str(folder), ready, done, results)) for _ in range(number)]
    for process in processes:
        process.start()
    rows = [results.get() for _ in processes]
    done.set()
    for process in processes:
        process.join()
    return rows


def main() -> None:
    """Make the folder, open it, print and write the figures."""
    options = {"samples": "8000000", "shards": "40000", "processes": "8", "out": "benchmarks/results/index.json"}
    options |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    samples, shards, processes = (int(options[name]) for name in ("samples", "shards", "processes"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        started = time.perf_counter()
        write_index(folder / INDEX, entries(folder, samples, shards), "records", ())
        made = time.perf_counter() - started
        index = read_index(folder / INDEX)
        assert index is not None
        size = (folder / INDEX).stat().st_size
        (one,) = at_once(folder, 1)
        several = at_once(folder, processes)
        started = time.perf_counter()
        epoch_order(0, 0, [samples // shards] * shards)
        order = time.perf_counter() - started
    figures = {
        "samples": samples, "shards": shards, "cores": os.cpu_count(),
        "bytes_per_sample": round(size / samples, 1), "file_mib": round(size / 2**20, 1),
        "seconds_to_make": round(made, 1), "seconds_to_open": round(one["seconds"], 2),
        "mib_of_one_process": one["after"], "mib_before": one["before"],
        f"mib_of_{processes}_processes_together": round(sum(row["after"]["pss"] for row in several), 1),
        f"mib_of_{processes}_processes_before": round(sum(row["before"]["pss"] for row in several), 1),
        f"seconds_to_open_of_{processes}_at_once": [round(row["seconds"], 2) for row in several],
        "microseconds_to_locate_a_sample": round(one["where"] * 1e6, 2),
        "seconds_to_find_longer_texts": round(one["longer"], 3), "seconds_of_an_epochs_order": round(order, 2),
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    Path(options["out"]).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
