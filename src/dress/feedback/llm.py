"""The LLM rater: rating, critique and refinement from a language model with a rubric."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from dress.base.progress import Advance, ignore
from dress.base.ranks import processes
from dress.feedback.rubric import Rubric, RubricReply
from dress.llm.interface import Client
from dress.llm.replay import ReplayClient
from dress.llm.request import Reply, Request, Stopped
from dress.rater import Images, Rater
from dress.record import Dialogue, Feedback, Record

SHOWN = 300
"""Characters of an answer or reply in the preview."""


@dataclass(frozen=True)
class Preview:
    """A look at the first replies before the rest is asked for.

    Args:
        number: how many.
        confirm: stop after it unless somebody at the terminal agrees.
        console: where it is shown.
    """

    number: int
    confirm: bool
    console: Console


class LLMRater:
    """Judges by a rubric; a reply that cannot be had is feedback without a rating, and says why.

    Args:
        client: a server's, or a replay's.
        rubric: what is asked.
        sees_image: send the image too.
        temperature: of the replies; None sends none.
        max_tokens: of a reply.
        preview: shown once; None shows nothing.
    """

    def __init__(
        self, client: Client, rubric: Rubric, *, sees_image: bool = False, temperature: float | None = 0.0,
        max_tokens: int = 800, preview: Preview | None = None,
    ) -> None:  # fmt: skip
        self.client, self.rubric, self.name = client, rubric, client.model
        self._sees_image, self._temperature, self._max_tokens = sees_image, temperature, max_tokens
        self._preview = preview

    def rate(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Advance = ignore
    ) -> list[Feedback]:
        """Feedback on the last answers; `extra.call` names the call in the ledger, `extra.failed` why it failed.

        Raises:
            Stopped: budget reached, key refused, server not there, or the preview was no good.
        """
        requests = [
            self.request(*item, image) for item, image in zip(items, images or [None] * len(items), strict=True)
        ]
        if self._preview is not None and self._preview.confirm and processes() > 1:
            raise Stopped("confirm=true: one process waits for your answer while others ask; use trainer.devices=1")
        first = self._preview.number if self._preview is not None else 0
        replies = self.client.ask_all(requests[:first], progress) if first else []
        if self._preview is not None and replies:
            show_preview(self._preview, items, replies)
            self._preview = None
        replies += self.client.ask_all(requests[first:], progress)
        return [self._feedback(dialogue, reply) for (_, dialogue), reply in zip(items, replies, strict=True)]

    @property
    def previews(self) -> bool:
        """Whether its next replies are shown first."""
        return self._preview is not None

    def replay(self) -> LLMRater:
        """The same with what the ledger holds; asks nobody."""
        return LLMRater(
            self.client.replay(), self.rubric, sees_image=self._sees_image, temperature=self._temperature,
            max_tokens=self._max_tokens,
        )  # fmt: skip

    def request(self, record: Record, dialogue: Dialogue, image: bytes | None) -> Request:
        """The call that judges the dialogue's last answer."""
        shown = image if self._sees_image else None
        return Request(
            self.rubric.messages(record, dialogue, shown is not None),
            prompt_version=self.rubric.prompt_version,
            schema=RubricReply,
            image=shown,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
        )

    def _feedback(self, dialogue: Dialogue, reply: Reply) -> Feedback:
        feedback = Feedback(
            criterion=self.rubric.criterion(dialogue),
            annotator=self.name,
            prompt_version=self.rubric.prompt_version,
            extra={"call": reply.key},
        )
        if reply.status == "failed":
            return feedback.model_copy(update={"extra": {"call": reply.key, "failed": reply.reason}})
        words: RubricReply = reply.parsed  # they stay as they came; of blanks alone there is nothing to be asked
        refinement = words.refinement if words.refinement.strip() else None
        return feedback.model_copy(
            update={"rating": words.rating, "critique": words.critique, "refinement": refinement}
        )


def waits(rater: Rater) -> bool:
    """Whether the next call of `rate` waits for a server, so that other work may go on meanwhile.

    A preview comes first: nothing is done before somebody has seen it.
    """
    return isinstance(rater, LLMRater) and not rater.previews and not isinstance(rater.client, ReplayClient)


def show_preview(preview: Preview, items: Sequence[tuple[Record, Dialogue]], replies: Sequence[Reply]) -> None:
    """Print the first replies unless all were known; stop where none can be used, or where nobody agrees to go on.

    Raises:
        Stopped: as said.
    """
    table = Table("question", "answer", "rating", "critique", "refinement", title=f"the first {len(replies)}")
    for (_, dialogue), reply in zip(items, replies, strict=False):
        last = dialogue.turns[-1]
        words = reply.parsed
        cells = (
            (str(words.rating), words.critique, words.refinement)
            if reply.status == "done"
            else ("failed", str(reply.reason), reply.text or "")
        )
        table.add_row(*(text[:SHOWN] for text in (last.user, last.assistant or "", *cells)))
    known = all(reply.recorded for reply in replies)
    if not known:
        preview.console.print(table)
    if all(reply.status == "failed" for reply in replies):
        reasons = Counter(str(reply.reason) for reply in replies)
        why = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
        raise Stopped(
            f"all of the first {len(replies)} calls failed ({why}), so nothing more was asked. The last reply: "
            f"{(replies[-1].text or '')[:SHOWN]!r}. Put it right and add annotator.retry_failed=true, or go on "
            f"regardless with annotator.preview=0"
        )
    if preview.confirm and not known:
        agreed = sys.stdin.isatty() and preview.console.input("Go on with the rest? [y/N] ").strip().lower() == "y"
        if not agreed:
            raise Stopped("stopped after the preview (confirm=true); go on with annotator.confirm=false")
