"""Ids and loss weights are those of a model's own chat template, and no text gives a control token."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, SIZES, checkpoint, picture
from family_tokenizers import STOPS, TEXT_TEMPLATES, text_tokenizer
from hf_proof import png

from dress import config
from dress.dialogue.encode import IMAGE, DialogueEncoder
from dress.dialogue.image import ImageLayout
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.dialogue.template import TemplateChat
from dress.dialogue.template_check import check_template
from dress.dialogue.tokenizer import check_texts
from dress.model.chats import language_chat
from dress.model.hf import HFLVLM
from dress.record import RecordError

NAMES = [*TEXT_TEMPLATES, *FAMILIES]
WORDS = [
    "What", " is", " a red circle", ",", ".", "\n", "\n\n", "  ", " ", "12", " 7%", "é", "🙂", "\n- one", "\t",
    "x = (1)", "USER:", " system", "日本", "…", "it's",
]  # fmt: skip
OPEN, CLOSE = "\ue000", "\ue001"
"""Stand around each text while a template is rendered: no template then trims it, and its place is seen."""


@dataclass
class Kind:
    """A tokenizer with its own template, and what DRESS makes of the two."""

    name: str
    encoder: DialogueEncoder
    model: HFLVLM | None = None

    @property
    def tokenizer(self) -> Any:
        return self.encoder.tokenizer

    @property
    def chat(self) -> TemplateChat:
        assert isinstance(self.encoder.chat, TemplateChat)
        return self.encoder.chat

    def own(self, messages: list[dict], **settings: Any) -> Any:
        """What transformers makes of messages."""
        if self.model is not None:
            return self.model.processor.apply_chat_template(messages, **settings)
        settings |= {"enable_thinking": False, "date_string": "26 Jul 2024"}
        return self.tokenizer.apply_chat_template(messages, **settings)

    def ids(self, text: str, image: bool) -> tuple[str, list[int], list[tuple[int, int]]]:
        """The text with its image's tokens, their ids and places, as transformers makes them of a rendered text."""
        tokenizer, bos = self.tokenizer, self.tokenizer.bos_token
        leading = self.model is not None and not (bos and text.startswith(bos))
        if image:
            (offsets,) = self.model.processor(
                text=[text], images=[picture(*SIZES[0])], return_text_replacement_offsets=True
            )["text_replacement_offsets"]
            for one in offsets:
                text = text.replace(self.chat.placeholder, one["replacement"], 1)
        out = tokenizer(text, add_special_tokens=leading, return_offsets_mapping=True)
        number = self.model.network.config.image_token_id if self.model else None
        return text, [IMAGE if i == number else i for i in out["input_ids"]], out["offset_mapping"]


FOLDER = Path("unset")


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory):
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("families")


@cache
def kind(name: str) -> Kind:
    if name in TEXT_TEMPLATES:
        tokenizer = text_tokenizer(name)
        encoder, model = DialogueEncoder(tokenizer, language_chat(config.Language(name=name), tokenizer)), None
    else:
        model = HFLVLM(config.HFModel(kind="hf", name=str(checkpoint(name, FOLDER))))
        encoder = model.encoder
    encoder.apart = check_template(encoder, encoder.chat)
    check_texts(encoder)
    return Kind(name, encoder, model)


def some_text(draw: random.Random) -> str:
    return "".join(draw.choices(WORDS, k=draw.choice([0, 1, 2, 4, 8])))


def some_dialogue(draw: random.Random, system: bool) -> list[Span]:
    """Answers have weights of their own, to be found by."""
    spans = [Span("system", some_text(draw))] if system and draw.random() < 0.3 else []
    for turn in range(draw.choice([1, 1, 2, 3])):
        spans.append(Span("user", some_text(draw)))
        if draw.random() < 0.3:
            spans.append(Span("condition", some_text(draw)))
        answer = some_text(draw)
        spans.append(Span("assistant", answer, 2.0**turn, cut=bool(answer) and draw.random() < 0.2))
    return spans


