"""What a user can put right."""

from __future__ import annotations

import traceback
from pathlib import Path


class ConfigError(ValueError):
    """A setting that does not exist or does not fit; the message names it."""


def in_one_line(error: object) -> str:
    """What a library says of an error, without line breaks, its beginning."""
    return " ".join(str(error).split())[:300]


def mistake(error: BaseException) -> bool:
    """Whether a user can put it right: DRESS refuses it, or a file fails; a ValueError of foreign code is a bug."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    ours = Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1])
    return isinstance(error, OSError) or (ours and isinstance(error, ValueError))
