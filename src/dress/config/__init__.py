"""The configuration as typed, closed models: a key that does not exist, at any depth, is refused.

Hydra composes the YAML files; `check` validates every key and value before anything loads.
"""

from dress.base.errors import ConfigError
from dress.config.checking import check, check_as, check_targets, unknown_in_stages, valid_keys
from dress.config.commands import CollectCommand
from dress.config.data import Data, Mixed, ShapesSizes, Source
from dress.config.export import ExportCommand, ExportSettings, ExportStage
from dress.config.foreign import foreign
from dress.config.generation import Generation, GenerationServer, KeepCache
from dress.config.learning import Devices, Gather, Learning, Parallel, Trainer, Training
from dress.config.model import ComposedModel, HFModel, Language, Lora, Model, Quantize, Tokenizer, Vision, ViT
from dress.config.nearest import nearest
from dress.config.objectives import DPO, KTO, Distill, ObjectiveName, Objectives, RewardWeighted, SelfCorrection
from dress.config.phases import Align, Critique, Phases, Refinement
from dress.config.raters import RaterSettings, ResponderName, Server
from dress.config.run import VERSION, Config, Eval, with_raters
from dress.config.stages import CollectSettings, CollectStage, Curriculum, EvalStage, Stage, TrainStage
from dress.config.types import (
    MOST,
    Aspect,
    Condition,
    Consent,
    Count,
    Fraction,
    ModelName,
    Name,
    Part,
    Plain,
    Positive,
    PositiveReal,
    Real,
    Resize,
    Section,
    Split,
    TopP,
    VariableName,
    Whole,
    finite,
    without_nulls,
)

__all__ = [
    "DPO",
    "KTO",
    "MOST",
    "VERSION",
    "Align",
    "Aspect",
    "CollectCommand",
    "CollectSettings",
    "CollectStage",
    "ComposedModel",
    "Condition",
    "Config",
    "ConfigError",
    "Consent",
    "Count",
    "Critique",
    "Curriculum",
    "Data",
    "Devices",
    "Distill",
    "Eval",
    "EvalStage",
    "ExportCommand",
    "ExportSettings",
    "ExportStage",
    "Fraction",
    "Gather",
    "Generation",
    "GenerationServer",
    "HFModel",
    "KeepCache",
    "Language",
    "Learning",
    "Lora",
    "Mixed",
    "Model",
    "ModelName",
    "Name",
    "ObjectiveName",
    "Objectives",
    "Parallel",
    "Part",
    "Phases",
    "Plain",
    "Positive",
    "PositiveReal",
    "Quantize",
    "RaterSettings",
    "Real",
    "Refinement",
    "Resize",
    "ResponderName",
    "RewardWeighted",
    "Section",
    "SelfCorrection",
    "Server",
    "ShapesSizes",
    "Source",
    "Split",
    "Stage",
    "Tokenizer",
    "TopP",
    "TrainStage",
    "Trainer",
    "Training",
    "VariableName",
    "ViT",
    "Vision",
    "Whole",
    "check",
    "check_as",
    "check_targets",
    "finite",
    "foreign",
    "nearest",
    "unknown_in_stages",
    "valid_keys",
    "with_raters",
    "without_nulls",
]
