"""Which settings a result does not depend on; all others are in the fingerprint of what they make."""

from __future__ import annotations

from collections.abc import Mapping

NO_RESULT: Mapping[str, frozenset[str]] = {
    "": frozenset({
        "name", "scale", "run_dir", "logger", "show", "stage", "resume", "reuse", "version", "parallel",
        "trust_targets",
    }),
    "data": frozenset({
        "workers", "start_method", "verify", "cache_dir", "cache_gb", "allow_pipe",
    }),
    "training": frozenset({
        "threads", "checkpointing", "keep_memory", "checkpoint_every", "idle",
    }),
    "trainer": frozenset({
        "accelerator", "devices", "num_nodes", "log_every_n_steps", "val_check_interval", "profiler",
    }),
    "generation": frozenset({"keep_cache", "server"}),
    "eval": frozenset({"scenes", "failures"}),
    "rater": frozenset({
        "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "retries", "price_in",
        "price_out", "budget", "image_tokens", "ledger", "retry_failed", "preview", "confirm",
    }),
}  # fmt: skip
"""Settings by section (`""`: the top level) that change how a run works or is called, never what it computes."""

BY_CONTENT = frozenset(
    {"path", "world", "world_seed", "sizes", "align", "sft", "prompts", "feedback", "eval", "validation"}
)
"""Settings of `data` that say where records are: what is there counts, by the shards' own fingerprints."""

FOLLOWED = frozenset({"epochs"})
"""Settings of a stage that another one follows from: the steps that they come to count."""

NAMES = frozenset({"weights", "data", "model", "models"})
"""Settings of a stage that name stages and splits: what they name counts, not how it is called."""
