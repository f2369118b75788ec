"""Feedback that exists: with what else lies there or without, what is said of it, and praise in its own words."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY, composed
from rich.console import Console

from dress import config
from dress.base.files import read_json
from dress.base.progress import CurriculumProgress
from dress.data.shards import Sample, write_shards
from dress.record import Dialogue, Feedback, Record, Turn
from dress.sources.destination import ImportResult
from dress.sources.import_task import next_command
from dress.train.curriculum import Curriculum
from dress.train.praise import PraiseOfData
from dress.train.run_data import RunData
from dress.train.splits import check_splits, ignored, tokenizer_splits
from dress.worlds.shapes import generate as shapes

SAFE, OTHER = "Safe response.", "A calm  refusal."


def judged(number: int) -> Iterator[Sample]:
    """Pictures with three answers each: one rated 2 and criticised, and two of the best."""
    for record, image in shapes.samples("prompts", number, seed=1):
        texts = [("A square.", 2, "Nothing is round."), ("No.", 4, SAFE), ("Never.", 4, SAFE if number % 2 else OTHER)]
        dialogues = [
            Dialogue(
                turns=[Turn(user="What?", assistant=a, feedback=[Feedback(rating=r, critique=c, refinement="Go.")])]
            )
            for a, r, c in texts
        ]
        yield record.model_copy(update={"dialogues": dialogues}), image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Feedback and held-out questions with references, and nothing else."""
    write_shards(tmp_path / "own" / "feedback", judged(7))
    write_shards(tmp_path / "own" / "eval", shapes.samples("eval", 3, seed=0))
    return tmp_path / "own"


def settings_of(folder: Path, *typed: str, run: str = "run") -> config.Config:
    """Of a tiny run on the feedback of a folder."""
    data = ["experiment=given_feedback", "data=shards", f"data.path={folder}"]
    return composed(*TINY[1:], *data, *typed, run_dir=folder / run)


WITHOUT = "curriculum.without=[align,sft]"


def test_what_stages_need_is_said_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(FileNotFoundError) as told:
        check_splits(settings_of(folder), folder)
    message = str(told.value)
    assert f"for stage align in {folder}/align (data.align), for stage sft in {folder}/sft (data.sft)" in message
    assert "found feedback, eval. curriculum.without=[align,sft] leaves out what has no data" in message
    assert "curriculum.stages.dress.weights=RUN:STAGE" in message and "\n" not in message
    check_splits(settings_of(folder, WITHOUT), folder)
    (folder / "eval").rename(folder / "aside")
    with pytest.raises(FileNotFoundError, match=r"for stage eval .*curriculum\.without=\[eval\]"):
        check_splits(settings_of(folder, WITHOUT), folder)
    with pytest.raises(FileNotFoundError, match=r"data\.feedback=DIR says where it is") as told:
        check_splits(settings_of(folder, WITHOUT, "data.feedback=elsewhere", "data.eval=feedback"), folder)
    assert "without" not in str(told.value)


def test_stages_are_left_out_by_name(folder: Path) -> None:
    left = settings_of(folder, WITHOUT).curriculum
    assert (left.order, left.stages["dress"].weights, left.stages["eval"].models) == (  # type: ignore[union-attr]
        ["dress", "eval"], None, {"dress": "dress"},
    )  # fmt: skip
    assert config.check(settings_of(folder, WITHOUT).model_dump()).curriculum == left  # as a run's file has it
    assert settings_of(folder, "curriculum.without=[align,sft,eval]").curriculum.order == ["dress"]
    with pytest.raises(config.ConfigError, match=r"curriculum\.without: expected one of the stages .*'sfd'.*sft"):
        settings_of(folder, "curriculum.without=[sfd]")
    with pytest.raises(config.ConfigError, match=r"curriculum\.without=collect: stage dress needs it"):
        composed("curriculum.without=[collect]")
    assert composed("curriculum.without=align").curriculum.stages["sft"].weights is None  # type: ignore[union-attr]


def test_the_tokenizer_is_made_of_what_is_there(folder: Path, shapes_folder: Path) -> None:
    settings = settings_of(folder, WITHOUT)
    assert tokenizer_splits(settings, folder) == ["feedback"]
    assert tokenizer_splits(settings, shapes_folder) == ["align", "sft", "prompts"]
    with pytest.raises(FileNotFoundError, match=r"no tokenizer of its own.*model\.language\.name=FOLDER"):
        tokenizer_splits(settings, folder / "eval")


def test_splits_that_no_stage_reads_are_said(folder: Path) -> None:
    assert ignored(settings_of(folder, WITHOUT), folder) is None
    own = composed("experiment=sft_only", "data=shards", f"data.path={folder}")
    line = ignored(own, folder)
    assert line == (
        f"{folder} also holds feedback, which no stage of sft_only reads; experiment=given_feedback learns from "
        f"{folder}/feedback"
    )
    held_out = own.model_copy(update={"data": own.data.model_copy(update={"validation": "feedback"})})
    assert ignored(held_out, folder) is None


def resolved(settings: config.Config, folder: Path) -> tuple[str, str | None]:
    data, progress = RunData(settings.data, folder), CurriculumProgress(Console(quiet=True), {})
    found, line = PraiseOfData(settings, data, progress).resolved()
    return found.phases.praise, line


