"""Settings of the data: where records come from, and how a step's slice is formed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dress.config.types import Aspect, Count, Name, Positive, PositiveReal, Section, without_nulls


class ShapesSizes(Section):
    """Number of records that are generated per split of the shapes world."""

    align: Positive  # records
    sft: Positive  # records
    prompts: Positive  # records
    eval: Positive  # records


class Mixed(Section):
    """A dataset of a mixture."""

    path: str  # a folder of shards, or a URL
    weight: PositiveReal = 1.0  # of the sum of all weights


Source = Annotated[str | Annotated[dict[str, Mixed], Field(min_length=1)], BeforeValidator(without_nulls)]


class Data(Section):
    """Where records come from and how a step's slice is formed."""

    world: Name | None = None  # a registered world (worlds/), whose records are made under `path` when missing
    path: str  # holds one folder of shards per split
    sizes: ShapesSizes | None = None  # of the world
    world_seed: Count = 0  # of the world, not of the run
    align: Source = "align"  # folders of shards or URLs, relative to path; or name: {path, weight} of several
    sft: Source = "sft"  # the same
    prompts: str = "prompts"  # one folder of shards
    feedback: Source | None = None  # null = what the collect stage wrote
    eval: str = "eval"  # one folder of shards
    validation: str | None = "auto"  # shards whose loss is logged; auto: 128 of eval, if they have targets; null = none
    workers: Count = 0  # data worker processes
    start_method: Literal["fork", "forkserver", "spawn"] | None = None  # of workers; null = Python's default
    window: Positive = 16  # shards that are shuffled together
    verify: Literal["quick", "full"] = "quick"  # at start: size and time, or checksums too
    reader: Literal["indexed", "webdataset"] = "indexed"  # webdataset: its own pipeline, cannot resume
    cache_dir: str | None = None  # of remote shards; null = ~/.cache/dress
    cache_gb: PositiveReal = 50.0  # 10^9 bytes
    allow_pipe: bool = False  # run the shell commands of pipe: URLs
    share_prefixes: bool = True  # one token tree per record; false = one sequence per dialogue
    features: bool | Literal["auto"] = "auto"  # train on stored vision features; auto: where all has them
    images: Literal["fast", "exact"] = "fast"  # how images are decoded and resized in training; exact is OpenCLIP's PIL
    max_aspect: Aspect = 200.0  # longer side of an image ÷ shorter side
    dialogues_per_record: Positive | None = None  # of a record in a step, drawn anew each epoch; null = all
    tokens_per_forest: Positive = 16384  # tokens of one forward pass
    max_tokens: Positive = 4096  # longest dialogue, in tokens
    on_damage: Literal["stop", "skip"] = "stop"  # a record that cannot be used

    @property
    def stored(self) -> bool:
        """Whether training reads stored features; what `auto` comes to is settled where a run opens its data."""
        return self.features is True
