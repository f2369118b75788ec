"""Types of values that several sections of the configuration share."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from dress.base.parts import PartNumber

MOST = 10**9
"""Larger numbers are typing errors everywhere but in seeds."""


def _whole(value: Any) -> Any:
    """`1e3` is read as 1000.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Positive = Annotated[Whole, Field(gt=0, le=MOST)]
Count = Annotated[Whole, Field(ge=0, le=2**63 - 1)]
Real = Annotated[float, Field(ge=0, le=MOST)]
PositiveReal = Annotated[float, Field(gt=0, le=MOST)]
# Name of a variable, never a key (keys hold small letters).
VARIABLE = r"^[A-Z][A-Z0-9_]*$"
VariableName = Annotated[str, Field(pattern=VARIABLE)]


class Section(BaseModel):
    """Settings: no key that does not exist, no `"true"` for true, no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), strict=True, allow_inf_nan=False)


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


def _package(name: str) -> str:
    package = name.partition(".")[0]
    if name != package:
        raise ValueError(f"expected the package, {package}, got a module of it, {name}")
    return name


Package = Annotated[Name, AfterValidator(_package)]
"""The first part of a dotted name."""
ModelName = Annotated[Name, AfterValidator(_no_reserved)]
"""Also becomes a key of metrics.json, where `conditions` is taken."""


def without_nulls(value: Any) -> Any:
    """A mapping of free keys, where null takes out a key that a file below has set."""
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


def finite(value: dict[str, Any]) -> dict[str, Any]:
    """The same free settings.

    Raises:
        ValueError: a number in them, at any depth, is not finite or larger than `MOST`; names its key.
    """

    def check(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, one in value.items():
                check(f"{key}.{inner}".lstrip("."), one)
        elif isinstance(value, list):
            for one in value:
                check(key, one)
        elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= MOST):
            raise ValueError(f"{key}: expected a finite number of at most {MOST:g}, got {value}")

    check("", value)
    return value


Plain = Annotated[dict[str, Any], AfterValidator(finite)]


def _share(text: str) -> str:
    return str(PartNumber.parse(text))


PartOf = Annotated[str, AfterValidator(_share)]
"""One of N parts of a task: `K/N`, from 0; see `dress.base.parts`."""


class Consent(Section):
    """What a run's own files cannot allow: only the command that reads them."""

    trust_remote_code: bool = False  # run code that comes with a run's language model
    allow_pipe: bool = False  # run the shell commands of pipe: URLs among a run's data
    trust_targets: list[Package] = Field(default=[])  # packages beside the known ones whose classes a run may name
