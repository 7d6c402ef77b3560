"""A study's page in a headless Chromium: its charts are drawn from the trials, it sorts, and nothing leaves it."""

import re

import pytest

from experiments.studies import page
from experiments.studies.standing import read
from tests.experiments import studies_of
from tests.experiments import test_report_browser as report_browser

browser = report_browser.browser


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return studies_of.search(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def page_file(search, tmp_path_factory):
    return page.report_study(search, tmp_path_factory.mktemp("page") / "report.html").page


def opened(context, page_file):
    """The page with all of its charts drawn; no complaint, and no request but for itself."""
    watched = report_browser.Watched(context, page_file)
    watched.until("[...document.querySelectorAll('[data-chart]')].every((div) => div.dataset.drawn)")
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("data:", "blob:"))] == [page_file.as_uri()]
    return watched.page


def test_what_a_reader_sees_and_does(browser, page_file, search):
    # So high that all of it is in sight.
    context = browser.new_context(viewport={"width": 1200, "height": 7000}, color_scheme="light")
    shown = opened(context, page_file)
    done = sorted(read(search).of("complete"), key=lambda t: t.values["mae"])
    charts = shown.locator("[data-chart]")
    assert charts.count() == 12
    front = charts.nth(1).evaluate("div => div.data.map((d) => [d.name, d.line.shape, d.x, d.y])")
    assert front[0][2:] == [[t.values["time"] for t in done], [t.values["mae"] for t in done]]
    assert front[1][:2] == ["Pareto front", "hv"] and front[1][3][-1] == done[0].values["mae"]
    lines = charts.nth(2).evaluate("div => [div.data.length, div.data[23].text, div.data[23].line.color]")
    assert lines[0] == 24 and lines[1].startswith(f"trial {done[0].number}: learning_rate")
    assert lines[2] == "rgb(42,120,214)", "the best is blue"
    assert charts.nth(4).evaluate("div => div._fullLayout.xaxis.type") == "log"

    colour = "div => div._fullLayout.font.color"
    light = charts.nth(1).evaluate(colour)
    shown.locator("#theme").click()
    for _ in range(100):
        if (dark := charts.nth(1).evaluate(colour)) != light:
            break
        shown.wait_for_timeout(50)
    assert dark != light, "charts follow the theme"

    table = shown.locator("table.of-study").first
    first = "table => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent)"
    rates = {str(t.number): t.fields["optimiser.learning_rate"] for t in read(search).trials if t.fields}
    table.locator("thead button", has_text=re.compile("^learning_rate$")).click()
    assert table.evaluate(first) == sorted(rates, key=rates.__getitem__)
    context.close()


def test_a_phone_scrolls_in_one_direction(browser, page_file):
    context = browser.new_context(viewport={"width": 360, "height": 11000})
    shown = opened(context, page_file)
    wide = """() => [document.documentElement.scrollWidth, ...[...document.querySelectorAll("main *")]
      .filter((e) => !e.closest(".scroll, .scrolls") && e.getBoundingClientRect().right > 361)
      .map((e) => e.outerHTML)]"""
    assert shown.evaluate(wide) == [360]
    assert shown.locator(".wide .scrolls").evaluate("e => e.scrollWidth > e.clientWidth"), "scrolls inside itself"
    context.close()
