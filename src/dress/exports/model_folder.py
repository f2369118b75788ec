"""A trained model becomes a folder for others: written aside, compared with what was trained, then renamed."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors import SafetensorError

from dress import config
from dress.base.errors import in_one_line
from dress.base.files import read_json, write_json, write_text
from dress.config.export import ExportSettings
from dress.config.graph import lineage
from dress.config.stages import TrainStage
from dress.data.licences import NOT_STATED, licences_of
from dress.data.shards import Sample
from dress.dialogue.condition_check import check_condition
from dress.dialogue.jinja_condition import conditioned
from dress.dialogue.jinja_text import start_of, template_of
from dress.exports.bases import bases_of
from dress.exports.model_card import CardFacts, model_card
from dress.exports.parts import write_parts_of
from dress.exports.proof import Figures, prove
from dress.exports.writing import check_place
from dress.model.composed import ComposedLVLM
from dress.model.export.adapter import write_adapter
from dress.model.export.composed import NoClass, composed_parts
from dress.model.export.folder import own_generation, round_weights, write_merged, write_parts, write_processor
from dress.model.export_facts import ExportFacts, write_export
from dress.model.hf import HFLVLM
from dress.model.lvlm import LVLM, PARTS

CARD, PROOF = "README.md", "proof.json"
UNCONDITIONED = "chat_template.unconditioned.jinja"


@dataclass(frozen=True)
class TrainedModel:
    """What is exported.

    Attributes:
        run: settings of its run.
        stage: that trained it.
        model: in fp32, on the CPU.
        conditions: name to text.
        condition: name of the one it is meant to be asked under.
        metrics: of the run; empty without an evaluation.
    """

    run: config.Config
    stage: str
    model: LVLM
    conditions: dict[str, str]
    condition: str
    metrics: dict[str, Any]


def check_form(settings: ExportSettings, run: config.Config, stage: str) -> None:
    """Refuse an adapter of what an adapter cannot hold, before anything is trained or loaded.

    Args:
        settings: of the export.
        run: settings of the run.
        stage: the train stage whose model is exported.

    Raises:
        ValueError: names what is in the way.
    """
    if not settings.adapter:
        return
    if not isinstance(run.model, config.HFModel):
        raise ValueError(
            "adapter=true: expected model=hf, whose base others can load; got model=composed, of which no base is "
            "published. Leave adapter=true out: a whole folder"
        )
    where = f"adapter=true: {run.model.name}"
    if run.model.lora is None:
        raise ValueError(f"{where}: expected model.lora, got a run without. Leave adapter=true out: merged weights")
    whole = trained_parts(run, stage) & {"vision", "language"}
    if whole:
        raise ValueError(f"{where}: {', '.join(sorted(whole))} was trained, more than an adapter holds. Leave it out")


def export_model(
    trained: TrainedModel, settings: ExportSettings, samples: Sequence[Sample], out: Path, console: Console
) -> Figures | None:
    """Write a trained model as a folder that transformers (or peft) loads.

    Args:
        trained: what.
        settings: in which form.
        samples: records of the run, to compare answers on.
        out: the folder; nothing stands there.
        console: for progress, and what a person should know.

    Returns:
        How equal the folder is to what was trained; None where no class of transformers computes what the model does,
        and its parts were written.

    Raises:
        ValueError: a condition that its template cannot carry, or a folder that gives something else.
        OSError: it cannot be written.
    """
    check_place(out)
    out = out.absolute()
    check_form(settings, trained.run, trained.stage)
    name = settings.condition or trained.condition
    text = trained.conditions[name]
    for base in bases_of(trained.run.model):
        if base.forbids_changes and not settings.adapter:
            console.print(
                f"{base.name} stands under {base.licence}, which allows no changed copies: an adapter (adapter=true) "
                f"holds none of its weights", style="yellow", highlight=False, markup=False,
            )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)  # of an export that was killed
    aside.mkdir()
    try:
        _check_space(trained.model, settings, aside)
        try:
            with console.status("writing the model"):
                class_name = _write(trained, settings, text, aside)
        except NoClass as why:
            assert isinstance(trained.model, ComposedLVLM)
            with console.status("writing its parts"):
                write_parts_of(trained.model, f"{trained.run.name}, stage {trained.stage}", text, str(why), aside)
            _rename(aside, out)
            console.print(
                f"{out}: no class of transformers computes what this model does ({why}): its language model, projector "
                f"and encoder are written instead (docs/exporting.md)", style="yellow", highlight=False, markup=False,
            )  # fmt: skip
            return None
        facts = ExportFacts(
            run=trained.run.name, stage=trained.stage, form="adapter" if settings.adapter else "merged",
            condition=name if text else None, conditions=trained.conditions,
            advice_condition=_advice(trained), max_new_tokens=trained.run.generation.max_new_tokens,
            gap=trained.model.encoder.chat.gap, template=UNCONDITIONED if text else None,
        )  # fmt: skip
        write_export(aside, facts)
        with console.status("comparing it with what was trained"), tempfile.TemporaryDirectory() as beside:
            some = samples[: settings.compared]
            longest = trained.run.generation.max_new_tokens
            figures = prove(trained.model, some, text, longest, aside, Path(beside))
        wrong = list(figures.differences())
        if wrong:
            raise ValueError(f"out={out}: the written folder is not the model that was trained: {'; '.join(wrong)}")
        if figures.answers_from_pixels < figures.examples:
            differ = figures.examples - figures.answers_from_pixels
            console.print(
                f"{differ} of {figures.examples} answers differ where the folder's own image processor makes pixels, "
                f"which reads images otherwise than the run ({CARD} says how far)",
                style="yellow", highlight=False, markup=False,
            )  # fmt: skip
        write_json(aside / PROOF, asdict(figures))
        if settings.dtype == "bfloat16":
            round_weights(aside)
        _write_card(trained, settings, (name, text), class_name, figures, aside)
        _open_to_readers(aside)
        _rename(aside, out)
    except SafetensorError as error:  # how safetensors says that a file cannot be written
        free = shutil.disk_usage(out.parent).free / 1e9
        raise OSError(f"{out}: cannot be written ({in_one_line(error)}; {free:.2f} GB free there)") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return figures


def check_class(model: LVLM, run: config.Config) -> None:
    """Refuse a model that no class of transformers computes, before anything is trained.

    Raises:
        NoClass: says why there is none.
    """
    if isinstance(model, ComposedLVLM) and isinstance(run.model, config.ComposedModel):
        composed_parts(model, run.model, run.generation.max_new_tokens)


def write_for_server(trained: TrainedModel, out: Path, rounded: bool) -> None:
    """Write a model as a folder that a server reads, without condition, card and proof.

    Args:
        trained: what.
        out: the folder; nothing stands there.
        rounded: its weights to bfloat16.

    Raises:
        OSError: it cannot be written.
    """
    out.mkdir(parents=True)
    _check_space(trained.model, ExportSettings(), out)
    try:
        _write(trained, ExportSettings(), "", out)
    except SafetensorError as error:
        raise OSError(f"{out}: cannot be written ({in_one_line(error)})") from error
    if rounded:
        round_weights(out)


def _open_to_readers(folder: Path) -> None:
    """Files that a library wrote for its user alone, as readable as others that this user makes."""
    usual = stat.S_IMODE((folder / CARD).stat().st_mode)
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(usual)


def _rename(aside: Path, out: Path) -> None:
    if out.exists():  # and is empty
        out.rmdir()
    aside.replace(out)


def _write(trained: TrainedModel, settings: ExportSettings, condition: str, folder: Path) -> str:
    """Weights, configuration, processor and templates; returns the name of the class that loads them."""
    model, run = trained.model, trained.run
    chat, longest = model.encoder.chat, run.generation.max_new_tokens
    match model, run.model:
        case HFLVLM(), config.HFModel() as described:
            processor, image = model.processor, str(model.processor.image_token)
            if settings.adapter:
                write_adapter(model, described, "projector" in trained_parts(run, trained.stage), folder)
            else:
                write_merged(model, folder)
            own_generation(model, longest).save_pretrained(folder)
            class_name = type(model.network).__name__
        case ComposedLVLM(), config.ComposedModel() as described:
            parts = composed_parts(model, described, longest)
            write_parts(parts, folder)
            processor, image, class_name = parts.processor, parts.image, str((parts.config.architectures or [""])[0])
        case _:
            raise TypeError(f"{type(model).__name__} of {type(run.model).__name__}")
    template = template_of(chat, image, start_of(model.encoder))
    if condition:
        check_condition(chat, template, condition, processor.tokenizer)
        write_text(folder / UNCONDITIONED, template)
        template = conditioned(template, condition)
    write_processor(processor, template, bool(model.encoder.before), folder)
    return class_name


def trained_parts(run: config.Config, stage: str) -> set[str]:
    """Parts of a stage's model that a stage of its lineage trained."""
    stages = (run.curriculum.stages[name] for name in lineage(run.curriculum, stage))
    return {part for one in stages if isinstance(one, TrainStage) for part in one.trainable}


