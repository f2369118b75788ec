"""The tasks of `src/prepare.py`: the settings of each (configs/task/) and where its function is.

Light on purpose: a task's module is imported only when its settings are known to be good.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, ValidationInfo, field_validator, model_validator

from dress.config.model import Model
from dress.config.rows import Columns, RowMapping, Scale
from dress.config.types import Aspect, Count, Package, Positive, Resize, Section, Whole
from dress.record import Criterion


class Task(Section):
    """What one call of `src/prepare.py` does."""

    model_config = ConfigDict(strict=False, coerce_numbers_to_str=True)


class Import(Task):
    """A publisher's files, or anybody's table, become a folder of shards."""

    task: Literal["import"]
    source: str  # a format, a mapping of configs/source, or the path of a mapping
    mapping: RowMapping | None = None  # read from that file
    columns: Columns | None = None  # of a table; over the mapping's
    rating: Scale | None = None  # null = 1-4, or the mapping's
    criterion: Criterion | None = None  # of every row
    annotator: str | None = None  # who judged every row
    licence: str | None = None  # of the set; stands in import.json and in cards
    preview: StrictBool = False  # show columns and three records, write nothing
    path: str  # a file, a folder, or a reject file
    images: str | None = None  # null = where the publisher puts them
    out: str
    overwrite: StrictBool = False
    splits: tuple[Literal["align", "sft", "prompts", "feedback", "eval"], ...] | None = None  # null = all it can write
    held_out: Count = 100  # images for eval, at most; and at most one in seven
    per_shard: Positive = 200  # records
    workers: Count | None = None  # processes; 0 = this one only, null = as many as cores
    allow_missing_images: StrictBool = False
    max_aspect: Aspect = 200.0  # longer side of an image ÷ shorter side


class Index(Task):
    """Anybody's webdataset shards are indexed, so that they can be read, mixed and resumed exactly."""

    task: Literal["index"]
    path: str
    format: Literal["auto", "records", "captions"] = "auto"
    ignore: tuple[str, ...] = ()


class Export(Task):
    """Shards become files that others read, or a folder fit to publish."""

    task: Literal["export"]
    path: str
    out: str
    format: Literal["records", "lvlm_nlf", "llava", "messages", "dataset"]
    images: StrictBool = True  # write images beside the rows
    title: str | None = None  # of a dataset; null = the name of `out`
    license: Annotated[str | None, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$", validate_default=True)] = None
    on_damage: Literal["stop", "skip"] = "stop"  # a dataset is published whole

    @field_validator("license")
    @classmethod
    def _stated(cls, license: str | None, info: ValidationInfo) -> str | None:
        if license is None and info.data.get("format") == "dataset":
            raise ValueError(
                "a dataset needs a licence: an identifier in small letters (cc-by-4.0, apache-2.0), or "
                "license=unknown to say that you do not know it"
            )
        return license

    @field_validator("on_damage")
    @classmethod
    def _whole(cls, on_damage: str, info: ValidationInfo) -> str:
        if on_damage == "skip" and info.data.get("format") == "dataset":
            raise ValueError("a dataset is published whole; expected stop")
        return on_damage


class Inspect(Task):
    """What a set holds, what is wrong with it, and what of it stands in another set."""

    task: Literal["inspect"]
    path: str  # shards, or anybody's rows
    other: str | None = None  # the set that it may leak from
    leaked_by: Literal["text", "image", "text_and_image", "any"] = "text"
    lengths: StrictBool = True  # in tokens
    scale: str  # whose tokens
    model: Model  # of the scale
    tokenizer: str | None = None  # a run folder or a tokenizer.json
    out: str | None = None  # null = tables only
    samples: Positive = 24  # records on the page
    max_aspect: Aspect = 200.0  # longer side of an image ÷ shorter side

    @model_validator(mode="before")
    @classmethod
    def _of_the_scale(cls, composed: Any) -> Any:
        """A scale's file says more than this needs."""
        unused = ("generation", "data", "trainer", "parallel", "training", "curriculum", "budget")
        return {name: value for name, value in composed.items() if name not in unused}


class Encoder(Section):
    """A frozen encoder by its OpenCLIP name."""

    name: str | None = None
    weights: str | None = None  # OpenCLIP tag or a local file; null = random
    layer: Whole = -1
    resize: Resize = "native"


class Features(Task):
    """What a frozen encoder makes of every image is written into new shards."""

    task: Literal["features"]
    path: str
    out: str
    encoder: str | None = None
    ckpt: str | None = None
    stage: str | None = None
    vision: Encoder = Encoder()
    trust_remote_code: StrictBool = False
    trust_targets: tuple[Package, ...] = ()  # packages beside the known ones whose classes the run may name
    seed: Count = 0
    stored: Literal["bf16", "int8", "fp32"] = "bf16"
    images: Literal["fast", "exact"] = "fast"
    max_aspect: Aspect = 200.0  # longer side of an image ÷ shorter side
    batch_size: Positive = 32
    device: str | None = None
    on_damage: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _one_encoder(self) -> Features:
        names = [name for name in (self.encoder, self.ckpt, self.vision.name) if name is not None]
        if len(names) != 1:
            raise ValueError(
                f"expected exactly one of encoder=SCALE, ckpt=RUN and vision.name=NAME, got {names or 'none'}"
            )
        return self
