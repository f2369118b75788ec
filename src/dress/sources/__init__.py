"""Public formats that `python src/prepare.py source=…` turns into shards, by name.

A table of questions, answers and feedback needs a mapping in YAML (`configs/source/`, docs/public_sets.md). A format
that no mapping can state is one module with a class that fits `protocol.Source`, and one line here.
"""

from __future__ import annotations

from dress.config.nearest import nearest
from dress.config.rows import Columns, RowMapping
from dress.config.tasks import Import
from dress.sources.captions import Captions
from dress.sources.fire import FIRE
from dress.sources.llava import LLaVA
from dress.sources.lvlm_nlf import LVLMNLF
from dress.sources.own_rows import OwnRows
from dress.sources.protocol import Source, SourceError
from dress.sources.records import Records
from dress.sources.vlfeedback import VLFeedback
from dress.sources.vlsafe import VLSafe

OVER_A_MAPPING = ("columns", "rating", "criterion", "licence", "annotator")
"""Settings of an import that replace those of a mapping."""
SOURCES: dict[str, type[Source]] = {
    "captions": Captions,
    "fire": FIRE,
    "llava": LLaVA,
    "lvlm_nlf": LVLMNLF,
    "records": Records,
    "rows": OwnRows,
    "vlfeedback": VLFeedback,
    "vlsafe": VLSafe,
}


def source(name: str) -> Source:
    """The source of that name.

    Raises:
        SourceError: unknown; the message lists what there is.
    """
    if name not in SOURCES:
        names = ", ".join(sorted(SOURCES))
        raise SourceError(f"source={name}: no such source; expected one of {names}.{nearest(name, list(SOURCES))}")
    return SOURCES[name]()


def source_of(settings: Import) -> Source:
    """The source of an import: a mapping with what was typed over it, or a format of its own.

    Raises:
        SourceError: no such source, or settings of tables with another one.
    """
    stated = {name: value for name in OVER_A_MAPPING if (value := getattr(settings, name)) is not None}
    if settings.mapping is None and settings.source != OwnRows.name:
        if name := next((name for name in stated if name != "licence"), None):
            raise SourceError(f"{name}=…: source={settings.source} knows its columns; {name}= is for source=rows and "
                              f"for the mappings in configs/source/")  # fmt: skip
        known = source(settings.source)
        known.licence = settings.licence or known.licence
        return known
    mapping = settings.mapping or RowMapping()
    if settings.columns is not None:
        fields = settings.columns.model_fields_set
        more = {name: getattr(settings.columns, name) for name in fields}
        stated["columns"] = Columns(**mapping.columns.model_dump(include=mapping.columns.model_fields_set) | more)
    return OwnRows(mapping.model_copy(update=stated))
