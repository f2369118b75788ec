"""Collection with a language model: first every call is settled in the ledger, then shards are made from it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from dress.base.progress import Advance, CurriculumProgress
from dress.base.seeding import seed_for
from dress.feedback.collect import Collection, ShareOut, collect, in_turn, openings_of
from dress.feedback.failures import write_failures
from dress.feedback.human import HumanRater
from dress.feedback.llm import LLMRater, waits
from dress.llm.interface import Client
from dress.llm.ledger import Ledger
from dress.llm.replay import ReplayClient
from dress.rater import Rater
from dress.record import Dialogue
from dress.rollout.answers_file import FileResponder
from dress.rollout.conversation import Rollout, conversation
from dress.rollout.pipeline import Pipeline
from dress.rollout.responder import GivenAnswers, Responder
from dress.rollout.server import ServerResponder
from dress.rollout.stored import StoredAnswers

FAILURES = "failures.jsonl"


def clients_of(rollout: Rollout) -> list[Client]:
    """Through which answers and feedback are had: none, one, or two."""
    parts = (rollout.responder, rollout.rater)
    return [part.client for part in parts if isinstance(part, ServerResponder | LLMRater)]


def ledgers_of(rollout: Rollout) -> list[Ledger]:
    """The ledgers of these clients, each once."""
    return list({id(client.ledger): client.ledger for client in clients_of(rollout)}.values())


def storing(responder: Responder, rater: Rater, identity: str) -> Responder:
    """The responder, with its answers stored in the rater's ledger where it has one.

    A language model is paid for its word on these very answers: they are drawn once.

    Args:
        responder: a model in memory, or a server, whose answers stand in a ledger already.
        rater: of its answers.
        identity: of the model's weights.
    """
    if not isinstance(rater, LLMRater) or isinstance(responder, ServerResponder):
        return responder
    return StoredAnswers(responder, responder.name, rater.client.ledger, identity)


def gather(
    name: str, rollout: Rollout, collection: Collection, progress: CurriculumProgress, share_out: ShareOut = in_turn
) -> list[dict[str, Any]]:
    """Write shards of answers with feedback, and `failures.jsonl` beside them; goes on where it stopped.

    With a language model in it, all calls are settled first; then the shards are written from the ledger alone.

    Args:
        name: of the stage, for the progress display.
        rollout: who answers and who judges.
        collection: whose questions, how many, and the folder.
        progress: shows calls, then records.
        share_out: as in `collect`.

    Returns:
        What failed; see `failures.set_failures_aside`.

    Raises:
        Stopped: see `request.Client.ask_all`.
    """
    ledgers = ledgers_of(rollout)
    if any(not isinstance(client, ReplayClient) for client in clients_of(rollout)):
        interrupted = sum(ledger.interrupted for ledger in ledgers)
        if interrupted:
            line = f"{interrupted} calls were in flight when an earlier run was killed; they are sent again"
            progress.console.print(line, highlight=False)
        progress.start(name, sum(_count_answers(rollout, collection, i) for i in collection.shards.values()))
        ask(rollout, collection, progress.advance)
        progress.end()
        rollout = replay_of(rollout)
    progress.start(name, sum(map(len, collection.shards.values())))
    # What comes from a ledger or a file is cheap to write again, and what failed may have been asked again. Where
    # people have yet to say something, failures.jsonl names all of it only if every shard is looked at.
    cheap = isinstance(rollout.responder, FileResponder | GivenAnswers)
    anew = bool(ledgers) or cheap or isinstance(rollout.rater, HumanRater)
    failures = collect(rollout, collection, progress.advance, anew, share_out)
    if anew:
        write_failures(collection.folder / FAILURES, failures, ledgers)
    return failures


def replay_of(rollout: Rollout) -> Rollout:
    """The same with what the ledgers hold; asks nobody."""
    responder, rater = rollout.responder, rollout.rater
    return replace(
        rollout,
        responder=responder.replay() if isinstance(responder, ServerResponder | StoredAnswers) else responder,
        rater=rater.replay() if isinstance(rater, LLMRater) else rater,
    )


def ask(rollout: Rollout, collection: Collection, progress: Advance) -> None:
    """Settle every call, so that `collect` with what the ledgers hold needs none.

    While a language model judges the answers to one shard's questions, those of the next are answered. Dialogues that
    end early count as if they had gone on.

    Args:
        rollout: who answers and who judges.
        collection: whose questions, and how many.
        progress: called with the number of judged answers, and a line of live counters.
    """
    with Pipeline(rollout.rater, partial(waits, rollout.rater)) as pipeline:
        for number, indices in collection.shards.items():
            _ask_slice(replace(rollout, seed=seed_for(rollout.seed, number)), collection, indices, pipeline, progress)
        pipeline.finish()


def _ask_slice(rollout: Rollout, collection: Collection, indices: range, pipeline: Pipeline, progress: Advance) -> None:
    responder, stage, counted = rollout.responder, collection.stage, 0

    def judged(n: int = 1, info: str = "") -> None:
        nonlocal counted
        counted += n
        progress(n, info)

    def answered(n: int = 1, info: str = "") -> None:
        if isinstance(responder, ServerResponder):
            progress(0, f"answers: {responder.client.tally.line()}")

    def done(dialogues: list[Dialogue]) -> None:
        progress(_count_answers(rollout, collection, indices) - counted, "")

    samples = list(collection.prompts.readable(indices))
    openings = openings_of(samples, stage, rollout.sampling.condition)
    pipeline.hold(conversation(rollout, samples, openings, answered), done, judged)


def _count_answers(rollout: Rollout, collection: Collection, indices: range) -> int:
    dialogues = [dialogue for record, _ in collection.prompts.readable(indices) for dialogue in record.dialogues]
    if isinstance(rollout.responder, GivenAnswers):
        return sum(turn.assistant is not None for dialogue in dialogues for turn in dialogue.turns)
    return len(dialogues) * collection.stage.samples * collection.stage.turns
