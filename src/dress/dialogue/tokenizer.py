"""Tokenizers: one that is trained on the run's own text (hermetic), or the language model's own."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dress.dialogue.chat import ChatFormat
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.spans import Span

PROBES = (
    ("What is in the top left?", "Is it kind?", "A red circle, I think."),
    ("Describe  the picture.\nNow!", "Feedback: it's 100% right (4/4).", "Two: 1) a cat; 2) a dog…"),
)
SPACED = ("  def f(x):\n\treturn x\n\n", "Feedback:  So\n  so. ", "Steps:\n\n1. Look.\n    x = 1  ")
"""A probe with white space at the ends, which other people's chat templates may cut off."""


def train_tokenizer(texts: Iterable[str], vocabulary: int, chat: ChatFormat) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the given texts: any text can be written with it, none is unknown.

    Args:
        texts: what the run trains on.
        vocabulary: largest number of tokens, the 256 bytes and the chat format's own included.
        chat: whose special tokens become single tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(chat.special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" " + text for text in texts), trainer)
    end = chat.assistant_end
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def load_tokenizer(file: Path, chat: ChatFormat) -> PreTrainedTokenizerFast:
    """A tokenizer that `save_tokenizer` wrote."""
    end = chat.assistant_end
    return PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=end, pad_token=end)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Write the whole tokenizer as one JSON file."""
    tokenizer.backend_tokenizer.save(str(file))


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal for tokenizers that give equal ids."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]


def check_cuts(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    """Prove that tokenising a dialogue in pieces leaves its tokens as they were; no text gives a control token.

    Raises:
        ValueError: the tokenizer merges across a cut, gives a control token for a text, disagrees with its own
            chat template, or the end of an answer is not one token.
    """
    encoder = DialogueEncoder(tokenizer, chat)
    for user, condition, answer in (*PROBES, SPACED):
        spans = [Span("user", user), Span("condition", condition), Span("assistant", answer)]
        spans += [Span("user", condition), Span("assistant", user.lstrip())]
        text = "".join(part.text for part in chat.pieces(tuple(spans), image=False))
        ours = encoder.prompt(spans, None).ids[len(encoder.before) :].tolist()
        if ours != tokenizer.encode(text, add_special_tokens=False):
            raise ValueError(
                f"{chat.setting}: this tokenizer merges tokens across message borders "
                f"(probe {user!r}): loss masks would be wrong. Choose another chat format"
            )
    _check_template(tokenizer, chat)
    check_texts(encoder, chat.special)


def check_texts(encoder: DialogueEncoder, special: Collection[str] = ()) -> None:
    """Prove that no text gives a control token.

    Raises:
        ValueError: one does, by name.
    """
    tokenizer = encoder.tokenizer
    names = [str(tokenizer.convert_ids_to_tokens(number)) for number in encoder.control_ids]
    for control in sorted({*special, encoder.chat.end, *tokenizer.all_special_tokens, *names}):
        ids = {*encoder.texts.encode(f"a {control}{control} b", first=False)} - {tokenizer.unk_token_id}
        if ids & encoder.control_ids:
            raise ValueError(
                f"{encoder.chat.setting}: expected {control!r} in a text to be text, got the control "
                f"token: this tokenizer cannot tell them apart"
            )


def _check_template(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    """Raises ValueError: the tokenizer has a chat template of its own that writes a dialogue otherwise."""
    if not getattr(tokenizer, "chat_template", None) or not chat.follows_own:
        return
    for user, condition, answer in PROBES:
        spans = [Span("user", user), Span("condition", condition), Span("assistant", answer)]
        spans += [Span("user", condition), Span("assistant", user)]
        messages = [
            {"role": "user", "content": f"{user} {condition}"},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": condition},
            {"role": "assistant", "content": user},
        ]
        own = str(tokenizer.apply_chat_template(messages, tokenize=False))
        ours = "".join(part.text for part in chat.pieces(tuple(spans), image=False))
        if own not in (ours, f"{tokenizer.bos_token}{ours}"):
            raise ValueError(
                f"{chat.setting}: expected the tokenizer's own chat template, {own!r:.200}, got {ours!r:.200}"
            )
