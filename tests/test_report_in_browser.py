"""The page of a report in a real browser: it renders, at two widths, and can be read without a mouse."""

from __future__ import annotations

import base64
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextlens.analyses.checkpoint import report
from nextlens.analyses.checkpoint_passage import PASSAGE
from nextlens.models.processes import mess3
from nextlens.models.transformer import Transformer, TransformerConfig

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MISSING = [
    name
    for name, found in {
        "chromium": any(map(shutil.which, BROWSERS)),
        "chromedriver (Debian: chromium-driver)": shutil.which("chromedriver"),
        "selenium": importlib.util.find_spec("selenium"),
    }.items()
    if not found
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

FLAGS = [
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

WIDTHS = pytest.mark.parametrize("width", [1280, 400])

#: What nothing but scrolling inside its own box may hide.
OVERFLOWING = """
const wide = [];
for (const one of document.querySelectorAll("body *")) {
  if (one.closest(".scroll") && !one.matches(".scroll")) continue;
  const box = one.getBoundingClientRect();
  if (box.width && (box.right > innerWidth + 1) && box.left >= 0) wide.push(one.tagName + "." + one.className);
}
return wide;
"""

CONTRAST = """
const luminance = colour => {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const ground = one => {
  for (; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (!colour.endsWith(", 0)")) return colour;
  }
  return "rgb(255, 255, 255)";
};
let worst = 21;
for (const one of document.querySelectorAll(".nextlens-report *")) {
  if (!one.innerText || !one.childNodes.length || one.childNodes[0].nodeType !== 3) continue;
  const pair = [luminance(getComputedStyle(one).color), luminance(ground(one))].sort((a, b) => b - a);
  worst = Math.min(worst, (pair[0] + 0.05) / (pair[1] + 0.05));
}
return worst;
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    shape = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_mlp": 16}
    text = report(Transformer(TransformerConfig(n_tokens=256, n_ctx=32, **shape)), PASSAGE[:900], name="bytes")
    process = report(Transformer(TransformerConfig(n_tokens=3, n_ctx=6, **shape)), process=mess3(), name="mess3")
    folder = tmp_path_factory.mktemp("pages")
    return {"text": text.save(folder / "text"), "process": process.save(folder / "process")}


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    root = ["--no-sandbox"] if sys.platform == "linux" and os.geteuid() == 0 else []
    for flag in (*FLAGS, *root, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def opened(browser, page: Path, width: int = 1280):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    return browser


@WIDTHS
@pytest.mark.parametrize("kind", ["text", "process"])
def test_it_renders_without_a_word_on_the_console_and_nothing_leaves_the_page(browser, pages, kind, width):
    seen = opened(browser, pages[kind], width)
    assert seen.get_log("browser") == []
    fetched = "return performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:'))"
    assert seen.execute_script(fetched) == []
    assert seen.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert seen.execute_script(OVERFLOWING) == []
    figures = seen.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width, i.alt])"
    )
    assert len(figures) >= 9
    assert all(complete and natural > 0 and shown > 250 and alt for complete, natural, shown, alt in figures)


@WIDTHS
def test_letters_are_large_and_dark_enough(browser, pages, width):
    seen = opened(browser, pages["text"], width)
    smallest = seen.execute_script(
        "return Math.min(...[...document.querySelectorAll('.nextlens-report *')]"
        ".filter(e => e.innerText).map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12
    assert seen.execute_script(CONTRAST) >= 4.5


def test_the_text_can_be_selected_and_is_the_text(browser, pages):
    seen = opened(browser, pages["text"])
    chosen = seen.execute_script(
        "getSelection().selectAllChildren(document.querySelector('.text')); return getSelection().toString()"
    )
    assert chosen.strip() == PASSAGE[:900].strip()


def test_every_token_says_its_surprisal_without_colour(browser, pages):
    seen = opened(browser, pages["text"])
    titles = seen.execute_script("return [...document.querySelectorAll('.text span')].map(s => s.title)")
    assert len(titles) == 900
    assert all(title.endswith(" bits") for title in titles[1:])
    shades = seen.execute_script(
        "return [...document.querySelectorAll('.key span')].map(s => getComputedStyle(s).borderBottomWidth)"
    )
    assert shades[-4:-1] == ["1px", "2px", "3px"]


def test_tab_reaches_every_link_and_every_box_that_scrolls_and_shows_where_it_is(browser, pages):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    seen = opened(browser, pages["process"], 400)
    wanted = seen.execute_script("return document.querySelectorAll('a, summary, .scroll').length")
    closed = seen.execute_script("return document.querySelectorAll('details .scroll').length")
    reached, outlined = [], []
    for _ in range(wanted - closed):
        ActionChains(seen).send_keys(Keys.TAB).perform()
        name, outline = seen.execute_script(
            "const one = document.activeElement; const look = getComputedStyle(one);"
            "return [one.tagName + (one.href || one.ariaLabel || one.textContent), look.outlineStyle]"
        )
        reached.append(name)
        outlined.append(outline != "none")
    assert len(set(reached)) == len(reached) == wanted - closed
    assert all(outlined)


def test_links_of_the_contents_lead_to_headings(browser, pages):
    seen = opened(browser, pages["text"])
    targets = seen.execute_script(
        "return [...document.querySelectorAll('nav a')].map(a => document.querySelector(a.hash).tagName)"
    )
    assert targets == ["H2"] * 9


@WIDTHS
def test_a_picture_of_it_is_no_blank_page(browser, pages, width):
    seen = opened(browser, pages["text"], width)
    shot = seen.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(shot))).convert("L"))
    assert width - 20 <= picture.shape[1] <= width  # a scroll bar is left out
    rows = (picture < 128).any(axis=1)
    assert rows.mean() > 0.3
