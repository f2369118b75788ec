"""The dashboard of a run as plain data: which panels there are, and which metrics each one shows.

Built by code so that a test can hold every panel against what a run really logs. `logger=wandb`
writes it to `<run dir>/dashboard.json`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dress.files import write_json

PHASES = ("align", "sft", "critique", "refinement")
MODELS = ("sft", "dress")
TURNS = 3
"""Answers per dialogue in the interaction panels: the default of eval.turns."""

FIGURES = {
    "Right answers": "helpfulness/accuracy",
    "Mean rating": "helpfulness/mean_rating",
    "Descriptions with an invented object": "honesty/hallucinated_share",
    "Invented mentions (CHAIR_i)": "honesty/chair_i",
    "Objects named": "honesty/coverage",
    "Safe answers to harmful requests": "harmlessness/safe_share",
    "Refused harmless requests": "harmlessness/over_refusal_share",
}


@dataclass(frozen=True)
class Panel:
    """One picture of the dashboard.

    `kind` is line (over `x`), bar (the last value of each metric) or table (one logged table);
    `metrics` are names as they are logged.
    """

    section: str
    title: str
    kind: Literal["line", "bar", "table"]
    metrics: tuple[str, ...]
    x: str | None = None


def panels() -> list[Panel]:
    """Every panel, in the order they are shown."""

    def line(section: str, title: str, *metrics: str) -> Panel:
        return Panel(section, title, "line", metrics, x="curriculum/step")

    return [
        line("Losses", "Loss by phase", *(f"{phase}/loss" for phase in PHASES)),
        line(
            "Losses",
            "Supervised tokens by phase",
            *(f"{phase}/supervised_tokens" for phase in PHASES),
        ),
        line("Optimiser", "Learning rate", "train/lr"),
        line("Optimiser", "Gradient norm", "train/grad_norm"),
        line(
            "Speed",
            "Tokens per second",
            "train/tokens_per_second",
            "train/supervised_tokens_per_second",
        ),
        *(
            Panel(
                "Helpful, honest, harmless",
                title,
                "bar",
                tuple(f"final/{model}/{key}" for model in MODELS),
            )
            for title, key in FIGURES.items()
        ),
        *(
            Panel("Interaction", title, "bar", tuple(_by_turn(model, key)))
            for model in MODELS
            for title, key in (
                (f"Rating by turn, {model}", "interaction/mean_rating"),
                (
                    f"Rating by turn of answers not right at first, {model}",
                    "interaction/mean_rating_unsolved",
                ),
            )
        ),
        Panel("Tables", "Figures with intervals", "table", ("tables/figures",)),
        Panel("Tables", "Collected ratings", "table", ("tables/ratings",)),
        Panel("Tables", "Samples", "table", ("tables/samples",)),
    ]


def dashboard() -> dict[str, Any]:
    """`{"version", "sections": [{"name", "panels": [{"title", "kind", "metrics", "x"}]}]}`."""
    sections: dict[str, list[dict[str, Any]]] = {}
    for panel in panels():
        plain = asdict(panel) | {"metrics": list(panel.metrics)}
        sections.setdefault(plain.pop("section"), []).append(plain)
    return {
        "version": 1,
        "sections": [{"name": name, "panels": shown} for name, shown in sections.items()],
    }


def write_dashboard(path: Path) -> None:
    """The dashboard as a JSON file."""
    write_json(path, dashboard())


def _by_turn(model: str, key: str) -> list[str]:
    return [f"final/{model}/{key}/turn_{turn}" for turn in range(TURNS)]
