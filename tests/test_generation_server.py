"""A server that computes a stage's answers: what is refused, how it ends, and that its answers are the model's."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import documented
import pytest
import torch
from conftest import ROOT, TINY, composed, png, small_model, tiny_settings
from documented import commands
from rich.console import Console
from scripts import begin

from dress import config
from dress.data.shards import Shards
from dress.exports.agreement import NEAR, compare, expected_answers, first_questions
from dress.llm.ledger import Ledger
from dress.llm.request import Stopped
from dress.record import Dialogue, ImageRef, Record, Turn
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.owned_server import KEY, check_server, owned_server
from dress.rollout.responder import Sampling
from dress.run.start import start_run
from dress.train.curriculum import Curriculum

SERVER = ROOT / "tests" / "model_server.py"
MARK = "SERVER_TEST_MARK"
"""Variable by which all processes of a test's server are known."""
WORDS = [sys.executable, str(SERVER), "{model}", "{port}", "{name}"]
COMMAND = f'generation.server.command="{" ".join(WORDS)}"'
STUBBORN = "--stubborn"
PROCESSES = 4
"""Of a stubborn server: the supervisor, the server, and what it starts."""


def processes(mark: str) -> list[int]:
    """Those whose environment holds the mark, but this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment and state != "Z":
                found.append(int(folder.name))
    return found


def wait_for_none(mark: str, seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    while (left := processes(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    value = secrets.token_hex(8)
    monkeypatch.setenv(MARK, value)
    return value


def server(*ways: str, **more: object) -> config.GenerationServer:
    return config.GenerationServer.model_validate({"command": [*WORDS, *ways], "grace": 0.3, "deadline": 20.0} | more)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "expected either server.url, a server that holds the model, or server.command"),
        (['generation.server.command="x {model} {port}"', "generation.server.url=http://a/v1"], "got url and command"),
        (['generation.server.command="x {port}"'], "without {model}"),
        (['generation.server.command="x {model} {port} {nme}"'], "{model}, {port}, {name}, {key}, got {nme}"),
        (['generation.server.command="x {model} \' {port}"'], "No closing quotation"),
        (['generation.server.command="x {model} {port}"', "generation.server.api_key_env=A"], "gets a key of its own"),
        (["generation.server.url=http://a/v1", 'generation.server.model="{stge}"'], "expected only {run}, {stage}"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(typed, told):
    with pytest.raises(config.ConfigError, match=re.escape(told)):
        composed("generation.engine=server", *typed)


def test_a_program_that_is_not_there_is_refused_before_anything_is_made(tmp_path):
    settings = tiny_settings(
        tmp_path, "generation.engine=server", 'generation.server.command="/opt/none/vllm serve {model} {port}"'
    )
    with pytest.raises(ValueError, match=r"generation\.server\.command: expected a program .*/opt/none/vllm"):
        Curriculum(settings, Console(quiet=True))
    assert not list(tmp_path.iterdir())
    check_server(settings.generation.native)


def test_a_model_of_no_class_of_transformers_is_refused_before_it_is_trained(tmp_path):
    padded = ["generation.engine=server", COMMAND, "model.vision.resize=pad"]
    settings = tiny_settings(tmp_path, *padded)
    with pytest.raises(ValueError, match=r"generation\.engine=server: expected a model that a class .*pad"):
        Curriculum(settings, Console(quiet=True)).run()
    assert not (tmp_path / "run" / "stages").exists()


def test_braces_that_are_no_places_are_text():
    words = server(words := '{"image": 4}').words
    assert words[-1] == '{"image": 4}'


# --- how a server begins and ends -----------------------------------------------------------------


def test_a_server_gets_an_environment_of_its_own_and_nothing_of_it_is_left(tmp_path, mark, monkeypatch):
    ours = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "TORCHELASTIC_RUN_ID": "x", "PYTHONPATH": "x",
            "VIRTUAL_ENV": "x", "LOCAL_RANK": "0"}  # fmt: skip
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "server.log"
    with owned_server(server("--fake", STUBBORN), tmp_path, "mine@1", log) as one:
        assert (one.name, one.version) == ("mine@1", "1.2.3") and one.url.startswith("http://127.0.0.1:")
        assert len(processes(mark)) == PROCESSES and len(os.environ[KEY]) == 32
    assert not processes(mark) and KEY not in os.environ
    [line] = [line for line in log.read_text().splitlines() if line.startswith("environment ")]
    environment = set(json.loads(line.removeprefix("environment ")))
    assert not environment & ours.keys() and {KEY, "VLLM_API_KEY", MARK, "PATH"} <= environment


@pytest.mark.parametrize(
    ("ways", "more", "told"),
    [
        (["--fake", "--dies"], {}, r"ended with exit code 3 before it was healthy.*out of memory, so to speak"),
        (["--fake", "--sick", STUBBORN], {"deadline": 0.8}, r"deadline=0\.8: expected a healthy server at http://.*/health"),
        (["--fake", "--renamed"], {}, r"expected a server of the model mine@1 \(\{name\}\), got one of mine@1-renamed"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_start_is_named_and_ended(tmp_path, mark, ways, more, told):
    with pytest.raises(ValueError, match=told), owned_server(
        server(*ways, **more), tmp_path, "mine@1", tmp_path / "log"
    ):  # fmt: skip
        pytest.fail("it is not healthy")
    assert not processes(mark) and KEY not in os.environ


FAST = {("answering", signal.SIGKILL), ("answering", signal.SIGTERM), ("starting", signal.SIGINT)}
ENDINGS = [
    pytest.param(when, how, marks=() if (when, how) in FAST else pytest.mark.slow, id=f"{when} {how.name}")
    for when in ("starting", "answering")
    for how in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
]


@pytest.mark.parametrize(("when", "how"), ENDINGS)
def test_a_server_never_outlives_the_process_that_started_it(tmp_path, mark, when, how):
    sick = ", '--sick'" if when == "starting" else ""
    script = f"""
