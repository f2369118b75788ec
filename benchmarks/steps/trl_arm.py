"""TRL's SFTTrainer on the same tuples."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from steps import models
from steps.arm import BETAS, CLIP, DECAY, LR, STEPS, ArmSpec, Meter
from steps.gate import of_rows
from steps.tuples import Turn, make


def train(spec: ArmSpec, meter: Meter, tuned: bool) -> None:
    """Train until the meter ends it.

    Args:
        spec: the model; `rows_at_once` splits a tuple into micro-batches.
        meter: of the steps.
        tuned: merged rows and no checkpointing; else TRL's defaults but `max_length`.
    """
    rows: list[dict[str, Any]] = []
    for number in range(spec.tuples):
        one = make(spec.shape, number, spec.model.image)
        rows += [_row(row, one.picture, tuned) for row in one.rows(merged=tuned)]
    model, processor = models.llava(spec.model, spec.shape), models.processor(spec.model, spec.shape)
    fit(model, processor, rows, spec, meter, tuned)


def fit(
    model: Any, processor: Any, rows: list[dict[str, Any]], spec: ArmSpec, meter: Meter, tuned: bool
) -> None:  # fmt: skip
    """Train on these rows, in order, until the meter ends it."""
    per_step = len(rows) // spec.tuples * spec.per_step
    at_once = spec.rows_at_once or per_step
    image = model.config.image_token_id
    rename = models.to_ours if isinstance(spec.model, models.ModelSpec) else str
    cpu = spec.device == "cpu"
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    with TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, max_steps=1 if meter.gating else STEPS, max_length=None, use_cpu=cpu, bf16=spec.bf16,
            per_device_train_batch_size=at_once, gradient_accumulation_steps=-(-per_step // at_once),
            train_sampling_strategy="sequential", save_strategy="no", report_to="none", disable_tqdm=True,
            learning_rate=LR, lr_scheduler_type="constant", adam_beta1=BETAS[0], adam_beta2=BETAS[1],
            weight_decay=DECAY, max_grad_norm=0.0 if meter.gating else CLIP,
            **({"gradient_checkpointing": False, "assistant_only_loss": True} if tuned else {}),
        )  # fmt: skip

        class Watch(TrainerCallback):
            def on_train_begin(self, *args: Any, **more: Any) -> None:
                meter.start()

            def on_pre_optimizer_step(self, *args: Any, **more: Any) -> None:
                meter.gradients(sum(trainer.losses), ((rename(n), p.grad) for n, p in model.named_parameters()))

            def on_step_end(self, *args: Any, **more: Any) -> None:
                loss = sum(trainer.losses)
                trainer.losses.clear()
                meter.step(loss)

        class Trainer(SFTTrainer):
            losses: ClassVar[list[float]] = []

            def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **more: Any) -> torch.Tensor:
                if meter.gating:
                    of_rows(meter.targets, inputs["input_ids"], inputs["attention_mask"], inputs["labels"], image)
                loss = super().training_step(model, inputs, *args, **more)
                self.losses.append(float(loss.detach()))
                return loss

        trainer = Trainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=processor,
            callbacks=[Watch()],
        )  # fmt: skip
        trainer.train()


def _row(turns: tuple[Turn, ...], picture: Any, tuned: bool) -> dict[str, Any]:
    messages = [{"role": turn.role, "content": " ".join(f"w{i}" for i in turn.ids)} for turn in turns]
    image = {"images": [picture]} if picture else {}
    if tuned:
        return {**image, "messages": messages}
    return {**image, "prompt": messages[:-1], "completion": messages[-1:]}
