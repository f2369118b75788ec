"""The first ten minutes on a machine with a GPU: is it equal, how fast is a step, how fast are answers.

    make bench-gpu                                                    # needs no network and no download
    python benchmarks/gpu.py --tiny --device cpu --out /tmp/gpu       # the same code on toys; no figures to quote

1. `equality`: gradients of FlexAttention and of dense attention on CUDA; the losses, gradients and weights of `ddp` and
   `shard` under NCCL, two GPUs against one process, or groups of one where there is one GPU (tests marked `gpu`).
2. `step 1.5B`, `step 7B`: a LoRA step over a forest of 16k tokens, random weights of Qwen2-1.5B's and LLaMA-7B's
   sizes under a ViT-L: seconds, MFU against matrix products measured in between and against the data sheet, memory
   against the arithmetic.
3. `collect 1.5B`, `collect 7B`: tokens of answers per second, 64 answers of 128 tokens at once.

Each part is a process of its own with a limit in seconds: one that fails or takes too long is named, and the others go
on. Results: benchmarks/results/gpu.{json,md}, written after each part; a part that is not asked for (`--parts`) stays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
for folder in (ROOT / "src", HERE):
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])

import dress  # noqa: E402, F401, I001 - first: sets how CPU threads wait
import torch  # noqa: E402

from steps import device as parts, gpu_results  # noqa: E402
from steps.machine import commit, facts  # noqa: E402

LIMITS = {"equality": 170, "step 1.5B": 100, "step 7B": 130, "collect 1.5B": 60, "collect 7B": 100}
"""Seconds of each part, its start and its compiling included: less than ten minutes in all."""
ROUNDS = 0.4
"""Of a part's limit, what its rounds may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toys, in seconds")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=LIMITS, default=list(LIMITS),
                        help=f"these only: {', '.join(LIMITS)}")  # fmt: skip
    parser.add_argument("--limit", type=float, help="seconds of each part, instead of its own")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--here", type=Path, metavar="FILE", help=argparse.SUPPRESS)  # one part, in this process
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py: expected a CUDA device, found none; nothing was measured")
    if options.here:
        figures = measure(options.parts[0], options.device, options.tiny, options.limit)
        options.here.write_text(json.dumps(figures), encoding="utf-8")
        return
    raise SystemExit(0 if run(options) else 1)


def measure(part: str, device: str, tiny: bool, limit: float) -> dict[str, Any]:
    """The figures of a part that is not `equality`."""
    what, _, name = part.partition(" ")
    case = (parts.TINY if tiny else parts.CASES)[name]
    if what == "collect":
        return parts.collect(case, device, ROUNDS * limit)
    few = {"rounds": 2, "steps": 1} if tiny else {}
    return parts.step(case, device, ROUNDS * limit, **few)


def run(options: argparse.Namespace) -> bool:
    """All parts, one after another; True if none failed."""
    began = time.monotonic()
    file = options.out / "gpu.json"
    saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    head = {
        "device": options.device, "what": "toys, nothing to quote" if options.tiny else "random weights, bf16",
        "machine": facts(torch.get_num_threads()), "gpus": _gpus(options.device), "commit": commit(ROOT),
        "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
    }  # fmt: skip
    same = all(saved.get(key) == head[key] for key in ("device", "what", "gpus"))
    out = head | {"parts": saved["parts"] if same else {}}
    for part in options.parts:
        limit = options.limit or LIMITS[part]
        say(began, f"{part}: at most {limit:.0f} s")
        out["parts"][part] = figures = one_part(part, options, limit)
        gpu_results.write(options.out, out)
        say(began, f"{part}: {gpu_results.line(part, figures)}")
    failed = [part for part in options.parts if not out["parts"][part]["passes"]]
    say(began, f"results: {file} and .md; failed: {', '.join(failed) or 'none'}")
    return not failed


def one_part(part: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """What a part's process found, or how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "part", Path(folder) / "log"
        if part == "equality":
            command = [sys.executable, "-m", "pytest", *parts.equality(options.device, file)]
        else:
            more = ["--tiny"] if options.tiny else []
            command = [
                sys.executable, str(Path(__file__)), "--parts", part, "--device", options.device, "--limit", str(limit),
                "--here", str(file), *more,
            ]  # fmt: skip
        began = time.monotonic()
        with log.open("wb") as to:
            process = subprocess.Popen(command, cwd=ROOT, stdout=to, stderr=to, start_new_session=True)
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
        figures: dict[str, Any] = {"seconds": time.monotonic() - began, "limit": limit, "passes": code == 0}
        if file.exists():
            figures |= _tests(file) if part == "equality" else json.loads(file.read_text(encoding="utf-8"))
        if code != 0:
            last = log.read_text(encoding="utf-8", errors="replace").strip()[-3000:]
            figures["error"] = f"not done after {limit:.0f} s" if code is None else f"exit code {code}"
            figures["output"] = last
            print(last, file=sys.stderr, flush=True)
        return figures


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it started: what is left would hold the device."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tests(file: Path) -> dict[str, Any]:
    """Of pytest's report: tests by name, how each ended and its seconds."""
    tests = {}
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        ends = [child for child in case if child.tag in ("failure", "error", "skipped")]
        test: dict[str, Any] = {"seconds": float(case.get("time", 0)), "end": ends[0].tag if ends else "passes"}
        if ends:
            test["message"] = (ends[0].text or ends[0].get("message") or "")[-1500:]
        tests[str(case.get("name"))] = test
    equal = bool(tests) and all(one["end"] == "passes" for one in tests.values())
    return {"tests": tests, "equal": equal}


def _gpus(device: str) -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if device == "cuda" else []


def say(began: float, text: str) -> None:
    """Print with the time."""
    print(f"[{(time.monotonic() - began) / 60:4.1f} min] {text}", flush=True)


if __name__ == "__main__":
    main()