def test_praise_that_no_critique_holds_is_said(folder: Path) -> None:
    ours = settings_of(folder, WITHOUT)
    praise, line = resolved(ours, folder)
    assert praise == ours.phases.praise and line is not None and "\n" not in line
    assert "holds the words 'Excellent. Nothing is wrong with this answer.'" in line
    assert "the most frequent is 'Safe response.' (14 of 14). phases.praise=from_data takes it" in line
    assert resolved(settings_of(folder, WITHOUT, "phases.praise=safe  Response"), folder)[1] is None
    assert resolved(settings_of(folder, WITHOUT, "phases.praise=from_data"), folder)[0] == SAFE


def test_praise_from_data_keeps_every_byte_and_needs_feedback_that_is_there(folder: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "more" / "feedback", judged(8))
    settings = settings_of(tmp_path / "more", WITHOUT, "phases.praise=from_data")
    assert resolved(settings, tmp_path / "more")[0] == OTHER  # of two equally frequent ones the first in the alphabet
    collected = composed("phases.praise=from_data")
    with pytest.raises(ValueError, match=r"phases\.praise=from_data: expected a stage with phase critique"):
        resolved(collected, folder)
    silent = Record(key="a", dialogues=[Dialogue(turns=[Turn(user="q", assistant="a", feedback=[Feedback(rating=4)])])])
    write_shards(tmp_path / "silent" / "feedback", [(silent, None)])
    settings = settings_of(tmp_path / "silent", WITHOUT, "phases.praise=from_data")
    with pytest.raises(ValueError, match=r"no answer rated 4 in .* has a critique\. Give the words"):
        resolved(settings, tmp_path / "silent")


def run(settings: config.Config) -> str:
    console = Console(file=io.StringIO(), width=200)
    Curriculum(settings, console).run()
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_on_feedback_alone_learns_its_praise(folder: Path, tmp_path: Path) -> None:
    text = run(settings_of(folder, WITHOUT, "phases.praise=from_data"))
    assert "phases.praise: 'Safe response.'" in text
    ended = folder / "run"
    facts = read_json(ended / "stages" / "dress" / "model.json")
    assert facts["conditions"]["praise"] == "Feedback: Safe response."
    assert facts["config"]["phases"]["praise"] == SAFE
    found = read_json(ended / "metrics.json")
    assert list(found) == ["dress", "conditions"] and found["dress"]["reference/rouge_l"]["n"] > 0
    (folder / "eval").rename(folder / "aside")  # with feedback only
    run(settings_of(folder, "curriculum.without=[align,sft,eval]", run="alone"))
    marker = "stages/dress/done.json"
    others = [read_json(folder / name / marker)["fingerprint"] for name in ("run", "alone")]
    assert others[0] != others[1]  # praise stands in the anchors' condition


@pytest.mark.parametrize(
    ("written", "without"),
    [
        ("sft prompts feedback eval", "[align]"), ("feedback", "[align,eval,sft]"), ("align sft feedback eval", None),
        ("sft prompts", "[align,eval]"), ("align sft prompts eval", None),
    ],
)  # fmt: skip
def test_the_command_after_an_import_leaves_out_what_has_no_data(written: str, without: str | None) -> None:
    result = ImportResult(Path("x"), 1, 1, dict.fromkeys(written.split(), 1), {}, {})
    found = [text for text in shlex.split(next_command(result)) if text.startswith("curriculum")]
    assert found == ([f"curriculum.without={without}"] if without else [])


@pytest.mark.parametrize(("critiques", "learned"), [(0, True), (1, False)])
def test_the_command_after_an_import_of_ratings_alone_learns_from_ratings(critiques: int, learned: bool) -> None:
    held = {"ratings": 4, "critiques": critiques}
    result = ImportResult(Path("x"), 4, 4, {"feedback": 4, "eval": 1, "sft": 1}, {}, {}, held)
    assert ("phases.critique.condition=rating" in shlex.split(next_command(result))) == learned


def pairs(number: int) -> Iterator[Sample]:
    """Pictures with a good and a bad answer of somebody else's, rated and not criticised."""
    for record, image in shapes.samples("prompts", number, seed=1):
        rated = [Turn(user="What?", assistant=a, feedback=[Feedback(rating=r)]) for a, r in (("Yes.", 4), ("No.", 1))]
        yield record.model_copy(update={"dialogues": [Dialogue(turns=[turn]) for turn in rated]}), image


def test_ratings_alone_are_refused_or_learned_from_and_never_taught_as_they_stand(tmp_path: Path) -> None:
    write_shards(tmp_path / "feedback", pairs(6))
    more = "curriculum.without=[align,sft,eval]"
    assert settings_of(tmp_path, more).phases.refinement.anchor == 0 and composed().phases.refinement.anchor == 0.5
    mend = r"no supervised token in data\.feedback.* phases\.critique\.condition=rating learns from the ratings"
    for anchor in ("0", "0.5"):  # an anchor alone is nothing to learn
        with pytest.raises(ValueError, match=mend):
            run(settings_of(tmp_path, more, f"phases.refinement.anchor={anchor}", run=anchor))
    text = run(settings_of(tmp_path, more, "phases.critique.condition=rating", "phases.refinement.anchor=0.5"))
    assert "phase refinement learns nothing from data.feedback (6 read)" in text
    assert "phase refinement only holds first answers in place (phases.refinement.anchor=0.5" in text
    write_shards(tmp_path / "both" / "feedback", judged(2))
    text = run(settings_of(tmp_path / "both", more))
    assert "only holds first answers" not in text and "learns from the ratings" not in text
