"""Several annotators of the same answers: rated again, by people too, and compared."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import png
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_server import Behaviour, serving
from rich.console import Console

import dress.rater
from dress import config
from dress.base.files import read_json, read_lines, write_lines
from dress.config.raters import Human, PlainRater
from dress.data.shards import Sample, Shards, write_shards
from dress.evaluation.statistics import alpha
from dress.feedback.answer_key import answer_key
from dress.feedback.command import collect_from
from dress.feedback.human import read_words
from dress.feedback.raters import build_rater, check_rater, identity
from dress.inspection.inspecting import Inspection
from dress.record import Dialogue, Feedback, ImageRef, Original, Record, Turn, up_to_answers
from dress.run.composing import compose
from dress.run.preparing import task
from dress.worlds.shapes import generate as shapes
from dress.worlds.shapes.rater import OracleRater

QUIET = Console(quiet=True)
CHAT = "feedback.jsonl"


# --- Krippendorff's alpha -------------------------------------------------------------------------

PUBLISHED = """
1 2 3 3 2 1 4 1 2 - - -
1 2 3 3 2 2 4 1 2 5 - 3
- 3 3 3 2 3 4 2 2 5 1 -
1 2 3 3 2 4 4 1 2 5 1 -
"""
"""Four observers and twelve units (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011)."""


def counted(units: Sequence[Sequence[int]], values: int = 4) -> np.ndarray:
    return np.array([[list(unit).count(value) for value in range(1, values + 1)] for unit in units], dtype=float)


def test_alpha_of_the_published_example() -> None:
    rows = [line.split() for line in PUBLISHED.split("\n") if line]
    units = counted([[int(value) for value in unit if value != "-"] for unit in zip(*rows, strict=True)], 5)
    expected = {"nominal": 0.743421, "ordinal": 0.815388, "interval": 0.849107}
    for level, value in expected.items():
        figure = alpha(units, level, range(1, 6))  # type: ignore[arg-type]
        assert figure["value"] == pytest.approx(value, abs=1e-6)
        assert figure["n"] == 11, "a unit with one rating says nothing"


def test_alpha_of_ratings_by_hand() -> None:
    units = counted([(4, 4), (1, 2, 1), (3, 3, 4), (2, 2), (4, 1), (3,), (1, 1, 1)])
    assert alpha(units, "interval")["value"] == pytest.approx(1 - 14 * 22 / 688)
    assert alpha(units, "ordinal")["value"] == pytest.approx(0.526928, abs=1e-6)
    assert alpha(units, "nominal")["value"] == pytest.approx(0.475)


UNITS = st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=4), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None)
@given(UNITS, st.randoms(use_true_random=False))
def test_who_said_what_first_makes_no_difference_to_alpha(units, random) -> None:
    value = alpha(counted(units))["value"]
    other = [random.sample(unit, len(unit)) for unit in random.sample(units, len(units))]
    assert alpha(counted(other))["value"] == (None if value is None else pytest.approx(value))
    pairs = counted([unit[:1] * 2 for unit in units])
    assert alpha(pairs)["value"] == (1.0 if len({unit[0] for unit in units if unit}) > 1 else None)
    assert alpha(counted([unit[:1] for unit in units])) == {"value": None, "n": 0, "low": None, "high": None}


def test_the_interval_of_alpha_draws_records() -> None:
    ratings = np.random.default_rng(0).integers(1, 5, 200)
    units = counted([(int(one), int(one) if n % 3 else 1) for n, one in enumerate(ratings)])
    alone, together = alpha(units), alpha(units, clusters=[str(n // 20) for n in range(200)])
    assert alone["value"] == together["value"] and alone["n"] == together["n"] == 200
    assert alone["low"] < alone["value"] < alone["high"]
    assert (alone["low"], alone["high"]) != (together["low"], together["high"])


# --- a set is rated again -------------------------------------------------------------------------


def collect(responder: Path, out: Path, annotator: dict[str, Any], **more: Any) -> list[Record]:
    plain = {"responder": str(responder), "out": str(out), "records": 100, "per_shard": 4, "annotator": annotator}
    collect_from(config.check_as(config.CollectCommand, plain | more), QUIET)
    return [record for record, _ in Shards(out)]


def inspected(path: Path, *beside: Path, **more: Any) -> tuple[Inspection, str]:
    given_ = [f"beside=[{','.join(map(str, beside))}]", *(f"{name}={value}" for name, value in more.items())]
    typed, start = task(compose("prepare", ["task=inspect", "lengths=false", f"path={path}", *given_]))
    console = Console(record=True, width=200, file=io.StringIO())
    return start(typed, console), console.export_text()


def texts(records: Sequence[Record]) -> list[Any]:
    """All but feedback."""
    silent = {"dialogues": {"__all__": {"turns": {"__all__": {"feedback"}}}}}
    return [record.model_dump(exclude=silent) for record in records]


def answers_of(records: Sequence[Record]) -> list[tuple[Dialogue, Feedback]]:
    return [(one, one.turns[-1].feedback[0]) for r in records for d in r.dialogues for one in up_to_answers(d)]


@pytest.fixture(scope="module")
def by_oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes whose answers the oracle rated, several turns each."""
    folder = tmp_path_factory.mktemp("rated")
    write_shards(folder / "given", shapes.samples("sft", 6, seed=0))
    collect(folder / "given", folder / "by_oracle", {"kind": "oracle"})
    return folder / "by_oracle"


