"""A run folder of somebody else: none of its code runs unasked, and its damage is named with the way out."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.dynamic_module_utils
from conftest import ROOT, composed, small_model, tiny_settings
from rich.console import Console
from scripts import run_script

from dress import config
from dress.base import run_folder
from dress.base.files import read_json, read_lines, write_aside, write_json
from dress.config.raters import LLM, Endpoint, PlainRater
from dress.config.tasks import Features
from dress.evaluation.answers import Asker
from dress.evaluation.command import evaluate as evaluate_suite
from dress.evaluation.suites.vlsafe import VLSafe
from dress.feedback.command import collect_from
from dress.model.checkpoint import load_model, read_training_state
from dress.model.language import build_language, load_own_tokenizer
from dress.run.composing import CommandLineError
from dress.run.resuming import resume_arguments
from dress.run.start import start_run
from dress.train.curriculum import Curriculum
from dress.train.feature_extraction import encoder_of

QUIET = Console(quiet=True)
ORACLE = PlainRater(kind="oracle")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages, as `src/train.py` leaves it."""
    folder = tmp_path_factory.mktemp("trust")
    settings = tiny_settings(
        folder, "curriculum.run=[sft]", "curriculum.stages.align.steps=1", "curriculum.stages.sft.steps=1",
        "generation.batch_size=8",
    )  # fmt: skip
    start_run(settings)
    run_folder.unlock(folder / "run")
    Curriculum(settings, QUIET).run()
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def change(file: Path, **more: Any) -> None:
    """Set dotted fields of a JSON file."""
    found = json.loads(file.read_text())
    for dotted, value in more.items():
        *sections, name = dotted.split("__")
        place = found
        for section in sections:
            place = place[section]
        place[name] = value
    file.write_text(json.dumps(found))


# --- code ---


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the code in `tmp_path/code` writes when it is executed."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    code, written = tmp_path / "code", tmp_path / "executed"
    code.mkdir()
    names = {"AutoConfig": "canary.C", "AutoModelForCausalLM": "canary.M", "AutoTokenizer": ["canary.T", None]}
    (code / "canary.py").write_text(f"open({str(written)!r}, 'w').close()\nraise ImportError('executed')\n")
    for name in ("config.json", "tokenizer_config.json"):
        (code / name).write_text(json.dumps({"model_type": "canary", "auto_map": names}))
    return written


def foreign(run: Path, code: Path) -> Path:
    """The run as somebody hands it over whose language model is code."""
    change(
        run / "stages" / "sft" / "model.json", model__language__trust_remote_code=True,
        model__language__name=str(code), model__language__config=None,
    )  # fmt: skip
    return run


def evaluate(run: Path, out: Path, **more: Any) -> None:
    settings = {"ckpt": str(run), "out": str(out), "judge": {"kind": "oracle"}, "records": 2, "turns": 1}
    evaluate_suite({"suite": "run", **settings, **more}, QUIET)


def collected(run: Path, out: Path, **more: Any) -> None:
    collect_from(
        config.CollectCommand(responder=str(run), out=str(out), records=2, turns=1, annotator=ORACLE, **more), QUIET
    )


def featured(run: Path, out: Path, **more: Any) -> None:
    encoder_of(Features(task="features", path="x", out=str(out), ckpt=str(run), **more))


def asked(run: Path, out: Path, **more: Any) -> None:
    Asker(VLSafe(suite="vlsafe", responder=str(run), rows="x", out=str(out), judge=ORACLE, **more))


@pytest.mark.parametrize("command", [evaluate, collected, featured, asked])
def test_code_that_a_run_names_runs_only_where_the_command_says_so(command, run, canary, tmp_path):
    foreign(run, tmp_path / "code")
    with pytest.raises(ValueError, match=r"model\.json: its model\.language runs code of .*trust_remote_code=true"):
        command(run, tmp_path / "out")
    assert not canary.exists()
    with pytest.raises(ValueError):
        command(run, tmp_path / "out", trust_remote_code=True)
    assert canary.exists(), "the canary does not sing"


