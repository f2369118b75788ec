"""How far people agree on the answers that several of them rated."""

from __future__ import annotations

from typing import Any

import numpy as np

from dress.chat.records import Talk
from dress.evaluation.statistics import alpha
from dress.record import CRITERIA, TOP_RATING

VALUES = range(1, TOP_RATING + 1)


def agreement(talk: Talk) -> dict[str, dict[str, Any]]:
    """By criterion: Krippendorff's alpha of ordinal ratings, and how many people and answers it is of.

    Only answers count that two people or more rated; a criterion without any is left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    for criterion in CRITERIA:
        people: set[str] = set()
        counts = []
        for latest in talk.latest.values():
            ratings = {who: one.rating for (who, about), one in latest.items() if about == criterion and one.rating}
            if len(ratings) > 1:
                people |= ratings.keys()
                counts.append([sum(rating == value for rating in ratings.values()) for value in VALUES])
        if counts:
            figure = alpha(np.array(counts), "ordinal", list(VALUES))
            rows[criterion] = {"people": len(people), "answers": len(counts), "alpha": figure["value"]}
    return rows
