"""The configuration as typed, closed models: a key that does not exist, at any depth, is refused.

Hydra composes the YAML files; `check` validates every key and value before anything loads.
"""

from dress.base.errors import ConfigError
from dress.config.checking import check, check_as, unknown_in_stages, valid_keys
from dress.config.commands import CollectCommand
from dress.config.data import Data, Mixed, ShapesSizes, Source
from dress.config.model import Language, Lora, Model, Projector, Tokenizer, Vision, ViT
from dress.config.nearest import nearest
from dress.config.phases import Align, Critique, Phases, Refinement
from dress.config.raters import RaterSettings, ResponderName, Server
from dress.config.run import Config, Eval, Generation, KeepCache, Logger, Training
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
    "MOST",
    "Align",
    "Aspect",
    "CollectCommand",
    "CollectSettings",
    "CollectStage",
    "Condition",
    "Config",
    "ConfigError",
    "Consent",
    "Count",
    "Critique",
    "Curriculum",
    "Data",
    "Eval",
    "EvalStage",
    "Fraction",
    "Generation",
    "KeepCache",
    "Language",
    "Logger",
    "Lora",
    "Mixed",
    "Model",
    "ModelName",
    "Name",
    "Part",
    "Phases",
    "Plain",
    "Positive",
    "PositiveReal",
    "Projector",
    "RaterSettings",
    "Real",
    "Refinement",
    "Resize",
    "ResponderName",
    "Section",
    "Server",
    "ShapesSizes",
    "Source",
    "Split",
    "Stage",
    "Tokenizer",
    "TopP",
    "TrainStage",
    "Training",
    "VariableName",
    "ViT",
    "Vision",
    "Whole",
    "check",
    "check_as",
    "finite",
    "nearest",
    "unknown_in_stages",
    "valid_keys",
    "without_nulls",
]
