"""Collect answers with feedback: `python src/collect.py responder=logs/latest out=DIR`. `--help` shows more."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from dress.run.commands import run_command


def main() -> None:
    """As `dress collect`."""
    run_command("collect")


if __name__ == "__main__":
    main()
