"""The commands that README.md and docs/ name, and two ways to run them: each in its process, or all in one.

A process for each command is what a reader does, and mostly loads torch: about 6 s before anything is done. The
default tests run the same commands, as typed, one after the other in one process; `make test-slow` runs them apart.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))
SMALL = [
    "debug=fast_dev_run",
    "model.vision.vit={image_size: 48, patch_size: 16, width: 32, layers: 1, heads: 2}",
    "model.language.config.hidden_size=32",
    "model.language.config.intermediate_size=48",
    "model.language.config.num_hidden_layers=2",
]


def commands(page: str = "README.md") -> list[list[str]]:
    """The `python src/…` lines of a page's code blocks, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = [code for kind, code in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.M) if not kind]
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line[:1] == ["python"]]


def short(command: list[str]) -> list[str]:
    """Script and arguments of a documented command, training made a matter of seconds."""
    python, script, *arguments = command
    assert python == "python"
    changing = {"show=config", "resume=logs/latest"} & set(arguments)
    more = SMALL if script == "src/train.py" and not changing else []
    arguments = [a.replace("../shared/data", str(PUBLIC)) for a in arguments if a != "debug=fast_dev_run"]
    return [str(ROOT / script), *arguments, *more]


def run(command: list[str], cwd: Path) -> str:
    """What the command prints, run as a process of its own."""
    done = subprocess.run(
        [sys.executable, *short(command)],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=300, env=_environment(),
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_together(found: Sequence[list[str]], cwd: Path) -> list[str]:
    """What each of these commands prints, one after the other in one process; the first that fails ends it."""
    done = subprocess.run(
        [sys.executable, __file__],
        cwd=cwd, input=json.dumps([short(command) for command in found]), capture_output=True, text=True,
        check=False, timeout=600, env=_environment(),
    )  # fmt: skip
    assert done.stdout, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    for command, result in zip(found, results, strict=False):
        print(f"{result['seconds']:6.1f} s  {shlex.join(command)}")
    last = results[-1]
    assert last["code"] == 0, f"{shlex.join(found[len(results) - 1])}\n{last['out'][-3000:]}\n{last['errors'][-3000:]}"
    assert len(results) == len(found) and done.returncode == 0, done.stderr[-3000:]
    return [result["out"] for result in results]


def _environment() -> dict[str, str]:
    return os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}


def _run_here(script: str, *arguments: str) -> dict[str, object]:
    """Exit code and output of a script run as `__main__` of this process."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    began, before = time.perf_counter(), list(sys.path)
    sys.argv, sys.path[0] = [script, *arguments], str(Path(script).parent)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
    sys.path[:] = before
    seconds = time.perf_counter() - began
    return {"code": code, "out": out.getvalue(), "errors": errors.getvalue(), "seconds": seconds}


def main() -> None:
    results = []
    for typed in json.load(sys.stdin):
        results.append(_run_here(*typed))
        time.sleep(max(0.0, 2 - results[-1]["seconds"]))  # runs of one second would share a folder's name
        if results[-1]["code"]:
            break
    print(json.dumps(results))


if __name__ == "__main__":
    main()
