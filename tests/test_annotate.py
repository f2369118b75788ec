"""Annotation as a whole: who answers, who judges, what is written, and what a killed process leaves behind."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_model, tiny_settings
from llm_server import Behaviour, Started, serving, started
from rich.console import Console

from dress import config
from dress.base.files import read_json, read_lines, write_lines
from dress.base.progress import CurriculumProgress
from dress.config.raters import LLM
from dress.data.shards import Shards, write_shards
from dress.feedback.annotate import gather, storing
from dress.feedback.collect import Collection
from dress.feedback.command import collect_from
from dress.feedback.llm import LLMRater
from dress.feedback.raters import build_rater, identity
from dress.feedback.rubric import Rubric
from dress.llm.ledger import Ledger
from dress.llm.request import Stopped
from dress.record import Dialogue, ImageAnnotation, Object, Record, Turn
from dress.rollout.answers_file import FileResponder
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Rollout
from dress.rollout.responder import OpenTurn, Sampling
from dress.run import loggers
from dress.run.start import start_run
from dress.sources.lvlm_nlf import LVLMNLF
from dress.sources.protocol import Place
from dress.train.curriculum import Curriculum
from dress.worlds.shapes import generate as shapes

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions as if from published rows."""
    folder = tmp_path_factory.mktemp("prompts")
    samples = list(shapes.samples("prompts", 8, seed=0))
    for row, (record, _) in enumerate(samples):
        for dialogue in record.dialogues:
            dialogue.extra["lvlm_nlf"] = {"file": "helpfulness_nlf.jsonl", "row": row}
    write_shards(folder, samples)
    return folder


def asked(prompts: Path, out: Path, responder: str, url: str, **more: Any) -> config.CollectCommand:
    """The settings of `python src/collect.py responder=… annotator=llm …`."""
    annotator = {"kind": "llm", "base_url": url, "model": "judge", "structured": "json_schema", "preview": 0}
    plain: dict[str, Any] = {
        "responder": responder, "server": {"model": "talker"}, "shards": str(prompts), "out": str(out), "records": 8,
        "turns": 2, "per_shard": 3, "temperature": 0.7,
    }  # fmt: skip
    for key, value in more.items():
        if key in config.CollectCommand.model_fields:
            plain[key] = value
        else:
            annotator[key] = value
    return config.check_as(config.CollectCommand, plain | {"annotator": annotator})


def written(out: Path) -> dict[str, str]:
    """sha256 of everything that is made from the ledger."""
    files = [*out.glob("*.tar"), *out.glob("lvlm_nlf/*"), *out.glob("*.jsonl")]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# --- what is written ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected(prompts, tmp_path_factory) -> tuple[Path, Behaviour]:
    """A server's answers, judged by a server that refuses some questions."""
    out = tmp_path_factory.mktemp("collected") / "out"
    server = Behaviour(refuses=0.1)
    with serving(server) as url:
        collect_from(asked(prompts, out, url, url, sees_image=True), QUIET)
    return out, server


def test_every_answer_is_judged_and_the_refinement_is_the_next_users_turn(collected, prompts):
    out, _ = collected
    version = Rubric.load("feedback").prompt_version
    records = [record for record, _ in Shards(out)]
    assert [record.key for record in records] == [record.key for record, _ in Shards(prompts)]
    turns = 0
    for record in records:
        for dialogue in record.dialogues:
            for number, turn in enumerate(dialogue.turns):
                [feedback] = turn.feedback
                assert feedback.prompt_version == version and feedback.annotator == "judge"
                assert turn.provenance == {"responder": "talker", "finish_reason": "stop"} and turn.assistant
                judged = feedback.rating in (1, 2, 3, 4) and bool(feedback.critique)
                assert judged or feedback.extra["failed"] == "refusal"
                turns += 1
                if number:
                    assert turn.user == dialogue.turns[number - 1].feedback[0].refinement
            last = dialogue.turns[-1].feedback[0]
            assert len(dialogue.turns) == 2 or last.refinement is None, "it went on while there was advice"
    assert turns > 40


