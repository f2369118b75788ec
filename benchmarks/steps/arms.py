"""The arms: everybody's own training loop over the same tuples.

An arm is a function that trains until `Meter.step` ends it, and says after each optimiser step what its loss was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dress import config
from dress.dialogue.batch import Batch, Example, collate
from dress.dialogue.tree import build_tree
from dress.kernels.memory import keep_freed_memory
from dress.model.lvlm import LVLM
from steps import models
from steps.arm import BETAS, CLIP, DECAY, LR, PARTS, STEPS, ArmSpec, Meter
from steps.gate import of_forest, of_rows
from steps.machine import clock
from steps.tuples import Tuple, Turn

# --- our trainer ----------------------------------------------------------------------------------


def dress(spec: ArmSpec, meter: Meter, share: bool = True) -> None:
    """Our trainer; `share` false gives every dialogue its own sequence, ragged, in the same forest."""
    model = models.ours(spec.model, spec.shape, spec.device if spec.model.on_device else "cpu")
    if spec.bf16 and spec.model.lora:
        model.hold_rounded()  # as a run does whose stages train no more

    def batches() -> Iterator[Batch]:
        for tuples in spec.data():
            yield collate([_sample(model, one, share) for one in tuples], spec.forest)

    train_ours(model, batches, models.trained(spec.model), spec, meter)


def train_ours(
    model: LVLM, batches: Callable[[], Iterator[Batch]], trained: list[Any], spec: ArmSpec, meter: Meter
) -> None:
    """Our trainer until the meter ends it.

    Args:
        model: any of ours; names of its gradients are those of transformers' own model where it wraps one.
        batches: of each step.
        trained: parts.
        spec: precision and device.
        meter: of the steps.
    """
    import lightning as L
    from torch.utils.data import DataLoader, IterableDataset

    from dress.train.module import DressModule

    class Steps(IterableDataset[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            yield from batches()

    class Module(DressModule):
        losses: float = 0.0

        def training_step(self, step: Batch, batch_idx: int) -> Tensor:
            self.losses = 0.0
            if meter.gating:
                for forest in step.forests:
                    of_forest(meter.targets, forest)
            return super().training_step(step, batch_idx)

        def _loss(self, forest: Any, total: Tensor, touch: bool) -> tuple[Tensor, Tensor]:
            loss, nll = super()._loss(forest, total, touch)
            self.losses += float(loss.detach())
            return loss, nll

    class Watch(L.Callback):
        """Tells the meter of each step, and how long its parts took."""

        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            meter.start()
            self.parts, self.since = dict.fromkeys(PARTS, 0.0), clock(spec.device)

        def ends(self, part: str) -> None:
            now = clock(spec.device)
            self.parts[part] += now - self.since
            self.since = now

        def on_train_batch_start(self, *args: Any) -> None:
            self.ends("data")

        def on_before_backward(self, *args: Any) -> None:
            self.ends("forward pass")

        def on_after_backward(self, *args: Any) -> None:
            self.ends("backward pass")

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            named = ((name.removeprefix("network."), p.grad) for name, p in model.named_parameters())
            meter.gradients(module.losses, named)

        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            self.ends("clipping and optimiser")
            meter.step(module.losses, self.parts)
            self.parts, self.since = dict.fromkeys(PARTS, 0.0), clock(spec.device)

    stage = config.TrainStage(
        weights=None, data={"feedback": 1.0}, phases={"critique": 1.0, "refinement": 1.0}, steps=STEPS,
        records_per_step=spec.per_step, lr=LR, warmup=0, weight_decay=DECAY, trainable=trained,
    )  # fmt: skip
    learning = config.Learning(
        trainer=config.Trainer(gradient_clip_val=1e9 if meter.gating else CLIP),
        training=config.Training(checkpointing="on" if spec.checkpointing else "auto"),
    )
    trainer = L.Trainer(
        accelerator="gpu" if spec.device == "cuda" else "cpu", devices=1,
        precision="bf16-mixed" if spec.bf16 else "32-true", max_steps=STEPS, logger=False,
        callbacks=[Watch()], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    largest = spec.forest if spec.device == "cuda" else 4096  # tokens: a tuple's, on a CPU
    trainer.fit(Module(model, stage, learning, tokens=largest), DataLoader(Steps(), batch_size=None))


def unshared(spec: ArmSpec, meter: Meter) -> None:
    """Our trainer with sharing off."""
    dress(spec, meter, share=False)


def _sample(model: Any, one: Tuple, share: bool) -> Example:
    encoded = one.encoded()
    trees = [build_tree(encoded)] if share else [build_tree([dialogue]) for dialogue in encoded]
    return Example(trees, models.picture(model, one))


# --- plain transformers ---------------------------------------------------------------------------


@dataclass
class Padded:
    """Rows as transformers takes them: right-padded ids, labels of the supervised tokens, pixels per row."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    pixels: Tensor | None

    def part(self, rows: slice) -> dict[str, Tensor]:
        """Some of the rows, as the model takes them."""
        pixels = {} if self.pixels is None else {"pixel_values": self.pixels[rows]}
        return {"input_ids": self.ids[rows], "attention_mask": self.mask[rows], "labels": self.labels[rows], **pixels}


