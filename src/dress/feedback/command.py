"""What `src/collect.py` does, to be called from a notebook too: who answers, which questions, who judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from dress.base.files import read_json, write_json, write_lines
from dress.base.parts import PART_WAIT, PartNumber
from dress.base.progress import CurriculumProgress
from dress.base.run_folder import lock, read_marker, unlock
from dress.base.terminal import Terminal
from dress.config import CollectCommand, CollectSettings, Config, Consent
from dress.config.graph import last_trained
from dress.config.inherited import described, inherited
from dress.config.names import check_name
from dress.config.no_result import BY_CONTENT, NO_RESULT
from dress.config.raters import LLM, Calls
from dress.data.shards import Shards
from dress.feedback.annotate import FAILURES, gather, storing
from dress.feedback.collect import Collection
from dress.feedback.estimate import estimate, estimate_table
from dress.feedback.parts import finish, is_finished
from dress.feedback.raters import build_rater, check_rater, identity
from dress.feedback.result import BEGIN, LEDGER, UNUSED, show
from dress.llm.client import build_client
from dress.llm.request import Stopped
from dress.rollout.answers_file import FileResponder
from dress.rollout.conversation import Rollout
from dress.rollout.kinds import is_set, responder_kind, run_settings
from dress.rollout.responder import GivenAnswers, Responder, Sampling
from dress.rollout.server import SERVER_TOKENS, ServerResponder
from dress.worlds.prepared import open_prompts


def collect_from(settings: CollectCommand, console: Console | None = None) -> Path:
    """Write answers with feedback to `settings.out`; goes on where an earlier call stopped.

    Args:
        settings: the command's; from Python, `CollectCommand(responder=…, out=…, records=…, annotator={"kind": …})`.
        console: shows progress and tables; None takes the terminal.

    Returns:
        The folder of the shards; with `dry_run` nothing is written.

    Raises:
        FileNotFoundError: no such responder, or its stage holds no model.
        ValueError: `out` was begun with other settings, the annotator cannot judge these records, or it had to stop
            (see `llm.request.Stopped`).
    """
    part = None if settings.part is None else PartNumber.parse(settings.part)
    if part is not None:
        settings = _of_part(settings, part)
    try:
        return _collect(settings, part, console or Terminal())
    finally:
        unlock(Path(settings.out))


def _of_part(settings: CollectCommand, part: PartNumber) -> CollectCommand:
    """The settings of a part, which has a folder, a ledger, and of what may be spent a share of its own."""
    own: dict[str, Any] = {"out": str(part.folder(Path(settings.out)))}
    for name in ("annotator", "server"):
        calls = getattr(settings, name)
        if isinstance(calls, Calls) and calls.budget is not None and calls.ledger is None:
            own[name] = calls.model_copy(update={"budget": calls.budget / part.of})
    return settings.model_copy(update=own)


def _collect(settings: CollectCommand, part: PartNumber | None, console: Console) -> Path:
    kind, out = _kind(settings.responder), Path(settings.out)
    if kind == "set":
        _check_given(settings)
    run = None if kind == "set" else run_settings(settings.responder, settings)
    if settings.condition != "none" and kind not in ("checkpoint", "model"):
        raise ValueError(
            f"condition={settings.condition}: expected a run or a model's folder as responder, got {settings.responder}"
        )
    if run is not None:
        settings = settings.model_copy(update={"stage": _stage(settings, run)})
    annotator = inherited("annotator", settings.annotator, run, settings.data)
    if annotator != settings.annotator:
        console.print(f"annotator: {described(annotator)}", highlight=False, markup=False)
    settings = settings.model_copy(update={"annotator": annotator})
    check_rater(settings.annotator)
    stage = CollectSettings(**{name: getattr(settings, name) for name in CollectSettings.model_fields})
    most = settings.max_new_tokens or (run.generation.max_new_tokens if run else SERVER_TOKENS)
    with CurriculumProgress(console, {}) as progress:
        prompts = _prompts(settings, run, progress)
        asked = stage.asked(len(prompts))  # before anything is made
        if kind == "set" and len(asked) < len(prompts):
            part_of = f"{len(asked):,} of {len(prompts):,} records"
            console.print(f"the answers of {part_of} are judged (records={stage.records:,})", highlight=False)
        if settings.dry_run:
            server = settings.server if kind == "server" else None
            estimates = estimate(prompts, stage, most, settings.annotator, server, kind == "set")
            files = {"answers": settings.server.ledger, "feedback": getattr(settings.annotator, "ledger", None)}
            console.print(estimate_table(estimates, {name: Path(file or out / LEDGER) for name, file in files.items()}))
            return out
        beginning = _begin(out, settings, prompts, most)
        if part is not None and is_finished(out, settings):
            console.print(f"Nothing to do: {out} is finished.", highlight=False)
            return out
        rater = build_rater(settings.annotator, out, console)
        responder, conditions = _responder(settings, kind, run)
        if kind in ("checkpoint", "model"):
            responder = storing(responder, rater, _weights(settings, kind))
        condition = conditions[settings.condition]
        sampling = Sampling(most, settings.batch_size, stage.temperature, stage.top_p, condition)
        try:
            rollout = Rollout(responder, rater, sampling, settings.seed)
            failures = gather("collect", rollout, Collection(prompts, stage, out, part), progress)
        except Stopped as stop:
            raise Stopped(f"{stop}. The same command goes on from here") from None
        progress.end()
    unused = responder.unused if isinstance(responder, FileResponder) else []
    if unused:
        write_lines(out / UNUSED, unused)
    if part is not None:
        finish(out, beginning, responder)
        console.print(f"part {part}: {out}", highlight=False)
        return out
    if not any(out.glob("shard-*.tar")):
        raise ValueError(f"{out}: no question got an answer; {out / FAILURES} says why")
    show(out, failures, unused, console)
    return out


def _kind(name: str) -> Literal["checkpoint", "model", "file", "server", "set"]:
    """As `responder_kind`, and `set` for a folder of shards, whose own answers are judged again."""
    return "set" if is_set(name) else responder_kind(name)


def _check_given(settings: CollectCommand) -> None:
    """Refuse settings that say how answers are drawn, or whose questions are asked.

    Raises:
        ValueError: there are some.
    """
    for name in ("turns", "samples", "temperature", "top_p", "condition", "data", "shards", "max_new_tokens"):
        value, usual = getattr(settings, name), CollectCommand.model_fields[name].default
        if value != usual:
            raise ValueError(
                f"{name}={value}: the answers of {settings.responder} are judged as they stand there, each of them "
                f"once; leave {name} out"
            )
    if Path(settings.responder).resolve() == Path(settings.out).resolve():
        raise ValueError(f"out={settings.out}: expected another folder than responder, whose shards stay as they are")


def _stage(settings: CollectCommand, run: Config) -> str:
    """Whose model answers: the stage that is named, or the run's last.

    Raises:
        ValueError: the run trained no such stage.
    """
    names = run.curriculum.train_stages()
    if settings.stage is not None and settings.stage not in names:
        raise ValueError(
            f"stage={settings.stage}: expected a stage that {settings.responder} trained: {', '.join(names)}"
        )
    return settings.stage or last_trained(run.curriculum)


def _prompts(settings: CollectCommand, run: Config | None, progress: CurriculumProgress) -> Shards:
    """The records whose questions are asked."""
    data = settings.data or (run.data if run else None)
    shards = settings.responder if is_set(settings.responder) else settings.shards
    if shards is None and data is None:
        raise ValueError(
            f"responder={settings.responder}: expected somebody whose questions are asked: data=shapes, "
            f"data=shards data.path=DIR (its prompts), or shards=DIR"
        )
    return open_prompts(shards, data, progress)


def _responder(settings: CollectCommand, kind: str, run: Config | None) -> tuple[Responder, dict[str, str]]:
    """Who answers, and the conditions that it can be asked under: name to text.

    Raises:
        ValueError: it does not know the condition.
    """
    if kind == "server":
        client = build_client(settings.server.endpoint(settings.responder), Path(settings.out))
        return ServerResponder(client, settings.server.sees_image, settings.server.system), {"none": ""}
    if kind == "file":
        return FileResponder(Path(settings.responder)), {"none": ""}
    if kind == "set":
        return GivenAnswers(), {"none": ""}
    from dress.model.checkpoint import available_device, load_model, read_facts
    from dress.rollout.checkpoint import CkptResponder

    if kind == "model":
        from dress.rollout.model_folder import open_model

        opened = open_model(Path(settings.responder), available_device(), settings.keep_cache)
        check_name("condition", settings.condition, opened.conditions, "one of {}")
        return opened.responder, opened.conditions
    assert run is not None
    data = settings.data or run.data
    model, _ = load_model(_stage_folder(settings), available_device(), consent=settings)
    under = "" if settings.condition == "none" else f" ({settings.condition})"
    responder = CkptResponder(model, f"{run.name}/{settings.stage}{under}", settings.keep_cache, data.max_aspect)
    return responder, read_facts(_stage_folder(settings), "conditions")["conditions"]


def _stage_folder(settings: CollectCommand) -> Path:
    """Where the answering model of a run lies."""
    return Path(settings.responder) / "stages" / str(settings.stage)


def _weights(settings: CollectCommand, kind: str) -> str:
    """What tells one model's answers from another's."""
    if kind == "model":
        files = sorted(Path(settings.responder).resolve().glob("*.safetensors"))
        return ", ".join(f"{file} {(facts := file.stat()).st_size} {facts.st_mtime_ns}" for file in files)
    marker = _stage_folder(settings) / "done.json"
    return str(read_marker(marker)["fingerprint"]) if marker.exists() else str(marker.parent.resolve())


def _begin(out: Path, settings: CollectCommand, prompts: Shards, most: int) -> dict[str, Any]:
    """Refuse a folder that was begun with settings, prompts or weights that give other shards; what it is begun with.

    A part waits for one that a killed launcher has left behind to end.
    """
    without: Any = dict.fromkeys(("part", "dry_run", "shards", "keep_cache", *Consent.model_fields), True)
    without |= {"server": set(LLM.model_fields) - {"model"}, "data": {*NO_RESULT["data"], *BY_CONTENT}}
    if not settings.skip:  # collections that were begun before there was such a setting go on
        without["skip"] = True
    begin = settings.model_dump(exclude=without)
    begin |= {"annotator": identity(settings.annotator), "prompts": prompts.fingerprint, "max_new_tokens": most}
    kind = _kind(settings.responder)
    if kind in ("checkpoint", "model"):  # logs/latest may be another run by now
        begin["responder"] = _weights(settings, kind)
    if kind == "set":
        begin["responder"] = prompts.fingerprint
    out.mkdir(parents=True, exist_ok=True)
    lock(out, PART_WAIT if settings.part else 0.0)
    file = out / BEGIN
    if file.exists() and read_json(file, dict, "Choose another out=") != begin:
        raise ValueError(f"out={out}: begun with other settings ({file}); choose another folder")
    write_json(file, begin)
    return begin
