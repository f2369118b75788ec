"""The journal of feedback: a line is there whole, and once, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from feedback_events import A, said, shown
from test_command_line import environment

from dress.feedback.journal import FeedbackJournal, read_events


def test_a_line_is_kept_once_and_a_torn_one_is_put_aside(tmp_path: Path) -> None:
    journal, first = FeedbackJournal(tmp_path), shown(A)
    assert (journal.append(first), journal.append(first), journal.append(said(A, rating=2))) == (True, False, True)
    journal.close()
    with journal.file.open("ab") as file:
        file.write(b'{"id":"12345678","who":"Ann","kind":"feed')  # a process that was killed within a line
    assert len(list(read_events(journal.file))) == 2
    again = FeedbackJournal(tmp_path)
    assert again.append(said(A, rating=3)) and not again.append(first)
    again.close()
    assert [getattr(event, "rating", None) for event in read_events(journal.file)] == [None, 2, 3]
    assert (tmp_path / "torn.txt").read_bytes() == b'{"id":"12345678","who":"Ann","kind":"feed\n'


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    journal = FeedbackJournal(tmp_path)
    journal.append(shown(A))
    journal.close()
    with journal.file.open("ab") as file:
        file.write(b'{"id":"12345678","who":"Ann","kind":"feedback","answer":"x","criterion":"honesty"}\n')
    with pytest.raises(ValueError, match=r"feedback\.jsonl:2: answer: "):
        FeedbackJournal(tmp_path)


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {src!r})
from dress.feedback.journal import FeedbackJournal, JournalFull, FeedbackEvent
def said(number, **fields):
    return FeedbackEvent(id=f"number-{{number}}", who="Ann", answer="a" * 64, criterion="honesty", **fields)
journal = FeedbackJournal(Path({folder!r}))
journal.append(said(1, rating=2))
size = journal.file.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, most))
try:
    journal.append(said(2, critique="No room for this."))
except JournalFull as error:
    print(error)
assert journal.file.stat().st_size == size and len(journal.events) == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
assert journal.append(said(2, rating=1))
"""


def test_without_room_nothing_is_half_written(tmp_path: Path) -> None:
    code = FULL.format(src=str(ROOT / "src"), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "expected room for" in done.stdout and len(list(read_events(tmp_path / "feedback.jsonl"))) == 2