@pytest.fixture(scope="module")
def by_strict(by_oracle: Path) -> Path:
    """The same answers by a rater that says what the oracle says, in honesty one lower."""

    class Strict(OracleRater):
        name = "strict"

        def rate(self, items: Any, *arguments: Any, **more: Any) -> list[Feedback]:
            assert not any(turn.feedback for _, dialogue in items for turn in dialogue.turns), "nobody's word is shown"
            return [self._lower(one) for one in super().rate(items, *arguments, **more)]

        def _lower(self, one: Feedback) -> Feedback:
            rating = max(1, (one.rating or 1) - 1) if one.criterion == "honesty" else one.rating
            return one.model_copy(update={"annotator": "strict", "rating": rating, "critique": "Strictly speaking."})

    dress.rater.register("strict")(Strict)
    try:
        collect(by_oracle, by_oracle.with_name("by_strict"), {"kind": "strict"})
    finally:
        del dress.rater.RATERS._things["strict"]
    return by_oracle.with_name("by_strict")


def test_a_set_is_rated_again_and_nothing_else_of_it_changes(by_oracle: Path, by_strict: Path) -> None:
    first, again = ([record for record, _ in Shards(folder)] for folder in (by_oracle, by_strict))
    assert texts(again) == texts(first) and [i for _, i in Shards(by_strict)] == [i for _, i in Shards(by_oracle)]
    turns = [turn for record in again for dialogue in record.dialogues for turn in dialogue.turns]
    assert {(len(turn.feedback), turn.feedback[0].annotator) for turn in turns} == {(1, "strict")}
    assert max(len(dialogue.turns) for record in again for dialogue in record.dialogues) == 3
    collect(by_strict, by_strict.with_name("back"), {"kind": "oracle"})
    for shard in by_oracle.glob("*.tar"):
        assert (by_strict.with_name("back") / shard.name).read_bytes() == shard.read_bytes(), "the oracle says it again"


def test_parts_are_the_whole(by_oracle: Path, tmp_path: Path) -> None:
    for number in range(2):
        collect_part = {"responder": str(by_oracle), "out": str(tmp_path / "parts"), "records": 100, "per_shard": 4}
        plain = collect_part | {"annotator": {"kind": "oracle"}, "part": f"{number}/2"}
        collect_from(config.check_as(config.CollectCommand, plain), QUIET)
    merge, start = task(compose("prepare", ["task=merge", f"parts={tmp_path / 'parts'}", f"out={tmp_path / 'whole'}"]))
    start(merge, QUIET)
    for shard in by_oracle.glob("*.tar"):
        assert (tmp_path / "whole" / shard.name).read_bytes() == shard.read_bytes()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"turns": 3}, "turns=3: the answers of .* are judged as they stand there, each of them once; leave turns out"),
        ({"samples": 2}, "leave samples out"),
        ({"temperature": 0.5}, "leave temperature out"),
        ({"shards": "x"}, "leave shards out"),
    ],
)
def test_what_has_no_meaning_for_given_answers_is_refused(by_oracle: Path, tmp_path: Path, more: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        collect(by_oracle, tmp_path / "out", {"kind": "oracle"}, **more)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="expected another folder than responder"):
        collect(by_oracle, by_oracle, {"kind": "rules"})


