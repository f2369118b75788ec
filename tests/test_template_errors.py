"""Chat templates that cannot be used are refused when they are read, by setting, expected and got."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import checkpoint
from family_tokenizers import text_tokenizer
from hf_proof import png
from test_templates import ASK, CHATML, made

from dress import config
from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import IMAGE
from dress.dialogue.spans import Span
from dress.dialogue.template import TemplateChat
from dress.model import hf_probe
from dress.model.building import build_model, own_tokenizer
from dress.model.chats import language_chat

CASES = {
    "does not parse": (CHATML + "{% if %}", r"expected a Jinja template, got a mistake in its line 3 \(.+\)"),
    "an unknown filter": (
        CHATML + "{{ messages | shout }}",
        r"expected a Jinja template, got a mistake in its line 3 .*shout",
    ),
    "runs into an error": (
        CHATML.replace("m.content", "m.content + 1"),
        r"expected a template for messages of .*user.* whose content is texts, got: ",
    ),
    "drops an answer": (
        CHATML.replace("{{ m.content }}", "{% if m.role == 'user' %}{{ m.content }}{% endif %}") + ASK,
        r"with each text once, got: it writes a text of the assistant 0 times",
    ),
    "drops a question": (
        CHATML.replace("{{ m.content }}", "{% if m.role != 'user' %}{{ m.content }}{% endif %}") + ASK,
        r"with each text once, got: it writes a text of the user 0 times",
    ),
    "drops earlier turns": (
        CHATML.replace("in messages", "in messages[-2:]") + ASK,
        r"with each text once, got: it writes a text of the user 0 times",
    ),
    "says a text twice": (
        CHATML.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}") + ASK,
        r"it writes a text of the user 2 times",
    ),
    "says texts in another order": (
        CHATML.replace("in messages", "in messages|reverse") + ASK,
        r"in their order, got: it changes that",
    ),
    "changes texts": (
        CHATML.replace("{{ m.content }}", "{{ m.content | replace('red', 'blue') }}") + ASK,
        r"expected a template that leaves texts as they are, .*red.*, got .*blue",
    ),
    "upper case": (CHATML.replace("{{ m.content }}", "{{ m.content | upper }}") + ASK, "leaves texts as they are"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_template_that_cannot_be_used_is_refused(name: str) -> None:
    template, expected = CASES[name]
    with pytest.raises(ValueError, match=r"^model\.language\.chat=x\.jinja: .*" + expected) as refused:
        made(template)
    assert "\n" not in str(refused.value)


def test_a_template_that_ends_no_answer_needs_a_token_that_does() -> None:
    words = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(ValueError, match=r"x\.jinja: expected a token that ends answers, .*eos_token_id.*, got none"):
        TemplateChat("x.jinja", text_tokenizer("qwen2.5"), words)
    assert made(words).chat.adds_end, "with one it is taken"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"expected auto, .*plain.*vicuna.* or a Jinja file, found none"),
        (b"\xff\xfe{\x00", r"expected a Jinja file in UTF-8, got other bytes\. Save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_template_is_named(content: bytes | None, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^model.language.chat={file}: {expected}"):
        language_chat(config.Language(name="x", chat=str(file)), text_tokenizer("qwen2.5"))


def test_a_jinja_file_serves_a_model_of_transformers(tmp_path: Path) -> None:
    """A checkpoint's own template lies beside it under a name of one's own."""
    folder = checkpoint("smolvlm", tmp_path)
    file = tmp_path / "mine.jinja"
    (folder / "chat_template.jinja").rename(file)
    with pytest.raises(ValueError, match=r"^model\.chat=auto: expected a chat template .*got none\. Name one: .*Jinja"):
        built(folder)
    assert built(folder, str(file)).encoder.chat.placeholder == "<image>"
    file.write_text(file.read_text().replace("<image>", ""))
    with pytest.raises(ValueError, match=r"mine\.jinja: expected 1 '<image>' in a dialogue with an image, got 0"):
        built(folder, str(file))


def built(folder: Path, chat: str = "auto"):
    settings = config.HFModel(kind="hf", name=str(folder), chat=chat)
    return build_model(settings, own_tokenizer(settings), 1024, seed=0)


@pytest.mark.parametrize("chat", ["plain", "vicuna"])
@pytest.mark.parametrize("family", ["llava", "smolvlm", "gemma3"])
def test_a_format_by_name_serves_a_model_of_transformers(family: str, chat: str, tmp_path: Path) -> None:
    """Its texts and image stand where the format says; its tree gives the losses of the model's own forward pass."""
    model = built(checkpoint(family, tmp_path), chat)
    layout = model.reader()(png((70, 40)), "").layout
    ids = model.encoder.prompt([Span("user", "What is <image>?")], layout).ids
    text = model.encoder.text([i for i in ids[len(model.encoder.before) :].tolist() if i != IMAGE])
    assert (ids == IMAGE).sum() == sum(one for one in layout.parts if isinstance(one, int))
    assert text.count("What is <image>?") == 1 and text.endswith(FORMATS[chat].assistant_open.rstrip())
    assert hf_probe.difference(model, model.network, model.processor) < 1e-6
