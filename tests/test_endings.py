"""How answers end: said by every responder, counted, shown; and what a person sees of a batch."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from conftest import picture, small_model
from rich.console import Console

from dress.base.files import write_json, write_lines
from dress.data.shards import Shards, write_shards
from dress.dialogue.chat import FORMATS
from dress.dialogue.encode import Completion, DialogueEncoder
from dress.dialogue.spans import Span, SupervisedDialogue, prompt
from dress.feedback.tables import count_endings, count_ratings, ratings_table
from dress.llm.ledger import Ledger
from dress.model.generation import generate
from dress.model.sampling import SamplingParams
from dress.model.session import Prompt
from dress.record import Dialogue, Record, RecordError, Turn
from dress.rollout.answers_file import FileResponder
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.responder import OpenTurn, Sampling
from dress.rollout.stored import StoredAnswers
from dress.run.result_rows import ratings_table as rows_of
from dress.train.show import coloured


def drawn(what) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(what)
    return out.getvalue()


def test_an_answer_says_whether_it_was_cut(tokenizer):
    model = small_model(tokenizer)
    ask = [Prompt((Span("user", "What?"),), 0)]
    [cut] = generate(model, ask, [picture(torch.zeros(3, 48, 48))], SamplingParams(1), batch_size=1)
    stop = model.encoder.stop_id
    assert cut.finish_reason == ("stop" if cut == "" else "length")
    assert model.encoder.decode([5, stop]).finish_reason == "stop"
    assert model.encoder.decode([5]).finish_reason == "length"
    said = tokenizer.encode("  two  blanks\n", add_special_tokens=False)
    assert model.encoder.decode([*said, stop]) == " two  blanks\n", "the gap is the format's, all else the answer's"


def test_a_file_and_kept_answers_say_it_too(tmp_path):
    rows = [{"key": "a", "answer": " x ", "finish_reason": "length"}, {"key": "b", "answer": "y"}]
    write_lines(tmp_path / "rows.jsonl", rows)
    asked = Dialogue(turns=[Turn(user="q")])
    questions = [OpenTurn(Record(key=key, dialogues=[asked]), asked) for key in ("a", "b")]
    call = (questions, [], Sampling(9, 9))
    given = FileResponder(tmp_path / "rows.jsonl").answer(*call)
    assert given == [" x ", "y"] and [one.finish_reason for one in given] == ["length", None]
    ledger = Ledger(tmp_path / "ledger.sqlite")
    kept = StoredAnswers(FileResponder(tmp_path / "rows.jsonl"), "rows", ledger, "weights")
    kept.answer(*call)
    again = kept.replay().answer(*call)
    assert again == [" x ", "y"] and [one.finish_reason for one in again] == ["length", None]
    ledger.close()


def collected(tmp_path):
    ends = ["length", "stop", None]
    turns = [Turn(user="q", assistant="a", provenance={} if end is None else {"finish_reason": end}) for end in ends]
    dialogues = [Dialogue(criterion="honesty", turns=[turn]) for turn in turns]
    folder = tmp_path / "stages" / "collect"
    write_shards(folder / "shards", [(Record(key="a", dialogues=dialogues), None)], per_shard=9)
    return folder, Shards(folder / "shards")


def test_the_ratings_table_shows_the_share_of_cut_answers(tmp_path):
    folder, shards = collected(tmp_path)
    ends = count_endings(shards)
    assert ends == {"honesty": {"0": {"answers": 3, "length": 1, "unknown": 1}}}
    shown = drawn(ratings_table(count_ratings(shards), ends, "collect"))
    assert "50%, 1 unknown" in shown and "stage collect" in shown
    write_json(folder / "ratings.json", count_ratings(shards))
    assert rows_of(tmp_path).rows == [("collect", "honesty", 0, 0, 0, 0, 0, 3, None, 3)], "an older run"
    write_json(folder / "endings.json", ends)
    assert rows_of(tmp_path).rows[0][-2:] == (0.5, 1)


def test_a_model_without_a_place_for_a_system_text_names_the_record(tokenizer, monkeypatch):
    monkeypatch.setitem(FORMATS, "plain", replace(FORMATS["plain"], system_open=None))
    asked = Dialogue(system="Be a pirate.", turns=[Turn(user="q")])
    assert prompt(asked, condition="c")[0] == Span("system", "Be a pirate.")
    responder = CkptResponder(small_model(tokenizer), "m")
    with pytest.raises(RecordError, match=r"rec: system: .*chat=plain"):
        responder.answer([OpenTurn(Record(key="rec"), asked)], [], Sampling(1, 1))


def test_a_batch_is_shown_as_it_is(tokenizer):
    encoder = DialogueEncoder(tokenizer, FORMATS["plain"])
    spans = (Span("user", "[bold]q[/bold] <|end|>"), Span("assistant", "a:\n\n  b\tc\x1b[2J", 1.0))
    text = coloured(encoder, encoder.supervised(SupervisedDialogue("sft", spans, image=False), "", None))
    shown = drawn(text)
    assert "[bold]q[/bold]" in shown and "a:↵\n↵\n··b→" in shown and "\\u001b[2J" in shown
    styles = [str(part.style) for part in text.spans if text.plain[part.start : part.end] == "<|end|>"]
    assert styles == ["bold green reverse"], "only the real one is a control token"
    assert Completion("x", "stop") == "x"
