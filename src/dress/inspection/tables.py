"""The tables of an inspection, for the terminal and for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dress.data.counts import Counts, mean_rating
from dress.evaluation.statistics import mean
from dress.inspection.annotator_tables import annotator_tables
from dress.inspection.inspecting import Inspection
from dress.inspection.leakage import WAYS, Leakage
from dress.record import TOP_RATING
from dress.report.tables import NOTHING, Table


def tables(inspection: Inspection) -> list[Table]:
    """All tables that have rows."""
    of_set = (_records, _sources, _ratings, _changes, _lengths, _findings)
    every_table = [
        *(table(inspection) for table in of_set),
        *annotator_tables(inspection.annotators),
        *_leakage(inspection.leakage),
    ]
    return [table for table in every_table if table.rows]


def _records(inspection: Inspection) -> Table:
    rows = [
        _row(split or "all", c.records, c.with_image, c.dialogues, c.questions, c.answers, _rated(c))
        for split, c in inspection.counts.items()
    ]
    head = ("split", "records", "with image", "dialogues", "questions", "answers", "rated")
    words = "Rated: ratings of answers; an answer that is rated for several criteria counts for each."
    return Table.of_texts("Records", words, head, rows)


def _sources(inspection: Inspection) -> Table:
    rows = []
    for split, counts in inspection.counts.items():
        rows += [_row(split, f"source {name}", number) for name, number in counts.sources.most_common()]
        rows += [_row(split, f"criterion {name}", number) for name, number in counts.criteria.most_common()]
    return _by_split("Sources and criteria", "Records by source, dialogues by criterion.", ("of", "number"), rows)


def _ratings(inspection: Inspection) -> Table:
    rows = []
    for split, counts in inspection.counts.items():
        for criterion, turns in counts.table().items():
            for turn, numbers in turns.items():
                rows.append(_row(split, criterion, turn, *numbers, _two(mean_rating(numbers))))
    head = ("criterion", "turn", *map(str, range(1, TOP_RATING + 1)), "not rated", "mean")
    words = (
        "How many answers were rated 1 to 4 (4 is best), the lowest of several annotators. Turn 0 is the first answer."
    )
    return _by_split("Answers by criterion, turn and rating", words, head, rows)


def _changes(inspection: Inspection) -> Table:
    rows = []
    for split, counts in inspection.counts.items():
        by_turn: dict[int, Counter[tuple[int, int]]] = {}
        for criterion, turns in sorted(counts.changes.items()):
            for turn, pairs in sorted(turns.items()):
                rows.append(_change(split, criterion, turn, pairs))
                by_turn.setdefault(turn, Counter()).update(pairs)
        if len(counts.changes) > 1:
            rows += [_change(split, "all", turn, pairs) for turn, pairs in sorted(by_turn.items())]
    words = (
        "Mean rating before and after advice, over the dialogues in which both answers are rated, "
        "with the 95 % interval of the change; how many answers got better, stayed equal, got worse."
    )
    head = ("criterion", "turns", "n", "mean rating", "change", "better, equal, worse")
    return _by_split("Does feedback help?", words, head, rows)


def _change(split: str, criterion: str, turn: int, pairs: Counter[tuple[int, int]]) -> list[str]:
    n = pairs.total()
    change = mean([after - before for before, after in pairs.elements()])
    value, high = float(change["value"] or 0), float(change["high"] or 0)
    before, after = (sum(pair[side] * number for pair, number in pairs.items()) / n for side in (0, 1))
    better = sum(number for pair, number in pairs.items() if pair[1] > pair[0])
    worse = sum(number for pair, number in pairs.items() if pair[1] < pair[0])
    shares = " / ".join(f"{100 * number / n:.0f} %" for number in (better, n - better - worse, worse))
    means = f"{before:.2f} → {after:.2f}"
    return _row(split, criterion, f"{turn} → {turn + 1}", n, means, f"{value:+.2f} ± {high - value:.2f}", shares)


def _by_split(title: str, words: str, head: Sequence[str], rows: list[list[str]]) -> Table:
    """Rows that begin with their split; it is not told where there is only the set itself."""
    if any(row[0] for row in rows):
        return Table.of_texts(title, words, ("split", *head), rows)
    return Table.of_texts(title, words, head, [row[1:] for row in rows])


def _lengths(inspection: Inspection) -> Table:
    head = ("text", "n", "mean", "median", "90 %", "99 %", "longest")
    if inspection.lengths is None:
        return Table.of_texts("Lengths in tokens", "", head, [])
    scale = inspection.lengths.scale
    rows = [
        _row(kind, int(s["n"]), f"{s['mean']:.1f}", *(int(s[name]) for name in ("median", "p90", "p99", "longest")))
        for kind, s in inspection.lengths.summary().items()
    ]
    words = (
        f"scale={scale.name}, tokenizer: {scale.origin}. An image adds "
        f"{inspection.lengths.image_words()} to a dialogue. "
        f"Dialogues that are then longer than {scale.max_tokens:,}: {inspection.lengths.too_long:,}."
    )
    return Table.of_texts("Lengths in tokens", words, head, rows)


def _findings(inspection: Inspection) -> Table:
    rows = [_row(what, number) for what, number in sorted(inspection.findings.counts.items())]
    if inspection.data.damage:
        rows.append(_row("cannot be read", len(inspection.data.damage)))
    if "eval" in inspection.counts and len(inspection.counts) > 1:
        number = sum(inspection.findings.overlap("eval").values())
        rows.append(_row("images of eval that stand in another split", number))
    words = "Within a split. Several sampled answers to a question are the same question on the same image."
    return Table.of_texts("Missing and repeated", words, ("what", "number"), rows or [_row("nothing", 0)])


def _leakage(leakage: Leakage | None) -> list[Table]:
    if leakage is None:
        return []
    total = leakage.all.dialogues
    inspection = [(name, leakage.ways[way]) for way, name in WAYS.items()]
    inspection.append((f"counted as leaked (leaked_by={leakage.by})", leakage.leaked.dialogues))
    ways = [_row(name, f"{number:,} of {total:,}", _share(number, total)) for name, number in inspection]
    sides = (leakage.all, leakage.clean, leakage.leaked)
    rows = [_row(name, *(getattr(side, name) for side in sides)) for name in ("records", "dialogues", "answers")]
    for criterion in sorted(leakage.all.criteria):
        rows.append(_row(f"dialogues: {criterion}", *(side.criteria[criterion] for side in sides)))
    for criterion, turns in leakage.all.table().items():
        for turn, numbers in turns.items():
            if sum(numbers[:TOP_RATING]):
                rows.append(
                    _row(
                        f"{criterion}, turn {turn}: mean rating", *(_mean(side, criterion, int(turn)) for side in sides)
                    )
                )
    size = f"The other set has {leakage.known.dialogues:,} dialogues."
    return [
        Table.of_texts(
            "Leakage", f"Dialogues that stand in the other set too. {size}", ("how", "dialogues", "share"), ways
        ),
        Table.of_texts("Figures with and without what leaked", "", ("figure", "all", "clean", "leaked"), rows),
    ]


def _mean(counts: Counts, criterion: str, turn: int) -> str:
    numbers = counts.ratings.get(criterion, {}).get(turn, [0] * (TOP_RATING + 1))
    return f"{_two(mean_rating(numbers))} (n {sum(numbers[:TOP_RATING]):,})"


def _rated(counts: Counts) -> int:
    return sum(sum(numbers[:TOP_RATING]) for turns in counts.ratings.values() for numbers in turns.values())


def _row(*values: str | int) -> list[str]:
    return [f"{value:,}" if isinstance(value, int) else value for value in values]


def _two(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _share(number: int, total: int) -> str:
    return f"{100 * number / total:.1f} %" if total else NOTHING