def test_code_of_a_language_model_runs_only_where_the_settings_say_so(canary, tmp_path):
    plain = config.Language(name=str(tmp_path / "code"))
    for build in (lambda s: build_language(s, None), load_own_tokenizer):
        with pytest.raises(ValueError, match=r"^model\.language: .*\n?.*trust_remote_code=true") as caught:
            build(plain)
        assert "\n" not in str(caught.value) and not canary.exists()
    with pytest.raises(ValueError):
        load_own_tokenizer(plain.model_copy(update={"trust_remote_code": True}))
    assert canary.exists()
    canary.unlink()
    fields = {"model_type": "clip_vision_model", "auto_map": {"AutoModelForCausalLM": f"{tmp_path / 'code'}--canary.M"}}
    with pytest.raises(ValueError, match=r"^model\.language\.config: cannot build"):
        build_language(config.Language(config=fields), 10)
    assert not canary.exists()


@pytest.mark.parametrize("command", [evaluate, collected])
def test_commands_that_a_run_names_run_only_where_the_call_says_so(command, run, tmp_path, finished):
    sung = tmp_path / "executed"
    shard = min((finished.parent / "data").rglob("eval/*.tar"))
    pipe = f"pipe:touch {sung}; cat {shard}"
    change(
        run / "config.json", data__allow_pipe=True, data__eval=pipe, data__prompts=pipe, data__world=None,
        data__sizes=None, data__cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"allow_pipe=true where it stands in a run's files"):
        command(run, tmp_path / "out")
    assert not sung.exists()
    command(run, tmp_path / "out", allow_pipe=True)
    assert sung.exists()


def resumed(run: Path, *beside: str) -> subprocess.CompletedProcess[str]:
    return run_script(ROOT / "src" / "train.py", f"resume={run}", *beside, cwd=run.parent)


def test_resume_asks_for_consent_too(run):
    (run / "metrics.json").unlink()
    change(run / "config.json", data__allow_pipe=True, data__align="pipe:true", model__language__trust_remote_code=True)
    refused = resumed(run)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "beside resume: model.language.trust_remote_code=true data.allow_pipe=true" in refused.stderr
    assert resume_arguments([f"resume={run}", "model.language.trust_remote_code=true", "data.allow_pipe=true"])
    with pytest.raises(CommandLineError, match="a resumed run keeps its own settings"):
        resume_arguments([f"resume={run}", "model.language.name=x"])


# --- damage ---

DAMAGES: list[tuple[str, Any]] = [
    ("config.json", "[]"), ("config.json", "{}"), ("config.json", ""), ("config.json", "\udcff"),
    ("config.json", "[" * 100_000), ("config.json", '{"seed": ' + "9" * 5000 + "}"),
    ("stages/sft/model.json", "[]"), ("stages/sft/model.json", '{"format": 1}'), ("stages/sft/model.json", "{"),
    ("stages/sft/tokenizer.json", "{}"), ("stages/sft/tokenizer.json", ""), ("stages/sft/tokenizer.json", "[1]"),
    ("stages/sft/model.safetensors", ""), ("stages/sft/model.safetensors", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), DAMAGES, ids=[f"{n}-{str(c)[:6]}" for n, c in DAMAGES])
def test_a_damaged_file_of_a_run_is_named(name, content, run, tmp_path):
    file = run / name
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] if content is None else content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError) as caught:
        evaluate(run, tmp_path / "out")
    text = str(caught.value)
    assert text.startswith(str(file)) and ("expected" in text or name == "config.json")
    assert "Take this file from a copy of the run" in text


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_tokens", "many"), ("tokenizer", 3), ("model", []), ("rounded", 7), ("config", []), ("conditions", None)],
)
def test_a_wrong_field_of_a_model_is_named(field, value, run, tmp_path):
    change(run / "stages" / "sft" / "model.json", **{field: value})
    with pytest.raises(ValueError, match=rf"sft/model\.json: {field}: "):
        evaluate(run, tmp_path / "out")


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place}",)

    def __init__(self, place: Path) -> None:
        self.place = place


