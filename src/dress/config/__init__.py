"""The composed configuration as one typed, closed model.

Hydra composes the YAML files; `Config` checks every key and value before anything loads. A key that
does not exist, at any depth, is refused with the nearest one that does.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from dress.base.redaction import hide
from dress.config.raters import (
    MOST,
    Count,
    Positive,
    PositiveReal,
    Rater,
    Real,
    ResponderName,
    Section,
    Server,
    VariableName,
    Whole,
)

PhaseName = Literal["align", "sft", "critique", "refinement", "rating", "best_of"]
Part = Literal["vision", "projector", "language", "lora"]
Split = Literal["align", "sft", "prompts", "feedback", "eval"]
Condition = Literal["none", "praise"]
Resize = Literal["native", "crop", "squash", "pad"]
Fraction = Annotated[float, Field(ge=0, le=1)]
TopP = Annotated[float, Field(gt=0, le=1)]
Aspect = Annotated[float, Field(ge=1, le=65535)]


def _no_reserved(name: str) -> str:
    if name == "conditions":
        raise ValueError("the name conditions is taken in metrics.json")
    return name


Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
"""Becomes a part of a file's name."""
ModelName = Annotated[Name, AfterValidator(_no_reserved)]
"""Also becomes a key of metrics.json, where `conditions` is taken."""

FEEDBACK_PHASES = frozenset({"critique", "refinement", "rating", "best_of"})
CONDITIONED_PHASES = frozenset({"critique", "refinement", "rating"})
"""Phases after which a model knows what a condition means."""


def _without_nulls(given: Any) -> Any:
    """A mapping of free keys, where null takes out a key that a file below has set."""
    return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


def _finite(given: dict[str, Any]) -> dict[str, Any]:
    def check(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, one in value.items():
                check(f"{key}.{inner}".lstrip("."), one)
        elif isinstance(value, list):
            for one in value:
                check(key, one)
        elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= MOST):
            raise ValueError(f"{key}: expected a finite number of at most {MOST:g}, got {value}")

    check("", given)
    return given


Plain = Annotated[dict[str, Any], AfterValidator(_finite)]


class Consent(Section):
    """What a run's own files cannot allow: only the command that reads them."""

    trust_remote_code: bool = False  # run code that comes with a run's language model
    allow_pipe: bool = False  # run the shell commands of pipe: URLs among a run's data


# --- model -----------------------------------------------------------------------------------------


class ViT(Section):
    """A vision transformer built from scratch (OpenCLIP's `VisionTransformer`)."""

    image_size: Positive  # pixels, square
    patch_size: Positive  # pixels; image_size / patch_size squared tokens
    width: Positive
    layers: Positive
    heads: Positive
    mlp_ratio: PositiveReal = 4.0

    @model_validator(mode="after")
    def _divisible(self) -> ViT:
        if self.width % self.heads:
            raise ValueError(f"expected a width that heads={self.heads} divides, got width={self.width}")
        if self.patch_size > self.image_size:
            raise ValueError(
                f"expected patches that fit into the image, got patch_size={self.patch_size} and "
                f"image_size={self.image_size}"
            )
        return self


class Vision(Section):
    """The image encoder: an OpenCLIP model by name, or a ViT from a config."""

    name: str | None = None  # OpenCLIP model name, e.g. ViT-L-14-336, EVA01-g-14
    weights: str | None = None  # OpenCLIP tag, a local file, or a run's stage folder; null = random weights
    vit: ViT | None = None
    layer: Whole = -1  # which block's patch tokens, or which feature map; -1 is the last, -2 the one before (LLaVA)
    resize: Resize = "native"  # how an image is made to fit; native = the weights' own way

    @model_validator(mode="after")
    def _one_of(self) -> Vision:
        if (self.name is None) == (self.vit is None):
            raise ValueError("expected exactly one of model.vision.name and model.vision.vit")
        return self


class Projector(Section):
    kind: Literal["linear", "mlp"] = "linear"  # linear as in the paper


class Lora(Section):
    """Low-rank adapters on the language model (peft)."""

    rank: Positive
    alpha: Positive
    targets: Annotated[list[str], Field(min_length=1)]  # module names, e.g. q_proj


