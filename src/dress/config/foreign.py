"""Settings that somebody knows from Lightning, TRL, LLaMA-Factory or Hydra, and what does the same here."""

from __future__ import annotations

import re

STAGE = "curriculum.stages.NAME"
_PREFIX = r"(?:(?:trainer|training|train|model|data|optimizer|args|config|hparams|generation)\.)?"
# fmt: off
FOREIGN = {
    r"max_steps|num_steps|total_steps|max_iters|iterations": f"a stage ends after {STAGE}.steps optimiser steps",
    r"(?:max_|min_|num_|num_train_|n_|train_)?epochs":
        f"a stage has its own, {STAGE}.epochs passes over its records (or {STAGE}.steps)",
    r"(?:(?:per_device_|per_gpu_)?(?:train_)?|(?:global|micro|mini)_)batch_size":
        f"records per optimiser step are {STAGE}.records_per_step",
    r"(?:per_device_)?(?:eval|val|test|generation)_batch_size": "prompts answered together are generation.batch_size",
    r"gradient_accumulation_steps|accumulate_grad_batches": "a step is split into passes by data.tokens_per_forest",
    r"lr|learning_rate|base_lr|max_lr": f"each stage has its own, {STAGE}.lr",
    r"weight_decay|wd": f"each stage has its own, {STAGE}.weight_decay",
    r"warmup(?:_ratio|_steps|_epochs)?": f"the share of steps that warm up is {STAGE}.warmup",
    r"lr_scheduler(?:_type|_kwargs)?": "set scheduler._target_=CLASS and its arguments (configs/scheduler)",
    r"optim|optimizer_name": "set optimizer._target_=CLASS and its arguments (configs/optimizer)",
    r"ckpt_path|resume_from(?:_checkpoint)?|load_from_checkpoint":
        f"resume=RUN_FOLDER goes on with a run, {STAGE}.weights=RUN_FOLDER:STAGE begins with its weights",
    r"output_dir|save_dir|default_root_dir|work_dir|logging_dir": "set run_dir=FOLDER",
    r"(?:pretrained_)?model_name(?:_or_path)?|model_id|base_model|pretrained":
        "set model=hf model.name=NAME_OR_FOLDER (a vision-language model), or model.language.name=NAME_OR_FOLDER "
        "model.language.config=null (a language model)",
    r"trust_remote_code": "set model.language.trust_remote_code=true",
    r"datasets?|dataset_(?:name|dir|path)|data_(?:path|dir)|train_(?:file|data)":
        "set data=shards data.path=FOLDER (of shards, which prepare makes)",
    r"fast_dev_run": "set debug=fast_dev_run",
    r"overfit_batches": "set debug=overfit",
    r"(?:num_|n_)?gpus?|devices|num_processes|nproc_per_node": "set trainer.devices=NUMBER",
    r"accelerator|device": "set trainer.accelerator=auto, cpu, gpu or mps",
    r"precision|bf16|fp16|dtype|torch_dtype": "set trainer.precision=bf16-mixed, bf16-true or 32-true",
    r"strategy|deepspeed|fsdp": "set parallel.strategy=auto, single, ddp or shard",
    r"max_grad_norm|clip_grad_norm|grad_clip": "set trainer.gradient_clip_val",
    r"num_workers|dataloader_num_workers": "set data.workers",
    r"max_seq_len(?:gth)?|max_length|cutoff_len|model_max_length": "set data.max_tokens",
    r"gradient_checkpointing|activation_checkpointing": "set training.checkpointing=on",
    r"logging_steps|log_every_n_steps|log_interval": "set trainer.log_every_n_steps",
    r"eval_steps|val_check_interval|eval_interval": "set trainer.val_check_interval",
    r"save_steps|save_interval|every_n_train_steps": "set training.checkpoint_every",
    r"report_to|wandb|use_wandb|tensorboard": "set logger=wandb, tensorboard or csv; several: logger=[csv,wandb]",
    r"run_name|wandb_name": "set logger=wandb logger.wandb.name=NAME",
    r"wandb_project|project": "set logger=wandb logger.wandb.project=NAME",
    r"max_new_tokens": "set generation.max_new_tokens",
    r"lora_(?:r|rank)": "set model.language.lora.rank",
    r"lora_alpha": "set model.language.lora.alpha",
    r"lora_target(?:_modules)?|target_modules": "set model.language.lora.targets",
    r"finetuning_type|freeze_\w+|tune_\w+|trainable": f"what a stage trains is {STAGE}.trainable",
    r"template|chat_template": "set model.language.chat",
    r"experiment_name|exp|task_name": "set experiment=NAME (configs/experiment)",
}
# fmt: on
"""Patterns of foreign names, whatever section stands before them, to what to set."""
LOGGER_ARGUMENTS = ("tags", "name", "notes", "group", "project", "entity", "log_model", "offline", "id", "job_type")
"""What loggers take by their own names."""


def foreign(key: str) -> str | None:
    """The message about a setting of another tool; None where no such name is known.

    Args:
        key: dotted, without leading `+` or `-`; `-` in it counts as `_`.
    """
    plain = key.replace("-", "_")
    for pattern, answer in FOREIGN.items():
        if re.fullmatch(f"{_PREFIX}(?:{pattern})", plain):
            return f"{key}: no such setting; {answer}"
    section, _, name = plain.partition(".")
    if section == "logger" and name in LOGGER_ARGUMENTS:
        return f"{key}: no such setting; of one logger: logger=wandb logger.wandb.{name}=…"
    return None
