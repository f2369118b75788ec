"""What `src/collect.py task=attack` does, to be called from a notebook too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dress.attacks.nearest import Nearest
from dress.attacks.plan import Plan, evaluation_of_harm, open_images, plan_of, seen_texts
from dress.attacks.preview import estimates, show_preview
from dress.attacks.results import write_results
from dress.attacks.rounds import Rounds, Terms
from dress.attacks.team import Team, build_team, categories_of, check_team, identity, settled
from dress.base.files import read_json, write_json
from dress.base.progress import CurriculumProgress
from dress.base.run_folder import lock, unlock
from dress.base.terminal import Terminal
from dress.config.attacks import AttackCommand, LLMWriter
from dress.inspection.texts import digest
from dress.llm.request import Stopped

BEGIN = "attack.json"


def attack_from(settings: AttackCommand, console: Console | None = None) -> Path:
    """Write requests, twins and refusals to `settings.out`; goes on where an earlier call stopped.

    Args:
        settings: the command's; from Python, `AttackCommand(shards=…, out=…, attacker={"kind": …}, judge={"kind": …})`.
        console: shows progress and tables; None takes the terminal.

    Returns:
        The folder; with `dry_run` nothing is written.

    Raises:
        FileNotFoundError: no such images, set or ledger.
        ValueError: `out` was begun with other settings, no request was taken, or it had to stop (see
            `llm.request.Stopped`).
    """
    try:
        return _attack(settings, console or Terminal())
    finally:
        unlock(Path(settings.out))


def _attack(settings: AttackCommand, console: Console) -> Path:
    settings, out = settled(settings), Path(settings.out)
    check_team(settings)
    categories = categories_of(settings)
    with CurriculumProgress(console, {}) as progress:
        plan = plan_of(open_images(settings, progress), settings, categories)
        if settings.dry_run:
            console.print(estimates(settings, plan.asked))
            return out
        texts = seen_texts(settings)
        if (folder := evaluation_of_harm(settings, progress)) is not None:
            line = f"{folder} asks for harm, too; seen=[{folder}] keeps its questions out of what is written here"
            console.print(line, highlight=False, soft_wrap=True)
        beginning = _begin(out, settings, plan, texts)
        team = build_team(settings)
        rounds = Rounds(*team, terms_of(settings, team), Nearest(settings.near or team.attacker.near))
        if rounds.judges_itself:
            line = f"{team.judge.name} judges what it wrote itself, and will agree with it: judge=llm judge.model=NAME"
            console.print(line, highlight=False, soft_wrap=True)
        for text in texts:
            rounds.seen.add(text)
        try:
            if isinstance(settings.attacker, LLMWriter) and settings.attacker.preview:
                show_preview(settings.attacker, rounds, plan.asked[: settings.attacker.preview], console)
            _write(rounds, plan, progress)
        except Stopped as stop:
            raise Stopped(f"{stop}. The same command goes on from here") from None
    counts = write_results(rounds, plan, settings)
    write_json(out / BEGIN, beginning | {"counts": counts})
    for table in _tables(rounds, plan):
        console.print(table)
    if not rounds.attacks:
        faults = ", ".join(f"{reason} {n}" for (kind, reason), n in rounds.faults().most_common() if kind == "request")
        raise ValueError(
            f"{out}: none of {len(plan.asked)} requests was taken ({faults}); rejected.jsonl there has every draft"
        )
    line = f"requests: {out}. Read a sample of them and README.md before you pass them on"
    console.print(line, highlight=False, soft_wrap=True)
    return out


def terms_of(settings: AttackCommand, team: Team) -> Terms:
    """When a text is taken; what is null is the attacker's own."""
    return Terms(
        settings.rounds, settings.threshold, settings.alone, settings.near or team.attacker.near,
        settings.opening or team.attacker.opening, settings.twins, settings.references,
    )  # fmt: skip


def _write(rounds: Rounds, plan: Plan, progress: CurriculumProgress) -> None:
    """Slice after slice: what one repeats of another is known when it is written."""
    kinds = 1 + rounds.terms.twins + rounds.terms.references
    progress.start("attack", kinds * len(plan.asked))
    for part in plan.slices:
        settled_texts = 0

        def advance(n: int = 1, info: str = "") -> None:
            nonlocal settled_texts
            settled_texts += n
            progress.advance(n, info)

        rounds.write(part, advance)
        progress.advance(kinds * len(part) - settled_texts)  # twins and refusals of requests that were not taken
    progress.end()


def _begin(out: Path, settings: AttackCommand, plan: Plan, seen: Sequence[str]) -> dict[str, Any]:
    """Refuse a folder that was begun with settings or images that give other requests; what it is begun with."""
    without: Any = {"out", "data", "shards", "seen", "attacker", "judge", "dry_run"}
    stated = settings.model_dump(mode="json", exclude=without)
    stated |= {name: identity(getattr(settings, name), settings.file) for name in ("attacker", "judge")}
    stated |= {"images_of": plan.images.fingerprint, "seen": digest(*seen).hex() if seen else None}
    out.mkdir(parents=True, exist_ok=True)
    lock(out)
    file = out / BEGIN
    if file.exists() and read_json(file, dict, "Choose another out=").get("settings") != stated:
        raise ValueError(f"out={out}: begun with other settings ({file}); choose another folder")
    if not file.exists():
        write_json(file, {"settings": stated})
    return {"settings": stated}


def _tables(rounds: Rounds, plan: Plan) -> list[Table]:
    """What was taken by category, and why the rest was not."""
    asked = Counter(one.category for one in plan.asked)
    taken = Table("category", "asked for", "taken", "with a twin", "with a refusal", title="requests")
    for category, number in sorted(asked.items()):
        own = [attack for attack in rounds.attacks if attack.asked.category == category]
        counts = (number, len(own), sum(a.twin is not None for a in own), sum(a.reference is not None for a in own))
        taken.add_row(category, *(f"{count:,}" for count in counts))
    faults = Table("what", "why", "number", title="not taken")
    for (kind, reason), times in sorted(rounds.faults().items()):
        faults.add_row(kind, reason, f"{times:,}")
    for reason, times in plan.left_out.items():
        faults.add_row("image", reason, f"{times:,}")
    return [taken, *([faults] if faults.row_count else [])]