def test_a_question_without_an_answer_is_named_and_set_aside(tmp_path: Path) -> None:
    asked = Dialogue(criterion="honesty", turns=[Turn(user="What?", assistant="It."), Turn(user="Sure?")])
    write_shards(tmp_path / "set", [(Record(key="a", dialogues=[asked]), None)])
    [record] = collect(tmp_path / "set", tmp_path / "out", {"kind": "none"})
    assert [turn.user for turn in record.dialogues[0].turns] == ["What?"]
    [row] = read_lines(tmp_path / "out" / "failures.jsonl")
    assert (row["key"], row["turn"], row["question"], row["reason"]) == ("a", 1, "Sure?", "no_answer")


# --- do they agree? -------------------------------------------------------------------------------


def test_the_figures_are_those_of_a_count_by_hand(by_oracle: Path, by_strict: Path, tmp_path: Path) -> None:
    first, again = (answers_of([record for record, _ in Shards(folder)]) for folder in (by_oracle, by_strict))
    honesty = [
        (a.rating or 0, b.rating or 0) for (_, a), (_, b) in zip(first, again, strict=True) if a.criterion == "honesty"
    ]
    found, told = inspected(by_oracle, by_strict, out=tmp_path / "look")
    figures = {pair.criterion: pair for pair in found.annotators.pairs}
    assert figures.keys() == {"helpfulness", "honesty", "harmlessness", "all"}
    one = figures["honesty"]
    assert (one.first, one.second) == ("oracle", "strict"), "the oracle is the standard"
    assert one.difference["value"] == pytest.approx(np.mean([b - a for a, b in honesty]))
    assert one.difference["n"] == len(honesty) > 10
    assert one.equal["value"] == pytest.approx(np.mean([a == b for a, b in honesty]))
    assert one.within_one["value"] == 1.0
    assert one.alpha["value"] == pytest.approx(alpha(counted(honesty))["value"])
    for criterion in ("helpfulness", "harmlessness"):
        assert figures[criterion].alpha["value"] == 1.0 and figures[criterion].difference["value"] == 0.0
    table = found.annotators.against_standard["strict"]["honesty"]
    assert table == [[honesty.count((a, b)) for b in range(1, 5)] for a in range(1, 5)]
    assert re.search(rf"oracle → strict +{len(honesty)} +0 % +100 % +-1\.00", told) and "strict against oracle" in told
    assert f"{by_strict}: {len(first)} of its {len(first)} rated answers stand in this set" in told.replace("\n", " ")
    page = (tmp_path / "look" / "inspect.html").read_text()
    cards = page.partition("Answers that annotators differ on")[2].partition("Records to look at")[0]
    assert len(found.annotators.differing) == 12 and cards.count("strict · rated") == 12
    assert {one.criterion for one in found.annotators.differing} == {"honesty"} and "Strictly speaking." in cards
    plain = read_json(tmp_path / "look" / "inspect.json", dict)["annotators"]
    assert plain["standard"] == ["oracle"] and len(plain["pairs"]) == 4 and len(plain["differing"]) == 12
    assert set(plain["differing"][0]["ratings"]) == {"oracle", "strict"}
    few, _ = inspected(by_oracle, by_strict, differing=2, standard="strict")
    assert few.annotators.differing == found.annotators.differing[:2]
    assert few.annotators.pairs[0].first == "strict"


