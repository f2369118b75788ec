"""The result tables that DRESS (CVPR 2024) published, from the paper's project page, as printed.

Percentages and scores from 0 to 100. LLaVA-Eval: mean of four aspects from 1 to 10, times 10, over 30
questions of each kind; LLaVA-Bench: the same four aspects apart, over 60 questions; CHAIR on 2,000 images
of COCO val2014 (Instruction-1 is "Generate a short caption of the image.", Instruction-2 is "Provide a
brief description of the given image."); VLSafe: share of 1,110 answers with each flag. No figures of
interaction by turn were published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Scores = Mapping[str, Mapping[str, float | None]]
"""Model to column to figure."""


@dataclass(frozen=True)
class Column:
    """`group/name` is its key in the published tables; `up` says whether more is better."""

    group: str
    name: str
    up: bool = True

    @property
    def key(self) -> str:
        """Its name in the tables."""
        return f"{self.group}/{self.name}"


_ASPECTS = ("relevance", "accuracy", "level_of_detail", "helpfulness")
COLUMNS: dict[str, tuple[Column, ...]] = {
    "helpfulness": (
        *(Column("LLaVA-Eval", name) for name in ("conversation", "description", "reasoning", "average")),
        *(Column("LLaVA-Bench", name) for name in _ASPECTS),
    ),
    "honesty": tuple(
        Column(f"Instruction-{number}", name, up=False) for number in (1, 2) for name in ("CHAIR_i", "CHAIR_s")
    ),
    "harmlessness": tuple(Column("VLSafe", name) for name in ("relevance", "safety", "persuasiveness")),
}

_PRINTED = {
    "helpfulness": """
        BLIP-2        66.08 31.33 22.00 39.80   25.00 16.00 16.00 17.67
        InstructBLIP  74.08 61.67 82.17 72.64   34.00 21.00 19.67 22.67
        LLaVA         65.17 42.17 61.50 56.28   31.83 19.83 18.67 20.83
        LLaVA-HF      69.74 60.87 85.33 71.98   34.33 18.50 17.67 23.50
        mPLUG         66.08 44.17 75.83 62.03   35.17 20.33 16.33 20.33
        miniGPT4      54.92 51.50 74.67 60.36   32.45 20.33 20.17 24.17
        DRESS         77.67 62.17 84.27 74.70   37.18 20.12 21.87 26.45""",
    "honesty": """
        BLIP-2         3.40  4.00    2.75  3.50
        InstructBLIP   2.38  3.45    5.16 14.48
        LLaVA          9.98 31.10   23.40 61.50
        LLaVA-HF       4.26  5.40    6.05 10.80
        mPLUG         15.10 21.65   25.89 73.50
        miniGPT4       5.70 13.40   10.60 30.45
        DRESS          2.34  3.30    4.74  9.84""",
    "harmlessness": """
        BLIP-2         41.08 12.61 40.27
        InstructBLIP   99.19 30.63 71.71
        LLaVA          99.19 38.20 73.42
        LLaVA-HF      100.00 20.00 46.81
        mPLUG          99.91 10.72 43.96
        miniGPT4      100.00 75.05 74.14
        DRESS         100.00 88.56 91.98""",
}


def tables() -> dict[str, dict[str, dict[str, float | None]]]:
    """Every published table: criterion to model to column to figure."""
    by_criterion: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, printed in _PRINTED.items():
        lines = [line.split() for line in printed.strip().splitlines()]
        keys = [column.key for column in COLUMNS[name]]
        by_criterion[name] = {model: dict(zip(keys, map(float, row), strict=True)) for model, *row in lines}
    return by_criterion


def headline(model: str, rows: Mapping[str, Scores]) -> dict[str, float | None]:
    """The paper's two headline figures for a model, in per cent.

    `harmlessness`: mean relative gain over miniGPT4 of safety and persuasiveness on VLSafe (DRESS: 21.03).
    `honesty`: mean relative reduction against InstructBLIP over the four CHAIR figures (DRESS: 11.52 in
    the paper, 11.55 from the rounded figures of its table). None where a figure is missing.
    """

    def mean(criterion: str, beside: str, keys: list[str], sign: int) -> float | None:
        gains = []
        for key in keys:
            ours, theirs = (rows[criterion].get(name, {}).get(key) for name in (model, beside))
            if ours is None or not theirs:
                return None
            gains.append(sign * (ours / theirs - 1))
        return round(100 * sum(gains) / len(gains), 2)

    return {
        "harmlessness": mean("harmlessness", "miniGPT4", ["VLSafe/safety", "VLSafe/persuasiveness"], 1),
        "honesty": mean("honesty", "InstructBLIP", [column.key for column in COLUMNS["honesty"]], -1),
    }
