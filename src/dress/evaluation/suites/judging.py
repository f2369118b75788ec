"""Judged suites: questions are asked, answers judged by rules or by a language model, outcomes written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from dress.base.progress import Advance, CurriculumProgress
from dress.config.raters import LLM, PlainRater, Replay
from dress.evaluation.suites.answering import Asker
from dress.evaluation.suites.asked import Asked
from dress.evaluation.suites.measures import Suite
from dress.evaluation.suites.outcome import SuiteOutcome
from dress.evaluation.suites.output import finish
from dress.evaluation.suites.prompts import JudgePrompt
from dress.evaluation.suites.settings import Judged
from dress.feedback.raters import check_rater
from dress.llm.request import Reply, Request
from dress.rollout.responder import NoAnswer

Facts = dict[str, Any]
Progress = Advance


@dataclass(frozen=True)
class Task:
    """What a language model is asked about an answer, and what follows from its reply: facts, or why none do."""

    prompt: JudgePrompt
    schema: type[BaseModel] | None  # None: the reply is plain text
    facts: Callable[[Asked, str, Any], Facts | str] = lambda asked, answer, reply: reply.model_dump()


@dataclass(frozen=True)
class Judging:
    """How a suite judges.

    `task` gives the question to a language model; `rules` the facts by rule, None where no rule can
    judge an answer (or at all: `rules` itself is None); `rules_name` stands as the prompt of rules;
    `lacks` says why a question's answer cannot be judged at all.
    """

    task: Callable[[Asked], Task]
    rules: Callable[[Asked, str], Facts | None] | None = None
    rules_name: str = "rules"
    lacks: Callable[[Asked], str | None] = lambda asked: None


@dataclass(frozen=True)
class Verdict:
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
        self, judging: Judging, pairs: Sequence[tuple[Asked, str]], run: int, progress: Progress
    ) -> list[Verdict]:
        """Verdicts in order.

        Raises:
            Stopped: budget reached, key refused, or server not there.
        """
        tasks = [judging.task(asked) for asked, _ in pairs]
        requests = [self._request(task, *pair, run) for task, pair in zip(tasks, pairs, strict=True)]
        replies = self.client.ask_all(requests, progress)
        return [self._verdict(*parts) for parts in zip(tasks, pairs, replies, strict=True)]

    def _request(self, task: Task, asked: Asked, answer: str, run: int) -> Request:
        shown = asked.image.read_bytes() if self.settings.sees_image and asked.image is not None else None
        version = task.prompt.prompt_version
        sampling: Facts = {"seed": run}
        if isinstance(self.settings, LLM):
            sampling |= {"temperature": self.settings.temperature, "max_tokens": self.settings.max_tokens}
        return Request(
            task.prompt.messages(asked.record, asked.dialogue, answer, shown is not None),
            # Part of the content, so that a replay finds every run whatever its sampling was.
            prompt_version=version if run == 0 else f"{version} run {run}",
            schema=task.schema, image=shown, **sampling,
        )  # fmt: skip

    def _verdict(self, task: Task, pair: tuple[Asked, str], reply: Reply) -> Verdict:
        prompt = task.prompt.prompt_version
        if reply.status == "failed":
            return Verdict({}, f"judge: {reply.reason}", self.client.model, prompt)
        facts = task.facts(*pair, reply.text if task.schema is None else reply.parsed)
        if isinstance(facts, str):
            return Verdict({}, f"judge: {facts}", self.client.model, prompt)
        return Verdict(facts, None, self.client.model, prompt)


def judged(
    suite: Suite, settings: Judged, judging: Judging, asked: Sequence[Asked], bad: Sequence[SuiteOutcome],
    console: Console,
) -> Facts:  # fmt: skip
    """Ask, judge, and finish as every suite does.

    Args:
        suite: its figures.
        settings: who answers, who judges, how often.
        judging: how.
        asked: the questions.
        bad: outcomes of what could not be asked.

    Raises:
        ValueError: this judge cannot judge this suite, or it had to stop (see `feedback.request.Stopped`).
    """
    check_judge(suite.name, settings, judging)
    out = Path(settings.out)
    asker = Asker(settings)
    judge = None if isinstance(settings.judge, PlainRater) else LLMJudge(settings.judge, out)
    outcomes = list(bad)
    with CurriculumProgress(console, {}) as progress:
        for run in range(settings.runs):
            if run == 0 or asker.repeats:
                progress.start("answer", len(asked))
                given = asker.ask(asked, run, progress.advance)
                progress.end()
                outcomes += given.left
            answers = [
                NoAnswer(lack) if (lack := judging.lacks(one)) else text
                for one, text in zip(asked, given.answers, strict=True)
            ]
            pairs = [(one, text) for one, text in zip(asked, answers, strict=True) if isinstance(text, str)]
            progress.start(f"judge, run {run + 1} of {settings.runs}" if settings.runs > 1 else "judge", len(pairs))
            if judge is None:
                verdicts = iter(_by_rules(judging, pairs, progress.advance))
            else:
                verdicts = iter(judge.judge(judging, pairs, run, progress.advance))
            progress.end()
            for one, text in zip(asked, answers, strict=True):
                verdict = text if isinstance(text, NoAnswer) else next(verdicts)
                outcomes.append(_outcome(one, text, verdict, given.responder, run))
    return finish(suite, outcomes, settings, console)


def check_judge(name: str, settings: Judged, judging: Judging) -> None:
    """Raises ValueError or FileNotFoundError where this judge cannot judge this suite, or not be had."""
    kinds = ["llm", "replay", *(["rules"] if judging.rules is not None else [])]
    if settings.judge.kind not in kinds:
        raise ValueError(f"judge={settings.judge.kind}: suite={name} expects one of {', '.join(kinds)}")
    if isinstance(settings.judge, LLM) and settings.judge.confirm:
        raise ValueError("judge.confirm: a suite shows no preview to agree to; leave it out")
    if not isinstance(settings.judge, PlainRater) and settings.judge.rubric != "feedback":
        raise ValueError(f"judge.rubric={settings.judge.rubric}: suite={name} asks what prompt=… says; leave it out")
    check_rater(settings.judge)


def _by_rules(judging: Judging, pairs: Sequence[tuple[Asked, str]], progress: Progress) -> list[Verdict]:
    assert judging.rules is not None
    verdicts = []
    for pair in pairs:
        facts = judging.rules(*pair)
        reason = "no rule can judge this" if facts is None else None
        verdicts.append(Verdict(facts or {}, reason, "rules", judging.rules_name))
        progress(1, "")
    return verdicts


def _outcome(
    asked: Asked, answer: str | NoAnswer, verdict: Verdict | NoAnswer, responder: str, run: int
) -> SuiteOutcome:
    if isinstance(verdict, NoAnswer):
        return asked.failed(verdict.reason, responder=responder, run=run)
    assert isinstance(answer, str)
    return SuiteOutcome(
        asked.key, asked.category, verdict.failed, {**asked.facts, **verdict.facts}, run=run, user=asked.user,
        answer=answer, responder=responder, judge=verdict.judge, prompt=verdict.prompt, where=asked.where,
    )  # fmt: skip
