"""The small checkpoints of vision-language families load, see their image, and answer."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, SIZES, checkpoint, picture
from family_tokenizers import TEXT_TEMPLATES, text_tokenizer
from transformers import AutoModelForImageTextToText, AutoProcessor


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


def talk(size=(70, 40), answer="There are 3 circles.", seed=0):
    shown = [{"type": "image", "image": picture(*size, seed=seed)}, {"type": "text", "text": "How many circles?"}]
    return [{"role": "user", "content": shown}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_loads_sees_its_image_and_answers(name, cache):
    family = FAMILIES[name]
    folder = checkpoint(name, cache)
    assert checkpoint(name, cache) == folder
    assert (folder / "model.safetensors").stat().st_size < 3_000_000 and (folder / "chat_template.jinja").exists()
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model).__name__ == family.model_class
    for part in family.parts.values():
        model.model.get_submodule(part)
    ids = processor.tokenizer.convert_tokens_to_ids
    assert ids(family.image_token) == model.config.image_token_id
    assert [ids(stop) for stop in family.stops] == model.generation_config.eos_token_id

    rendered = processor.apply_chat_template(talk(), tokenize=False)
    assert rendered.count(family.placeholder) == 1 and rendered.endswith("There are 3 circles." + family.ending)
    for size, tokens in zip(SIZES, family.tokens, strict=True):
        inputs = processor.apply_chat_template(talk(size), tokenize=True, return_dict=True, return_tensors="pt")
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == tokens
        with torch.no_grad():
            logits = model(**inputs).logits
            other = processor.apply_chat_template(
                talk(size, seed=1), tokenize=True, return_dict=True, return_tensors="pt"
            )
            others = model(**other).logits
        assert logits.isfinite().all() and logits.shape[1] == inputs["input_ids"].shape[1]
        assert (logits - others)[:, -1].abs().max() > 0.05 * logits[:, -1].abs().max()
    asked = processor.apply_chat_template(
        talk()[:1], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    answer = model.generate(**asked, max_new_tokens=4, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert 1 <= len(answer) <= 4


@pytest.mark.parametrize("name", TEXT_TEMPLATES)
def test_a_text_tokenizer_renders_a_talk(name):
    tokenizer = text_tokenizer(name)
    talk = [{"role": "user", "content": "How many circles?"}, {"role": "assistant", "content": "Three"}]
    prompt = tokenizer.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(talk, tokenize=False)
    assert whole.startswith(prompt) and "Three" in whole[len(prompt) :]
    assert tokenizer.apply_chat_template(talk)["input_ids"] == tokenizer(whole, add_special_tokens=False)["input_ids"]
