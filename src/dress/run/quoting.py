"""Words that Hydra's grammar has no letters for (`Rückmeldung`, `回答`) are quoted for whoever typed them."""

from __future__ import annotations

import re

from dress.run.overrides import parsed

_WORD = re.compile(r"(?<=[:=,\[])(\s*)([^{}\[\],:='\"\s][^{}\[\],:='\"]*?)(?=\s*(?:[,}\]]|$))")


def quoted(text: str) -> str:
    """An argument that cannot be read as it was typed, its foreign words in quotes where that makes it readable."""
    if text.isascii() or parsed(text) is not None:
        return text
    with_quotes = _WORD.sub(lambda word: word[0] if word[2].isascii() else f"{word[1]}'{word[2]}'", text)
    return text if parsed(with_quotes) is None else with_quotes
