"""Collection with a language model: first every call is settled in the ledger, then shards are made from it."""

from __future__ import annotations

from dress import config
from dress.data.shards import Shards
from dress.feedback.collect import hold_slice, slices
from dress.feedback.ledger import Ledger
from dress.feedback.llm import LLMRater
from dress.feedback.rater import Progress, Rater
from dress.feedback.replay import ReplayClient
from dress.feedback.responders import KeptAnswers, Responder, Sampling, ServerResponder
from dress.seeding import seed_for


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


def asks(responder: Responder, rater: Rater) -> bool:
    """Whether a server is asked."""
    clients = [part.client for part in (responder, rater) if isinstance(part, ServerResponder | LLMRater)]
    return any(not isinstance(client, ReplayClient) for client in clients)


def recorded(responder: Responder, rater: Rater) -> tuple[Responder, Rater]:
    """Both, with what the ledger holds."""
    if isinstance(responder, ServerResponder | KeptAnswers):
        responder = responder.recorded()
    return responder, rater.recorded() if isinstance(rater, LLMRater) else rater


def expected(prompts: Shards, stage: config.CollectStage) -> int:
    """The most answers that there will be to judge."""
    return sum(_answers(prompts, indices, stage) for indices in slices(prompts, stage))


def ask(
    responder: Responder,
    rater: Rater,
    prompts: Shards,
    stage: config.CollectStage,
    sampling: Sampling,
    seed: int,
    progress: Progress,
) -> None:
    """Settle every call, so that `collect` with what is recorded needs none.

    Args:
        responder, rater, prompts, stage, sampling, seed: as in `collect`.
        progress: called with the number of judged answers; they add up to `expected`.

    Raises:
        Stopped: see `request.Client.ask_all`.
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

        samples = [prompts[index] for index in indices]
        hold_slice(responder, rater, samples, stage, sampling, seed_for(seed, number), count, answered)
        progress(_answers(prompts, indices, stage) - judged, "")  # dialogues that ended early


def _answers(prompts: Shards, indices: range, stage: config.CollectStage) -> int:
    return sum(len(prompts.record(index).dialogues) for index in indices) * stage.samples * stage.turns
