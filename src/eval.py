"""Evaluate: a finished run again, `python src/eval.py ckpt=logs/latest`, or a suite, `python src/eval.py suite=…`."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from typing import Any

from dress.base.terminal import Terminal
from dress.evaluation.command import evaluate
from dress.evaluation.suite import store_defaults
from dress.run.command_line import entry_point


@entry_point("eval")
def main(composed: dict[str, Any]) -> None:
    evaluate(composed, Terminal())


store_defaults()
if __name__ == "__main__":
    main()
