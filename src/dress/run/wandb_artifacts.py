"""What a run has read and made, as Weights & Biases artifacts: shards, models, the report, and how they hang together.

Names follow from content, so that equal shards are one artifact over all runs. Nothing but a list of shards, sizes and
checksums is sent unless `log_data` or `log_model` asks for the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dress import config
from dress.base.redaction import redacted
from dress.data.shards import Shards
from dress.train.run_data import Output
from dress.train.tasks import CollectTask, EvalTask, ExportTask, Task, TrainTask

if TYPE_CHECKING:
    import wandb

    from dress.run.run_results import RunResults

MODEL_FILES = ("model.safetensors", "model.json", "tokenizer.json")


class RunArtifacts:
    """Inputs and outputs of one run, online and offline alike.

    Args:
        run: the open wandb run.
        settings: of the run.
        key: name of the logger, whose `log_model` and `log_data` say whether files are sent.
    """

    def __init__(self, run: wandb.Run, settings: config.Config, key: str) -> None:
        self.run, self.settings = run, settings
        spec = settings.logger[key]
        self.send_models, self.send_data = bool(spec.get("log_model")), bool(spec.get("log_data"))

    def stage(self, task: Task, folder: Path) -> None:
        """What a stage has read, unless the run made it, and what it has made.

        Args:
            task: what the stage received.
            folder: of the stage.
        """
        read = {name: self._dataset(name, shards) for name, shards in _datasets(task)}
        for artifact in [one for name, one in read.items() if not self._collected(name)]:
            self._use(artifact)
        inputs = [artifact.name for artifact in read.values()]
        match task:
            case TrainTask():
                inputs += self._weights(task.weights)
                self._model(task, folder, inputs)
            case CollectTask():
                made = self._dataset(
                    task.name, Shards(folder / "shards"), {"inputs": inputs, "model": task.stage.model}
                )
                self.run.log_artifact(made, aliases=[task.name])

    def report(self, results: RunResults) -> None:
        """The report and the figures."""
        artifact = self._artifact(f"report-{self.run.id}", "report", {"step": results.step})
        for file in results.files:
            artifact.add_file(str(file))
        self.run.log_artifact(artifact)

    def _model(self, task: TrainTask, folder: Path, inputs: list[str]) -> None:
        """A version of the run's model, under the name of its stage."""
        more = {"stage": task.name, "weights": task.stage.weights, "steps": task.stage.total_steps, "inputs": inputs}
        artifact = self._artifact(f"model-{self.run.id}", "model", more)
        for name in MODEL_FILES:
            if self.send_models:
                artifact.add_file(str(folder / name), policy="immutable")
            else:
                artifact.add_reference((folder / name).absolute().as_uri())
        self.run.log_artifact(artifact, aliases=[task.name, "latest"])

    def _dataset(self, name: str, shards: Shards, more: Mapping[str, Any] | None = None) -> wandb.Artifact:
        """Shards by their fingerprint, with a list of them."""
        facts = {"records": len(shards), "fingerprint": shards.fingerprint, "place": str(shards.folder)}
        artifact = self._artifact(f"records-{shards.fingerprint}", "dataset", {**facts, **(more or {})}, name)
        listed = [{"shard": shard, "records": len(rows)} for shard, rows in shards.by_file()]
        with artifact.new_file("shards.json") as file:
            json.dump({"fingerprint": shards.fingerprint, "shards": listed}, file, indent=1)
        for entry in listed if self.send_data else ():
            place = (Path(shards.folder) / str(entry["shard"])).absolute()  # `wandb sync` reads it, from any folder
            if place.is_file():
                artifact.add_file(str(place), name=str(entry["shard"]), policy="immutable")
        return artifact

    def _weights(self, weights: Output) -> list[str]:
        """The model that a stage began from: of this run, or an input of it."""
        if weights.own or weights.folder is None:
            return [] if weights.folder is None else [f"model-{self.run.id}:{weights.folder.name}"]
        artifact = self._artifact(f"model-{weights.fingerprint}", "model", {"place": str(weights.folder)})
        artifact.add_reference((weights.folder / "model.safetensors").absolute().as_uri())
        self._use(artifact)
        return [artifact.name]

    def _use(self, artifact: wandb.Artifact) -> None:
        """Note an input, as `Run.use_artifact` does a new one; but offline too, and without waiting for the server."""
        if hasattr(self.run, "_log_artifact"):
            self.run._log_artifact(artifact, use_after_commit=True, is_user_created=True)
        elif not self.run.offline:
            self.run.use_artifact(artifact)

    def _artifact(self, name: str, kind: str, facts: Mapping[str, Any], title: str = "") -> wandb.Artifact:
        import wandb

        return wandb.Artifact(name, kind, description=title or None, metadata=redacted(dict(facts)))

    def _collected(self, name: str) -> bool:
        return isinstance(self.settings.curriculum.stages.get(name), config.CollectStage)


def _datasets(task: Task) -> Iterator[tuple[str, Shards]]:
    """Every dataset that a stage reads, by the name that the stage has for it."""
    match task:
        case TrainTask():
            names, records = list(task.stage.data), task.records
        case CollectTask() | EvalTask() | ExportTask():
            names, records = [task.stage.data], task.questions
    for part in records.stream().parts:
        yield part.name or names[0], part.shards
