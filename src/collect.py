"""Collect answers with feedback: `python src/collect.py responder=logs/latest out=DIR`. `--help` shows more."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from typing import Any

from dress.run.command_line import entry_point
from dress.config import CollectCommand, check_as
from dress.base.terminal import Terminal


@entry_point("collect")
def main(composed: dict[str, Any]) -> None:
    settings = check_as(CollectCommand, composed)
    from dress.feedback.command import collect_from

    collect_from(settings, Terminal())


if __name__ == "__main__":
    main()
