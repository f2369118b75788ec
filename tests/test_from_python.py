"""The package from Python: load and ask a model, train, evaluate; also in a running event loop, as in a notebook."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, png
from llm_server import Behaviour, serving
from PIL import Image
from test_command_line import FAST, environment

import dress
from dress.record import Dialogue, Turn
from dress.run.from_python import TrainedRun

DRAWN = {"temperature": 1.0, "max_new_tokens": 8, "seed": 5}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "picture.png").write_bytes(png())
    return folder


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def run(home: Path) -> TrainedRun:
    """A run that was trained in an event loop; `logs/latest` where these tests stand."""

    async def notebook() -> TrainedRun:
        return dress.train(["experiment=critique_only", *FAST], quiet=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return asyncio.run(notebook())


def test_the_package_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, dress; print({'torch', 'pydantic'} & set(sys.modules), dir(dress))"],
        env=environment(PYTHONPATH=str(ROOT / "src")), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("set()") and {"load", "train", "evaluate"} <= set(re.findall(r"'(\w+)'", done.stdout))


def test_the_lines_of_the_readme(run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.M)
    names: dict[str, object] = {}
    exec(block, names)
    assert capsys.readouterr().out == f"{names['answer']} {names['model'].improve(names['answer'], 'x').text}\n"  # type: ignore[attr-defined]


def test_the_lines_of_the_page_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/api/python.md").read_text(), flags=re.DOTALL | re.M)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block.replace('"debug=fast_dev_run"', f"*{FAST}"), names)
    assert names["figures"] == json.loads(Path("again/metrics.json").read_text())


def test_a_run_is_trained_and_evaluated_as_by_the_scripts(run: TrainedRun) -> None:
    assert run.folder.parent == Path("logs/critique_only").absolute() and Path("logs/latest").resolve() == run.folder
    assert run.metrics == json.loads((run.folder / "metrics.json").read_text())
    provenance = json.loads((run.folder / "provenance.json").read_text())
    assert shlex.split(provenance["command"]) == ["dress", "train", "experiment=critique_only", *FAST]
    again = dress.evaluate(run, ["records=4", "out=again"], quiet=True)
    assert again == json.loads(Path("again/metrics.json").read_text())
    assert dress.train([f"resume={run.folder}"], quiet=True).metrics == run.metrics


def test_a_model_is_asked_under_praise_where_its_stage_learned_it(run: TrainedRun) -> None:
    model, before = dress.load("logs/latest"), dress.load(run.folder / "stages" / "sft")
    assert (model.condition, before.condition) == ("praise", "none")
    question = "What is here?"
    answer = model.answer("picture.png", question, **DRAWN)
    assert answer == model.answer("picture.png", question, condition="praise", **DRAWN)
    asked = model.answer("picture.png", f"{question} {model.conditions['praise']}", condition="none", **DRAWN)
    assert answer.text == asked.text
    assert answer.text != model.answer("picture.png", question, condition="none", **DRAWN).text
    with pytest.raises(ValueError, match=r"expected one of none, praise, got 'prase'\. Did you mean praise\?"):
        model.answer("picture.png", question, "prase")


def test_lists_are_answered_together_in_order(run: TrainedRun) -> None:
    model = dress.load(run, stage="sft")
    pictures, questions = ["picture.png", None, b"no picture"], ["What?", "Who?", "Where?"]
    one, two, none = model.answer(pictures, questions, **DRAWN)
    assert [one.text, two.text, None] == [a.text for a in model.answer(pictures, questions, batch_size=1, **DRAWN)]
    assert one.text == model.answer("picture.png", "What?", **DRAWN).text and one.text != two.text
    assert none.text is None and "expected a JPEG, PNG, WEBP image, got 10 bytes" in none.failed
    assert len(model.answer("picture.png", questions, max_new_tokens=1)) == 3
    with pytest.raises(ValueError, match="no answer: picture: expected a JPEG"):
        model.answer(b"no picture", "What?")
    with pytest.raises(ValueError, match="as many questions as pictures, got 3 and 1"):
        model.answer(["picture.png"], questions)


def test_a_picture_is_a_file_bytes_or_an_image(run: TrainedRun) -> None:
    model = dress.load(run)
    upright = Image.open("picture.png").convert("RGBA")
    pictures = ["picture.png", Path("picture.png"), Path("picture.png").read_bytes(), upright]
    texts = {model.answer(picture, "What?", **DRAWN).text for picture in pictures}
    assert len(texts) == 1 and texts != {model.answer(None, "What?", **DRAWN).text}
    with pytest.raises(ValueError, match=r"picture: expected a file, bytes, .* got int"):
        model.answer(7, "What?")
    with pytest.raises(ValueError, match=r"temprature: no such setting\. Did you mean temperature\?"):
        model.answer("picture.png", "What?", temprature=1.0)


def test_advice_is_the_next_turn_over_the_same_picture(run: TrainedRun) -> None:
    model = dress.load(run)
    answer = model.answer("picture.png", "What?", **DRAWN)
    better = model.improve(answer, "You forgot the dog.", **DRAWN)
    first, second = better.dialogue.turns
    assert (first.user, first.assistant, second.user) == ("What?", answer.text, "You forgot the dog.")
    assert first.feedback[0].refinement == second.user and second.assistant == better.text
    assert not answer.dialogue.turns[0].feedback, "the answer before stays as it is"
    plain = Dialogue.model_validate(answer.dialogue.model_dump())
    assert model.improve(plain, second.user, picture="picture.png", **DRAWN).text == better.text
    assert model.improve(plain, second.user, **DRAWN).text != better.text, "the picture counts"
    with pytest.raises(ValueError, match="expected an answer in its last turn"):
        model.improve(Dialogue(turns=[Turn(user="What?")]), "Better.")


def test_a_server_is_asked_in_the_same_way() -> None:
    behaviour = Behaviour(always="A red square.")
    with serving(behaviour) as url:
        model = dress.load(url, model="loopback")

        async def notebook() -> list[str]:
            answer = model.answer("picture.png", "What is here?")
            return [str(answer), str(model.improve(answer, "Say more."))]

        assert asyncio.run(notebook()) == ["A red square."] * 2
    first, second = (body["messages"] for body in behaviour.bodies)
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert "data:image/png;base64" in json.dumps(first) and "data:image/png;base64" in json.dumps(second)
    with pytest.raises(ValueError, match=r'load\("http://127.0.0.1:1/v1", model="NAME"\)'):
        dress.load("http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dress.train(["experimnt=x"]), "experimnt: no such setting. Did you mean experiment?"),
        (lambda: dress.train(["seed=x"]), "seed: .*got 'x'"),
        (lambda: dress.train("seed=1"), "expected a list of settings"),
        (lambda: dress.train(["-m", "seed=0,1"]), "-m: expected key=value"),
        (lambda: dress.train(["resume=logs/latest", "seed=3"]), "seed=3: a resumed run keeps its own settings"),
        (lambda: dress.train(["trainer.devices=2"]), "trainer.devices=2: from Python a run has one process"),
        (lambda: dress.evaluate("nowhere"), "ckpt=nowhere"),
        (lambda: dress.load("nowhere"), "nowhere: expected a run folder"),
        (lambda: dress.load("logs/latest", stage="sff"), "expected one of the stages that train .*Did you mean sft?"),
        (lambda: dress.load("logs/latest", model="x"), "model: only a server takes it"),
        (lambda: dress.load("logs/latest", device="cuda:99"), "device=cuda:99: expected one that torch finds here"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_an_exception_of_one_message(run: TrainedRun, call, message: str) -> None:
    before = sorted(Path("logs").rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call()
    assert sorted(Path("logs").rglob("*")) == before, "nothing was begun"
