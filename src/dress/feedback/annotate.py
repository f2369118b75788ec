"""Collection with a language model: first every call is settled in the ledger, then shards are made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dress import config
from dress.base.progress import CurriculumProgress
from dress.base.seeding import seed_for
from dress.data.shards import Shards
from dress.feedback.collect import ShareOut, collect, hold_slice, in_turn, slices
from dress.feedback.failures import write_failures
from dress.feedback.llm import LLMRater
from dress.feedback.rater import Progress, Rater
from dress.llm.ledger import Ledger
from dress.llm.replay import ReplayClient
from dress.rollout.responders import FileResponder, KeptAnswers, Responder, Sampling, ServerResponder

FAILURES = "failures.jsonl"


def ledgers_of(responder: Responder, rater: Rater) -> list[Ledger]:
    """The ledgers that answers and feedback go through: none, one, or two."""
    parts = [part for part in (responder, rater) if isinstance(part, ServerResponder | LLMRater)]
    return list({id(part.client.ledger): part.client.ledger for part in parts}.values())


def keeping(responder: Responder, rater: Rater, identity: str) -> Responder:
    """The responder, with its answers kept in the rater's ledger where it has one.

    A language model is paid for its word on these very answers: they are drawn once.

    Args:
        responder: a model in memory.
        rater: of its answers.
        identity: of the model's weights.
    """
    if not isinstance(rater, LLMRater):
        return responder
    return KeptAnswers(responder, responder.name, rater.client.ledger, identity)


def gather(
    name: str,
    responder: Responder,
    rater: Rater,
    prompts: Shards,
    folder: Path,
    stage: config.CollectSettings,
    sampling: Sampling,
    seed: int,
    progress: CurriculumProgress,
    share_out: ShareOut = in_turn,
) -> list[dict[str, Any]]:
    """Write shards of answers with feedback, and `failures.jsonl` beside them; goes on where it stopped.

    With a language model in it, all calls are settled first; then the shards are written from the ledger alone.

    Args:
        name: of the stage, for the progress display.
        responder, rater, prompts, folder, stage, sampling, seed: as in `collect`.
        progress: shows calls, then records.
        share_out: as in `collect`.

    Returns:
        What failed; see `failures.settled`.

    Raises:
        Stopped: see `request.Client.ask_all`.
    """
    ledgers = ledgers_of(responder, rater)
    clients = [part.client for part in (responder, rater) if isinstance(part, ServerResponder | LLMRater)]
    if any(not isinstance(client, ReplayClient) for client in clients):
        interrupted = sum(ledger.interrupted for ledger in ledgers)
        if interrupted:
            told = f"{interrupted} calls were in flight when an earlier run was killed; they are sent again"
            progress.console.print(told, highlight=False)
        progress.start(name, sum(_answers(prompts, indices, stage) for indices in slices(prompts, stage)))
        ask(responder, rater, prompts, stage, sampling, seed, progress.advance)
        progress.end()
        if isinstance(responder, ServerResponder | KeptAnswers):
            responder = responder.recorded()
        if isinstance(rater, LLMRater):
            rater = rater.recorded()
    progress.start(name, sum(map(len, slices(prompts, stage))))
    # What comes from a ledger or a file is cheap to write again, and what failed may have been asked again.
    anew = bool(ledgers) or isinstance(responder, FileResponder)
    failed = collect(responder, rater, prompts, folder, stage, sampling, seed, progress.advance, anew, share_out)
    if anew:
        write_failures(folder / FAILURES, failed, ledgers)
    return failed


def ask(
    responder: Responder,
    rater: Rater,
    prompts: Shards,
    stage: config.CollectSettings,
    sampling: Sampling,
    seed: int,
    progress: Progress,
) -> None:
    """Settle every call, so that `collect` with what is recorded needs none.

    Dialogues that end early count as if they had gone on.
    """
    for number, indices in enumerate(slices(prompts, stage)):
        judged = 0

        def count(n: int, counters: str) -> None:
            nonlocal judged
            judged += n
            progress(n, counters)

        def answered(n: int) -> None:
            if isinstance(responder, ServerResponder):
                progress(0, f"answers: {responder.client.tally.line()}")

        samples = list(prompts.readable(indices))
        hold_slice(responder, rater, samples, stage, sampling, seed_for(seed, number), count, answered)
        progress(_answers(prompts, indices, stage) - judged, "")


def _answers(prompts: Shards, indices: range, stage: config.CollectSettings) -> int:
    return sum(len(record.dialogues) for record, _ in prompts.readable(indices)) * stage.samples * stage.turns