import sys, time
from pathlib import Path
from dress.base import processes
from dress.config import GenerationServer
from dress.rollout.owned_server import owned_server
processes.stop_on_signals()
words, folder = {WORDS!r} + ['--fake', '--stubborn'{sick}], Path({str(tmp_path)!r})
with owned_server(GenerationServer(command=words, grace=0.3), folder, 'mine', folder / 'log'):
    time.sleep(60)
"""
    run = begin([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    healthy = lambda: when == "starting" or "/version" in (tmp_path / "log").read_text()  # noqa: E731
    end = time.monotonic() + 30
    while len(processes(mark)) < 1 + PROCESSES or not healthy():
        assert run.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    run.send_signal(how)
    run.wait(10)
    assert not wait_for_none(mark, 5)


# --- whether it is the model ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(tokenizer):
    """A model's first answers, with its encoder."""
    model = small_model(tokenizer)
    dialogues = [Dialogue(turns=[Turn(user=f"What is {n}?")]) for n in range(9)]
    record = Record(key="a", image=ImageRef(id="a"), dialogues=dialogues)
    first = first_questions([(record, png())], ["", "Be good."])
    assert len(first) == 8 and [one.condition for one in first[:3]] == ["", "Be good.", ""]
    return expected_answers(CkptResponder(model, "m"), first, Sampling(6, 8)), model


def test_equal_answers_agree_and_another_models_do_not(asked):
    expected, model = asked
    bound = NEAR[torch.float32]
    same = [one.answer for one in expected]
    agreement = compare(expected, same, model.encoder, bound)
    assert (agreement.equal, agreement.near, agreement.first_difference) == (8, 0, None)
    agreement = compare(expected, [*same[:5], "a red square", *same[6:]], model.encoder, bound)
    assert agreement.equal == 7 and agreement.first_difference is agreement.answers[5]


def test_an_answer_may_part_where_two_tokens_are_as_good(asked):
    expected, model = asked
    one = expected[0]
    second, nats = sorted(one.behind[0].items(), key=lambda item: item[1])[1]
    other = model.encoder.decode([second, *one.ids[1:]])
    answers = [other, *(one.answer for one in expected[1:])]
    agreement = compare(expected, answers, model.encoder, nats + 1e-6)
    assert (agreement.equal, agreement.near, agreement.first_difference) == (7, 1, None)
    assert agreement.answers[0].nats == pytest.approx(nats)
    assert compare(expected, answers, model.encoder, nats / 2).first_difference == agreement.answers[0]


