"""Train: `python src/train.py experiment=dress_full`. `--help` shows what else there is."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from typing import Any

from dress.base.ranks import rank
from dress.base.terminal import Terminal
from dress.run.command_line import entry_point
from dress.run.resuming import training_settings
from dress.run.showing import show_config
from dress.run.training import show_batch, train


@entry_point("train")
def main(composed: dict[str, Any]) -> None:
    """Run the stages of the composed experiment, or go on with a run."""
    settings, console = training_settings(composed), Terminal(quiet=rank() > 0)
    if settings.show == "config":
        show_config(settings)
    elif settings.show == "batch":
        show_batch(settings, console)
    else:
        train(settings, console)


if __name__ == "__main__":
    main()
