"""Evaluate: a finished run again, `python src/eval.py ckpt=logs/latest`, or a suite, `python src/eval.py suite=…`."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from dress.run.commands import run_command


def main() -> None:
    """As `dress eval`."""
    run_command("eval")


if __name__ == "__main__":
    main()
