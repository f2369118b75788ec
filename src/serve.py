"""Serve: `python src/serve.py logs/latest`; any client of OpenAI's interface can ask it."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from dress.run.commands import run_command


def main() -> None:
    """As `dress serve`."""
    run_command("serve")


if __name__ == "__main__":
    main()
