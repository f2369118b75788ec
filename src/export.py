"""Write a trained model for others: `python src/export.py run=logs/latest out=DIR`. `--help` shows more."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from dress.run.commands import run_command


def main() -> None:
    """As `dress export`."""
    run_command("export")


if __name__ == "__main__":
    main()
