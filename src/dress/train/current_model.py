"""The one model of a run, with the weights of whichever stage is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dress import config
from dress.model.checkpoint import load_weights
from dress.model.lvlm import LVLM
from dress.train.run_data import Output


class CurrentModel:
    """A model in memory that takes on the weights of one stage after another.

    Args:
        build: makes the model before any stage.
        settings: of the model.
    """

    def __init__(self, build: Callable[[], LVLM], settings: config.Model) -> None:
        self._build, self._settings = build, settings
        self.lvlm = build()
        self._folder: Path | None = None

    def at(self, output: Output) -> LVLM:
        """The model with the weights of a stage, of a folder, or before any stage.

        Raises:
            FileNotFoundError: no model there.
            ValueError: it is damaged, or another model.
        """
        if output.folder != self._folder:
            if output.folder is None or not output.own:  # such weights stand on the initial ones
                self.lvlm = self._build()
            if output.folder is not None:
                load_weights(self.lvlm, self._settings, output.folder)
            self._folder = output.folder
        return self.lvlm

    def wrote(self, folder: Path) -> None:
        """Note that a stage has trained the model in memory and written it to its folder."""
        self._folder = folder
