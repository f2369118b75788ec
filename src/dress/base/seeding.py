"""Randomness as a pure function of names and numbers: the same in every process, on every machine."""

from __future__ import annotations

import hashlib
import random


def seed_for(*parts: object) -> int:
    """A 63-bit seed that depends on `parts` only."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rng_for(*parts: object) -> random.Random:
    """A generator seeded by `parts` only."""
    return random.Random(seed_for(*parts))
