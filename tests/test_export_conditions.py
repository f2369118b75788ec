"""A condition in a chat template: carried once, read back, taken out; and what reads a folder that holds one."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from family_tokenizers import TEMPLATES, TEXT_TEMPLATES, text_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_client import client
from llm_server import Behaviour, serving
from transformers import AutoProcessor

from dress import config
from dress.dialogue.chat import FORMATS
from dress.dialogue.condition_check import check_condition
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.jinja_condition import condition_of, conditioned, unconditioned
from dress.dialogue.jinja_literal import literal, text_of
from dress.dialogue.jinja_text import template_of
from dress.dialogue.spans import Span
from dress.dialogue.template import TemplateChat
from dress.model.chats import hf_chat, language_chat
from dress.model.export_facts import ExportFacts, read_export, template_condition, write_export
from dress.record import Dialogue, Record, Turn
from dress.rollout.responder import OpenTurn, Sampling
from dress.rollout.server import ServerResponder

LOOP = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TEMPLATE_TEXTS = [
    *TEXT_TEMPLATES.values(), *TEMPLATES.values(), *(template_of(chat, "<image>", "<s>") for chat in FORMATS.values()),
    LOOP, f"\n\n{LOOP}\n", f"   {LOOP}", f"\n  {{%- if true %}}x{{% endif %}}{LOOP}",
    "{% raw %}{{ x }}{% endraw %} " + LOOP, "  {% set messages = messages[-1:] %}\n" + LOOP,
]  # fmt: skip
ASK = {"role": "user", "content": "Why?"}
LISTS = set(TEMPLATES.values())
ODD = ["'\"\\", "{% endif %}", "{{ x }}", "{#", "#}", "\r\n", "\u2028", "\\x41"]
TEXT = st.text(max_size=30) | st.sampled_from(ODD)


def rendered(template: str, messages: list[dict], ask: bool = True) -> str:
    tokenizer = text_tokenizer("mistral")
    return tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=ask, date_string="x"
    )


@st.composite
def dialogues(draw: Any) -> list[tuple[str, str]]:
    turns = draw(st.integers(1, 3))
    ends = draw(st.booleans())
    roles = ["user", "assistant"] * turns
    return [(role, draw(TEXT)) for role in (roles if ends else roles[:-1])]


def messages_of(dialogue: list[tuple[str, str]], parts: bool, condition: str = "") -> list[dict]:
    last = max(number for number, (role, _) in enumerate(dialogue) if role == "user")
    texts = [text + (f" {condition}" if condition and n == last else "") for n, (_, text) in enumerate(dialogue)]
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
        for (role, _), text in zip(dialogue, texts, strict=True)
    ]


@pytest.mark.parametrize("template", TEMPLATE_TEXTS)
@given(TEXT, dialogues())
@settings(max_examples=8, deadline=None)
def test_a_conditioned_template_appends_to_the_last_user_text_and_changes_nothing_else(template, condition, dialogue):
    whole = conditioned(template, condition)
    assert condition_of(whole) == (condition or None)
    assert unconditioned(whole) == template
    parts = template in LISTS
    plain = messages_of(dialogue, parts)
    assert rendered(whole, plain) == rendered(template, messages_of(dialogue, parts, condition))
    assert rendered(whole, plain, ask=False) == rendered(template, messages_of(dialogue, parts, condition), ask=False)


@given(TEXT | st.text(st.characters(), max_size=20), st.booleans())
@settings(max_examples=200, deadline=None)
def test_texts_are_written_so_that_jinja_reads_them_back(text, inner):
    source = literal({"x": [text, 1, -2.5, True, None]} if inner else text)
    assert not any(one in source for one in ("{%", "%}", "{#", "\n", "\r", "\u2028"))
    assert inner or text_of(source) == text
    template = f"{{{{ ({source})['x'] | tojson }}}}" if inner else f"{{{{ {source} }}}}"
    written = rendered(template, [{"role": "user", "content": ""}])
    assert written == (json.dumps([text, 1, -2.5, True, None], ensure_ascii=False) if inner else text)


def test_parts_get_the_condition_behind_their_last_text():
    whole = conditioned("{{ messages | tojson }}", "Good.")
    image, first, last = {"type": "image"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b", "more": 1}

    def asked(*messages: Any) -> Any:
        said = rendered(whole, [{"role": "user", "content": one} for one in messages])
        return [one["content"] for one in json.loads(said)]

    assert asked([image, first, last, image]) == [[image, first, last | {"text": "b Good."}, image]]
    assert asked([image]) == [[image, {"type": "text", "text": " Good."}]]
    assert asked([]) == [[{"type": "text", "text": " Good."}]]
    assert asked(["a", "b"]) == [["a", "b Good."]]
    assert asked("a", None) == ["a", " Good."]
    tools = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, {"role": "tool", "content": "t"}]
    said = json.loads(rendered(whole, tools))
    assert [one.get("content") for one in said] == ["a Good.", None, "t"], "behind the user's, whoever speaks after"
    assert json.loads(rendered(whole, [{"role": "system", "content": "s"}]))[0]["content"] == "s"


def test_a_template_holds_one_condition():
    whole = conditioned(LOOP, "Good.")
    with pytest.raises(ValueError, match="without a condition, got one that asks under 'Good"):
        conditioned(whole, "Better.")
    assert conditioned(LOOP, "") == LOOP and condition_of(LOOP) is None and unconditioned(LOOP) == LOOP
    for blank in ("\n", "\n\n", "  ", "\n  {% if true %}x{% endif %}"):
        assert rendered(conditioned(blank + LOOP, "Good."), [ASK]) == rendered(blank + LOOP, [ASK]) + " Good."
    other = "\ufeff{# mine #}\n" + whole.replace("\n", "\r\n")  # a copy that an editor went over
    assert condition_of(other) == "Good." and unconditioned(other) == "\ufeff{# mine #}\n" + LOOP


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<{{ m.role }}>{{ m.content[:5] }}{% endfor %}",
        "{% for m in messages %}{% if m.role != 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "<user>{{ messages[0].content }}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content | replace('Good', 'Bad') }}{% endfor %}",
        "{% for m in messages %}{{ m.content + 1 }}{% endfor %}",
    ],
)
def test_a_template_that_cannot_carry_a_condition_is_refused(template):
    tokenizer = text_tokenizer("qwen2.5")
    chat = language_chat(config.Language(name="x"), tokenizer)
    check_condition(chat, template_of(chat, "<image>"), "Good.", tokenizer)
    chat.template = template
    check_condition(chat, template_of(chat, "<image>"), "", tokenizer)
    wrong = r"^model\.language\.chat=auto: a tokenizer whose template cannot carry a condition: "
    with pytest.raises(ValueError, match=wrong) as error:
        check_condition(chat, template_of(chat, "<image>"), "Good.", tokenizer)
    assert "\n" not in str(error.value)


# --- folders --------------------------------------------------------------------------------------

FACTS = ExportFacts(
    run="r", stage="dress", form="merged", condition="praise", conditions={"none": "", "praise": "Good."},
    advice_condition="praise", max_new_tokens=48, template="plain.jinja",
)  # fmt: skip


def folder_of(path: Path) -> str:
    """A processor's folder whose template holds a condition; returns the template without."""
    family = FAMILIES["qwen2_vl"]
    _, processor = family.build(family.tokenizer())
    template = TEMPLATES["qwen2_vl"]
    processor.chat_template = conditioned(template, "Good.")
    processor.save_pretrained(path)
    (path / "plain.jinja").write_text(template, encoding="utf-8")
    write_export(path, FACTS)
    return template


