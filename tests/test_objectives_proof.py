"""Every objective's loss and gradients over token trees are those of a plain version on separate sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import compare, in_fp64, language, ours, plain, states_of
from torch import Tensor
from torch.nn import functional as F

from dress import config
from dress.dialogue.batch import Batch, Example, collate
from dress.dialogue.encode import EncodedDialogue
from dress.dialogue.spans import MISMATCHED, SECOND_ANSWERS, STUDENT, TEACHER, AnswerFacts
from dress.dialogue.tree import build_trees
from dress.model import head
from dress.objectives.stage import stage_objectives
from dress.train.answer_pass import AnswerPasses, Figures, Logged, Pass

tokens = st.lists(st.integers(5, 8), min_size=1, max_size=5)
other_tokens = st.lists(st.integers(9, 12), min_size=1, max_size=5)
weights = st.sampled_from([0.3, 1.0])


@st.composite
def preferences(draw: st.DrawFn) -> list[EncodedDialogue]:
    """One or two questions, each with rated answers, and for each a mismatched one."""
    root = draw(tokens)
    out = []
    for group in range(draw(st.integers(1, 2))):
        question = root + draw(tokens)
        for _ in range(draw(st.integers(1, 4))):
            out.append(row("pairs", draw, question, draw(tokens), AnswerFacts(str(group), "", draw(st.integers(1, 4)))))
            out.append(row("pairs", draw, question, draw(tokens), AnswerFacts(str(group), MISMATCHED)))
    return out


@st.composite
def contexts(draw: st.DrawFn) -> list[EncodedDialogue]:
    """Answers without and with a context; two may share a beginning."""
    root, out = draw(tokens), []
    for group in range(draw(st.integers(1, 3))):
        answer = draw(tokens)
        student = row("twice", draw, root, answer, AnswerFacts(str(group), STUDENT))
        context = draw(other_tokens)
        ids, own = [*root, *context, *answer], [*[0.0] * len(root + context), *student.weights[len(root) :]]
        teacher = AnswerFacts(str(group), TEACHER)
        out += [student, EncodedDialogue("twice", np.array(ids), np.array(own), answer=teacher)]
    return out


@st.composite
def corrections(draw: st.DrawFn) -> list[EncodedDialogue]:
    """Four leaves."""
    root, good, bad, advice = (draw(tokens) for _ in range(4))
    answers = {"good": good, "bad": bad}
    out = []
    for side in SECOND_ANSWERS:
        first, second = side.split(", ")
        out.append(row("leaves", draw, root + answers[first] + advice, answers[second], AnswerFacts("0", side)))
    return out


@st.composite
def learned(draw: st.DrawFn) -> list[EncodedDialogue]:
    """What is learned by itself, from the same beginnings."""
    return [row("sft", draw, draw(tokens), draw(tokens), None) for _ in range(draw(st.integers(1, 2)))]


def row(
    phase: str, draw: st.DrawFn, before: list[int], answer: list[int], facts: AnswerFacts | None
) -> EncodedDialogue:
    own = [0.0] * len(before) + [draw(weights) for _ in answer]
    return EncodedDialogue(phase, np.array(before + answer), np.array(own), answer=facts)


# --- the plain version ----------------------------------------------------------------------------


@dataclass
class Plain:
    """Sequences one at a time, through a plain model, and losses as they are written down."""

    model: torch.nn.Module
    reference: dict[str, float]
    total: float = 0.0

    def logits(self, one: EncodedDialogue) -> Tensor:
        logits: Tensor = self.model(input_ids=torch.from_numpy(one.ids)[None]).logits[0, :-1]
        return logits

    def log_prob(self, one: EncodedDialogue) -> Tensor:
        each = -F.cross_entropy(self.logits(one), torch.from_numpy(one.ids[1:]), reduction="none")
        return (each * torch.from_numpy(one.weights[1:])).sum()

    def ratio(self, one: EncodedDialogue) -> Tensor:
        return self.log_prob(one) - self.reference[one.key]


def plain_dpo(
    work: Plain, records: list[list[EncodedDialogue]], beta: float, smoothing: float, extremes: bool
) -> Tensor:
    losses = []
    for record in records:
        rated = [one for one in record if one.answer is not None and one.answer.rating is not None]
        for group in {one.answer.group for one in rated}:
            own = [one for one in rated if one.answer.group == group]
            if extremes:
                low, high = min(one.answer.rating for one in own), max(one.answer.rating for one in own)
                own = [next(o for o in own if o.answer.rating == low), next(o for o in own if o.answer.rating == high)]
            for better in own:
                for worse in own:
                    if better.answer.rating > worse.answer.rating:
                        margin = beta * (work.ratio(better) - work.ratio(worse))
                        losses.append(
                            -(1 - smoothing) * torch.log(torch.sigmoid(margin))
                            - smoothing * torch.log(torch.sigmoid(-margin))
                        )
    return torch.stack(losses).mean() if losses else torch.zeros(())


def plain_kto(work: Plain, records: list[list[EncodedDialogue]], beta: float) -> Tensor:
    every = [one for record in records for one in record if one.answer is not None]
    others = [work.ratio(one).detach() for one in every if one.answer.side == MISMATCHED]
    drift = torch.stack(others).mean().clamp(min=0)
    losses = []
    for one in every:
        if one.answer.side != MISMATCHED:
            ratio = work.ratio(one)
            losses.append(
                1 - torch.sigmoid(beta * (ratio - drift))
                if one.answer.rating >= 3
                else 2 * (1 - torch.sigmoid(beta * (drift - ratio)))
            )
    return torch.stack(losses).mean()


def plain_correction(work: Plain, records: list[list[EncodedDialogue]]) -> Tensor:
    losses = []
    for record in records:
        ratio = {one.answer.side: work.ratio(one) for one in record if one.answer is not None}
        good = ratio["good, good"] - ratio["good, bad"]
        bad = ratio["bad, good"] - ratio["bad, bad"]
        losses.append((1 - 0.4 * 0.2 * good - 0.4 * 0.2 * bad) ** 2)
    return torch.stack(losses).mean()


def plain_distill(work: Plain, records: list[list[EncodedDialogue]], kind: str, top_k: int | None) -> Tensor:
    losses, total = [], 0.0
    for record in records:
        sides = {(one.answer.group, one.answer.side): one for one in record if one.answer is not None}
        for (group, side), student in sides.items():
            if side == STUDENT:
                teacher = sides[group, TEACHER]
                ours = work.logits(student)[student.weights[1:] > 0].softmax(-1)
                with torch.no_grad():
                    theirs = work.logits(teacher)[teacher.weights[1:] > 0].softmax(-1)
                if top_k is not None:
                    best = theirs.topk(top_k, -1).indices
                    ours, theirs = (
                        torch.cat([p.gather(-1, best), 1 - p.gather(-1, best).sum(-1, keepdim=True)], -1)
                        for p in (ours, theirs)
                    )
                middle = (ours + theirs) / 2
                each = {
                    "forward": kl(theirs, ours), "reverse": kl(ours, theirs),
                    "js": (kl(ours, middle) + kl(theirs, middle)) / 2,
                }[kind]  # fmt: skip
                own = torch.from_numpy(student.weights[student.weights > 0])
                losses.append((each * own).sum())
                total += float(own.sum())
    work.total = total
    return torch.stack(losses).sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


@dataclass(frozen=True)
class Case:
    """An objective, what it is given, and its plain version."""

    phase: str
    objective: str
    settings: config.Objectives
    records: Callable[[], st.SearchStrategy]
    loss: Callable[[Plain, list[list[EncodedDialogue]]], Tensor]


def of(**settings: object) -> config.Objectives:
    return config.Objectives.model_validate(settings)


CASES = {
    "dpo": Case("pairs", "dpo", of(dpo={"beta": 0.3}), preferences, lambda w, r: plain_dpo(w, r, 0.3, 0.0, False)),
    "dpo, extremes, smoothed": Case(
        "pairs", "dpo", of(dpo={"label_smoothing": 0.2, "pairs": "extremes"}), preferences,
        lambda w, r: plain_dpo(w, r, 0.1, 0.2, True),
    ),
    "kto": Case(
        "pairs", "kto", of(kto={"beta": 0.2, "unwanted_weight": 2.0}), preferences, lambda w, r: plain_kto(w, r, 0.2)
    ),
    "self_correction": Case(
        "leaves", "self_correction", of(self_correction={"beta": 0.2, "weight": 0.4}), corrections, plain_correction
    ),
    **{
        f"distill, {kind}, {top_k}": Case(
            "twice", "distill", of(distill={"divergence": kind, "top_k": top_k}), contexts,
            lambda w, r, kind=kind, top_k=top_k: plain_distill(w, r, kind, top_k),
        )
        for kind in ("forward", "reverse", "js")
        for top_k in (None, 4)
    },
}  # fmt: skip
BY_TOKENS = ("distill",)


def of_trees(model, step: Batch, passes: AnswerPasses, logged: Logged) -> Tensor:
    """The loss of a step, forest by forest."""
    amounts = passes.of_step(torch.tensor(passes.amounts(step.forests), dtype=torch.float64))
    drift = torch.zeros(2, len(passes.objectives.scoring), dtype=torch.float64)
    if passes.objectives.mismatching:
        drift = torch.stack([passes.drifts_alone(one, states_of(model, one))[0] for one in step.forests]).sum(0)
    losses = []
    for forest in step.forests:
        states = states_of(model, forest)
        loss, nll = passes.loss(forest, Pass(states, passes.scored(forest, states)), amounts, drift, logged)
        assert nll.isfinite().all()
        losses.append(loss)
    return torch.stack(losses).sum()


@pytest.mark.parametrize(
    ("kind", "name", "mixed"),
    [
        *(("llama", name, False) for name in CASES),
        *(("llama", name, True) for name in ("dpo", "kto", "distill, js, 4")),
        *(("gemma2", name, True) for name in ("self_correction", "distill, forward, None")),  # its logits are capped
    ],
)  # fmt: skip
def test_trees_learn_what_sequences_learn(kind, name, mixed, monkeypatch):
    monkeypatch.setattr(head, "CHUNK", 300)  # several chunks
    case = CASES[name]
    model, other = ours(kind, torch.float64), plain(language(kind, torch.float64))
    in_fp64(other)
    share = 0.5 if mixed else 1.0
    stage = config.TrainStage(
        weights=None, data={"sft": 1.0}, phases={case.phase: share, **({"sft": 1.0} if mixed else {})},
        objective={case.phase: case.objective}, trainable=["language"], steps=1, records_per_step=1, lr=1.0,
    )  # fmt: skip
    objectives = stage_objectives(stage, case.settings)
    compared = []

    @given(st.lists(case.records(), min_size=1, max_size=2), learned(), st.sampled_from([14, 1000]), st.integers(0, 99))
    @settings(max_examples=4, deadline=None, derandomize=True, database=None)
    def check(records, alone, budget, seed):
        rng = np.random.default_rng(seed)
        reference = {one.key: -20 * rng.random() for record in records for one in record}
        if case.objective in BY_TOKENS and mixed:  # these are weighed by tokens, with those of lm
            records = [
                [EncodedDialogue(o.phase, o.ids, share * o.weights, answer=o.answer) for o in record]
                for record in records
            ]
        work = Plain(other, reference)
        expected = case.loss(work, records)
        if not expected.requires_grad:
            return
        if case.objective in BY_TOKENS:
            total = work.total + (sum(one.weights.sum() for one in alone) if mixed else 0.0)
            expected = expected / total
        else:
            total, expected = sum(one.weights.sum() for one in alone), share * expected
        if mixed:
            expected = expected - torch.stack([work.log_prob(one) for one in alone]).sum() / total
        every = [*records, *([alone] if mixed else [])]
        step = collate([Example(build_trees(one, budget), None) for one in every], budget)
        passes = AnswerPasses(objectives, {f" {key}": value for key, value in reference.items()})
        phases = len(objectives.names)
        figures = Figures(objectives)
        logged = Logged(
            torch.zeros(3, phases, dtype=torch.float64), torch.zeros(phases, dtype=torch.float64), figures.values
        )
        model.zero_grad()
        other.zero_grad()
        loss = of_trees(model, step, passes, logged)
        loss.backward()
        expected.backward()
        compare(model, other, torch.float64, loss.item(), expected.item())
        assert abs(objectives.step_loss(logged.sums) - loss.item()) < 1e-9
        compared.append(budget)

    check()
    assert len(compared) > 1
