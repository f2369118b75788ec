"""An exported chat template says what DRESS says, in texts and in ids, whoever renders it."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, SIZES, llava, picture
from family_tokenizers import CORPUS, TEMPLATES, TEXT_TEMPLATES, text_tokenizer
from hf_proof import png
from jinja2 import TemplateError, nodes
from tokenizers import AddedToken
from transformers.utils.chat_template_utils import _compile_jinja_template

from dress import config
from dress.dialogue.chat import FORMATS, ChatFormat
from dress.dialogue.condition_check import check_condition
from dress.dialogue.encode import IMAGE, DialogueEncoder
from dress.dialogue.image import ImageLayout
from dress.dialogue.jinja_condition import conditioned
from dress.dialogue.jinja_text import start_of, template_of
from dress.dialogue.spans import Span
from dress.dialogue.tokenizer import check_cuts, train_tokenizer
from dress.model.chats import hf_chat, language_chat
from dress.model.hf_pictures import HFReader

FIXED = {
    "own tokenizer": ("plain", None), "smollm chatml": ("chatml", "smollm"), "qwen chatml": ("chatml", "qwen2.5"),
    "mistral vicuna": ("vicuna", "mistral"), "llama3 plain": ("plain", "llama3"), "gemma vicuna": ("vicuna", "gemma"),
}  # fmt: skip
NAMES = [*FIXED, *TEXT_TEMPLATES, *FAMILIES]
WORDS = [
    "What",
    " is",
    " a red circle",
    ",",
    ".",
    "\n",
    "  ",
    " 12",
    "é",
    "🙂",
    "\n- one",
    "'\"",
    "{{x}}",
    "日本",
    "\\n",
]
CONDITIONS = ["", "Feedback: it's right (4/4).", "Gut so!", "{% if x %}'\\n\n日本"]


@dataclass
class Export:
    """A chat format, the template that is written of it, and the processor that renders that."""

    encoder: DialogueEncoder
    processor: Any
    template: str
    layout: ImageLayout
    image: int  # token id

    @property
    def chat(self) -> Any:
        return self.encoder.chat

    def text(self, spans: list[Span], image: bool) -> str:
        """Of the pieces, what stands before all included."""
        parts = self.chat.pieces(tuple(spans), image)
        placeholder = self.processor.image_token
        return start_of(self.encoder) + "".join(placeholder if p.kind == "image" else p.text for p in parts)

    def rendered(self, messages: list[dict], condition: str = "", **settings: Any) -> Any:
        settings = {"add_generation_prompt": True, "tokenize": False} | settings
        return self.processor.apply_chat_template(
            messages, chat_template=conditioned(self.template, condition), **settings
        )

    def ids(self, messages: list[dict], condition: str) -> list[int]:
        out = self.rendered(messages, condition, tokenize=True, return_dict=True)["input_ids"]
        return [IMAGE if i == self.image else i for i in np.ravel(out).tolist()]


def composed(encoder: DialogueEncoder) -> Export:
    """As a composed model leaves: its tokenizer with a token for images, which begins no text by itself."""
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.image_token, tokenizer.image_token_id = "<image>", tokenizer.convert_tokens_to_ids("<image>")
    template = template_of(encoder.chat, "<image>", start_of(encoder))
    return Export(encoder, llava(tokenizer)[1], template, ImageLayout((16,)), tokenizer.image_token_id)


@cache
def export(name: str) -> Export:
    if name in FIXED:
        chat, kind = FIXED[name]
        if kind is None:
            tokenizer: Any = train_tokenizer(CORPUS, 500, FORMATS[chat])
            made = FORMATS[chat]
        else:
            tokenizer = copy.deepcopy(text_tokenizer(kind))
            tokenizer.chat_template = None
            made = language_chat(config.Language(name=kind, chat=chat), tokenizer)
        assert isinstance(made, ChatFormat)
        return composed(DialogueEncoder(tokenizer, made))
    if name in TEXT_TEMPLATES:
        tokenizer = text_tokenizer(name)
        return composed(DialogueEncoder(tokenizer, language_chat(config.Language(name=name), tokenizer)))
    family = FAMILIES[name]
    described, processor = family.build(family.tokenizer())
    processor.chat_template = TEMPLATES[name]
    reader = HFReader(processor, described, ["image_grid_thw"], name)
    chat = hf_chat(config.HFModel(kind="hf", name=name), processor, family.stops)
    encoder = DialogueEncoder(processor.tokenizer, chat, markers=reader.markers())
    template = template_of(chat, processor.image_token, start_of(encoder))
    return Export(encoder, processor, template, reader(png(SIZES[0]), "").layout, described.image_token_id)


def some_text(draw: random.Random) -> str:
    return "".join(draw.choices(WORDS, k=draw.choice([1, 2, 4, 8]))).strip() or "Why?"


def some_dialogue(draw: random.Random, system: bool, condition: str) -> list[Span]:
    """Up to three turns, the last one open."""
    spans = [Span("system", some_text(draw))] if system and draw.random() < 0.4 else []
    for _ in range(draw.choice([0, 0, 1, 2])):
        spans += [Span("user", some_text(draw)), Span("assistant", some_text(draw))]
    spans.append(Span("user", some_text(draw)))
    return [*spans, Span("condition", condition)] if condition else spans


def messages_of(spans: list[Span], image: bool, parts: bool = True) -> list[dict]:
    """As somebody asks a server: no condition among the texts."""
    messages: list[dict] = []
    for span in spans:
        if span.role != "condition":
            first = image and span.role == "user" and not any(m["role"] == "user" for m in messages)
            shown = [{"type": "image", "image": picture(*SIZES[0])}] if first else []
            content = [*shown, {"type": "text", "text": span.text}] if parts else span.text
            messages.append({"role": span.role, "content": content})
    return messages


@pytest.mark.parametrize("name", NAMES)
def test_the_rendered_text_and_its_ids_are_those_of_the_pieces(name):
    one, draw = export(name), random.Random(name)
    for number in range(12):
        condition, image = CONDITIONS[number % 4], number % 3 == 0
        spans = some_dialogue(draw, one.chat.takes_system, condition)
        messages = messages_of(spans, image)
        text = one.text(spans, image)
        assert one.rendered(messages, condition) == text
        turns = sum(span.role == "user" for span in spans)
        if name != "llava_onevision" or turns == 1:  # it merges two line breaks before an answer; see `apart`
            ids = one.encoder.prompt(spans, one.layout if image else None).ids.tolist()
            assert one.ids(messages, condition) == ids, text
        if not image and (name not in FAMILIES or FAMILIES[name].strings):
            assert one.rendered(messages_of(spans, False, parts=False), condition) == text
    check_condition(one.chat, one.template, CONDITIONS[1], one.processor.tokenizer)


@pytest.mark.parametrize("name", FIXED)
def test_answers_are_marked_with_their_ends(name):
    one = export(name)
    spans = [Span("user", "Why?"), Span("assistant", "So."), Span("user", "And?"), Span("assistant", "It is.")]
    messages, text = messages_of(spans, image=False), one.text(spans, image=False)
    assert one.rendered(messages, add_generation_prompt=False) == text
    settings = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    out = one.rendered(messages, add_generation_prompt=False, **settings)
    marked = [i for i, mark in zip(np.ravel(out["input_ids"]), np.ravel(out["assistant_masks"]), strict=True) if mark]
    said = one.processor.tokenizer.decode(marked, skip_special_tokens=False)
    end = one.chat.assistant_end
    assert [part.strip() for part in said.split(end)] == ["So.", "It is.", ""]


@pytest.mark.parametrize("name", [*FIXED, *TEXT_TEMPLATES])
def test_parts_of_every_server_are_understood_and_a_second_image_is_not(name):
    one = export(name)
    text = {"type": "text", "text": "What is it?"}
    expected = one.text([Span("user", "What is it?")], image=True)
    for shown in ({"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "input_image"}):
        for content in ([shown, text], [text, shown], [shown, {"type": "input_text", "text": "What is"}, " it?"]):
            assert one.rendered([{"role": "user", "content": content}]) == expected
    later = [Span("user", "Hm?"), Span("assistant", "Yes."), Span("user", "What is it?")]
    messages = messages_of(later, image=False)
    messages[2]["content"] = [text, {"type": "image"}]
    assert one.rendered(messages) == one.text(later, image=True), "it stands first, wherever it came"
    messages[0]["content"] = [{"type": "image"}, text]
    with pytest.raises(TemplateError, match="expected at most one image in a dialogue, got 2"):
        one.rendered(messages)
    with pytest.raises(TemplateError, match="type text or image, got video"):
        one.rendered([{"role": "user", "content": [{"type": "video"}, text]}])
    blind = template_of(one.chat, None, start_of(one.encoder))
    with pytest.raises(TemplateError, match="expected no image in a dialogue, got 1"):
        one.processor.apply_chat_template([{"role": "user", "content": [shown, text]}], chat_template=blind)
    if isinstance(one.chat, ChatFormat):
        with pytest.raises(TemplateError, match=r"expected a system message first, .* got a message of tool"):
            one.rendered([{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}])


def loops_over_content(template: str) -> bool:
    """What vLLM and SGLang look for: a loop over `message['content']`. Without one they pass texts, and put the image's
    placeholder into them themselves."""
    tree = _compile_jinja_template(template).environment.parse(template)
    for loop in tree.find_all(nodes.For):
        inner = loop.iter
        while isinstance(inner, nodes.Filter):
            inner = inner.node
        if isinstance(inner, nodes.Name) and inner.name == "content":
            return True
        key = inner.arg.value if isinstance(inner, nodes.Getitem) and isinstance(inner.arg, nodes.Const) else None
        key = inner.attr if isinstance(inner, nodes.Getattr) else key
        if key == "content" and isinstance(inner.node, nodes.Name) and inner.node.name == "message":
            return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_servers_find_that_messages_may_be_lists_of_parts(name):
    template = export(name).template
    assert loops_over_content(template) and loops_over_content(conditioned(template, "Good."))
    if name in TEXT_TEMPLATES:  # of texts alone it stays one of texts alone
        assert not loops_over_content(conditioned(TEXT_TEMPLATES[name], "Good."))


def test_a_vision_language_models_own_template_stays_its_own():
    for name in ("qwen2_vl", "gemma3", "glm4v", "smolvlm", "internvl", "mistral3"):
        assert export(name).template == TEMPLATES[name]
    one = export("llava")
    assert one.template.endswith(TEMPLATES["llava"]) and start_of(one.encoder) == "<s>"
    spans = [Span("user", "Why?"), Span("assistant", "So."), Span("user", "And?")]
    assert one.rendered(messages_of(spans, False)).startswith("<s>USER: Why? ASSISTANT: So.</s> USER: And?")


def test_the_template_says_by_itself_what_dress_tells_it():
    spans = [Span("user", "Why?")]
    qwen, llama = export("qwen3"), export("llama3")
    assert qwen.rendered(messages_of(spans, False)).endswith("<think>\n\n</think>\n\n")
    assert "<think>" not in qwen.rendered(messages_of(spans, False), enable_thinking=True), "unless somebody says more"
    assert "26 Jul 2024" in llama.rendered(messages_of(spans, False))
    tokenizer = text_tokenizer("llama3")
    settings = config.Language(name="x", template_arguments={"date_string": "1 Apr '30"})
    other = template_of(language_chat(settings, tokenizer), "<image>")
    assert "Today Date: 1 Apr '30" in tokenizer.apply_chat_template(
        messages_of(spans, False), chat_template=other, tokenize=False
    )


def test_a_format_without_a_place_for_a_system_text_says_so():
    bare = ChatFormat("bare", None, "", "", "[Q]", "[/Q]", "", "</s>", "", " ")
    template = template_of(bare, None)
    tokenizer = text_tokenizer("mistral")
    messages = [{"role": "user", "content": "Why?"}]
    assert tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False) == "[Q] Why?[/Q]"
    with pytest.raises(TemplateError, match="expected user and assistant, got a message of system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}, *messages], chat_template=template)


def test_chat_formats_of_these_tests_are_ones_that_a_run_takes():
    for name in FIXED:
        encoder = export(name).encoder
        check_cuts(encoder.tokenizer, encoder.chat)


def test_an_answer_as_a_server_gives_it_has_one_gap_in_history():
    """vLLM takes nothing off what a model wrote, and clients send answers back as they came."""
    one = export("own tokenizer")
    assert one.chat.gap == " "
    texts = [
        one.rendered([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}])
        for answer in ("So.", " So.")
    ]
    assert texts[0] == texts[1]
