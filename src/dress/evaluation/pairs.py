"""Outcomes of two runs about the same questions, put side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dress.evaluation.outcomes import Outcome, counted

Question = tuple[str, str, str]
"""Kind, first words of the user, and the reference: what two runs must have been asked alike."""


@dataclass(frozen=True)
class Pairing:
    """Answers of two runs to the same questions.

    Attributes:
        first: cell (`model/condition`) to its outcomes.
        second: the same of the other run, under the names of the first: cells, items.
        cells: cell of the first run to that of the second.
        only_first, only_second: questions that the other run was not asked.
        differing: keys of records that both have, but not with the same questions.
        alone: cells of each run that have no partner in the other.
    """

    first: Mapping[str, Sequence[Outcome]]
    second: Mapping[str, Sequence[Outcome]]
    cells: Mapping[str, str]
    only_first: int
    only_second: int
    differing: Sequence[str]
    alone: tuple[Sequence[str], Sequence[str]] = ((), ())

    @property
    def items(self) -> list[str]:
        """The questions of both, in the order of the first."""
        return list(dict.fromkeys(one.item for outcomes in self.first.values() for one in outcomes))


def pair(
    first: Sequence[Outcome], second: Sequence[Outcome], models: Mapping[str, str], conditions: Mapping[str, str]
) -> Pairing:
    """Join by model, condition, question and turn.

    A question is a record's key, its kind, the user's first words and the reference; of several equal ones of a record
    the first belongs to the first. An item's number does not count: it shifts where records were set aside. A record
    that both runs have with other questions is left out.

    Args:
        first: of all models and conditions.
        second: the same of the other run.
        models: label in the first run to label in the second; those that are not named go by their own. Where none is
            named, a single one of each run that has no partner goes with the other.
        conditions: the same of conditions.

    Raises:
        ValueError: a label that a run does not have, or the runs were not asked the same questions.
    """
    ours, theirs = _by_cell(first), _by_cell(second)
    cells = _cells(list(ours), list(theirs), models, conditions)
    known = all(any(one.reference for one in outcomes) for outcomes in (first, second))
    names, others = _names(first, known), _names(second, known)
    differing = _differing(names, others)
    shared = {key for key, *_ in names} & {key for key, *_ in others}
    place = {name: item for name, item in names.items() if name[0] not in differing}
    renamed = {item: place[name] for name, item in others.items() if name in place}
    if not renamed or len(differing) > len(shared) / 2:
        raise ValueError(
            "expected two runs that were asked the same questions, got other ones"
            + (f" under {len(differing):,} of {len(shared):,} equal keys" if differing else "")
            + f": the first asks {_example(names, differing)}, the second {_example(others, differing)}"
        )
    kept_first, kept_second = dict[str, list[Outcome]](), dict[str, list[Outcome]]()
    for cell, other in cells.items():
        model, condition = ours[cell][0].model, ours[cell][0].condition
        here = {(o.item, o.turn): o for o in counted(ours[cell])}
        there = {(renamed[o.item], o.turn): o for o in counted(theirs[other]) if o.item in renamed}
        both = [at for at in here if at in there]
        if not both:
            continue
        kept_first[cell] = [here[at] for at in both]
        kept_second[cell] = [
            replace(there[at], item=at[0], key=here[at].key, model=model, condition=condition) for at in both
        ]
    if not kept_first:
        raise ValueError("expected answers of both runs to the same questions, found none that are counted in both")
    kept = {cell: cells[cell] for cell in kept_first}
    alone = [cell for cell in ours if cell not in kept], [cell for cell in theirs if cell not in kept.values()]
    return Pairing(
        kept_first, kept_second, kept, len(names) - len(renamed), len(others) - len(renamed), sorted(differing), alone
    )


def _by_cell(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    cells: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        cells[f"{outcome.model}/{outcome.condition}"].append(outcome)
    return dict(cells)


def _cells(
    first: Sequence[str], second: Sequence[str], models: Mapping[str, str], conditions: Mapping[str, str]
) -> dict[str, str]:
    """Cell of the first run to that of the second."""
    ours, theirs = ([cell.rpartition("/") for cell in cells] for cells in (first, second))
    labels = _partners("models", [cell[0] for cell in ours], [cell[0] for cell in theirs], models)
    states = _partners("conditions", [cell[2] for cell in ours], [cell[2] for cell in theirs], conditions)
    pairs = {
        f"{model}/{condition}": f"{labels[model]}/{states[condition]}"
        for model, _, condition in ours
        if model in labels and condition in states
    }
    kept = {cell: other for cell, other in pairs.items() if other in second}
    if not kept:
        raise ValueError(
            f"expected a model and condition that both runs have, got {', '.join(first)} and {', '.join(second)}: say "
            f"which belong together, models={{LABEL: LABEL}} conditions={{NAME: NAME}}"
        )
    return kept


def _partners(setting: str, first: Sequence[str], second: Sequence[str], typed: Mapping[str, str]) -> dict[str, str]:
    """Name in the first run to name in the second: as typed, else equal ones, else what is left where that is one."""
    ours, theirs = list(dict.fromkeys(first)), list(dict.fromkeys(second))
    for run, names, known in (("first", typed.keys(), ours), ("second", typed.values(), theirs)):
        if missing := [name for name in names if name not in known]:
            raise ValueError(f"{setting}: expected one that the {run} run has, {', '.join(known)}, got {missing[0]}")
    partners = dict(typed)
    partners |= {name: name for name in ours if name in theirs and name not in typed and name not in typed.values()}
    alone = [name for name in ours if name not in partners]
    others = [name for name in theirs if name not in partners.values()]
    if setting == "models" and not typed and len(alone) == len(others) == 1:
        partners[alone[0]] = others[0]
    return partners


def _names(outcomes: Sequence[Outcome], references: bool) -> dict[tuple[str, Question, int], str]:
    """What every item is known by in another run: key, question, and the how-manieth equal one of its record it is."""
    items: dict[str, Outcome] = {}
    for outcome in outcomes:
        if not outcome.turn:
            items.setdefault(outcome.item, outcome)
    names: dict[tuple[str, Question, int], str] = {}
    seen: Counter[tuple[str, Question]] = Counter()
    for item in sorted(items, key=_number):
        one = items[item]
        place = (one.key, (one.kind, one.user or "", (one.reference or "") if references else ""))
        names[(*place, seen[place])] = item
        seen[place] += 1
    return names


def _number(item: str) -> tuple[int, str]:
    """The order of a run's questions: the number at the end of an item."""
    number = item.rpartition("/")[2]
    return (int(number) if number.isdecimal() else 0, item)


Names = Mapping[tuple[str, Question, int], str]


def _differing(first: Names, second: Names) -> set[str]:
    """Keys that both have, where neither's questions are some of the other's."""
    by_key: list[dict[str, set[tuple[Question, int]]]] = []
    for names in (first, second):
        questions: dict[str, set[tuple[Question, int]]] = defaultdict(set)
        for key, question, number in names:
            questions[key].add((question, number))
        by_key.append(questions)
    ours, theirs = by_key
    return {key for key in ours.keys() & theirs.keys() if not (ours[key] <= theirs[key] or theirs[key] <= ours[key])}


def _example(names: Names, differing: set[str]) -> str:
    """The first question that the other run does not have, and its item."""
    listed = sorted((key not in differing, key, question, item) for (key, question, _), item in names.items())
    if not listed:
        return "nothing"
    _, _, (_, user, _), item = listed[0]
    return f"{item} {user[:60]!r}"
