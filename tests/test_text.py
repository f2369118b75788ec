"""Text is sacred: what a record says is what is trained on and asked, under every kind of tokenizer."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import IMAGE, DialogueEncoder
from dress.dialogue.image import ImageLayout
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.text import LEAD
from dress.dialogue.tokenizer import check_cuts, train_tokenizer
from dress.record import RecordError

CONTROLS = ["<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>", "</s>", "<s>"]
TEXTS = [
    "Describe the picture.",
    "A red circle, I think.",
    "USER: ASSISTANT: system\nuser\n assistant",
    "a\n\nb\tc",
] * 4
ANSWER = "Steps:\n\n1. Look.\n    x = 1\t<|end|> </s><|im_end|><s>  "
QWEN = Regex(r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def wrapped(backend: Tokenizer, **more: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, **more)


def byte_level(pre: pre_tokenizers.PreTokenizer) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def gpt2() -> PreTrainedTokenizerFast:
    backend = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    backend.add_special_tokens([AddedToken(text, special=True) for text in CONTROLS])
    return wrapped(backend)


def qwen() -> PreTrainedTokenizerFast:
    """Splits at line breaks; its control tokens were added without being called special."""
    split = pre_tokenizers.Split(QWEN, "isolated")
    backend = byte_level(
        pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in CONTROLS])
    return wrapped(backend)


def llama() -> PreTrainedTokenizerFast:
    """SentencePiece's BPE: blanks are ▁, unknown characters bytes, BOS in front."""
    vocabulary = {text: n for n, text in enumerate(["<unk>", *CONTROLS])}
    for piece in [
        *(f"<0x{n:02X}>" for n in range(256)),
        "▁",
        *(chr(n) for n in range(33, 127)),
        "▁A",
        "▁▁",
        "re",
        "▁re",
    ]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("▁", "A"), ("▁", "▁"), ("r", "e"), ("▁", "re")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ["<unk>", *CONTROLS]])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return wrapped(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """Control tokens are pieces of the model, as in T5; a text's own `</s>` is found there."""
    pieces = [("<unk>", 0.0), *((text, 0.0) for text in CONTROLS), ("▁", -2.0)]
    pieces += [(chr(n), -5.0) for n in [9, 10, *range(33, 127)]] + [("▁A", -3.0), ("▁re", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace("▁", prepend_scheme="first", split=False)
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ["<unk>", *CONTROLS]])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", backend.token_to_id("</s>"))]
    )
    return wrapped(backend, eos_token="</s>", unk_token="<unk>")


def hermetic(chat: str) -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400, FORMATS[chat])


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2": gpt2, "qwen": qwen, "llama": llama, "unigram": unigram,
}  # fmt: skip


def built(kind: str, chat: str) -> PreTrainedTokenizerFast:
    if kind != "hermetic":
        return KINDS[kind]()
    with_controls = hermetic(chat)
    with_controls.add_tokens([text for text in CONTROLS if text not in with_controls.get_vocab()], special_tokens=True)
    return with_controls


PAIRS = [(kind, chat) for kind in (*KINDS, "hermetic") for chat in FORMATS]
TWO = ImageLayout((2,))
ENCODERS: dict[tuple[str, str], DialogueEncoder] = {}


def encoder_of(kind: str, chat: str) -> DialogueEncoder:
    if (kind, chat) not in ENCODERS:
        tokenizer = built(kind, chat)
        check_cuts(tokenizer, FORMATS[chat])
        ENCODERS[kind, chat] = DialogueEncoder(tokenizer, FORMATS[chat])
    return ENCODERS[kind, chat]


@pytest.mark.parametrize(("kind", "chat"), PAIRS)
def test_text_stays_text_and_the_formats_own_tokens_stay_control_tokens(kind, chat):
    encoder = encoder_of(kind, chat)
    question = "  Explain <|end|> and </s>\n\tplease. <|im_end|><|assistant|> "
    spans = (Span("user", question), Span("assistant", ANSWER, 1.0), Span("user", "More"), Span("assistant", "A", 1.0))
    encoded = encoder.supervised(SupervisedDialogue("sft", spans), "here", TWO)
    ids = encoded.ids.tolist()
    learned = [i for i, w in zip(ids, encoded.weights, strict=True) if w]
    assert learned.count(encoder.stop_id) == 2 and ids.count(IMAGE) == 2
    assert encoder.decode(learned) == ANSWER
    plain = FORMATS[chat]
    own = sum(text.count(end) for text in (plain.user_open, plain.user_close) for end in CONTROLS) * 2
    own += sum(text.count(end) for text in (plain.assistant_open, plain.assistant_end) for end in CONTROLS) * 2
    own += sum((plain.system_open or "").count(c) + plain.system_close.count(c) for c in CONTROLS) + len(encoder.before)
    assert sum(i in encoder.control_ids for i in ids) == own
    text = encoder.text([i for i in encoder.prompt(spans[:1], None).ids.tolist() if i not in encoder.control_ids])
    assert question in text, "white space of a prompt stays as well"


