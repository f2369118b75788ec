"""What `src/collect.py` does: who answers, which questions, who judges, and where it goes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dress.base.files import read_json, write_json, write_lines
from dress.base.progress import CurriculumProgress
from dress.base.run_folder import lock, read_marker, unlock
from dress.config import CollectCommand, CollectSettings, Config, Consent, Data
from dress.config.no_result import BY_CONTENT, NO_RESULT
from dress.config.raters import LLM
from dress.data.shards import Shards
from dress.data.stream import open_split
from dress.feedback.annotate import FAILURES, gather, keeping
from dress.feedback.collect import endings_table, ratings_table
from dress.feedback.estimate import estimate, estimate_table
from dress.feedback.lvlm_nlf import write_lvlm_nlf
from dress.feedback.rater import build_rater, check_rater, identity
from dress.llm.client import build_client
from dress.llm.request import Stopped
from dress.rollout.responders import FileResponder, Responder, Sampling, ServerResponder
from dress.rollout.source import SERVER_TOKENS, Source
from dress.train.show import ratings_as_table
from dress.worlds.prepared import prepared

LEDGER, UNUSED, BEGAN = "ledger.sqlite", "unused_answers.jsonl", "collect.json"


def collect_from(settings: CollectCommand, console: Console) -> Path:
    """Write answers with feedback to `settings.out`; goes on where an earlier call stopped.

    Raises:
        FileNotFoundError: no such responder, or its stage holds no model.
        ValueError: `out` was begun with other settings, the annotator cannot judge these records, or it had to stop
            (see `feedback.request.Stopped`).
    """
    try:
        return _collect(settings, console)
    finally:
        unlock(Path(settings.out))


def _collect(settings: CollectCommand, console: Console) -> Path:
    source, out = Source(settings.responder), Path(settings.out)
    trained, kind = source.trained(settings), source.kind
    if settings.condition != "none" and kind != "ckpt":
        raise ValueError(f"condition={settings.condition}: expected a run as responder, got {settings.responder}")
    check_rater(settings.annotator)
    stage = CollectSettings(**{name: getattr(settings, name) for name in CollectSettings.model_fields})
    most = settings.max_new_tokens or (trained.generation.max_new_tokens if trained else SERVER_TOKENS)
    with CurriculumProgress(console, {}) as progress:
        prompts = _prompts(settings, trained, progress)
        if settings.dry_run:
            server = settings.server if kind == "server" else None
            found = estimate(prompts, stage, most, settings.annotator, server)
            named = {"answers": settings.server.ledger, "feedback": getattr(settings.annotator, "ledger", None)}
            console.print(estimate_table(found, {name: Path(file or out / LEDGER) for name, file in named.items()}))
            return out
        _begin(out, settings, prompts, most)
        rater = build_rater(settings.annotator, out, console)
        responder = _responder(settings, kind, trained)
        if kind == "ckpt":
            responder = keeping(responder, rater, _weights(settings))
        condition = _condition(settings) if kind == "ckpt" else ""
        sampling = Sampling(most, settings.batch_size, stage.temperature, stage.top_p, condition)
        try:
            failed = gather("collect", responder, rater, prompts, out, stage, sampling, settings.seed, progress)
        except Stopped as stop:
            raise Stopped(f"{stop}. The same command goes on from here") from None
        progress.end()
    unused = responder.unused if isinstance(responder, FileResponder) else []
    if unused:
        write_lines(out / UNUSED, unused)
    if not any(out.glob("shard-*.tar")):
        raise ValueError(f"{out}: no question got an answer; {out / FAILURES} says why")
    _tell(out, failed, unused, console)
    return out


def _prompts(settings: CollectCommand, trained: Config | None, progress: CurriculumProgress) -> Shards:
    """The records whose questions are asked."""
    data = settings.data or (trained.data if trained else None)
    if settings.shards is not None:
        return open_split(settings.shards, ".", data or Data(path="."))
    if data is None:
        raise ValueError(
            f"responder={settings.responder}: expected to be told whose questions are asked: data=shapes, "
            f"data=shards data.path=DIR (its prompts), or shards=DIR"
        )
    folder = prepared(data, lambda n: progress.start("shapes world", n), progress.advance)
    return open_split(data.prompts, folder, data)


def _responder(settings: CollectCommand, kind: str, trained: Config | None) -> Responder:
    if kind == "server":
        client = build_client(settings.server.endpoint(settings.responder), Path(settings.out))
        return ServerResponder(client, settings.server.sees_image, settings.server.system)
    if kind == "file":
        return FileResponder(Path(settings.responder))
    from dress.feedback.collect import CkptResponder
    from dress.model.checkpoint import available_device, load_model

    assert trained is not None
    folder, data = Path(settings.responder) / "stages" / settings.stage, settings.data or trained.data
    model, _ = load_model(folder, available_device(), consent=settings)
    under = "" if settings.condition == "none" else f" ({settings.condition})"
    return CkptResponder(model, f"{trained.name}/{settings.stage}{under}", settings.keep_cache, data.max_aspect)


def _condition(settings: CollectCommand) -> str:
    """The text of the run's condition."""
    from dress.model.checkpoint import read_facts

    facts = read_facts(Path(settings.responder) / "stages" / settings.stage, "conditions")
    return str(facts["conditions"][settings.condition])


def _weights(settings: CollectCommand) -> str:
    """What tells one model's answers from another's."""
    marker = Path(settings.responder) / "stages" / settings.stage / "done.json"
    return str(read_marker(marker)["fingerprint"]) if marker.exists() else str(marker.parent.resolve())


def _begin(out: Path, settings: CollectCommand, prompts: Shards, most: int) -> None:
    """Refuse a folder that was begun with settings, prompts or weights that give other shards."""
    unlike: Any = dict.fromkeys(("dry_run", "shards", "keep_cache", *Consent.model_fields), True)
    unlike |= {"server": set(LLM.model_fields) - {"model"}, "data": {*NO_RESULT["data"], *BY_CONTENT}}
    told = settings.model_dump(exclude=unlike)
    told |= {"annotator": identity(settings.annotator), "prompts": prompts.fingerprint, "max_new_tokens": most}
    if Source(settings.responder).kind == "ckpt":  # logs/latest may be another run by now
        told["responder"] = _weights(settings)
    out.mkdir(parents=True, exist_ok=True)
    lock(out)
    began = out / BEGAN
    if began.exists() and read_json(began, dict, "Choose another out=") != told:
        raise ValueError(f"out={out}: begun with other settings ({began}); choose another folder")
    write_json(began, told)


def _tell(out: Path, failed: list[dict[str, Any]], unused: list[dict[str, Any]], console: Console) -> None:
    shards = Shards(out)
    write_lvlm_nlf(out / "lvlm_nlf", shards)
    console.print(ratings_as_table(ratings_table(shards), endings_table(shards)))
    reasons = Counter((row["failed"], row["reason"]) for row in failed) + Counter(
        ("unused", r["reason"]) for r in unused
    )
    empty = sum(turn.assistant == "" for record, _ in shards for d in record.dialogues for turn in d.turns)
    reasons += Counter({("answer", "empty"): empty})
    if reasons:
        table = Table("what", "why", "number", title="not as it should be")
        for (what, why), number in sorted(reasons.items()):
            table.add_row(what, str(why), f"{number:,}")
        console.print(table)
    console.print(f"shards: {out}", highlight=False)
