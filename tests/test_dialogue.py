"""Chat formats and tokens: exactly which tokens are learned."""

from __future__ import annotations

import pickle

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dress.dialogue.batch import Example, collate
from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import IMAGE, DialogueEncoder
from dress.dialogue.image import ImageLayout
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.tokenizer import (
    PROBES,
    check_cuts,
    load_tokenizer,
    save_tokenizer,
    tokenizer_hash,
    train_tokenizer,
)
from dress.dialogue.tree import build_tree
from dress.record import RecordError


def supervised(*spans: tuple, image: bool = True) -> SupervisedDialogue:
    return SupervisedDialogue("sft", tuple(Span(*span) for span in spans), image)


def test_the_answer_and_its_end_are_learned_and_nothing_else(tokenizer):
    encoder = DialogueEncoder(tokenizer, FORMATS["plain"])
    encoded = encoder.supervised(
        supervised(
            ("user", "Describe the picture."),
            ("assistant", "There is a red circle.", 0.0),
            ("user", "Say that  again."),
            ("condition", "Feedback: Perfect."),
            ("assistant", "There is a cross.", 0.5),
        ),
        "here",
        ImageLayout((2,)),
    )
    text = [("#" if i == IMAGE else tokenizer.decode([i])) for i in encoded.ids]
    assert "".join(text) == (
        "<|user|>## Describe the picture.<|assistant|> There is a red circle.<|end|>"
        "<|user|> Say that  again. Feedback: Perfect.<|assistant|> There is a cross.<|end|>"
    )
    learned = [t for t, w in zip(text, encoded.weights, strict=True) if w]
    assert "".join(learned) == " There is a cross.<|end|>"
    assert set(encoded.weights) == {0.0, 0.5}


def test_pad_equals_eos_and_the_end_is_still_learned(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    encoder = DialogueEncoder(tokenizer, FORMATS["plain"])
    one = encoder.supervised(supervised(("user", "Hi."), ("assistant", "Yes.", 1.0), image=False), "", None)
    two = encoder.supervised(supervised(("user", "Hi."), ("assistant", "Yes it is so.", 1.0), image=False), "", None)
    step = collate([Example([build_tree([one])], None), Example([build_tree([two])], None)], 1000)
    targets = step.forests[0].target.tolist()
    assert targets.count(encoder.stop_id) == 2
    assert len(targets) == sum(w > 0 for e in (one, two) for w in e.weights)


def test_nothing_to_learn_and_too_long_are_refused_by_name(tokenizer):
    encoder = DialogueEncoder(tokenizer, FORMATS["plain"], max_tokens=10)
    with pytest.raises(RecordError, match="here: phase sft: expected a supervised token"):
        encoder.supervised(supervised(("user", "Hi."), ("assistant", "Yes.", 0.0)), "here", ImageLayout((2,)))
    with pytest.raises(RecordError, match=r"data\.max_tokens=10"):
        encoder.supervised(supervised(("user", "Hi."), ("assistant", "Yes. " * 20, 1.0)), "here", ImageLayout((2,)))


def test_a_prompt_is_the_beginning_of_what_is_trained(tokenizer):
    encoder = DialogueEncoder(tokenizer, FORMATS["plain"])
    spans = (Span("user", "Describe the picture."), Span("condition", "Feedback: Good."))
    image = ImageLayout((3,))
    whole = encoder.supervised(SupervisedDialogue("critique", (*spans, Span("assistant", "A cat.", 1.0))), "", image)
    prompt = encoder.prompt(spans, image).ids
    assert prompt.tolist() == whole.ids[: len(prompt)].tolist() and prompt.tolist().count(IMAGE) == 3
    assert not whole.weights[: len(prompt)].any() and whole.weights[len(prompt) :].all()
    assert encoder.decode(whole.ids[len(prompt) :]) == "A cat."


def test_any_text_survives_the_hermetic_tokenizer(tokenizer):
    text = "Zürich 東京 🦊 <|user|> 100%"
    encoder = DialogueEncoder(tokenizer, FORMATS["plain"])
    ids = tokenizer.encode(" " + text.replace("<|user|>", "x"), add_special_tokens=False)
    assert encoder.decode(ids) == text.replace("<|user|>", "x")


def test_a_tokenizer_is_the_same_for_the_same_texts_and_comes_back(tokenizer, tmp_path):
    texts = ["a red circle", "a blue square"] * 3
    one, two = (train_tokenizer(iter(texts), 400, FORMATS["plain"]) for _ in range(2))
    assert tokenizer_hash(one) == tokenizer_hash(two) != tokenizer_hash(tokenizer)
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    assert tokenizer_hash(load_tokenizer(tmp_path / "tokenizer.json", FORMATS["plain"])) == tokenizer_hash(tokenizer)


def test_a_tokenizer_that_merges_across_borders_is_refused(tokenizer):
    check_cuts(tokenizer, FORMATS["plain"])
    spans = (Span("user", PROBES[0][0]), Span("condition", PROBES[0][1]), Span("assistant", PROBES[0][2]))
    whole = "".join(piece.text for piece in FORMATS["vicuna"].pieces(spans, image=False))
    merging = Tokenizer(models.BPE())
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merging.train_from_iterator([whole] * 3, trainers.BpeTrainer(vocab_size=600, show_progress=False))
    with pytest.raises(ValueError, match=r"model\.language\.chat=vicuna"):
        check_cuts(PreTrainedTokenizerFast(tokenizer_object=merging), FORMATS["vicuna"])


def test_an_encoder_can_be_sent_to_a_worker(tokenizer):
    encoder = DialogueEncoder(tokenizer, FORMATS["plain"])
    copy = pickle.loads(pickle.dumps(encoder))
    one, two = (each.prompt((Span("user", "Hi."),), ImageLayout((1,))).ids.tolist() for each in (copy, encoder))
    assert one == two
