"""A condition in a chat template: whoever renders it asks the model under this text.

It stands before the template's own text, between two comments, and changes the messages that the rest is told; so it
fits any template, and can be read back and taken out.
"""

from __future__ import annotations

import re

from dress.dialogue.jinja_literal import STRING, literal, text_of

OPEN = "{#- dress: condition. This text stands behind the last user's; without it the template begins below. #}"
CLOSE = "{#- dress: end of condition #}"
BLOCK = re.compile(
    rf"{re.escape(OPEN)}\s*\{{%- set dress_condition = ({STRING}) %\}}.*?{re.escape(CLOSE)}(?:\r?\n)?", re.DOTALL
)

LAST_USER = """\
{%- set dress = namespace(last=-1) %}
{%- for dress_message in messages %}
    {%- if dress_message['role'] == 'user' %}{% set dress.last = loop.index0 %}{% endif %}
{%- endfor %}
"""
APPENDED = """\
{%- set dress.messages = [] %}
{%- for dress_message in messages %}
    {%- if not (WHICH) %}
        {%- set dress.messages = dress.messages + [dress_message] %}
    {%- else %}
        {%- set dress.parts = dress_message['content'] %}
        {%- if dress.parts is not defined or dress.parts is none %}{% set dress.parts = '' %}{% endif %}
        {%- if dress.parts is string %}
            {%- set dress.parts = dress.parts + SUFFIX %}
        {%- else %}
            {%- set dress.at = -1 %}{% set dress.before = dress.parts %}{% set dress.parts = [] %}
            {%- for part in dress.before %}
                {%- if part is string or part['text'] is string %}{% set dress.at = loop.index0 %}{% endif %}
            {%- endfor %}
            {%- for part in dress.before %}
                {%- if loop.index0 != dress.at %}{% set dress.parts = dress.parts + [part] %}
                {%- elif part is string %}{% set dress.parts = dress.parts + [part + SUFFIX] %}
                {%- else %}{% set dress.parts = dress.parts + [dict(part, text=part['text'] + SUFFIX)] %}
                {%- endif %}
            {%- endfor %}
            {%- if dress.at < 0 %}{% set dress.parts = dress.parts + [{'type': 'text', 'text': SUFFIX}] %}{% endif %}
        {%- endif %}
        {%- set dress.messages = dress.messages + [dict(dress_message, content=dress.parts)] %}
    {%- endif %}
{%- endfor %}
{%- set messages = dress.messages %}
"""
"""Rebuilds `messages` with a text behind the last text of some of them. To tell whether a template takes lists of
parts, vLLM and SGLang look for a loop over a message's content; here is none, so they find what the rest holds."""


def conditioned(template: str, condition: str) -> str:
    """The template with a blank and the condition behind the text of the last user message, and of no other.

    Args:
        template: any chat template that transformers renders.
        condition: as it stands behind a user text in training; empty: the template stays as it is.

    Raises:
        ValueError: it holds a condition already.
    """
    if condition_of(template) is not None:
        raise ValueError(
            f"expected a chat template without a condition, got one that asks under {condition_of(template)!r:.80}"
        )
    if not condition:
        return template
    lines = (
        OPEN, f"{{%- set dress_condition = {literal(condition)} %}}",
        LAST_USER + appended("loop.index0 == dress.last", "' ' + dress_condition").rstrip("\n"), CLOSE,
    )  # fmt: skip
    return "\n".join(lines) + "\n" + template  # transformers drops the line break behind a comment, and nothing else


def condition_of(template: str) -> str | None:
    """The condition that a template holds, by the comments around it; None where there is none."""
    block = BLOCK.search(template)
    return None if block is None else text_of(block[1])


def unconditioned(template: str) -> str:
    """The template without its condition: exactly what `conditioned` was given."""
    return BLOCK.sub("", template, count=1)


def appended(which: str, suffix: str) -> str:
    """Jinja that puts a text behind the last text of some messages, strings and lists of parts alike.

    Args:
        which: a test, in Jinja, of `dress_message` and `loop`.
        suffix: the text, as a Jinja expression.
    """
    return APPENDED.replace("WHICH", which).replace("SUFFIX", f"({suffix})")