def prompt_of(path: Path) -> tuple[TemplateChat, str]:
    processor = AutoProcessor.from_pretrained(path)
    chat = hf_chat(config.HFModel(kind="hf", name=str(path)), processor)
    assert isinstance(chat, TemplateChat)
    encoder = DialogueEncoder(processor.tokenizer, chat)
    ids = encoder.prompt([Span("user", "Why?"), Span("condition", "Good.")], None).ids
    return chat, processor.tokenizer.decode(ids)


def test_a_model_trained_again_after_export_reads_the_condition_once(tmp_path):
    template = folder_of(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).chat_template == conditioned(template, "Good.")
    own, said = prompt_of(tmp_path)
    assert own.template == template and said.count("Good.") == 1
    (tmp_path / "dress.json").unlink()
    copied, said = prompt_of(tmp_path)
    assert copied.digest == own.digest and said.count("Good.") == 1
    again = conditioned(template_of(own, "<|image_pad|>"), "Good.")
    assert rendered(again, [ASK]).count("Good.") == 1
    write_export(tmp_path, FACTS)
    (tmp_path / "plain.jinja").unlink()
    with pytest.raises(ValueError, match=r"plain\.jinja: expected the chat template without condition.*No such file"):
        prompt_of(tmp_path)


def test_a_file_with_a_condition_is_read_without(tmp_path):
    file = tmp_path / "chat_template.jinja"
    file.write_text(conditioned(TEXT_TEMPLATES["qwen2.5"], "Good."), encoding="utf-8")
    tokenizer = text_tokenizer("qwen2.5")
    chat = language_chat(config.Language(name="x", chat=str(file)), tokenizer)
    assert chat.template == TEXT_TEMPLATES["qwen2.5"]


