"""Prepare: `python src/prepare.py source=vlsafe path=DIR out=DIR` makes shards; `task=…` does the rest."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from typing import Any

from dress.run.command_line import entry_point
from dress.run.preparing import task
from dress.base.terminal import Terminal


@entry_point("prepare")
def main(composed: dict[str, Any]) -> None:
    """Check the composed settings, then do the task."""
    settings, run = task(composed)
    run(settings, Terminal())


if __name__ == "__main__":
    main()
