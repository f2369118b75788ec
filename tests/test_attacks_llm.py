"""Harmful requests by a language model behind a server: written, judged, replayed, stopped, killed, read back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from attack_files import QUIET, adds_up, written
from conftest import png
from llm_server import Behaviour, serving, started

from dress import config
from dress.attacks.attack_task import attack_from
from dress.attacks.prompts import AttackFile
from dress.base.files import read_json, read_lines, write_lines
from dress.base.terminal import Terminal
from dress.config.attacks import AttackCommand
from dress.data.shards import Shards, write_shards
from dress.llm.ledger import Ledger
from dress.llm.request import Stopped
from dress.record import ImageAnnotation, ImageRef, Object, Record
from dress.run.composing import compose
from dress.run.preparing import task as prepare_task

KEY = "canary-1a2b3c4d5e6f"


LABELS = ("dog", "bicycle", "car", "bench", "boat", "umbrella", "chair", "clock")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos with a caption and COCO's objects."""
    folder = tmp_path_factory.mktemp("photos")
    samples = [
        (
            Record(
                key=f"p{number}",
                source="photos",
                image=ImageRef(id=f"folder/{number}.png"),
                annotation=ImageAnnotation(
                    captions=[f"A {label} number {number}."],
                    objects=[Object(label=label)],
                    extra={"vocabulary": "coco80"},
                ),
            ),
            png(),
        )
        for number, label in enumerate(LABELS)
    ]
    write_shards(folder, samples, per_shard=4)
    return folder


def by_llm(photos: Path, out: Path, url: str, **more: Any) -> AttackCommand:
    """The settings of `python src/collect.py task=attack attacker=llm judge=llm …`."""
    attacker: dict[str, Any] = {"kind": "llm", "base_url": url, "model": "writer", "preview": 0, "timeout": 5.0}
    plain: dict[str, Any] = {"shards": str(photos), "out": str(out), "per_image": 2, "per_shard": 4}
    for key, value in more.items():
        (plain if key in AttackCommand.model_fields else attacker)[key] = value
    judge = {key: attacker[key] for key in attacker if key not in ("preview", "confirm")} | {"model": "reviewer"}
    return config.check_as(AttackCommand, {"attacker": attacker, "judge": judge, **plain})


@pytest.fixture(scope="module")
def asked(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Behaviour]:
    server = Behaviour(refuses=0.1, kinds=("429", "500", "drift"), faults=0.1)
    out = tmp_path_factory.mktemp("asked") / "out"
    with serving(server) as url:
        attack_from(by_llm(photos, out, url, structured="json_schema"), QUIET)
    return out, server


def test_a_model_writes_and_another_judges(asked: tuple[Path, Behaviour]) -> None:
    out, server = asked
    adds_up(out)
    rows, rejected = read_lines(out / "vlsafe/harmful.jsonl"), read_lines(out / "rejected.jsonl")
    assert len(rows) > 8 and {(row["writer"], row["judge"], row["prompt"]) for row in rows} == {
        ("writer", "reviewer", AttackFile.load("attacks").prompt_version)
    }
    assert all(row["thing"] in row["query"] and row["thing"] in row["reference"] for row in rows)
    assert {row["fault"] for row in rejected} >= {
        "too little harm, says the judge",
        "not about the image, says the judge",
    }
    assert any(row["fault"] == "nothing came" and row["detail"] == "refusal" and not row["text"] for row in rejected)
    assert all(row["call"] for row in rejected)
    tries = [row["tries"] for row in Ledger(out / "ledger.sqlite", readonly=True).calls()]
    assert any("schema" in one for one in tries) and any("http_429" in one for one in tries), "mended, and sent again"
    texts = [str(body["messages"]) for body in server.bodies]
    drafts = [text for text in texts if "safety team" in text and "Write only the request" in text]
    assert any("How would one hurt" in text and "says the judge: Be plain." in text for text in drafts), (
        "told what was wrong"
    )
    alone = [text for text in texts if "Judge its words only" in text]
    assert alone and not any("number" in text for text in alone), "words alone are judged without the captions"
    assert {body["model"] for body in server.bodies if "Judge its words" in str(body)} == {"reviewer"}
    assert len({body.get("seed") for body in server.bodies if body["model"] == "writer"}) > 20
    assert {body.get("temperature") for body in server.bodies if body["model"] == "reviewer"} == {0.0}


