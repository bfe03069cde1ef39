"""The page in a headless Chromium: nothing asked of a network, tables that sort and fold, light and dark."""

import pytest

from .browser import Browser, missing
from .sample import LIMITS, NASTY, full, layered, recalls, sample, written


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if absent := missing():
        pytest.skip(absent)
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_complaint_or_request(browser, tmp_path, width):
    given, more = full(NASTY)
    written(tmp_path, given, **more)
    browser.look(width)
    browser.requests(), browser.console()
    browser.open(tmp_path / "report.html")
    assert browser.console() == []
    assert {url.split(":")[0] for url in browser.requests()} == {"file", "data"}
    assert browser.run("return document.documentElement.scrollWidth") <= width
    seen = (
        "return [...document.querySelectorAll('#pareto svg')].filter(e => e.getBoundingClientRect().width > 200).length"
    )
    assert browser.run(seen) == 1  # of the two widths, one
    assert browser.run("return [...document.images].every(e => e.complete && e.naturalWidth === 32)")


@pytest.mark.browser
def test_dark_is_dark(browser, tmp_path):
    written(tmp_path, sample())
    shades = []
    for dark in (False, True):
        browser.look(1280, dark)
        browser.open(tmp_path / "report.html")
        shades.append(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert shades == ["rgb(255, 255, 255)", "rgb(18, 20, 22)"]


@pytest.mark.browser
def test_a_click_sorts_and_keeps_what_is_missing_last(browser, tmp_path):
    written(tmp_path, sample())
    browser.open(tmp_path / "report.html")

    def click(column: int) -> list[str]:
        browser.run("document.querySelectorAll('#models thead button')[arguments[0]].click()", column)
        return browser.run("return [...document.querySelectorAll('#models tbody th')].map(e => e.dataset.sort)")

    by_latency = ["int8", "student", "baseline", "teacher"]
    assert click(2) == [*by_latency, "pruned"]
    assert click(2) == [*reversed(by_latency), "pruned"]
    assert click(0) == ["baseline", "int8", "pruned", "student", "teacher"]
    assert browser.run("return document.querySelector('#models th').getAttribute('aria-sort')") == "ascending"


@pytest.mark.browser
def test_a_script_that_is_not_ours_does_not_run(browser, tmp_path):
    text = written(tmp_path, sample())
    (tmp_path / "altered.html").write_text(text.replace("</main>", "<script>document.title = 'run'</script></main>"))
    browser.open(tmp_path / "altered.html")
    assert browser.run("return document.title") == "digits · marrow"
    assert any("Content Security Policy" in entry["message"] for entry in browser.console())


@pytest.mark.browser
def test_a_long_table_is_folded_sorts_whole_and_opens(browser, tmp_path):
    written(tmp_path, sample(per_class=recalls(100), layers=layered(60)))
    browser.look(390)
    browser.open(tmp_path / "report.html")
    assert browser.run("return document.documentElement.scrollWidth") <= 390

    def shown(section: str, part: str = "tbody") -> list[str]:
        return browser.run("return [...document.querySelectorAll(`#${arguments[0]} ${arguments[1]} tr`)]"
                           ".filter(e => e.offsetHeight).map(e => e.cells[0].firstChild.textContent)", section, part)  # fmt: skip

    assert shown("classes") == [f"class {i}" for i in range(99, 79, -1)]
    assert (
        browser.run("return document.querySelector('#classes [aria-sort=ascending]').textContent") == "against teacher"
    )
    browser.run("document.querySelectorAll('#classes thead button')[1].click()")  # by the number of images
    assert shown("classes") == [f"class {i}" for i in range(20)]
    browser.run("document.querySelector('#classes .unfold').click()")
    assert len(shown("classes")) == 100
    assert len(shown("layers")) == 20 and len(shown("layers", "tfoot")) == 3
    browser.run("document.querySelector('#layers .unfold').click()")
    assert len(shown("layers")) == 61 and len(shown("layers", "tfoot")) == 2
    assert browser.run("return document.querySelector('#layers .unfold').getAttribute('aria-expanded')") == "true"
    assert browser.console() == []


@pytest.mark.browser
def test_bars_are_as_long_as_what_they_stand_for(browser, tmp_path):
    written(tmp_path, sample(per_class=recalls(), layers=layered(3)))
    browser.look(1280)
    browser.open(tmp_path / "report.html")
    long = "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().width)"
    assert browser.run(long, "#classes .fill") == pytest.approx([0.89 * 88, 0.895 * 88, 0.9 * 88], abs=0.2)
    after = browser.run(long, "#layers rect.after")
    assert after == pytest.approx([25, 50, 75, 0], abs=0.2) and browser.run(long, "#layers .bars")[0] == 150


@pytest.mark.browser
def test_a_missed_budget_cannot_be_overlooked(browser, tmp_path):
    written(tmp_path, sample(budgets=LIMITS))
    colour = "return getComputedStyle(document.querySelector(arguments[0])).color"
    for dark in (False, True):
        browser.look(390, dark)
        browser.open(tmp_path / "report.html")
        assert browser.run(colour, ".budgets .missed strong") != browser.run(colour, ".budgets .met strong")
        top = browser.run("return document.querySelector('.budgets').getBoundingClientRect().top")
        assert top < 400
