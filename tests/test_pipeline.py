"""While a language model judges the answers to some questions, the next are answered; nothing else changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import small_model
from llm_server import Behaviour, serving

from dress import config
from dress.base.seeding import seed_for
from dress.config.raters import LLM
from dress.evaluation.cells import Questions, evaluate_models
from dress.feedback.annotate import ask, storing
from dress.feedback.collect import Collection, openings_of
from dress.feedback.llm import LLMRater, waits
from dress.feedback.raters import build_rater
from dress.llm.request import Stopped
from dress.record import Dialogue, Record
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Rollout, conversation
from dress.rollout.pipeline import Pipeline
from dress.rollout.responder import Sampling

SLICES = 5
SAMPLING = Sampling(3, 64, 1.0)


class Watched:
    """Answers of a model, slowed down; notes how many of the judge's calls were in flight meanwhile."""

    def __init__(self, model: Any, server: Behaviour, seconds: float, then: Callable[[], None] = lambda: None) -> None:
        self.name, self.in_flight = "run/sft", list[int]()
        self._model, self._server, self._seconds, self._then = CkptResponder(model, "x"), server, seconds, then
        self.preprocess = self._model.preprocess

    def answer(self, *asked: Any) -> Any:
        time.sleep(self._seconds)
        self.in_flight.append(self._server.in_flight)
        if len(self.in_flight) > 2:
            self._then()
        return self._model.answer(*asked)


def judge(url: str, folder: Path, **more: Any) -> LLMRater:
    settings = LLM(kind="llm", base_url=url, model="judge", structured="json_schema", preview=0, **more)
    rater = build_rater(settings, folder)
    assert isinstance(rater, LLMRater)
    return rater


def rollout(rater: LLMRater, watched: Watched) -> Rollout:
    return Rollout(storing(watched, rater, "weights"), rater, SAMPLING)


@pytest.fixture(scope="module")
def prompts(shapes_folder: Path):
    from dress.data.shards import Shards

    return Shards(shapes_folder / "prompts")


def collection(prompts, tmp_path: Path) -> Collection:
    return Collection(prompts, config.CollectSettings(records=SLICES, turns=2, per_shard=1), tmp_path)


def dialogues_of(collection: Collection, rolling: Rollout, beside: bool) -> list[list[Dialogue]]:
    """The dialogues of every slice, held one after the other or side by side."""
    dialogues: dict[int, list[Dialogue]] = {}
    with Pipeline(rolling.rater, lambda: beside and waits(rolling.rater)) as pipeline:
        for number, indices in enumerate(collection.slices):
            samples = list(collection.prompts.readable(indices))
            one = Rollout(rolling.responder, rolling.rater, rolling.sampling, seed_for(0, number))
            talk = conversation(one, samples, openings_of(samples, collection.stage, ""))
            pipeline.hold(talk, lambda done, number=number: dialogues.update({number: done}))
        pipeline.finish()
    return [dialogues[number] for number in range(len(collection.slices))]


def test_a_later_round_asks_later_records(prompts, tmp_path):
    stage = config.CollectSettings(records=3, skip=2, per_shard=2)
    assert Collection(prompts, stage, tmp_path).slices == [range(2, 4), range(4, 5)]
    most = config.CollectSettings(records=1000, skip=len(prompts) - 1)
    assert Collection(prompts, most, tmp_path).slices == [range(len(prompts) - 1, len(prompts))]
    with pytest.raises(ValueError, match=r"skip=\d+ leaves none of the \d+ records"):
        most.asked(len(prompts) - 1)


def content(rater: LLMRater) -> list[Any]:
    """What a ledger holds, but times and who wrote it."""
    names = ("key", "content", "model", "sampling", "messages", "status", "raw", "parsed", "attempts", "cost")
    rows = sorted(tuple(row[name] for name in names) for row in rater.client.ledger.calls())
    stored = rater.client.ledger._db.execute("SELECT key, answers FROM answers ORDER BY key").fetchall()
    return [*rows, *map(tuple, stored)]


