"""What the report shows of answers that fell short: chosen, filtered by its own style, and led to by its figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import Parsed, Styled
from test_report import ALL, CELLS, SAMPLES, report, run_folder

from dress.evaluation import cases as drawn
from dress.evaluation.failures import chosen, failing, failing_items
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, save_outcomes
from dress.evaluation.run_measures import measures
from dress.report.facets import Cases
from dress.report.figures import quantities
from dress.report.page import Page, Section, html

VIEWS = ["dress/praise", "sft/none", "dress/none", "sft/praise"]


def of_cell(cell: str, outcomes: list[Outcome] = ALL) -> list[Outcome]:
    return [o for o in outcomes if f"{o.model}/{o.condition}" == cell]


FIRST = {(o.item, f"{o.model}/{o.condition}"): o for o in ALL if not o.turn}


def answered(item: str, cell: str) -> Outcome:
    return FIRST[item, cell]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    run_folder(folder, ALL)
    return report(folder)


def items(text: str) -> dict[str, str]:
    """Id of each case to its question."""
    return {name: found.split(" ")[0] for name, found in Parsed(text).cases.items()}


def ids(text: str) -> dict[str, dict[str, str]]:
    """Of the choices of each facet: what stands beside it to the id of its input."""
    facets: dict[str, dict[str, str]] = {}
    for name, key, words in re.findall(r'name="(\w+)" id="([\w-]+)"[^>]*>([^<]+?)\s*<', text):
        facets.setdefault(name, {})[words] = key
    return facets


@pytest.fixture(scope="module")
def page(text: str) -> tuple[Styled, dict[str, dict[str, str]], dict[str, str]]:
    return Styled(text), ids(text), items(text)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_style_shows_what_is_chosen(
    page: tuple[Styled, dict[str, dict[str, str]], dict[str, str]], data: st.DataObject
) -> None:
    styled, inputs, questions = page
    assert list(inputs["view"]) == VIEWS
    view = data.draw(st.sampled_from(VIEWS))
    criterion = data.draw(st.sampled_from(["", *inputs["criterion"]]))
    kind = data.draw(st.sampled_from(["", *inputs["kind"]]))
    change = data.draw(st.sampled_from(["", *inputs["change"]]))
    rated = data.draw(st.sets(st.sampled_from(list(inputs["rating"]))))
    ticked = {inputs["view"][view], *(inputs["rating"][one] for one in rated)}
    ticked |= {inputs[f][one] for f, one in (("criterion", criterion), ("kind", kind), ("change", change)) if one}

    def wanted(item: str) -> bool:
        own, first = answered(item, view), answered(item, "sft/none")
        assert own.rating is not None and first.rating is not None
        became = "better" if own.rating > first.rating else "worse" if own.rating < first.rating else "equal"
        return (
            criterion in ("", own.criterion) and kind in ("", own.kind) and change in ("", became)
            and f"rated {own.rating}" in rated
        )  # fmt: skip

    assert styled.shown(ticked) == {case for case, item in questions.items() if wanted(item)}


def test_a_figure_leads_to_exactly_what_it_is_short_of(text: str, tmp_path: Path) -> None:
    metrics = run_folder(tmp_path, ALL)
    styled, questions = Styled(text), items(text)
    assert styled.shown(styled.ticked) == set(questions)
    links = [str(a["href"])[1:] for a in Parsed(text).attributes("a") if "only" in str(a["href"])]
    assert len(links) == len(set(links)) == len(styled.anchors)
    found = failing_items({cell: of_cell(cell) for cell in VIEWS})
    assert len(found) == len(links) > 30
    words = dict(re.findall(r'id="(only-\d+)">(.*?) <a', text))
    names = {(q.key, q.turn): q.name for q in quantities(metrics)}
    for number, ((cell, key, turn), short) in enumerate(found.items()):
        # A link goes before the view that is chosen, and the cell's own view is in the place of it.
        shown = styled.shown(styled.ticked, f"only-{number}")
        assert {questions[case] for case in shown} == set(short) & set(questions.values())
        assert words[f"only-{number}"].startswith(f"{cell}, {names[key, turn]}: {len(short)} question")
    cells = [cell for cell, _, _ in found]
    views = {name: view for name, classes in styled.anchors.items() for view in classes if view.startswith("v")}
    assert [views[f"only-{n}"] for n in range(len(cells))] == [f"v{VIEWS.index(cell)}" for cell in cells]


def test_what_falls_short_is_what_the_figure_counts_against_it() -> None:
    outcomes = of_cell("sft/none")
    found = measures(outcomes)
    invents = failing(found["honesty/hallucinated_share", None], outcomes)
    assert [o.item for o in invents] and all(o.facts["invented"] and not o.turn for o in invents)
    coverage = failing(found["honesty/coverage", None], outcomes)
    lost = [o.facts["present"] - o.facts["named"] for o in coverage]
    assert lost == sorted(lost, reverse=True) and all(one > 0 for one in lost)
    ratings = failing(found["interaction/mean_rating", 1], outcomes)
    assert {o.item for o in ratings} == {o.item for o in outcomes if o.turn == 1 and o.rating != 4}
    assert [o.rating for o in ratings] == sorted(o.rating or 0 for o in ratings)
    assert failing(replace(found["honesty/coverage", None], up=None), outcomes) == []
    words = Measure("words", "words", lambda o: (len((o.answer or "").split()), 1), kind="mean")
    longest = max(len((o.answer or "").split()) for o in outcomes)
    assert all(len((o.answer or "").split()) < longest for o in failing(words, outcomes))


def test_each_list_gives_its_worst_in_turn() -> None:
    assert chosen([["a", "b", "c"], ["b", "d"], []], 99) == ["a", "b", "d", "c"]
    assert chosen([["a", "b", "c"], ["b", "d"]], 3) == ["a", "b", "d"]
    assert chosen([], 5) == [] == chosen([["a"]], 0)


def test_the_orders_are_permutations_and_the_worst_comes_first(text: str) -> None:
    styles = re.findall(r'<article id="(case-\d+)"[^>]*style="([^"]*)"', text)
    places = [dict(re.findall(r"--(v\d):(\d+)", style)) for _, style in styles]
    questions = items(text)
    for number, view in enumerate(VIEWS):
        order = [int(place[f"v{number}"]) for place in places]
        assert sorted(order) == list(range(len(styles)))
        by_place = dict(zip(order, questions.values(), strict=True))
        firsts = [answered(by_place[n], view).rating or 9 for n in range(len(order))]
        assert firsts == sorted(firsts)
    assert [place["v0"] for place in places] == [str(n) for n in range(len(styles))]


def test_a_case_has_the_answers_of_all_and_the_dialogue_of_each(text: str) -> None:
    questions = items(text)
    for name, found in list(Parsed(text).cases.items())[:6]:
        item = questions[name]
        for cell in VIEWS:
            tries = [o for o in of_cell(cell) if o.item == item]
            assert f"{cell} rated {tries[0].rating} of 4 {tries[0].answer}" in found
            assert f"{cell} goes on {tries[1].user} {cell} rated {tries[1].rating} of 4 {tries[1].answer}" in found
            assert found.count(tries[0].critique or "") >= 1


def test_how_many_are_shown_and_how_many_there_are(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    page = Parsed(report(tmp_path, failures=5))
    short = failing_items({cell: of_cell(cell) for cell in VIEWS})
    total = len({item for some in short.values() for item in some})
    assert len(page.cases) == 5 and f"5 of the {total} questions where some figure falls short" in page.text
    number = len(short["sft/none", "interaction/mean_rating", 0])
    assert re.search(rf"{number} questions fall short, \d of them shown here \(outcomes.jsonl has all\)\.", page.text)
    assert Parsed(report(tmp_path, failures=0)).cases == {}
    good = [replace(o, rating=4, facts={}) for o in ALL]
    run_folder(tmp_path, good)
    assert "No answer to show here." in Parsed(report(tmp_path)).text


def test_names_of_anybody_make_no_selector_and_ids_are_unique(tmp_path: Path) -> None:
    bad = '"><script>alert(1)</script> }*{display:none'
    run_folder(tmp_path, ALL)
    said = [replace(o, answer=bad, user=bad, critique=bad, criterion=bad, kind=o.kind) for o in ALL]
    save_outcomes(tmp_path / "outcomes.jsonl", said)
    text = report(tmp_path)
    page = Parsed(text)
    assert len(page.code) == 1 and page.fetched() == [] and page.open == []
    assert "alert" not in text.partition("<style>")[2].partition("</style>")[0]
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    targets = {str(a["href"])[1:] for a in page.attributes("a")}
    assert targets <= set(names)


def test_pictures_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder(tmp_path, ALL)
    monkeypatch.setattr(drawn, "MOST_BYTES", 2_000)
    text = report(tmp_path, scenes=1)
    page = Parsed(text)
    assert re.search(r"\d+ pictures are left out", page.text) and "picture left out" in text
    pictures: list[Mapping[str, str | None]] = [*page.attributes("img")]
    assert 1 < len(pictures) < len(page.cases)


def test_one_model_under_one_condition_is_beside_nobody(tmp_path: Path) -> None:
    run_folder(tmp_path, of_cell("sft/none"), stages=False)
    text = report(tmp_path)
    assert list(ids(text)["view"]) == ["sft/none"] and "change" not in ids(text)
    assert {view for cases in Styled(text).cases.values() for view in cases if view.startswith("v1")} == set()


def test_a_page_has_one_set_of_cases() -> None:
    empty = Cases([], ["a/none"], "Model")
    with pytest.raises(ValueError, match="expected one section with cases, got 2"):
        html(Page("t", "k", "n", "l", [Section("A", cases=empty), Section("B", cases=empty)]))


def test_samples_that_are_not_here_cost_no_case(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    page = Parsed(report(tmp_path, samples=[SAMPLES[0]]))
    assert sum("picture not here" in found for found in page.cases.values()) > len(CELLS)
