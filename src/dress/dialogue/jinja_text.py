"""A chat format as a Jinja chat template, with which other libraries write the text that DRESS writes.

Rendered as transformers renders it, without arguments of its own, by whoever loads the model: content may be a text or
a list of parts, and an image may be in any message.
"""

from __future__ import annotations

import re

from dress.dialogue.chat import Chat, ChatFormat
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.jinja_condition import appended
from dress.dialogue.jinja_literal import literal
from dress.dialogue.template import TemplateChat

CLOSE = "{#- dress: the template's own text begins below #}\n"
"""Behind what is put before a template; transformers drops the line break, and nothing else."""

TEXTS = """\
{%- set dress = namespace(messages=[], images=0, text='', shown=false) %}
{%- for message in messages %}
    {%- if message['content'] is string or message['content'] is none %}
        {%- set dress.messages = dress.messages + [message] %}
    {%- else %}
        {%- set dress.text = '' %}
        {%- for part in message['content'] %}
            {%- if part is string %}{% set dress.text = dress.text + part %}
            {%- elif part['type'] in ['image', 'image_url', 'input_image'] %}{% set dress.images = dress.images + 1 %}
            {%- elif part['text'] is string %}{% set dress.text = dress.text + part['text'] %}
            {%- else %}{{- raise_exception('expected parts of type text or image, got ' ~ part['type']) }}
            {%- endif %}
        {%- endfor %}
        {%- set dress.messages = dress.messages + [dict(message, content=dress.text)] %}
    {%- endif %}
{%- endfor %}
{%- if dress.images > MOST %}{{- raise_exception('expected TAKES in a dialogue, got ' ~ dress.images) }}{% endif %}
{%- set messages = dress.messages %}
"""
"""Turns lists of parts into texts, and counts images."""
SHOWN = """\
{%- if dress.images %}
    {%- set dress.messages = [] %}
    {%- for message in messages %}
        {%- if message['role'] == 'user' and not dress.shown %}
            {%- set dress.shown = true %}
            {%- set dress.messages = dress.messages + [dict(message, content=IMAGE + message['content'])] %}
        {%- else %}
            {%- set dress.messages = dress.messages + [message] %}
        {%- endif %}
    {%- endfor %}
    {%- set messages = dress.messages %}
{%- endif %}
"""
"""Puts the image before the first user's text."""
BODY = """\
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- USER_OPEN }}
        {%- if dress.images and not dress.shown %}{{- IMAGE }}{% endif %}
        {%- set dress.shown = true %}
        {{- GAP + (message['content'] or '') + USER_CLOSE }}
    {%- elif message['role'] == 'assistant' %}
        {{- ASSISTANT_OPEN }}
        {%- set dress.text = message['content'] or '' %}
        {%- if not (GAP and dress.text.startswith(GAP)) %}{% set dress.text = GAP + dress.text %}{% endif %}
        {%- generation %}{{- dress.text + ASSISTANT_END }}{% endgeneration %}
        {{- ASSISTANT_AFTER }}
    {%- else %}
        {{- raise_exception('expected EXPECTED, got a message of ' ~ message['role']) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- ASSISTANT_OPEN }}{% endif %}"""
"""The messages. An answer that begins with the format's gap (as vLLM gives it: the model wrote it) gets no other."""
SYSTEM = """\
{{- SYSTEM_OPEN }}
{%- if messages and messages[0]['role'] == 'system' %}
    {{- messages[0]['content'] or '' }}
    {%- set messages = messages[1:] %}
{%- else %}
    {{- DEFAULT }}
{%- endif %}
{{- SYSTEM_CLOSE }}
"""


def template_of(chat: Chat, image: str | None, before: str = "") -> str:
    """The template of a chat format.

    A vision-language model's own is its own text; a text model's gets the image before the first user's text. Both are
    told what DRESS tells them (no thinking, a date that stays the same) unless somebody says otherwise, and get the
    token that ends an answer where they leave it out between an answer and the next question.

    Args:
        chat: a fixed format, or a model's own template.
        image: stands for an image in the text; None: the model takes none. A vision-language model's own template has
            its own.
        before: what stands before every dialogue; see `start_of`.
    """
    start = f"{{{{- {literal(before)} }}}}\n" if before else ""
    if isinstance(chat, ChatFormat):
        return start + _of_format(chat, image)
    assert isinstance(chat, TemplateChat)
    start += _arguments(chat)
    if not chat.lists:
        start += _texts(image) + (SHOWN.replace("IMAGE", literal(image)) if image else "")
    start += _ends(chat)
    return start + CLOSE + chat.template if start else chat.template


def start_of(encoder: DialogueEncoder) -> str:
    """What an encoder puts before every dialogue, as text: the names of its tokens, mostly BOS or nothing.

    Where it is nothing, whoever loads the tokenizer must not add any either: a processor of transformers does, to a
    text that does not begin with BOS.
    """
    return "".join(map(str, encoder.tokenizer.convert_ids_to_tokens(encoder.before)))


def _of_format(chat: ChatFormat, image: str | None) -> str:
    words = {
        "USER_OPEN": chat.user_open, "USER_CLOSE": chat.user_close, "ASSISTANT_OPEN": chat.assistant_open,
        "ASSISTANT_END": chat.assistant_end, "ASSISTANT_AFTER": chat.assistant_after, "GAP": chat.gap,
        "IMAGE": image or "", "SYSTEM_OPEN": chat.system_open or "", "DEFAULT": chat.system,
        "SYSTEM_CLOSE": chat.system_close,
    }  # fmt: skip
    roles = "user and assistant" if chat.system_open is None else "a system message first, then user and assistant"
    jinja = ("" if chat.system_open is None else SYSTEM) + BODY.replace("EXPECTED", roles)
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    return _texts(image) + pattern.sub(lambda word: literal(words[word[0]]), jinja)


def _texts(image: str | None) -> str:
    most, takes = ("1", "at most one image") if image else ("0", "no image")
    return TEXTS.replace("MOST", most).replace("TAKES", takes)


def _arguments(chat: TemplateChat) -> str:
    """What the template is told, where it asks for it and nobody says otherwise."""
    return "".join(
        f"{{%- if {name} is not defined %}}{{% set {name} = {literal(value)} %}}{{% endif %}}\n"
        for name, value in chat.arguments.items()
        if re.search(rf"\b{re.escape(name)}\b", chat.template)
    )


def _ends(chat: TemplateChat) -> str:
    """The end of an answer, where the template goes on without."""
    if not chat.adds_earlier_end:
        return ""
    which = "dress_message['role'] == 'assistant'" + ("" if chat.adds_end else " and not loop.last")
    return "{%- set dress = namespace() %}\n" + appended(which, literal(chat.earlier_end))