def test_a_damaged_checkpoint_is_named_and_not_executed(tmp_path):
    file, place = tmp_path / "run" / "stages" / "sft" / "last.ckpt", tmp_path / "executed"
    file.parent.mkdir(parents=True)
    torch.save({"global_step": 3, "weights": torch.ones(1000)}, file)
    assert read_training_state(file)["global_step"] == 3
    whole = file.read_bytes()
    stop = len(whole) // 2
    zipped = tmp_path / "zipped"
    torch.save(Bomb(place), zipped)
    for data in (b"", b"x", whole[:stop], whole[:100], pickle.dumps(Bomb(place)), zipped.read_bytes(), b"PK\3\4" * 30):
        file.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"sft/last\.ckpt: expected a checkpoint, got .*Delete this file"
        ) as caught:
            read_training_state(file)
        assert "\n" not in str(caught.value) and f"resume={tmp_path / 'run'}" in str(caught.value)
    for found in ({}, [1], {"global_step": "3"}):
        torch.save(found, file)
        with pytest.raises(ValueError, match="expected a checkpoint with global_step"):
            read_training_state(file)
    assert not place.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("stages/align/done.json", "[]"), ("stages/align/done.json", "{}"), ("stages/align/done.json", ""),
     ("stages/align/done.json", '{"fingerprint": 1, "seconds": 2}'), ("stages/sft/done.json", "nonsense"),
     ("tokenizer.json", "{}"), ("stages/align/model.safetensors", "")],
)  # fmt: skip
def test_damage_is_named_at_resume(name, content, run):
    settings = config.check(read_json(run / "config.json") | {"run_dir": str(run), "resume": str(run)})
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=rf"^{run / name}: expected"):
        Curriculum(settings, QUIET).run()


@pytest.mark.parametrize("content", ["[]", "", '{"resumed": 3}'])
def test_a_damaged_provenance_is_named(content, run):
    settings = config.check(read_json(run / "config.json") | {"run_dir": str(run), "resume": str(run)})
    (run / "provenance.json").write_text(content)
    with pytest.raises(ValueError, match=r"provenance\.json: .*expected .*Delete it"):
        start_run(settings)
    run_folder.unlock(run)


@pytest.mark.parametrize(
    "fields",
    [{"hidden_size": "wide"}, {"hidden_size": -1}, {"num_hidden_layers": "two"}, {"num_attention_heads": 0},
     {"rope_parameters": 7}, {"vocab_size": None}, {"model_type": 3}, {"model_type": "nonsense"}, {"hidden_act": "no"},
     {"max_position_embeddings": [1]}, {"layer_types": "x"}, {"intermediate_size": 1.5}],
)  # fmt: skip
def test_wrong_types_of_a_language_model_are_one_line(fields):
    good = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    with pytest.raises(ValueError, match=r"^model\.language") as caught:
        build_language(config.Language(config=good | fields), None)
    assert "\n" not in str(caught.value)


def test_bad_lines_are_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": ' + "9" * 5000 + "}\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: expected JSON"):
        read_lines(tmp_path / "rows.jsonl")


# --- locks ---

HOLDING = """
import sys, time
from pathlib import Path
from dress.base.run_folder import lock
lock(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    """Another process that writes a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def test_a_run_is_trained_by_one_process_at_a_time(run, tmp_path, monkeypatch):
    settings = config.check(read_json(run / "config.json") | {"run_dir": str(run), "resume": str(run)})
    other = holding(run)
    try:
        before = (run / "provenance.json").read_bytes()
        with pytest.raises(config.ConfigError, match="another process writes this folder now"):
            start_run(settings)
        assert (run / "provenance.json").read_bytes() == before
        with monkeypatch.context() as further:
            further.setenv("LOCAL_RANK", "1")
            start_run(settings)
    finally:
        other.kill()
        other.wait()
    start_run(settings)
    start_run(settings)
    child = os.fork()
    if child == 0:  # a data worker that outlives its parent
        time.sleep(30)
        os._exit(0)
    try:
        run_folder.unlock(run)
        holding(run).kill()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_folder_is_collected_into_by_one_process_at_a_time(run, tmp_path):
    (tmp_path / "out").mkdir()
    other = holding(tmp_path / "out")
    try:
        with pytest.raises(config.ConfigError, match="out: another process writes this folder now"):
            collected(run, tmp_path / "out")
        with pytest.raises(config.ConfigError, match="out: another process writes this folder now"):
            evaluate(run, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())
    finally:
        other.kill()
        other.wait()
    collected(run, tmp_path / "out")
    holding(tmp_path / "out").kill()


# --- writing ---


def test_a_disk_that_is_full_names_the_file_and_keeps_what_was_there(tokenizer, tmp_path):
    from dress.model.checkpoint import save_model

    model = small_model(tokenizer)
    settings = composed().model
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        outcome = 1
        try:
            save_model(model, settings, tmp_path / "stage", {})
        except OSError as error:
            named = str(error.filename).endswith("stage/model.safetensors") and "cannot be written" in str(error)
            outcome = 0 if named and "GB free there" in str(error) else 2
        os._exit(outcome)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not list((tmp_path / "stage").iterdir())