def test_lvlm_nlf_rows_tell_the_same(collected):
    out, _ = collected
    dialogues = [(r, d) for r, _ in Shards(out) for d in r.dialogues]
    rows = [row for file in sorted((out / "lvlm_nlf").iterdir()) for row in read_lines(file)]
    assert {file.stem for file in (out / "lvlm_nlf").iterdir()} == {
        "helpfulness_nlf", "honesty_nlf", "harmlessness_nlf"
    }  # fmt: skip
    assert len(rows) == len(dialogues)
    texts = {(r.image.id if r.image else "", t.user, t.assistant) for r, d in dialogues for t in d.turns}
    assert {(row["image_id"], said["user"], said["model"]) for row in rows for said in row["interaction"]} == texts
    again = [
        dialogue
        for file in sorted((out / "lvlm_nlf").iterdir())
        for number, row in enumerate(read_lines(file))
        for part in LVLMNLF().parts(row, Place(file.name, number))
        for dialogue in part.dialogues
    ]
    told = sorted((d.criterion or "", [(t.user, t.assistant, t.rating, t.critique) for t in d.turns]) for d in again)
    assert told == sorted(
        (d.criterion or "", [(t.user, t.assistant, t.rating, t.critique) for t in d.turns]) for _, d in dialogues
    )


def test_new_answers_to_published_questions_are_not_the_published_rows(collected, prompts):
    out, _ = collected
    assert all("lvlm_nlf" in d.extra for record, _ in Shards(prompts) for d in record.dialogues)
    assert not any("lvlm_nlf" in d.extra for record, _ in Shards(out) for d in record.dialogues)


def test_failures_stand_in_a_file_with_the_raw_reply(collected):
    out, _ = collected
    rows = read_lines(out / "failures.jsonl")
    assert rows and {(row["failed"], row["reason"]) for row in rows} == {("feedback", "refusal")}
    assert all("I cannot judge this" in row["raw"] and row["question"] and row["answer"] for row in rows)
    unrated = [t for r, _ in Shards(out) for d in r.dialogues for t in d.turns if t.rating is None]
    assert len(rows) == len(unrated)


def test_the_llm_is_told_what_is_known_and_sees_the_image(collected, prompts):
    _, server = collected
    judging = [body for body in server.bodies if body["model"] == "judge"]
    record, _ = next(iter(Shards(prompts)))
    asked = [body["messages"][1]["content"] for body in judging]  # side by side: in any order
    parts = next(parts for parts in asked if record.annotation.captions[0] in parts[1]["text"])
    assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,")
    text = parts[1]["text"]
    assert "The image is attached." in text
    assert {"What do you see?" in text or dialogue.turns[0].user in text for dialogue in record.dialogues}
    answering = [body for body in server.bodies if body["model"] == "talker"]
    assert {len(body["messages"]) for body in answering} == {1, 3}
    assert len({body.get("seed") for body in answering}) > 1 and {body["temperature"] for body in answering} == {0.7}


def test_the_rubric_goes_by_criterion_and_tells_boxes_and_reference():
    rubric = Rubric.load("feedback")
    record = Record(
        key="a",
        annotation=ImageAnnotation(
            captions=["A dog."], objects=[Object(label="dog", box=(0.1, 0.25, 0.5, 1.0)), Object(label="ball")]
        ),
    )
    texts = {}
    for criterion in ("helpfulness", "honesty", "harmlessness", None):
        turns = [Turn(user="First?", assistant="One."), Turn(user="Second?", assistant="Two {x}.")]
        dialogue = Dialogue(criterion=criterion, reference="A good one.", turns=turns)
        system, user = rubric.messages(record, dialogue, sees_image=False)
        assert system["role"] == "system"
        texts[criterion] = user["content"]
    assert len(set(texts.values())) == 3 and texts[None] == texts["helpfulness"]
    for part in ("- A dog.", "dog [0.10, 0.25, 0.50, 1.00]", "- ball", "A good one.", "Assistant: One.", "Two {x}."):
        assert part in texts["honesty"]


def test_a_changed_rubric_has_another_version_and_asks_anew(tmp_path):
    text = (Rubric.folder / "feedback.yaml").read_text()
    changed = tmp_path / "mine.yaml"
    changed.write_text(text.replace("two or three sentences", "one sentence"))
    assert Rubric.load(str(changed)).prompt_version != Rubric.load("feedback").prompt_version
    mine, theirs = (LLM(kind="llm", base_url="http://x/v1", model="m", rubric=r) for r in (str(changed), "feedback"))
    assert identity(mine) != identity(theirs)
    assert identity(theirs) == identity(theirs.model_copy(update={"concurrency": 99, "budget": 5.0, "timeout": 1.0}))
    for bad, told in (("{answer}", "no such field"), ("  4: It is right", "scale")):
        broken = text.replace("{answer}", "{anser}") if bad == "{answer}" else text.replace(bad, "  5: It is right")
        changed.write_text(broken)
        with pytest.raises(ValueError, match=f"{changed}.*{told}"):
            Rubric.load(str(changed))
    with pytest.raises(ValueError, match="There are: feedback"):
        Rubric.load("fedback")