def test_a_judge_against_the_oracle(by_oracle: Path, tmp_path: Path) -> None:
    with serving(Behaviour(refuses=0.2)) as url:
        judge = {"kind": "llm", "base_url": url, "model": "judge", "preview": 0}
        told = io.StringIO()
        plain = {"responder": str(by_oracle), "out": str(tmp_path / "by_llm"), "records": 100, "annotator": judge}
        dry_run = config.check_as(config.CollectCommand, plain | {"dry_run": True})
        collect_from(dry_run, Console(file=told, width=120))
        records = collect(by_oracle, tmp_path / "by_llm", judge)
    rated = [one.rating for _, one in answers_of(records)]
    assert 0 < rated.count(None) < len(rated) / 2
    assert re.search(rf"feedback +│ +{len(rated)} ", told.getvalue()), "a call for each answer that there is"
    found, _ = inspected(by_oracle, tmp_path / "by_llm")
    [pair] = [pair for pair in found.annotators.pairs if pair.criterion == "all"]
    assert pair.difference["n"] == len(rated) - rated.count(None), "what failed is missing, and says so by n"
    there = found.annotators.against_standard["judge"]["all"]
    assert sum(map(sum, there)) == pair.difference["n"]
    assert sum(there[n][n] for n in range(4)) / pair.difference["n"] == pair.equal["value"]


def rated(**ratings: Any) -> Record:
    """A record with an answer, rated by some."""
    said = [Feedback(annotator=name, **words) for name, words in ratings.items()]
    turn = Turn(user="What?", assistant="It.", feedback=said)
    return Record(key="a", image=ImageRef(id="a.png"), dialogues=[Dialogue(criterion="honesty", turns=[turn])])


def test_annotators_within_a_set(tmp_path: Path) -> None:
    both = {"criterion": "helpfulness", "rating": 2}
    record = rated(a={"rating": 4}, b={"rating": 3}, c=both, d={"critique": "Hm."})
    again = record.dialogues[0].turns[0].feedback
    again.append(Feedback(annotator="a", rating=2, original=Original(value=50, min=0, max=100)))
    write_shards(tmp_path / "set", [(record, png())])
    found, told = inspected(tmp_path / "set", out=tmp_path / "look")
    [pair] = found.annotators.pairs
    assert (pair.criterion, pair.first, pair.second) == ("honesty", "a", "b")
    assert pair.difference == {"value": 1.0, "n": 1, "low": 1.0, "high": 1.0}, "the lowest of what one said twice"
    assert not found.annotators.standards and " against " not in told and "Mapped from another scale: a" in told
    alone, told = inspected(tmp_path / "set", standard="b")
    assert alone.annotators.pairs[0].first == "b" and "a against b" in told
    with pytest.raises(ValueError, match="standard=x: expected an annotator of these sets: a, b, c"):
        inspected(tmp_path / "set", standard="x")


def test_answers_are_the_same_by_all_that_was_said_and_seen(tmp_path: Path) -> None:
    def write(name: str, *records: Record, image: bytes | None = png()) -> Path:
        write_shards(tmp_path / name, [(record, image) for record in records])
        return tmp_path / name

    mine = write("mine", rated(a={"rating": 4}))
    for name, change in {
        "answer": {"turns": [Turn(user="What?", assistant="Else.", feedback=[Feedback(rating=1)])]},
        "system": {"system": "Be kind."},
    }.items():
        other = rated(b={"rating": 4})
        other.dialogues[0] = other.dialogues[0].model_copy(update=change)
        with pytest.raises(ValueError, match=f"beside={tmp_path / name}: expected the answers of .* none of its 1 "):
            inspected(mine, write(name, other))
    # Rows have no pictures: then the name of it tells.
    write_lines(tmp_path / "rows.jsonl", [rated(b={"rating": 3, "critique": "Of a row."}).model_dump(mode="json")])
    found, _ = inspected(mine, tmp_path / "rows.jsonl", out=tmp_path / "look")
    assert [(pair.first, pair.second) for pair in found.annotators.pairs] == [("a", "b")]
    assert "Of a row." in (tmp_path / "look" / "inspect.html").read_text()
    # Two sampled answers may be equal: the first goes with the first.
    two, other = rated(a={"rating": 4}), rated(a={"rating": 1})
    two.dialogues.append(rated(a={"rating": 2}).dialogues[0])
    other.dialogues.append(rated(a={"rating": 2}).dialogues[0])
    found, _ = inspected(write("two", two), write("other", other))
    [pair] = found.annotators.pairs
    assert (pair.first, pair.second) == (f"a · {tmp_path / 'two'}", f"a · {tmp_path / 'other'}")
    assert (pair.difference["n"], pair.difference["value"], pair.equal["value"]) == (2, -1.5, 0.5)


