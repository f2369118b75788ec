"""The page in a real browser (Debian's chromium): from a picture to shards to a training step, wide and narrow."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, composed, png
from rich.console import Console
from streaming_server import streaming
from test_command_line import environment

from dress.data.shards import Shards, write_shards
from dress.run.training import train
from dress.worlds.shapes import generate as shapes

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
HTML = "<b>🙂</b> <img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> & \n two  blanks."


class Server:
    """`chat.py`, a process of its own."""

    def __init__(self, out: Path, *words: str) -> None:
        command = [sys.executable, str(ROOT / "src" / "chat.py"), f"out={out}", "port=0", *words]
        self.process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")
        self.url = next(found[0] for line in lines if (found := re.findall(r"http://127\S+key=\S+", line)))

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 130


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-dev-shm-usage"])
        yield one
        one.close()


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """A server whose answers hold HTML."""
    with streaming(HTML) as url:
        yield url


def opened(browser: Any, url: str, viewport: dict[str, int], who: str = "Ann") -> Any:
    page = browser.new_context(viewport=viewport).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: None if "127.0.0.1" in request.url else page.problems.append(request.url))
    page.goto(url)
    page.fill("#who", who)
    page.locator("#who").blur()
    return page


def ask(page: Any, question: str, number: int = 1) -> Any:
    page.fill("#question", question)
    page.click("#send")
    answer = page.locator(".answer").nth(number - 1)
    answer.locator(".feedback").wait_for(timeout=20_000)
    return answer


def saved(page: Any) -> None:
    page.wait_for_function("() => document.getElementById('saved').textContent.startsWith('all saved')", timeout=15_000)


def at(page: Any, place: str) -> None:
    page.wait_for_function(f"() => document.getElementById('place').textContent.includes('{place}')")


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_session_from_a_picture_to_a_training_step(
    browser: Any, model: str, tmp_path: Path, viewport: dict[str, int]
) -> None:
    server = Server(tmp_path / "said", f"responder={model}")
    page = opened(browser, server.url, viewport)
    page.set_input_files("#file", {"name": "../x.png", "mimeType": "image/png", "buffer": png()})
    page.wait_for_selector("#shown:not([hidden])")
    answer = ask(page, "What is here?")
    text = answer.locator(".text")
    assert text.evaluate("box => box.textContent") == HTML and page.title() != "run"
    honesty = answer.locator("fieldset").nth(1)
    honesty.locator(".ratings button").nth(1).click()
    honesty.locator(".critique").fill("It says <b>too</b> much.")
    text.evaluate(
        "box => { const range = document.createRange(), text = box.firstChild; range.setStart(text, 5); "
        "range.setEnd(text, 9); getSelection().removeAllRanges(); getSelection().addRange(range); }"
    )
    page.wait_for_selector("#marking:not([hidden])")
    page.fill("#label", "not there")
    page.click("#mark")
    honesty.locator(".refinement").fill("Say less.")
    honesty.locator(".improve").click()
    second = page.locator(".answer").nth(1)
    second.locator(".feedback").wait_for(timeout=20_000)
    second.locator("fieldset").nth(1).locator(".ratings button").nth(3).click()
    second.locator("summary").click()
    second.locator(".better textarea").fill("A square.")
    second.locator(".keep").click()
    saved(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
    if folder := os.environ.get("DRESS_PICTURES"):  # to be looked at
        page.screenshot(path=f"{folder}/chat-{viewport['width']}.png", full_page=True)
    page.reload()
    page.wait_for_selector(".answer:nth-of-type(2) .feedback:not([hidden])")
    page.wait_for_selector(".answer:nth-of-type(1) [aria-checked=true]")
    assert page.problems == []
    server.end()

    ((record, image),) = Shards(tmp_path / "said")
    first, last = record.dialogues[0].turns
    (feedback,) = first.feedback
    assert image == png() and first.assistant == last.assistant == HTML and last.user == "Say less."
    assert (feedback.rating, feedback.critique) == (2, "It says <b>too</b> much.") and last.rating == 4
    marked = [(first.assistant[span.start : span.end], span.label) for span in feedback.spans]
    assert marked == [("</b>", "not there")]  # a character beyond the BMP stands before it
    assert record.dialogues[-1].turns[-1].assistant == "A square."
    (tmp_path / "own" / "eval").parent.mkdir()
    write_shards(tmp_path / "own" / "eval", shapes.samples("eval", 3, seed=0))
    settings = composed(
        *TINY[1:], "experiment=given_feedback", "data=shards", f"data.path={tmp_path / 'own'}",
        f"data.feedback={tmp_path / 'said'}", "curriculum.without=[align,sft]", run_dir=tmp_path / "run",
    )  # fmt: skip
    train(settings, Console(quiet=True))
    history = json.loads((tmp_path / "run" / "stages" / "dress" / "history.json").read_text())
    assert history[-1]["train/supervised_tokens"] > 0


def test_a_lost_connection_loses_nothing(browser: Any, tmp_path: Path) -> None:
    """Offline in the middle of an answer, and while something is said; and a second person on a slow line."""
    text = " ".join(f"word{number}" for number in range(30))
    with streaming(text, delay=0.1) as url:
        server = Server(tmp_path / "said", f"responder={url}")
        page, other = opened(browser, server.url, WIDE), opened(browser, server.url, NARROW, "Bob")
        slow = {"offline": False, "latency": 400, "downloadThroughput": 6000, "uploadThroughput": 3000}
        other.context.new_cdp_session(other).send("Network.emulateNetworkConditions", slow)
        other.fill("#question", "And this?")
        other.click("#send")
        page.fill("#question", "What?")
        page.click("#send")
        page.wait_for_function("() => document.querySelector('.text').textContent.includes('word5')")
        page.context.set_offline(True)
        page.wait_for_timeout(1500)
        page.context.set_offline(False)
        page.locator(".feedback").wait_for(timeout=20_000)
        assert page.locator(".text").text_content() == text
        page.context.set_offline(True)
        page.locator(".ratings button").nth(3).click()
        page.locator(".critique").nth(1).fill("Fine.")
        page.locator(".critique").nth(1).blur()
        assert page.locator("#saved").text_content().startswith("2 not saved yet")
        page.context.set_offline(False)
        saved(page)
        other.locator(".feedback").wait_for(timeout=30_000)
        other.locator(".ratings button").nth(0).click()
        saved(other)
        assert other.locator(".text").text_content() == text
        server.end()
    events = [json.loads(line) for line in (tmp_path / "said" / "feedback.jsonl").read_text().splitlines()]
    said = [(one["who"], one["criterion"], one.get("rating")) for one in events if one["kind"] == "feedback"]
    assert sorted(said, key=str) == [
        ("Ann", "helpfulness", 4), ("Ann", "honesty", None), ("Bob", "helpfulness", 1)
    ]  # fmt: skip
    assert sum(one["kind"] == "answer" for one in events) == 2


def test_a_queue_with_the_keyboard_alone(browser: Any, model: str, tmp_path: Path) -> None:
    write_shards(tmp_path / "asked", shapes.samples("prompts", 2, seed=0))
    words = (f"responder={model}", f"queue={tmp_path / 'asked'}")
    server = Server(tmp_path / "said", *words)
    page = opened(browser, server.url, WIDE)

    def place() -> str:
        page.locator(".feedback").first.wait_for(timeout=20_000)
        return str(page.locator("#place").text_content())

    def rate(key: str) -> None:
        before = place()
        page.keyboard.press(key)
        page.wait_for_selector("[aria-checked=true]")
        page.keyboard.press("Enter")
        page.wait_for_function(f"() => document.getElementById('place').textContent !== '{before}'")

    assert place().endswith(", 0 done")
    for key in "124":
        rate(key)
    reached = place()
    page.keyboard.press("ArrowLeft")  # back, to what was said before
    page.wait_for_selector("[aria-checked=true]")
    if folder := os.environ.get("DRESS_PICTURES"):
        page.screenshot(path=f"{folder}/queue.png", full_page=True)
    server.end()
    server = Server(tmp_path / "said", *words)  # goes on where it was
    page = opened(browser, server.url, WIDE)
    assert place() == reached and not reached.endswith(", 0 done")
    while "all" not in str(page.locator("#place").text_content()):
        rate("4")
    other = opened(browser, server.url, WIDE, "Bob")
    other.locator(".feedback").wait_for(timeout=20_000)
    other.keyboard.press("4")
    other.keyboard.press("Enter")
    other.wait_for_selector("#agreement:not([hidden])")
    assert page.problems == other.problems == []
    server.end()
    said = [json.loads(line) for line in (tmp_path / "said" / "feedback.jsonl").read_text().splitlines()]
    people = [one["who"] for one in said if one["kind"] == "feedback"]
    assert people.count("Bob") == 1 and people.count("Ann") > 3
    turns = [turn for record, _ in Shards(tmp_path / "said") for one in record.dialogues for turn in one.turns]
    assert sum(one.rating is not None for turn in turns for one in turn.feedback) == len(people)


def test_two_side_by_side_and_an_answer_that_is_stopped(browser: Any, tmp_path: Path) -> None:
    with streaming("one two three", "one") as one, streaming("a b c " * 60, "other", delay=0.05) as other:
        server = Server(tmp_path / "said", f"responder={one}", f"vs={other}", "blind=true")
        page = opened(browser, server.url, WIDE)
        page.fill("#question", "What?")
        page.click("#send")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.text')].every((box) => box.textContent.length > 4)"
        )
        page.click("#stop")
        page.wait_for_function("() => document.querySelectorAll('.feedback:not([hidden])').length === 2")
        assert {page.locator(".name").nth(number).text_content() for number in (0, 1)} == {"answer 1", "answer 2"}
        for number in (0, 1):
            page.locator(".answer").nth(number).locator(".ratings button").nth(number).click()
        page.wait_for_function("() => document.querySelector('.name').textContent !== 'answer 1'")
        assert {page.locator(".name").nth(number).text_content() for number in (0, 1)} == {"one", "other"}
        if folder := os.environ.get("DRESS_PICTURES"):
            page.screenshot(path=f"{folder}/beside.png", full_page=True)
        server.end()
    ((record, _),) = Shards(tmp_path / "said")
    turns = {turn.provenance["responder"]: turn for dialogue in record.dialogues for turn in dialogue.turns}
    assert not turns["one"].cut and turns["other"].cut and {one.rating for one in turns.values()} == {1, 2}