def test_facts_come_back_and_damaged_ones_are_named(tmp_path):
    assert read_export(tmp_path) is None
    write_export(tmp_path, FACTS)
    assert read_export(tmp_path) == FACTS
    saved = json.loads((tmp_path / "dress.json").read_text())
    assert saved["format"] == 1 and template_condition(tmp_path) == "Good."
    for change, wrong in (
        ({"format": 2}, "expected format 1, got 2"),
        ({"form": "gguf"}, "form: "),
        ({"condition": "blame"}, "condition: expected one of none, praise, got 'blame'"),
        ({"advice_condition": "blame"}, "advice_condition: expected one of"),
        ({"conditions": {"praise": "Good."}}, "conditions: expected an empty text for none"),
        ({"template": "../x.jinja"}, "template: .*got '../x.jinja'"),
        ({"max_new_tokens": "9"}, "max_new_tokens: "),
        ({"more": 1}, "more: "),
    ):
        (tmp_path / "dress.json").write_text(json.dumps(saved | change))
        with pytest.raises(ValueError, match=rf"dress\.json: {wrong}.*copy of the folder") as error:
            read_export(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "dress.json").write_text("{")
    with pytest.raises(ValueError, match=r"dress\.json: expected JSON, got a damaged file"):
        read_export(tmp_path)


# --- servers --------------------------------------------------------------------------------------


def warnings(url: str, folder: Path, caplog: Any, model: str = "loopback", condition: str = "Good.") -> list[str]:
    """What is said while a server is asked twice under a condition."""
    caplog.clear()
    responder = ServerResponder(client(url, folder, model=model))
    dialogue = Dialogue(turns=[Turn(user="Why?")])
    question = OpenTurn(Record(key="x", dialogues=[dialogue]), dialogue, condition=condition)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            (answer,) = responder.answer([question], [], Sampling(8, 1))
            assert isinstance(answer, str)
        responder.replay().answer([question], [], Sampling(8, 1))
    return [record.getMessage() for record in caplog.records]


def test_a_server_whose_template_holds_a_condition_is_warned_of_once(tmp_path, caplog):
    exported = tmp_path / "exported"
    folder_of(exported)
    behaviour = Behaviour(origins={"loopback": str(exported), "other": str(tmp_path)})
    with serving(behaviour) as url:
        (line,) = warnings(url, tmp_path, caplog)
        assert line.startswith(f"server.model=loopback: the chat template in {exported} already asks under 'Good.'")
        assert "\n" not in line
        assert len(warnings(url, tmp_path, caplog, model=str(exported))) == 1
        assert warnings(url, tmp_path, caplog, condition="") == []
        assert warnings(url, tmp_path, caplog, model="other") == []
        assert warnings(url, tmp_path, caplog, model="unknown") == []
        (exported / "dress.json").unlink()
        assert len(warnings(url, tmp_path, caplog)) == 1, "the template says it"
        (exported / "chat_template.jinja").unlink()
        write_export(exported, FACTS)
        assert len(warnings(url, tmp_path, caplog)) == 1, "the facts say it"
        write_export(exported, FACTS.model_copy(update={"condition": None}))
        assert warnings(url, tmp_path, caplog) == []


def test_the_gap_of_a_format_is_taken_off_a_servers_answer(tmp_path):
    """vLLM and transformers give what the model wrote; a run gives the answer's text."""
    exported = tmp_path / "exported"
    folder_of(exported)
    write_export(exported, FACTS.model_copy(update={"gap": " "}))
    dialogue = Dialogue(turns=[Turn(user="Why?")])
    question = OpenTurn(Record(key="x", dialogues=[dialogue]), dialogue)
    with serving(Behaviour(always="  So.")) as url:
        for model, expected in ((str(exported), " So."), ("elsewhere", "  So.")):
            responder = ServerResponder(client(url, tmp_path, model=model))
            for one in (responder, responder.replay()):
                assert one.answer([question], [], Sampling(8, 1)) == [expected]