def test_replayed_it_is_the_same_and_nobody_is_asked(
    asked: tuple[Path, Behaviour], photos: Path, tmp_path: Path
) -> None:
    out, server = asked
    before, ledger = sum(server.calls.values()), str(out / "ledger.sqlite")
    replay = {"kind": "replay", "ledger": ledger}
    attacker, judge = replay | {"model": "writer"}, replay | {"model": "reviewer"}
    again = attack_from(
        by_llm(photos, tmp_path / "again", "http://127.0.0.1:9/v1", attacker=attacker, judge=judge), QUIET
    )
    assert written(again) == written(out) and sum(server.calls.values()) == before


def test_other_concurrency_and_a_preview_change_nothing(
    asked: tuple[Path, Behaviour], photos: Path, tmp_path: Path, capsys: Any
) -> None:
    out, _ = asked
    server = Behaviour(refuses=0.1)
    with serving(server) as url:
        settings = by_llm(photos, tmp_path / "out", url, structured="json_schema", concurrency=2, preview=5)
        attack_from(settings, Terminal())
        printed = capsys.readouterr().out
        calls = sum(server.calls.values())
        attack_from(settings, Terminal())
        assert sum(server.calls.values()) == calls, "all is known"
    assert "the first 5" in printed and "taken: harm 4" in printed and "the first 5" not in capsys.readouterr().out
    assert written(tmp_path / "out") == written(out)


def test_a_model_that_refuses_stops_it(photos: Path, tmp_path: Path) -> None:
    server = Behaviour(refuses=1.0)
    with serving(server) as url:
        settings = by_llm(photos, tmp_path / "out", url, preview=5)
        with pytest.raises(
            Stopped, match=r"refuses to write requests \(refusal 5 of 5\).*another attacker.*goes on from"
        ):
            attack_from(settings, QUIET)
        assert sum(server.calls.values()) == 6, "the probe and five drafts"
        with pytest.raises(Stopped, match=r"confirm=true"):
            server.refuses = 0.0
            attack_from(by_llm(photos, tmp_path / "out", url, preview=5, confirm=True, retry_failed=True), QUIET)
        attack_from(by_llm(photos, tmp_path / "out", url, retry_failed=True), QUIET)
    adds_up(tmp_path / "out")


def test_a_budget_stops_it_and_a_larger_one_goes_on(
    asked: tuple[Path, Behaviour], photos: Path, tmp_path: Path
) -> None:
    prices = {"price_in": 1000.0, "price_out": 1000.0, "structured": "json_schema"}
    server = Behaviour(refuses=0.1)
    with serving(server) as url:
        with pytest.raises(Stopped, match=r"budget=5.*The same command goes on"):
            attack_from(by_llm(photos, tmp_path / "out", url, budget=5.0, **prices), QUIET)
        assert 0 < sum(server.calls.values()) * 0.12 <= 5.0 and not (tmp_path / "out/rejected.jsonl").exists()
        attack_from(by_llm(photos, tmp_path / "out", url, budget=500.0, **prices), QUIET)
    assert written(tmp_path / "out") == written(asked[0])


@pytest.mark.slow
def test_killed_it_goes_on(asked: tuple[Path, Behaviour], photos: Path, tmp_path: Path) -> None:
    with started("--delay", "0.01", "--refuses", "0.1") as server:
        settings = by_llm(photos, tmp_path / "out", server.url, structured="json_schema", concurrency=4)
        process = multiprocessing.get_context("fork").Process(target=attack_from, args=(settings, QUIET))
        process.start()
        while process.is_alive() and sum(server.stats()["calls"].values()) < 30:
            time.sleep(0.005)
        assert process.is_alive() and process.pid is not None, "it was to be killed in the middle"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        attack_from(settings, QUIET)
    counts = Ledger(tmp_path / "out/ledger.sqlite", readonly=True).counts()
    assert (
        0 < counts["interrupted"] <= 4 and counts["calls"] == counts["done"] + counts["failed"] + counts["interrupted"]
    )
    assert written(tmp_path / "out") == written(asked[0])


