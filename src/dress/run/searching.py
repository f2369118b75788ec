"""Hydra looks into `configs/` of the working folder first: a file there stands for DRESS's own of that name."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from dress.base.config_folder import config_folders


class WorkingFolder(SearchPathPlugin):
    """Puts `configs/` of the working folder, where there is one, in front of all else."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_folders()[:-1]:
            search_path.prepend("working folder", f"file://{folder}")


def search_working_folder() -> None:
    """Let every composition of this process do so."""
    Plugins.instance().register(WorkingFolder)
