"""The defaults of the schema as plain data: the one place where they stand."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dress.config.run import Config
from dress.config.targets import TARGET

MISSING = "???"
"""Hydra's mark of a value that a file or the command line must give."""
CHOSEN = ("annotator", "attacker", "judge", "model", "data", "curriculum", "source")
"""Sections that files choose: what the schema requires of them stands in the files."""


def defaults(section: type[BaseModel] = Config) -> dict[str, Any]:
    """Every setting of a section with its default, nested; what has none is `???`, or stands in the files of a group.

    A section that names a class is empty here: an argument that stood beside another class would be merged into it.
    """
    plain: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            plain[name] = defaults(kind)
        elif field.is_required():
            if name not in CHOSEN:
                plain[name] = MISSING
        else:
            value = field.get_default(call_default_factory=True)
            plain[name] = {} if isinstance(value, dict) and TARGET in value else value
    return plain