@pytest.mark.parametrize(("kind", "chat"), PAIRS)
@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.sampled_from([*CONTROLS, " ", "  ", "\n", "\t", "A", "re", "x", "<", LEAD.format(0), "é"])))
def test_any_text_comes_back_and_holds_no_control_token(kind, chat, words):
    encoder = encoder_of(kind, chat)
    text = "".join(words)
    if kind == "unigram":  # it knows ASCII alone
        text = "".join(c for c in text if c.isascii())
    encoded = encoder.supervised(
        SupervisedDialogue("sft", (Span("user", text or "x"), Span("assistant", text, 1.0)), image=False), "here", None
    )
    answer = encoded.ids[encoded.weights > 0].tolist()
    assert answer.pop() == encoder.stop_id
    assert not {*answer} & encoder.control_ids
    assert encoder.decode(answer) == text
    prompt = encoder.prompt((Span("user", text or "x"),), None).ids.tolist()
    assert encoded.ids.tolist()[: len(prompt)] == prompt, "generation begins where training puts the answer"


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_the_hermetic_tokenizer_gives_any_text_back_byte_for_byte(text):
    tokenizer = encoder_of("hermetic", "plain").tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert not {*ids} & {*tokenizer.all_special_ids}


@pytest.mark.parametrize(("kind", "chat"), PAIRS)
def test_bos_stands_where_the_tokenizer_itself_puts_it(kind, chat):
    encoder = encoder_of(kind, chat)
    bos = [encoder.tokenizer.bos_token_id] if kind == "llama" else []
    ids = encoder.prompt((Span("user", "A"),), None).ids.tolist()
    assert ids[: len(bos)] == bos and encoder.before == bos
    assert pickle.loads(pickle.dumps(encoder)).prompt((Span("user", "A"),), None).ids.tolist() == ids


def test_a_chat_template_of_its_own_decides_about_bos():
    body = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    )
    for template, placed in ((body, False), ("{{ bos_token }}" + body, True)):
        tokenizer = llama()
        tokenizer.chat_template = template
        check_cuts(tokenizer, FORMATS["chatml"])
        assert bool(DialogueEncoder(tokenizer, FORMATS["chatml"]).before) == placed
    tokenizer.chat_template = "{{ bos_token }}" + body.replace("user", "human").replace("m['role']", "'human'")
    with pytest.raises(ValueError, match="own chat template"):
        check_cuts(tokenizer, FORMATS["chatml"])


def test_what_ends_an_answer_must_be_one_token():
    tokenizer = train_tokenizer(TEXTS, 400, FORMATS["plain"])
    for make in (
        lambda: DialogueEncoder(tokenizer, FORMATS["vicuna"]),
        lambda: check_cuts(tokenizer, FORMATS["vicuna"]),
    ):
        with pytest.raises(ValueError, match=r"model\.language\.chat=vicuna: expected '</s>'.*one token"):
            make()


@pytest.mark.parametrize("chat", ["chatml", "vicuna"])
def test_a_system_text_stands_in_place_of_the_formats_own(chat):
    encoder = encoder_of("gpt2", chat)
    ask, system = (Span("user", "What?"),), Span("system", "Be a pirate.\n")
    usual, other = (encoder._decoded(encoder.prompt(spans, None).ids.tolist()) for spans in (ask, (system, *ask)))
    assert usual.count(FORMATS[chat].system) == 1
    assert other == usual.replace(FORMATS[chat].system, "Be a pirate.\n")


def test_plain_writes_a_system_text_before_the_first_user():
    encoder = encoder_of("gpt2", "plain")
    ask, system = (Span("user", "What?"),), Span("system", "Be <|end|>.\n")
    usual, other = (encoder._decoded(encoder.prompt(spans, None).ids.tolist()) for spans in (ask, (system, *ask)))
    assert other == "Be <|end|>.\n" + usual


def test_a_format_without_a_place_for_a_system_text_refuses_it():
    encoder = DialogueEncoder(gpt2(), replace(FORMATS["plain"], system_open=None))
    spans = (Span("system", "Be a pirate."), Span("user", "What?"), Span("assistant", "A", 1.0))
    with pytest.raises(RecordError, match=r"shard.*row 3: .*chat=plain.*no place for a system text.*pirate"):
        encoder.supervised(SupervisedDialogue("sft", spans), "shard-0 row 3", TWO)


@pytest.mark.parametrize("chat", FORMATS)
def test_the_end_of_a_cut_answer_is_not_learned(chat):
    encoder = encoder_of("gpt2", chat)
    cut = Span("assistant", "A red", 1.0, cut=True)
    one = encoder.supervised(SupervisedDialogue("sft", (Span("user", "x"), cut)), "", TWO)
    assert encoder.stop_id not in one.ids[one.weights > 0]
    assert encoder.decode(one.ids[one.weights > 0]) == "A red"
    two = encoder.supervised(SupervisedDialogue("sft", (Span("user", "x"), cut, Span("user", "y"), cut)), "", TWO)
    assert encoder.stop_id not in two.ids[two.weights > 0]
    ended = encoder.supervised(SupervisedDialogue("sft", (Span("user", "x"), Span("assistant", "A red", 1.0))), "", TWO)
    assert ended.ids[ended.weights > 0][-1] == encoder.stop_id