class Language(Section):
    """The language model: any Hugging Face causal LM by name or folder, or one built from a config."""

    name: str | None = None  # hub id, or a local folder
    gguf: str | None = None  # a GGUF file in that folder
    package: str | None = None  # a Python package that carries the files, instead of a hub id
    config: Plain | None = None  # transformers config fields incl. model_type
    lora: Lora | None = None
    chat: Literal["plain", "chatml", "vicuna"] = "plain"
    trust_remote_code: bool = False  # runs code of the model's author: only if you trust it
    revision: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Language:
        if (self.config is None) == (self.name is None and self.package is None):
            raise ValueError("expected model.language.config, or one of model.language.name and .package")
        return self


class Tokenizer(Section):
    """The hermetic tokenizer (byte-level BPE trained on the training shards); unused with a named LM."""

    vocabulary: Positive = 1024


class Model(Section):
    vision: Vision
    projector: Projector = Projector()
    language: Language
    tokenizer: Tokenizer = Tokenizer()
    attention: Literal["auto", "dense", "nodes", "flex"] = "auto"  # over token trees; auto is flex on CUDA, else nodes
    fused: bool = True  # hand-written norms, rotary positions and (bf16 on CPU) attention; the same results


# --- data ------------------------------------------------------------------------------------------


class ShapesSizes(Section):
    """Number of records that are generated per split of the shapes world."""

    align: Positive
    sft: Positive
    prompts: Positive
    eval: Positive


class Mixed(Section):
    """A dataset of a mixture."""

    path: str  # a folder of shards, or a URL
    weight: PositiveReal = 1.0  # of the sum of all weights


Source = Annotated[str | Annotated[dict[str, Mixed], Field(min_length=1)], BeforeValidator(_without_nulls)]


class Data(Section):
    """Where records come from and how a step's slice is formed."""

    world: Literal["shapes"] | None = None  # generated under `path` when missing
    path: str  # holds one folder of shards per split
    sizes: ShapesSizes | None = None  # of the world
    world_seed: Count = 0  # of the world, not of the run
    align: Source = "align"  # folders of shards or URLs, relative to path; or name: {path, weight} of several
    sft: Source = "sft"
    prompts: str = "prompts"
    feedback: Source | None = None  # null = what the collect stage wrote
    eval: str = "eval"
    validation: str | None = None  # shards whose loss is logged while training; null = none
    workers: Count = 0  # data worker processes
    start_method: Literal["fork", "forkserver", "spawn"] | None = None  # of workers; null = Python's default
    window: Positive = 16  # shards that are shuffled together
    verify: Literal["quick", "full"] = "quick"  # at start: size and time, or checksums too
    reader: Literal["indexed", "webdataset"] = "indexed"  # webdataset: its own pipeline, cannot resume
    cache_dir: str | None = None  # of remote shards; null = ~/.cache/dress
    cache_gb: PositiveReal = 50.0  # 10^9 bytes
    allow_pipe: bool = False  # run the shell commands of pipe: URLs
    share_prefixes: bool = True  # one token tree per record; false = one sequence per dialogue
    features: bool = False  # stored vision features instead of images and encoder (python src/prepare.py task=features)
    images: Literal["fast", "exact"] = "fast"  # how images are decoded and resized in training; exact is OpenCLIP's PIL
    max_aspect: Aspect = 200.0  # longer side of an image ÷ shorter side
    dialogues_per_record: Positive | None = None  # of a record in a step, drawn anew each epoch; null = all
    tokens_per_forest: Positive = 16384  # tokens of one forward pass
    max_tokens: Positive = 4096  # longest dialogue, in tokens
    on_damage: Literal["stop", "skip"] = "stop"  # a record that cannot be used


# --- phases ----------------------------------------------------------------------------------------


class Align(Section):
    prompt: str


class Critique(Section):
    condition: Literal["critique", "rating", "both"] = "critique"
    history: bool = False  # keep the turns before; false = the dialogue's first user text only


class Refinement(Section):
    loss: Literal["refined_only", "last_only", "all", "rating_at_least"] = "refined_only"
    target: Literal["best_turn", "reference"] = "best_turn"
    min_rating: Annotated[Whole, Field(ge=1, le=4)] = 4  # for loss=rating_at_least
    anchor: Real = 0.5  # weight of the model's own first answers
    anchor_conditions: list[Condition] = Field(default=["none"])  # what they stand after


class Phases(Section):
    align: Align
    critique: Critique = Critique()
    refinement: Refinement = Refinement()
    critique_template: str  # fields: {critique}
    rating_template: str  # fields: {rating}
    praise: str  # the critique that inference is conditioned on under `praise`


# --- stages ----------------------------------------------------------------------------------------