def test_an_answer_that_the_model_cannot_read_again_says_nothing(asked):
    """It is too long, or was cut before it began."""
    expected, model = asked
    unread = [dataclasses.replace(expected[0], ids=[], behind=[]), *expected[1:]]
    answers = ["another", *(one.answer for one in expected[1:])]
    agreement = compare(unread, answers, model.encoder, NEAR[torch.float32])
    assert (agreement.equal, agreement.left_out, agreement.first_difference) == (7, 1, None)
    answers = [expected[0].answer, "so " * 5000, *(one.answer for one in expected[2:])]
    agreement = compare(unread, answers, model.encoder, NEAR[torch.float32])
    assert (agreement.equal, agreement.left_out, agreement.first_difference) == (7, 1, None)


# --- runs -----------------------------------------------------------------------------------------

SERVED = ["generation.engine=server", COMMAND]
COLLECT = [
    "curriculum.run=collect", "curriculum.stages.sft.weights=null", "curriculum.stages.collect.records=3",
    "curriculum.stages.collect.temperature=0", "curriculum.stages.collect.per_shard=2", "generation.server.grace=2",
    "curriculum.stages.sft.steps=2",
]  # fmt: skip


def run(tmp_path: Path, name: str, *more: str) -> Path:
    settings = tiny_settings(tmp_path, *COLLECT, *more, run=name)
    start_run(settings)
    with (tmp_path / f"{name}.txt").open("w") as screen:
        Curriculum(settings, Console(file=screen, width=300)).run()
    return tmp_path / name / "stages" / "collect"


CONTROL = re.compile(r"<\|\w+\|>")
"""Control tokens that a hardly trained model writes; servers leave them out."""


def answers(folder: Path) -> list[str]:
    turns = [turn for record, _ in Shards(folder / "shards") for d in record.dialogues for turn in d.turns]
    return [CONTROL.sub("", f"{turn.user} {turn.assistant}") for turn in turns]


def test_a_stage_collects_from_a_server_that_it_starts(tmp_path, mark):
    folder = run(tmp_path, "server", *SERVED)
    assert not processes(mark) and not list(folder.glob("served-*")) and len(answers(folder)) > 9
    [facts] = json.loads((folder / "engine.json").read_text())
    assert (facts["engine"], facts["version"], facts["first_answers"]["equal"]) == ("server", "1.2.3", 8)
    assert re.fullmatch(r"dress_full/sft@[0-9a-f]{16}-[0-9a-f]{8}", facts["name"]) and facts["command"] == WORDS
    known = f"dress_full/sft@{facts['fingerprint']}, server 1.2.3"
    given = {t.provenance["responder"] for r, _ in Shards(folder / "shards") for d in r.dialogues for t in d.turns}
    rows = list(Ledger(tmp_path / "server" / "ledger.sqlite", readonly=True).calls())
    assert given == {known} and {row["model"].partition(", first")[0] for row in rows} == {known}
    assert f"answers: {known} (8 of 8 first answers equal)" in (tmp_path / "server.txt").read_text()


@pytest.mark.slow
def test_its_answers_are_the_models_and_are_asked_once(tmp_path, mark):
    one = "curriculum.stages.collect.turns=1"  # control tokens that it wrote would be told it again
    native, ours = run(tmp_path, "native", one), run(tmp_path, "server", one, *SERVED)
    assert answers(ours) == answers(native)
    assert not (native / "engine.json").exists() and not (tmp_path / "native" / "ledger.sqlite").exists()
    before = {file.name: file.read_bytes() for file in (ours / "shards").glob("*.tar")}
    asked_for = Ledger(tmp_path / "server" / "ledger.sqlite", readonly=True).counts()["calls"]
    (ours / "done.json").unlink()
    settings = tiny_settings(tmp_path, *COLLECT, one, *SERVED, run="server")
    Curriculum(settings, Console(quiet=True)).run()
    assert {file.name: file.read_bytes() for file in (ours / "shards").glob("*.tar")} == before
    counts = Ledger(tmp_path / "server" / "ledger.sqlite", readonly=True).counts()["calls"]
    assert counts == asked_for + 8, "the first answers are those of the server that runs now"
    names = [facts["name"] for facts in json.loads((ours / "engine.json").read_text())]
    assert len(set(names)) == 2 and not processes(mark)


