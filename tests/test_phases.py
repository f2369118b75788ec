"""Phases: what of a record is trained on, under each setting."""

from __future__ import annotations

from itertools import zip_longest

import pytest

from dress import config
from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.image import ImageLayout
from dress.dialogue.spans import SupervisedDialogue, prompt
from dress.phases import PHASES, supervised
from dress.phases.critique import praise
from dress.record import Dialogue, Feedback, ImageAnnotation, ImageRef, Record, Turn


def turn(user: str, assistant: str | None, rating: int | None = None, refinement: str | None = None) -> Turn:
    feedback = [Feedback(rating=rating, critique=f"c{rating}", refinement=refinement)] if rating else []
    return Turn(user=user, assistant=assistant, feedback=feedback)


def record(*dialogues: Dialogue) -> Record:
    return Record(
        key="a",
        image=ImageRef(id="a.png"),
        annotation=ImageAnnotation(captions=["cap", " "]),
        dialogues=list(dialogues),
    )


CHAIN = Dialogue(turns=[turn("q", "a0", 2), turn("r0", "a1", 4), turn("r1", "a2", 3)], reference="ref")


def texts_of(dialogues: list[SupervisedDialogue]) -> list[str]:
    """`user|assistant*`: a star marks what is learned."""
    return ["|".join(s.text + ("*" if s.weight else "") for s in d.spans) for d in dialogues]


def run(phase: str, phases: config.Phases, *dialogues: Dialogue, **section: object) -> list[str]:
    name = {"rating": "critique", "best_of": "sft"}.get(phase, phase)
    if section:
        phases = phases.model_copy(update={name: getattr(phases, name).model_copy(update=section)})
    return texts_of(PHASES[phase](record(*dialogues), phases))


def test_align_learns_captions(phases):
    assert run("align", phases) == ["Write a caption.|cap*"]


def test_sft_learns_every_answer_up_to_the_first_missing_one(phases):
    open_end = Dialogue(turns=[turn("q", "a"), turn("q2", None)])
    assert run("sft", phases, CHAIN, open_end, Dialogue(turns=[turn("q", None)])) == ["q|a0*|r0|a1*|r1|a2*", "q|a*"]


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        ("critique", ["Feedback: c2", "Feedback: c4", "Feedback: c3"]),
        ("rating", ["Rating: 2.", "Rating: 4.", "Rating: 3."]),
        ("both", ["Rating: 2. Feedback: c2", "Rating: 4. Feedback: c4", "Rating: 3. Feedback: c3"]),
    ],
)
def test_critique_conditions_good_and_bad_answers_on_their_feedback(phases, form, texts):
    expected = [f"q|{text}|a{i}*" for i, text in enumerate(texts)]
    assert run("critique", phases, CHAIN, condition=form) == expected
    settings = phases.model_copy(update={"critique": config.Critique(condition=form)})
    assert praise(form, settings).startswith(texts[1][:6])


def test_critique_with_history_keeps_the_turns_before_unsupervised(phases):
    assert run("critique", phases, CHAIN, history=True)[1] == "q|a0|r0|Feedback: c4|a1*"


def test_answers_without_feedback_teach_no_condition(phases):
    assert run("critique", phases, Dialogue(turns=[turn("q", "a")])) == []


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("refined_only", "q|a0|r0|a1*"),
        ("last_only", "q|a0|r0|a1*"),
        ("all", "q|a0*|r0|a1*"),
        ("rating_at_least", "q|a0|r0|a1*"),
    ],
)
def test_refinement_learns_the_better_answer(phases, loss, expected):
    chain = CHAIN.model_copy(update={"turns": CHAIN.turns[:2]})
    assert run("refinement", phases, chain, loss=loss, anchor=0) == [expected]


def test_refinement_learns_to_keep_a_top_answer_and_every_rise(phases):
    keeps = Dialogue(turns=[turn("q", "a0", 4), turn("r", "a1", 4)])
    rises = Dialogue(turns=[turn("q", "a0", 1), turn("r", "a1", 2), turn("r", "a2", 4)])
    assert run("refinement", phases, keeps, rises, anchor=0) == ["q|a0|r|a1*", "q|a0|r|a1*|r|a2*"]
    assert run("refinement", phases, rises, loss="last_only", anchor=0) == ["q|a0|r|a1|r|a2*"]


def test_refinement_learns_a_top_answer_again_where_it_was_lost(phases):
    lost = Dialogue(turns=[turn("q", "a0", 4), turn("r", "a1", 2)])
    assert run("refinement", phases, lost, anchor=0) == ["q|a0|r|a0*"]
    assert run("refinement", phases, CHAIN, anchor=0) == ["q|a0|r0|a1|r1|a1*", "q|a0|r0|a1*"]


def test_refinement_learns_a_top_answer_again_where_nobody_answered_its_advice(phases):
    rated = Dialogue(turns=[turn("q", "a0", 4, refinement="r")])
    questioned = Dialogue(turns=[turn("q", "a0", 4), turn("r", None)])
    unrated = Dialogue(turns=[turn("q", "a0", 4), turn("r", "a1")])
    below = Dialogue(turns=[turn("q", "a0", 3, refinement="r")])
    assert run("refinement", phases, rated, questioned, unrated, below, anchor=0) == ["q|a0|r|a0*", "q|a0|r|a0*"]


