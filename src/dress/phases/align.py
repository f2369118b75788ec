"""align: caption the image. Only what connects the image to the words is learned (paper §3)."""

from __future__ import annotations

from dress import config
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.phases.registry import phase
from dress.record import Record


@phase("align", settings=("align",))
def align(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """One dialogue per caption: image, caption prompt, **caption**."""
    if record.image is None:
        return []
    prompt = Span("user", settings.align.prompt)
    return [
        SupervisedDialogue("align", (prompt, Span("assistant", caption, 1.0)))
        for caption in record.annotation.captions
        if caption.strip()
    ]