def messages_of(one: Kind, spans: list[Span], image: bool, marked: bool) -> list[dict]:
    """A dialogue as messages, with the stop tokens that the template does not write."""
    messages: list[dict] = []
    for number, span in enumerate(spans):
        text = f"{OPEN}{span.text}{CLOSE}" if marked else span.text
        if span.role == "condition":
            messages[-1]["content"][-1]["text"] += f" {text}"
            continue
        if span.role == "assistant" and one.chat.adds_end and (one.name == "llava" or number + 1 == len(spans)):
            text += one.chat.end
        first = image and span.role == "user" and not any(m["role"] == "user" for m in messages)
        shown = [{"type": "image", "image": picture(*SIZES[0])}] if first else []
        messages.append({"role": span.role, "content": [*shown, {"type": "text", "text": text}]})
    if one.model is None:
        messages = [m | {"content": m["content"][-1]["text"]} for m in messages]
    return messages


def whole_of(one: Kind, spans: list[Span], image: bool) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text with every text as it is, the image's tokens in it, and where the texts stand."""
    rendered = one.own(messages_of(one, spans, image, marked=True), tokenize=False)
    rendered = one.ids(rendered, image)[0]
    places, plain = [], ""
    for char in rendered:
        if char == OPEN:
            places.append((len(plain), -1))
        elif char == CLOSE:
            places[-1] = (places[-1][0], len(plain))
        else:
            plain += char
    return plain, places


def check_dialogue(one: Kind, spans: list[Span], image: bool) -> bool:
    """Compare a dialogue's ids and weights with the template's; returns whether prompt and answer were apart."""
    encoder, chat = one.encoder, one.chat
    layout = one.model.reader()(png(SIZES[0]), "").layout if image else None
    encoded = encoder.supervised(SupervisedDialogue("sft", tuple(spans), image), "", layout)
    ids = encoded.ids.tolist()
    prompt = encoder.prompt(spans[:-1], layout).ids.tolist()
    assert ids[: len(prompt)] == prompt

    text, places = whole_of(one, spans, image)
    written = []  # where a model writes, and its weight; a cut answer's stop token has none
    for span, (start, stop) in zip(spans, places, strict=True):
        if span.role == "assistant":
            ended = stop if span.cut else text.index(chat.stops[span is not spans[-1]], stop)
            ended += 0 if span.cut else len(chat.stops[span is not spans[-1]])
            assert text[:start].endswith(chat.gap)
            written.append((start - len(chat.gap), ended, span.weight))
            answer = encoder.decode(encoded.ids[encoded.weights == span.weight])
            assert answer == span.text and (answer.finish_reason == "stop") == (not span.cut)
    if spans[-1].cut:
        text = text[: places[-1][1]]
    own, offsets = one.ids(text, False)[1:]
    if any(begin < start < end for start, _, _ in written for begin, end in offsets):
        return True
    if one.name == "phi3" and any(span.text[:1].strip() == "" for span in spans):
        return False  # its own control tokens swallow the white space of texts; here it stays
    assert ids == own
    for (begin, end), weight in zip(offsets, encoded.weights, strict=True):
        expected = [value for start, stop, value in written if start <= begin < end <= stop]
        assert weight == (expected[0] if expected else 0.0), (text[begin:end], text)
    if all(s.text == s.text.strip() and s.text and not s.cut for s in spans):
        mine = [i for i in ids if i != IMAGE]
        tokens = one.own(messages_of(one, spans, image, marked=False), tokenize=True, return_dict=True)["input_ids"]
        number = one.model.network.config.image_token_id if image else None
        assert mine == [i for i in np.array(tokens).flatten().tolist() if i != number], "transformers' own ids"
    return False


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_weights_are_those_of_the_once_rendered_whole(name):
    one, draw = kind(name), random.Random(name)
    apart = 0
    for number in range(30):
        spans = some_dialogue(draw, one.chat.takes_system)
        apart += check_dialogue(one, spans, image=one.model is not None and number % 3 == 0)
    assert apart < 30 or name == "llava_onevision"
    assert not apart or one.encoder.apart
    assert one.encoder.stop_id == one.tokenizer.convert_tokens_to_ids(STOPS.get(name, one.tokenizer.eos_token)) or (
        name in FAMILIES and one.chat.end in FAMILIES[name].stops
    )


def controls(one: Kind, spans: list[Span], image: bool) -> tuple[list[int], str]:
    """Control tokens and image tokens of a dialogue in order, and all that it says."""
    layout = one.model.reader()(png(SIZES[0]), "").layout if image else None
    ids = one.encoder.prompt(spans, layout).ids.tolist()
    every = one.encoder.control_ids | {IMAGE}
    return [i for i in ids if i in every], one.encoder._decoded([i for i in ids if i != IMAGE])


