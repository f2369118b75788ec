"""Live counters of calls: done, failed by reason, tokens, cost, time left."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from dress.base.progress import clock
from dress.llm.request import Reply


@dataclass
class Tally:
    """Counts what is settled.

    Args:
        total: calls that are asked for; grows with every batch.
    """

    total: int = 0
    done: int = 0
    recorded: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    repeats: Counter[str] = field(default_factory=Counter)
    """Why calls had to be sent again."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def add(self, reply: Reply) -> None:
        """A call is settled."""
        if reply.status == "done":
            self.done += 1
        else:
            self.failed[reply.reason or ""] += 1
        if reply.recorded:
            self.recorded += 1

    def spend(self, prompt_tokens: int, completion_tokens: int, cost: float) -> None:
        """An attempt was answered."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cost += cost

    @property
    def settled(self) -> int:
        """Calls that are done or have failed."""
        return self.done + self.failed.total()

    def line(self) -> str:
        """All of it in one line."""
        parts = [f"{self.done:,} done"]
        if self.recorded:
            parts[0] += f" ({self.recorded:,} from the ledger)"
        if self.failed:
            why = ", ".join(f"{reason} {n}" for reason, n in sorted(self.failed.items()))
            parts.append(f"{self.failed.total():,} failed ({why})")
        if self.repeats:
            parts.append(f"{self.repeats.total():,} sent again")
        parts.append(f"{self.prompt_tokens + self.completion_tokens:,} tokens")
        if self.cost:
            parts.append(f"cost {self.cost:,.4g}")
        sent, rest = self.settled - self.recorded, self.total - self.settled
        if sent and rest:
            parts.append(f"{clock((time.monotonic() - self.began) / sent * rest)} left for these calls")
        return ", ".join(parts)
