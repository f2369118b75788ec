"""Chat: `python src/chat.py responder=logs/latest`; a page to talk to a model and to teach it."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from dress.run.commands import run_command


def main() -> None:
    """As `dress chat`."""
    run_command("chat")


if __name__ == "__main__":
    main()