# --- stopping and going on ------------------------------------------------------------------------


def in_a_process(settings: config.CollectCommand) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=collect_from, args=(settings, QUIET), daemon=True)
    process.start()
    return process


def calls(server: Started) -> int:
    return sum(server.stats()["calls"].values())


def test_a_killed_collection_goes_on_and_writes_the_same_bytes(prompts, tmp_path):
    concurrency, kills = 6, 0
    with started("--delay", "0.01", "--refuses", "0.1") as server:
        whole = asked(prompts, tmp_path / "whole", server.url, server.url, concurrency=concurrency)
        collect_from(whole, QUIET)
        needed = calls(server)
    with started("--delay", "0.01", "--refuses", "0.1") as server:
        cut = asked(
            prompts, tmp_path / "cut", server.url, server.url, concurrency=concurrency,
            server={"model": "talker", "concurrency": concurrency},
        )  # fmt: skip
        for share in (0.02, 0.3, 0.6, 0.9):
            process, goal = in_a_process(cut), calls(server) + 1
            while process.is_alive() and calls(server) < max(goal, share * needed):
                time.sleep(0.002)
            assert process.is_alive(), "it was to be killed in the middle"
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        assert not list((tmp_path / "cut").glob("*.tar")), "shards are made from a whole ledger only"
        collect_from(cut, QUIET)
        stats = server.stats()
        again = calls(server)
        collect_from(cut, QUIET)
        assert calls(server) == again, "all is known by now"
    assert written(tmp_path / "cut") == written(tmp_path / "whole")
    assert "failures.jsonl" in written(tmp_path / "cut") and "shard-000002.tar" in written(tmp_path / "cut")
    counts = Ledger(tmp_path / "cut" / "ledger.sqlite", readonly=True).counts()
    rows = counts["done"] + counts["failed"]
    assert rows == needed == len(stats["calls"])
    in_flight = 2 * concurrency  # answers and feedback are asked for at the same time
    assert counts["calls"] == rows + counts["interrupted"] and counts["interrupted"] <= kills * in_flight
    assert again - needed <= counts["interrupted"], "a call whose reply was stored was made again"
    assert counts["interrupted"] > 0


def test_what_failed_is_asked_again_and_shards_are_made_anew(prompts, tmp_path):
    out, file = tmp_path / "out", answers(prompts, tmp_path / "answers.jsonl")
    with serving(Behaviour(refuses=1.0)) as url:
        collect_from(asked(prompts, out, file, url, turns=1), QUIET)
    assert {turn.rating for record, _ in Shards(out) for d in record.dialogues for turn in d.turns} == {None}
    before = written(out)
    with serving(Behaviour()) as url:
        collect_from(asked(prompts, out, file, url, turns=1), QUIET)
        assert written(out) == before
        collect_from(asked(prompts, out, file, url, turns=1, retry_failed=True), QUIET)
    assert None not in {turn.rating for record, _ in Shards(out) for d in record.dialogues for turn in d.turns}
    assert not (out / "failures.jsonl").exists()


def test_a_budget_stops_and_a_larger_one_goes_on(prompts, tmp_path):
    out, file = tmp_path / "out", answers(prompts, tmp_path / "answers.jsonl")
    prices = {"price_in": 1000.0, "price_out": 1000.0}
    server = Behaviour()
    with serving(server) as url:
        with pytest.raises(Stopped, match=r"budget=4.*The same command goes on"):
            collect_from(asked(prompts, out, file, url, turns=1, budget=4.0, **prices), QUIET)
        stopped = sum(server.calls.values())
        assert 0 < stopped * 0.12 <= 4.0
        collect_from(asked(prompts, out, file, url, turns=1, budget=400.0, **prices), QUIET)
    assert max(server.calls.values()) == 1 and len(server.calls) == 32 > stopped


