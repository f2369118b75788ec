"""The model class that lmms-eval builds for `--model dress`; imported in lmms-eval's own environment only."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL.Image import Image
from tqdm import tqdm

from dress.base.files import required
from dress.config import Consent
from dress.config.consent import DAMAGED, read_run
from dress.dialogue.image import Picture
from dress.dialogue.spans import Span
from dress.evaluation.likelihood import LastAnswer, answer_nll
from dress.model.checkpoint import available_device, load_model
from dress.model.generation import check_new_tokens, generate
from dress.model.sampling import SamplingParams
from dress.model.session import Prompt
from dress.record import Turn

PLACEHOLDER = "<image>"
"""Stands in the questions of some tasks where other models want the image; here the image stands before the text."""


class DressModel(lmms):
    """A stage of a run, asked one question about at most one image at a time.

    Args:
        run: its folder.
        stage: whose model answers; None for the last that the run evaluated.
        condition: name of the preset that follows the question, `none` or `praise`; None for `none`.
        max_new_tokens: longest answer where a task names none; None for the run's own.
        batch_size: questions decoded together.
        device: None for a GPU where there is one.
        trust_remote_code: run code that comes with the run's language model.

    Raises:
        ValueError: no such run, stage or condition.
    """

    def __init__(
        self, run: str, stage: str | None = None, condition: str = "none", max_new_tokens: int | None = None,
        batch_size: int | str = 16, device: str | None = None, trust_remote_code: bool = False, **others: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        unknown = {name for name, value in others.items() if value is not None} - {"max_batch_size"}
        if unknown:
            raise ValueError(
                f"--model_args {', '.join(sorted(unknown))}: no such argument. There are: run, stage, condition, "
                f"max_new_tokens, batch_size, device, trust_remote_code"
            )
        consent = Consent(trust_remote_code=bool(trust_remote_code))
        settings = read_run(Path(run), consent)
        folders = sorted((Path(run) / "stages").glob("*/model.json"))
        names = [file.parent.name for file in folders]
        if stage is None and names:
            stage = max(folders, key=lambda file: file.stat().st_mtime_ns).parent.name
        if stage not in names:
            raise ValueError(f"--model_args stage={stage}: expected one of {', '.join(names) or 'the stages of a run'}")
        place = torch.device(device) if device else available_device()
        self.model, facts = load_model(Path(run) / "stages" / stage, place, consent)
        required(facts, ["conditions"], Path(run) / "stages" / stage / "model.json", DAMAGED)
        if condition not in facts["conditions"]:
            raise ValueError(
                f"--model_args condition={condition}: expected one of {', '.join(sorted(facts['conditions']))}"
            )
        self.condition = facts["conditions"][condition]
        self.max_new_tokens = int(max_new_tokens or settings.generation.max_new_tokens)
        self.batch_size = int(batch_size)
        self.reader = self.model.reader(max_aspect=settings.data.max_aspect)

    # --- what lmms-eval asks ---

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, in the order of the requests; each ends at the first of the task's stop strings.

        Raises:
            ValueError: a question with several images, or with a video.
        """
        answers: dict[int, str] = {}
        for numbers, kwargs in _batches(requests, self.batch_size):
            prompts, pixels = list[Prompt](), list[Picture]()
            for number in numbers:
                context, _, doc_to_visual, doc_id, task, split = requests[number].args
                image = self._pixels(doc_to_visual(self.task_dict[task][split][doc_id]), task, doc_id)
                prompts.append(Prompt(self._spans(context), None if image is None else len(pixels)))
                pixels += [] if image is None else [image]
            texts = self._generate(prompts, pixels, kwargs)
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args[:2], text)
        return [answers[number] for number in range(len(requests))]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[Any]:
        """Rounds of questions of which the task makes each from the answers before it.

        Raises:
            ValueError: a round with several images, or with a video.
        """
        results = []
        for request in tqdm(requests, desc="dress"):
            context, kwargs, doc_to_visual, doc_to_text, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            visuals, answers, info = doc_to_visual(doc), list[str](), None
            while True:
                image = self._pixels(visuals, task, doc_id)
                prompt = Prompt(self._spans(context), None if image is None else 0)
                answers.append(self._generate([prompt], [] if image is None else [image], kwargs)[0])
                visuals, context, ended, answers, info = doc_to_text(
                    doc, previous_output=answers, round_idx=len(answers), previous_round_info=info
                )
                answers = list(answers)
                if ended:
                    break
            results.append(answers)
        return results

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """For each request the mean negative log-likelihood per token of the continuation, in nats (lmms-eval takes
        the smallest), and whether greedy decoding gives it.

        Raises:
            ValueError: a question with several images or a video, or a continuation that is too long.
        """
        results = []
        for request in tqdm(requests, desc="dress"):
            context, target, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            continuation = (target if isinstance(target, str) else target(doc)).strip()
            image = self._pixels(doc_to_visual(doc), task, doc_id)
            turn = Turn(user=_question(context), assistant=continuation)
            (nll,) = answer_nll(self.model, [LastAnswer([turn], self.condition, image)])
            if nll is None:
                raise ValueError(f"{task}, document {doc_id}: question and answer are longer than data.max_tokens")
            prompt = Prompt(self._spans(context), None if image is None else 0)
            most = len(self.model.encoder.tokenizer(continuation, add_special_tokens=False)["input_ids"]) + 1
            (text,) = self._generate([prompt], [] if image is None else [image], {"max_new_tokens": most})
            results.append((nll, text.strip() == continuation))
        return results

    # --- parts ---

    def _spans(self, context: str) -> tuple[Span, ...]:
        question = (Span("user", _question(context)),)
        return (*question, Span("condition", self.condition)) if self.condition else question

    def _pixels(self, visuals: Sequence[Any] | None, task: str, doc_id: int) -> Picture | None:
        """The only image of a question, as the run's own model sees it."""
        visuals = list(visuals or [])
        if not visuals:
            return None
        if len(visuals) > 1 or not isinstance(visuals[0], Image):
            kinds = ", ".join(type(visual).__name__ for visual in visuals)
            raise ValueError(f"{task}, document {doc_id}: expected at most one image, got {kinds}")
        data = io.BytesIO()
        visuals[0].save(data, "PNG")
        return self.reader(data.getvalue(), f"{task}/{doc_id}")

    def _generate(self, prompts: Sequence[Prompt], pixels: Sequence[Picture], kwargs: dict[str, Any]) -> list[str]:
        most = int(kwargs.get("max_new_tokens") or self.max_new_tokens)
        check_new_tokens(self.model, most)
        greedy = kwargs.get("do_sample") is False or not kwargs.get("temperature")
        temperature = 0.0 if greedy else float(kwargs["temperature"])
        sampling = SamplingParams(most, temperature, float(kwargs.get("top_p") or 1.0))
        texts = generate(self.model, prompts, pixels, sampling, batch_size=self.batch_size)
        until = kwargs.get("until") or []
        return [_before(str(text), [until] if isinstance(until, str) else until) for text in texts]


def _question(context: str) -> str:
    return context.replace(PLACEHOLDER, "").strip()


def _before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the strings; lmms-eval's default of a blank line is one of them."""
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    return text


def _batches(requests: Sequence[Instance], size: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Numbers of requests with equal generation settings, a batch at a time."""
    groups: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
    batches = [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]
    for batch in tqdm(batches, desc="dress"):
        yield batch, dict(requests[batch[0]].args[1])
