"""The report in a browser: no error, nothing loaded from outside, every control by keyboard, both schemes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs import needs
from tests.support.page.html_pages import write_trained_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
WIDTH = 1100
# WCAG 2.2, 1.4.3, of the text in a colour of the page.
CONTRAST = 4.5
CONTRASTS = """() => {
  const parse = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const light = (rgb) => {
    const linear = (c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.map((c) => linear(c / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const paper = light(parse(getComputedStyle(document.body).backgroundColor));
  const found = {};
  for (const one of document.querySelectorAll("body *")) {
    if (["SCRIPT", "STYLE", "title", "desc"].includes(one.tagName)) continue;
    if (![...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(one);
    const ours = light(parse(one.ownerSVGElement ? style.fill : style.color));
    const [high, low] = [Math.max(paper, ours), Math.min(paper, ours)];
    found[style.color] = (high + .05) / (low + .05);
  }
  return Object.values(found);
}"""

FOCUSED = """() => {
  const one = document.activeElement;
  return one === document.body ? null : [one.tagName, [...document.querySelectorAll("*")].indexOf(one)];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    needs("chromium", "to open a page")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trained_page(tmp_path_factory.mktemp("storage"))


class Opened:
    """A page with what it complained about and asked for."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light") -> None:
        context = browser.new_context(
            viewport={"width": WIDTH, "height": 900}, color_scheme=scheme, offline=True
        )
        self.page = context.new_page()
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url[:40]))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("load")

    @property
    def outside(self) -> list[str]:
        return [url for url in self.asked if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_disk_and_every_text_is_readable(
    scheme: str, browser: Any, report: Path, tmp_path: Path
) -> None:
    opened = Opened(browser, report, scheme)
    page = opened.page
    assert min(page.evaluate(CONTRASTS)) >= CONTRAST
    picture = tmp_path / f"{scheme}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(253, 253, 252)") is (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH
    assert all(page.evaluate("[...document.images].map((i) => i.complete && i.naturalWidth > 0)"))
    assert (opened.faults, opened.outside) == ([], [])


def test_a_narrow_window_scrolls_tables_and_not_the_page(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    opened.page.set_viewport_size({"width": 420, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 420


def test_the_slider_moves_all_students_by_keyboard(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    page = opened.page

    def pictures() -> list[str]:
        return list(page.eval_on_selector_all("[data-states] img", "all => all.map((i) => i.src)"))

    slider = page.locator("#rung")
    last = pictures()
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#rung-text").inner_text() == "128 images"
    assert slider.get_attribute("aria-valuetext") == "128 images"
    first = pictures()
    assert len(first) == 8
    assert all(one != other for one, other in zip(first, last, strict=True))
    assert "after 128 images" in (
        page.locator("[data-states] img").first.get_attribute("alt") or ""
    )
    page.keyboard.press("End")
    assert pictures() == last
    assert opened.faults == []


def test_tables_sort_by_keyboard(browser: Any, report: Path) -> None:
    opened = Opened(browser, report)
    page = opened.page

    def numbers() -> list[int]:
        found = page.eval_on_selector_all(
            "table.trials tbody th", "all => all.map((th) => Number(th.textContent))"
        )
        return list(found)

    before = numbers()
    head = page.locator("table.trials thead th").first
    head.locator("button").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert numbers() == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("table.trials thead th button", has_text="objective").press("Enter")
    values = page.eval_on_selector_all(
        "table.trials tbody tr", "all => all.map((tr) => tr.cells[4].textContent)"
    )
    known = [float(value) for value in values if value]
    assert known == sorted(known)
    assert values[len(known) :] == [""] * (len(values) - len(known))
    assert opened.faults == []


def test_everything_that_acts_is_reached_by_tab_in_the_order_of_the_page(
    browser: Any, report: Path
) -> None:
    page = Opened(browser, report).page
    places = []
    for _ in range(300):
        page.keyboard.press("Tab")
        place = page.evaluate(FOCUSED)
        if place is None:
            break
        places.append(place)
    order = [index for _, index in places]
    assert order == sorted(order)
    assert {"A", "INPUT", "BUTTON", "SUMMARY", "DIV"} <= {name for name, _ in places}
    links = page.locator("nav a").count()
    assert sum(name == "A" for name, _ in places) == links + 1


def test_a_screen_reader_finds_landmarks_headings_and_pictures(browser: Any, report: Path) -> None:
    page = Opened(browser, report).page
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", level=1).count() == 1
    sections = page.locator("main > section").count()
    assert page.get_by_role("region").count() == sections
    assert page.get_by_role("heading", level=2).count() == sections
    assert page.get_by_role("slider", name="Training of the students").count() == 1
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("figure.chart svg[role=img] > title").count() > 5


def test_only_the_page_of_a_running_search_reloads(
    browser: Any, report: Path, tmp_path: Path
) -> None:
    assert Opened(browser, report).page.locator("body[data-reload]").count() == 0
    running = write_trained_page(tmp_path, running=True)
    text = running.read_text().replace('data-reload="15"', 'data-reload="1"')
    running.write_text(text)
    opened = Opened(browser, running)
    opened.page.locator("#rung").focus()
    opened.page.keyboard.press("ArrowLeft")
    running.write_text(text.replace("<h1>made-up", "<h1>written again"))
    opened.page.wait_for_timeout(1500)
    assert opened.page.locator("h1").inner_text() == "made-up", "it was in use"
    opened.page.evaluate("document.activeElement.blur()")
    opened.page.wait_for_selector("h1:has-text('written again')", timeout=10_000)
    assert opened.page.locator("#rung-text").inner_text() == "128 images", "where it was left"
    assert opened.faults == []
