"""Public formats that `python src/prepare.py source=…` turns into shards, by name.

A further format is one module with a class that fits `rows.Source`, and one line here.
"""

from __future__ import annotations

from dress.data.sources.lvlm_nlf import LVLMNLF
from dress.data.sources.rows import Source, SourceError
from dress.data.sources.vlsafe import VLSafe

SOURCES: dict[str, type[Source]] = {
    "lvlm_nlf": LVLMNLF,
    "vlsafe": VLSafe,
}


def source(name: str) -> Source:
    """The source of that name.

    Raises:
        SourceError: unknown; the message lists what there is.
    """
    if name not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        raise SourceError(f"source={name}: no such source; expected one of {known}")
    return SOURCES[name]()
