"""How a train stage runs: Lightning's Trainer, ranks, optimizer, schedule, and what is DRESS's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from dress.config.targets import Target, changing
from dress.config.types import Name, Positive, PositiveReal, Section, finite, without_nulls

ADAMW = {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.98], "fused": True}
"""lr and weight_decay are the stage's."""
COSINE = {"_target_": "dress.train.schedules.cosine_with_warmup", "min_lr_rate": 0.02}
"""The number of steps, and of those that warm up, are the stage's."""
Optimizer = Annotated[Target, changing(ADAMW)]
Scheduler = Annotated[Target, changing(COSINE)]
Callbacks = Annotated[dict[Name, Target], BeforeValidator(without_nulls)]

_STEPS = "steps or epochs end a stage; set curriculum.stages.<stage>.steps, or .epochs"
_EPOCHS = "a stage has its own; set curriculum.stages.<stage>.epochs, or .steps"
DECIDED = {
    "accumulate_grad_batches": "a step is split into passes by data.tokens_per_forest",
    "barebones": "set callbacks=none and logger=[]",
    "callbacks": "set callbacks=… (configs/callbacks)",
    "check_val_every_n_epoch": "set trainer.val_check_interval, in optimizer steps",
    "default_root_dir": "set run_dir=…",
    "enable_checkpointing": "set training.checkpoint_every, in optimizer steps",
    "enable_model_summary": "the parts of the model are always shown",
    "enable_progress_bar": "progress is always shown",
    "fast_dev_run": "set debug=fast_dev_run",
    "gradient_clip_algorithm": "gradients are clipped by norm; set trainer.gradient_clip_val",
    "logger": "set logger=… (configs/logger)",
    "max_epochs": _EPOCHS,
    "max_steps": _STEPS,
    "max_time": _STEPS,
    "min_epochs": _EPOCHS,
    "min_steps": _STEPS,
    "overfit_batches": "set debug=overfit",
    "reload_dataloaders_every_n_epochs": _STEPS,
    "strategy": "set parallel.strategy",
    "use_distributed_sampler": "ranks share the records of each step by themselves",
}
"""Arguments of `L.Trainer` that DRESS decides, and what to set instead."""


class Trainer(Section):
    """Arguments of `L.Trainer` under Lightning's own names; those that stand here have defaults or ranges of ours."""

    model_config = ConfigDict(extra="allow")

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"  # what computes; auto: a GPU where there is one
    devices: Positive | Literal["auto"] = 1  # processes per node; auto: one, or on a CPU one a core, 4 at most
    num_nodes: Positive = 1  # machines
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"  # bf16 where the hardware multiplies it
    gradient_clip_val: PositiveReal | None = 1.0  # norm; null = not clipped
    log_every_n_steps: Positive = 10  # optimizer steps
    val_check_interval: Positive = 100  # optimizer steps, on data.validation

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, precision: Any) -> Any:
        if isinstance(precision, str) and precision.startswith("16"):
            raise ValueError(
                "fp16 multiplies gradients by a scale, also where they are clipped; expected bf16-mixed or 32-true"
            )
        return precision

    @model_validator(mode="after")
    def _free(self) -> Trainer:
        for name in finite(self.more()):
            if name in DECIDED:
                raise ValueError(f"{name}: DRESS decides this argument of Lightning's Trainer: {DECIDED[name]}")
        return self

    def more(self) -> dict[str, Any]:
        """Arguments that only Lightning reads."""
        return dict(self.model_extra or {})


Gather = Literal["pass", "step"]


class Parallel(Section):
    """How the ranks of a run work together."""

    strategy: Literal["auto", "single", "ddp", "shard"] = "auto"  # auto: ddp on several devices; shard: FSDP2
    gather: Gather = "pass"  # of shard: a layer for each pass, or the model once a step (faster, holds all of it)


class Training(Section):
    """What Lightning has no name for."""

    threads: Positive | None = None  # CPU threads; null = as many as cores
    checkpointing: Literal["auto", "on", "off"] = "auto"  # recompute activations; auto: where they do not fit
    keep_memory: bool = True  # on CPU: keep freed memory for the next step
    checkpoint_every: Positive = 100  # optimizer steps
    overfit: bool = False  # train on the first step's records again and again
    idle: Literal["stop", "pass"] = "stop"  # where nothing that was collected can be learned from: stop, or go on


class Devices(Section):
    """The processes of a run and what they compute on."""

    accelerator: str = "auto"
    devices: Positive = 1  # processes per node
    num_nodes: Positive = 1  # machines
    strategy: Literal["auto", "single", "ddp", "shard"] = "auto"
    gather: Gather = "pass"

    @property
    def processes(self) -> int:
        """On all nodes."""
        return self.devices * self.num_nodes


class Learning(Section):
    """How every train stage makes its steps."""

    trainer: Trainer = Trainer()
    training: Training = Training()
    optimizer: Optimizer = Field(default=ADAMW)
    scheduler: Scheduler = Field(default=COSINE)
    callbacks: Callbacks = Field(default={})
