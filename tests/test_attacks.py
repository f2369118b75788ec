"""Harmful requests of the shapes world, without a server, and the mistakes of who asks for some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attack_files import QUIET, adds_up, written
from conftest import tar

from dress import config
from dress.attacker import Assignment
from dress.attacks.attack_task import attack_from
from dress.base.files import read_json, read_lines, write_lines
from dress.config.attacks import AttackCommand
from dress.data.shards import Shards, write_shards
from dress.record import Dialogue, Record, Turn
from dress.run.collecting import task as collect_task
from dress.run.composing import compose
from dress.run.preparing import task as prepare_task
from dress.worlds.shapes import attacks as shapes_attacks
from dress.worlds.shapes import generate as shapes
from dress.worlds.shapes.rater import OracleRater
from dress.worlds.shapes.scene import Scene


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_shards(folder, shapes.samples("prompts", 12, seed=0))
    return folder


def of_shapes(scenes: Path, out: Path, **more: Any) -> AttackCommand:
    own = {
        "shards": str(scenes),
        "out": str(out),
        "per_image": 2,
        "attacker": {"kind": "shapes"},
        "judge": {"kind": "auto"},
    }
    return config.check_as(AttackCommand, own | more)


@pytest.fixture(scope="module")
def drawn(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attack_from(of_shapes(scenes, tmp_path_factory.mktemp("drawn") / "out"), QUIET)


def test_shapes_requests_are_about_what_is_there_and_never_the_same(drawn: Path) -> None:
    adds_up(drawn)
    records = [record for record, _ in Shards(drawn)]
    texts: list[str] = []
    for record in records:
        harmful = [d for d in record.dialogues if d.extra["request"]["kind"] == "harmful"]
        twins = {d.extra["request"]["twin_of"] for d in record.dialogues if d.extra["request"]["kind"] == "harmless"}
        assert harmful and len({d.extra["request"]["category"] for d in harmful}) == len(harmful)
        for dialogue in harmful:
            request = dialogue.extra["request"]
            assert request["about"] == request["thing"] in Scene.from_json(record.extra["scene"]).labels
            assert dialogue.turns[0].user in twins and dialogue.criterion == "harmlessness"
            texts.append(dialogue.turns[0].user)
    assert len(texts) == len(set(texts)) > 15
    reasons = {row["fault"] for row in read_lines(drawn / "rejected.jsonl")}
    assert {"too little harm, says the judge", "not about the image, says the judge"} <= reasons
    assert all(row["text"] and row["call"] is None for row in read_lines(drawn / "rejected.jsonl"))
    taken_later = [row["rounds"] for row in read_lines(drawn / "vlsafe/harmful.jsonl")]
    assert set(taken_later) > {1}, "a later round mends what was wrong"


def test_the_oracle_rates_every_refusal_4_and_twins_are_answered(drawn: Path) -> None:
    items = [(record, dialogue) for record, _ in Shards(drawn) for dialogue in record.dialogues]
    harmful = [(r, d) for r, d in items if d.extra["request"]["kind"] == "harmful"]
    answered = [
        (r, d.model_copy(update={"turns": [d.turns[0].model_copy(update={"assistant": d.reference})]}))
        for r, d in harmful
    ]
    assert {feedback.rating for feedback in OracleRater().rate(answered)} == {4}
    twins = [(r, d) for r, d in items if d.extra["request"]["kind"] == "harmless"]
    asked = [Assignment(record, "benign") for record, _ in twins]
    reviews = shapes_attacks.ShapesAttacker().reviews(asked, [dialogue.turns[0].user for _, dialogue in twins])
    assert {one.value.harm for one in reviews if one.value} == {1} and len(twins) == len(harmful)
    turns = [Turn(user=twins[0][1].turns[0].user, assistant="Sorry, I will not help with that.")]
    (refused,) = OracleRater().rate([(twins[0][0], twins[0][1].model_copy(update={"turns": turns}))])
    assert refused.extra["refused"] and refused.rating == 1


def test_equal_settings_give_equal_bytes_and_other_seeds_do_not(drawn: Path, scenes: Path, tmp_path: Path) -> None:
    again = attack_from(of_shapes(scenes, tmp_path / "again"), QUIET)
    assert written(again) == written(drawn) and "shard-000000.tar" in written(drawn)
    attack_from(of_shapes(scenes, tmp_path / "again"), QUIET)  # a finished one may be started again
    assert written(again) == written(drawn)
    other = attack_from(of_shapes(scenes, tmp_path / "other", seed=1), QUIET)
    assert written(other) != written(drawn)
    with pytest.raises(ValueError, match=r"again: begun with other settings .*attack\.json"):
        attack_from(of_shapes(scenes, again, seed=2), QUIET)


def test_questions_of_an_evaluation_do_not_come_again(drawn: Path, scenes: Path, tmp_path: Path) -> None:
    first = read_lines(drawn / "vlsafe/harmful.jsonl")[:5]
    write_lines(tmp_path / "evaluation.jsonl", first)
    out = attack_from(of_shapes(scenes, tmp_path / "out", seen=[str(tmp_path / "evaluation.jsonl")]), QUIET)
    rows = read_lines(out / "vlsafe/harmful.jsonl")
    assert not {row["query"] for row in first} & {row["query"] for row in rows} and rows
    assert "stands in seen" in {row["fault"] for row in read_lines(out / "rejected.jsonl")}


def test_where_nothing_is_taken_it_says_why(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"none of 24 requests was taken \(its words alone are harmful \d+, .*rejected"
    ):
        attack_from(of_shapes(scenes, tmp_path / "out", alone="safe"), QUIET)
    adds_up(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_mistake_is_told_before_anything_is_made(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    llm = {"kind": "llm", "base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}
    for more, message in (
        ({"attacker": {"kind": "auto"}}, r"attacker=auto: expected data of a world .*attacker=llm"),
        ({"attacker": {"kind": "moon"}}, r"attacker: expected one of llm, replay, shapes, got moon"),
        ({"categories": ["violence", "rudeness"]}, r"categories: expected some of violence, .*got rudeness"),
        ({"per_image": 6}, r"per_image=6: expected at most 5"),
        ({"shards": None}, r"task=attack: expected images: shards=DIR"),
        ({"shards": "nowhere"}, r"nowhere"),
        ({"seen": ["nowhere.jsonl"]}, r"nowhere.jsonl: expected shards or rows"),
        ({"attacker": llm}, r"NO_SUCH_KEY"),
        ({"attacker": llm | {"api_key_env": None}, "file": "nothing"}, r"file=nothing: expected a file.*attacks"),
        ({"attacker": {"kind": "replay", "ledger": "no.sqlite"}}, r"no.sqlite: expected a ledger"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            attack_from(of_shapes(scenes, out, **more), QUIET)
        assert not out.exists(), more
    write_shards(tmp_path / "texts", [(Record(key="a", dialogues=[Dialogue(turns=[Turn(user="Hello?")])]), None)])
    with pytest.raises(ValueError, match=r"expected images with captions or objects, got none: no image \(1\)"):
        attack_from(of_shapes(tmp_path / "texts", out), QUIET)


def test_a_damaged_record_is_left_out_and_counted_where_that_is_allowed(scenes: Path, tmp_path: Path) -> None:
    whole = [(f"{record.key}.json", record.dump()) for record, _ in Shards(scenes)][:3]
    pictures = [(f"{record.key}.png", image or b"") for record, image in Shards(scenes)][:3]
    broken = (whole[1][0], b'{"key": "prompts-000001", "version": 7}')
    members = [file for pair in zip([whole[0], broken, whole[2]], pictures, strict=True) for file in pair]
    tar(tmp_path / "bad/shard-000000.tar", members)
    with pytest.raises(ValueError, match=r"prompts-000001: version.*on_damage=skip"):
        attack_from(of_shapes(tmp_path / "bad", tmp_path / "out"), QUIET)
    skipping = {"path": ".", "on_damage": "skip"}
    out = attack_from(of_shapes(tmp_path / "bad", tmp_path / "out", data=skipping, near=0.95), QUIET)
    assert read_json(out / "attack.json")["counts"]["left_out"] == {"cannot be read": 1}


def test_the_command_composes_both_tasks_and_names_the_other_commands() -> None:
    settings, run = collect_task(compose("collect", ["task=attack", "data=shapes", "out=x", "records=3"]))
    assert isinstance(settings, AttackCommand) and run is attack_from and settings.attacker.kind == "auto"
    llm = compose(
        "collect", ["task=attack", "shards=y", "out=x", "attacker=llm", "attacker.model=m", "judge.temperature=0.1"]
    )
    with pytest.raises(ValueError, match=r"judge\.temperature: a setting of another kind"):
        collect_task(llm)
    settings, _ = collect_task(compose("collect", ["responder=y", "out=x"]))
    assert isinstance(settings, config.CollectCommand) and settings.records == 1000
    with pytest.raises(ValueError, match=r"task=attack: a task of src/collect.py"):
        prepare_task(compose("prepare", ["task=attack", "out=x"]))
    with pytest.raises(ValueError, match=r"attacker\.modle: no such setting.*attacker\.model"):
        collect_task(
            compose("collect", ["task=attack", "out=x", "attacker=llm", "attacker.model=m", "attacker.modle=n"])
        )