def _advice(trained: TrainedModel) -> str:
    advice = trained.run.eval.refine_condition
    return advice if advice in trained.conditions else "none"


def _check_space(model: LVLM, settings: ExportSettings, folder: Path) -> None:
    """Raises OSError: less room than the weights that are written take."""
    written = {"lora", "projector"} if settings.adapter else set(PARTS)
    needed = sum(4 * value.numel() for name, value in model.named_parameters() if model.part_of(name) in written)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: expected {needed / 1e9:.2f} GB free for the weights, got {free / 1e9:.2f} GB. Choose another "
            f"out="
        )


def _write_card(
    trained: TrainedModel, settings: ExportSettings, condition: tuple[str, str], class_name: str, proof: Figures,
    folder: Path,
) -> None:  # fmt: skip
    bases = bases_of(trained.run.model)
    stated = [base.licence for base in bases]
    licence = settings.license or (stated[0] if len(set(stated)) == 1 and stated[0] != NOT_STATED else None)
    data = trained.run.data
    facts = CardFacts(
        run=trained.run, stage=trained.stage, condition=condition if condition[1] else None,
        template=UNCONDITIONED if condition[1] else None, form="adapter" if settings.adapter else "merged",
        class_name=class_name, licence=licence, bases=bases,
        licences=licences_of(Path(data.path)) if data.path and Path(data.path).exists() else {},
        metrics=trained.metrics, proof=proof, dtype=settings.dtype,
    )  # fmt: skip
    write_text(folder / CARD, model_card(facts))
    for base in bases:
        for file in base.licence_files:
            name = file.name if len(bases) == 1 else f"{file.stem}.{base.name}{file.suffix}"
            shutil.copyfile(file, folder / name)


def read_metrics(run: Path) -> dict[str, Any]:
    """A run's metrics.json; empty without one."""
    file = run / "metrics.json"
    metrics: dict[str, Any] = read_json(file, dict) if file.is_file() else {}
    return metrics