class TrainStage(Section):
    kind: Literal["train"] = "train"
    # Loss weight of each phase's tokens; null takes a phase out that a file below has set.
    phases: Annotated[dict[PhaseName, PositiveReal], BeforeValidator(_without_nulls)] = Field(default={})
    data: Split  # which shards it streams
    steps: Positive  # optimiser steps
    records_per_step: Positive  # over all ranks
    lr: PositiveReal
    warmup: Fraction = 0.05  # share of steps
    weight_decay: Real = 0.01
    trainable: Annotated[list[Part], Field(min_length=1)]

    @property
    def learns_from_feedback(self) -> bool:
        return self.data == "feedback" or bool(FEEDBACK_PHASES & self.phases.keys())


class CollectStage(Section):
    kind: Literal["collect"] = "collect"
    records: Positive  # of data.prompts, from the first
    turns: Positive = 2  # answers per dialogue; each after the first answers a refinement
    samples: Positive = 1  # dialogues per question
    temperature: Real = 1.0  # 0 = greedy
    top_p: TopP = 1.0
    condition: Condition = "none"  # what the answers stand after; praise is what the model's own stage taught
    per_shard: Positive = 250  # records; also what an interrupted collection repeats at most


class EvalStage(Section):
    kind: Literal["eval"] = "eval"
    records: Positive | None = None  # of data.eval, from the first; null = all
    models: dict[ModelName, Name] | None = None  # label: train stage; null = see stages.evaluated_stages


Stage = Annotated[TrainStage | CollectStage | EvalStage, Field(discriminator="kind")]


class Curriculum(Section):
    order: list[str]
    stages: dict[ModelName, Stage]

    @model_validator(mode="after")
    def _known(self) -> Curriculum:
        for number, name in enumerate(self.order):
            if name not in self.stages:
                near = nearest(name, sorted(self.stages))
                raise ValueError(f"order names {name!r}; expected one of {', '.join(sorted(self.stages))}.{near}")
            if name in self.order[:number]:
                raise ValueError(f"order names {name!r} twice; give the second one a name and settings of its own")
            self._possible(name, self.trained(name))
        return self

    def _possible(self, name: str, before: list[str]) -> None:
        """Refuse a stage that nothing before it makes possible."""
        stage = self.stages[name]
        if isinstance(stage, TrainStage):
            if not stage.phases:
                raise ValueError(f"curriculum.stages.{name}.phases is empty; expected at least one of the phases")
            return
        if not before:
            what = "asks" if isinstance(stage, CollectStage) else "evaluates"
            raise ValueError(f"order: {name} {what} the model of a train stage before it, but there is none")
        for label, source in ((isinstance(stage, EvalStage) and stage.models) or {}).items():
            if source not in before:
                raise ValueError(
                    f"curriculum.stages.{name}.models.{label}: expected a train stage before {name} "
                    f"({', '.join(before)}), got {source!r}"
                )

    def trained(self, before: str | None = None) -> list[str]:
        """Names of the train stages, in order; those before a stage."""
        order = self.order if before is None else self.order[: self.order.index(before)]
        return [name for name in order if isinstance(self.stages.get(name), TrainStage)]

    def collected(self, before: str) -> str | None:
        """The nearest collect stage before a stage."""
        order = self.order[: self.order.index(before)]
        return next((name for name in reversed(order) if isinstance(self.stages.get(name), CollectStage)), None)


# --- the rest --------------------------------------------------------------------------------------


KeepCache = Literal["auto", "on", "off"]
"""Go on from the turn before, a batch of dialogues at a time; auto: where keys and values fit into memory."""


class Generation(Section):
    max_new_tokens: Positive
    batch_size: Positive  # prompts
    keep_cache: KeepCache = "auto"


class Eval(Section):
    turns: Positive = 3  # answers per dialogue: 0, 1, 2
    conditions: Annotated[list[Condition], Field(min_length=1)] = Field(default=["none", "praise"])
    refine_condition: Condition = "none"  # from the second answer on
    scenes: Positive = 12  # in the report


