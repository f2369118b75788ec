"""A JSON array of a table's rows, imported to its end: rows and megabytes a second, and memory, for numbers of workers.

The array holds questions about small pictures with an answer, a rating and what was said of it, in rows of the length
of LVLM_NLF's, 64 rows a picture. Each import is `python src/prepare.py task=import source=rows`, in a process of its
own; memory is that of all its processes together, each with what it has alone and its share of what several have
mapped (PSS), looked at twice a second.

    python benchmarks/import_rows.py [--megabytes 2000] [--workers 1 2] [--folder DIR] [--out FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from steps.machine import commit, facts, pss  # noqa: E402

ROWS_PER_IMAGE = 64
SIDE = 64
"""Of a picture."""
TEXT = (
    "the answer names what is in picture and stays with it could say more about where things stand but no object that "
    "is not there a man red bus street two dogs green grass behind tree window left of table helpful honest careful"
)
WORDS = TEXT.split()
EVERY = 0.5
"""Seconds between two looks at memory."""


def text(rng: random.Random, words: int) -> str:
    """A sentence."""
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + "."


def row(rng: random.Random, number: int) -> dict[str, Any]:
    """About 1.5 kB: question, answer, rating, critique and advice."""
    return {
        "id": number,
        "image": f"{number // ROWS_PER_IMAGE:06d}.jpg",
        "question": text(rng, 12),
        "answer": text(rng, rng.randrange(60, 120)),
        "rating": rng.randrange(1, 5),
        "feedback": text(rng, rng.randrange(50, 90)),
        "refinement": text(rng, rng.randrange(30, 60)),
        "criterion": "helpfulness",
        "annotator": "gpt-4",
    }


def write_rows(folder: Path, size: int) -> tuple[Path, int]:
    """The array, of at least so many bytes, and its pictures beside it; returns its file and the number of rows."""
    rng, path, rows = random.Random(0), folder / "rows.json", 0
    (folder / "images").mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n")
        while file.tell() < size or rows % ROWS_PER_IMAGE:
            if rows % ROWS_PER_IMAGE == 0:
                name = f"{rows // ROWS_PER_IMAGE:06d}.jpg"
                (folder / "images" / name).write_bytes(picture(rng))
            file.write((",\n" if rows else "") + json.dumps(row(rng, rows)))
            rows += 1
        file.write("\n]\n")
    return path, rows


def picture(rng: random.Random) -> bytes:
    """A small JPEG like no other."""
    small = Image.frombytes("RGB", (8, 8), rng.randbytes(192)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    small.save(out, "JPEG")
    return out.getvalue()


def processes(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in processes(int(child)))]


def measure(path: Path, rows: int, workers: int, out: Path) -> dict[str, Any]:
    """One import, to its end."""
    command = [
        sys.executable, str(ROOT / "src" / "prepare.py"), "task=import", "source=rows", f"path={path}", f"out={out}",
        f"workers={workers}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    started = time.perf_counter()
    with (out.parent / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
    peak, most = 0.0, 0
    done = threading.Event()
    threading.Thread(target=lambda: (process.wait(), done.set()), daemon=True).start()
    while not done.wait(EVERY):
        family = processes(process.pid)
        peak, most = max(peak, sum(map(pss, family)) / 2**20), max(most, len(family))
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit((out.parent / "log.txt").read_text())
    about = json.loads((out / "import.json").read_text(encoding="utf-8"))
    assert about["read"] == rows and about["used"] + sum(about["rejected"].values()) == rows
    return {
        "workers": workers, "seconds": round(seconds, 1), "rows_per_second": round(rows / seconds),
        "mb_per_second": round(path.stat().st_size / 1e6 / seconds, 2), "peak_mib_of_all_processes": round(peak, 1),
        "processes": most, "rows_used": about["used"], "rows_rejected": about["rejected"],
        "records_written": about["written"],
    }  # fmt: skip


def main() -> None:
    """Write the rows, import them with each number of workers, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000, help="10^6 bytes of the array, at least")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="for the rows and what is made of them; deleted at the end")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "import_rows.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        path, rows = write_rows(Path(place) / "table", options.megabytes * 1_000_000)
        figures: dict[str, Any] = {
            "bytes": path.stat().st_size, "rows": rows, "images": rows // ROWS_PER_IMAGE, "cores": os.cpu_count(),
        }  # fmt: skip
        figures["imports"] = [
            measure(path, rows, workers, Path(place) / f"out-{workers}") for workers in options.workers
        ]
    figures |= {"commit": commit(ROOT), "cpu": facts(1)["cpu"]}
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
