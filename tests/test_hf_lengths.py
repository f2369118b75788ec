"""How many tokens an image has, known before it is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import FAMILIES, checkpoint

from dress import config
from dress.model.hf_folder import layout_reader
from dress.model.hf_pictures import HFReader

OTHER = [(33, 61), (640, 480), (300, 900)]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_images_tokens_are_counted_without_a_picture(family: str, tmp_path_factory, monkeypatch) -> None:
    reader = layout_reader(config.HFModel(kind="hf", name=str(checkpoint(family, tmp_path_factory.getbasetemp()))))
    expected = [reader._size(reader.layout(size)) for size in OTHER]
    assert [reader.length(size) for size in OTHER] == expected
    if family != "smolvlm":  # whose processor does not count
        monkeypatch.setattr(HFReader, "layout", lambda *given: pytest.fail("a picture was made"))
        assert [reader.length(size) for size in OTHER] == expected and reader.most_tokens > 0


def test_a_count_that_is_wrong_is_not_used(tmp_path: Path) -> None:
    reader = layout_reader(config.HFModel(kind="hf", name=str(checkpoint("qwen2_vl", tmp_path))))
    reader.processor._get_num_multimodal_tokens = lambda image_sizes: {"num_image_tokens": [image_sizes[0][0]]}
    assert [reader.length(size) for size in OTHER] == [reader.layout(size).tokens for size in OTHER]
