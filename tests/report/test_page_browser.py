"""The page in a real browser: marks are drawn, controls act, and nothing leaves the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.browser import CHROMIUM, DRIVER, Browser, chromium
from helpers.made_sweeps import SIGMAS, sweep

from crossbar_sim.report import write_page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs Chromium and its chromedriver (apt-get install chromium-driver)",
)

MARKS = """
return Object.fromEntries([...document.querySelectorAll(".chart")].map((chart) =>
  [chart.id, Object.fromEntries(["symbol", "line", "area", "rect", "rule"].map((kind) =>
    [kind, chart.querySelectorAll(`.mark-${kind}.role-mark path, .mark-${kind}.role-mark line`).length]))]));
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(sweep(), path)
    return path


def test_every_chart_is_drawn_and_nothing_leaves_the_page(browser: Browser, page: Path) -> None:
    browser.requests()
    browser.open(page)
    marks = browser.run(MARKS)
    points = 2 * len(SIGMAS)
    curves, pairs = marks["chart-curves"], marks["chart-differences"]
    assert (curves["area"], curves["line"]) == (2, 2)
    assert curves["symbol"] == 2 * points  # a mark, and the area around it that answers to the mouse
    assert pairs["symbol"] == len(SIGMAS)
    assert pairs["rule"] == len(SIGMAS) + 1
    assert marks["chart-yield"]["line"] == 2
    assert marks["chart-sensitivity"]["rect"] == 2 * 3
    assert marks["chart-conductances-1-2"]["rect"] > 0
    assert browser.run("return document.querySelectorAll('.failed').length") == 0
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.log("browser") == []


def test_a_table_wider_than_a_phone_says_so(browser: Browser, page: Path) -> None:
    hints = "return [...document.querySelectorAll('.hint')].map((hint) => !hint.hidden)"
    wider = "return [...document.querySelectorAll('.scroll')].map((part) => part.scrollWidth > part.clientWidth + 1)"
    browser.open(page, 390)
    assert browser.run(hints) == browser.run(wider)
    assert any(browser.run(hints))
    browser.open(page, 1100)
    assert not any(browser.run(hints))


def test_chips_are_shown_on_demand(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = browser.run(MARKS)["chart-curves"]["symbol"]
    browser.run("document.querySelector('#chart-curves input[type=checkbox]').click()")
    assert browser.run(MARKS)["chart-curves"]["symbol"] == before + 2 * len(SIGMAS) * 8
    browser.run("document.querySelector('#chart-curves input[type=checkbox]').click()")
    assert browser.run(MARKS)["chart-curves"]["symbol"] == before


def test_the_sigma_of_the_yield_can_be_chosen(browser: Browser, page: Path) -> None:
    browser.open(page)
    lines = """
    return [...document.querySelectorAll('#chart-yield .mark-line.role-mark path')].map((p) => p.getAttribute('d'));
    """
    choose = """
    const list = document.querySelector('#chart-yield select');
    list.selectedIndex = (list.selectedIndex + 1) % list.options.length;
    list.dispatchEvent(new Event('input', {bubbles: true})); list.dispatchEvent(new Event('change', {bubbles: true}));
    return list.options.length;
    """
    before = browser.run(lines)
    assert browser.run(choose) == len(SIGMAS)
    assert browser.run(lines) != before


def test_the_numbers_can_be_downloaded(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("window.kept = []; URL.createObjectURL = (blob) => { kept.push(blob.size); return '#'; }")
    sizes = browser.run(
        "for (const b of document.querySelectorAll('button[data-file]')) b.click(); return window.kept;"
    )
    assert len(sizes) == 3
    assert min(sizes) > 100


def test_paper_gets_what_is_folded_away(browser: Browser, page: Path) -> None:
    browser.open(page)
    opened = "return document.querySelectorAll('main details[open]').length"
    assert browser.run(opened) == 0
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run(opened) == 2
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    assert browser.run(opened) == 0


@pytest.mark.parametrize("width", [1100, 420])
def test_hostile_labels_stay_text_and_nothing_is_wider_than_the_screen(
    width: int, browser: Browser, tmp_path: Path
) -> None:
    labels = (
        '<img src=x onerror="document.title=1">',
        "</script><script>window.hacked=1</script>",
        "x" * 400,
        "w w " * 90,
    )
    write_page(sweep(labels), tmp_path / "page.html", title="a title")
    browser.requests()
    browser.open(tmp_path / "page.html", width)
    assert browser.run("return [document.title, window.hacked === undefined]") == ["a title", True]
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.requests() == [(tmp_path / "page.html").resolve().as_uri()]


def test_a_chart_that_cannot_be_drawn_says_so(browser: Browser, page: Path, tmp_path: Path) -> None:
    source = page.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(source.replace('"type":"tick"', '"type":"tock"', 1), encoding="utf-8")
    browser.open(broken)
    assert "could not be drawn" in browser.run("return document.querySelector('#chart-curves').textContent")
    assert browser.run(MARKS)["chart-yield"]["line"] == 2


def test_the_policy_stops_what_would_load_from_elsewhere(browser: Browser, page: Path) -> None:
    """The negative control of the test that finds no requests: one that is tried is seen, and refused."""
    browser.open(page)
    browser.log("browser")
    assert (
        browser.run("return fetch('http://127.0.0.1:9/x').then(() => 'came', () => 'refused')") == "refused"
    )
    assert "Content Security Policy" in str(browser.log("browser"))