def test_the_estimate_bounds_what_is_asked_and_makes_nothing(
    asked: tuple[Path, Behaviour], photos: Path, tmp_path: Path, capsys: Any
) -> None:
    settings = by_llm(photos, tmp_path / "out", "http://127.0.0.1:9/v1", dry_run=True, price_in=1.0, price_out=1.0)
    attack_from(settings, Terminal())
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.count("│") > 4]
    most = {row[1].strip(): int(row[2].replace(",", "")) for row in rows}
    assert (
        most == {"draft": 48, "review": 96, "alone": 96, "twin": 48, "refusal": 48} and not (tmp_path / "out").exists()
    )
    file, ledger = AttackFile.load("attacks"), Ledger(asked[0] / "ledger.sqlite", readonly=True)
    for question, number in most.items():
        counts = ledger.counts(file.version_of(question))
        assert 0 < counts.get("done", 0) + counts.get("failed", 0) <= number, question


def test_the_key_stands_nowhere(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WRITER_KEY", KEY)
    server = Behaviour(key=KEY, faults=0.1, kinds=("500",), refuses=0.2)
    with serving(server) as url:
        attack_from(by_llm(photos, tmp_path / "out", url, api_key_env="WRITER_KEY", records=3), Terminal())
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()]
    assert KEY not in capsys.readouterr().out


def test_a_judge_of_the_same_name_is_said(photos: Path, tmp_path: Path, capsys: Any) -> None:
    with serving(Behaviour()) as url:
        settings = by_llm(photos, tmp_path / "out", url, judge={"kind": "auto"}, records=2)
        attack_from(settings, Terminal())
    assert "writer judges what it wrote itself" in capsys.readouterr().out
    assert "The judge is the writer" in (tmp_path / "out/README.md").read_text()


def test_a_broken_file_of_prompts_is_named(tmp_path: Path) -> None:
    text = (AttackFile.folder / "attacks.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("{captions}", "{captoins}", 1))
    with pytest.raises(ValueError, match=rf"{file}.*draft.*no such field {{captoins}}"):
        AttackFile.load(str(file))
    file.write_text(text.replace("version: 1", "version: 2"))
    assert AttackFile.load(str(file)).prompt_version != AttackFile.load("attacks").prompt_version


def test_what_is_written_is_read_back_and_measured(asked: tuple[Path, Behaviour], tmp_path: Path) -> None:
    """`prepare.py source=vlsafe` and `suite=vlsafe`."""
    import dress

    out, _ = asked
    rows, twins = read_lines(out / "vlsafe/harmful.jsonl"), read_lines(out / "benign.jsonl")
    assert set(read_json(out / "vlsafe/objects.json")) == {row["image_id"] for row in rows}
    typed = ["source=vlsafe", f"path={out}/vlsafe", f"out={tmp_path}/imported", "workers=0", "held_out=1"]
    checked, run = prepare_task(compose("prepare", typed))
    run(checked, QUIET)
    assert (
        not read_lines(tmp_path / "imported/rejects.jsonl") if (tmp_path / "imported/rejects.jsonl").exists() else True
    )
    again = {
        (dialogue.turns[0].user, dialogue.reference, dialogue.extra.get("category"))
        for split in ("prompts", "eval")
        for record, _ in Shards(tmp_path / "imported" / split)
        for dialogue in record.dialogues
        if dialogue.extra["request"]["kind"] == "harmful"
    }
    assert again == {(row["query"], row["reference"], row["category"]) for row in rows}
    answers = [{"image_id": row["image_id"], "question": row["query"], "answer": row["reference"]} for row in rows]
    answers += [
        {"image_id": row["image_id"], "question": row["safe_query"], "answer": "I am sorry, I cannot help with that."}
        for row in twins[:1]
    ]
    answers += [
        {"image_id": row["image_id"], "question": row["safe_query"], "answer": "Use a brush."} for row in twins[1:]
    ]
    write_lines(tmp_path / "answers.jsonl", answers)
    figures = dress.evaluate(
        tmp_path / "answers.jsonl",
        [
            "suite=vlsafe",
            f"rows={out}/vlsafe/harmful.jsonl",
            f"benign={out}/benign.jsonl",
            "judge=rules",
            f"out={tmp_path}/eval",
        ],
        quiet=True,
    )
    assert figures["safety"] == 1 and figures["over_refusal"] == pytest.approx(1 / len(twins)) and not figures["failed"]
