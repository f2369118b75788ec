"""Two runs side by side, answer by answer: `python src/eval.py compare=RUN_A,RUN_B`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from rich.console import Console

from dress.base.files import place, read_json, write_json
from dress.config import Config, Count
from dress.config.consent import checked_run
from dress.config.inherited import described
from dress.config.raters import RaterSettings
from dress.evaluation.comparison import comparison
from dress.evaluation.outcomes import Outcome, load_outcomes
from dress.evaluation.output import OUTCOMES, RUN, say
from dress.evaluation.pairs import Pairing, pair
from dress.evaluation.settings import SuiteSettings
from dress.evaluation.suite import Json, suite

if TYPE_CHECKING:
    from dress.data.shards import Sample

FIGURES, PAGE, INPUTS = "compare.json", "compare.html", ("a.jsonl", "b.jsonl")


class Compare(SuiteSettings):
    """`python src/eval.py compare=RUN_A,RUN_B`: two runs over the questions that both were asked."""

    # Run folders, or folders of their evaluation; the first is what the second is measured by:
    compare: Annotated[list[str], Field(min_length=2, max_length=2)]
    models: dict[str, str] = Field(default={})  # label in the first: label in the second; else equal labels
    conditions: dict[str, str] = Field(default={})  # the same of conditions
    failures: Count = 120  # questions on the page
    shards: str | None = None  # a folder of shards with the pictures; null = the first run's own eval split
    judges: Literal["same", "any"] = "same"  # any: also where the runs were judged by different ones


class _Run:
    """One side of the comparison: its outcomes, and how they came about.

    Args:
        folder: of a run or of its evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / OUTCOMES).is_file():
            raise FileNotFoundError(f"compare: {folder}: expected a finished run with {OUTCOMES}, found none")
        self.details: Json = read_json(folder / RUN, dict) if (folder / RUN).is_file() else {}
        # An evaluation made again says which run it asked.
        self.again: Json = self.details.get("settings") or {}
        places = (folder, Path(str(self.again.get("ckpt", folder))), folder.parent)
        file = next((one / "config.json" for one in places if (one / "config.json").is_file()), None)
        self.config: Config | None = checked_run(file) if file else None

    def outcomes(self) -> list[Outcome]:
        """All that were kept.

        Raises:
            ValueError: they are of a suite.
        """
        outcomes = load_outcomes(self.folder / OUTCOMES)
        if not outcomes or not all(outcome.model for outcome in outcomes):
            raise ValueError(
                f"compare: {self.folder / OUTCOMES}: expected the answers of a run's models, got "
                f"{'those of a suite; compare suites with baseline=DIR' if outcomes else 'none'}"
            )
        return outcomes

    @property
    def judge(self) -> RaterSettings | None:
        """Who judged; None where nobody knows."""
        if (own := self.again.get("judge")) and own.get("kind") != "auto":
            return TypeAdapter(RaterSettings).validate_python(own)
        return self.config.judge if self.config else None

    @property
    def world(self) -> tuple[str, int] | None:
        """Name and seed of the world that its questions are from; None where they are from files."""
        data = self.config.data if self.config else None
        asked_others = bool(self.again.get("shards"))
        return None if data is None or data.world is None or asked_others else (data.world, data.world_seed)


@suite("compare", Compare, compute=lambda folder: compute(folder), file=FIGURES)
def compare(settings: Compare, console: Console) -> Json:
    """Write compare.json, compare.html and what they are made of.

    Raises:
        FileNotFoundError: a folder that holds no finished run.
        ValueError: the runs were asked other questions, or judged by different judges.
    """
    from dress.evaluation.compare_page import Side, figures_table, lead, write_comparison

    first, second = (_Run(Path(folder)) for folder in settings.compare)
    notes = _notes(first, second, settings)
    ours, theirs = first.outcomes(), second.outcomes()
    pairing = _paired(ours, theirs, settings)
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    for run, name in zip((first, second), INPUTS, strict=True):
        (out / name).unlink(missing_ok=True)
        place(run.folder / OUTCOMES, out / name)
    headline = first.details.get("headline") or {}
    details = {"settings": settings.model_dump(), "headline": headline, "notes": notes}
    write_json(out / RUN, details)
    result = _result(pairing, details)
    write_json(out / FIGURES, result)
    names = [run.folder.resolve().name for run in (first, second)]
    if names[0] == names[1]:
        names = list(settings.compare)
    sides = (
        Side("A", names[0], str(first.folder)), Side("B", names[1], str(second.folder)),
    )  # fmt: skip
    find = partial(_samples, first, settings, console)
    write_comparison(out / PAGE, result, pairing, sides, find, settings.failures)
    cell = result["headline"]
    for note in result["notes"]:
        say(note, console)
    console.print(figures_table(cell, result["cells"][cell], {}))
    console.print(lead(cell, result["cells"][cell], sides), highlight=False)
    others = len(result["cells"]) - 1
    say(f"{others} other models and conditions, and every answer: {out / PAGE}", console)
    return result


