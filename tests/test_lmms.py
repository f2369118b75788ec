"""A run as a model of lmms-eval, in lmms-eval's own environment: `make lmms` installs it and runs this."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, picture
from test_command_line import FAST, train

from dress.data.images import open_image
from dress.data.shards import Shards
from dress.dialogue.spans import Span
from dress.evaluation.likelihood import LastAnswer, answer_nll
from dress.model.checkpoint import load_model
from dress.model.generation import generate
from dress.model.sampling import SamplingParams
from dress.model.session import Prompt
from dress.record import Turn

PYTHON = ROOT / ".venv-lmms" / "bin" / "python"
QUESTIONS, GOLD = 6, "There is a red circle."
UTILS = """
from PIL import Image


def picture(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def question(doc, lmms_eval_specific_kwargs=None):
    return "<image>" + doc["question"]


def score(doc, results):
    return {"answered": float(bool(results[0].strip()))}
"""
LIKELIHOOD = """
import json, sys
from pathlib import Path
from PIL import Image
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model
model = get_model("dress")(run=sys.argv[1], stage="sft")
rows = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
model.task_dict = {"task": {"test": rows}}
picture = lambda row: [Image.open(row["image"]).convert("RGB")]
requests = [
    Instance("loglikelihood", (row["question"], " " + row["answer"], picture, number, "task", "test"), 0,
             {"task": "task", "doc_id": number, "repeats": 1})
    for number, row in enumerate(rows)
]
print(json.dumps(model.loglikelihood(requests)))
"""
"""lmms-eval 0.7.3 turns every likelihood into a text before its own tasks read it, so its command cannot show them."""


def write_task(folder: Path, name: str, rows: Path, **more: object) -> None:
    """A task of lmms-eval over rows of image, question and answer."""
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test", "doc_to_visual": "!function utils.picture", "doc_to_text": "!function utils.question",
        "doc_to_target": "answer", "metadata": [{"version": 0.0}], **more,
    }  # fmt: skip
    text = yaml.safe_dump(task, sort_keys=False)
    for function in ("picture", "question", "score"):
        text = text.replace(f"'!function utils.{function}'", f"!function utils.{function}")
    (folder / f"{name}.yaml").write_text(text)


def lmms_eval(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), "WANDB_MODE": "disabled"}
    return subprocess.run(
        [str(PYTHON), "-m", "lmms_eval", *arguments], cwd=cwd, env=os.environ | offline, capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip


def test_the_documented_command_names_what_there_is() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [line for line in page.splitlines() if "-m lmms_eval" in line]
    typed = shlex.split(line)
    arguments = dict(pair.split("=") for pair in typed[typed.index("--model_args") + 1].split(","))
    source = ast.parse((ROOT / "src" / "dress" / "evaluation" / "lmms_model.py").read_text(encoding="utf-8"))
    (init,) = [n for n in ast.walk(source) if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    assert arguments.keys() <= {argument.arg for argument in init.args.args}
    (entry,) = [e for e in metadata.entry_points(group="lmms_eval.models") if e.name == "dress"]
    assert typed[0] == ".venv-lmms/bin/python" and entry.value == "dress.evaluation.lmms:manifest"


@pytest.mark.slow
def test_lmms_eval_hears_what_the_run_answers(tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("needs `make lmms`")
    done = train(tmp_path, *FAST)
    assert done.returncode == 0, done.stderr
    run = (tmp_path / "logs" / "latest").resolve()
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "utils.py").write_text(UTILS)
    (world,) = (tmp_path / "data" / "shapes").iterdir()
    rows: list[dict[str, Any]] = []
    for record, image in [Shards(world / "eval")[n] for n in range(QUESTIONS)]:
        file = tmp_path / f"{record.key}.png"
        assert image is not None
        file.write_bytes(image)
        text = record.dialogues[0].turns[0].user
        rows.append({"image": str(file), "question": text, "answer": GOLD})
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_task(
        tasks, "dress_answers", tmp_path / "rows.json", output_type="generate_until",
        generation_kwargs={"max_new_tokens": 8, "temperature": 0, "do_sample": False},
        process_results="!function utils.score",
        metric_list=[{"metric": "answered", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    done = lmms_eval(
        tmp_path, "--model", "dress", "--model_args", f"run={run},stage=sft", "--batch_size", "4",
        "--tasks", "dress_answers", "--include_path", str(tasks),
        "--output_path", str(tmp_path / "out"), "--log_samples",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "dress_answers" in done.stdout
    (file,) = (tmp_path / "out").rglob("*samples_dress_answers.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    heard = {line["doc_id"]: line["filtered_resps"] for line in lines}

    model, _ = load_model(run / "stages" / "sft")
    images = [open_image(Path(row["image"]).read_bytes(), "") for row in rows]
    pictures = [picture(model.vision.preprocess(image), model.vision.num_tokens) for image in images]
    prompts = [Prompt((Span("user", row["question"]),), number) for number, row in enumerate(rows)]
    answers = generate(model, prompts, pictures, SamplingParams(8), batch_size=4)
    assert [heard[number] for number in range(QUESTIONS)] == [str(answer) for answer in answers]

    turns = [
        LastAnswer([Turn(user=row["question"], assistant=row["answer"])], "", image)
        for row, image in zip(rows, pictures, strict=True)
    ]
    scores = subprocess.run(
        [str(PYTHON), "-c", LIKELIHOOD, str(run), str(tmp_path / "rows.json")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]
    assert [nll for nll, _ in json.loads(scores)] == pytest.approx(answer_nll(model, turns), abs=1e-5)
    assert [greedy for _, greedy in json.loads(scores)] == [str(answer) == GOLD for answer in answers]

    wrong = lmms_eval(tmp_path, "--model", "dress", "--model_args", f"run={run},stage=none", "--tasks", "dress_answers",
                      "--include_path", str(tasks))  # fmt: skip
    assert "stage=none: expected one of align, dress, sft" in wrong.stdout + wrong.stderr
