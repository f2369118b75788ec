"""Public formats that `python src/prepare.py source=…` turns into shards, by name.

A further format is one module with a class that fits `protocol.Source`, and one line here.
"""

from __future__ import annotations

from dress.sources.captions import Captions
from dress.sources.fire import FIRE
from dress.sources.llava import LLaVA
from dress.sources.lvlm_nlf import LVLMNLF
from dress.sources.protocol import Source, SourceError
from dress.sources.records import Records
from dress.sources.vlfeedback import VLFeedback
from dress.sources.vlsafe import VLSafe

SOURCES: dict[str, type[Source]] = {
    "captions": Captions,
    "fire": FIRE,
    "llava": LLaVA,
    "lvlm_nlf": LVLMNLF,
    "records": Records,
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
        raise SourceError(f"source={name}: no such source; expected one of {names}")
    return SOURCES[name]()