def test_replay_writes_the_same_shards_without_a_server(prompts, tmp_path):
    file = answers(prompts, tmp_path / "answers.jsonl")
    with serving(Behaviour(refuses=0.1)) as url:
        collect_from(asked(prompts, tmp_path / "live", file, url, turns=1), QUIET)
    command = asked(prompts, tmp_path / "again", file, "http://x/v1", turns=1).model_dump()
    command["annotator"] = {"kind": "replay", "ledger": str(tmp_path / "live" / "ledger.sqlite")}
    collect_from(config.CollectCommand.model_validate(command), QUIET)
    assert written(tmp_path / "again") == written(tmp_path / "live")


# --- responders -----------------------------------------------------------------------------------


def answers(prompts: Path, file: Path) -> str:
    """An answer of somebody's to every question."""
    rows = [
        {"key": record.key, "question": dialogue.turns[0].user, "answer": f"I see {len(record.key)} things."}
        for record, _ in Shards(prompts)
        for dialogue in record.dialogues
    ]
    write_lines(file, rows)
    return str(file)


def test_a_file_is_joined_by_content_and_what_does_not_fit_is_counted(prompts, tmp_path, capsys):
    rows = read_lines(Path(answers(prompts, tmp_path / "all.jsonl")))
    record = next(iter(Shards(prompts)))[0]
    assert record.image is not None
    rows[0] |= {"answer": ""}
    rows[1] = {"image": record.image.id, "prompt": f"<image>\n{rows[1]['question']}", "text": "By image."}
    missing = rows.pop(5)
    more = [
        dict(rows[2]), rows[3] | {"question": "Never asked?"}, {"key": "nobody", "answer": "x"},
        {"question": "What do you see?", "answer": "No key."}, {"key": record.key, "question": "No answer?"}, "text",
    ]  # fmt: skip
    write_lines(tmp_path / "some.jsonl", [*more, *reversed(rows)])
    out = tmp_path / "out"
    plain = asked(prompts, out, str(tmp_path / "some.jsonl"), "http://x/v1", turns=1).model_dump()
    collect_from(config.CollectCommand.model_validate(plain | {"annotator": {"kind": "oracle"}}), Console(width=100))
    found = {
        (r.key, d.turns[0].user): d.turns[0].assistant for r, _ in Shards(out) for d in r.dialogues
    }  # fmt: skip
    assert len(found) == 31 and (missing["key"], missing["question"]) not in found
    assert found[record.key, record.dialogues[1].turns[0].user] == "By image."
    unused = [(row["line"], row["reason"]) for row in read_lines(out / "unused_answers.jsonl")]
    assert unused[1:] == [
        (2, "not asked"), (3, "not asked"), (4, "no key"), (5, "no answer"), (6, "no answer"), (37, "twice")
    ] or sorted(reason for _, reason in unused) == sorted(
        ["twice", "not asked", "not asked", "no key", "no answer", "no answer"]
    )  # fmt: skip
    [failed] = read_lines(out / "failures.jsonl")
    assert (failed["key"], failed["question"], failed["reason"]) == (missing["key"], missing["question"], "missing")
    told = capsys.readouterr().out
    for line in ("missing", "twice", "not asked", "no key", "empty"):
        assert line in told


def test_several_rows_for_a_question_are_several_draws(prompts, tmp_path):
    record, _ = next(iter(Shards(prompts)))
    dialogue = record.dialogues[0]
    question = dialogue.turns[0].user
    rows = [{"key": record.key, "question": question, "answer": text} for text in ("one", "two")]
    write_lines(tmp_path / "draws.jsonl", rows)
    responder = FileResponder(tmp_path / "draws.jsonl")
    asked = dialogue.model_copy(update={"turns": [Turn(user=question)]})
    given = responder.answer([OpenTurn(record, asked)] * 3, [], Sampling(9, 9))
    assert given[:2] == ["one", "two"] and getattr(given[2], "reason", None) == "missing"


def test_a_file_without_answers_is_refused(tmp_path):
    write_lines(tmp_path / "bad.jsonl", [{"key": "a"}, {"answer": "b"}])
    with pytest.raises(ValueError, match="got 2 rows without"):
        FileResponder(tmp_path / "bad.jsonl")