@pytest.mark.slow
def test_another_models_answers_are_refused_before_one_is_used(tmp_path, mark):
    other = f'generation.server.command="{" ".join([*WORDS, "--other", STUBBORN])}"'
    with pytest.raises(ValueError, match=r"gives other answers .*: 0 of 8 first answers agree\. Expected .*, got 'zzz"):
        run(tmp_path, "server", "generation.engine=server", other)
    folder = tmp_path / "server" / "stages" / "collect"
    [facts] = json.loads((folder / "engine.json").read_text())
    assert facts["first_answers"]["equal"] == 0 and not (folder / "shards").exists()
    assert not processes(mark) and not list(folder.glob("served-*"))


@pytest.mark.slow
def test_models_are_evaluated_by_servers_of_their_own_and_again_by_the_suite(tmp_path, mark):
    small = ["data.sizes={align: 20, sft: 20, prompts: 6, eval: 3}", "eval.turns=2", "eval.conditions=[none,praise]",
             "curriculum.run=eval", "generation.server.grace=2", "curriculum.stages.collect.records=2"]  # fmt: skip
    for name, more in (("native", []), ("server", SERVED)):
        settings = tiny_settings(tmp_path, *small, "curriculum.stages.collect.temperature=0", *more, run=name)
        start_run(settings)
        Curriculum(settings, Console(quiet=True)).run()
    names = [facts["name"] for facts in json.loads((tmp_path / "server/stages/eval/engine.json").read_text())]
    assert [name.partition("@")[0] for name in names] == ["dress_full/sft", "dress_full/dress"]
    told = [answered(tmp_path / name / "outcomes.jsonl", "sft") for name in ("native", "server")]
    assert told[0] == told[1] and len(told[0]) > 20
    out = tmp_path / "again"
    done = subprocess.run(
        [sys.executable, "src/eval.py", f"ckpt={tmp_path / 'native'}", f"out={out}", "engine=server",
         COMMAND.removeprefix("generation.")], cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        answered(out / "outcomes.jsonl", "sft") == told[0] and len(json.loads((out / "engine.json").read_text())) == 2
    )
    assert not processes(mark)


def answered(file: Path, model: str) -> list[str]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [CONTROL.sub("", str([row["item"], row["turn"], row["answer"]])) for row in rows if row["model"] == model]


@pytest.mark.slow
def test_a_question_without_an_answer_stops_an_evaluation(tmp_path):
    """A figure over what happened to be answered would be another one."""
    broken = f'generation.server.command="{" ".join([*WORDS, "--forgetful"])}"'
    small = ["curriculum.run=eval", "curriculum.stages.eval.models=[sft]", "curriculum.stages.sft.weights=null",
             "generation.server.retries=0"]  # fmt: skip
    settings = tiny_settings(tmp_path, *small, "generation.engine=server", broken)
    start_run(settings)
    with pytest.raises(Stopped, match=r"stage eval: .* of .* questions got no answer .*retry_failed=true"):
        Curriculum(settings, Console(quiet=True)).run()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_is_stopped_leaves_no_server(tmp_path, mark, how, devices):
    words = f'generation.server.command="{" ".join([*WORDS, STUBBORN, "--slow"])}"'
    settings = [*(text for text in TINY if text != "trainer.devices=1"), *COLLECT, "generation.engine=server", words,
                "curriculum.stages.collect.records=24", f"data.path={tmp_path / 'data'}", f"run={tmp_path / 'run'}",
                f"trainer.devices={devices}", "trainer.accelerator=cpu", "training.threads=1"]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        training = begin([sys.executable, "src/train.py", *settings], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 120
    while "first answers equal" not in (tmp_path / "log").read_text():
        assert training.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.05)
    time.sleep(0.5)
    training.send_signal(how)
    training.wait(30)
    assert not wait_for_none(mark, 20), (tmp_path / "log").read_text()
    assert training.returncode == {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGKILL: -9}[how]
    if how != signal.SIGKILL or devices > 1:
        return
    again = [sys.executable, "src/train.py", f"resume={tmp_path / 'run'}"]
    refused = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1 and "generation.server.command=" in refused.stderr, refused.stderr
    assert not processes(mark), "a run's own files start no command"
    done = subprocess.run([*again, COMMAND], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "run").glob("stages/*/served-*")) and not processes(mark)


