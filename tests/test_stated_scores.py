# ruff: noqa: E501
"""Scores from the text of reviews: read in every form that states both, and never a wrong one."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dress.evaluation.stated_scores import stated_scores


@pytest.mark.parametrize(
    "review",
    [
        "8 7", "8, 7", "8; 7.", "8 and 7", "(8, 7)", "[8, 7]", "8/10 7/10", "8/10 and 7/10\nWell.", "8 / 10, 7 / 10",
        "8 out of 10, 7 out of 10", "**8 7**\nbold", "**8** **7**", "`8 7`", "# 8 7", "> 8 7", "- 8 7", "***8 7***",
        "```\n8 7\n```", "```text\n8 7\n```\nBoth.", "Scores: 7 8".replace("7 8", "8 7"), "Score: 8, 7", "**Scores:** 8 7",
        "Final scores: (8, 7)", "The scores are 8 and 7.", "My overall ratings: 8/10, 7/10", "Both are fine.\nFinal: 8 7",
        "8\n7\nsplit lines", "8.0\n7\n", "８ ７\nfull width", "8.0 7.0", "10 9\nx".replace("10 9", "8 7"),
        "**Overall** Assistant 1: 8, Assistant 2: 7\n...", "Assistant 1: 8/10\nAssistant 2: 7/10\nbecause",
        "Assistant 1 = 8; Assistant 2 = 7", "Assistant 1 - 8\nAssistant 2 - 7", "ASSISTANT 1: 8\nASSISTANT 2: 7",
        "Assistant 2: 7, Assistant 1: 8", "Assistant 1: 8 and Assistant 2: 7", "Assistant #1: 8, Assistant #2: 7",
        "Assistant 1's score: 8\nAssistant 2's score: 7", "Score for Assistant 1: 8\nScore for Assistant 2: 7",
        "The score of Assistant 1 is 8. The score of Assistant 2 is 7.", "Assistant One: 8\nAssistant Two: 7",
        "I rate Assistant 1 8/10 and Assistant 2 7/10.", "Assistant 1 gets 8/10, while Assistant 2 gets 7/10.",
        "Assistant 1 gets a score of 8. Assistant 2 gets a score of 7. Final: 8 7",
        "I would give Assistant 1 a score of 8, and Assistant 2 a score of 7.", "Answer 1: 8/10\nAnswer 2: 7/10",
        "The first answer deserves 8 out of 10, the second 7 out of 10.", "The first gets 8/10. The second gets 7/10.",
        "| Assistant 1 | 8 |\n| Assistant 2 | 7 |", "Assistant 1:\nScore: 8\n\nAssistant 2:\nScore: 7",
        "### Assistant 1\n**Overall score:** 8/10\n### Assistant 2\n**Overall score:** 7/10\n",
        "<think>Assistant 1: 3, Assistant 2: 4?</think>\n8 7\nfine", "Assistant 1: 3?\n</think>\n8 7",
        "1. Helpfulness: both are good.\n2. Accuracy: so so.\nAssistant 1: 8\nAssistant 2: 7",
    ],
)  # fmt: skip
def test_two_scores_are_read_in_every_form_that_states_both(review: str) -> None:
    read = stated_scores(review)
    assert read[:2] == (8, 7), read


@pytest.mark.parametrize(
    "review",
    [
        "", "8", "9 9 9\nthree", "-1 -1\nfailed", "8 -7", "8-7", "8 - 7", "8 x 7", "5 * 8", "5 *8", "8/7", "8:7",
        "In 2017 there were 3 cats. 7 8", "8/100 7/100", "80% 70%", "4/5 3/5", "8 of 9", "7,5 8,5", "1.2.3 4",
        "1. Helpfulness: good. 2. Accuracy: good.", "1. 2.", "1\n2\n3\nsteps", "1.\n2.\n3.", "8\n", "8 7 both are good",
        "Assistant 1: 1. Helpfulness: good 2. Relevance: good\nAssistant 2: 1. Helpfulness: bad 2. Relevance: bad",
        "Assistant 1: helpfulness 8/10, accuracy 7/10\nAssistant 2: helpfulness 6/10, accuracy 9/10",
        "Assistant 1: 8-9\nAssistant 2: 7-8", "Assistant 1: 8 or 9\nAssistant 2: 7", "Assistant 1: 8 points of 20\n",
        "Assistant 1: 8 units\nAssistant 2: 7 units", "Assistant 1: 3, 4 and 5\nAssistant 2: 6, 7 and 8",
        "Answer 1: 8\nAnswer 2: 7", "The first 3 steps are right, the second 4 are not.", "Assistant 1: 8, Assistant 2: -",
        "8/10 for Assistant 1 and 7/10 for accuracy", "Assistant 1 and 8/10 for Assistant 2", "Assistant 1: 8",
        "Assistants 1 and 2: 8", "Assistant 1-2: 8\nAssistant 2-1: 7", "Scores range from 1 to 10.", "Assistant 1: 8/9, Assistant 2: 7/9",
        "scores on a scale (1, 10)", "The first 3 out of 10 steps, the second 4 out of 10 steps", "<think>8 7", "x² 8 7²",
        "Step 1: 3 4\nStep 2: 5 6", "Assistant 1: 8.5.1\nAssistant 2: 7", "Assistant 1: 80%\nAssistant 2: 70%",
    ],
)  # fmt: skip
def test_numbers_that_are_no_two_scores_are_none(review: str) -> None:
    assert stated_scores(review) == "no scores in the review"


def test_what_contradicts_itself_or_leaves_the_scale_is_no_score() -> None:
    several, beyond = "several scores in the review", "score is not from 1 to 10"
    assert stated_scores("Assistant 1: 8\nAssistant 2: 7\nFinal: 8 6") == several
    assert stated_scores("Assistant 1: 8, Assistant 2: 7\nScores: (7, 8)") == several
    for review in (
        "0 10\nbad",
        "11 9\nodd scale",
        "Scores: 85 90",
        "Assistant 1: 8\nAssistant 2: 11",
        "9" * 400 + " 8",
    ):
        assert stated_scores(review) == beyond


SCORE = st.integers(1, 10) | st.integers(10, 99).map(lambda n: n / 10)


@given(one=SCORE, two=SCORE, form=st.sampled_from([
    "{0} {1}", "**{0} {1}**", "Scores: {0}, {1}", "Assistant 1: {0}, Assistant 2: {1}", "Assistant 2: {1}\nAssistant 1: {0}",
    "Assistant 1: {0}/10\nAssistant 2: {1}/10", "The first gets {0} out of 10, the second {1} out of 10.",
    "I give Assistant 1 a score of {0} and Assistant 2 a score of {1}.",
]), prose=st.text(st.characters(exclude_categories=["N", "Cs"], exclude_characters="<>`~*_|")))  # fmt: skip
def test_stated_scores_come_back_whatever_stands_around_them(one: float, two: float, form: str, prose: str) -> None:
    assert stated_scores(f"{form.format(one, two)}\n\n{prose}")[:2] == (one, two)


PIECES = st.sampled_from([*"12 8.9,:/-\n*_`()10|", "Assistant 1", "Assistant 2", "score", " of ", "the first "])


@given(st.lists(PIECES).map("".join))
def test_what_is_read_stands_in_the_review(review: str) -> None:
    read = stated_scores(review)
    if not isinstance(read, str):
        stated = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", review)}
        assert {read[0], read[1]} <= stated and all(1 <= score <= 10 for score in read[:2])


def test_a_long_review_is_read_in_time() -> None:
    for review in (
        "*" * 50_000,
        "* a " * 20_000,
        "score " * 20_000,
        "Assistant 1 is " * 9_000,
        "<think>" * 9_000,
        "8 " * 20_000,
    ):
        began = time.monotonic()
        assert stated_scores(review) == "no scores in the review"
        assert time.monotonic() - began < 5