class Training(Section):
    """How every train stage runs."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: Positive = 1
    strategy: str = "auto"  # Lightning's name, e.g. ddp
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"
    threads: Positive | None = None  # CPU threads; null = as many as cores
    clip: PositiveReal = 1.0  # gradient norm
    checkpointing: Literal["auto", "on", "off"] = "auto"  # recompute activations; auto: where they do not fit
    keep_memory: bool = True  # on CPU: keep freed memory for the next step
    checkpoint_every: Positive = 100  # optimiser steps
    log_every: Positive = 10  # optimiser steps
    validate_every: Positive = 100  # optimiser steps, on data.validation
    overfit: bool = False  # train on the first step's records again and again

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, given: Any) -> Any:
        if isinstance(given, str) and given.startswith("16"):
            raise ValueError(
                "fp16 multiplies gradients by a scale, also where they are clipped; expected bf16-mixed or 32-true"
            )
        return given


class Logger(Section):
    """Where curves and results go; any number of places."""

    csv: bool = False
    tensorboard: bool = False
    wandb: bool = False
    project: str = "dress"  # wandb
    entity: str | None = None  # wandb; null = your default
    api_key_env: VariableName = "WANDB_API_KEY"

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, given: Any) -> Any:
        """Runs that were begun when there was one logger have saved its kind."""
        if isinstance(given, dict) and given.get("kind") in ("csv", "tensorboard", "wandb"):
            given = {**given, given["kind"]: True}
            del given["kind"]
        return given


class Config(Section):
    """Everything a run depends on; saved beside its results as plain data."""

    name: Name  # of the experiment; becomes a folder's name
    seed: Count
    scale: str
    run_dir: str
    model: Model
    data: Data
    phases: Phases
    budget: Annotated[dict[str, dict[str, Any]], AfterValidator(_finite)]  # read by the stages through ${budget.…}
    curriculum: Curriculum
    annotator: Rater
    judge: Rater
    generation: Generation
    eval: Eval = Eval()
    training: Training = Training()
    logger: Logger = Logger()
    show: Literal["config", "batch"] | None = None
    stage: str | None = None  # of show=batch; null = the first that trains
    resume: str | None = None  # a run folder to go on with
    reuse: str | None = None  # a run folder to take finished stages from

    @model_validator(mode="after")
    def _features_of_a_frozen_encoder(self) -> Config:
        for name in self.curriculum.order:
            stage = self.curriculum.stages[name]
            if self.data.features and isinstance(stage, TrainStage) and "vision" in stage.trainable:
                raise ValueError(
                    f"curriculum.stages.{name}.trainable names vision, but data.features=true reads what a frozen "
                    f"encoder made: drop vision there, or set data.features=false"
                )
        return self

    @model_validator(mode="after")
    def _feedback_is_there(self) -> Config:
        for name in self.curriculum.trained():
            stage = self.curriculum.stages[name]
            given = isinstance(stage, TrainStage) and getattr(self.data, stage.data) is not None
            if not given and self.curriculum.collected(name) is None:
                raise ValueError(
                    f"curriculum.order: {name} learns from feedback, but no collect stage stands before it and "
                    f"data.feedback is null: name one of them"
                )
        return self

    @model_validator(mode="after")
    def _answers_fit(self) -> Config:
        fields = self.model.language.config or {}
        most = fields.get("max_position_embeddings", fields.get("n_positions"))
        if isinstance(most, int) and self.generation.max_new_tokens >= most:
            raise ValueError(
                f"generation.max_new_tokens: expected less than the model's {most:,} positions "
                f"(model.language.config), got {self.generation.max_new_tokens:,}"
            )
        return self

    @model_validator(mode="after")
    def _lora_is_there(self) -> Config:
        for name, stage in self.curriculum.stages.items():
            if isinstance(stage, TrainStage) and "lora" in stage.trainable and self.model.language.lora is None:
                raise ValueError(f"curriculum.stages.{name}.trainable names lora, but model.language.lora is null")
        return self


class EvalCommand(Eval, Consent):
    """`src/eval.py`: a run to evaluate again."""

    suite: Literal["run"] = "run"
    ckpt: str  # a run folder
    out: str
    shards: str | None = None  # null = the run's own eval split
    records: Positive | None = None
    max_new_tokens: Positive | None = None  # null = as in the run
    batch_size: Positive = 256
    keep_cache: KeepCache = "auto"
    judge: Rater


class CollectCommand(CollectStage, Consent):
    """`src/collect.py`: whose answers are collected, and who judges them."""

    responder: ResponderName  # a run folder, a file of answers, or the address of a server
    stage: str = "sft"  # of a run: whose model
    server: Server = Server()  # where the responder is one
    out: str
    data: Data | None = None  # whose prompts are asked; null = the run's own
    shards: str | None = None  # a folder of shards whose questions are asked instead
    max_new_tokens: Positive | None = None  # null = as in the run; 512 of a server
    batch_size: Positive = 256
    keep_cache: KeepCache = "auto"
    seed: Count = 0
    annotator: Rater
    dry_run: bool = False  # only estimate calls, tokens and cost


class ConfigError(ValueError):
    """A setting that does not exist or does not fit; the message names it."""


Checked = TypeVar("Checked", bound=BaseModel)


def check(composed: dict[str, Any]) -> Config:
    """Validate the composed and resolved configuration of a training run; see `check_as`."""
    return check_as(Config, composed)


def check_as(model: type[Checked], composed: dict[str, Any]) -> Checked:
    """Validate a composed and resolved configuration.

    Raises:
        ConfigError: with one line per problem: key, expected, got, and the nearest valid key.
    """
    try:
        return model.model_validate(hide(composed))
    except ValidationError as error:
        lines = [_problem(problem, model) for problem in error.errors(include_url=False)]
        raise ConfigError("the configuration does not fit:\n  " + "\n  ".join(lines)) from None


def nearest(key: str, valid: list[str]) -> str:
    """` Did you mean …?` for a dotted key, or nothing."""
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.75)
    if not close:  # the right word in the wrong place: clip for training.clip
        leaf = key.rpartition(".")[2]
        close = [other for other in dict.fromkeys(valid) if other.rpartition(".")[2] == leaf][:4]
    close = close or difflib.get_close_matches(key, valid, n=1, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def valid_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration whose name is fixed."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        for inner in (kind, *getattr(kind, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += valid_keys(inner, f"{prefix}{name}.")
    return keys


def _problem(problem: Any, model: type[BaseModel]) -> str:
    place = [str(part) for part in problem["loc"]]
    if place[:2] == ["curriculum", "stages"] and len(place) > 3:
        del place[3]  # the kind by which pydantic chose the stage's model
    if place[:1] in (["annotator"], ["judge"]) and len(place) > 1:
        del place[1]  # the same for a rater
    key = ".".join(place)
    message = problem["msg"].removeprefix("Value error, ")
    if place[:2] == ["curriculum", "stages"] and problem["type"] == "union_tag_not_found":
        return _no_kind(place[2])
    if place[-1:] == ["[key]"]:
        return _unknown_key(place, problem)
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such setting.{nearest(key, _keys_around(place, model))}"
    if key.endswith("api_key_env"):  # what stands there may be the key itself: never print it
        return f"{key}: expected the NAME of an environment variable, e.g. WANDB_API_KEY, not the key"
    if key.endswith(("base_url", "responder")):  # the same
        return f"{key}: {message}"
    if isinstance(problem["input"], dict):  # a check of a whole section names what it got
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {problem['input']!r:.80})"


def _unknown_key(place: list[str], problem: Any) -> str:
    """A key of a mapping that is none of those there may be."""
    *above, name, _ = place
    if above[-1:] == ["phases"]:
        return f"{'.'.join(above)}: {no_such_phase(name)}"
    return f"{'.'.join(above)}: {problem['msg']} (got {name!r:.80})"


def _no_kind(name: str) -> str:
    near = nearest(name, ["align", "sft", "collect", "dress", "eval"])
    return f"curriculum.stages.{name}: expected kind: train, collect or eval.{near}"


def no_such_phase(name: str) -> str:
    """Names those that exist."""
    known = list(get_args(PhaseName))
    return f"no such phase {name!r}. There are: {', '.join(known)}.{nearest(name, known)}"


def unknown_in_stages(key: str, stages: list[str]) -> str | None:
    """What a key like `curriculum.stages.sft.phases.myphase` names that does not exist; None where it is another key.

    Args:
        key: dotted.
        stages: that exist.
    """
    found = re.match(r"curriculum\.stages\.([^.]+)(?:\.phases\.([^.]+))?", key)
    if found is None:
        return None
    stage, phase = found.groups()
    if stage not in stages:
        return (
            f"curriculum.stages.{stage}: no such stage. There are: {', '.join(stages)}.{nearest(stage, stages)} "
            f"A new one: +curriculum.stages.{stage}={{kind: …}}"
        )
    if phase is None:
        return None
    if phase in get_args(PhaseName):
        return f"{key}: not among this stage's phases; add it with +{key}=…"
    return f"curriculum.stages.{stage}.phases: {no_such_phase(phase)}"


def _keys_around(place: list[str], model: type[BaseModel]) -> list[str]:
    if place[:2] == ["curriculum", "stages"] and len(place) == 4:
        names = {n for stage in (TrainStage, CollectStage, EvalStage) for n in stage.model_fields}
        return [".".join([*place[:3], name]) for name in sorted(names)]
    return valid_keys(model)
