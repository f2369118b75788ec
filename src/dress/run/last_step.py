"""The last step that was logged where no point can be taken out again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dress.run.panels import X_AXIS


class LastStep:
    """Kept in a file, so that a run which goes on before its end logs each point once.

    Args:
        file: of the run folder.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def passes(self, point: Mapping[str, float]) -> bool:
        """Whether a point is later than all before, which is noted; so is one that is of no step."""
        now = point.get(X_AXIS)
        if now is None:
            return True
        if self.file.exists() and now <= float(self.file.read_text(encoding="utf-8") or -1):
            return False
        self.file.write_text(f"{now:g}", encoding="utf-8")
        return True
