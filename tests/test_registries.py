"""Worlds and raters are known by the names that they register under."""

from __future__ import annotations

import sys

import pytest

import dress.worlds
from dress.base.progress import ignore
from dress.config import CollectCommand, Data, check_as
from dress.config.raters import PlainRater
from dress.data.shards import Shards
from dress.feedback.raters import build_rater, check_rater
from dress.rater import NoRater, register
from dress.record import Dialogue, Record, Turn
from dress.worlds import registry
from dress.worlds.prepared import prepared

SIZES = {"align": 1, "sft": 2, "prompts": 3, "eval": 4}

WORLD = '''
"""A world of words without pictures, and its rater."""
import sys

from dress.rater import NoRater, register as register_rater
from dress.record import Dialogue, Record, Turn
from dress.worlds.registry import register

SPLITS = ("align", "sft", "prompts", "eval")


def fingerprint(sizes, seed):
    return f"words-{seed}"


def samples(split, size, seed):
    for number in range(size):
        yield Record(key=f"{split}-{number}", dialogues=[Dialogue(turns=[Turn(user=f"Say {number}.")])]), None


@register_rater("listener")
class Listener(NoRater):
    name = "listener"


register("words", sys.modules[__name__])
'''


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A world that lies elsewhere, as a package below `dress.worlds`."""
    check_rater(PlainRater(kind="oracle"))  # all that there are without it have registered
    folder = tmp_path / "worlds" / "words"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(WORLD)
    monkeypatch.setattr(dress.worlds, "__path__", [*dress.worlds.__path__, str(folder.parent)])
    monkeypatch.setattr(registry.WORLDS, "_things", dict(registry.WORLDS._things))
    raters = sys.modules["dress.rater"].RATERS
    monkeypatch.setattr(raters, "_things", dict(raters._things))
    yield
    sys.modules.pop("dress.worlds.words", None)


def test_a_world_is_found_by_its_name_and_brings_its_rater(words, tmp_path):
    data = Data(world="words", path=str(tmp_path / "data"), sizes=SIZES, world_seed=7)
    folder = prepared(data, ignore, ignore)
    assert folder == tmp_path / "data" / "words-7"
    assert {split: len(Shards(folder / split)) for split in SIZES} == SIZES
    settings = check_as(CollectCommand, {"responder": "x", "out": "y", "records": 1, "annotator": {"kind": "listener"}})
    assert build_rater(settings.annotator).name == "listener"


def test_a_world_or_rater_that_nobody_registered_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"data\.world: expected one of shapes, got words"):
        prepared(Data(world="words", path=str(tmp_path), sizes=SIZES), ignore, ignore)
    with pytest.raises(ValueError, match=r"data\.sizes: expected the number of records of align, .*, got none"):
        prepared(Data(world="shapes", path=str(tmp_path)), ignore, ignore)
    with pytest.raises(ValueError, match="expected one of none, oracle, rules, got other"):
        check_rater(PlainRater(kind="other"))


def test_a_name_is_one_rater():
    with pytest.raises(ValueError, match="rater none: expected a new name"):
        register("none")(type("Other", (NoRater,), {}))
    dialogue = Dialogue(criterion="honesty", turns=[Turn(user="q", assistant="a")])
    for kind in ("oracle", "rules", "none"):
        rater = build_rater(PlainRater(kind=kind))
        assert rater.name == kind
    [feedback] = rater.rate([(Record(key="a"), dialogue)])
    assert (feedback.criterion, feedback.rating, feedback.annotator) == ("honesty", None, "none")
