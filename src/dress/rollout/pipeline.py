"""Conversations side by side: while one's answers are judged, another one is answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from dress.base.event_loop import Worker
from dress.base.progress import Advance, ignore
from dress.rater import Rater, feedback_of_each
from dress.record import Dialogue, Feedback
from dress.rollout.conversation import Answered, Conversation

Done = Callable[[list[Dialogue]], None]
AHEAD = 1
"""Conversations that wait for feedback while one more is answered."""


@dataclass
class _Pending:
    """A conversation whose answers are being judged."""

    conversation: Conversation
    done: Done
    judged: Advance
    feedback: Future[list[list[Feedback]]]


class Pipeline:
    """Holds conversations; what each asks of responder and rater, and in which order, is the same as one by one.

    A rater that waits for a server judges in a thread beside this one, one call of `rate` after another, in the order
    in which answers came. Errors of the rater are raised here; where this context ends with an error, its calls are
    ended too.

    Args:
        rater: judges.
        beside: whether its next call may be beside other work; asked before each.
    """

    def __init__(self, rater: Rater, beside: Callable[[], bool]) -> None:
        self._rater, self._beside = rater, beside
        self._waiting: deque[_Pending] = deque()
        self._worker: Worker | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._worker is not None:
            self._worker.stop()
        for pending in self._waiting:
            pending.conversation.close()

    def hold(self, conversation: Conversation, done: Done, judged: Advance = ignore) -> None:
        """Begin a conversation; answer those that were begun before as far as there is feedback.

        Args:
            conversation: of `conversation.conversation`, not begun.
            done: gets its dialogues, here or in a later call.
            judged: called with the number of judged answers, maybe from another thread.
        """
        try:
            self._judge(next(conversation), conversation, done, judged)
        except StopIteration as end:
            done(end.value)
        self._answer(AHEAD)

    def finish(self) -> None:
        """Hold all of them to their ends."""
        self._answer(0)

    def _answer(self, most: int) -> None:
        """Go on with the oldest, until at most so many wait."""
        while len(self._waiting) > most:
            pending = self._waiting.popleft()
            feedback = pending.feedback.result()
            try:
                answers = pending.conversation.send(feedback)
            except StopIteration as end:
                pending.done(end.value)
            else:
                self._judge(answers, pending.conversation, pending.done, pending.judged)

    def _judge(self, answers: Answered, conversation: Conversation, done: Done, judged: Advance) -> None:
        feedback: Future[list[list[Feedback]]]
        if self._beside():
            self._worker = self._worker or Worker()
            feedback = self._worker.submit(feedback_of_each, self._rater, answers.items, answers.images, judged)
        else:
            feedback = Future()
            feedback.set_result(feedback_of_each(self._rater, answers.items, answers.images, judged))
        self._waiting.append(_Pending(conversation, done, judged, feedback))
