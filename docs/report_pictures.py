"""Make docs/report.html and pictures of it, light and dark, from a finished run of the quickstart.

    s2l run quickstart
    python docs/report_pictures.py runs/quickstart

Needs Playwright and a Chromium on the PATH, or named by S2L_CHROMIUM (CONTRIBUTING.md).
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from s2l_ray.artifacts.run import load_run
from s2l_ray.reporting.write import facts_of, page_of

DOCS = Path(__file__).parent
_NAMES = ("chromium", "chromium-headless-shell", "chrome-headless-shell", "google-chrome")
_WIDTH, _SCALE = 1000, 2
_ONLY_THE_BEST_PART = """() => {
  const cards = [...document.querySelectorAll('.card')];
  const top = cards.length ? cards[0].offsetTop : 0;
  const hidden = [
    ...document.querySelectorAll('nav, .warnings, header p:has(#copy), main > section:not(#worth, #clusters)'),
    ...document.querySelectorAll('#worth figure:not(:first-child), #clusters .figures, details'),
    ...cards.filter((card) => card.offsetTop > top),
  ];
  for (const element of hidden) element.hidden = true, element.style.display = 'none';
}"""
"""Head, the figures of all models and the first row of cards."""


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the finished run")
    run = load_run(parser.parse_args().run)
    page = DOCS / "report.html"
    page.write_text(page_of(facts_of(run)).replace(run.uri, f"runs/{run.config.name}"), encoding="utf-8")
    chromium = os.environ.get("S2L_CHROMIUM") or next((found for n in _NAMES if (found := shutil.which(n))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            picture(browser, page, scheme, DOCS / f"report_{scheme}.png")
        browser.close()


def picture(browser: Browser, page: Path, scheme: str, out: Path) -> None:
    """A part of the page in one colour scheme, 2,000 pixels wide."""
    size = {"width": _WIDTH, "height": 900}
    tab = browser.new_page(viewport=size, color_scheme=scheme, device_scale_factor=_SCALE)  # type: ignore[arg-type]
    tab.goto(page.absolute().as_uri())
    tab.evaluate(_ONLY_THE_BEST_PART)
    tab.screenshot(path=str(out), full_page=True)
    tab.close()


if __name__ == "__main__":
    main()
