"""What shows a run must not end it: where that fails, it is said in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dress.base.errors import in_one_line
from dress.base.redaction import redacted
from dress.base.terminal import visible


@contextmanager
def only_warned(what: str) -> Iterator[None]:
    """Say on standard error, without secrets, what failed inside, and go on.

    Args:
        what: was tried; begins the line.
    """
    try:
        yield
    except Exception as error:
        line = redacted(f"{what} failed: {type(error).__name__}: {in_one_line(error)}")
        print(visible(f"{line} (the run goes on; its folder holds everything)"), file=sys.stderr)