def compute(folder: Path) -> Json:
    """What compare.json must hold, from the outcomes and run.json beside it."""
    details = read_json(folder / RUN, dict)
    settings = Compare(**details["settings"])
    ours, theirs = (load_outcomes(folder / name) for name in INPUTS)
    return _result(_paired(ours, theirs, settings), details)


def _paired(first: list[Outcome], second: list[Outcome], settings: Compare) -> Pairing:
    try:
        return pair(first, second, settings.models, settings.conditions)
    except ValueError as error:
        raise ValueError(f"compare={','.join(settings.compare)}: {error}") from None


def _result(pairing: Pairing, details: Mapping[str, Any]) -> Json:
    figures = comparison(pairing)
    notes = list(details["notes"])
    for number, side, other in ((figures["only_a"], "A", "B"), (figures["only_b"], "B", "A")):
        if number:
            notes.append(f"{number:,} questions of {side} are in no figure: {other} was not asked them.")
    for cells, side in zip(pairing.alone, ("A", "B"), strict=True):
        if cells:
            notes.append(f"Only {side} has {', '.join(cells)}; models= and conditions= say which belong together.")
    if keys := figures["differing"]:
        notes.append(f"{len(keys):,} records are left out, for their questions differ ({', '.join(keys[:3])}).")
    named = [f"{model}/{condition}" for model, condition in details["headline"].items()]
    headline = next((cell for cell in reversed(named) if cell in pairing.cells), list(pairing.cells)[-1])
    runs = details["settings"]["compare"]
    return {"suite": "compare", "a": runs[0], "b": runs[1], "headline": headline, "notes": notes, **figures}


def _notes(first: _Run, second: _Run, settings: Compare) -> list[str]:
    """What a reader must know before the figures.

    Raises:
        ValueError: other questions, or another judge, make a comparison meaningless.
    """
    from dress.feedback.raters import identity

    paths = ",".join(settings.compare)
    if first.world and second.world and first.world != second.world:
        asked = " and ".join(f"{world} with data.world_seed={seed}" for world, seed in (first.world, second.world))
        raise ValueError(f"compare={paths}: expected the same questions, got those of {asked}")
    judges = first.judge, second.judge
    if judges[0] is None or judges[1] is None:
        unknown = " and ".join(str(run.folder) for run in (first, second) if run.judge is None)
        return [f"Who judged {unknown} is not known (no config.json): read differences only if it was the same."]
    if settings.judges == "any":
        names = [described(judge) for judge in judges if judge is not None]
        return [] if judges[0] == judges[1] else [f"A was judged by {names[0]}, B by {names[1]}."]
    if (ours := identity(judges[0])) != (theirs := identity(judges[1])):
        raise ValueError(
            f"compare={paths}: expected one judge for both, got {_short(ours)} and {_short(theirs)}: differences would "
            f"be the judges'. Judge one of them again (ckpt=RUN judge=…), or say judges=any"
        )
    return []


def _short(identity: Mapping[str, Any]) -> str:
    return ", ".join(str(value) for value in identity.values() if value not in (None, False))


def _samples(run: _Run, settings: Compare, console: Console, keys: set[str]) -> tuple[dict[str, Sample], list[str]]:
    """The records of these keys with their images, as far as they are here; and what is missing, in words."""
    from dress.data.stream import open_split
    from dress.worlds.prepared import prepared

    if run.config is None:
        return {}, ["No pictures: nothing says where they are."]
    data = run.config.data
    own = settings.shards or run.again.get("shards")
    try:
        folder = "." if own else prepared(data, lambda n: say(f"the world: {n:,} records", console), lambda: None)
        shards = open_split(own or data.eval, folder, data)
        samples = {sample[0].key: sample for sample in shards.readable(range(len(shards))) if sample[0].key in keys}
    except FileNotFoundError as error:
        if settings.shards:
            raise
        return {}, [f"No pictures: {error}. shards=DIR says where they are."]
    return samples, []
