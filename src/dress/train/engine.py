"""What computes the answers of collect and eval stages: the run's own code, or a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dress import config
from dress.base.ranks import of_ranks, rank
from dress.data.shards import Sample
from dress.evaluation.cells import Gather, alone
from dress.exports.agreement import NUMBER, expected_answers, first_questions
from dress.exports.model_folder import check_class
from dress.exports.served_model import LEDGER, ServedModel, free_device, served
from dress.model.checkpoint import read_model
from dress.model.export.composed import NoClass
from dress.model.lvlm import LVLM
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.responder import Responder, Sampling
from dress.rollout.server import ServerResponder
from dress.train.parallel import on_device, share_out
from dress.train.run_data import Output, Records
from dress.train.tools import Tools


def check_served(model: LVLM, settings: config.Config) -> None:
    """Refuse a model that cannot be written as one folder for a server.

    Raises:
        ValueError: says what is in the way.
    """
    generation = settings.generation
    if generation.engine == "native" or not generation.server.words or not uses_answers(settings.curriculum):
        return
    try:
        check_class(model, settings)
    except NoClass as why:
        raise ValueError(
            f"generation.engine=server: expected a model that a class of transformers computes, got one that none does "
            f"({why}). Use generation.engine=native"
        ) from None


def uses_answers(curriculum: config.Curriculum) -> bool:
    """Whether a stage that runs asks a model."""
    stages = (curriculum.stages[name] for name in curriculum.order)
    return any(isinstance(stage, config.CollectStage | config.EvalStage) for stage in stages)


@dataclass(frozen=True)
class Asking:
    """A stage that asks another one's model.

    Attributes:
        stage: that trained the model.
        output: of that stage.
        folder: of the stage that asks.
        conditions: texts that its questions stand under.
        samples: the first records that it asks about, with image bytes.
    """

    stage: str
    output: Output
    folder: Path
    conditions: Sequence[str]
    samples: Callable[[], Sequence[Sample]]


def first_samples(records: Records) -> list[Sample]:
    """The first records that can be read."""
    shards = records.shards
    return list(shards.readable(range(min(NUMBER, len(shards)))))


class Engine:
    """Computes the answers of a run's stages.

    Args:
        settings: of the run.
        tools: of the run.
    """

    def __init__(self, settings: config.Config, tools: Tools) -> None:
        self.settings, self.tools = settings, tools

    @contextmanager
    def answering(self, responder: CkptResponder, asking: Asking) -> Iterator[CkptResponder | ServerResponder | None]:
        """What answers for the model in memory: itself, or a server; None on a rank that has no share in that.

        Every rank enters.

        Args:
            responder: of the model in memory.
            asking: which stage asks, and what.

        Raises:
            ValueError: see `served`.
        """
        generation, model = self.settings.generation, responder.model
        if generation.engine == "native":
            yield responder
            return
        with on_device(model, self.tools.devices):
            first = first_questions(asking.samples(), asking.conditions) if rank() == 0 else []
            expected = expected_answers(responder, first, Sampling(generation.max_new_tokens, generation.batch_size))
        free_device()
        if rank() > 0:
            yield None
            return
        assert asking.output.folder is not None
        exact = partial(read_model, asking.output.folder, self.settings.model, exact=True)
        behind = ServedModel(
            self.settings, asking.stage, exact, asking.output.fingerprint, asking.folder,
            Path(self.settings.run_dir) / LEDGER, model.computes_in_bf16,
        )  # fmt: skip
        with served(behind, expected, model.encoder, self.tools.console) as server:
            yield server

    def share_out(
        self, responder: Responder, work: Callable[[int], None], shares: int, finish: Callable[[Gather], None]
    ) -> None:
        """Do all shares of a work: on all ranks, or on the first where a server answers."""
        if isinstance(responder, CkptResponder):
            share_out(responder.model, work, shares, partial(finish, of_ranks), devices=self.tools.devices)
        else:
            alone(responder, work, shares, finish)
