"""The tables of several annotators of the same answers."""

from __future__ import annotations

from collections.abc import Iterator

from dress.evaluation.statistics import RATINGS, Figure
from dress.inspection.annotators import Annotators, Pair
from dress.report.tables import NOTHING, Cell, Head, Row, Table

COLUMNS = ("n", "equal", "within 1", "difference", "alpha")


def annotator_tables(annotators: Annotators) -> Iterator[Table]:
    """Every two annotators, all together, and each against the standard; nothing where no answer was rated twice."""
    rows = []
    for criterion in annotators.by_criterion:
        pairs = [pair for pair in annotators.pairs if pair.criterion == criterion]
        rows += [Row(Head(f"{pair.first} → {pair.second}", criterion), _cells(pair)) for pair in pairs]
        if criterion in annotators.together:
            figure = annotators.together[criterion]
            blank = [Cell("")] * (len(COLUMNS) - 2)
            rows.append(Row(Head("all of them", criterion), [Cell(f"{figure['n']:,}"), *blank, _alpha(figure)]))
    if not rows:
        return
    yield Table("annotators", [Head(name) for name in COLUMNS], rows, "Do annotators agree?", _words(annotators))
    standard = " and ".join(label for number, label in annotators.labels.items() if number in annotators.standards)
    for name, criteria in annotators.against_standard.items():
        rows = [
            Row(Head(f"{standard}: {rating}", criterion), _against(counts, place))
            for criterion, table in criteria.items()
            for place, (rating, counts) in enumerate(zip(RATINGS, table, strict=True))
        ]
        columns = [*(Head(str(rating)) for rating in RATINGS), Head("equal")]
        words = (
            f"How many answers {name} rated 1 to {RATINGS[-1]} (columns) of those that {standard} rated so (rows), and "
            f"the share that it rated equal."
        )
        yield Table("rated", columns, rows, f"{name} against {standard}", words)


def _words(annotators: Annotators) -> str:
    beside = zip(annotators.sets[1:], annotators.rated[1:], annotators.paired[1:], strict=True)
    parts = [
        "Answers that both rated for a criterion (n), the share that they rated equal, and that they rated at most 1 "
        "apart; the mean of the second rating less the first; Krippendorff's alpha for ordered ratings: 1 where all "
        "are equal, 0 where they differ as by chance, and – where everybody gave everything one rating. It is low also "
        "where nearly all ratings are equal. Below each its 95 % interval, over records.",
        *(
            f"{data.path}: {paired:,} of its {rated:,} rated answers stand in this set."
            for data, rated, paired in beside
        ),
    ]
    if annotators.mapped:
        names = ", ".join(label for number, label in annotators.labels.items() if number in annotators.mapped)
        parts.append(f"Mapped from another scale: {names}.")
    return " ".join(parts)


def _cells(pair: Pair) -> list[Cell]:
    difference = pair.difference
    value, high = float(difference["value"] or 0), float(difference["high"] or 0)
    return [
        Cell(f"{difference['n']:,}"),
        _share(pair.equal),
        _share(pair.within_one),
        Cell(f"{value:+z.2f}", f"± {high - value:.2f}"),
        _alpha(pair.alpha),
    ]


def _share(figure: Figure) -> Cell:
    value, low, high = (100 * float(figure[name] or 0) for name in ("value", "low", "high"))
    return Cell(f"{value:.0f} %", f"{low:.0f}–{high:.0f}")


def _alpha(figure: Figure) -> Cell:
    if figure["value"] is None:
        return Cell(NOTHING)
    low, high = figure["low"], figure["high"]
    if low is None or high is None:
        return Cell(f"{figure['value']:z.2f}")
    return Cell(f"{figure['value']:z.2f}", f"{low:z.2f}{'–' if low >= 0 else ' to '}{high:z.2f}")


def _against(counts: list[int], place: int) -> list[Cell]:
    total = sum(counts)
    cells = [Cell(f"{number:,}", weight="best" if one == place else "") for one, number in enumerate(counts)]
    return [*cells, Cell(f"{100 * counts[place] / total:.0f} %" if total else NOTHING)]
