"""A collection in parts: each has its own shards, ledger and failures; the merge puts them together, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dress.base.files import checksum, place, read_json, read_lines, write_json, write_lines
from dress.base.parts import PART, Part, check_files, finish_part, required_facts
from dress.base.run_folder import folder_aside
from dress.config.commands import CollectCommand
from dress.config.tasks import Merge
from dress.data.index_file import INDEX, read_index
from dress.feedback.annotate import FAILURES
from dress.feedback.result import BEGIN, LEDGER, UNUSED, show
from dress.llm.merging import merge_ledgers
from dress.rollout.answers_file import FileResponder
from dress.rollout.responder import Responder

COLLECT = "collect"


def finish(folder: Path, beginning: Mapping[str, Any], responder: Responder) -> None:
    """Mark a part as done.

    Args:
        folder: of the part.
        beginning: what it was begun with (collect.json).
        responder: who answered; of a file the merge has to know which rows did.
    """
    identity = {name: value for name, value in beginning.items() if name != "out"}
    used = None
    if isinstance(responder, FileResponder):
        used, identity["answers"] = sorted(responder.used), checksum(Path(str(beginning["responder"])))
    files = [*sorted(folder.glob("shard-*.tar")), *folder.glob(FAILURES)]
    sums = {file.name: checksum(file) for file in files}
    finish_part(folder, COLLECT, identity, {"used": used, "files": sums})


def is_finished(folder: Path, settings: CollectCommand) -> bool:
    """Whether a part is done, and nothing in it is to be asked again; it is not done any more where something is."""
    if any(getattr(calls, "retry_failed", False) for calls in (settings.server, settings.annotator)):
        (folder / PART).unlink(missing_ok=True)
    return (folder / PART).exists()


def merge(parts: Sequence[Part], settings: Merge, console: Console) -> Path:
    """Make of all parts what one process would have written to `settings.out`; links shards where it can.

    Raises:
        ValueError: a part was changed since it was finished, `out` holds something else, or there is no shard.
    """
    required_facts(parts, "used")
    out = Path(settings.out)
    shards = {name: part for part in parts for name in part.facts["files"] if name.endswith(".tar")}
    if _is_there(out, shards):
        console.print(f"Nothing to do: {out} holds these parts already.", highlight=False)
        return out
    if not shards:
        raise ValueError(f"parts={settings.parts}: no question got an answer; {FAILURES} in each says why")
    with folder_aside(out) as aside:
        for part in parts:
            check_files(part)
        for name, part in shards.items():
            place(part.folder / name, aside / name)
        failed = [part.folder / FAILURES for part in parts if FAILURES in part.facts["files"]]
        failures = [row for file in failed for row in read_lines(file)]
        if failures:
            write_lines(aside / FAILURES, failures)
        unused = _unused(parts)
        if unused:
            write_lines(aside / UNUSED, unused)
        ledgers = [file for part in parts if (file := part.folder / LEDGER).is_file()]
        if ledgers:
            merge_ledgers(ledgers, aside / LEDGER)
        write_json(aside / BEGIN, read_json(parts[0].folder / BEGIN, dict) | {"out": settings.out})
        show(aside, failures, unused, console)
    console.print(f"of {len(parts)} parts: {out}", highlight=False)
    return out


def _is_there(out: Path, shards: Mapping[str, Part]) -> bool:
    """Whether a folder holds just these shards."""
    if not (out / BEGIN).is_file() or (index := read_index(out / INDEX)) is None:
        return False
    return {shard.name: shard.sha256 for shard in index.shards} == {
        name: part.facts["files"][name] for name, part in shards.items()
    }


def _unused(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The rows of a file of answers that no part used."""
    if parts[0].facts["used"] is None:
        return []
    responder = FileResponder(Path(parts[0].identity["responder"]))
    responder.used.update(line for part in parts for line in part.facts["used"])
    return responder.unused
