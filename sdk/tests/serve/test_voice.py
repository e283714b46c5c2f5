"""Voice over HTTP: an uploaded WAV is answered and explained, and the page records one."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep import Predictor
from doorstep.serve import ServeOptions
from doorstep.sound.wave import write_wave

CHROMIUM = shutil.which("chromium")
RATE = 8000
HIGH = (0.4 * np.sin(2 * np.pi * 1600 * np.arange(RATE // 2) / RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def voices(sound_bundle: Path, speech_bundle: Path, serve_running: Callable[..., Any]) -> Iterator[Any]:
    from doorstep.serve.server import ServerOptions
    from doorstep.serve.service import Service

    with Predictor.load(sound_bundle) as sounds, Predictor.load(speech_bundle) as speech:
        service = Service({"sounds": sounds, "speech": speech}, ServeOptions())
        with serve_running(service, ServerOptions(threads=4)) as server:
            yield server


def _form(data: bytes) -> tuple[bytes, dict[str, str]]:
    head = b'--x\r\nContent-Disposition: form-data; name="items"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    return head + data + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def test_an_uploaded_recording_is_answered_and_explained(voices: Any) -> None:
    body, headers = _form(write_wave(HIGH, RATE))
    answer = voices.ask("POST", "/v1/models/sounds:predict", body, headers)
    assert (answer.status, answer.json["results"][0]["label"]) == (200, "high")
    told = voices.ask("POST", "/v1/models/sounds:explain", body, headers).json["results"][0]
    assert len(told["segments"]) == 10
    said = voices.ask("POST", "/v1/models/speech:predict", body, headers).json["results"][0]
    assert said["text"] == "b"


@pytest.mark.parametrize(
    ("data", "said"), [(b"#!/bin/sh", "expected a WAV file"), (write_wave(HIGH, RATE)[:900], "cut off")]
)
def test_what_is_no_recording_is_refused(voices: Any, data: bytes, said: str) -> None:
    answer = voices.ask("POST", "/v1/models/sounds:predict", *_form(data))
    assert answer.status == 400
    assert said in answer.json["detail"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; `make browser` installs it")
def test_the_page_records_a_command_by_touch_and_by_key(voices: Any) -> None:
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*quiet, *fake])
        page = browser.new_context(has_touch=True, locale="en-GB", viewport={"width": 800, "height": 1200}).new_page()
        page.set_default_timeout(60_000)
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(f"{voices.url}/")
        page.wait_for_selector("#record:visible")
        page.tap("#record")
        page.wait_for_selector("#record[aria-pressed=true]")
        page.wait_for_timeout(1200)  # the fake microphone beeps once a second
        page.tap("#record")
        page.wait_for_selector("#words mark")
        assert page.inner_text("#label") in ("low", "high")
        page.tap("[data-language=zh]")
        assert page.inner_text("#record") == "录制语音指令"
        page.select_option("#model", "speech")
        page.focus("#record")
        page.keyboard.press("Enter")
        page.wait_for_selector("#record[aria-pressed=true]")
        assert page.inner_text("#record") == "停止并回答"
        page.wait_for_timeout(1200)
        page.keyboard.press("Enter")
        page.wait_for_selector("#answer:visible")
        assert page.inner_text("#label") != ""
        page.set_input_files("#sound", {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"#!/bin/sh"})
        page.wait_for_selector("#trouble:not([hidden])")
        assert "expected a WAV file" in page.inner_text("#trouble")
        assert troubles == []
        browser.close()
