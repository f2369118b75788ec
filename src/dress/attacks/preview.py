"""Before anything else is asked: the first drafts with their reviews, and how many calls there will be at most."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dress.attacker import Assignment, Attempt, Draft
from dress.attacks.llm_writer import LLMAttacker
from dress.attacks.prompts import AttackFile
from dress.attacks.rounds import NOTHING_CAME, Rounds
from dress.config.attacks import AttackCommand, LLMReviewer, LLMWriter
from dress.feedback.estimate import Estimate, estimate_table
from dress.feedback.result import LEDGER
from dress.llm.request import Stopped

SHOWN = 300
"""Characters of a text in the preview."""
WORDS, THING = "x" * 80, "x" * 10
"""In the place of a request, and of what it is about."""
TRIED = Attempt(WORDS, WORDS)


def show_preview(settings: LLMWriter, rounds: Rounds, asked: Sequence[Assignment], console: Console) -> None:
    """Print the first drafts and what becomes of them, unless all were known; stop where none can be had.

    Args:
        settings: of the attacker.
        rounds: who write and judge, and by which terms; nothing is added to them.
        asked: the first requests.
        console: where it is shown.

    Raises:
        Stopped: no draft came, or nobody agrees to go on.
    """
    terms = replace(rounds.terms, rounds=1, twins=False, references=False)
    first = Rounds(rounds.attacker, rounds.judge, terms, rounds.seen)
    first.write(asked)
    table = Table("image", "category", "request", "becomes", title=f"the first {len(asked)}")
    for attack in first.attacks:
        becomes = f"taken: harm {attack.review.harm}, its words alone {attack.words.alone}"
        table.add_row(attack.asked.record.key, attack.asked.category, attack.draft.query[:SHOWN], becomes)
    for one in first.rejected:
        table.add_row(one.asked.record.key, one.asked.category, one.text[:SHOWN], one.fault[:SHOWN])
    tally = rounds.attacker.client.tally if isinstance(rounds.attacker, LLMAttacker) else None
    known = tally is not None and tally.settled == tally.recorded
    if not known:
        console.print(table)
    missing = [one.fault.partition(": ")[2] for one in first.rejected if one.reason == NOTHING_CAME]
    if asked and len(missing) == len(asked):
        why = ", ".join(f"{reason} {number} of {len(asked)}" for reason, number in Counter(missing).most_common())
        refuses = set(missing) == {"refusal"}
        raise Stopped(
            f"{'the model refuses to write requests' if refuses else 'no draft could be had'} ({why}), so nothing more "
            f"was asked. {'Take another attacker' if refuses else 'Put it right and add attacker.retry_failed=true'}, "
            f"or go on regardless with attacker.preview=0"
        )
    if settings.confirm and not known:
        agreed = sys.stdin.isatty() and console.input("Go on with the rest? [y/N] ").strip().lower() == "y"
        if not agreed:
            raise Stopped("stopped after the preview (confirm=true); go on with attacker.confirm=false")


def estimates(settings: AttackCommand, asked: Sequence[Assignment]) -> Table:
    """The most calls there can be of each question, their tokens and cost; of worlds and ledgers none are made.

    Args:
        settings: settled ones.
        asked: everything.
    """
    file = AttackFile.load(settings.file)
    writers = {
        "draft": settings.attacker, "review": settings.judge, "alone": settings.judge,
        **({"twin": settings.attacker} if settings.twins else {}),
        **({"refusal": settings.attacker} if settings.references else {}),
    }  # fmt: skip
    found: dict[str, Estimate] = {}
    ledgers: dict[str, Path] = {}
    for question, one in writers.items():
        if not isinstance(one, LLMWriter | LLMReviewer):
            continue
        found[question] = estimate = Estimate(one, file.version_of(question))
        ledgers[question] = Path(one.ledger or Path(settings.out) / LEDGER)
        times = 1 + settings.twins if question in ("review", "alone") else 1
        for request in asked:
            for number in range(settings.rounds):
                full = replace(request, draft=Draft(query=WORDS, thing=THING), tried=(TRIED,) * number)
                size = sum(len(message["content"].encode()) for message in file.messages(question, full, WORDS))
                estimate.add(size, 0, one.max_tokens, times)
    return estimate_table(found, ledgers, "request taking all its rounds")
