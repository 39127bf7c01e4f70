"""The page of fgvc report in a real browser: what loads, shows, sorts, filters, explains itself; and accessibility."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from reported_runs import HOSTILE, recorded

from jobs.cli import main

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser here")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium here (apt-get install chromium)", allow_module_level=True)

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1440, "height": 900}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = recorded(tmp_path_factory.mktemp("browser") / "runs")
    assert main(["report", str(runs), f"runs_dir={runs}", "name=all"]) == 0
    return (runs / "report/all/report.html").as_uri()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Open the page; afterwards nothing may have been said on the console, and nothing else have been asked for."""
    contexts, said, asked = [], [], []

    def start(**settings: Any) -> Any:
        contexts.append(browser.new_context(**({"viewport": DESK} | settings)))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page

    yield start
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {address}


def test_all_pictures_show_and_nothing_overflows(open_page: Open) -> None:
    for screen in (DESK, PHONE):
        page = open_page(viewport=screen)
        sizes = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        assert len(sizes) >= 20
        assert min(sizes) > 0
        drawings = page.eval_on_selector_all("svg", "all => all.map(svg => svg.getBoundingClientRect().height)")
        assert len(drawings) >= 7
        assert min(drawings) > 50
        assert page.evaluate("document.documentElement.scrollWidth") <= screen["width"]


def test_a_column_sorts_both_ways(open_page: Open) -> None:
    page = open_page()
    table = page.locator("table", has=page.locator("caption", has_text="Accuracy by class"))
    head = table.locator("thead th").nth(1)

    def column() -> list[float]:
        return [float(text.split("\u00a0")[0]) for text in table.locator("tbody td:nth-child(2)").all_inner_texts()]

    unsorted = column()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(unsorted, reverse=True) != sorted(unsorted)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(unsorted)
    table.locator("thead th").first.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    names = table.locator("tbody th").all_inner_texts()
    assert sorted(names) == sorted(HOSTILE)
    table.locator("thead th").first.get_by_role("button").click()
    assert table.locator("tbody th").all_inner_texts() == names[::-1]


def test_the_filter_leaves_the_rows_and_pictures_of_a_class(open_page: Open) -> None:
    page = open_page()
    everything = page.locator("[data-class]:visible").count()
    page.get_by_label("Filter by class").fill(HOSTILE[0][:12].upper())
    left = page.locator("[data-class]:visible")
    assert 0 < left.count() < everything
    assert all(HOSTILE[0] in text for text in left.evaluate_all("all => all.map(one => one.dataset.class)"))
    total = page.locator("[data-class]").count()
    assert page.get_by_role("status").inner_text() == f"{left.count()} of {total} rows and pictures"
    page.get_by_label("Filter by class").fill("no such bird")
    assert left.count() == 0
    page.get_by_label("Filter by class").fill("")
    assert left.count() == everything


def test_a_figure_says_where_it_stands_and_by_which_command(open_page: Open, address: str) -> None:
    page = open_page()
    figure = page.locator(".card .figure a").first
    figure.focus()
    page.keyboard.press("Enter")
    said = page.get_by_role("dialog")
    assert said.locator("#cited-path").inner_text() == "classify/ours: test › top1"
    assert said.locator("code").inner_text().startswith("fgvc classify ")
    assert said.locator("#cited-value").inner_text() == "0.25"
    page.keyboard.press("Escape")
    assert not said.is_visible()
    assert figure.evaluate("link => link === document.activeElement")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the link in the box has the focus
    value = page.locator(figure.get_attribute("href") or "")
    assert value.is_visible()
    assert value.evaluate("value => value.matches(':target')")


def test_arrow_keys_go_among_a_tables_figures(open_page: Open) -> None:
    page = open_page()
    region = page.get_by_role("region", name="Accuracy by class")
    region.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    place = "[...document.activeElement.closest('tbody').rows].indexOf(document.activeElement.closest('tr'))"
    assert page.evaluate(place) == 1
    assert page.evaluate("document.activeElement.closest('td').cellIndex") == 2


def test_without_scripts_everything_is_there(open_page: Open) -> None:
    page = open_page(java_script_enabled=False)
    assert page.locator("#filter").is_hidden()
    assert page.locator("table").count() > 15
    link = page.locator(".card .figure a").first
    link.click()
    assert page.locator(link.get_attribute("href") or "").is_visible()  # the browser opens what it lies in


CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
OTHERS = {"rules": {"color-contrast": {"enabled": False}}}


@pytest.mark.parametrize(
    ("settings", "rules", "least"),
    [({}, {}, 25), ({"color_scheme": "dark"}, CONTRAST, 1), ({"viewport": PHONE}, OTHERS, 25)],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_nothing_serious(settings: dict, rules: dict, least: int, open_page: Open) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(**settings)
    page.evaluate("document.querySelectorAll('.folded, .source, #run-1').forEach(one => { one.open = true; })")
    response = Axe().run(page, context={"exclude": [["svg"]]}, options=rules).response
    found = [rule for rule in response["violations"] if rule["impact"] in ("serious", "critical")]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []
    assert len(response["passes"]) >= least


def test_the_policy_stops_other_scripts_and_the_network(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 1\">');"
        "const script = document.createElement('script'); script.textContent = 'window.broken = 2';"
        "document.body.append(script);"
    )
    blocked = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'asked', error => error.name)")
    assert (page.evaluate("window.broken"), blocked) == (None, "TypeError")
    page.close()
