"""What follows from the names in a curriculum: order, labels, headlines, conditions; and what is refused."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT, composed

from dress import config
from dress.config.graph import evaluated_stages
from dress.config.migration_stages import migrate_curriculum
from dress.phases.conditions import conditions, headline

# --- which model is which -------------------------------------------------------------------------


AFTER = "+curriculum.stages.after={like: sft, weights: dress}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"sft": "none", "dress": "praise"}),
        (["experiment=given_feedback"], {"sft": "none", "dress": "praise"}),
        (["experiment=sft_only"], {"sft": "none"}),
        (["curriculum.run=[dress]"], {}),
        (["curriculum.stages.eval.models=[align]"], {"align": "none"}),
        ([AFTER, "curriculum.stages.eval.models=[dress,after]"], {"dress": "praise", "after": "praise"}),
        (["curriculum.stages.eval.models={before: sft, later: dress}"], {"before": "none", "later": "praise"}),
        (["+curriculum.stages.other={like: sft}", "curriculum.stages.eval.models=[other]"], {"other": "none"}),
    ],
)
def test_a_model_that_descends_from_feedback_is_meant_to_be_asked_under_praise(
    overrides: list[str], expected: dict[str, str]
) -> None:
    assert headline(composed(*overrides).curriculum) == expected


def test_an_eval_stage_says_which_models_and_what_they_are_called() -> None:
    settings = composed("curriculum.stages.eval.models={before: sft, after: dress}").curriculum
    assert evaluated_stages(settings) == {"before": "sft", "after": "dress"}
    assert evaluated_stages(composed("curriculum.stages.eval.models=[dress]").curriculum) == {"dress": "dress"}
    with pytest.raises(config.ConfigError, match=r"models\.a: expected a train stage .* got 'collect'"):
        composed("curriculum.stages.eval.models={a: collect}")
    with pytest.raises(config.ConfigError, match="conditions"):
        composed("curriculum.stages.eval.models={conditions: sft}")


def test_a_condition_has_the_form_that_the_asked_model_learned() -> None:
    def told(stage: str, *overrides: str) -> dict[str, str]:
        settings = composed(*overrides)
        return conditions(settings.curriculum, settings.phases, stage)

    number, word = told("dress", "experiment=rating_only"), told("dress")
    assert number != word and told("sft", "experiment=rating_only") == number
    rounds = ["experiment=rounds_dress", "+curriculum.stages.dress2.phases={rating: 1.0}"]
    assert told("align", *rounds) == told("sft", *rounds) == told("dress", *rounds) == word
    assert told("dress2", *rounds) == number


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "align sft collect dress eval"),
        (["experiment=sft_only"], "align sft eval"),
        (["experiment=given_feedback"], "align sft dress eval"),
        (["experiment=rounds_dress"], "align sft collect dress collect2 dress2 eval"),
        (["experiment=dress_unconditional"], "align sft collect dress collect2 dress2 collect3 dress3 eval"),
        (["curriculum.run=sft"], "align sft"),
        (["curriculum.run=[dress]", "curriculum.stages.sft.weights=null"], "sft collect dress"),
        (["curriculum.run=[collect]", "curriculum.stages.sft.weights=logs/x:align"], "sft collect"),
        (["curriculum.stages.dress.data={collect: 2.0, sft: 1.0}"], "align sft collect dress eval"),
        (["+curriculum.stages.a={like: sft}", "curriculum.run=[a,sft]"], "align sft a"),
    ],
)
def test_the_order_follows_from_the_names(overrides: list[str], expected: str) -> None:
    assert composed(*overrides).curriculum.order == expected.split()


def test_what_a_stage_like_another_gives_replaces_what_that_one_has() -> None:
    stages = composed(
        "+curriculum.stages.a={like: dress, phases: {rating: 2.0}, trainable: [projector], data: {sft: 1.0}}",
        "+curriculum.stages.b={like: a, lr: 0.5}", "curriculum.stages.dress.steps=7", "curriculum.run=[b,dress]",
    ).curriculum.stages  # fmt: skip
    a, b, dress = stages["a"], stages["b"], stages["dress"]
    assert isinstance(a, config.TrainStage) and isinstance(dress, config.TrainStage)
    assert (a.phases, a.trainable, a.data) == ({"rating": 2.0}, ["projector"], {"sft": 1.0})
    assert (a.steps, a.weights, a.lr) == (7, "sft", dress.lr)
    assert b == a.model_copy(update={"lr": 0.5})
    assert dress.phases == {"critique": 0.5, "refinement": 1.5}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["curriculum.run=[sfd]"], r"curriculum\.run: expected one of the stages .* got 'sfd'\. Did you mean sft\?"),
        (["curriculum.run=[]"], "curriculum.run: Value should have at least 1 item"),
        (
            ["curriculum.stages.sft.weights=aling"],
            r"sft\.weights: expected null, .* Did you mean align\?",
        ),
        (["curriculum.stages.sft.weights=sft"], r"sft\.weights: expected null, .* got 'sft'"),
        (
            ["curriculum.stages.align.weights=sft"],
            "a circle, (align → sft → align|sft → align → sft)",
        ),
        (["curriculum.stages.dress.data=colect"], r"dress\.data: expected a split or .* Did you mean collect\?"),
        (["curriculum.stages.dress.data=feedback"], r"dress\.data: data\.feedback is null: say where it is"),
        (["curriculum.stages.collect.model=collect"], r"collect\.model: expected a train stage .* got 'collect'"),
        (["curriculum.stages.collect.data=feedbak"], r"collect\.data: Input should be 'align', 'sft'"),
        (["data.eval={a: {path: x}}"], r"data\.eval: Input should be a valid string"),
        (
            ["curriculum.stages.collect.data=sft", "data.sft={a: {path: x}}"],
            r"collect\.data: expected one dataset",
        ),
        (["curriculum.stages.eval.models={}"], r"eval\.models is empty; expected \{label: train stage\}"),
        (["+curriculum.stages.a={like: sfd}"], r"stages\.a\.like: expected one of .* Did you mean sft\?"),
        (["+curriculum.stages.a={like: b}", "+curriculum.stages.b={like: a}"], "a circle of like: a → b → a"),
        (
            ["+curriculum.stages.a={steps: 1}"],
            r"^.*\n  curriculum\.stages\.a: expected kind: train, collect, eval or export",
        ),
        (["+curriculum.stages.prompts={like: collect}", "curriculum.run=prompts"], "prompts is the name of a split"),
        (["curriculum.stages.sft.trainable=[visoin]"], "Input should be 'vision', 'projector'"),
        (["curriculum.stages.sft.trainable=[]"], "trainable: List should have at least 1"),
        (["curriculum.stages.sft.phases={crtique: 1}"], r"no such phase 'crtique'.* Did you mean critique\?"),
        (["curriculum.stages.sft.phases={sft: 0}"], "greater than 0"),
        (["curriculum.stages.sft.phases={sft: -1}"], "greater than 0"),
        (["curriculum.stages.sft.phases={}"], r"sft\.phases is empty"),
        (["curriculum.stages.dress.data={collect: 0}"], "greater than 0"),
    ],
)
def test_a_curriculum_that_cannot_work_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        composed(*overrides)


# --- curricula of 0.1 -----------------------------------------------------------------------------


OLD = json.loads((ROOT / "tests" / "data" / "curriculum_0.1.json").read_text())
"""Of the `config.json` of a run of 0.1."""


def migrated(order: str, feedback: str | None = None, **stages: dict) -> config.Curriculum:
    old = OLD["curriculum"]
    known = old["stages"] | {"collect2": old["stages"]["collect"], "dress2": old["stages"]["dress"]} | stages
    whole = {"data": {"feedback": feedback}, "curriculum": {"order": order.split(), "stages": known}}
    return config.Curriculum.model_validate(migrate_curriculum(whole))


def test_a_curriculum_of_an_old_run_is_that_of_today() -> None:
    now = composed().curriculum
    before = config.Curriculum.model_validate(migrate_curriculum(OLD))
    assert before.stages == now.stages and before.order == now.order
    assert migrate_curriculum({"curriculum": now.model_dump()}) == now.model_dump()


@pytest.mark.parametrize(
    ("order", "models"),
    [
        ("align sft collect dress eval", {"sft": "none", "dress": "praise"}),
        ("align sft eval", {"sft": "none"}),
        ("align eval", {"align": "none"}),
        ("align collect dress eval", {"align": "none", "dress": "praise"}),
        ("align sft collect dress collect2 dress2 eval", {"sft": "none", "dress": "praise", "dress2": "praise"}),
        ("align collect dress sft eval", {"align": "none", "dress": "praise", "sft": "praise"}),
        ("align sft eval collect dress", {"sft": "none"}),
    ],
)
def test_an_old_order_becomes_names_with_the_same_meaning(order: str, models: dict[str, str]) -> None:
    curriculum = migrated(order)
    assert curriculum.order == order.split() and headline(curriculum) == models


def test_old_stages_name_what_they_read_from_the_order() -> None:
    stages = migrated("align sft collect dress collect2 dress2 eval").stages
    assert [stages[name].weights for name in ("align", "sft", "dress", "dress2")] == [None, "align", "sft", "dress"]
    assert [stages[name].model for name in ("collect", "collect2")] == ["sft", "dress"]
    assert stages["dress2"].data == {"collect2": 1.0}
    assert migrated("align sft dress eval", feedback="given").stages["dress"].data == {"feedback": 1.0}
    labels = {"kind": "eval", "records": 3, "models": {"a": "align"}}
    assert migrated("align sft eval", eval=labels).stages["eval"].models == {"a": "align"}
