"""Tokenizers: one that is trained on the run's own text (hermetic), or the language model's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dress.dialogue.chat import ChatFormat, pieces
from dress.dialogue.spans import Span

PROBES = (
    ("What is in the top left?", "Is it kind?", "A red circle, I think."),
    ("Describe  the picture.\nNow!", "Feedback: it's 100% right (4/4).", "Two: 1) a cat; 2) a dog…"),
)


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
    tokenizer.train_from_iterator((" " + " ".join(text.split()) for text in texts), trainer)
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
    """Prove that cutting a dialogue into pieces leaves its tokens as they were.

    Raises:
        ValueError: the tokenizer merges across a cut, or disagrees with its own chat template.
    """
    for user, condition, answer in PROBES:
        spans = [Span("user", user), Span("condition", condition), Span("assistant", answer)]
        spans += [Span("user", condition), Span("assistant", user)]
        parts = list(pieces(tuple(spans), chat, image=False))
        whole = tokenizer.encode("".join(part.text for part in parts), add_special_tokens=False)
        joined = [i for part in parts for i in tokenizer.encode(part.text, add_special_tokens=False)]
        if joined != whole:
            raise ValueError(
                f"model.language.chat={chat.name}: this tokenizer merges tokens across message borders "
                f"(probe {user!r}): loss masks would be wrong. Choose another chat format"
            )
        if getattr(tokenizer, "chat_template", None):
            messages = [
                {"role": "user", "content": " ".join(f"{user} {condition}".split())},
                {"role": "assistant", "content": " ".join(answer.split())},
                {"role": "user", "content": " ".join(condition.split())},
                {"role": "assistant", "content": " ".join(user.split())},
            ]
            own = tokenizer.apply_chat_template(messages, tokenize=False)
            if own != "".join(part.text for part in parts):
                raise ValueError(
                    f"model.language.chat={chat.name}: expected the tokenizer's own chat template, {own!r:.200}, "
                    f"got {''.join(part.text for part in parts)!r:.200}"
                )
