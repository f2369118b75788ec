"""Which curves and figures are looked at together: one order for W&B's workspace, its reports and TensorBoard.

Panels follow from the names that a run logs, so that a phase, criterion or model that it has not gives none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from dress import config
from dress.base.files import read_json
from dress.config.graph import evaluated_stages
from dress.evaluation.run_measures import MEASURES
from dress.run.run_results import ROUND, RunResults

X_AXIS = "curriculum/step"
"""What all curves are drawn over: optimizer steps since the first stage began."""
SPEED = ("train/tokens_per_second", "train/supervised_tokens_per_second", "train/memory_gib")
"""Beside each point, and not in a stage's `history.json`: no run repeats them."""
CRITERIA = ("helpfulness", "honesty", "harmlessness")
_OF_STEPS = ("train", "val", "curriculum", ROUND, "final", "time")


@dataclass(frozen=True)
class Panel:
    """Curves over `x`, or bars where `x` is empty.

    Attributes:
        title: stands above it.
        names: of what is drawn.
        x: name of the axis.
        log: whether the other axis is logarithmic.
    """

    title: str
    names: tuple[str, ...]
    x: str = X_AXIS
    log: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under one title."""

    title: str
    panels: tuple[Panel, ...]


def logged_names(settings: config.Config, results: RunResults | None = None) -> list[str]:
    """Names of what a run logs, in order.

    Args:
        settings: of the run.
        results: of its end; None before it begins, when phases and models tell what will come.
    """
    curves: dict[str, None] = {}
    for stage in settings.curriculum.train_stages():
        file = Path(settings.run_dir) / "stages" / stage / "history.json"
        known = results is not None and file.exists()
        points = read_json(file) if known else [dict.fromkeys(_expected(settings, stage))]
        curves |= dict.fromkeys(name for point in points for name in point)
    curves |= dict.fromkeys(SPEED if curves else ())
    if results is None:
        return list(curves)
    rows = [*results.collected, *results.rounds]
    return list(curves | dict.fromkeys([*(name for row in rows for name in row), *results.figures]))


def _expected(settings: config.Config, stage: str) -> list[str]:
    """What a stage that has not begun will log at least."""
    one = settings.curriculum.stages[stage]
    phases = list(one.phases) if isinstance(one, config.TrainStage) else []
    what = ("loss", "token_accuracy", "supervised_tokens")
    return [
        X_AXIS, *(f"{phase}/{name}" for phase in phases for name in what), *(f"val/{phase}/loss" for phase in phases),
        "train/loss", "train/lr", "train/grad_norm", "train/forest_fill", "epoch",
    ]  # fmt: skip


def sections(names: Collection[str]) -> list[Section]:
    """The panels of what was logged, by what they tell; empty ones are left out."""
    curves = [name for name in names if "/" in name and name.partition("/")[0] not in _OF_STEPS]
    losses = _ending(curves, "/loss")
    accuracies = _ending(curves, "/token_accuracy")
    counts = _ending(curves, "/supervised_tokens")
    compared = [name for name in curves if name not in (*losses, *accuracies, *counts)]
    plain = [
        Section("Losses by phase", (
            Panel("loss", losses, log=True),
            Panel("loss on held-out records", _matching(names, r"val/.*/loss"), log=True),
            Panel("token accuracy", accuracies),
            Panel("what the image tells of held-out answers, nats per token", _matching(names, r"val/.*/image_gap")),
            *(Panel(name, (name,)) for name in compared),
        )),
        Section("3H by round", (
            *(
                Panel(_title(name), (name,), ROUND)
                for criterion in CRITERIA for name in _matching(names, rf"{ROUND}/{criterion}/.*")
            ),
            Panel("mean rating of collected answers", _matching(names, rf"{ROUND}/collected/.*"), ROUND),
        )),
        Section("3H of the models", tuple(
            Panel(figure, _matching(names, rf"final/[^/]+/{re.escape(figure)}"), "")
            for figure in _figures(names, (*CRITERIA, "image", "reference"))
        )),
        Section("Interaction", (
            Panel("mean rating by turn and round", _matching(names, rf"{ROUND}/interaction/mean_rating/.*"), ROUND),
            *(
                Panel(figure, _matching(names, rf"final/[^/]+/{re.escape(figure)}(/turn_\d+)?"), "")
                for figure in _figures(names, ("interaction",))
            ),
        )),
        Section("Speed", (
            Panel("tokens per second", _matching(names, r"train/(supervised_)?tokens_per_second")),
            Panel("memory, GiB", _matching(names, r"train/memory_gib")),
            Panel("share of each forest that holds tokens", _matching(names, r"train/forest_fill")),
            Panel("seconds of each stage", _matching(names, r"time/.*"), ""),
        )),
        Section("Optimizer", (
            Panel("learning rate", _matching(names, r"train/lr")),
            Panel("norm of the gradient", _matching(names, r"train/grad_norm"), log=True),
            Panel("supervised tokens by phase", counts),
            Panel("epoch", _matching(names, r"epoch")),
        )),
    ]  # fmt: skip
    full = (Section(one.title, tuple(panel for panel in one.panels if panel.names)) for one in plain)
    return [one for one in full if one.panels]


def main_names(settings: config.Config) -> list[str]:
    """Names of the main final figures of the model that is evaluated last, known before the run begins."""
    label = next(reversed(evaluated_stages(settings.curriculum)), None)
    turns = [f"interaction/mean_rating/turn_{turn}" for turn in range(settings.eval.turns)]
    return [f"final/{label}/{key}" for key in (*(one.key for one in MEASURES), *turns)] if label else []


def _ending(names: Iterable[str], end: str) -> tuple[str, ...]:
    return tuple(name for name in names if name.endswith(end))


def _matching(names: Iterable[str], pattern: str) -> tuple[str, ...]:
    return tuple(name for name in names if re.fullmatch(pattern, name))


def _figures(names: Iterable[str], groups: Collection[str]) -> list[str]:
    """The figures of some groups that any model has, without model and turn, and none of a single criterion."""
    parts = (name.split("/") for name in names if name.startswith("final/"))
    keys = ("/".join(word for word in rest if not word.startswith("turn_")) for _, _, *rest in parts)
    return list(dict.fromkeys(key for key in keys if key.partition("/")[0] in groups and key.count("/") == 1))


def _title(name: str) -> str:
    return name.removeprefix(f"{ROUND}/")
