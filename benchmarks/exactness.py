"""Loss, gradients and answers of vision-language models over token trees, beside their own code on each dialogue.

    python benchmarks/exactness.py [out=docs/exactness.md]

One small random checkpoint of each family, with the family's own classes and processor (tests/families.py).
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from families import FAMILIES, checkpoint  # noqa: E402
from hf_proof import BOUNDS, answers, gradients, proof, questions, worst  # noqa: E402

HEAD = """# Exactness: token trees beside separate sequences

Made by `python benchmarks/exactness.py` with transformers {transformers} and torch {torch}.

Two pictures of different sizes, three dialogues over each (a chain of two turns, a branch under a condition, another
question) and the same three without a picture make one forest: what begins alike is computed once. It is compared
with the model's own class, which gets the nine dialogues one by one with the tensors of its own processor. Checkpoints
are small and random, of each family's own classes and with its own image processor; norms that transformers computes
in fp32 whatever the weights are in compute in fp64 in the columns of fp64.

- **loss**, **gradients**: the largest relative difference, of gradients over all parameters (text model, projector,
  tower). `nodes` and `dense` are both below the bound that the tests hold ({bounds}).
- **answers**: greedy answers over several turns, with and without a condition and a picture, from a cache that
  dialogues share, equal to `model.generate` token for token.
- **tokens**: of the nine dialogues, and of the forest.

| family | tokens | loss fp64 | gradients fp64 | loss fp32 | gradients fp32 | answers |
|---|---|---|---|---|---|---|
"""
FOOT = """
Five families' towers compute rotary positions (Qwen, GLM) or norms (Gemma 4) in fp32 whatever their weights are in:
their gradients in fp64 differ by that rounding.

What no tree represents is refused by name before a weight is read: mixtures of experts, linear attention,
cross-attention, encoders with decoders, prefixes that see themselves whole, scaled logits, dropout. A kind of model
that is not in this table is tried when it is built, with a picture, and refused above 1e-4.
"""


def row(name: str, folder: Path) -> str:
    """A family's line of the table."""
    figures = []
    for dtype in (torch.float64, torch.float32):
        one = proof(folder, dtype)
        ours, own = one.on_trees(), one.on_rows()
        error, _ = worst(gradients(one.model, ours), gradients(one.plain, own))
        figures += [f"{abs(ours.item() - own.item()) / own.item():.0e}", f"{error:.0e}"]
    tokens = f"{sum(len(encoded.ids) for encoded, _ in one.rows)} → {one.forest.tokens}"
    same, total = answers(folder, 16, 6, questions())
    return f"| {name} | {tokens} | {' | '.join(figures)} | {same} of {total} |\n"


def main(out: str = "docs/exactness.md") -> None:
    """Write the page."""
    text = HEAD.format(transformers=version("transformers"), torch=version("torch").partition("+")[0], bounds=BOUNDS)
    with tempfile.TemporaryDirectory() as folder:
        for name in FAMILIES:
            line = row(name, checkpoint(name, Path(folder)))
            print(line, end="", flush=True)
            text += line
    (ROOT / out).write_text(text + FOOT, encoding="utf-8")


if __name__ == "__main__":
    main(*(argument.removeprefix("out=") for argument in sys.argv[1:]))
