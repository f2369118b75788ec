"""What is said of evaluations before training: pictures that are trained on too, questions that nothing measures."""

from __future__ import annotations

from pathlib import Path

from conftest import composed, png
from test_given_feedback import WITHOUT, judged, settings_of

from dress.data.shards import Sample, write_shards
from dress.record import Dialogue, ImageAnnotation, ImageRef, Object, Record, Turn
from dress.train import eval_data
from dress.train.eval_data import eval_lines
from dress.train.run_data import RunData


def asked(key: str, sha256: str | None, **more: object) -> Sample:
    """A question about a picture."""
    question = Dialogue(turns=[Turn(user="Is there a dog?")], **more)  # type: ignore[arg-type]
    return Record(key=key, image=ImageRef(id=f"{key}.png", sha256=sha256), dialogues=[question]), png()


def lines(folder: Path, *typed: str) -> list[str]:
    settings = settings_of(folder, WITHOUT, *typed)
    return list(eval_lines(settings, RunData(settings.data, folder)))


def test_pictures_that_are_trained_on_are_said(tmp_path: Path, monkeypatch) -> None:
    known = {"reference": "No."}
    write_shards(
        tmp_path / "feedback", [asked("a", "1" * 64), asked("b", "2" * 64), asked("c", None), asked("z", "9" * 64)]
    )
    held_out = [asked("a", "1" * 64, **known), asked("b", "0" * 64, **known), asked("c", "3" * 64, **known),
                asked("d", "9" * 64, **known), asked("e", "5" * 64, **known)]  # fmt: skip
    write_shards(tmp_path / "eval", held_out)
    said = lines(tmp_path)  # b is another picture of the same name, d is z under another name
    assert said == [
        "3 of 5 images of data.eval are also in data.feedback (a, c, d): the figures are of images that were trained on"
    ]
    monkeypatch.setattr(eval_data, "MOST_READ", 5)  # of large sets only what has the same key is read
    assert lines(tmp_path)[0].startswith("2 of 5 images")
    write_shards(tmp_path / "other", held_out[4:])
    assert lines(tmp_path, "data.eval=other") == []


def test_an_evaluation_that_can_measure_nothing_is_said(tmp_path: Path) -> None:
    write_shards(tmp_path / "feedback", judged(3))
    write_shards(tmp_path / "eval", [asked("a", None)])
    (line,) = lines(tmp_path)
    assert line.startswith("data.eval: no record has a reference, and judge=rules rates no answer of them")
    assert lines(tmp_path, "judge=llm", "judge.model=m") == [] and not lines(
        tmp_path, "curriculum.without=[align,sft,eval]"
    )
    assert lines(tmp_path, "judge=none")[0].startswith("data.eval: no record has a reference, and judge=none")
    record, image = asked("a", None)
    there = record.model_copy(update={"annotation": ImageAnnotation(objects=[Object(label="dog")])})
    for name, sample in (("ref", asked("a", None, reference="No.")), ("known", (there, image)),
                         ("harmful", asked("a", None, criterion="harmlessness"))):  # fmt: skip
        write_shards(tmp_path / name, [sample])
        assert lines(tmp_path, f"data.eval={name}") == [], name
    settings = composed()
    assert not list(eval_lines(settings, RunData(settings.data, tmp_path)))  # a world's splits are its own matter
