"""Settings of exported models: `src/export.py`, and the stage that does the same."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dress.config.types import Condition, Consent, Name, Positive, Section, Split


class ExportSettings(Section):
    """How a trained model leaves."""

    adapter: bool = False  # of model=hf with LoRA: an adapter beside its base, instead of merged weights
    condition: Condition | None = None  # that the chat template carries; null = praise where the stage taught it
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights; bfloat16: rounded after the comparison
    compared: Positive = 8  # records whose answers by the folder and by the run are compared
    license: Annotated[str | None, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] = None  # of the card; null = of the base

    @model_validator(mode="after")
    def _adapters_stay_as_they_are(self) -> ExportSettings:
        if self.adapter and self.dtype != "float32":
            raise ValueError(
                f"dtype={self.dtype}: expected float32 with adapter=true, whose few weights are not rounded"
            )
        return self


class ExportStage(ExportSettings):
    """Writes a stage's model as a folder that others load."""

    kind: Literal["export"] = "export"  # writes a model for others
    model: Name  # a train stage
    data: Split = "eval"  # whose records are asked about, to compare answers


class ExportCommand(ExportSettings, Consent):
    """`src/export.py`: which model of a run is written where."""

    run: str  # a run folder
    stage: str | None = None  # whose model; null = of its last train stage
    out: str  # the folder to make; never over something
