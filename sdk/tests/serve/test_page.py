"""The page in headless Chromium: keyboard and touch, both languages, no request to anywhere else."""

import io
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; `make browser` installs it")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def page(shop: Any) -> Iterator[Any]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-component-update"])
        opened = browser.new_context(has_touch=True, locale="en-GB", viewport={"width": 800, "height": 1200}).new_page()
        opened.set_default_timeout(60_000)
        opened.asked, opened.troubles = [], []
        opened.on("request", lambda request: opened.asked.append(request.url))
        opened.on("pageerror", lambda error: opened.troubles.append(str(error)))
        opened.goto(f"{shop.url}/")
        yield opened
        browser.close()


def test_a_text_typed_is_answered_and_explained(page: Any) -> None:
    page.fill("#text", "<b>love</b> it")
    page.keyboard.press("Enter")
    page.wait_for_selector("#words mark")
    assert page.inner_text("#label") in ("negative", "neutral", "positive")
    assert page.locator("#scores meter").count() == 3
    assert page.inner_text("#words") == "<b>love</b> it"
    assert "onnx" in page.inner_text("#took")


def test_a_touch_changes_the_language_and_sends_an_example(page: Any) -> None:
    page.tap("[data-language=zh]")
    assert page.inner_text("#send") == "回答"
    page.tap("#examples button:nth-child(2)")
    page.wait_for_selector("#words >> text=求")
    assert page.locator("#words mark").count() >= 10
    page.tap("[data-language=en]")
    assert page.inner_text("#send") == "Answer"


def test_a_picture_is_answered_with_its_regions(page: Any) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(buffer, "PNG")
    page.select_option("#model", "pictures")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    page.wait_for_selector("#tiles i", state="attached")
    assert page.inner_text("#label") == "red"
    assert page.locator("#tiles i").count() == 16


DROP = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  const told = {dataTransfer: data, bubbles: true, cancelable: true};
  document.querySelector("#drop").dispatchEvent(new DragEvent("drop", told));
}"""


def test_a_picture_that_is_dropped_is_answered(page: Any) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (0, 0, 255)).save(buffer, "PNG")
    page.select_option("#model", "pictures")
    page.evaluate(DROP, ["a.png", list(buffer.getvalue())])
    page.wait_for_selector("#label >> text=blue")
    assert page.locator("#tiles i").count() == 16


def test_texts_are_ranked_and_the_best_one_explained(page: Any) -> None:
    page.select_option("#model", "ranking")
    page.fill("#json", '{"query": "oat milk", "texts": ["配送很快", "oat milk is back"]}')
    page.click("#send")
    page.wait_for_selector("#words mark")
    assert page.locator("#scores .name").all_inner_texts() == ["oat milk is back", "配送很快"]
    assert page.inner_text("#words") == "oat milk is back"
    assert page.locator("#words mark").first.get_attribute("title") != "0.000"


def test_a_refusal_is_shown(page: Any) -> None:
    page.select_option("#model", "pictures")
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"#!/bin/sh"})
    page.wait_for_selector("#trouble:not([hidden])")
    assert "expected a picture" in page.inner_text("#trouble")


def test_nothing_came_from_elsewhere_and_nothing_broke(page: Any, shop: Any) -> None:
    assert page.troubles == []
    assert {url for url in page.asked if not url.startswith((shop.url, "data:", "blob:"))} == set()
