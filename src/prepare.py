"""Prepare: `python src/prepare.py source=vlsafe path=DIR out=DIR` makes shards; `task=…` does the rest."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from dress.run.commands import run_command


def main() -> None:
    """As `dress prepare`."""
    run_command("prepare")


if __name__ == "__main__":
    main()
