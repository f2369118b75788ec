"""The tasks of `src/prepare.py`: the settings of each (configs/task/) and where its function is.

Light on purpose: a task's module is imported only when its settings are known to be good.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, ValidationInfo, field_validator, model_validator

from dress.config.model import HFModel, Model
from dress.config.rows import Columns, RowMapping, Scale
from dress.config.types import Aspect, Count, Package, PartOf, Positive, Resize, Section, Whole
from dress.record import Criterion


class Task(Section):
    """What one call of `src/prepare.py` does."""

    model_config = ConfigDict(strict=False, coerce_numbers_to_str=True)


class Import(Task):
    """A publisher's files, or anybody's table, become a folder of shards."""

    task: Literal["import"]
    source: str  # rows (a table of your own), another of configs/source, or a mapping of your own, PATH.yaml
    mapping: RowMapping | None = None  # read from that file
    columns: Columns | None = None  # of a table: {image: img, user: question, …}; null = by their usual names
    rating: Scale | None = None  # of a table; null = whole numbers 1-4, or what its mapping says
    criterion: Criterion | None = None  # of every row of a table
    annotator: str | None = None  # who judged the answers of a table
    licence: str | None = None  # of the set, e.g. cc-by-4.0; import.json and cards repeat it
    preview: StrictBool = False  # show what the columns are taken for and three records, and write nothing
    path: str  # file or folder of the publisher, or a rejects.jsonl whose rows were repaired
    images: str | None = None  # folder that image names are relative to; null = where the publisher puts them
    out: str  # the folder to make, e.g. data/coco
    part: PartOf | None = None  # K/N: one of N parts, in a folder below out; task=merge puts them together
    overwrite: StrictBool = False  # replace what out holds
    # folders to write; null = all that the source can (docs/importing.md)
    splits: tuple[Literal["align", "sft", "prompts", "feedback", "eval"], ...] | None = None
    held_out: Count = 100  # images kept for eval, at most, and at most one in seven; 0 = none
    per_shard: Positive = 200  # records of a shard
    workers: Count | None = None  # processes; 0 = this one only, null = as many as cores
    allow_missing_images: StrictBool = False  # keep records whose image is not there: to inspect and export
    max_aspect: Aspect = 200.0  # longer side of an image ÷ shorter side, at most


class Index(Task):
    """Anybody's webdataset shards are indexed, so that they can be read, mixed and resumed exactly."""

    task: Literal["index"]
    path: str  # a folder with *.tar
    # ours, or images with .txt or .json captions; auto: what they hold
    format: Literal["auto", "records", "captions"] = "auto"
    ignore: tuple[str, ...] = ()  # extensions that may stand there and are passed over, e.g. [cls]


class Export(Task):
    """Shards become files that others read, or a folder fit to publish."""

    task: Literal["export"]
    path: str  # a folder of shards, or a folder of splits
    out: str  # the folder to make; never replaced
    format: Literal["records", "lvlm_nlf", "llava", "messages", "dataset"]  # see docs/inspecting.md
    images: StrictBool = True  # write images beside the rows
    title: str | None = None  # of a dataset; null = the name of `out`
    # of a dataset, required: cc-by-4.0, apache-2.0, … or unknown
    license: Annotated[str | None, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$", validate_default=True)] = None
    on_damage: Literal["stop", "skip"] = "stop"  # at what cannot be read; skip counts it in export.json

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
    path: str  # a folder of shards or of splits; or rows: a file, or a folder with *.jsonl
    other: str | None = None  # the set that it may leak from, of the same kinds
    leaked_by: Literal["text", "image", "text_and_image", "any"] = "text"  # what makes a dialogue a leaked one
    beside: tuple[str, ...] = ()  # sets that hold the same answers, rated by others
    standard: str | None = None  # annotator that others are measured by; null = oracle, else human, else none
    differing: Positive = 12  # answers on the page that annotators differ on
    lengths: StrictBool = True  # in tokens
    scale: str  # whose tokens lengths are counted in: tiny, small or paper
    model: Model  # of the scale
    tokenizer: str | None = None  # a run folder or a tokenizer.json; null = the scale's, or one trained on path
    out: str | None = None  # folder for the page, figures and lists of leaks; null = tables only
    samples: Positive = 24  # records on the page
    max_aspect: Aspect = 200.0  # longer side of an image ÷ shorter side, at most

    @model_validator(mode="before")
    @classmethod
    def _of_the_scale(cls, composed: Any) -> Any:
        """A scale's file says more than this needs."""
        unused = ("generation", "data", "trainer", "parallel", "training", "curriculum", "budget")
        return {name: value for name, value in composed.items() if name not in unused}


class Merge(Task):
    """The parts that part=K/N made become what one process would have written."""

    task: Literal["merge"]
    parts: str  # the folder that holds them: out= of the parts
    out: str  # the folder to make; what stands there is not replaced
    workers: Count | None = None  # processes that write an import's shards; 0 = this one only, null = as many as cores


class Photos(Task):
    """Pretrained weights that Python packages carry become folders of transformers (`make photos`)."""

    task: Literal["photos"]
    out: str = "models"  # the folder to make them in; what is there stays


class Encoder(Section):
    """A frozen encoder, as `model.vision`."""

    name: str | None = None  # in place of encoder and ckpt: a model of OpenCLIP
    folder: str | None = None  # or a folder of a vision model of transformers
    timm: str | None = None  # or a model of timm
    weights: str | None = None  # as model.vision.weights
    image_size: Positive | None = None  # pixels, square; null = the weights' own
    layer: Whole = -1  # which block, or which feature map
    resize: Resize = "native"  # as model.vision.resize


class Features(Task):
    """What a frozen encoder makes of every image is written into new shards."""

    task: Literal["features"]
    path: str  # shards, or a folder of them per split
    out: str  # the new shards; images and records go with them
    part: PartOf | None = None  # K/N: one of N parts, in a folder below out; task=merge puts them together
    encoder: str | None = None  # whose: that of a scale, e.g. small
    ckpt: str | None = None  # in place of encoder: that of a run folder
    stage: str | None = None  # of the run; null = the last one that was trained
    vision: Encoder = Encoder()
    model: HFModel | None = None  # in place of encoder: encoder and projector of model=hf model.name=FOLDER
    trust_remote_code: StrictBool = False  # run code that comes with the run's language model
    trust_targets: tuple[Package, ...] = ()  # packages beside the known ones whose classes the run may name
    seed: Count = 0  # of random weights: the seed that the training will have
    stored: Literal["bf16", "int8", "fp32"] = "bf16"  # int8 with a scale per token
    images: Literal["fast", "exact"] = "fast"  # how they are decoded, as data.images
    max_aspect: Aspect = 200.0  # longer side of an image ÷ shorter side, at most
    batch_size: Positive = 32  # images
    device: str | None = None  # e.g. cuda; null = a GPU where there is one
    on_damage: Literal["stop", "skip"] = "stop"  # at what cannot be read; skip names it in out/rejects.jsonl

    @model_validator(mode="after")
    def _one_encoder(self) -> Features:
        vision, model = self.vision, self.model and self.model.name
        choices = (self.encoder, self.ckpt, vision.name, vision.folder, vision.timm, model)
        names = [name for name in choices if name is not None]
        if len(names) != 1:
            raise ValueError(
                f"expected exactly one of encoder=SCALE, ckpt=RUN, vision.name=NAME (or folder, timm) and "
                f"model=hf model.name=FOLDER, got {names or 'none'}"
            )
        return self
