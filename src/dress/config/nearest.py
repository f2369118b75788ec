"""The nearest valid key to one that does not exist."""

from __future__ import annotations

import difflib


def nearest(key: str, valid: list[str]) -> str:
    """` Did you mean …?` for a dotted key, or nothing."""
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.75)
    if not close:  # the right word in the wrong place: clip for trainer.gradient_clip_val
        leaf = key.rpartition(".")[2]
        close = [other for other in dict.fromkeys(valid) if other.rpartition(".")[2] == leaf][:4]
    close = close or difflib.get_close_matches(key, valid, n=1, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""
