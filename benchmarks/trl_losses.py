"""dpo and kto against TRL's own loss code, on the same log-probabilities: losses and gradients, in fp64.

    make bench-losses

TRL's trainers compute their losses inside of a step. What they would ask of model and trainer is handed in here.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from dress import config  # noqa: E402
from dress.dialogue.spans import AnswerFacts  # noqa: E402
from dress.objectives import comparing  # noqa: E402
from dress.objectives.comparisons import Scores, Scoring  # noqa: E402

TOLERANCE = 1e-12
ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)


def trainer(**more: Any) -> SimpleNamespace:
    """What TRL's loss code reads of its trainer."""
    return SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=ACCELERATOR, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1, **more,
    )  # fmt: skip


def outputs(log_prob: Tensor) -> SimpleNamespace:
    """Of a model whose answers have one token each, with these log-probabilities."""
    column = log_prob[:, None]
    zero = torch.zeros_like(column)
    return SimpleNamespace(log_probs=column, entropy=zero, mean_logits=zero, is_top1=zero.bool())


def inputs(answers: int) -> dict[str, Tensor]:
    """Two tokens, of which the second is the answer."""
    ones = torch.ones(answers, 2, dtype=torch.long)
    return {"input_ids": ones, "attention_mask": ones, "completion_mask": torch.tensor([[0, 1]] * answers)}


def trl_dpo(log_prob: Tensor, reference: Tensor, beta: float) -> Tensor:
    """TRL's loss of pairs: the first half is better than the second."""
    from trl import DPOTrainer

    own = trainer(
        beta=beta, f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0], use_weighting=False,
        label_smoothing=0.0,
    )  # fmt: skip
    better, worse = reference.chunk(2)
    batch = inputs(len(log_prob)) | {"ref_chosen_logps": better, "ref_rejected_logps": worse}
    loss: Tensor = DPOTrainer._compute_loss(own, lambda **given: outputs(log_prob), batch, False)
    return loss


def trl_kto(
    log_prob: Tensor, reference: Tensor, others: tuple[Tensor, Tensor], wanted: Tensor, weights: config.KTO
) -> Tensor:
    """TRL's loss of answers; `others`: log-probabilities of mismatched ones, now and at the start."""
    from trl import KTOTrainer

    own = trainer(
        beta=weights.beta, loss_type="kto", calculate_KL=True, desirable_weight=weights.wanted_weight,
        undesirable_weight=weights.unwanted_weight, _compute_kl_logps=lambda model, batch: others[0],
    )  # fmt: skip
    batch = inputs(len(log_prob)) | {"label": wanted, "ref_logps": reference, "ref_KL_logps": others[1]}
    loss: Tensor = KTOTrainer._compute_loss(own, lambda **given: outputs(log_prob), batch, False)
    return loss


def ours(
    settings: config.Section, log_prob: Tensor, reference: Tensor, facts: list[AnswerFacts], drift: Tensor
) -> Tensor:
    """The mean cost of our objective."""
    objective = comparing(settings)
    assert isinstance(objective, Scoring)
    costs, _ = objective.costs(Scores(log_prob, reference, facts, drift), objective.compared(facts))
    return costs.mean()


def compare(name: str, one: Tensor, two: Tensor, log_prob: Tensor) -> None:
    """Refuse losses or gradients that differ."""
    gradients = [torch.autograd.grad(loss, log_prob, retain_graph=True)[0] for loss in (one, two)]
    difference = max(float((one - two).detach().abs()), float((gradients[0] - gradients[1]).abs().max()))
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: ours and TRL's differ by {difference}")
    print(f"{name}: loss {float(one.detach()):.6f}, largest difference of loss and gradients {difference:.1e}")


def main() -> None:
    """Random log-probabilities, several settings."""
    torch.manual_seed(0)
    zero = torch.zeros((), dtype=torch.float64)
    for beta in (0.1, 0.5):
        log_prob = (-20 * torch.rand(12, dtype=torch.float64)).requires_grad_()
        reference = -20 * torch.rand(12, dtype=torch.float64)
        facts = [AnswerFacts(str(n % 6), rating=4 if n < 6 else 2) for n in range(12)]
        settings = config.DPO(beta=beta)
        mine = ours(settings, log_prob, reference, facts, zero)
        compare(f"dpo, beta {beta}", mine, trl_dpo(log_prob, reference, beta), log_prob)
        for shift in (-9.0, 9.0):  # a drift below zero counts as none
            other, other_reference = (-20 * torch.rand(12, dtype=torch.float64) + s for s in (shift, 0.0))
            weights = config.KTO(beta=beta, wanted_weight=0.7, unwanted_weight=1.5)
            wanted = torch.tensor([n % 3 > 0 for n in range(12)])
            rated = [AnswerFacts(str(n), rating=3 if n % 3 else 1) for n in range(12)]
            drift = (other - other_reference).mean().clamp(min=0)
            mine = ours(weights, log_prob, reference, rated, drift)
            theirs = trl_kto(log_prob, reference, (other, other_reference), wanted, weights)
            compare(f"kto, beta {beta}, drift {float(drift):.2f}", mine, theirs, log_prob)


if __name__ == "__main__":
    main()