def padded(rows: list[tuple[Turn, ...]], one: Tuple, processor: Any) -> Padded:
    """A tuple's rows, padded to the longest."""
    words = processor.tokenizer
    image = [words.convert_tokens_to_ids("<image>")] * one.shape.image if one.picture else []
    ids = [image + [i for turn in row for i in turn.ids] for row in rows]
    weights = [[0.0] * len(image) + [turn.weight for turn in row for _ in turn.ids] for row in rows]
    size = (len(rows), max(map(len, ids)))
    out = Padded(
        torch.full(size, words.pad_token_id), torch.zeros(size, dtype=torch.long), torch.full(size, -100), None
    )
    for number, (row, weight) in enumerate(zip(ids, weights, strict=True)):
        chosen = torch.tensor(weight) > 0
        out.ids[number, : len(row)] = torch.tensor(row)
        out.mask[number, : len(row)] = 1
        out.labels[number, : len(row)][chosen] = torch.tensor(row)[chosen]
    if one.picture:
        pixels = [processor.image_processor([one.picture])["pixel_values"][0] for _ in rows]
        out.pixels = torch.stack([torch.as_tensor(image) for image in pixels])
    return out


def hf(spec: ArmSpec, meter: Meter) -> None:
    """A plain loop: one row per answer, padded; the model's own loss. No checkpointing."""
    model, processor = models.llava(spec.model, spec.shape).to(spec.device), models.processor(spec.model, spec.shape)

    def steps() -> Iterator[list[dict[str, Tensor]]]:
        for tuples in spec.data():
            batches = [padded(one.rows(merged=False), one, processor) for one in tuples]
            yield [
                batch.part(slice(first, first + (spec.rows_at_once or len(batch.ids))))
                for batch in batches
                for first in range(0, len(batch.ids), spec.rows_at_once or len(batch.ids))
            ]

    train_plain(model, steps(), spec, meter, models.to_ours)


def train_plain(
    model: Any, steps: Iterator[list[dict[str, Tensor]]], spec: ArmSpec, meter: Meter,
    rename: Callable[[str], str] = str,
) -> None:  # fmt: skip
    """A plain loop until the meter ends it: the model's own loss, no checkpointing.

    Args:
        model: of transformers, on its device.
        steps: micro-batches of each, as the model takes them, with labels.
        spec: precision and device.
        meter: of the steps.
        rename: a parameter's name as the gate has it.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.ndim >= 2]},
         {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}],
        lr=LR, betas=BETAS, weight_decay=DECAY, fused=True,
    )  # fmt: skip
    meter.start()
    for batches in steps:
        supervised = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            if meter.gating:
                rows = (batch["input_ids"], batch["attention_mask"], batch["labels"])
                of_rows(meter.targets, *rows, model.config.image_token_id)
            with torch.autocast(spec.device, torch.bfloat16, enabled=spec.bf16):
                inputs = {name: value.to(spec.device) for name, value in batch.items()}
                loss = model(**inputs, num_items_in_batch=supervised, use_cache=False).loss
            loss.backward()
            total += loss.item()
        meter.gradients(total, ((rename(name), p.grad) for name, p in model.named_parameters()))
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        meter.step(total)


# --- TRL ------------------------------------------------------------------------------------------


def trl_defaults(spec: ArmSpec, meter: Meter) -> None:
    """TRL as it comes: checkpointing on, one row per answer."""
    from steps.trl_arm import train

    train(spec, meter, tuned=False)


def trl_tuned(spec: ArmSpec, meter: Meter) -> None:
    """TRL as a careful user runs it: no checkpointing, a chain as one row with loss on every answer, the best
    size of micro-batches, and freed memory kept."""
    from steps.trl_arm import train

    keep_freed_memory()
    train(spec, meter, tuned=True)


ARMS: dict[str, Callable[[ArmSpec, Meter], None]] = {
    "dress": dress,
    "dress, sharing off": unshared,
    "TRL tuned": trl_tuned,
    "TRL defaults": trl_defaults,
    "plain HF padded": hf,
}
