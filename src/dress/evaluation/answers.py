"""Who answers: a file, a server or a run's model; one answer (or a reason) for every question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dress.base.files import required
from dress.base.progress import Advance, ignore
from dress.base.seeding import seed_for
from dress.config import Config, TrainStage
from dress.config.consent import DAMAGED
from dress.evaluation.joining import called, join, nothing_matched
from dress.evaluation.outcomes import Outcome
from dress.evaluation.questions import Question
from dress.evaluation.rows import read_rows
from dress.evaluation.settings import Asking
from dress.phases.conditions import own_condition
from dress.record import RecordError
from dress.rollout.kinds import responder_kind, run_settings
from dress.rollout.responder import NoAnswer, OpenTurn, Responder, Sampling
from dress.rollout.server import SERVER_TOKENS, ServerResponder

EMPTY, UNSEEN = "empty answer", "its image cannot be read"
CHUNK = 256
"""Images in memory at a time."""


@dataclass(frozen=True)
class Answers:
    """What came of asking: one answer per question, and outcomes of rows of a file that answer none."""

    responder: str
    answers: Sequence[str | NoAnswer]
    unmatched: Sequence[Outcome] = ()


class Asker:
    """Asks the responder that the settings name.

    Raises:
        FileNotFoundError, ValueError: no such responder, or it cannot be used.
    """

    def __init__(self, settings: Asking) -> None:
        assert settings.responder is not None
        self.settings, self.name = settings, settings.responder
        self.kind = responder_kind(self.name)
        self.condition, self.conditions = "", dict[str, str]()
        self.sampling = Sampling(
            settings.max_new_tokens or SERVER_TOKENS, settings.batch_size, settings.temperature, settings.top_p
        )
        self.responder: Responder | None = None
        if self.kind == "server":
            from dress.llm.client import build_client

            client = build_client(settings.server.endpoint(self.name), Path(settings.out))
            self.responder = ServerResponder(client, settings.server.sees_image, settings.server.system)
        elif self.kind == "checkpoint":
            self._load()
        elif self.kind == "model":
            self._open()

    @property
    def repeats(self) -> bool:
        """Whether another run can give other answers."""
        return self.kind != "file" and self.settings.temperature > 0

    def ask(self, questions: Sequence[Question], run: int, progress: Advance = ignore) -> Answers:
        """Answers of one run."""
        if self.responder is None:
            rows = read_rows("responder", self.name)
            answers, unmatched = join(rows, questions)
            if questions and len(unmatched) == len(rows):
                images = (one.record.image for one in questions)
                wanted = [
                    called(one.number, None if image is None else image.id, one.user)
                    for one, image in zip(questions, images, strict=True)
                ]
                raise nothing_matched("responder", self.name, wanted, rows)
            progress(len(questions))
            return Answers(Path(self.name).name, answers, unmatched)
        texts: list[str | NoAnswer] = []
        for first in range(0, len(questions), CHUNK):
            seeds = [seed_for(run, number) for number in range(first, min(first + CHUNK, len(questions)))]
            texts += self._answer(questions[first : first + CHUNK], seeds, progress)
        return Answers(self.responder.name, [_in_our_words(text) for text in texts])

    def _answer(self, some: Sequence[Question], seeds: Sequence[int], progress: Advance) -> list[str | NoAnswer]:
        assert self.responder is not None
        pixels: list[Any] = []
        places: dict[Path, int | None] = {}
        for path in dict.fromkeys(one.image for one in some if one.image is not None):
            try:
                pixels.append(self.responder.preprocess(path.read_bytes(), str(path)))
                places[path] = len(pixels) - 1
            except RecordError:
                places[path] = None
        shown = [one.image is None or places[one.image] is not None for one in some]
        answers = iter(
            self.responder.answer(
                [
                    OpenTurn(
                        one.record, one.dialogue, None if one.image is None else places[one.image], self.condition, seed
                    )
                    for one, seed, can in zip(some, seeds, shown, strict=True)
                    if can
                ],
                pixels, self.sampling, progress,
            )
        )  # fmt: skip
        return [next(answers) if can else NoAnswer(UNSEEN) for can in shown]

    def _load(self) -> None:
        from dress.model.checkpoint import available_device, load_model
        from dress.rollout.checkpoint import CkptResponder

        trained = run_settings(self.name, self.settings)
        assert trained is not None
        name = stage_of(self.settings, trained)
        folder = Path(self.name) / "stages" / name
        model, facts = load_model(folder, available_device(), self.settings)
        condition = self.settings.condition or own_condition(trained.curriculum, name)
        required(facts, ["conditions"], Path(self.name) / "stages" / name / "model.json", DAMAGED)
        if condition not in facts["conditions"]:
            raise ValueError(f"condition={condition}: expected one of {', '.join(facts['conditions'])}")
        self.conditions = facts["conditions"]
        self.condition = self.conditions[condition]
        most = self.settings.max_new_tokens or trained.generation.max_new_tokens
        self.sampling = Sampling(most, self.settings.batch_size, self.settings.temperature, self.settings.top_p)
        self.responder = CkptResponder(
            model, f"{trained.name}/{name} ({condition})", max_aspect=trained.data.max_aspect
        )

    def _open(self) -> None:
        """A model's folder, under the condition that its template carries unless another one is named."""
        from dress.model.checkpoint import available_device
        from dress.rollout.model_folder import open_model

        model = open_model(Path(self.name), available_device())
        condition = self.settings.condition or model.condition
        if condition not in model.conditions:
            raise ValueError(f"condition={condition}: expected one of {', '.join(model.conditions)}")
        self.conditions, self.condition = model.conditions, model.conditions[condition]
        most = self.settings.max_new_tokens or model.max_new_tokens
        self.sampling = Sampling(most, self.settings.batch_size, self.settings.temperature, self.settings.top_p)
        self.responder = model.responder


def _in_our_words(answer: str | NoAnswer) -> str | NoAnswer:
    """The answer, or why there is none in the words of outcomes."""
    if isinstance(answer, str):
        return answer if answer.strip() else NoAnswer(EMPTY)
    if answer.reason in (EMPTY, UNSEEN):
        return answer
    return NoAnswer(EMPTY if answer.reason == "empty" else f"responder: {answer.reason}", answer.call)


def stage_of(settings: Asking, trained: Config) -> str:
    """The stage whose model answers: the one that is named, or the last that trained one."""
    names = [name for name in trained.curriculum.order if isinstance(trained.curriculum.stages[name], TrainStage)]
    if settings.stage is None:
        return names[-1]
    if settings.stage not in names:
        raise ValueError(f"stage={settings.stage}: expected one of {', '.join(names)}")
    return settings.stage