def test_what_is_written_aside_takes_its_place_whole(tmp_path):
    file = tmp_path / "deep" / "last.ckpt"
    with write_aside(file) as aside:
        aside.write_bytes(b"first")
        assert aside.parent == file.parent and not file.exists()
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed\nmore")):
        with pytest.raises(OSError, match="cannot be written") as caught, write_aside(file) as aside:
            aside.write_bytes(b"half")
            raise error
        assert caught.value.filename == str(file) and "\n" not in str(caught.value)
        assert file.read_bytes() == b"first" and [one.name for one in file.parent.iterdir()] == ["last.ckpt"]
    with pytest.raises(KeyboardInterrupt), write_aside(file) as aside:
        aside.write_bytes(b"half")
        raise KeyboardInterrupt
    assert [one.name for one in file.parent.iterdir()] == ["last.ckpt"]
    write_json(file.with_name("a.json"), {"a": "é"})
    assert read_json(file.with_name("a.json"), dict) == {"a": "é"}
    with pytest.raises(ValueError, match=r"a\.json: expected a JSON list, got \{"):
        read_json(file.with_name("a.json"), list)


UNPRIVILEGED = """
import os, sys
from pathlib import Path
import torch
from dress import config
from dress.run.start import start_run
from dress.base.files import read_json
folder = Path(sys.argv[1])
settings = config.check(read_json(folder / "config.json") | {"run_dir": str(folder), "resume": str(folder)})
os.setgid(65534); os.setuid(65534)
try:
    start_run(settings)
except OSError as error:
    print(error.filename, error.strerror)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_read_only_run_folder_is_named(run):
    for place in (run, *run.parents):
        place.chmod(0o755)
        if place.parent == Path("/tmp"):
            break
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(run)], env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "HOME": "/"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith(f"{run / 'provenance.json'}") and "Permission denied" in done.stdout, done.stderr


@pytest.mark.parametrize("where", ["run_dir", "hydra.run.dir"])
def test_a_name_that_is_too_long_is_one_line(where, tmp_path):
    done = run_script(ROOT / "src" / "train.py", f"{where}={tmp_path / ('a' * 300)}", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "File name too long" in done.stderr


# --- settings ---


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": float("inf")}, {"timeout": 1e30}, {"budget": float("nan"), "price_in": 1}, {"concurrency": 10**6},
     {"requests_per_minute": 1e30}, {"retries": 10**9}, {"sees_image": "true"}, {"confirm": 1},
     {"retry_failed": "yes"}, {"price_in": float("inf")}, {"temperature": float("inf")}, {"image_tokens": 10**30}],
)  # fmt: skip
def test_settings_of_raters_have_ranges(wrong):
    good = {"kind": "llm", "base_url": "http://x/v1", "model": "m"}
    LLM.model_validate(good)
    with pytest.raises(ValueError):
        LLM.model_validate(good | wrong)


def test_consent_is_a_plain_true_and_top_p_is_positive():
    good: dict[str, Any] = {"responder": "x", "out": "y", "records": 1, "annotator": {"kind": "none"}}
    assert config.CollectCommand.model_validate(good | {"allow_pipe": True}).allow_pipe
    for wrong in ({"allow_pipe": "true"}, {"trust_remote_code": 1}, {"top_p": 0.0}, {"top_p": float("nan")}):
        with pytest.raises(ValueError):
            config.CollectCommand.model_validate(good | wrong)
    with pytest.raises(ValueError):
        VLSafe(suite="vlsafe", responder="x", rows="x", out="y", judge=ORACLE, top_p=0)
    with pytest.raises(config.ConfigError, match=r"data\.allow_pipe"):
        composed("data.allow_pipe='true'")
    assert Endpoint(base_url="http://x/v1/", model="m").base_url == "http://x/v1"


def test_load_model_refuses_by_default(run, canary, tmp_path):
    foreign(run, tmp_path / "code")
    with pytest.raises(ValueError, match="trust_remote_code=true"):
        load_model(run / "stages" / "sft")
    load_model(run / "stages" / "align")
    assert not canary.exists()