# --- people ---------------------------------------------------------------------------------------


def said(answer: str, who: str, rating: int | None, **more: Any) -> dict[str, Any]:
    """A line of a journal."""
    line = {
        "id": f"{who}-{answer[:8]}-{rating}", "at": "2026-11-30T10:00:00Z", "who": who, "kind": "feedback",
        "answer": answer, "criterion": "honesty", "rating": rating, "critique": None, "refinement": None,
    }  # fmt: skip
    return line | more


@pytest.fixture
def shown(tmp_path: Path) -> tuple[Path, list[str]]:
    """A set of six answers, and their names."""
    turns = [[Turn(user=f"What {n}?", assistant="It."), Turn(user="Sure?", assistant="Yes.")] for n in range(3)]
    samples: list[Sample] = [
        (Record(key=f"r{n}", image=ImageRef(id=f"{n}.png"), dialogues=[Dialogue(criterion="honesty", turns=t)]), png())
        for n, t in enumerate(turns)
    ]
    write_shards(tmp_path / "set", samples)
    return tmp_path / "set", [answer_key(png(), one) for r, _ in samples for one in up_to_answers(r.dialogues[0])]


def test_what_people_have_not_said_yet_is_missing_until_they_say_it(
    shown: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, keys = shown
    journal = tmp_path / CHAT
    write_lines(journal, [said(key, "Ana", 2, critique="  Too short. ") for key in keys[:3]])
    people = {"kind": "human", "journal": str(tmp_path)}
    records = collect(folder, tmp_path / "one", people)
    lost = read_lines(tmp_path / "one" / "failures.jsonl")
    assert [(row["failed"], row["reason"]) for row in lost] == [("feedback", "not_rated_yet")] * 3
    assert [one.rating for _, one in answers_of(records)] == [2, 2, 2, None, None, None]
    one = answers_of(records)[0][1]
    assert (one.annotator, one.prompt_version, one.critique) == ("human", None, "  Too short. ")
    assert one.extra == {"who": "Ana", "at": "2026-11-30T10:00:00Z"}
    before = (tmp_path / "one" / "shard-000000.tar").read_bytes()
    with journal.open("a") as file:
        file.write(json.dumps({"id": "x", "at": "", "who": "Ana", "kind": "picture", "more": [1]}) + "\n")
    collect(folder, tmp_path / "one", people)
    assert (tmp_path / "one" / "shard-000000.tar").read_bytes() == before, "another kind of event is no word"
    with journal.open("a") as file:
        file.writelines(json.dumps(said(key, "Ana", 4)) + "\n" for key in keys[3:])
    with pytest.raises(ValueError, match="begun with other settings"):
        collect(folder, tmp_path / "one", people)
    records = collect(folder, tmp_path / "two", people)
    assert [one.rating for _, one in answers_of(records)] == [2, 2, 2, 4, 4, 4]
    assert not (tmp_path / "two" / "failures.jsonl").exists()


def test_several_people_and_the_standard_that_they_are(shown: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, keys = shown
    lines = [said(key, who, rating) for key in keys for who, rating in (("Ana", 3), ("Ben", 2))]
    lines += [said(keys[0], "Ben", 1, criterion="helpfulness"), said(keys[0], "Eve", None, critique="I do not know.")]
    write_lines(tmp_path / CHAT, lines)
    records = collect(folder, tmp_path / "people", {"kind": "human", "journal": str(tmp_path / CHAT)})
    first = records[0].dialogues[0].turns[0].feedback
    assert [(one.extra["who"], one.rating, one.criterion) for one in first] == [
        ("Ben", 2, "honesty"), ("Ana", 3, "honesty"), ("Eve", None, "honesty"),
    ], "the lowest first, and nothing of another criterion"  # fmt: skip
    only = collect(folder, tmp_path / "ana", {"kind": "human", "journal": str(tmp_path / CHAT), "who": ["Ana"]})
    assert {one.extra["who"] for _, one in answers_of(only)} == {"Ana"}
    judge = [(r.model_copy(deep=True), i) for r, i in Shards(folder)]
    for record, _ in judge:
        for turn in record.dialogues[0].turns:
            turn.feedback = [Feedback(annotator="judge", rating=3)]
    write_shards(tmp_path / "judge", judge)
    found, told = inspected(tmp_path / "judge", tmp_path / "people")
    assert [(pair.first, pair.second) for pair in found.annotators.pairs] == [
        ("human/Ana", "human/Ben"), ("human/Ana", "judge"), ("human/Ben", "judge"),
    ]  # fmt: skip
    assert found.annotators.against_standard == {"judge": {"honesty": [[0] * 4, [0, 0, 6, 0], [0, 0, 6, 0], [0] * 4]}}
    assert found.annotators.together["honesty"]["n"] == 6 and "judge against human/Ana and human/Ben" in told


def test_an_answer_to_be_asked_again_takes_the_advice_of_the_lowest(tmp_path: Path) -> None:
    record = Record(key="a", dialogues=[Dialogue(criterion="honesty", turns=[Turn(user="What?")])])
    write_shards(tmp_path / "prompts", [(record, None)])
    answers = [{"key": "a", "question": user, "answer": "It."} for user in ("What?", "Better.")]
    write_lines(tmp_path / "answers.jsonl", answers)
    key = answer_key(None, Dialogue(turns=[Turn(user="What?", assistant="It.")]))
    lines = [said(key, "Ana", 3, refinement="Again."), said(key, "Ben", 1, refinement="Better.")]
    write_lines(tmp_path / CHAT, lines)
    people = {"kind": "human", "journal": str(tmp_path)}
    [found] = collect(tmp_path / "answers.jsonl", tmp_path / "out", people, shards=str(tmp_path / "prompts"))
    assert [(turn.user, len(turn.feedback)) for turn in found.dialogues[0].turns] == [("What?", 2), ("Better.", 1)]


def test_a_journal_is_read_to_the_letter(tmp_path: Path) -> None:
    journal, key = tmp_path / CHAT, "a" * 64
    first = said(key, "Ana", 1, id="1")
    lines = [first, said(key, "Ana", 4, id="2", grown=True), first, said(key, "Ben", 2), said(key, "Ben", None, id="3")]
    write_lines(journal, lines)
    found = read_words(str(journal))
    assert [(word.who, word.rating) for word in found.by_answer[key]] == [("Ana", 4)], (
        "the last holds; nothing takes back"
    )
    with journal.open("ab") as file:
        file.write(json.dumps(said(key, "Eve", 1)).encode()[:-9])
    torn = read_words(str(journal))
    assert torn.torn and torn.fingerprint == found.fingerprint
    moved = tmp_path / "moved" / CHAT
    moved.parent.mkdir()
    write_lines(moved, [lines[1], {"kind": "picture"}])
    assert read_words(str(moved.parent)).fingerprint == found.fingerprint, "where it lies makes no difference"
    write_lines(moved, [said(key, "Ana", 3, id="2")])
    assert read_words(str(moved)).fingerprint != found.fingerprint


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"kind": "feedb', r"feedback\.jsonl:2: expected JSON, got b'{\"kind\""),
        (b'"\xff"', r":2: expected JSON"),
        (b"[1]", r":2: expected an object with a kind"),
        (b'{"kind": "feedback", "id": "1"}', r":2: who: Field required"),
        (json.dumps(said("a" * 64, "Ana", 5)).encode(), r":2: rating: .* \(got 5\)"),
        (json.dumps(said("a" * 64, "Ana", 3, criterion="beauty")).encode(), r":2: criterion: "),
        (json.dumps(said("a" * 64, "Ana", 3, spans=[{"start": -1, "end": 2}])).encode(), r":2: spans\.0\.start"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, why: str) -> None:
    good = json.dumps(said("a" * 64, "Ana", 1, id="1")).encode()
    (tmp_path / CHAT).write_bytes(b"\n".join([good, line, good, b""]))
    with pytest.raises(ValueError, match=why):
        read_words(str(tmp_path))


def test_mistakes_are_named_before_anything_is_made(shown: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, keys = shown
    with pytest.raises(FileNotFoundError, match=r"journal=.*: expected a journal, or a folder with feedback\.jsonl"):
        collect(folder, tmp_path / "out", {"kind": "human", "journal": str(tmp_path)})
    write_lines(tmp_path / CHAT, [said(keys[0], "Ana", 1, spans=[{"start": 1, "end": 4}])])
    with pytest.raises(ValueError, match=r"who: expected people of the journal \(Ana\), got 'Anna'. Did you mean Ana"):
        check_rater(Human(kind="human", journal=str(tmp_path), who=["Anna"]))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"journal: Ana-.*: spans: expected 0 <= start < end <= 3, .* got 1 and 4"):
        collect(folder, tmp_path / "out", {"kind": "human", "journal": str(tmp_path)})
    rater = build_rater(Human(kind="human", journal=str(tmp_path)))
    [(record, _), *_] = Shards(folder)
    assert [one.extra["failed"] for one in rater.rate([(record, record.dialogues[0])])] == ["no_picture"]


def test_the_key_of_an_answer_stays() -> None:
    """Journals hold it."""
    turns = [Turn(user="Was?", assistant="Grün."), Turn(user="Ja?", assistant="")]
    dialogue = Dialogue(criterion="honesty", reference="x", turns=turns)
    text = '{"picture":null,"system":null,"turns":[["Was?","Grün."],["Ja?",""]]}'
    key = hashlib.sha256(text.encode()).hexdigest()
    assert answer_key(None, dialogue) == key == "9a6594cd0563058c6a5fb00e7d116df219dafebd600090d04ec8c59d92673086"
    picture = hashlib.sha256(b"png").hexdigest()
    text = text.replace("null", f'"{picture}"', 1)
    assert answer_key(b"png", dialogue) == hashlib.sha256(text.encode()).hexdigest()
    changed: list[Callable[[Dialogue], Any]] = [
        lambda d: setattr(d, "system", ""),
        lambda d: setattr(d.turns[0], "assistant", "Grün. "),
        lambda d: setattr(d.turns[1], "user", "ja?"),
        lambda d: d.turns.pop(),
    ]
    for change in changed:
        other = dialogue.model_copy(deep=True)
        change(other)
        assert answer_key(None, other) != key
    said = dialogue.model_copy(deep=True, update={"criterion": None, "reference": None, "extra": {"a": 1}})
    said.turns[0].feedback.append(Feedback(rating=1))
    assert answer_key(None, said) == key, "who rated it, and for what, makes no difference"
    with pytest.raises(ValueError, match="expected an answer to 'Was"):
        answer_key(None, Dialogue(turns=[Turn(user="Was?")]))


def test_who_rates_is_known_by_what_was_said(tmp_path: Path) -> None:
    write_lines(tmp_path / CHAT, [said("a" * 64, "Ana", 1), said("b" * 64, "Ben", 2)])
    everybody = Human(kind="human", journal=str(tmp_path))
    both = Human(kind="human", journal=str(tmp_path / CHAT), who=["Ben", "Ana"])
    assert identity(everybody) == identity(both) and set(identity(both)) == {"kind", "words"}
    assert identity(Human(kind="human", journal=str(tmp_path), who=["Ana"])) != identity(both)
    assert identity(PlainRater(kind="rules")) == {"kind": "rules"}
    composed = compose(
        "collect", ["responder=x", "out=y", "annotator=human", "annotator.journal=j", "annotator.who=[A]"]
    )
    assert composed["annotator"] == {"kind": "human", "journal": "j", "who": ["A"]}