@pytest.mark.parametrize("name", NAMES)
def test_no_word_of_a_text_becomes_a_control_token(name):
    one = kind(name)
    names = [token.content for token in one.tokenizer.added_tokens_decoder.values() if token.content.strip()]
    image = one.model is not None
    if image:
        names += [one.chat.placeholder, one.tokenizer.convert_ids_to_tokens(one.model.network.config.image_token_id)]
    assert {one.tokenizer.convert_tokens_to_ids(text) for text in names} <= one.encoder.control_ids

    def talk(text: str) -> list[Span]:
        system = [Span("system", text)] if one.chat.takes_system else []
        return [*system, Span("user", text), Span("condition", text), Span("assistant", text, 1.0), Span("user", text)]

    usual = controls(one, talk("x"), image)[0]
    joined = "".join(names)
    for text in (*names, joined, *(f"{a}{a} {a}\n{a} b" for a in names[-8:])):
        found, said = controls(one, talk(text), image)
        assert found == usual, text
        assert said.count(text) >= len(talk(text)), "each text is said as it stands"
        dialogue = SupervisedDialogue("sft", tuple(talk(text)[:-1]), image=False)
        encoded = one.encoder.supervised(dialogue, "", None)
        answer = encoded.ids[encoded.weights > 0]
        assert one.encoder.decode(answer) == text and not {*answer[:-1].tolist()} & one.encoder.control_ids


@pytest.mark.parametrize("name", TEXT_TEMPLATES)
def test_in_a_template_of_texts_the_image_stands_before_the_first_question(name):
    encoder, system = kind(name).encoder, [Span("system", "Rhyme.")] if kind(name).chat.takes_system else []
    spans = [*system, Span("user", "Why?"), Span("assistant", "So."), Span("user", "And?")]
    ids = encoder.prompt(spans, ImageLayout((3,))).ids
    (places,) = np.nonzero(ids == IMAGE)
    assert len(places) == 3 and places[2] == places[0] + 2
    before, behind = encoder._decoded(ids[: places[0]].tolist()), encoder._decoded(ids[places[2] + 1 :].tolist())
    assert behind.lstrip().startswith("Why?") and behind.count("And?") == 1
    whole = encoder._decoded(encoder.prompt(spans, None).ids.tolist())
    assert "".join((before + behind).split()) == "".join(whole.split())


# --- what templates may write ---------------------------------------------------------------------

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def made(template: str, tokenizer: str = "qwen2.5", **settings: Any) -> Kind:
    """A text model's tokenizer with another template, checked as at load."""
    own = text_tokenizer(tokenizer)
    chat = TemplateChat("x.jinja", own, template, ends=[own.eos_token], **settings)
    encoder = DialogueEncoder(own, chat)
    encoder.apart = check_template(encoder, chat)
    return Kind(tokenizer, encoder)


SPANS = [Span("user", "Why?"), Span("assistant", "So.", 1.0), Span("user", "And?"), Span("assistant", " It is. ", 2.0)]


def learned(one: Kind, spans: list[Span] = SPANS) -> list[str]:
    """The tokens that have a loss weight."""
    encoded = one.encoder.supervised(SupervisedDialogue("sft", tuple(spans), image=False), "", None)
    return one.tokenizer.convert_ids_to_tokens(encoded.ids[encoded.weights > 0].tolist())


def generated(text: str) -> str:
    return f"{{% generation %}}{text}{{% endgeneration %}}"


