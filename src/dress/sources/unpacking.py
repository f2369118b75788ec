"""Rows whose parts stand inside of texts are taken apart into columns, before a mapping reads them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dress.sources.protocol import RowError

_TASK = re.compile(
    r"Question:\s*\[?(?P<question>.*?)\]?\s*\n\s*The LMM response:\s*\[?(?P<answer>.*?)\]?\s*(?:ASSISTANT:\s*)?\Z",
    re.DOTALL,
)
_PAIR = re.compile(r"\n\s*The first response:.*\n\s*The second response:", re.DOTALL)
_OUT_OF = re.compile(r"out of (\d+)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SCORE_FIRST = re.compile(r"\s*(?:(?:the )?score(?: is)?:?\s*)?\d+(?:\.\d+)?[\s.,:;]*", re.IGNORECASE)


def llava_critic(row: dict[str, Any]) -> dict[str, Any]:
    """LLaVA-Critic, pointwise: `question, answer, rating, critique` in place of `conversations`.

    The judged question and answer stand inside the human turn; the first number of the gpt turn is the rating, and
    what follows it the critique, or the whole text where it stands inside of a sentence. The prompt is kept as
    `judge_prompt`.

    Raises:
        RowError: another form, such as a comparison of two answers.
    """
    try:
        (human, gpt) = (message["value"] for message in row["conversations"])
        task, number = _TASK.search(human), _NUMBER.search(gpt)
    except (KeyError, TypeError, ValueError):
        raise RowError("bad field", f"conversations: expected a human and a gpt turn, got {row!r:.80}") from None
    if _PAIR.search(human):
        raise RowError("comparison", "conversations: expected one judged answer (pointwise), got two (pairwise)")
    if task is None or number is None:
        raise RowError("bad feedback", f"conversations: expected a question, a response and a score, got {human!r:.80}")
    rest = {name: value for name, value in row.items() if name != "conversations"}
    columns = {
        "question": task["question"],
        "answer": task["answer"],
        "rating": number[0],
        "critique": gpt[first.end() :] if (first := _SCORE_FIRST.match(gpt)) else gpt,
        "judge_prompt": human[: task.start()],
    }
    scale = _OUT_OF.search(human)
    if scale and scale[1] != "100":
        raise RowError("other scale", f"conversations: expected a score out of 100, got one out of {scale[1]}")
    return rest | columns


UNPACK: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"llava_critic": llava_critic}
"""By the name that a mapping's `unpack` states."""
