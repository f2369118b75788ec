"""DRESS: train vision-language models from natural-language feedback.

    model = dress.load("logs/latest")
    answer = model.answer("picture.png", "What is here?")
    better = model.improve(answer, "You forgot the dog.")

`dress.train(["experiment=sft_only"])` trains as the command line does, `dress.evaluate("logs/latest")` evaluates.
"""

import importlib
import os
from typing import Any

# How long OpenMP's threads (libgomp) spin between two operators before they sleep. Waking takes longer than most
# operators of small models; spinning for long takes the core from any neighbour (docs/decisions.md, "Machine").
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_OFFERED = {
    "load": ("dress.rollout.loading", "load"), "evaluate": ("dress.run.from_python", "evaluate"),
    "_train": ("dress.run.from_python", "train"),
}  # fmt: skip
"""What is imported when it is first used: nothing here may load anything heavy."""


def __getattr__(name: str) -> Any:
    if name == "train":  # the room, which can be called
        return importlib.import_module("dress.train")
    if name in _OFFERED:
        module, attribute = _OFFERED[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'dress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "load", "train", "evaluate"])
