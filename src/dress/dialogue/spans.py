"""What a phase makes of a record: dialogues whose spans carry a role and a loss weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["user", "condition", "assistant"]
PHASE_NAMES = ("align", "sft", "critique", "refinement", "rating", "best_of")


@dataclass(frozen=True)
class Span:
    """A piece of a dialogue. `condition` follows a user span and belongs to the same message."""

    role: Role
    text: str
    weight: float = 0.0


@dataclass(frozen=True)
class Supervised:
    """One dialogue to train on: `phase` names it in the logs, spans of weight 0 are context."""

    phase: str
    spans: tuple[Span, ...]
    image: bool = True
