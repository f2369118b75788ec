"""Judged suites: questions are asked, answers judged by rules or by a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from dress.base.progress import Advance, CurriculumProgress
from dress.coco.mentions import COCO80
from dress.config.inherited import AUTO, inherited
from dress.config.raters import LLM, Human, PlainRater, Replay
from dress.evaluation.answers import Asker
from dress.evaluation.outcomes import Outcome
from dress.evaluation.questions import Question
from dress.evaluation.settings import Judged
from dress.feedback.raters import check_rater
from dress.llm.prompt_file import CONFIGS, NOTHING, PromptFile, lines, objects
from dress.llm.request import Message, Reply, Request
from dress.record import Dialogue, Record
from dress.rollout.kinds import run_settings
from dress.rollout.responder import NoAnswer

Facts = dict[str, Any]


class JudgePrompt(PromptFile):
    """A judge's prompt file."""

    folder = CONFIGS / "prompts"
    setting = "prompt"
    fields = frozenset(("image", "captions", "objects", "reference", "question", "answer", "vocabulary"))

    def messages(self, record: Record, dialogue: Dialogue, answer: str, sees_image: bool) -> tuple[Message, ...]:
        """What the judge is asked about an answer to the dialogue's last question."""
        image = "The image is attached." if sees_image else "You cannot see the image; what is known of it follows."
        text = self.user.format(
            image=image if record.image is not None else "There is no image.",
            captions=lines(record.annotation.captions),
            objects=objects(record),
            reference=dialogue.reference or NOTHING,
            question=dialogue.turns[-1].user,
            answer=answer,
            vocabulary=", ".join(COCO80),
        )
        return {"role": "system", "content": self.system.strip()}, {"role": "user", "content": text.strip()}


@dataclass(frozen=True)
class Task:
    """What a language model is asked about an answer, and what follows from its reply: facts, or why none do."""

    prompt: JudgePrompt
    schema: type[BaseModel] | None  # None: the reply is plain text
    facts: Callable[[Question, str, Any], Facts | str] = lambda question, answer, reply: reply.model_dump()


@dataclass(frozen=True)
class Judging:
    """How a suite judges.

    `task` gives the question to a language model; `rules` the facts by rule, None where no rule can
    judge an answer (or at all: `rules` itself is None); `rules_name` stands as the prompt of rules;
    `lacks` says why a question's answer cannot be judged at all.
    """

    task: Callable[[Question], Task]
    rules: Callable[[Question, str], Facts | None] | None = None
    rules_name: str = "rules"
    lacks: Callable[[Question], str | None] = lambda question: None


@dataclass(frozen=True)
class Judgement:
    """What was made of one answer: facts, or the reason why there are none."""

    facts: Facts
    failed: str | None
    judge: str
    prompt: str


class LLMJudge:
    """Asks a language model, or a ledger that recorded one.

    Args:
        settings: of the model, or of the replay.
        out: holds the ledger where the settings name none.
    """

    def __init__(self, settings: LLM | Replay, out: Path) -> None:
        from dress.llm.client import build_client

        self.settings, self.client = settings, build_client(settings, out)

    def judge(
        self, judging: Judging, pairs: Sequence[tuple[Question, str]], run: int, progress: Advance
    ) -> list[Judgement]:
        """Judgements in order.

        Raises:
            Stopped: budget reached, key refused, or server not there.
        """
        tasks = [judging.task(question) for question, _ in pairs]
        requests = [self._request(task, *pair, run) for task, pair in zip(tasks, pairs, strict=True)]
        replies = self.client.ask_all(requests, progress)
        return [self._judgement(*parts) for parts in zip(tasks, pairs, replies, strict=True)]

    def _request(self, task: Task, question: Question, answer: str, run: int) -> Request:
        shown = question.image.read_bytes() if self.settings.sees_image and question.image is not None else None
        version = task.prompt.prompt_version
        sampling: Facts = {"seed": run}
        if isinstance(self.settings, LLM):
            sampling |= {"temperature": self.settings.temperature, "max_tokens": self.settings.max_tokens}
        return Request(
            task.prompt.messages(question.record, question.dialogue, answer, shown is not None),
            # Part of the content, so that a replay finds every run whatever its sampling was.
            prompt_version=version if run == 0 else f"{version} run {run}",
            schema=task.schema, image=shown, **sampling,
        )  # fmt: skip

    def _judgement(self, task: Task, pair: tuple[Question, str], reply: Reply) -> Judgement:
        prompt = task.prompt.prompt_version
        if reply.status == "failed":
            return Judgement({}, f"judge: {reply.reason}", self.client.model, prompt)
        facts = task.facts(*pair, reply.text if task.schema is None else reply.parsed)
        if isinstance(facts, str):
            return Judgement({}, f"judge: {facts}", self.client.model, prompt)
        return Judgement(facts, None, self.client.model, prompt)


