"""A collect stage: from a model and questions to shards of answers with feedback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from dress.base.files import write_json
from dress.base.ranks import of_ranks, rank
from dress.base.run_folder import ENDINGS
from dress.config.raters import PlainRater
from dress.data.shards import Shards
from dress.feedback.annotate import gather, storing
from dress.feedback.collect import Collection, in_turn
from dress.feedback.tables import count_endings, count_ratings, ratings_table
from dress.rater import Rater
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Rollout
from dress.rollout.responder import Sampling
from dress.rollout.server import ServerResponder
from dress.train.parallel import on_device, share_out
from dress.train.run_data import name_damage
from dress.train.tasks import CollectTask
from dress.train.tools import Tools


def by_first_rank(task: CollectTask) -> bool:
    """Whether the first process works alone: a server is asked and paid once."""
    return task.generation.engine == "server" or not isinstance(task.annotator, PlainRater)


def collect(
    task: CollectTask, responder: CkptResponder | ServerResponder, annotator: Rater, folder: Path, tools: Tools
) -> None:
    """Write `shards/`, `ratings.json` and `endings.json`; goes on where it was stopped.

    Args:
        task: whose questions, under which condition, how they are answered.
        responder: with the model that the task names; a server's only where this is the first process.
        annotator: that the task names.
        folder: of the stage.
        tools: of the run.

    Raises:
        Stopped: a limit of the annotator's is reached.
        Interrupted: asked to stop.
    """
    questions, stage, generation = task.questions.shards, task.stage, task.generation
    sampling = Sampling(
        generation.max_new_tokens, generation.batch_size, stage.temperature, stage.top_p, task.condition
    )

    def gather_skipped() -> None:
        questions.skipped[:] = dict.fromkeys(chain.from_iterable(of_ranks(questions.skipped)))

    def all_ranks(work: Callable[[int], None], shares: int) -> None:
        assert isinstance(responder, CkptResponder)
        share_out(responder.model, work, shares, gather_skipped, devices=tools.devices)

    share = in_turn if by_first_rank(task) else all_ranks
    model = responder.model if isinstance(responder, CkptResponder) and by_first_rank(task) else None
    with nullcontext() if model is None else on_device(model, tools.devices):
        if by_first_rank(task) and rank() > 0:
            return
        rollout = Rollout(storing(responder, annotator, task.model.fingerprint), annotator, sampling, task.seed)
        gather(task.name, rollout, Collection(questions, stage, folder / "shards"), tools.progress, share)
    if rank() > 0:
        return
    name_damage(folder, questions)
    shards = Shards(folder / "shards")
    ratings, endings = count_ratings(shards), count_endings(shards)
    write_json(folder / "ratings.json", ratings)
    write_json(folder / ENDINGS, endings)
    tools.console.print(ratings_table(ratings, endings, task.name))