@pytest.mark.parametrize(
    ("marked", "wrong"),
    [
        (
            "{% if m.role == 'assistant' %}" + generated("{{ m.content }}") + "{% else %}{{ m.content }}{% endif %}",
            None,
        ),
        (generated("{{ m.content }}"), "a user's text outside of {% generation %}, got 'W' of .* inside"),
        (
            "{% if m.role == 'user' %}" + generated("{{ m.content }}") + "{% else %}{{ m.content }}{% endif %}",
            "a user's text outside of {% generation %}, got 'W' of .* inside",
        ),
        (
            "{% if m.role == 'assistant' %}{{ m.content[:3] }}" + generated("{{ m.content[3:] }}")
            + "{% else %}{{ m.content }}{% endif %}",
            "an answer inside of {% generation %}, got 'A' of .* outside. Mend",
        ),
    ],
)  # fmt: skip
def test_what_a_template_marks_as_generated_is_what_is_learned(marked, wrong):
    template = CHATML.replace("{{ m.content }}", marked) + ASK
    if wrong is None:
        made(template)
        with_opening = generated("<|im_start|>assistant\n{{ m.content }}<|im_end|>\n")
        made(  # SmolLM3's way: control text around an answer may be marked as well
            "{% for m in messages %}{% if m.role == 'assistant' %}" + with_opening + "{% else %}"
            "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + ASK
        )
        return
    with pytest.raises(ValueError, match=r"model\.language\.chat=x\.jinja: expected " + wrong):
        made(template)


def test_a_blank_before_the_stop_token_is_written_by_the_model_and_no_part_of_the_answer():
    """As Llama 2 has it."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    one = made(template, "mistral")
    assert (one.chat.gap, one.chat.tail, one.chat.takes_system) == (" ", " ", False)
    assert learned(one, SPANS[:2])[-2:] == ["▁", "</s>"]
    with pytest.raises(RecordError, match=r"chat=x\.jinja: .*system, user.*a text of the system 0 times"):
        one.encoder.prompt([Span("system", "Rhyme."), SPANS[0]], None)


def test_thoughts_are_prompted_or_written_as_the_template_is_told():
    off = made(TEXT_TEMPLATES["qwen3"], "qwen3")
    on = made(TEXT_TEMPLATES["qwen3"], "qwen3", arguments={"enable_thinking": True})
    assert off.chat.opening.endswith("</think>\n\n") and off.chat.gap == "" and off.chat.digest != on.chat.digest
    assert on.chat.opening.endswith("assistant\n") and on.chat.gap == "<think>\n\n</think>\n\n"
    assert not {"<think>", "</think>"} & {*learned(off)}
    assert not check_dialogue(off, SPANS, image=False)
    assert not check_dialogue(on, SPANS[:2], image=False)
    tokens = learned(on)
    thoughts = tokens[tokens.index("<think>") : tokens.index("</think>")]
    assert len(thoughts) > 1 and on.tokenizer.convert_tokens_to_string(thoughts) == "<think>\n\n", "all is learned"
    counts = [one.tokenizer.decode(one.encoder.prompt(SPANS[:3], None).ids).count("<think>") for one in (off, on)]
    assert counts == [1, 0], "none in earlier turns"


def test_a_date_stays_the_same_unless_it_is_told():
    tokenizer = text_tokenizer("llama3")
    usual, other = (
        language_chat(config.Language(name="x", template_arguments=more), tokenizer)
        for more in ({}, {"date_string": "1 Apr 2030"})
    )
    dates = [[one for one in ("26 Jul 2024", "1 Apr 2030") if one in chat.control[0]] for chat in (usual, other)]
    assert dates == [["26 Jul 2024"], ["1 Apr 2030"]] and usual.digest != other.digest


@pytest.mark.parametrize("section", [config.Language(name="x"), config.HFModel(kind="hf", name="x")])
def test_settings_without_arguments_are_written_as_before(section):
    assert "template_arguments" not in section.model_dump()
    told = section.model_copy(update={"template_arguments": {"enable_thinking": True}})
    assert type(section).model_validate(told.model_dump()).template_arguments == {"enable_thinking": True}


def test_a_model_without_a_place_for_a_system_text_names_it():
    one = kind("gemma")
    assert not one.chat.takes_system
    spans = (Span("system", "Be a pirate."), *SPANS)
    with pytest.raises(RecordError, match=r"row 3: .*chat=auto: .*system, user.*System role not supported.*null"):
        one.encoder.supervised(SupervisedDialogue("sft", spans), "row 3", None)


def test_an_answer_that_another_message_ends_stops_generation_too():
    """A template whose next message is the only sign of an answer's end, as GLM's."""
    one = made("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}" + ASK)
    assert one.chat.stops == ("<|im_end|>", "<|im_start|>") and one.chat.adds_end
    assert {one.tokenizer.convert_tokens_to_ids(text) for text in one.chat.stops} == one.encoder.stops
    assert learned(one)[-1] == "<|im_end|>" and "<|im_start|>" in learned(one)
