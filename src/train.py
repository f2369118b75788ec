"""Train: `python src/train.py experiment=dress_full`. `--help` shows what else there is."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from dress.run.commands import run_command


def main() -> None:
    """As `dress train`."""
    run_command("train")


if __name__ == "__main__":
    main()
