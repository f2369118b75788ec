"""What somebody brings or types at the first try: read if it is plain what is meant, else answered in one line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, composed
from imports import import_table, records
from rich.console import Console
from scripts import run_script
from test_command_line import FAST, train
from test_given_feedback import WITHOUT, judged, settings_of
from test_own_rows import OWN, table

from dress.config.rows import Scale
from dress.data.shards import write_shards
from dress.rollout.loaded_model import LoadedModel
from dress.run import training
from dress.run.asking import ask
from dress.run.overrides import parsed
from dress.sources.protocol import SourceError
from dress.sources.scales import number_of, suggestion
from dress.train.splits import check_drawn, check_places, check_splits, ignored

PREPARE = ROOT / "src" / "prepare.py"

# --- tables --------------------------------------------------------------------------------------


def test_semicolons_and_decimal_commas_of_excel_are_read(tmp_path: Path) -> None:
    table(tmp_path, *OWN[:2], name="commas.csv")
    lines = ["\ufeffimage;question;answer;rating", 'pic0.jpg;"What; is it?";Größe, rot.;1,5', "pic1.jpg;And?;No.;4"]
    (tmp_path / "x.csv").write_text("\r\n".join(lines), encoding="utf-8")
    import_table(
        tmp_path / "x.csv", tmp_path / "out", rating={"from": [1, 5]}, held_out=0, images=str(tmp_path / "images")
    )
    first, second = (record.dialogues[0].turns[0] for record in records(tmp_path / "out", "feedback"))
    assert (first.user, first.assistant, second.assistant) == ("What; is it?", "Größe, rot.", "No.")
    assert (number_of("3,5"), number_of("1,000"), number_of("1,2,3")) == (Fraction(7, 2), None, None)


def test_another_encoding_is_said_once_with_the_command(tmp_path: Path) -> None:
    text = "image,question,answer\na.jpg,Größe?,Groß.\nb.jpg,Was?,Grün.\n"
    (tmp_path / "x.csv").write_bytes(text.encode("cp1252"))
    with pytest.raises(
        SourceError, match=r"x\.csv: expected UTF-8.*: iconv -f CP1252 -t UTF-8 x\.csv > converted\.csv"
    ):
        import_table(tmp_path / "x.csv", tmp_path / "out")
    one_bad = text.encode().replace("Groß".encode(), "Groß".encode("cp1252"))  # such a row costs itself
    (tmp_path / "x.csv").write_bytes(one_bad)
    table(tmp_path, {"image": "a.jpg"}, {"image": "b.jpg"}, name="other.jsonl")
    assert import_table(tmp_path / "x.csv", tmp_path / "out").rejected == {"not UTF-8": 1}


@pytest.mark.parametrize(
    ("values", "scale", "outside"),
    [
        ([0, 17, 85, 100] * 5 + [140], "[0, 100]", "1 of the first 21 lie outside"),
        ([1, 2, 5, 4] * 5 + [50], "[1, 5]", "1 of the first 21"),
        ([0, 0.5, 1], "[0, 1]", ""),
        ([1, 9], "[1, 10]", ""),
        ([-40, 300], "[-40, 300]", ""),
    ],
)
def test_the_scale_that_is_proposed_is_a_usual_one(values: list[float], scale: str, outside: str) -> None:
    said = suggestion(values) or ""
    assert f"rating={{from: {scale}}}" in said and outside in said and ("outside" in said) == bool(outside)


def test_words_are_listed_in_a_setting_that_can_be_pasted() -> None:
    said = suggestion(["so so", "good", "not-bad", "good", None]) or ""
    (typed,) = (text.removesuffix(",") for text in shlex.split(said) if text.startswith("rating="))
    override = parsed(typed.replace(": N", ": 2"))
    assert override is not None and override.value() == {"map": {"so so": 2, "good": 2, "not-bad": 2}}
    said = suggestion(["schön", "no: bad", "true"]) or ""  # which Hydra's grammar has no keys for
    line = yaml.safe_load(said.partition("with the line ")[2].partition(", N from")[0])
    assert line == {"rating": {"map": {"schön": "N", "no: bad": "N", "true": "N"}}} and "source=mine.yaml" in said


def test_a_scale_may_be_two_numbers_and_a_column_a_setting_of_its_own(tmp_path: Path) -> None:
    assert Scale.model_validate([0, 100]) == Scale.model_validate({"from": [0, 100]})
    rows = [{"bild": "pic0.jpg", "frage": "q", "answer": "A.", "rating": 50}]
    table(tmp_path, {"image": "pic0.jpg"})
    file = table(tmp_path, *rows, name="t.jsonl")
    typed = ["source=rows", f"path={file}", "out=o", "columns.image=bild", "columns.user=frage", "rating=[0,100]"]
    done = run_script(PREPARE, *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path / "o", "feedback")[0].dialogues[0].turns[0].rating == 3


# --- where data are ------------------------------------------------------------------------------


def test_a_folder_of_splits_is_no_folder_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "mine" / "feedback", judged(2))
    write_shards(tmp_path / "mine" / "eval", judged(2))
    with pytest.raises(FileNotFoundError, match=r"data\.feedback=.*mine: .*of splits .*Did you mean .*mine/feedback\?"):
        check_places(settings_of(tmp_path / "mine", WITHOUT, f"data.feedback={tmp_path / 'mine'}"))
    check_places(settings_of(tmp_path / "mine", WITHOUT))
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(FileNotFoundError, match=r"got a file.*prepare\.py source=rows path=.*t\.parquet out="):
        check_places(settings_of(tmp_path / "t.parquet", WITHOUT))
    monkeypatch.chdir(tmp_path)
    elsewhere = settings_of(tmp_path / "other", WITHOUT, "data.feedback=mine/feedback")
    with pytest.raises(FileNotFoundError, match=r"data\.feedback=/.*/mine/feedback is the one in this folder"):
        check_splits(elsewhere, tmp_path / "other")


def test_feedback_that_is_read_from_elsewhere_is_no_reason_to_name_the_experiment(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        write_shards(tmp_path / name / "feedback", judged(2))
    line = ignored(
        settings_of(tmp_path / "mine", WITHOUT, f"data.feedback={tmp_path / 'other/feedback'}"), tmp_path / "mine"
    )
    assert line is not None and "also holds feedback" in line and "experiment=" not in line


def test_nothing_is_drawn_for_feedback_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = composed(*TINY, "experiment=given_feedback", "data.path=shapes", run_dir=tmp_path / "logs" / "x" / "run")
    with pytest.raises(
        FileNotFoundError, match=r"stage dress reads data\.feedback=feedback, which data=shapes does not"
    ):
        training.train(settings, Console(quiet=True))
    assert not list(tmp_path.iterdir())
    write_shards(tmp_path / "judged", judged(2))
    check_drawn(composed("experiment=given_feedback", f"data.feedback={tmp_path / 'judged'}"))


# --- command lines -------------------------------------------------------------------------------


def test_a_refused_start_leaves_no_folder_of_logs(tmp_path: Path) -> None:
    done = train(tmp_path, "experiment=sft_only", *FAST, "data=shards", "data.path=nowhere")
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    (tmp_path / "logs" / "sft_only").mkdir(parents=True)
    (tmp_path / "logs" / "kept").write_text("")
    train(tmp_path, "experiment=sft_only", *FAST, "data=shards", "data.path=nowhere")
    assert [one.name for one in (tmp_path / "logs").iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["--lr", "1e-4"], 2, "curriculum.stages.NAME.lr"),
        (["lr=1e-4"], 2, "curriculum.stages.NAME.lr"),
        (
            ["data=imp/mine"],
            2,
            "data=imp/mine: expected one of shapes, shards. A folder of shards: data=shards data.path=",
        ),
        (["data=/tmp"], 2, "A folder of shards: data=shards data.path=/tmp"),
        (["data=shrads"], 2, "data=shrads: no such option. Did you mean shards?"),
    ],
)
def test_what_does_not_compose_ends_with_two(tmp_path: Path, typed: list[str], code: int, said: str) -> None:
    done = train(tmp_path, *typed)
    assert done.returncode == code and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_an_unfinished_run_is_not_evaluated(tmp_path: Path) -> None:
    done = train(tmp_path, "experiment=sft_only", *FAST, "run_dir=mine")
    assert done.returncode == 0, done.stderr
    (tmp_path / "mine" / "stages" / "sft" / "model.json").unlink()
    done = run_script(ROOT / "src" / "eval.py", "ckpt=mine", "out=o", cwd=tmp_path)
    assert done.returncode == 1 and "ckpt=mine: this run is not finished (stage sft)" in done.stderr
    assert "resume=mine" in done.stderr and not (tmp_path / "o").exists()


def test_the_package_is_a_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "dress", "help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "dress train" in done.stdout


def test_what_cannot_be_asked_is_said_before_a_model_loads(tmp_path: Path) -> None:
    """The run is not even there."""
    with pytest.raises(ValueError, match="expected a question in quotes, got an empty one"):
        ask(["nowhere", "-", " "])
    with pytest.raises(ValueError, match="condition: expected one of none, praise, got 'prase'"):
        ask(["nowhere", "-", "What?", "condition=prase"])
    with pytest.raises(ValueError, match=r"expected one of none, got 'praise'"):
        ask(["http://127.0.0.1:9/v1", "-", "What?", "condition=praise", "model=m"])
    model = LoadedModel(None, 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dialogue: expected what model\.answer\(…\) returned, .* got 'A house\.'"):
        model.improve("A house.", "Look again.")  # type: ignore[arg-type]