@pytest.mark.slow
def test_two_processes_evaluate_two_models_of_a_server(tmp_path, mark):
    """The second process has no share in it, and waits: what all do together comes only afterwards."""
    typed = [
        *(text for text in TINY if text != "trainer.devices=1"), "curriculum.run=eval", "generation.engine=server",
        "curriculum.stages.eval.models=[align,sft]", "curriculum.stages.eval.records=3", "eval.turns=1", COMMAND,
        "generation.server.grace=2", f"data.path={tmp_path / 'data'}", f"run={tmp_path / 'run'}", "trainer.devices=2",
        "trainer.accelerator=cpu", "training.threads=1",
    ]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        training = begin([sys.executable, "src/train.py", *typed], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    assert training.wait(150) == 0, (tmp_path / "log").read_text()
    facts = json.loads((tmp_path / "run" / "stages" / "eval" / "engine.json").read_text())
    assert len(facts) == 2 and {"align", "sft"} <= json.loads((tmp_path / "run" / "metrics.json").read_text()).keys()
    assert not processes(mark)


@pytest.mark.slow
def test_a_server_at_an_address_is_compared_too(tmp_path, mark):
    """Whose model it is nobody promises."""
    exported = run(tmp_path, "first", "+curriculum.stages.out={kind: export, model: sft, condition: none, compared: 1}",
                   "curriculum.run=[out]").parent / "out" / "model"  # fmt: skip
    with owned_server(server("--keyless"), exported, "my-sft", tmp_path / "log") as one:
        given = ["generation.engine=server", f"generation.server.url={one.url}"]
        folder = run(tmp_path, "given", *given, 'generation.server.model="my-{stage}"')
        [facts] = json.loads((folder / "engine.json").read_text())
        assert (facts["name"], facts["url"], facts["first_answers"]["equal"]) == ("my-sft", one.url, 8)
        assert len(answers(folder)) > 20
        with pytest.raises(ValueError, match=r"model sft\).*knows no such model"):
            run(tmp_path, "unknown", *given)


@pytest.mark.slow
def test_transformers_serve_is_such_a_command(tmp_path, mark):
    program = Path(sys.executable).with_name("transformers")
    words = f"{program} serve {{model}} --host 127.0.0.1 --port {{port}} --device cpu --dtype float32"
    one = "curriculum.stages.collect.turns=1"
    folder = run(tmp_path, "server", one, "generation.engine=server", f'generation.server.command="{words}"')
    [facts] = json.loads((folder / "engine.json").read_text())
    assert facts["first_answers"]["equal"] == 8 and "/served-" in facts["name"] and not processes(mark)
    assert answers(folder) == answers(run(tmp_path, "native", one))


def test_the_file_of_the_page_composes(tmp_path):
    settings = documented.experiment("docs/generation.md", tmp_path)
    assert settings.generation.engine == "server" and settings.generation.server.words[0] == "/opt/vllm/bin/vllm"


@pytest.mark.slow
def test_the_command_of_the_page_runs_with_a_server_of_ours(tmp_path, mark):
    [command] = commands("docs/generation.md")
    vllm = re.compile(r"/opt/vllm/bin/vllm serve [^\"]*")
    ours = [vllm.sub(" ".join(WORDS), word) for word in command]
    assert ours != command
    documented.run(ours, tmp_path)
    [folder] = (tmp_path / "logs" / "latest" / "stages").glob("collect/engine.json")
    assert json.loads(folder.read_text())[0]["engine"] == "server" and not processes(mark)
