"""`dry_run=true`: how many calls, tokens and how much money a collection would take at most, before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from dress import config
from dress.config.raters import LLM, Calls, Server
from dress.data.shards import Shards
from dress.feedback.collect import slices
from dress.feedback.rubric import Rubric
from dress.llm.ledger import Ledger
from dress.record import Dialogue, Turn, up_to_answers
from dress.rollout.server import ANSWER_VERSION

BYTES_PER_TOKEN = 4
"""Of English text, roughly."""


@dataclass
class Estimate:
    """Calls of one kind; tokens of prompts are estimated, tokens of replies the most there can be.

    Args:
        settings: prices.
        prompt_version: of the calls.
        calls: how many.
        prompt_tokens: of all calls.
        completion_tokens: of all calls.
    """

    settings: Calls
    prompt_version: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, prompt_bytes: int, images: int, most: int, times: int) -> None:
        """Calls of one size."""
        self.calls += times
        self.prompt_tokens += times * (prompt_bytes // BYTES_PER_TOKEN + images * self.settings.image_tokens)
        self.completion_tokens += times * most

    @property
    def cost(self) -> float:
        """The most it can be if the prompts are as estimated."""
        prices = self.settings.price_in, self.settings.price_out
        return (self.prompt_tokens * prices[0] + self.completion_tokens * prices[1]) / 1e6


def estimate(
    prompts: Shards,
    stage: config.CollectSettings,
    most_answer: int,
    annotator: config.RaterSettings,
    server: Server | None,
    given: bool = False,
) -> dict[str, Estimate]:
    """Estimates of `answers` (of a server) and `feedback` (of an LLM), every dialogue going its full length.

    Args:
        prompts: whose questions are asked.
        stage: how many records, turns, samples.
        most_answer: tokens of an answer.
        annotator: who judges.
        server: who answers, where that is a server.
        given: the answers that stand there are judged.
    """
    estimates: dict[str, Estimate] = {}
    if server is not None:
        estimates["answers"] = Estimate(server, ANSWER_VERSION)
    if isinstance(annotator, LLM):
        rubric = Rubric.load(annotator.rubric)
        estimates["feedback"] = Estimate(annotator, rubric.prompt_version)
    for index in (index for indices in slices(prompts, stage) for index in indices):
        record = prompts.record(index)
        image = int(record.image is not None)
        for dialogue in record.dialogues:
            for judged in up_to_answers(dialogue) if given else _full_length(dialogue, stage.turns, most_answer):
                if server is not None:
                    size = sum(len(turn.user) + len(turn.assistant or "") for turn in judged.turns)
                    size -= len(judged.turns[-1].assistant or "")
                    estimates["answers"].add(size, image * server.sees_image, most_answer, stage.samples)
                if isinstance(annotator, LLM):
                    messages = rubric.messages(record, judged, annotator.sees_image)
                    size = sum(len(message["content"].encode()) for message in messages)
                    estimates["feedback"].add(size, image * annotator.sees_image, annotator.max_tokens, stage.samples)
    return estimates


ADVICE = "x" * 200
"""In the place of a refinement."""


def _full_length(dialogue: Dialogue, turns: int, most_answer: int) -> Iterator[Dialogue]:
    """The dialogue up to each of so many answers, each as long as it can be."""
    answer = "x" * most_answer * BYTES_PER_TOKEN
    users = [dialogue.turns[0].user, *[ADVICE] * (turns - 1)]
    full = dialogue.model_copy(update={"turns": [Turn(user=user, assistant=answer) for user in users]})
    yield from up_to_answers(full)


def estimate_table(
    estimates: dict[str, Estimate], ledgers: dict[str, Path], going: str = "dialogue going its full length"
) -> Table:
    """The estimates, and what the ledgers already hold of them.

    Args:
        estimates: by kind.
        ledgers: of each kind; they need not be there.
        going: what is taken for granted of everything that is asked.
    """
    columns = ("", "calls", "in the ledger", "prompt tokens", "reply tokens", "cost")
    table = Table(*columns, title=f"at most, with every {going}")
    for kind, one in estimates.items():
        there = ledgers[kind].is_file()
        settled = Ledger(ledgers[kind], readonly=True).counts(one.prompt_version) if there else {}
        done = settled.get("done", 0) + settled.get("failed", 0)
        numbers = (one.calls, done, one.prompt_tokens, one.completion_tokens)
        table.add_row(kind, *(f"{number:,}" for number in numbers), f"{one.cost:,.2f}")
    return table
