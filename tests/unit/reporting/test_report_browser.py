"""The page in a browser, where there is one: Chromium on the PATH or named by S2L_CHROMIUM, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config.custom_task import CustomTaskConfig
from s2l_ray.reporting.write import write_report
from tests.support.judged_runs import JudgedModels
from tests.support.report_pages import HOSTILE
from tests.support.report_runs import MadeRun
from tests.support.tiers import rest_thorough

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python")
_NAMES = ("chromium", "chromium-headless-shell", "chrome-headless-shell", "google-chrome")
CHROMIUM = os.environ.get("S2L_CHROMIUM") or next((found for n in _NAMES if (found := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; S2L_CHROMIUM names one")


@pytest.fixture(scope="module")
def address(tmp_path_factory: Any) -> str:
    made = MadeRun(
        tmp_path_factory.mktemp("browser") / "run", num_examples=240, num_clusters=6, sources=HOSTILE,
        budgets=(0.2, 0.4),
        topics=tuple(f"topic {text}" for text in HOSTILE),
        text=lambda row: (HOSTILE[row % 10], f"{HOSTILE[(row + 3) % 10]} number {row}"),
        quarantined=tuple((f"data/{text}.jsonl", f"reason {text}") for text in HOSTILE),
    )  # fmt: skip
    made.make()
    custom = {"mine": CustomTaskConfig(files=["x.jsonl"], rule="number", group_by=["topic"])}
    asked = JudgedModels(made, ("mine", "clinical"), 60, custom, topics=HOSTILE, text=HOSTILE[0], form="hybrid")
    asked.judge()
    return Path(write_report(str(made.folder))).as_uri()


@pytest.fixture(scope="module")
def browser() -> Any:
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--no-zygote", "--disable-gpu"]
        found = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments)
        yield found
        found.close()


@pytest.mark.parametrize(
    ("width", "scheme"), rest_thorough([(320, "dark"), (1000, "light"), (1000, "dark"), (390, "light")])
)
def test_nothing_complains_nothing_is_fetched_and_nothing_scrolls_sideways(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url != address else None)
    page.goto(address)
    assert said == []
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(browser, address, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(address)
    found = axe.Axe().run(page).response["violations"]
    assert {v["id"]: [n["html"][:120] for n in v["nodes"][:3]] for v in found} == {}
    page.close()


@pytest.mark.thorough
def test_search_cards_and_escape_filter_the_examples(browser, address):
    page = browser.new_page()
    page.goto(address)
    rows = page.locator("#rows tr:visible")
    everything = rows.count()
    assert everything > 20
    one = re.search(r"number (\d+)", page.locator("#rows tr .text").nth(25).inner_text())
    assert one is not None
    page.fill("#q", f"number {one[1]}")
    assert 1 <= rows.count() < everything
    assert page.locator("#count").inner_text() == f"{rows.count()} examples"
    page.keyboard.press("Escape")
    assert rows.count() == everything
    card = page.locator(".card").first
    card.focus()
    page.keyboard.press("Enter")
    assert card.get_attribute("aria-pressed") == "true"
    assert {r.get_attribute("data-cluster") for r in rows.all()} == {card.get_attribute("data-cluster")}
    page.close()


@pytest.mark.thorough
def test_a_mark_says_its_number_and_the_table_sorts(browser, address):
    page = browser.new_page()
    page.goto(address)
    mark = page.locator("#worth [data-tip]").first
    mark.hover()
    assert page.locator("#tip").inner_text() == mark.get_attribute("data-tip")
    page.locator(".sortable th button").nth(1).click()
    cells = page.locator(".sortable tbody tr td:nth-child(2)").all_inner_texts()
    numbers = [int(c.replace(",", "")) for c in cells]
    assert numbers == sorted(numbers)
    page.close()


@pytest.mark.thorough
def test_a_budget_is_chosen_by_mouse_or_keyboard_and_paper_shows_all(browser, address):
    page = browser.new_page()
    page.goto(address)
    views = page.locator("#contents figure").first.locator(".view")
    assert [view.is_visible() for view in views.all()] == [True, False, False]
    page.locator("#contents .views label").nth(1).click()
    assert [view.is_visible() for view in views.all()] == [False, True, False]
    page.keyboard.press("ArrowRight")
    assert [view.is_visible() for view in views.all()] == [False, False, True]
    page.emulate_media(media="print")
    assert all(view.is_visible() for view in views.all())
    page.close()


@pytest.mark.thorough
def test_print_is_dark_on_white_whatever_the_system_says_and_shows_cards(browser, address):
    page = browser.new_page(color_scheme="dark")
    page.goto(address)
    page.click("#theme")  # light, then dark by choice
    page.click("#theme")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 33, 38)"
    assert page.locator(".card").first.is_visible()
    assert not page.locator("nav").is_visible()
    page.close()


@pytest.mark.thorough
def test_no_table_is_cut_off_on_paper(browser, address):
    """A4 at 96 pixels an inch, without its margins of 1 cm."""
    page = browser.new_page(viewport={"width": 718, "height": 1047})
    page.goto(address)
    page.emulate_media(media="print")
    widths = page.evaluate("[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)")
    assert len(widths) > 10
    assert max(widths) <= 719
    page.close()


@pytest.mark.thorough
def test_a_held_out_set_of_a_long_name_makes_no_table_too_wide_for_paper(browser, tmp_path):
    """Browsers print everything smaller if one table is too wide."""
    heldout = {"balanced": 30, "split": 30, "a_held_out_set_of_a_long_name_2026": 30}
    made = MadeRun(
        tmp_path / "run", selectors=("s2l", "random", "random_per_source"), heldout=heldout,
        targets=("full", "s2l-0.2", "random-0.2", "random_per_source-0.2"),
    )  # fmt: skip
    made.make()
    page = browser.new_page(viewport={"width": 718, "height": 1047})
    page.goto(Path(write_report(str(made.folder))).as_uri())
    page.emulate_media(media="print")
    cells = "[...document.querySelectorAll('.sortable tr:first-child > *')].map(c => c.getBoundingClientRect())"
    right, narrowest = page.evaluate(f"(() => {{ const c = {cells}; return [Math.max(...c.map(r => r.right)), "
                                     "Math.min(...c.map(r => r.width))]; })()")  # fmt: skip
    assert right <= 719
    assert narrowest > 35, "room for a word"
    page.close()
