"""Two runs side by side: which answers belong together, their figures and changes, and the page of them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from pages import Parsed, Styled
from rich.console import Console
from test_report import ALL, SAMPLES, run_folder

from dress import config
from dress.base.files import read_json, write_json
from dress.data.shards import write_shards
from dress.evaluation.command import evaluate
from dress.evaluation.comparison import compared
from dress.evaluation.outcomes import Outcome
from dress.evaluation.output import recompute
from dress.evaluation.pairs import pair
from dress.evaluation.suite import store_defaults
from dress.run.composing import arguments, compose
from dress.run.overrides import CommandLineError

CELL = "dress/praise"
LOST = ["eval-000001/1", "eval-000004/1", "eval-000004/2"]
"""Questions that the second run answers worse."""


def worsened(outcomes: list[Outcome]) -> list[Outcome]:
    """The same answers; three first ones of dress/praise are bad."""
    return [
        replace(o, answer="No.", rating=1, critique="It is wrong.", facts={**o.facts, **_bad(o)})
        if o.item in LOST and not o.turn and f"{o.model}/{o.condition}" == CELL
        else o
        for o in outcomes
    ]


def _bad(outcome: Outcome) -> dict[str, Any]:
    return {name: False for name in ("correct", "safe") if name in outcome.facts}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", iter(SAMPLES), 100)
    return tmp_path / "shards"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """A run folder with these outcomes, whose config.json differs in some settings."""

    def run(name: str, outcomes: list[Outcome], *overrides: str) -> Path:
        folder = tmp_path / name
        run_folder(folder, outcomes, stages=False)
        settings = config.check(compose("train", ["run_dir=x", "experiment=dress_full", *overrides]))
        write_json(folder / "config.json", settings.model_dump())
        write_json(folder / "run.json", {"headline": {"sft": "none", "dress": "praise"}})
        return folder

    return run


def typed(*overrides: str) -> tuple[dict[str, Any], str]:
    """What the command gives and says."""
    store_defaults()
    console = Console(file=io.StringIO(), width=80)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        plain = OmegaConf.to_container(
            hydra_compose("eval", arguments(list(overrides))), resolve=True, throw_on_missing=True
        )
    return evaluate(plain, console), console.file.getvalue()  # type: ignore[attr-defined,arg-type]


def test_three_answers_that_got_worse(make: Callable[..., Path], shards: Path) -> None:
    first, second = make("a", ALL), make("b", worsened(ALL))
    result, said = typed(f"compare={first},{second}", f"shards={shards}")
    cell, out = result["cells"][CELL], second / "compare"
    were = {o.item: o for o in ALL if o.item in LOST and not o.turn and f"{o.model}/{o.condition}" == CELL}
    lost = sum((o.rating or 0) > 1 for o in were.values())
    assert result["headline"] == CELL and result["n"] == 32 and lost >= 2
    assert (cell["changes"]["worse"], cell["changes"]["better"]) == (lost, 0)
    assert sum(map(sum, cell["changes"]["table"])) == cell["n"] == 32
    measure = compared(ALL, ALL)["interaction/mean_rating", 0]
    ours = [o for o in worsened(ALL) if f"{o.model}/{o.condition}" == CELL]
    theirs = [o for o in ALL if f"{o.model}/{o.condition}" == CELL]
    assert cell["difference"]["interaction/mean_rating"][0] == measure.difference(ours, theirs)
    assert cell["difference"]["interaction/mean_rating"][0]["value"] == pytest.approx(
        -sum((o.rating or 0) - 1 for o in were.values()) / 32
    )
    assert cell["difference"]["interaction/mean_rating"][1]["value"] == 0
    others = [one["changes"] for name, one in result["cells"].items() if name != CELL]
    assert {(one["worse"], one["better"], one["words_only"]) for one in others} == {(0, 0, 0)}
    assert max(map(len, said.split("3 other models")[0].splitlines())) <= 80 and "…" not in said
    assert f"B answers 0 better than a (A), {lost} worse" in " ".join(said.split()).replace("b (B)", "B")
    assert recompute(out) == result == read_json(out / "compare.json")
    text = (out / "compare.html").read_text()
    page, styled = Parsed(text), Styled(text)
    assert page.fetched() == [] and page.open == [] and len(page.code) == 1 and "not here" not in text
    questions = {name: found.split(" ")[0] for name, found in page.cases.items()}
    assert set(questions.values()) == set(LOST)  # all else is the same in both
    changes = {words: name for name, words in re.findall(r'id="(only-\d+)">[^,]*, (A rated \d, B rated 1)', text)}
    assert {o.rating for o in were.values() if o.rating != 1} == {int(words[8]) for words in changes}
    for words, name in changes.items():
        shown = {questions[case] for case in styled.shown(styled.ticked, name)}
        assert shown == {item for item, o in were.items() if o.rating == int(words[8])}
    case = next(found for name, found in page.cases.items() if questions[name] == LOST[0])
    was = were[LOST[0]]
    assert f"A: a dress/praise rated {was.rating} of 4 {was.answer}" in case
    assert "B: b dress/praise rated 1 of 4 No. Critique It is wrong." in case


def test_a_run_beside_itself_differs_in_nothing(make: Callable[..., Path], shards: Path) -> None:
    run = make("a", ALL)
    result, _ = typed(f"compare=[{run},{run}]", f"shards={shards}", f"out={run}/same")
    for cell in result["cells"].values():
        assert (cell["changes"]["worse"], cell["changes"]["better"], cell["changes"]["words_only"]) == (0, 0, 0)
        figures = [f for one in cell["difference"].values() for f in (one if isinstance(one, list) else [one])]
        assert {f["value"] for f in figures} <= {0, None} and cell["a"] == cell["b"]
    assert Parsed((run / "same" / "compare.html").read_text()).cases == {}


def test_what_is_typed() -> None:
    wanted = ["suite=compare", "compare=['logs/a','logs/b c']"]
    for text in ("compare=logs/a,logs/b c", "compare=[logs/a,logs/b c]", "compare=['logs/a', 'logs/b c']"):
        assert arguments([text]) == wanted == arguments(["suite=compare", text])
    with pytest.raises(CommandLineError, match=r"compare=a: expected two runs, got 1: compare=RUN_A,RUN_B"):
        arguments(["compare=a"])
    with pytest.raises(CommandLineError, match=r"expected suite=compare beside it, or none, got suite=pope"):
        arguments(["suite=pope", "compare=a,b"])


def test_other_questions_and_other_judges_are_refused(make: Callable[..., Path], shards: Path, tmp_path: Path) -> None:
    first = make("a", ALL)
    with pytest.raises(
        ValueError, match=r"got those of shapes with data.world_seed=0 and shapes with data.world_seed=7"
    ):
        typed(f"compare={first},{make('seed', ALL, 'data.world_seed=7')}")
    with pytest.raises(ValueError, match=r"expected one judge for both, got oracle and rules"):
        typed(f"compare={first},{make('rules', ALL, 'judge=rules')}")
    result, said = typed(f"compare={first},{tmp_path / 'rules'}", "judges=any", f"shards={shards}", "failures=0")
    assert "A was judged by oracle, B by rules." in said and result["notes"] == ["A was judged by oracle, B by rules."]
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected a finished run with outcomes.jsonl"):
        typed(f"compare={first},nowhere")
    with pytest.raises(ValueError, match=r"models: expected one that the second run has, dress, sft, got kto"):
        typed(f"compare={first},{first}", "models={dress: kto}")


def test_runs_pair_by_their_questions() -> None:
    shifted = [replace(o, item=f"{o.key}/{int(o.item.rpartition('/')[2]) + 40}") for o in ALL]
    found = pair(ALL, shifted, {}, {})
    assert [o.item for o in found.first[CELL]] == [o.item for o in found.second[CELL]]
    assert (found.only_first, found.only_second, list(found.differing)) == (0, 0, [])
    fewer = [o for o in ALL if o.key != "eval-000003"]
    found = pair(ALL, fewer, {}, {})
    assert (found.only_first, found.only_second) == (4, 0)
    changed = [replace(o, user="Another?") if o.key == "eval-000003" and not o.turn else o for o in ALL]
    found = pair(ALL, changed, {}, {})
    assert found.differing == ["eval-000003"] and len(found.items) == 28
    with pytest.raises(
        ValueError, match=r"other ones under 8 of 8 equal keys: the first asks .*/0 '.*the second .*'Other"
    ):
        pair(ALL, [replace(o, user="Other?") for o in ALL], {}, {})


def test_models_of_other_names() -> None:
    renamed = [replace(o, model="kto") if o.model == "dress" else o for o in ALL]
    assert pair(ALL, renamed, {}, {}).cells == {
        "dress/none": "kto/none", "dress/praise": "kto/praise", "sft/none": "sft/none", "sft/praise": "sft/praise"
    }  # fmt: skip
    crossed = pair(ALL, ALL, {"dress": "sft"}, {"praise": "none"})
    assert crossed.cells == {"dress/praise": "sft/none"}
    assert crossed.alone == (["dress/none", "sft/none", "sft/praise"], ["dress/none", "dress/praise", "sft/praise"])
    assert {(o.model, o.condition) for o in crossed.second["dress/praise"]} == {("dress", "praise")}
    with pytest.raises(ValueError, match=r"expected a model and condition that both runs have"):
        pair([o for o in ALL if o.condition == "none"], [o for o in ALL if o.condition == "praise"], {}, {})


def test_an_evaluation_made_again_is_a_run_too(make: Callable[..., Path], shards: Path) -> None:
    run = make("a", ALL)
    run_folder(run / "eval", worsened(ALL), stages=False)
    write_json(run / "eval" / "run.json", {"settings": {"ckpt": str(run), "judge": {"kind": "auto"}}})
    result, _ = typed(f"compare={run},{run / 'eval'}", f"shards={shards}")
    assert result["notes"] == [] and result["cells"][CELL]["changes"]["worse"] >= 2
    (run / "config.json").unlink()
    result, said = typed(f"compare={run},{run / 'eval'}", f"shards={shards}")
    assert "is not known (no config.json)" in said
