"""The pages in a real browser: what is clicked is shown, on a wide screen and on a phone, and nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import Styled
from test_cases import VIEWS, answered, items
from test_compare import make, shards, typed, worsened  # noqa: F401  # fixtures
from test_report import ALL, report, run_folder

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}: apt-get install chromium"),
]
VISIBLE = "[...document.querySelectorAll('.case')].filter(e => e.offsetParent !== null)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install it")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--disable-dev-shm-usage"])
        yield browser
        browser.close()


def opened(browser: Any, file: Path, width: int) -> tuple[Any, list[str]]:
    """A page of this width in pixels, and what the browser complains about or asks the network for."""
    page = browser.new_page(viewport={"width": width, "height": 800}, has_touch=width < 500)
    page.set_default_timeout(60_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
    return page, said


def shown(page: Any) -> list[str]:
    """Ids of the cases that are to be seen, from the top."""
    return list(page.evaluate(f"{VISIBLE}.sort((a, b) => a.offsetTop - b.offsetTop).map(e => e.id)"))


@pytest.mark.parametrize("width", [1280, 360])
def test_filters_orders_and_links_of_a_report(browser: Any, tmp_path: Path, width: int) -> None:
    run_folder(tmp_path, ALL)
    text = report(tmp_path)
    questions, styled = items(text), Styled(text)
    page, said = opened(browser, tmp_path / "report.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") == width  # tables scroll inside
    assert set(shown(page)) == set(questions) == styled.shown(styled.ticked)
    for number, view in enumerate(VIEWS):
        page.check(f"#view-{number}")
        ratings = [answered(questions[case], view).rating or 9 for case in shown(page)]
        assert ratings == sorted(ratings)
        goes_on = page.evaluate(f"{VISIBLE}[0].innerText.match(/\\S+ goes on/g)")
        assert goes_on == [f"{view} goes on"]
    page.check("#view-1")
    page.uncheck("#rating-3")
    page.check("#criterion-2")
    ticked = (styled.ticked - {"view-0", "rating-3"}) | {"view-1", "criterion-2"}
    left = shown(page)
    assert set(left) == styled.shown(ticked) != set(questions) and left
    # What is hidden is not counted; the counter is drawn by the style.
    content = page.evaluate("getComputedStyle(document.querySelector('.count'), '::after').content")
    assert content == 'counter(case) " shown"'
    page.click("button[type=reset]")
    assert set(shown(page)) == set(questions)
    links = page.locator("td a")
    for number in (0, 7, links.count() - 1):
        link = links.nth(number)
        place = link.get_attribute("href")[1:]
        link.click()
        assert page.url.endswith(f"#{place}")
        assert set(shown(page)) == styled.shown(styled.ticked, place) and shown(page)
        banner = page.locator(f"#{place}")
        assert banner.is_visible() and banner.bounding_box()["y"] < 800
        banner.locator("a").click()
        assert page.url.endswith("#failures") and set(shown(page)) == set(questions)
    page.check("#criterion-0")
    hidden = next(case for case in questions if case not in shown(page))
    page.goto(f"{(tmp_path / 'report.html').as_uri()}#{hidden}")
    assert hidden in shown(page)
    assert said == []
    page.close()


@pytest.mark.parametrize("width", [1280, 360])
def test_two_runs_stand_side_by_side_or_below_each_other(
    browser: Any,
    make: Any,  # noqa: F811
    shards: Path,  # noqa: F811
    width: int,
) -> None:
    first, second = make("a", ALL), make("b", worsened(ALL))
    typed(f"compare={first},{second}", f"shards={shards}")
    page, said = opened(browser, second / "compare" / "compare.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    left, right = (page.locator(".case .pair.of-0").first.locator(f"> div >> nth={n}").bounding_box() for n in (0, 1))
    if width == 360:
        assert right["y"] >= left["y"] + left["height"] and left["x"] == right["x"]
    else:
        assert right["y"] == left["y"] and right["x"] >= left["x"] + left["width"]
    link = page.locator("td a", has_text=re.compile(r"^[1-9]$")).first
    link.click()
    assert len(shown(page)) == int(link.inner_text())
    assert said == []
    page.close()