@pytest.mark.parametrize("responder", ["nothing/there", "."])
def test_who_answers_must_be_there(responder, prompts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run folder .* a file of answers .* address of a server"):
        collect_from(asked(prompts, tmp_path / "out", responder, "http://x/v1"), QUIET)


def test_a_server_has_no_prompts_of_its_own_and_needs_a_models_name(prompts, tmp_path):
    nameless = asked(prompts, tmp_path / "a", "http://127.0.0.1:9/v1", "http://x/v1", server={})
    with pytest.raises(ValueError, match=r"server\.model: expected the name"):
        collect_from(nameless, QUIET)
    without = asked(prompts, tmp_path / "b", "http://127.0.0.1:9/v1", "http://x/v1", shards=None)
    with pytest.raises(ValueError, match="data=shapes"):
        collect_from(without, QUIET)


def test_answers_of_a_model_are_drawn_once_for_the_llm_that_judges_them(prompts, tmp_path, tokenizer):
    stage = config.CollectSettings(records=2, turns=2, per_shard=1)
    model = small_model(tokenizer)

    def collect_into(folder: Path, weights: str) -> Ledger:
        rater = build_rater(annotator, folder)
        assert isinstance(rater, LLMRater)
        with CurriculumProgress(QUIET, {}) as progress:
            responder = storing(CkptResponder(model, "run/sft"), rater, weights)
            rollout = Rollout(responder, rater, Sampling(4, 64, 1.0))
            gather("collect", rollout, Collection(Shards(prompts), stage, folder), progress)
        return rater.client.ledger

    server = Behaviour()
    with serving(server) as url:
        annotator = LLM(kind="llm", base_url=url, model="judge", structured="json_schema")
        ledger = collect_into(tmp_path / "out", "weights-1")
        first, asked_for = written(tmp_path / "out"), sum(server.calls.values())
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(1.0)  # as a machine that draws other answers
        collect_into(tmp_path / "out", "weights-1")
        assert (written(tmp_path / "out"), sum(server.calls.values())) == (first, asked_for)
        collect_into(tmp_path / "out", "weights-2")
        assert sum(server.calls.values()) > asked_for and written(tmp_path / "out") != first
    assert ledger.counts()["done"] == len(server.calls)


# --- before the rest ------------------------------------------------------------------------------


def test_dry_run_counts_and_asks_nobody(prompts, tmp_path, capsys):
    server = Behaviour()
    with serving(server) as url:
        settings = asked(prompts, tmp_path / "out", url, url, price_in=2.0, price_out=8.0, dry_run=True, samples=3)
        collect_from(settings, Console(width=120))
    told = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    numbers = {line[0]: line[1:] for line in told if line and line[0] in ("answers", "feedback")}
    most = 8 * 4 * 3 * 2
    assert numbers["answers"][0] == numbers["feedback"][0] == str(most)
    tokens = {kind: [int(text.replace(",", "")) for text in row[2:4]] for kind, row in numbers.items()}
    assert tokens["feedback"][1] == most * 800 and tokens["answers"][1] == most * 512
    assert float(numbers["feedback"][4]) == pytest.approx(
        sum(t * p for t, p in zip(tokens["feedback"], (2, 8), strict=True)) / 1e6, abs=0.01
    )
    assert not server.calls and not (tmp_path / "out").exists()


def test_the_first_five_are_shown_and_must_not_all_fail(prompts, tmp_path, capsys):
    file = answers(prompts, tmp_path / "answers.jsonl")
    console = Console(width=160)
    bad = Behaviour(always="I rather like it.")
    with serving(bad) as url, pytest.raises(Stopped, match=r"all of the first 5 calls failed \(not_json 5\)"):
        collect_from(asked(prompts, tmp_path / "bad", file, url, preview=5), console)
    assert len(bad.calls) == 5
    with serving(Behaviour()) as url:
        with pytest.raises(Stopped, match="stopped after the preview"):
            collect_from(asked(prompts, tmp_path / "good", file, url, preview=5, confirm=True), console)
        assert Ledger(tmp_path / "good" / "ledger.sqlite", readonly=True).counts()["done"] == 5
        capsys.readouterr()
        collect_from(asked(prompts, tmp_path / "good", file, url, preview=5, turns=2), console)
        assert "the first 5" not in capsys.readouterr().out, "they were shown before"
        assert len(Shards(tmp_path / "good")) == 8


def test_settings_that_give_other_shards_need_another_folder(prompts, tmp_path):
    file = answers(prompts, tmp_path / "answers.jsonl")
    with serving(Behaviour()) as url:
        collect_from(asked(prompts, tmp_path / "out", file, url, turns=1), QUIET)
        collect_from(asked(prompts, tmp_path / "out", file, url, turns=1, concurrency=3, timeout=9.0), QUIET)
        for other in ({"model": "another"}, {"turns": 2}, {"sees_image": True}, {"skip": 2}):
            with pytest.raises(ValueError, match="begun with other settings"):
                collect_from(asked(prompts, tmp_path / "out", file, url, **({"turns": 1} | other)), QUIET)
        with pytest.raises(ValueError, match="skip=8 leaves none of the 8 records"):
            collect_from(asked(prompts, tmp_path / "none", file, url, skip=8), QUIET)
    assert not (tmp_path / "none").exists()
    begun = json.dumps(read_json(tmp_path / "out" / "collect.json"))
    assert "api_key_env" not in begun
    assert "skip" not in begun  # what was begun before there was such a setting goes on


# --- the curriculum, and keys ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_curriculum_judged_by_an_llm_works_and_keeps_the_key_to_itself(tmp_path, monkeypatch):
    key = "canary-5f1e0c9b7a3d4e2f"
    monkeypatch.setenv("OUR_ACCOUNT", key)  # a name that does not say that it holds a secret
    monkeypatch.setenv("WANDB_MODE", "offline")
    server = Behaviour(key=key, faults=0.15, kinds=("500", "prose"), refuses=0.2)  # repeats the key
    with serving(server) as url, (tmp_path / "console.txt").open("w") as screen:
        llm = [
            f"{rater}.{text}"
            for rater in ("annotator", "judge")
            for text in (f"base_url={url}", f"model={rater}-model", "api_key_env=OUR_ACCOUNT", "preview=2")
        ]
        settings = tiny_settings(
            tmp_path, "annotator=llm", "judge=llm", *llm, "logger=wandb", "curriculum.stages.collect.records=6",
            "data.sizes={align: 20, sft: 20, prompts: 6, eval: 2}", "eval.conditions=[none]", "eval.turns=2",
        )  # fmt: skip
        start_run(settings)
        Curriculum(settings, Console(file=screen, width=200), loggers.RunLoggers(settings)).run()
        loggers.finish(0)
        monkeypatch.setenv("OUR_ACCOUNT", "another-" + key)
        with serving(Behaviour(key="not it")) as refusing, pytest.raises(Stopped) as stopped:
            collect_from(asked(tmp_path / "run/stages/collect/shards", tmp_path / "refused", refusing, refusing,
                               server={"model": "m", "api_key_env": "OUR_ACCOUNT"}), QUIET)  # fmt: skip
    run = tmp_path / "run"
    turns = [t for r, _ in Shards(run / "stages/collect/shards") for d in r.dialogues for t in d.turns]
    assert {feedback.annotator for turn in turns for feedback in turn.feedback} == {"annotator-model"}
    assert {turn.rating for turn in turns} >= {1, 2, 3, 4} and (run / "report.html").exists()
    assert "the first 2" in (tmp_path / "console.txt").read_text()
    asked_for = {row["model"] for row in Ledger(run / "ledger.sqlite", readonly=True).calls()}
    assert asked_for == {"annotator-model", "judge-model"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {".wandb", ".safetensors", ".tar", ".sqlite", ".json", ".txt"} <= {file.suffix for file in files}
    held = [str(file) for file in files if key.encode() in file.read_bytes()]
    assert not held and key not in str(stopped.value)
    raw = [row["raw"] for row in Ledger(run / "ledger.sqlite", readonly=True).calls()]
    assert "I cannot judge this, Bearer <OUR_ACCOUNT>." in raw


def test_a_key_that_the_server_repeats_is_written_nowhere(prompts, tmp_path, monkeypatch):
    key = "canary-0a9b8c7d6e5f"
    monkeypatch.setenv("OUR_ACCOUNT", key)
    out, log = tmp_path / "out", tmp_path / "console.txt"
    with serving(Behaviour(key=key, refuses=0.3, faults=0.1, kinds=("500",))) as url, log.open("w") as screen:
        file = answers(prompts, tmp_path / "answers.jsonl")
        settings = asked(prompts, out, file, url, turns=1, api_key_env="OUR_ACCOUNT", preview=5)
        collect_from(settings, Console(file=screen, width=300))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in files if key.encode() in file.read_bytes()]
    assert "Bearer <OUR_ACCOUNT>" in (out / "failures.jsonl").read_text()