def test_the_next_questions_are_answered_meanwhile_and_all_is_the_same(prompts, tokenizer, tmp_path):
    model, results = small_model(tokenizer), {}
    for beside in (False, True):
        server = Behaviour(delay=0.25)
        with serving(server) as url:
            rater, watched = judge(url, tmp_path / str(beside)), Watched(model, server, 0.08)
            began = time.monotonic()
            dialogues = dialogues_of(collection(prompts, tmp_path), rollout(rater, watched), beside)
            seconds = time.monotonic() - began
        results[beside] = ([[d.model_dump() for d in some] for some in dialogues], content(rater))
        busy = sum(number > 0 for number in watched.in_flight)
        print(f"side by side: {beside}, {seconds:.2f} s, calls in flight during {busy} of {len(watched.in_flight)}")
        assert len(watched.in_flight) == 2 * SLICES
        assert busy >= 2 * SLICES - 3 if beside else busy == 0
    assert results[False] == results[True] and len(results[True][1]) > 2 * SLICES


def test_collecting_and_evaluating_do_so(prompts, tokenizer, tmp_path):
    server, model = Behaviour(delay=0.1), small_model(tokenizer)
    with serving(server) as url:
        rater, watched = judge(url, tmp_path), Watched(model, server, 0.05)
        ask(rollout(rater, watched), collection(prompts, tmp_path), lambda n=1, info="": None)
        assert sum(number > 0 for number in watched.in_flight) >= SLICES
        watched.in_flight.clear()
        samples = list(prompts.readable(range(30)))
        small = [(asked(record, n), image) for n in range(4) for record, image in samples]
        questions = Questions(
            small, rater, config.Eval(turns=2, conditions=["none"]), {"m": {"none": ""}}, Sampling(3, 256)
        )
        outcomes = evaluate_models({"m": lambda: context_of(watched)}, questions, tmp_path / "eval")
    assert len({one.item for one in outcomes}) == len(small) and all(one.rating for one in outcomes)
    assert sum(number > 0 for number in watched.in_flight) >= len(watched.in_flight) // 2


def asked(record: Record, number: int) -> Record:
    """One question of a record, as no other record has it: equal calls are made once."""
    first = record.dialogues[0].turns[0]
    turn = first.model_copy(update={"user": f"{first.user} ({number})"})
    dialogue = record.dialogues[0].model_copy(update={"turns": [turn]})
    return record.model_copy(update={"key": f"{record.key}-{number}", "dialogues": [dialogue]})


def context_of(watched: Watched) -> Any:
    from contextlib import nullcontext

    return nullcontext(watched)


def test_a_budget_that_is_reached_stops_and_is_told(prompts, tokenizer, tmp_path):
    server = Behaviour(delay=0.02)
    with serving(server) as url:
        rater = judge(url, tmp_path, budget=4.0, price_in=1000.0, price_out=1000.0)
        with pytest.raises(Stopped, match=r"budget=4"):
            dialogues_of(
                collection(prompts, tmp_path), rollout(rater, Watched(small_model(tokenizer), server, 0.0)), True
            )
    assert 0 < rater.client.ledger.spent <= 4.0 and rater.client.ledger.reserved == 0
    assert not [one.name for one in threading.enumerate() if one.name.startswith("ThreadPoolExecutor")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_ends_the_answers_ends_the_calls(prompts, tokenizer, tmp_path, error):
    """As a signal does: nobody waits for, or pays for, what is not needed any more."""

    failed_at = list[float]()

    def fail() -> None:
        failed_at.append(time.monotonic())
        raise error("stop")

    server, delay = Behaviour(delay=0.5), 0.5
    due = len(prompts.record(1).dialogues)  # calls for the answers that are being judged then, one after another
    with serving(server) as url:
        rater = judge(url, tmp_path, concurrency=1)
        watched = Watched(small_model(tokenizer), server, 0.0, fail)
        with pytest.raises(error):
            dialogues_of(collection(prompts, tmp_path), rollout(rater, watched), True)
        seconds, asked = time.monotonic() - failed_at[0], sum(server.calls.values())
        assert seconds < (due - 1) * delay and due > 2, "somebody waited for all of them"
        time.sleep(2 * delay)
        assert sum(server.calls.values()) == asked, "one was asked for afterwards"
    assert not [one.name for one in threading.enumerate() if one.name.startswith("ThreadPoolExecutor")]


def test_nothing_goes_on_before_a_preview_was_seen(tmp_path):
    with serving(Behaviour()) as url:
        settings = LLM(kind="llm", base_url=url, model="judge", structured="json_schema")
        from rich.console import Console

        rater = build_rater(settings, tmp_path, Console(quiet=True))
        assert isinstance(rater, LLMRater) and rater.previews and not waits(rater)
        assert waits(judge(url, tmp_path)) and not waits(judge(url, tmp_path).replay())