def judged(
    settings: Judged, judging: Judging, questions: Sequence[Question], bad: Sequence[Outcome], console: Console
) -> list[Outcome]:
    """Ask and judge: an outcome of every question and run.

    Args:
        settings: who answers, who judges, how often.
        judging: how.
        questions: what is asked.
        bad: outcomes of what could not be asked; they come first.
        console: shows progress.

    Raises:
        ValueError: this judge cannot judge this suite, or it had to stop (see `llm.request.Stopped`).
    """
    settings = with_judge(settings, judging)
    check_judge(settings, judging)
    asker = Asker(settings)
    judge = LLMJudge(settings.judge, Path(settings.out)) if isinstance(settings.judge, LLM | Replay) else None
    outcomes = list(bad)
    with CurriculumProgress(console, {}) as progress:
        for run in range(settings.runs):
            if run == 0 or asker.repeats:
                progress.start("answer", len(questions))
                answers = asker.ask(questions, run, progress.advance)
                progress.end()
                outcomes += answers.unmatched
            texts = [
                NoAnswer(lack) if (lack := judging.lacks(one)) else text
                for one, text in zip(questions, answers.answers, strict=True)
            ]
            pairs = [(one, text) for one, text in zip(questions, texts, strict=True) if isinstance(text, str)]
            progress.start(f"judge, run {run + 1} of {settings.runs}" if settings.runs > 1 else "judge", len(pairs))
            if judge is None:
                judgements = iter(_by_rules(judging, pairs, progress.advance))
            else:
                judgements = iter(judge.judge(judging, pairs, run, progress.advance))
            progress.end()
            for one, text in zip(questions, texts, strict=True):
                more: Facts = {"run": run, "responder": answers.responder}
                if isinstance(text, NoAnswer):
                    outcomes.append(one.outcome(text.reason, **more))
                    continue
                judgement = next(judgements)
                more |= {"answer": text, "judge": judgement.judge, "prompt": judgement.prompt}
                outcomes.append(one.outcome(judgement.failed, judgement.facts, **more))
    return outcomes


def with_judge(settings: Judged, judging: Judging) -> Judged:
    """The settings with the judge that `auto` means: the run's own where it is one that suites have, else rules."""
    if settings.judge.kind != AUTO:
        return settings
    judge = inherited("judge", settings.judge, run_settings(settings.responder, settings))
    if isinstance(judge, PlainRater | Human):
        judge = PlainRater(kind="rules")
    else:  # what a suite asks stands in its own prompt
        judge = judge.model_copy(
            update={"rubric": "feedback", **({"confirm": False} if isinstance(judge, LLM) else {})}
        )
    return settings.model_copy(update={"judge": judge})


def check_judge(settings: Judged, judging: Judging) -> None:
    """Raises ValueError or FileNotFoundError where this judge cannot judge this suite, or is not there."""
    kinds = ["llm", "replay", *(["rules"] if judging.rules is not None else [])]
    if settings.judge.kind not in kinds:
        raise ValueError(f"judge={settings.judge.kind}: suite={settings.suite} expects one of {', '.join(kinds)}")
    if isinstance(settings.judge, LLM) and settings.judge.confirm:
        raise ValueError("judge.confirm: a suite shows no preview to agree to; leave it out")
    if isinstance(settings.judge, LLM | Replay) and settings.judge.rubric != "feedback":
        raise ValueError(
            f"judge.rubric={settings.judge.rubric}: suite={settings.suite} asks what prompt=… says; leave it out"
        )
    check_rater(settings.judge)


def _by_rules(judging: Judging, pairs: Sequence[tuple[Question, str]], progress: Advance) -> list[Judgement]:
    assert judging.rules is not None
    judgements = []
    for pair in pairs:
        facts = judging.rules(*pair)
        reason = "no rule can judge this" if facts is None else None
        judgements.append(Judgement(facts or {}, reason, "rules", judging.rules_name))
        progress(1, "")
    return judgements