def test_refinement_learns_no_second_answer_where_nothing_gets_better(phases):
    same = Dialogue(turns=[turn("q", "a0", 2), turn("r", "a1", 2)])
    assert run("refinement", phases, same, Dialogue(turns=[turn("q", "a0", 2)]), anchor=0) == []


def test_refinement_holds_the_first_answers_of_all_dialogues_of_a_rated_record(phases):
    same = Dialogue(turns=[turn("q", "a0", 2), turn("r", "a1", 2)])
    unrated = Dialogue(turns=[turn("q", "a0")])
    assert run("refinement", phases, same, unrated, anchor=0.5) == ["q|a0*", "q|a0*"]
    assert run("refinement", phases, unrated, anchor=0.5) == []  # nobody gave feedback: no answers of the model
    both = run("refinement", phases, same, anchor=0.5, anchor_conditions=["none", "praise"])
    assert both == ["q|a0*", f"q|{praise('critique', phases)}|a0*"]
    (anchor,) = PHASES["refinement"](record(same), phases)
    assert [span.weight for span in anchor.spans] == [0.0, phases.refinement.anchor]


def test_refinement_to_the_reference_replaces_the_last_answer(phases):
    assert run("refinement", phases, CHAIN, target="reference", anchor=0)[-1] == "q|a0|r0|a1*|r1|ref*"


def test_baselines(phases):
    assert run("rating", phases, CHAIN)[1] == "q|Rating: 4.|a1*"
    assert run("best_of", phases, CHAIN) == ["q|a1*"]


def test_no_reference_is_a_target_unless_asked(phases):
    """In dress_full no text of the oracle is ever learned."""
    learned = {
        span.text
        for d in supervised(record(CHAIN), {"critique": 0.5, "refinement": 0.5}, phases)
        for span in d.spans
        if span.weight
    }
    assert learned == {"a0", "a1", "a2"}


def test_the_mixture_scales_the_weights(phases):
    weights = {
        d.phase: max(s.weight for s in d.spans)
        for d in supervised(record(CHAIN), {"critique": 0.25, "refinement": 0.5}, phases)
    }
    assert weights == {"critique": 0.25, "refinement": 0.5}


def test_every_phase_keeps_system_text_white_space_and_the_cut(phases):
    """What a record says goes into every dialogue that a phase makes of it."""
    rated = Feedback(rating=4, critique=" Good.\n", refinement="Again.")
    cut = Turn(user="q\n  x", assistant=" a\n", feedback=[rated], provenance={"finish_reason": "length"})
    dialogue = Dialogue(system="Be brief.", turns=[cut, cut.model_copy(update={"user": "Again."})])
    for name in ("sft", "critique", "refinement", "rating", "best_of"):
        dialogues_there = PHASES[name](record(dialogue), phases)
        assert dialogues_there
        for one in dialogues_there:
            system, questioned, *_ = one.spans
            assert (system.role, system.text, questioned.text) == (
                "system",
                "Be brief.",
                "q\n  x",
            ) or questioned.text == "Again."
            answers = [span for span in one.spans if span.role == "assistant"]
            assert answers and all(span.cut and span.text == " a\n" for span in answers)
            conditions = {span.text for span in one.spans if span.role == "condition"}
            assert conditions <= {"Feedback:  Good.\n", "Rating: 4."}
    captions = Record(key="a", image=ImageRef(id="a"), annotation=ImageAnnotation(captions=[" two\nlines "]))
    assert texts_of(PHASES["align"](captions, phases)) == ["Write a caption.| two\nlines *"]


def test_an_end_of_which_nothing_is_known_is_learned_as_before(phases):
    [one] = PHASES["sft"](record(Dialogue(turns=[turn("q", "a")])), phases)
    assert not one.spans[1].cut


def test_older_shards_keep_their_system_text():
    old = Dialogue.model_validate({"turns": [{"user": "q"}], "extra": {"system": "Be brief.", "id": "1"}})
    assert old.system == "Be brief." and old.extra == {"id": "1"}
    assert Dialogue.model_validate_json(old.model_dump_json()) == old


@pytest.mark.parametrize("phase", ["sft", "critique", "rating", "refinement", "best_of"])
def test_an_answer_is_trained_after_the_very_tokens_that_inference_gives(phase, phases, tokenizer):
    history = phases.critique.model_copy(update={"history": True})
    anchors = phases.refinement.model_copy(update={"anchor_conditions": ["none", "praise"]})
    settings = phases.model_copy(update={"critique": history, "refinement": anchors})
    encoder, image = DialogueEncoder(tokenizer, FORMATS["plain"]), ImageLayout((3,))
    dialogues = PHASES[phase](record(CHAIN.model_copy(update={"system": "s"})), settings)
    assert dialogues
    for one in dialogues:
        *before, _ = one.spans
        condition = before[-1].text if before[-1].role == "condition" else ""
        users, answers = ([span.text for span in before if span.role == role] for role in ("user", "assistant"))
        turns = [Turn(user=user, assistant=reply) for user, reply in zip_longest(users, answers)]
        ids = encoder.prompt(prompt(Dialogue(system="s", turns=turns), condition=condition), image).ids.tolist()
        assert encoder.supervised(one, "", image).ids[: len(ids)].tolist() == ids
