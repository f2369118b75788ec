"""A Weights & Biases report over several runs, ready to be written into: what differs, curves, 3H, samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dress import config
from dress.base.errors import ConfigError
from dress.base.files import read_json
from dress.base.run_folder import short
from dress.config.consent import checked_run
from dress.config.targets import TARGET, WANDB
from dress.report.figures import main_cells, quantities
from dress.run.dashboard import panel_of, tables_of
from dress.run.layers import leaves
from dress.run.panels import logged_names, sections
from dress.run.result_rows import LoggedTable
from dress.run.run_results import run_results
from dress.run.wandb_run import ID, PROJECT

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

MOST_SETTINGS = 20
"""That the table of differences shows."""


@dataclass(frozen=True)
class LoggedRun:
    """A finished run that was logged to W&B.

    Attributes:
        folder: of the run.
        settings: of the run.
        metrics: as in metrics.json.
        spec: its wandb logger's arguments.
        id: of its wandb run.
    """

    folder: Path
    settings: config.Config
    metrics: Mapping[str, Any]
    spec: Mapping[str, Any]
    id: str

    @property
    def title(self) -> str:
        """As its wandb run is called."""
        return str(self.spec.get("name") or f"{self.settings.name}-{self.settings.seed}")


def report(
    runs: Sequence[str | os.PathLike[str]], title: str = "DRESS: several runs", entity: str | None = None
) -> wr.Report:
    """A report over runs of one W&B project; nothing is sent before its `save(draft=True)`.

    Args:
        runs: folders of finished runs with `logger=wandb`.
        title: of the report.
        entity: user or team; None for that of the first run's logger, else the account's own.

    Raises:
        ValueError: a run that has not ended or was not logged to W&B, or runs of several projects; names it.
    """
    logged = [logged_run(Path(run)) for run in runs]
    if not logged:
        raise ConfigError("report: expected folders of runs, got none")
    projects = {str(run.spec.get("project") or PROJECT) for run in logged}
    if len(projects) > 1:
        raise ConfigError(f"report: expected runs of one W&B project, got {', '.join(sorted(projects))}")
    import wandb_workspaces.reports.v2 as wr

    entity = entity or next((str(run.spec["entity"]) for run in logged if run.spec.get("entity")), None)
    if entity is None:
        import wandb

        entity = str(wandb.Api().default_entity)
    (project,) = projects
    return wr.Report(project=project, entity=entity, title=title, width="fluid", blocks=blocks(logged, entity, project))


def blocks(runs: Sequence[LoggedRun], entity: str, project: str) -> list[Any]:
    """What stands in the report, from its question to all settings.

    Args:
        runs: that it is about.
        entity: whose project it is; empty: nobody is asked whether it exists.
        project: that the runs are in.
    """
    import wandb_workspaces.reports.v2 as wr

    ids = ", ".join(f"'{run.id}'" for run in runs)
    names = list(dict.fromkeys(name for run in runs for name in _names(run)))

    def grid(*panels: Any) -> Any:
        runset = wr.Runset(entity=entity, project=project, name="runs", filters=f"ID in [{ids}]")
        return wr.PanelGrid(runsets=[runset], panels=list(panels))

    parts: list[Any] = [
        wr.TableOfContents(),
        wr.H1("Question"), wr.P("What do these runs decide?"),
        wr.H1("What differs"), wr.MarkdownBlock(differences(runs).markdown()),
        wr.H1("3H"), wr.MarkdownBlock(figures(runs).markdown()), wr.P("What do the figures say?"),
    ]  # fmt: skip
    for section in sections(names):
        parts += [wr.H1(section.title), grid(*(panel_of(panel) for panel in section.panels)), wr.P("")]
    return [
        *parts, wr.H1("Samples"), grid(*tables_of(names)), wr.H1("Conclusion"), wr.P(""),
        wr.H1("All settings"), grid(wr.RunComparer(diff_only="split")),
    ]  # fmt: skip


def logged_run(folder: Path) -> LoggedRun:
    """A finished run that was logged to W&B.

    Raises:
        ValueError: it has not ended, or has no run there; names it.
    """
    if not (folder / "metrics.json").exists():
        raise ConfigError(f"{short(folder)}: expected a finished run, found no metrics.json")
    settings = checked_run(folder / "config.json").model_copy(update={"run_dir": str(folder)})
    spec = next((one for one in settings.logger.values() if one[TARGET] == WANDB), None)
    if spec is None or not (folder / ID).exists():
        raise ConfigError(f"{short(folder)}: expected a run with logger=wandb, found no {ID}")
    text = (folder / ID).read_text(encoding="utf-8").strip()
    return LoggedRun(folder, settings, read_json(folder / "metrics.json", dict), spec, text)


def differences(runs: Sequence[LoggedRun]) -> LoggedTable:
    """A row for each run, a column for each setting that is not the same in all."""
    plain = [dict(leaves(run.settings.model_dump(exclude={"run_dir", "logger", "reuse", "resume"}))) for run in runs]
    keys = [key for key in dict.fromkeys(key for one in plain for key in one) if _differs(plain, key)][:MOST_SETTINGS]
    rows = [(run.title, *(one.get(key) for key in keys)) for run, one in zip(runs, plain, strict=True)]
    return LoggedTable(("run", *keys), rows)


def figures(runs: Sequence[LoggedRun]) -> LoggedTable:
    """A row for each run and evaluated model, with value and 95 % interval of what was measured in any."""
    listed = list({(one.key, one.turn): one for run in runs for one in quantities(run.metrics)}.values())
    rows = []
    for run in runs:
        for cell in main_cells(run.metrics):
            found = [quantity.cell(run.metrics["conditions"][cell]) for quantity in listed]
            rows.append((f"{run.title}: {cell}", *(f"{one.text} {one.interval}".strip() for one in found)))
    return LoggedTable(("run: model/condition", *(one.name for one in listed)), rows)


def _differs(plain: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(one.get(key) != plain[0].get(key) for one in plain[1:])


def _names(run: LoggedRun) -> list[str]:
    results = run_results(run.settings, run.metrics, [], [])
    return [*logged_names(run.settings, results), *results.tables, "tables/samples", "samples", "report"]
