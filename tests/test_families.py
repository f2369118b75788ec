"""The small checkpoints of vision-language families load, see their image, and answer."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, SIZES, checkpoint, talk
from family_tokenizers import TEXT_TEMPLATES, text_tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor

pytestmark = pytest.mark.slow

INPUTS = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_checkpoint_loads_sees_its_image_and_answers(name, cache):
    family = FAMILIES[name]
    folder = checkpoint(name, cache)
    assert checkpoint(name, cache) == folder
    assert (folder / "model.safetensors").stat().st_size < 3_000_000 and (folder / "chat_template.jinja").exists()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    ids = processor.tokenizer.convert_tokens_to_ids
    assert type(model).__name__ == family.model_class
    assert ids(family.image_token) == model.config.image_token_id
    assert [ids(stop) for stop in family.stops] == model.generation_config.eos_token_id
    assert (family.rope_dims == 3) == hasattr(model.model, "get_rope_index")
    assert family.marks == ("{% generation" in processor.chat_template)
    for part in family.parts.values():
        model.model.get_submodule(part)

    rendered = processor.apply_chat_template(talk(), tokenize=False)
    assert rendered.count(family.placeholder) == 1 and rendered.endswith("There are 3 circles." + family.ending)
    plain = processor.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert family.strings == ("Why?" in plain)
    last = []
    for size, seed in ((SIZES[0], 0), (SIZES[0], 1), (SIZES[1], 0)):
        inputs = processor.apply_chat_template(talk(size, seed=seed), **INPUTS)
        tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
        assert tokens == family.tokens[SIZES.index(size)]
        last.append(model(**inputs).logits[0, -1])
        assert last[-1].isfinite().all()
    assert (last[0] - last[1]).abs().max() > 0.05 * last[0].abs().max()  # another picture of the same size

    asked = processor.apply_chat_template(talk()[:1], add_generation_prompt=True, **INPUTS)
    answer = model.generate(**asked, max_new_tokens=3, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert 1 <= len(answer) <= 3


def test_a_checkpoint_is_the_same_each_time(cache):
    again = cache / "again"
    torch.manual_seed(7)
    FAMILIES["llava"].write(again)
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert (again / name).read_bytes() == (checkpoint("llava", cache) / name).read_bytes()


@pytest.mark.parametrize("name", TEXT_TEMPLATES)
def test_a_text_tokenizer_renders_a_talk(name):
    tokenizer = text_tokenizer(name)
    messages = [{"role": "user", "content": "How many circles?"}, {"role": "assistant", "content": "Three"}]
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole.startswith(prompt) and "Three" in whole[len(prompt) :]
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokenizer.apply_chat_template(messages)["input_ids"] == ids
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids
