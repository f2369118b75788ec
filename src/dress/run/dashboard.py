"""A Weights & Biases workspace for runs of DRESS, and a report over several of them, by wandb-workspaces.

Both are made of the panels in `dress.run.panels`. Nothing is sent before somebody calls `save`; a run that is logged
online saves its workspace once.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dress import config
from dress.base.files import write_text
from dress.config.graph import evaluated_stages
from dress.run.panels import X_AXIS, Panel, main_names, sections
from dress.run.sweep_job import varied_settings

if TYPE_CHECKING:
    import wandb
    import wandb_workspaces.workspaces as ws

WORKSPACE = "wandb_workspace.txt"
"""Its address: in the run folder, or in that of the sweep, whose runs share it."""
TABLES = ("tables/rounds", "tables/figures", "tables/ratings", "tables/samples")
MEDIA = ("samples", "report")


def workspace(
    entity: str, project: str, settings: config.Config, names: Collection[str], varied: Collection[str] = ()
) -> ws.Workspace:
    """The panels of what a run logs, by what they tell.

    Args:
        entity: user or team.
        project: of theirs.
        settings: of the run, which say how its rounds and models are called.
        names: of what was logged.
        varied: settings that the runs of its sweep differ in; such a workspace shows the runs as groups.

    Returns:
        A view that is not saved; `save()` is.
    """
    import wandb_workspaces.workspaces as ws

    parts = [
        ws.Section(name=one.title, panels=[panel_of(panel) for panel in one.panels], is_open=number < 4)
        for number, one in enumerate(sections(names))
    ]
    if shown := tables_of(names):
        parts.insert(min(3, len(parts)), ws.Section(name="Samples and tables", panels=shown, is_open=True))
    main = [name for name in main_names(settings) if name in names]
    if varied:
        parts.insert(0, ws.Section(name="Sweep", panels=_of_sweep(varied, main), is_open=True))
    models = ", ".join(f"{number} {label}" for number, label in enumerate(evaluated_stages(settings.curriculum)))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"DRESS {settings.name}" + (f" (rounds: {models})" if models else ""),
        sections=parts,
        settings=ws.WorkspaceSettings(x_axis=X_AXIS),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group")] if varied else [],
            pinned_columns=[*(f"config:{_config(name)}" for name in varied or ("seed",)),
                            *(f"summary:{name}" for name in main)],
        ),
    )  # fmt: skip


def save_workspace(run: wandb.Run, settings: config.Config, names: Collection[str]) -> str | None:
    """Save the workspace of a run that is logged online, once: its address is kept in the run's or sweep's folder.

    Args:
        run: of wandb.
        settings: of the run.
        names: of what was logged.

    Returns:
        The address; None offline, where nothing is saved.
    """
    folder = Path(settings.run_dir)
    varied = varied_settings(folder)
    file = (folder.parent if varied else folder) / WORKSPACE
    if run.offline:
        return None
    if file.exists():
        return file.read_text(encoding="utf-8").strip()
    view = workspace(run.entity, run.project, settings, names, varied)
    view.save()
    write_text(file, view.url)
    return view.url


def spec(view: ws.Workspace) -> dict[str, Any]:
    """A workspace as plain data, as W&B keeps it."""
    plain: dict[str, Any] = view._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    return plain


def panel_of(panel: Panel) -> Any:
    """Curves, or bars of final values."""
    import wandb_workspaces.reports.v2 as wr

    if panel.x:
        return wr.LinePlot(title=panel.title, x=panel.x, y=list(panel.names), log_y=panel.log)
    return wr.BarPlot(title=panel.title, metrics=list(panel.names), orientation="v")


def tables_of(names: Collection[str]) -> list[Any]:
    """Pictures of samples, the report, and tables, as far as they were logged."""
    import wandb_workspaces.reports.v2 as wr

    media = [wr.MediaBrowser(title=name, media_keys=[name]) for name in MEDIA if name in names]
    return [*media, *(wr.WeavePanelSummaryTable(table_name=name) for name in TABLES if name in names)]


def _of_sweep(varied: Collection[str], main: Collection[str]) -> list[Any]:
    """What the settings of a sweep have to do with its figures."""
    import wandb_workspaces.reports.v2 as wr

    axes: list[wr.Config | wr.SummaryMetric] = [wr.Config(name) for name in varied]
    axes += [wr.SummaryMetric(name) for name in main]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
    importance = [wr.ParameterImportancePlot(with_respect_to=name) for name in list(main)[:1]]
    return [wr.ParallelCoordinatesPlot(columns=columns), *importance]


def _config(name: str) -> str:
    """A setting as W&B names the column of it."""
    first, _, rest = name.partition(".")
    return ".".join(filter(None, (first, "value", rest)))
